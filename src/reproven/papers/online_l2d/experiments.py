"""Experiments on synthetic streams: theory on numbers, growth (E1, E2), shift (E3), ablations (E5)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.harness.errors import require
from reproven.papers.online_l2d import calibration, misranking
from reproven.papers.online_l2d.broken import BROKEN
from reproven.papers.online_l2d.deferrer import Deferrer, Feedback
from reproven.papers.online_l2d.learner import SURROGATES, OnlineL2D
from reproven.papers.online_l2d.learner_reference import ReferenceLearner, revealed
from reproven.papers.online_l2d.streams import Stream, synthetic

BINS = 64  # of curves over time


def theory(ctx: Context, *, instances: int, programs: int, pairs: int) -> None:
    """Section 4, rows 1-6: calibration, minima, unbiasedness, second moments, projection, appended rows.

    instances: random (C, s) per pool size and surrogate; programs: linear programs; pairs: of matrices.
    """
    rng = ctx.generator("theory")
    for K in range(2, 9):
        costs = rng.random((instances, K))
        spread = rng.normal(size=(instances, K)) * rng.choice([0.3, 1.0, 3.0], size=(instances, 1))
        near = np.where(costs == costs.min(axis=1, keepdims=True), K - 1.0, -1.0) + 0.1 * spread
        scores = np.where(rng.random((instances, 1)) < 0.5, spread, near)
        for surrogate in SURROGATES:
            slack = calibration.calibration_slack(surrogate, scores, costs)
            ctx.record("slack", slack.min(), unit="cost", direction="higher", surrogate=surrogate, k=K)
    ctx.progress(0.4, "calibration")
    for i in range(programs):
        costs = rng.random(2 + i % 7)
        gap = calibration.linear_program_minimum(costs) - len(costs) * costs.min()
        ctx.record("minimum_gap", abs(gap), unit="cost", direction="lower", instance=i)
    ctx.progress(0.6, "linear programs")
    for method in calibration.variants():
        scores, costs = 2 * rng.normal(size=6), rng.random(6)
        for gamma in (0.05, 0.2, 1.0):
            p = calibration.sampling_distribution(method.sampler, scores, gamma)
            gradients = calibration.played_gradients(method, 3, scores, costs, p, gamma)
            bias = np.abs(p @ gradients - calibration.full_gradient(method.surrogate, scores, costs)).max()
            coords: dict[str, Any] = {
                "surrogate": method.surrogate,
                "sampler": method.sampler,
                "gamma": gamma,
            }
            coords |= {"estimator": method.estimator, "feedback": method.feedback}
            ctx.record("bias", bias, unit="cost", direction="lower", **coords)
            if method.estimator == "iw" and method.feedback == "bandit":
                moment = p @ (gradients**2).sum(axis=1)
                bound = calibration.second_moment_bound(method.surrogate, 6, gamma)
                ctx.record("second_moment_share", moment / bound, unit="1", direction="lower", **coords)
    for i in range(pairs):
        U, V = rng.normal(size=(2, 5, 4)) * rng.uniform(0.2, 3, size=(2, 1, 1))  # inside the ball and outside
        moved = np.linalg.norm(calibration.project(U, 4.0) - calibration.project(V, 4.0))
        ctx.record("expansion", float(moved - np.linalg.norm(U - V)), unit="1", direction="lower", pair=i)
    ctx.record("append_changes", _changes_by_appending(ctx), unit="count", direction="lower")
    ctx.progress(1.0, "done")


def _changes_by_appending(ctx: Context) -> int:
    """Entries of W that change, on a trained learner, when an expert never seen before joins."""
    stream = synthetic("static")(2000, ctx.generator("append"))
    learner = Deferrer(OnlineL2D(), n_labels=4, dimension=5, horizon=stream.rounds)
    costs = stream.costs()
    for t in range(stream.rounds):
        action, _ = learner.decide(stream.contexts[stream.index[t]], [0, 1, 2])
        row = int(action.id) + (4 if action.kind == "expert" else 0)
        learner.learn(Feedback(costs[t, row]))
    before = learner.matrix.copy()
    learner.decide(stream.contexts[0], [0, 1, 2, 3])
    return int(
        (learner.matrix[: len(before)] != before).sum() + np.count_nonzero(learner.matrix[len(before) :])
    )


def negative_controls(ctx: Context, *, replicates: int, rounds: int, restarts: int) -> None:
    """Each broken twin beside the sound learner: bias of the gradient, absent plays, share of label 0 first.

    rounds: of each varying stream; restarts: learners whose first argmax is looked at.
    """
    twins = {"sound": ReferenceLearner, **BROKEN}
    for replicate in range(replicates):
        stream = synthetic("varying")(rounds, ctx.generator("controls", replicate=replicate))
        rng = ctx.generator("controls instances", replicate=replicate)
        scores, costs = 2 * rng.normal(size=5), rng.random(5)
        for name, twin in twins.items():
            coords: dict[str, Any] = {"twin": name, "replicate": replicate}
            bias = _enumerated_bias(twin, scores, costs)
            ctx.record("bias", bias, unit="cost", direction="lower", **coords)
            absent = _absent_plays(twin, stream, ctx.generator("controls play", replicate=replicate))
            ctx.record("absent_plays", absent, unit="count", direction="lower", **coords)
            uniforms = ctx.generator("ties", replicate=replicate).random(restarts)
            zero = [_fresh(twin).argmax(np.zeros(7), u) == 0 for u in uniforms]
            ctx.record("label_zero_first", float(np.mean(zero)), unit="1", direction="lower", **coords)
        ctx.progress((replicate + 1) / replicates)


def _fresh(twin: type[ReferenceLearner], **changes: Any) -> ReferenceLearner:
    return twin(OnlineL2D(**changes), 2, 1, 5, 1.0, 1000)


def _enumerated_bias(twin: type[ReferenceLearner], scores: np.ndarray, costs: np.ndarray) -> float:
    """Largest entry of |sum_a p_a g^(a) - full gradient| of a twin, over its own sampling distribution."""
    learner, A, x = _fresh(twin), list(range(len(scores))), np.ones(1)
    p = learner.distribution(scores, 0.5)
    mean = np.zeros(len(scores))
    for i in range(len(A)):
        learner.pending = (x, A, scores, p, i)
        mean += p[i] * learner.surrogate_gradient(scores, learner.estimate({i: costs[i]}, x, A, p, i))
    return float(np.abs(mean - learner.surrogate_gradient(scores, costs)).max())


def _absent_plays(twin: type[ReferenceLearner], stream: Stream, rng: np.random.Generator) -> int:
    """Rounds in which a twin plays an action outside the pool."""
    contexts, costs, n = stream.augmented(), stream.costs(), stream.n_labels
    learner = twin(OnlineL2D(radius=20.0), n, contexts.shape[1], stream.rows, np.sqrt(2.0), stream.rounds)
    absent = 0
    for t in range(stream.rounds):
        here = (n + np.flatnonzero(stream.available[t])).tolist()
        action, _ = learner.decide(contexts[stream.index[t]], here, *rng.random(2))
        absent += action >= n and action not in here
        learner.learn(revealed("bandit", n, action, dict(enumerate(costs[t]))))
    return absent


def growth(ctx: Context, *, stream: str, rounds: Sequence[int], replicates: int) -> None:
    """Pseudo-regret R_T over horizons T, parameters re-tuned to each T by the methods' own schedules.

    One stream per (replicate, T), the same for all methods. Also the audit of row 10: rounds in which an
    absent action was played, the largest |sum p - 1|, the smallest p_a K / gamma; and R_T over v5's bound.
    """
    require("numba", "online_l2d")
    cases = [(T, replicate) for T in rounds for replicate in range(replicates)]
    total, done = sum(T for T, _ in cases), 0
    for T, replicate in cases:
        world = synthetic(stream)(T, ctx.generator("stream", stream=stream, rounds=T, replicate=replicate))
        for name, method in ctx.methods.items():
            trace = method.run(world, ctx.generator("learner", rounds=T, replicate=replicate))
            regret = world.pseudo_regret(trace.actions)
            coords: dict[str, Any] = {"method": name, "stream": stream, "rounds": T, "replicate": replicate}
            ctx.record("regret", regret.sum(), unit="cost", direction="lower", **coords)
            rate = regret[T // 2 :].mean()
            ctx.record("rate_second_half", rate, unit="cost/round", direction="lower", **coords)
            absent = (trace.actions >= world.n_labels) & ~_present(world, trace.actions)
            ctx.record("absent_plays", absent.sum(), unit="count", direction="lower", **coords)
            if "sum_error" in trace.info:
                ctx.record("sum_error", trace.info["sum_error"], unit="1", direction="lower", **coords)
                share = min(trace.info["least_share"], 1.0)
                ctx.record("least_share", share, unit="1", direction="higher", **coords)
                bound = calibration.published_bound(method.radius, world.rows, np.sqrt(2.0), T)
                ctx.record("bound_share", regret.sum() / bound, unit="1", direction="lower", **coords)
        done += T
        ctx.progress(done / total, f"T={T}")


def _present(world: Stream, actions: np.ndarray) -> np.ndarray:
    if not world.n_experts:
        return np.zeros(world.rounds, bool)
    expert = np.maximum(actions.astype(int) - world.n_labels, 0)
    return world.available[np.arange(world.rounds), expert] > 0


def misranked(ctx: Context, *, instances: int) -> None:
    """Row 11: random 2-label 3-expert instances whose experts are there with probability 1/2."""
    rng = ctx.generator("misranking")
    for i in range(instances):
        case = misranking.random_instance(rng)
        least, scores = misranking.hinge_minimum(case)
        right, _ = misranking.hinge_minimum(case, rank_right=True)
        forced = right > least + 1e-7 * max(1.0, least)
        softmax = misranking.pool_regret(case, misranking.cross_entropy_minimiser(case))
        for surrogate, regret in (("s_cost", misranking.pool_regret(case, scores)), ("ce_reward", softmax)):
            coords: dict[str, Any] = {"surrogate": surrogate, "instance": i}
            ctx.record("misranking_regret", regret, unit="cost/round", direction="lower", **coords)
            ctx.record("misranks", regret > 1e-9, unit="1", direction="lower", **coords)
        ctx.record("forced", forced, unit="1", direction="lower", surrogate="s_cost", instance=i)
        ctx.progress((i + 1) / instances)


INTERVALS = {
    "first quarter": (0.0, 0.25),
    "second quarter": (0.25, 0.5),
    "onset": (0.5, 0.5 + 1 / 32),
    "third quarter": (0.5 + 1 / 32, 0.75),
    "last quarter": (0.75, 1.0),
}


def shift(ctx: Context, *, rounds: int, replicates: int) -> None:
    """E3: the experts' accuracies are rotated over the clusters at T/2; interval regret and recovery.

    Recovery time, as a share of T: from T/2 to the end of the first window of T/64 rounds whose regret is at
    most twice the second quarter's plus .01; 1/2, the most possible, where none is.
    """
    require("numba", "online_l2d")
    for replicate in range(replicates):
        world = synthetic("shift")(rounds, ctx.generator("stream", rounds=rounds, replicate=replicate))
        for name, method in ctx.methods.items():
            trace = method.run(world, ctx.generator("learner", replicate=replicate))
            regret = world.pseudo_regret(trace.actions)
            coords: dict[str, Any] = {"method": name, "replicate": replicate}
            for interval, (start, stop) in INTERVALS.items():
                rate = regret[int(start * rounds) : int(stop * rounds)].mean()
                ctx.record("rate", rate, unit="cost/round", direction="lower", interval=interval, **coords)
            curve = _binned(regret)
            ctx.record_many(
                "rolling_regret", curve, unit="cost/round", direction="lower", bin=range(BINS), **coords
            )
            level = 2 * curve[BINS // 4 : BINS // 2].mean() + 0.01
            below = np.flatnonzero(curve[BINS // 2 :] <= level)
            recovery = (below[0] + 1) / BINS if len(below) else 0.5
            ctx.record("recovery", recovery, unit="T", direction="lower", **coords)
        ctx.progress((replicate + 1) / replicates)


def _binned(values: np.ndarray) -> np.ndarray:
    """Means over BINS equal stretches of time."""
    edges = np.linspace(0, len(values), BINS + 1).astype(int)
    return np.array([values[a:b].mean() for a, b in itertools.pairwise(edges)])


def ablation(
    ctx: Context,
    *,
    stream: str,
    rounds: int,
    replicates: int,
    changes: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """E5: regret of each method with some of its hyper-parameters changed.

    changes: name of the ablation -> list of changes (keywords of the method); `setting` is the first value.
    """
    require("numba", "online_l2d")
    cases = [(name, dict(change)) for name, listed in changes.items() for change in listed]
    for replicate in range(replicates):
        world = synthetic(stream)(rounds, ctx.generator("stream", stream=stream, replicate=replicate))
        for (name, change), (method_name, method) in itertools.product(cases, ctx.methods.items()):
            changed = method.replace(**change)
            trace = changed.run(world, ctx.generator("learner", replicate=replicate))
            regret = world.pseudo_regret(trace.actions).sum()
            coords: dict[str, Any] = {"method": method_name, "replicate": replicate}
            coords |= {"ablation": name, "setting": next(iter(change.values()))}
            ctx.record("regret", regret, unit="cost", direction="lower", **coords)
        ctx.progress((replicate + 1) / replicates)
