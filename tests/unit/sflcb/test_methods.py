"""Bad input, divergence, tuning and every baseline on a problem whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from reproven.papers.sflcb.baselines.aipod import AiPOD
from reproven.papers.sflcb.baselines.blocc import BLOCC
from reproven.papers.sflcb.baselines.blocc_transport import BLOCCTransport
from reproven.papers.sflcb.baselines.gaffa import BiCGAFFA
from reproven.papers.sflcb.baselines.implicit import GAM, ImplicitGradient
from reproven.papers.sflcb.baselines.kwon import KwonPenalty
from reproven.papers.sflcb.baselines.lv_hba import LVHBA
from reproven.papers.sflcb.beds.equality import AiPODToy, GAFFAToy
from reproven.papers.sflcb.beds.lcqp import LCQP, draw, stack
from reproven.papers.sflcb.beds.svm import quadratic_features, split_rows
from reproven.papers.sflcb.beds.toy import MINIMA, Toy
from reproven.papers.sflcb.beds.transport import Transport, published_reset, three_node, three_node_capacity
from reproven.papers.sflcb.claims import best_in_the_middle, reported_is_sustained
from reproven.papers.sflcb.controls import CONTROLS
from reproven.papers.sflcb.driver import Method, candidates, run, share_spent, tune
from reproven.papers.sflcb.methods import SFLCB
from reproven.papers.sflcb.problem import BilevelProblem, check_curvature
from reproven.papers.sflcb.sflcb import State, Steps, sflcb, start, warm_start
from reproven.papers.sflcb.variants import adaptive_rho, delta_continuation, scale_rows


@pytest.fixture
def easy() -> LCQP:
    return draw(5, 8, 4, np.random.default_rng(0))


def test_mismatched_shapes_and_parameters_are_named(easy: LCQP) -> None:
    with pytest.raises(ValueError, match=r"A has 4 rows and B has 3"):
        BilevelProblem(easy.f, easy.g, easy.a, easy.b_x[:3], easy.rhs)
    with pytest.raises(ValueError, match=r"b has 2 entries for 4"):
        BilevelProblem(easy.f, easy.g, easy.a, easy.b_x, easy.rhs[:2])
    with pytest.raises(ValueError, match=r"x has 4 entries, B has 5 columns"):
        start(easy, np.zeros(4), np.zeros(8))
    state = start(easy, np.zeros(5), np.zeros(8))
    with pytest.raises(ValueError, match="delta = 0"):
        sflcb(easy, state, iterations=1, delta=0.0, rho=0.5, steps=Steps.common(0.1))
    with pytest.raises(ValueError, match="rho1 = -1"):
        sflcb(easy, state, iterations=1, delta=0.1, rho=-1.0, steps=Steps.common(0.1))
    with pytest.warns(UserWarning, match=r"rho = 5 is not below the bound 0\.9"):
        sflcb(easy, state, iterations=1, delta=0.1, rho=5.0, steps=Steps.common(0.1))


def test_bad_states_and_numbers_are_named(easy: LCQP) -> None:
    state = start(easy, np.zeros(5), np.zeros(8))
    steps = Steps.common(0.1)

    def run_from(bad: State, iterations: int = 1, steps: Steps = steps) -> None:
        sflcb(easy, bad, iterations=iterations, delta=0.1, rho=0.5, steps=steps)

    with pytest.raises(ValueError, match=r"z has 7 entries, A has 8 columns"):
        run_from(replace(state, z=np.zeros(7)))
    with pytest.raises(ValueError, match=r"u has shape \(3,\), needs \(4,\): one entry a constraint row"):
        run_from(replace(state, u=np.zeros(3)))
    with pytest.raises(ValueError, match=r"batch shapes \(2,\) and \(3,\)"):
        start(easy, np.zeros((2, 5)), np.zeros((3, 8)))
    with pytest.raises(ValueError, match=r"x\[2\] is nan: replace entries"):
        run_from(replace(state, x=np.array([0, 0, np.nan, 0, 0])))
    with pytest.raises(ValueError, match=r"x is a Tensor and A a ndarray: use one library"):
        start(easy, torch.zeros(5), np.zeros(8))
    with pytest.raises(ValueError, match="iterations = 0 must be at least 1"):
        run_from(state, iterations=0)
    with pytest.raises(ValueError, match=r"eta_y = -0\.1 must be positive"):
        run_from(state, steps=replace(steps, y=-0.1))
    with pytest.raises(ValueError, match=r"eta_u = 0 must be positive"):
        run_from(state, steps=replace(steps, u=0.0))
    holed = easy.a.copy()
    holed[1, 2] = np.inf
    with pytest.raises(ValueError, match=r"A\[1, 2\] is inf"):
        BilevelProblem(easy.f, easy.g, holed, easy.b_x, easy.rhs)
    with pytest.raises(ValueError, match="update 'nonsense' is not one of"):
        SFLCB(update="nonsense")


def test_frozen_x_finds_the_lower_solution(easy: LCQP) -> None:
    # Corollary 5.5: Algorithm 1 with x held is a start for an A without full row rank.
    x = np.random.default_rng(1).standard_normal(5)
    steps = Steps(0.0, 0.05, 0.05, 0.5, 0.5)
    end = sflcb(easy, start(easy, x, np.zeros(8)), iterations=8000, delta=0.01, rho=0.6, steps=steps).state
    np.testing.assert_array_equal(end.x, x)
    np.testing.assert_allclose(end.z, easy.lower(x).y, atol=1e-5)


def test_curvature_check(easy: LCQP) -> None:
    rng = np.random.default_rng(0)
    assert check_curvature(easy, np.zeros(5), np.zeros(8), rng) >= 1.0 - 1e-9
    toy = GAFFAToy(4)
    flat = BilevelProblem(
        toy.f, toy.g, toy.a, toy.b_x, toy.rhs, grad_f=toy.grad_f,
        grad_g=lambda x, y: (x * 0, -y),
    )  # fmt: skip
    with pytest.raises(ValueError, match="not strongly convex"):
        check_curvature(flat, np.zeros(4), np.zeros(8), rng)


@pytest.mark.filterwarnings("ignore:rho")
def test_divergence_stops_one_run_and_keeps_the_best(easy: LCQP) -> None:
    batch = stack([easy])
    state = start(batch, np.zeros((1, 2, 5)), np.zeros((1, 2, 8)))
    eta = np.array([[0.05], [3.0]])
    result = sflcb(
        batch, state, iterations=2000, delta=0.1, rho=1.0, steps=Steps.common(eta), check_every=10,
        score=lambda s: np.linalg.norm(s.y, axis=-1),
    )  # fmt: skip
    assert result.diverged[0, 0] == -1
    assert 0 < result.diverged[0, 1] <= 200
    assert np.isfinite(result.state.x).all()
    np.testing.assert_array_equal(result.state.x[0, 1], 0.0)  # the start scored best
    assert "diverged" in result.notes[-1]


def test_torch_functions_without_gradients(easy: LCQP) -> None:
    tensors = easy.to_torch(dtype=torch.float64)
    plain = BilevelProblem(tensors.f, tensors.g, tensors.a, tensors.b_x, tensors.rhs)
    steps, zero = Steps.common(0.05), torch.zeros
    ours = sflcb(
        plain,
        start(plain, zero(5).double(), zero(8).double()),
        iterations=50,
        delta=0.1,
        rho=0.5,
        steps=steps,
    )
    by_hand = sflcb(
        easy, start(easy, np.zeros(5), np.zeros(8)), iterations=50, delta=0.1, rho=0.5, steps=steps
    )
    np.testing.assert_allclose(ours.state.x.numpy(), by_hand.state.x, rtol=1e-9, atol=1e-12)


def test_warm_start_is_near_the_lower_solution(easy: LCQP) -> None:
    x = np.random.default_rng(1).standard_normal(5)
    state, spent = warm_start(easy, x, np.zeros(8), iterations=3000, eta=0.1, eta_dual=0.5)
    exact = easy.lower(x)
    np.testing.assert_allclose(state.z, exact.y, atol=1e-6)
    np.testing.assert_allclose(state.v, exact.multipliers, atol=1e-5)
    assert spent == 3000


def gap(problem: LCQP, method: Method, x: np.ndarray, **budget: int) -> float:
    certificate = problem.certificate()
    trace = run(method, problem, x, np.zeros(problem.dy), {}, **budget)
    return (problem.phi(trace.x[-1]) - certificate.upper) / (problem.phi(x) - certificate.upper)


@pytest.mark.parametrize(
    ("method", "iterations", "bound"),
    [
        (SFLCB(delta=0.03, rho=10.0, eta_x=0.5, eta_y=0.05, eta_u=0.05), 8000, 0.01),
        (
            SFLCB(delta=0.03, rho=10.0, eta_x=0.5, eta_y=0.05, eta_u=0.05, update="slack_eliminated"),
            8000,
            0.01,
        ),
        (BLOCC(inner=5, gamma=30.0, eta_x=0.02, eta_y=0.1, eta_u=0.5), 2000, 0.02),
        (LVHBA(alpha=0.05, eta=0.1, gamma2=1.0), 1500, 0.5),
        (BiCGAFFA(alpha=0.1, beta=0.1, eta=0.1), 8000, 0.5),
        (ImplicitGradient(eta_x=0.1), 400, 0.01),
        (GAM(eta_x=0.1, epsilon=0.01), 400, 0.01),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else None,
)
def test_baselines_approach_a_certified_optimum(method: Method, iterations: int, bound: float) -> None:
    problem = draw(5, 8, 4, np.random.default_rng(3))  # one local minimum, which is the global one
    assert gap(problem, method, np.zeros(5), iterations=iterations) < bound


def test_kwon_needs_and_uses_a_fixed_set(easy: LCQP) -> None:
    with pytest.raises(ValueError, match="needs B = 0"):
        KwonPenalty().init(easy, np.zeros(5), np.zeros(8), {})
    fixed = draw(5, 8, 4, np.random.default_rng(3), coupled=False)
    assert gap(fixed, KwonPenalty(delta=0.03, eta_x=0.5), np.zeros(5), iterations=2000) < 0.05


@pytest.mark.parametrize("skip", [1, 3])
def test_aipod_reaches_stationarity(skip: int) -> None:
    problem = AiPODToy.draw(9, 12, np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((2, 12))
    trace = run(AiPOD(inner=6, skip=skip, eta_x=0.1), problem, x, x * 0, {}, iterations=3000)
    # grad Phi by the chain rule of the closed-form response.
    assert np.abs(problem.phi_gradient(trace.x[-1])).max() < 1e-5
    assert problem.violation(trace.x[-1], trace.y[-1]).max() < 0.1
    with pytest.raises(ValueError, match="equality"):
        AiPOD().init(draw(3, 4, 2, np.random.default_rng(0)), np.zeros(3), np.zeros(4), {})


def test_equality_multipliers_are_free_and_clipping_is_caught() -> None:
    problem, settings = GAFFAToy(20), {"delta": 0.1, "eta_x": 0.1, "eta_y": 0.1, "eta_u": 0.5}
    x, y = np.zeros((1, 20)), np.zeros((1, 40))
    free = run(SFLCB(), problem, x, y, settings, iterations=20000)
    np.testing.assert_allclose(free.x[-1], 1.0, atol=1e-4)
    assert free.state.v[0, 0] / np.sqrt(20) == pytest.approx(-1.0, abs=1e-4)
    assert not free.state.alpha.any()
    clipped = run(SFLCB(update="control_clipped_duals"), problem, x, y, settings, iterations=20000)
    assert abs(clipped.state.v[0, 0] / np.sqrt(20) + 1) > 0.5
    assert set(CONTROLS) <= {"control_v_sign", "control_delta_scaling", "control_clipped_duals"}


def test_toy_minima_and_convergence() -> None:
    toy = Toy()
    points = np.array(MINIMA)[:, None]
    for shift in (-1e-3, 1e-3):
        assert (toy.phi(points + shift) > toy.phi(points)).all()
    x = np.linspace(0.05, 2.95, 12)[:, None]
    end = run(SFLCB(eta_x=0.1, eta_y=0.1, eta_u=0.1), toy, x, x * 0, {}, iterations=1500).x[-1]
    assert np.abs(end - points.T).min(1).max() < 1e-3


def test_three_node_closed_form_and_published_reset() -> None:
    problem = Transport(three_node(), y_low=1e-4)
    method = SFLCB(delta=0.1, rho=10.0, eta_x=0.01, eta_y=0.01, eta_u=1.0)
    y = np.zeros(problem.dy)
    y[: problem.K] = 0.01
    end = run(method, problem, np.full(problem.dx, 0.6), y, {}, iterations=9000).x[-1]
    built = [k for k, (i, j) in enumerate(problem.columns.tolist()) if {i, j} == {0, 1}]
    np.testing.assert_allclose(end[built], three_node_capacity(0.1), atol=2e-3)  # 9,000 of 20,000 steps
    reset = published_reset(problem)(np.full(problem.dh, 1.0))
    balances = reset[: problem.K * 3].reshape(problem.K, 3)
    assert (balances.sum(1) == 2).all()
    assert not balances[np.arange(problem.K), problem.pairs[:, 1]].any()


def test_published_blocc_nears_the_ideal_of_its_penalty() -> None:
    problem = Transport(three_node(), published_duals=True)
    start_x = np.full((1, problem.dx), 0.65)
    trace = run(BLOCCTransport(), problem, start_x, np.zeros((1, problem.dy)), {}, iterations=20_000)
    built = [k for k, (i, j) in enumerate(problem.columns.tolist()) if {i, j} == {0, 1}]
    # gamma = 4; its inner loops stop early, which leaves more than the closed form's own rounding.
    np.testing.assert_allclose(trace.x[-1][0, built], three_node_capacity(0.25), atol=0.03)
    assert problem.imbalance(trace.y[-1]).max() < 0.02
    diagonal = problem.columns[:, 0] == problem.columns[:, 1]
    np.testing.assert_array_equal(trace.x[-1][0, diagonal], 1e-3)
    assert trace.state.inner >= 2 * 20_000


def test_published_blocc_inner_step_by_hand() -> None:
    # One step of the plain level from shares 0.01, no flow, no multipliers, written out for one pair.
    problem = Transport(three_node(), published_duals=True)
    method = BLOCCTransport()
    method.LIMIT = 1
    first = method.init(problem, np.full((1, problem.dx), 0.5), np.zeros((1, problem.dy)), {}).plain[0]
    after, count = method._solve(problem, np.full(problem.dx, 0.5), first, None)
    assert count == 1
    pair = problem.pairs.tolist().index([0, 1])
    np.testing.assert_allclose(after.balance[pair], [-0.4 * 0.01, 0.4 * 0.01, 0.0], atol=1e-15)
    np.testing.assert_allclose(after.capacity, 0.0, atol=0)
    slope = np.log(0.01 / 0.99) - 3.0 + 0.4 * 0.01 + 0.4 * 0.01
    assert after.share[pair] == pytest.approx(0.01 - 0.01 * slope, abs=1e-14)
    link = problem.columns.tolist().index([0, 1])
    assert after.flow[pair, link] == 0.0  # 0 - 0.01 (1 - 0.008) is clipped


def test_tuning_for_cost_ranks_by_the_first_hit() -> None:
    path = np.array([[1.0, 1.0, 1.0], [0.009, 0.5, 0.5], [0.2, 0.01, 0.4]])
    spent = share_spent(path, np.array([0.0, 0.3, 1.0]), 0.01)
    np.testing.assert_allclose(spent, [0.3, 1.0, 1.4])


def test_tuner_for_cost_and_for_the_end_may_differ(easy: LCQP) -> None:
    batch = stack([easy])
    base, x = easy.certificate().upper, np.zeros((1, 1, 5))
    first = easy.phi(x[0, 0]) - base

    def score(points: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.array([[(easy.phi(p) - base) / first for p in row] for row in points])

    settings = {"eta_x": [0.02, 0.1], "decay": 0.0}
    chosen = tune(ImplicitGradient(), batch, x, np.zeros((1, 1, 8)), settings, score, solves=200, reach=0.5)
    assert chosen == {"eta_x": 0.1, "decay": 0.0}


def test_variants_keep_the_solution(easy: LCQP) -> None:
    scaled = scale_rows(easy)
    np.testing.assert_allclose(np.linalg.norm(scaled.a, axis=1), 1.0, atol=1e-12)
    x, y = np.random.default_rng(0).standard_normal((2, 8))
    ours, theirs = scaled.residual(x[:5], y) > 0, easy.residual(x[:5], y) > 0
    np.testing.assert_array_equal(ours, theirs)
    state = start(easy, np.zeros(5), np.zeros(8))
    steps = Steps(0.15, 0.05, 0.05, 0.05, 0.05)
    fallen = delta_continuation(easy, state, deltas=[0.3, 0.1, 0.03], iterations=4000, rho=0.6, steps=steps)
    grown, used = adaptive_rho(easy, state, iterations=6000, delta=0.1, rho=0.1, steps=steps)
    base = easy.certificate().upper
    start_gap = easy.phi(np.zeros(5)) - base
    assert (easy.phi(fallen.state.x) - base) / start_gap < 0.05
    assert (easy.phi(grown.state.x) - base) / start_gap < 0.2
    assert used[0] == 0.1
    assert max(used) <= 10.0
    with pytest.raises(ValueError, match="fall strictly"):
        delta_continuation(easy, state, deltas=[0.1, 0.1], iterations=1, rho=0.6, steps=steps)


def test_tuner_picks_the_better_candidate_and_counts_costs(easy: LCQP) -> None:
    batch = stack([easy])
    settings = {"eta_x": [1e-6, 0.1], "decay": 0.0}
    columns = candidates(settings)
    assert columns["eta_x"].shape == (2, 1)
    assert columns["decay"] == 0.0

    def score(x: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.array([[easy.phi(point) for point in row] for row in x])

    method = ImplicitGradient()
    chosen = tune(method, batch, np.zeros((1, 1, 5)), np.zeros((1, 1, 8)), settings, score, solves=30)
    assert chosen == {"eta_x": 0.1, "decay": 0.0}
    trace = run(method, easy, np.zeros(5), np.zeros(8), {}, gradients=1000, solves=12, checkpoints=3)
    assert trace.solves[-1] == trace.gradients[-1] == 12
    short = run(method, easy, np.zeros(5), np.zeros(8), {}, iterations=10**6, seconds=0.02)
    assert 0.02 < short.seconds[-1] < 1
    assert len(short.x) == len(short.seconds) == len(short.gradients) == len(short.fraction)
    with pytest.raises(ValueError, match="no budget"):
        run(method, easy, np.zeros(5), np.zeros(8), {})


def test_splits_and_features() -> None:
    rng = np.random.default_rng(0)
    features = quadratic_features(rng.standard_normal((60, 8)))
    assert features.shape == (60, 45)
    assert np.abs(features).max() <= 1 + 1e-12
    labels = np.where(rng.random(60) < 0.5, 1, -1)
    split = split_rows(features, labels, (30, 20), rng)
    assert [len(part) for part in (split.train, split.valid, split.test)] == [30, 20, 10]
    with pytest.raises(ValueError, match="too few"):
        split_rows(features, labels, (50, 10), rng)
    with pytest.raises(ValueError, match="constant"):
        quadratic_features(np.ones((5, 2)))


def test_claim_tests_hold_and_fire() -> None:
    rows = pd.DataFrame({"metric": ["reported", "sustained"] * 2, "start": [1, 1, 2, 2], "seed": 0,
                         "value": [1.0, 0.99, 2.0, 1.0]})  # fmt: skip
    near = reported_is_sustained(rows[rows["start"] == 1], samples=["start"], confidence=0.99, bound=0.02)
    far = reported_is_sustained(rows, samples=["start"], confidence=0.99, bound=0.02)
    assert (near.verdict, far.verdict) == ("holds", "violated")
    assert far.ours == pytest.approx(1.0)
    curve = pd.DataFrame({"delta": [0.01, 0.1, 1.0], "start": 1, "seed": 0, "value": [0.0, 2.0, 1.0]})
    good = best_in_the_middle(
        curve, samples=["start"], confidence=0.99, axis="delta", best=0.1, others=[0.01, 1.0]
    )
    bad = best_in_the_middle(curve, samples=["start"], confidence=0.99, axis="delta", best=1.0, others=[0.1])
    assert (good.verdict, bad.verdict) == ("holds", "violated")


def test_state_is_frozen(easy: LCQP) -> None:
    state = start(easy, np.zeros(5), np.zeros(8))
    changed = replace(state, x=state.x + 1)
    assert not state.x.any()
    assert changed.x.all()
