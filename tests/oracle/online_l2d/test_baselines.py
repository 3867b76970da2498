"""Baselines against scikit-learn, closed forms and literal loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from reproven.papers.online_l2d import batch, streams
from reproven.papers.online_l2d.controls import Control
from reproven.papers.online_l2d.forgetting import MEMORIES, ForgettingRidge
from reproven.papers.online_l2d.learner import OnlineL2D
from reproven.papers.online_l2d.linear_bandits import RULES, Banditron, RidgeBandit
from reproven.papers.online_l2d.multiclass_bandits import Gaptron, Soba
from reproven.papers.online_l2d.real_streams import specialists
from reproven.papers.online_l2d.vowpal import VowpalWabbit

ROUNDS = 800


@pytest.fixture(scope="module")
def stream():
    return streams.varying(ROUNDS, np.random.default_rng(0))


def ridge_choices(rule, stream, kappa, lam, uniforms, normals):
    """Literal per-action ridge with scikit-learn's Ridge refitted in every round."""
    x, pool, costs = stream.augmented()[stream.index], stream.pool(), stream.costs()
    seen = {a: ([], []) for a in range(stream.rows)}
    epsilon = min(1.0, kappa * stream.rounds ** (-1 / 3))
    out = []
    for t in range(stream.rounds):
        rows = np.flatnonzero(pool[t])
        value = []
        for a in rows:
            X, c = seen[a]
            mean, A = 0.0, lam * np.eye(x.shape[1])
            if X:
                mean = Ridge(alpha=lam, fit_intercept=False).fit(X, c).predict(x[t : t + 1])[0]
                A = A + np.array(X).T @ np.array(X)
            width = np.sqrt(x[t] @ np.linalg.solve(A, x[t]))
            bonus = {"ucb": kappa * width, "thompson": kappa * width * normals[t, a]}.get(rule, 0.0)
            value.append(bonus - mean)
        value = np.array(value)
        ties = np.flatnonzero(value >= value.max() - 1e-9)
        best = ties[int(uniforms[t, 0] * len(ties))]
        K = len(rows)
        if rule == "squarecb":
            p = 1 / (K + kappa * np.sqrt(K * (t + 1)) * (value[best] - value))
            p[best] = 0
            p[best] = 1 - p.sum()
        else:
            share = epsilon / K if rule == "epsilon_greedy" else 0.0
            p = np.full(K, share)
            p[best] = 1 - share * (K - 1)
        i = min(int((np.cumsum(p) <= uniforms[t, 1]).sum()), K - 1)
        a = rows[i]
        seen[a][0].append(x[t])
        seen[a][1].append(costs[t, a])
        out.append(int(a))
    return out


@pytest.mark.parametrize("rule", RULES)
def test_ridge_bandits_against_refitted_ridge(rule, stream):
    short = stream.head(150)
    trace = RidgeBandit(rule, kappa=0.7, ridge=0.5).run(short, np.random.default_rng(2))
    rng = np.random.default_rng(2)
    uniforms = rng.random((short.rounds, 2))
    normals = rng.standard_normal((short.rounds, short.rows))
    assert trace.actions.tolist() == ridge_choices(rule, short, 0.7, 0.5, uniforms, normals)


def test_banditron_against_the_published_update(stream):
    trace = Banditron(kappa=2.0).run(stream, np.random.default_rng(1))
    x, pool, costs = stream.augmented()[stream.index], stream.pool(), stream.costs()
    gamma = min(1.0, 2.0 * ROUNDS ** (-1 / 3))
    u = np.random.default_rng(1).random((ROUNDS, 2))
    W = np.zeros((stream.rows, x.shape[1]))
    for t in range(ROUNDS):
        rows = np.flatnonzero(pool[t])
        s = W[rows] @ x[t]
        ties = np.flatnonzero(s == s.max())
        best = ties[int(u[t, 0] * len(ties))]
        P = np.full(len(rows), gamma / len(rows))
        P[best] += 1 - gamma
        played = min(int((np.cumsum(P) <= u[t, 1]).sum()), len(rows) - 1)
        assert rows[played] == trace.actions[t]
        U = np.zeros_like(W)
        U[rows[played]] += x[t] * (1 - costs[t, rows[played]]) / P[played]
        U[rows[best]] -= x[t]
        W += U


