"""The compiled loop against the line-by-line reference, the NumPy twin and enumeration over actions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reproven.papers.online_l2d import streams
from reproven.papers.online_l2d.learner import OnlineL2D
from reproven.papers.online_l2d.learner_numpy import run_seeds
from reproven.papers.online_l2d.learner_reference import ReferenceLearner, revealed

ROUNDS = 1500
METHODS = [
    OnlineL2D(surrogate=s, sampler=q, estimator=e, feedback=f, step=step, schedule=h, radius=b, kappa=2.0)
    for (s, q, e), (f, step, h, b) in itertools.product(
        [
            ("s_cost", "greedy", "iw"),
            ("s_reward", "softmax", "iw"),
            ("ce_reward", "greedy", "iw"),
            ("s_cost", "softmax", "dr"),
            ("ce_reward", "softmax", "dr"),
        ],
        [
            ("bandit", "adagrad", "horizon", 3.0),
            ("bandit", "theory", "anytime", 0.3),
            ("label_after_deferral", "theory", "horizon", 10.0),
            ("full", "constant", "horizon", 5.0),
        ],
    )
]


def play_reference(method, stream, rng):
    contexts = stream.augmented()
    rho = np.sqrt((contexts**2).sum(axis=1).max())
    learner = ReferenceLearner(method, stream.n_labels, contexts.shape[1], stream.rows, rho, stream.rounds)
    costs, actions, propensities = stream.costs(), [], []
    for t in range(stream.rounds):
        experts = (stream.n_labels + np.flatnonzero(stream.available[t])).tolist()
        u_tie, u_draw = rng.random(2)
        action, p = learner.decide(contexts[stream.index[t]], experts, u_tie, u_draw)
        pool = list(range(stream.n_labels)) + experts
        learner.learn(revealed(method.feedback, stream.n_labels, action, {a: costs[t, a] for a in pool}))
        actions.append(action)
        propensities.append(p)
    return actions, propensities, learner


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_compiled_loop_equals_the_reference(method):
    stream = streams.varying(ROUNDS, np.random.default_rng(5))
    trace = method.run(stream, np.random.default_rng(7))
    actions, propensities, learner = play_reference(method, stream, np.random.default_rng(7))
    assert trace.actions.tolist() == actions
    np.testing.assert_allclose(trace.propensities, propensities, rtol=1e-7, atol=1e-10)
    # the tracked norm, the scale and the recursive inverse round differently: 1e-7
    assert trace.info["norm"] == pytest.approx(learner.norm(), rel=1e-7, abs=1e-10)
    assert trace.info["gradient_sq"] == pytest.approx(learner.gradient_sq, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("method", [m for m in METHODS if m.estimator == "iw"], ids=str)
def test_compiled_loop_equals_the_numpy_twin(method):
    played = [streams.varying(ROUNDS, np.random.default_rng(seed)) for seed in range(3)]
    twins = run_seeds(method, played, [np.random.default_rng(10 + seed) for seed in range(3)])
    for seed, stream in enumerate(played):
        trace = method.run(stream, np.random.default_rng(10 + seed))
        np.testing.assert_array_equal(trace.actions, twins[seed].actions)
        np.testing.assert_allclose(trace.propensities, twins[seed].propensities, rtol=1e-7, atol=1e-10)
        assert trace.info["norm"] == pytest.approx(twins[seed].info["norm"], rel=1e-7, abs=1e-10)


class LastUniform:
    """Stands in for a generator: every uniform is the largest below 1."""

    def random(self, size):
        return np.full(size, np.nextafter(1.0, 0.0))


def test_a_uniform_beyond_the_sum_of_p_plays_the_last_present_action():
    # rounding leaves the sum of p below the uniform in many of these rounds, and the last rows are absent
    stream = streams.varying(ROUNDS, np.random.default_rng(5))
    method = OnlineL2D(sampler="softmax", radius=3.0)
    trace = method.run(stream, LastUniform())
    assert stream.pool()[np.arange(ROUNDS), trace.actions].all()
    actions, _, _ = play_reference(method, stream, LastUniform())
    (twin,) = run_seeds(method, [stream], [LastUniform()])
    assert trace.actions.tolist() == actions == twin.actions.tolist()


def test_the_numpy_twin_refuses_what_it_cannot_play():
    worlds = [streams.static(9, np.random.default_rng(0))] * 2
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="1 generators for 2 streams"):
        run_seeds(OnlineL2D(), worlds, [rng])
    with pytest.raises(ValueError, match="'dr' has no vectorised twin"):
        run_seeds(OnlineL2D(estimator="dr"), worlds, [rng, rng])
    with pytest.raises(ValueError, match="streams differ"):
        run_seeds(OnlineL2D(), [worlds[0], worlds[0].head(5)], [rng, rng])


def test_labels_only_never_asks():
    stream = streams.varying(ROUNDS, np.random.default_rng(0))
    method = OnlineL2D(use_experts=False)
    trace = method.run(stream, np.random.default_rng(1))
    (twin,) = run_seeds(method, [stream], [np.random.default_rng(1)])
    assert trace.actions.max() < stream.n_labels
    np.testing.assert_array_equal(trace.actions, twin.actions)


def test_folding_the_scale_changes_nothing():
    # softmax and a radius that binds in nearly every round: the scale shrinks and is folded every 1024 rounds
    method = OnlineL2D(radius=0.3, step="constant", eta=0.05, sampler="softmax")
    stream = streams.static(4000, np.random.default_rng(0))
    trace = method.run(stream, np.random.default_rng(1))
    actions, _, learner = play_reference(method, stream, np.random.default_rng(1))
    assert trace.actions.tolist() == actions
    assert trace.info["norm"] == pytest.approx(learner.norm(), rel=1e-7)
    assert trace.info["norm"] == pytest.approx(0.3, rel=1e-9)
