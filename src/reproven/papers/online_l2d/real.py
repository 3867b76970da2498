"""Experiment E4: real features, simulated specialists with fees, a schedule; every method tuned alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.harness.errors import require
from reproven.papers.online_l2d.real_streams import arrays, specialists
from reproven.papers.online_l2d.streams import Stream

BINS = 50  # of curves over time; a multiple of 5


def real(
    ctx: Context,
    *,
    replicates: int,
    rounds: int,
    tuning_rounds: int,
    warm_up: int,
    components: Mapping[str, int],
) -> None:
    """System accuracy, cost and deferral of each method on `replicates` streams over each data set.

    A method with `candidates()` is tuned first: each of its twelve settings plays one tuning stream of
    `tuning_rounds` rounds, drawn with other seeds, and the cheapest goes on to the evaluation streams.
    components: principal components kept, per data set.
    """
    require("numba", "online_l2d")
    for dataset in ctx.datasets:
        x, y = arrays(ctx.dataset(dataset))
        make = partial(specialists, x, y, components=int(components[dataset]), warm_up=warm_up)
        compare(ctx, dataset, make, replicates=replicates, rounds=rounds, tuning_rounds=tuning_rounds)


def compare(
    ctx: Context,
    dataset: str,
    make: Callable[[int, np.random.Generator], Stream],
    *,
    replicates: int,
    rounds: int,
    tuning_rounds: int,
) -> None:
    """Tune every method on one stream ``make(rounds, rng)`` and record it on `replicates` others."""
    total, done = len(ctx.methods) * (replicates + 1), 0
    tuning = make(tuning_rounds, ctx.generator("tuning stream", dataset=dataset))
    chosen = {}
    for name, method in ctx.methods.items():
        chosen[name], number = tuned(method, tuning, ctx.derive("tuning", dataset=dataset))
        ctx.record("tuned", number, unit="number", method=name, dataset=dataset)
        done += 1
        ctx.progress(done / total, f"tuning {name} on {dataset}")
    for replicate in range(replicates):
        axes: dict[str, Any] = {"dataset": dataset, "replicate": replicate}
        world = make(rounds, ctx.generator("stream", **axes))
        for name, method in chosen.items():
            trace = method.run(world, ctx.generator("learner", **axes))
            record_run(ctx, world, trace.actions, {"method": name, **axes})
            done += 1
            ctx.progress(done / total, f"{name} on {dataset}")
        record_schedule(ctx, world, axes)


def tuned(method: Any, stream: Stream, seed: int) -> tuple[Any, int]:
    """Return the setting of least realised cost on the stream, and its number; -1 where nothing is tuned."""
    if not hasattr(method, "candidates"):
        return method, -1
    settings = method.candidates()
    costs = [
        stream.realised_cost(m.run(stream, np.random.default_rng(seed)).actions).mean() for m in settings
    ]
    best = int(np.argmin(costs))
    return settings[best], best


def record_run(ctx: Context, world: Stream, actions: np.ndarray, coords: dict[str, Any]) -> None:
    """Record accuracy and cost, whole, by fifths and over time, and deferral on hard and easy rows."""
    T = world.rounds
    right = ~world.error(actions).astype(bool)
    deferred, hard = actions >= world.n_labels, world.hard[world.index]
    ctx.record("accuracy", right.mean(), unit="1", direction="higher", **coords)
    ctx.record("cost", world.realised_cost(actions).mean(), unit="cost", direction="lower", **coords)
    ctx.record("regret", world.pseudo_regret(actions).mean(), unit="cost/round", direction="lower", **coords)
    edges = np.linspace(0, T, BINS + 1).astype(int)
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    curve = [right[part].mean() for part in parts]
    ctx.record_many("rolling_accuracy", curve, unit="1", direction="higher", bin=range(BINS), **coords)
    for fifth, part in enumerate(np.array_split(np.arange(T), 5), start=1):
        ctx.record("accuracy_fifth", right[part].mean(), unit="1", direction="higher", fifth=fifth, **coords)
        rates = [deferred[part][rows[part]].mean() for rows in (hard, ~hard)]
        ctx.record("deferral_gap", rates[0] - rates[1], unit="1", fifth=fifth, **coords)
        for rows, rate in zip(("hard", "easy"), rates):
            ctx.record("deferral", rate, unit="1", rows=rows, fifth=fifth, **coords)
    for expert in range(world.n_experts):
        asked = actions == world.n_labels + expert
        share = [asked[part].mean() for part in parts]
        ctx.record_many("asked", share, unit="1", bin=range(BINS), expert=expert, **coords)


def record_schedule(ctx: Context, world: Stream, coords: dict[str, Any]) -> None:
    """Record when each expert is there for the first and the last time, as shares of T."""
    for expert in range(world.n_experts):
        present = np.flatnonzero(world.available[:, expert])
        for event, t in (("arrival", present[0]), ("departure", present[-1] + 1)):
            ctx.record("schedule", t / world.rounds, unit="T", expert=expert, event=event, **coords)
