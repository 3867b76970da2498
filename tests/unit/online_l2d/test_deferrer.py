"""The stream interface: the compiled loop round by round, exact continuation, and clear refusals."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from reproven.papers.online_l2d import streams
from reproven.papers.online_l2d.deferrer import LARGEST, Deferrer, Feedback
from reproven.papers.online_l2d.learner import OnlineL2D

METHODS = [
    OnlineL2D(step="theory", feedback="bandit"),
    OnlineL2D(surrogate="ce_reward", estimator="dr", sampler="softmax", feedback="label_after_deferral"),
    OnlineL2D(surrogate="s_reward", feedback="full", schedule="anytime"),
]


def build(method, stream, **changes):
    rho = float(np.sqrt((stream.augmented() ** 2).sum(axis=1).max()))
    keywords = {"horizon": stream.rounds, "rho": rho, "n_experts": stream.n_experts, "seed": 3} | changes
    return Deferrer(method, n_labels=stream.n_labels, dimension=stream.contexts.shape[1], **keywords)


def drive(learner, stream, start=0, stop=None):
    """Play rounds [start, stop); experts are named by their column."""
    costs, out = stream.costs(), []
    n = stream.n_labels
    for t in range(start, stream.rounds if stop is None else stop):
        here = np.flatnonzero(stream.available[t]).tolist()
        action, p = learner.decide(stream.contexts[stream.index[t]], here)
        row = action.id if action.kind == "label" else n + action.id
        full = {j: costs[t, n + j] for j in here} if learner.method.feedback == "full" else {}
        learner.learn(Feedback(costs[t, row], int(stream.label[t]), full))
        out.append((row, p))
    return out


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_driven_by_hand_it_is_the_compiled_loop(method):
    stream = streams.varying(600, np.random.default_rng(0))  # experts arrive in the order of their columns
    trace = method.run(stream, np.random.default_rng(3))
    played = drive(build(method, stream), stream)
    assert [row for row, _ in played] == trace.actions.tolist()
    np.testing.assert_allclose([p for _, p in played], trace.propensities, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("pending", [False, True])
def test_a_saved_learner_continues_exactly(method, pending, tmp_path):
    stream = streams.varying(500, np.random.default_rng(0))
    first = build(method, stream)
    drive(first, stream, 0, 250)
    if pending:  # saved between a decision and its feedback
        here = np.flatnonzero(stream.available[250]).tolist()
        first.decide(stream.contexts[stream.index[250]], here)
    first.save(tmp_path / "state.npz")
    second = build(method, stream, seed=99)
    second.load(tmp_path / "state.npz")
    if pending:
        first.discard()
        second.discard()
    assert drive(first, stream, 251) == drive(second, stream, 251)
    np.testing.assert_array_equal(first.matrix, second.matrix)


def test_new_experts_get_zero_rows_and_keep_old_decisions():
    stream = streams.static(200, np.random.default_rng(0))
    learner = build(OnlineL2D(), stream, n_experts=4)
    drive(learner, stream)
    before = learner.matrix.copy()
    learner.decide(stream.contexts[0], [0, 1, "newcomer"])
    assert learner.matrix.shape[0] == before.shape[0] + 1
    np.testing.assert_array_equal(learner.matrix[:-1], before)
    np.testing.assert_array_equal(learner.matrix[-1], 0.0)


def test_two_stage_router_without_labels():
    learner = Deferrer(OnlineL2D(schedule="anytime"), n_labels=0, dimension=1)
    for _ in range(300):
        action, _ = learner.decide([1.0], ["good", "bad"])
        learner.learn(Feedback(0.0 if action.id == "good" else 1.0))
    good, bad = learner.matrix[learner.experts["good"]], learner.matrix[learner.experts["bad"]]
    assert good.sum() > bad.sum()


def snapshot(learner):
    return copy.deepcopy(
        {
            "weights": learner.state.weights.tolist(),
            "scalars": learner.state.scalars.tolist(),
            "experts": learner.experts,
            "rng": learner.rng.bit_generator.state,
            "pending": None if learner._pending is None else learner._pending.played,
            "largest": learner._largest,
        }
    )


def ready(feedback="bandit", decided=False):
    learner = Deferrer(
        OnlineL2D(schedule="anytime", feedback=feedback), n_labels=2, dimension=2, roster=["ann", "bob"]
    )
    if decided:
        learner.decide([0.0, 1.0], ["ann", "bob"])
    return learner


@pytest.mark.parametrize(
    ("decided", "feedback", "call", "message"),
    [
        (False, "bandit", lambda d: d.decide([0.0, np.nan], ["ann"]), "NaN"),
        (False, "bandit", lambda d: d.decide([0.0], ["ann"]), "length 1"),
        (False, "bandit", lambda d: d.decide([0.0, 1.0], ["zoe"]), "'zoe' is unknown"),
        (False, "bandit", lambda d: d.decide([0.0, 1.0], ["ann", "ann"]), "repeat"),
        (False, "bandit", lambda d: d.decide([0.0, 1.0], [2.5]), "neither int nor str"),
        (False, "bandit", lambda d: d.decide([0.0, np.inf], ["ann"]), "infinity"),
        (False, "bandit", lambda d: d.decide([-1e160, 1.0], ["ann"]), "beyond 1e\\+100: scale x"),
        (False, "bandit", lambda d: d.decide(["a", 1.0], ["ann"]), "no number"),
        (False, "bandit", lambda d: d.decide([0.0, 1.0], "ann"), "available is 'ann'"),
        (False, "bandit", lambda d: d.decide([0.0, 1.0], None), "available is None"),
        (False, "bandit", lambda d: d.learn(Feedback(0.5)), "without a pending decision"),
        (False, "bandit", lambda d: d.discard(), "no pending decision"),
        (True, "bandit", lambda d: d.decide([0.0, 1.0], ["ann"]), "pending"),
        (True, "bandit", lambda d: d.learn(Feedback(1.5)), "cost of 'cost' is 1.5"),
        (True, "bandit", lambda d: d.learn(Feedback(float("nan"))), "is nan"),
        (True, "bandit", lambda d: d.learn(Feedback(-1e-9)), "cost of 'cost' is -1e-09"),
        (True, "bandit", lambda d: d.learn(Feedback(None)), "cost of 'cost' is None"),
        (True, "bandit", lambda d: d.learn(0.5), "feedback is 0.5"),
        (True, "full", lambda d: d.learn(Feedback(0.0)), "label is None"),
        (True, "full", lambda d: d.learn(Feedback(0.0, 2, {"ann": 0.0, "bob": 0.0})), "label is 2"),
        (True, "full", lambda d: d.learn(Feedback(0.0, 0.5, {"ann": 0.0, "bob": 0.0})), "label is 0.5"),
        (True, "full", lambda d: d.learn(Feedback(0.0, 1, {"ann": 0.0, "zoe": 0.0})), "'zoe' is not in"),
        (True, "full", lambda d: d.learn(Feedback(0.0, 1, {"ann": 0.0, "bob": -0.1})), "cost of 'bob'"),
    ],
)
def test_a_rejected_call_names_the_value_and_changes_nothing(decided, feedback, call, message):
    learner = ready(feedback, decided)
    before = snapshot(learner)
    with pytest.raises(ValueError, match=message) as caught:
        call(learner)
    assert "\n" not in str(caught.value)
    assert snapshot(learner) == before


def test_a_rejected_call_does_not_change_what_comes_after():
    stream = streams.varying(300, np.random.default_rng(0))
    plain, disturbed = build(OnlineL2D(), stream), build(OnlineL2D(), stream)
    bad = [
        lambda d: d.decide([np.nan] * 5, [0]),
        lambda d: d.decide([1.0] * 4, [0]),
        lambda d: d.decide(stream.contexts[0], [0, 0]),
        lambda d: d.learn(Feedback(0.0)),
        lambda d: d.discard(),
    ]
    for t in range(stream.rounds):
        for call in bad:
            with pytest.raises(ValueError):
                call(disturbed)
        here = np.flatnonzero(stream.available[t]).tolist()
        x = stream.contexts[stream.index[t]]
        assert plain.decide(x, here) == disturbed.decide(x, here)
        with pytest.raises(ValueError, match="is 2.0"):
            disturbed.learn(Feedback(2.0))
        plain.learn(Feedback(t % 3 / 2))
        disturbed.learn(Feedback(t % 3 / 2))
    np.testing.assert_array_equal(plain.matrix, disturbed.matrix)


def test_more_experts_than_announced_are_refused():
    learner = Deferrer(OnlineL2D(schedule="anytime"), n_labels=1, dimension=1, n_experts=2)
    learner.decide([0.0], ["a", "b"])
    learner.discard()
    before = snapshot(learner)
    with pytest.raises(ValueError, match="'c' is one more than n_experts=2"):
        learner.decide([0.0], ["a", "c"])
    assert snapshot(learner) == before


def test_the_largest_context_that_is_taken_keeps_the_learner_finite():
    for method in METHODS:
        learner = Deferrer(method.replace(schedule="anytime", feedback="bandit"), n_labels=2, dimension=1)
        for x in ([LARGEST], [-LARGEST], [1.0]):
            learner.decide(x)
            learner.learn(Feedback(0.5))
        assert all(np.isfinite(value).all() for value in learner.state)


def test_full_feedback_must_be_complete():
    learner = Deferrer(OnlineL2D(feedback="full", schedule="anytime"), n_labels=0, dimension=1)
    learner.decide([1.0], ["a", "b", "c"])
    before = snapshot(learner)
    with pytest.raises(ValueError, match="every available expert"):
        learner.learn(Feedback(0.0))
    assert snapshot(learner) == before


def test_empty_pool_and_horizon_zero():
    with pytest.raises(ValueError, match="horizon is 0"):
        Deferrer(OnlineL2D(), n_labels=2, dimension=1, horizon=0)
    with pytest.raises(ValueError, match="n_labels is 2.5 and dimension 1: give whole numbers"):
        Deferrer(OnlineL2D(), n_labels=2.5, dimension=1, horizon=5)
    with pytest.raises(ValueError, match="horizon is 2.5"):
        Deferrer(OnlineL2D(), n_labels=2, dimension=1, horizon=2.5)
    with pytest.raises(ValueError, match="horizon is None"):
        Deferrer(OnlineL2D(), n_labels=2, dimension=1)
    with pytest.raises(ValueError, match="empty pool"):
        Deferrer(OnlineL2D(schedule="anytime"), n_labels=0, dimension=1).decide([1.0], [])
    with pytest.raises(ValueError, match="horizon is 0"):
        streams.static(0, np.random.default_rng(0))


def test_a_save_that_fails_leaves_the_earlier_state_and_nothing_beside_it(tmp_path, monkeypatch):
    learner, path = ready(decided=True), tmp_path / "state.npz"
    learner.save(path)
    before = path.read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        learner.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]
    assert path.read_bytes() == before


def test_a_saved_state_of_another_shape_is_refused(tmp_path):
    learner = ready(decided=True)
    learner.save(tmp_path / "state.npz")
    method = OnlineL2D(schedule="anytime")
    others = {
        "dimension 2": Deferrer(method, n_labels=2, dimension=5),
        "n_labels 2": Deferrer(method, n_labels=3, dimension=2),
        "method": Deferrer(method.replace(radius=2.0), n_labels=2, dimension=2),
        "rho": Deferrer(method, n_labels=2, dimension=2, rho=3.0),
        "n_experts": Deferrer(method, n_labels=2, dimension=2, n_experts=9),
        "horizon": Deferrer(method, n_labels=2, dimension=2, horizon=9),
    }
    for message, other in others.items():
        before = snapshot(other)
        with pytest.raises(ValueError, match=message):
            other.load(tmp_path / "state.npz")
        assert snapshot(other) == before
    with np.load(tmp_path / "state.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    fewer = Deferrer(method, n_labels=2, dimension=2, roster=["bob"])
    with pytest.raises(ValueError, match="knows expert 'ann'"):
        fewer.load(tmp_path / "state.npz")
    np.savez(tmp_path / "cut.npz", **arrays | {"state_weights": arrays["state_weights"][:-1]})
    np.savez(tmp_path / "whole.npz", **arrays | {"state_weights": np.zeros((4, 3), int)})
    np.savez(tmp_path / "row.npz", **arrays | {"pending_pool": arrays["pending_pool"] + 100})
    np.savez(tmp_path / "never.npz", **arrays | {"pending_p": np.zeros_like(arrays["pending_p"])})
    meta = json.loads(str(arrays["meta"])) | {"largest": None}
    np.savez(tmp_path / "unbounded.npz", **arrays | {"meta": np.array(json.dumps(meta))})
    (tmp_path / "text.npz").write_text("not a state")
    for name, message in [
        ("cut", "shape"),
        ("whole", "weights of shape"),
        ("row", "pending decision that does not fit"),
        ("never", "pending decision that does not fit"),
        ("unbounded", "no usable rng or largest"),
        ("text", "not a saved learner"),
        ("absent", "not a saved learner"),
    ]:
        other = ready()
        before = snapshot(other)
        with pytest.raises(ValueError, match=message):
            other.load(tmp_path / f"{name}.npz")
        assert snapshot(other) == before


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"surrogate": "hinge"}, "surrogate 'hinge'"),
        ({"radius": 0.0}, "radius is 0.0"),
        ({"kappa": -1.0}, "kappa is -1.0"),
        ({"kappa": 0.0, "step": "theory"}, "kappa 0 with step 'theory' and bandit feedback"),
        ({"eta": float("nan")}, "eta is nan"),
        ({"ridge": -1.0}, "ridge is -1.0"),
        ({"feedback": "none"}, "feedback 'none'"),
    ],
)
def test_hyper_parameters_outside_their_range(keywords, message):
    with pytest.raises(ValueError, match=message):
        OnlineL2D(**keywords)