def without_experts(stream):
    empty = np.zeros((stream.rounds, 0), np.uint8)
    return replace(
        stream,
        wrong=empty,
        available=empty,
        fee=np.zeros(0),
        mean_cost=stream.mean_cost[..., : stream.n_labels],
    )


def test_batch_cross_entropy_without_experts_is_multinomial_regression(stream):
    plain = without_experts(stream)
    x, penalty = plain.augmented()[plain.index], 0.02
    ones = np.ones((ROUNDS, 4))
    W = batch.fit("ce", x, plain.pool(), plain.costs(), ones, penalty)
    model = LogisticRegression(C=1 / (ROUNDS * penalty), fit_intercept=False, tol=1e-9, max_iter=5000)
    expected = model.fit(x, plain.label).coef_
    centred = W - W.mean(axis=0), expected - expected.mean(axis=0)
    np.testing.assert_allclose(*centred, atol=2e-3)  # two optimisers, each with its own stopping rule


def test_batch_one_versus_all_is_one_logistic_regression_an_action(stream):
    x, cost, penalty = stream.augmented()[stream.index], stream.costs(), 0.02
    W = batch.fit("ova", x, stream.pool(), cost, np.ones_like(cost), penalty)
    here = stream.available[:, 0] > 0
    model = LogisticRegression(C=1 / (ROUNDS * penalty), fit_intercept=False, tol=1e-9, max_iter=5000)
    expected = model.fit(x[here], 1 - stream.wrong[here, 0]).coef_[0]
    np.testing.assert_allclose(W[4], expected, atol=2e-3)  # two optimisers, each with its own stopping rule


