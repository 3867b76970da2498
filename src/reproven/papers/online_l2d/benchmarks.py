"""Speed: rounds per second against Vowpal Wabbit and river on one stream; cost per round against K and d."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.harness.errors import require
from reproven.papers.online_l2d.deferrer import Deferrer, Feedback
from reproven.papers.online_l2d.learner import OnlineL2D
from reproven.papers.online_l2d.learner_numpy import run_seeds
from reproven.papers.online_l2d.streams import Stream, sized, static
from reproven.papers.online_l2d.vowpal import VowpalWabbit

SWEEP_BASE = 8  # K while d is swept, d while K is swept


def l2d_stream(
    ctx: Context,
    *,
    rounds: int,
    peer_rounds: int,
    repeats: int,
    sizes: Sequence[int],
    sweep_rounds: int,
) -> None:
    """Rounds per processor second at N = 7, d = 5, in one run on one core, and a sweep over K and d.

    rounds: of the compiled loop; peer_rounds: of the others, which are slower; repeats: of every timing.
    Every implementation sees the same stream and keeps one linear model an action; compiled code is warm.
    """
    require("numba", "online_l2d")
    require("river", "peers")
    world = static(rounds, ctx.generator("stream"))
    short = world.head(peer_rounds)
    method = OnlineL2D()
    method.run(short, ctx.generator("warm-up"))
    peers: dict[str, Callable[[], object]] = {
        "deferrer": lambda: drive(method, short),
        "numpy twin, 8 seeds": lambda: run_seeds(
            method, [short] * 8, [np.random.default_rng(i) for i in range(8)]
        ),
        "vowpal_wabbit": lambda: VowpalWabbit().run(short, np.random.default_rng(0)),
        "river": lambda: river_epsilon_greedy(short, np.random.default_rng(0)),
    }
    warm = world.head(200)  # the peers' imports are not their speed
    VowpalWabbit().run(warm, np.random.default_rng(0))
    river_epsilon_greedy(warm, np.random.default_rng(0))
    for repeat in range(repeats):
        ours = rounds / _seconds(lambda: method.run(world, np.random.default_rng(0)))
        _record(ctx, "compiled loop", ours, repeat)
        for name, call in peers.items():
            count = peer_rounds * (8 if name.startswith("numpy") else 1)
            theirs = count / _seconds(call)
            _record(ctx, name, theirs, repeat)
            ctx.record("ratio", ours / theirs, unit="1", direction="higher", peer=name, repeat=repeat)
        ctx.progress((repeat + 0.5) / repeats, "peers")
        _sweep(ctx, method, sizes, sweep_rounds, repeat)
        ctx.progress((repeat + 1) / repeats, "sweep")


def _record(ctx: Context, implementation: str, speed: float, repeat: int) -> None:
    coords: dict[str, Any] = {"implementation": implementation, "repeat": repeat}
    ctx.record("rounds_per_s", speed, unit="1/s", direction="higher", **coords)


def _sweep(ctx: Context, method: OnlineL2D, sizes: Sequence[int], rounds: int, repeat: int) -> None:
    """Time per round with K actions at d = 8 inputs, and with d inputs at K = 8 actions."""
    for size in sizes:
        for sweep, experts, clusters in (("K", size - 4, SWEEP_BASE), ("d", SWEEP_BASE - 4, size)):
            world = sized(rounds, ctx.generator("sweep", size=size), experts=experts, clusters=clusters)
            seconds = _seconds(partial(method.run, world, np.random.default_rng(0)))
            coords: dict[str, Any] = {"sweep": sweep, "size": size, "repeat": repeat}
            ctx.record("us_per_round", 1e6 * seconds / rounds, unit="us", direction="lower", **coords)


def _seconds(call: Callable[[], object]) -> float:
    """Processor seconds of a call: everything here runs on one thread, and other processes do not count."""
    start = time.process_time()
    call()
    return time.process_time() - start


def drive(method: OnlineL2D, stream: Stream) -> Deferrer:
    """Play a stream through the stream interface, round by round."""
    n = stream.n_labels
    learner = Deferrer(
        method,
        n_labels=n,
        dimension=stream.contexts.shape[1],
        horizon=stream.rounds,
        n_experts=stream.n_experts,
    )
    experts = range(stream.n_experts)
    for t in range(stream.rounds):
        action, _ = learner.decide(stream.contexts[stream.index[t]], experts)
        row = int(action.id) + (n if action.kind == "expert" else 0)
        learner.learn(Feedback(stream.realised_cost_at(t, row)))
    return learner


def river_epsilon_greedy(stream: Stream, rng: np.random.Generator) -> np.ndarray:
    """Epsilon-greedy over one `river` linear regression per row, played on the stream; rows played (T,)."""
    from river import linear_model

    models = [linear_model.LinearRegression() for _ in range(stream.rows)]
    inputs = [{j: float(v) for j, v in enumerate(x) if v != 0.0} for x in stream.contexts]
    pools = stream.pool()
    epsilon = min(1.0, stream.rounds ** (-1 / 3))
    actions = np.empty(stream.rounds, np.int64)
    for t in range(stream.rounds):
        x = inputs[stream.index[t]]
        pool = np.flatnonzero(pools[t])
        predicted = [models[row].predict_one(x) for row in pool]
        greedy = int(np.argmin(predicted))
        row = int(rng.choice(pool)) if rng.random() < epsilon else int(pool[greedy])
        models[row].learn_one(x, stream.realised_cost_at(t, row))
        actions[t] = row
    return actions