@pytest.mark.parametrize("loss", batch.LOSSES)
def test_batch_losses_have_the_gradient_they_return(loss, stream):
    rng = np.random.default_rng(0)
    pool, cost = stream.pool()[400:406], stream.costs()[400:406]
    weight, scores = rng.random(pool.shape) * 2, rng.normal(size=pool.shape)
    _, gradient = batch.LOSSES[loss](scores, pool, cost, weight)
    direction = rng.normal(size=pool.shape)
    h = 1e-6
    up, down = (batch.LOSSES[loss](scores + s * h * direction, pool, cost, weight)[0] for s in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx((gradient * direction).sum(), rel=1e-6)
    assert (gradient[~pool] == 0).all()


@pytest.mark.parametrize("logged", ["full", "bandit"])
def test_frozen_batch_learner_never_asks_whom_it_never_saw(logged, stream):
    trace = batch.BatchL2D("ce", logged).run(replace(stream, warm_up=60), np.random.default_rng(0))
    seen = stream.pool()[:60].any(axis=0)
    assert seen[trace.actions].all()
    assert stream.pool()[np.arange(ROUNDS), trace.actions].all()
    for warm_up in (0, ROUNDS, ROUNDS + 1):
        with pytest.raises(ValueError, match=f"warm_up of the stream is {warm_up}: .* 1 to {ROUNDS - 1}"):
            batch.BatchL2D().run(replace(stream, warm_up=warm_up), np.random.default_rng(0))


def test_controls(stream):
    n, t = stream.n_labels, np.arange(ROUNDS)
    pool = stream.pool()
    traces = {
        p: Control(p).run(stream, np.random.default_rng(0)) for p in ("random", "random_expert", "oracle")
    }
    for trace in traces.values():
        assert pool[t, trace.actions].all()
    assert stream.pseudo_regret(traces["oracle"].actions).max() == 0.0
    some = stream.available.any(axis=1)
    assert (traces["random_expert"].actions[some] >= n).all()
    counts = np.bincount(traces["random"].actions[:100], minlength=stream.rows)
    assert counts[:n].min() > 5
    best = Control("best_expert").run(stream, np.random.default_rng(0)).actions
    assert pool[t, best].all()
    assert (best[some] >= n).all()


def test_no_experts_is_the_bandit_multiclass_learner(stream):
    plain = without_experts(stream)
    with_experts_hidden = OnlineL2D(use_experts=False).run(stream, np.random.default_rng(0))
    without = OnlineL2D().run(plain, np.random.default_rng(0))
    np.testing.assert_array_equal(with_experts_hidden.actions, without.actions)


def test_vowpal_wabbit_plays_the_pool_and_learns():
    pytest.importorskip("vowpalwabbit")
    world = streams.varying(2000, np.random.default_rng(0))
    trace = VowpalWabbit().run(world, np.random.default_rng(0))
    assert world.pool()[np.arange(2000), trace.actions].all()
    epsilon = 2000 ** (-1 / 3)
    count = world.pool().sum(axis=1)
    # vw keeps single precision
    assert (trace.propensities >= epsilon / count * (1 - 1e-5)).all()
    uniform = Control("random").run(world, np.random.default_rng(0)).actions
    assert world.pseudo_regret(trace.actions).sum() < 0.5 * world.pseudo_regret(uniform).sum()


def literal_forgetting(method, stream, u):
    """Weighted least squares over the whole history, refitted in every round."""
    x, pool, costs = stream.augmented()[stream.index], stream.pool(), stream.costs()
    T, d = stream.rounds, x.shape[1]
    span = method.span or int(method.share * T)
    epsilon = min(1.0, method.kappa * T ** (-1 / 3))
    played, out = np.empty(T, int), []
    for t in range(T):
        rows, age = np.flatnonzero(pool[t]), t - np.arange(t)
        weight = (age <= span).astype(float) if method.memory == "window" else (1 - 1 / span) ** age
        predicted = []
        for a in rows:
            w = weight * (played[:t] == a)
            A = method.ridge * np.eye(d) + (x[:t] * w[:, None]).T @ x[:t]
            predicted.append(x[t] @ np.linalg.solve(A, x[:t].T @ (w * costs[:t, a])))
        predicted = np.array(predicted)
        ties = np.flatnonzero(predicted <= predicted.min() + 1e-9)
        best, K = ties[int(u[t, 0] * len(ties))], len(rows)
        p = np.full(K, epsilon / K)
        p[best] = 1 - epsilon / K * (K - 1)
        i = min(int((np.cumsum(p) <= u[t, 1]).sum()), K - 1)
        played[t] = rows[i]
        out.append((int(rows[i]), p[i]))
    return out


@pytest.mark.parametrize("memory", MEMORIES)
def test_forgetting_ridge_against_weighted_least_squares(memory, stream):
    short = stream.head(250)
    method = ForgettingRidge(memory, span=40, kappa=1.5, ridge=0.5)
    trace = method.run(short, np.random.default_rng(2))
    expected = literal_forgetting(method, short, np.random.default_rng(2).random((250, 2)))
    assert list(zip(trace.actions.tolist(), trace.propensities)) == expected


def test_forgetting_with_an_endless_memory_is_ridge():
    rng = np.random.default_rng(3)  # features without ties between actions: rounding cannot part them
    world = specialists(rng.normal(size=(200, 4)), np.arange(200) % 3, 500, rng, components=4, warm_up=10)
    plain = RidgeBandit("epsilon_greedy").run(world, np.random.default_rng(4))
    for memory in MEMORIES:
        trace = ForgettingRidge(memory, span=10**9).run(world, np.random.default_rng(4))
        np.testing.assert_array_equal(trace.actions, plain.actions)


def test_only_the_learner_with_a_memory_of_all_stays_wrong_after_a_shift():
    world = streams.shift(40_000, np.random.default_rng(0))
    rates = {}
    for name, method in {"all": RidgeBandit(), "window": ForgettingRidge()}.items():
        actions = method.run(world, np.random.default_rng(1)).actions
        rates[name] = world.pseudo_regret(actions)[30_000:].mean()
    assert rates["window"] < 0.1 < 0.2 < rates["all"]


def test_gaptron_against_automatic_differentiation(stream):
    method, short = Gaptron(kappa=0.5, eta=0.3), stream.head(400)
    trace = method.run(short, np.random.default_rng(1))
    x, pool, costs = short.augmented()[short.index], short.pool(), short.costs()
    gamma, u = 0.5 * 400**-0.5, np.random.default_rng(1).random((400, 2))
    W = torch.zeros((short.rows, x.shape[1]), dtype=torch.float64, requires_grad=True)
    for t in range(400):
        rows = np.flatnonzero(pool[t])
        s = W[rows] @ torch.tensor(x[t])
        scores = s.detach().numpy()
        ties = np.flatnonzero(scores == scores.max())
        best, sure = ties[int(u[t, 0] * len(ties))], torch.softmax(s, 0).max().item()
        share = max(1 - sure if sure >= 0.5 else 1.0, gamma)
        p = np.full(len(rows), share / len(rows))
        p[best] += 1 - share
        i = min(int((np.cumsum(p) <= u[t, 1]).sum()), len(rows) - 1)
        assert rows[i] == trace.actions[t]
        assert p[i] == pytest.approx(trace.propensities[t], rel=1e-9)
        loss = -(1 - costs[t, rows[i]]) / p[i] * torch.log_softmax(s, 0)[i]
        (gradient,) = torch.autograd.grad(loss, W)
        W = (W - method.eta * gradient).detach().requires_grad_()


def literal_soba(method, stream, u):
    """SOBA with dense matrices and solves, in the paper's order."""
    x, pool, costs = stream.augmented()[stream.index], stream.pool(), stream.costs()
    N, d = stream.rows, x.shape[1]
    A, theta, w, earlier = method.a * np.eye(N * d), np.zeros(N * d), np.zeros(N * d), 0.0
    gamma, out, skipped = min(1.0, method.kappa * stream.rounds**-0.5), [], 0
    for t in range(stream.rounds):
        rows = np.flatnonzero(pool[t])
        s = (w.reshape(N, d) @ x[t])[rows]
        ties = np.flatnonzero(s >= s.max() - 1e-12)
        p = np.full(len(rows), gamma / len(rows))
        p[ties[int(u[t, 0] * len(ties))]] += 1 - gamma
        i = min(int((np.cumsum(p) <= u[t, 1]).sum()), len(rows) - 1)
        out.append((int(rows[i]), p[i]))
        reward = 1 - costs[t, rows[i]]
        if reward == 0:
            continue
        others = np.delete(np.arange(len(rows)), i)
        rival = others[np.flatnonzero(s[others] >= s[others].max() - 1e-12)[0]]
        g = np.kron(np.eye(N)[rows[rival]] - np.eye(N)[rows[i]], x[t]) * reward / p[i]
        z = np.sqrt(p[i]) * g
        m = ((w @ z) ** 2 + 2 * w @ g) / (1 + z @ np.linalg.solve(A, z))
        if m + earlier < 0:
            skipped += 1
            continue
        A, theta, earlier = A + np.outer(z, z), theta - g, earlier + m
        w = np.linalg.solve(A, theta)
    return out, skipped


def test_soba_against_dense_solves(stream):
    method, short = Soba(kappa=3.0, a=2.0), stream.head(300)
    trace = method.run(short, np.random.default_rng(5))
    expected, skipped = literal_soba(method, short, np.random.default_rng(5).random((300, 2)))
    assert skipped > 0  # both branches were taken
    assert trace.actions.tolist() == [a for a, _ in expected]
    np.testing.assert_allclose(trace.propensities, [p for _, p in expected], rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", [Banditron(), Soba(), Gaptron(eta=0.5), OnlineL2D(radius=20.0)], ids=str)
def test_bandit_multiclass_learners_learn_a_separable_stream(method):
    world = streams.labels_separable(20_000, np.random.default_rng(0))
    errors = world.error(method.run(world, np.random.default_rng(1)).actions)
    assert errors[10_000:].mean() < 0.1 < errors[:50].mean()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ForgettingRidge("decay"), "memory 'decay'"),
        (lambda: ForgettingRidge(span=0), "span is 0"),
        (lambda: ForgettingRidge(kappa=0.0), "kappa is 0.0"),
        (lambda: ForgettingRidge(span=2.5), "span is 2.5"),
        (lambda: Gaptron(eta=0.0), "eta is 0.0: give a positive"),
        (lambda: Gaptron(kappa=-1.0), "kappa is -1.0: give a finite number >= 0"),
        (lambda: Soba(a=-1.0), "a is -1.0"),
        (lambda: Banditron(kappa=-1.0), "kappa is -1.0"),
        (lambda: Banditron(kappa=float("nan")), "kappa is nan"),
        (lambda: RidgeBandit(ridge=float("inf")), "ridge is inf"),
        (lambda: RidgeBandit(kappa="much"), "kappa is much"),
        (lambda: VowpalWabbit(rate=0.0), "rate is 0.0"),
        (lambda: VowpalWabbit(kappa=-1.0), "kappa is -1.0"),
        (lambda: batch.BatchL2D(penalty=0.0), "penalty is 0.0"),
    ],
)
def test_baselines_refuse_values_outside_their_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()
