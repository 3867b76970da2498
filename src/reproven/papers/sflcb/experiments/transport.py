"""Figures 3 and 4: transport network design on 3 and 9 nodes, reported against sustained utility."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.papers.sflcb.beds.network import search, utility_bound
from reproven.papers.sflcb.beds.transport import (
    Transport,
    nine_node,
    three_node,
    three_node_capacity,
    three_node_utility,
)
from reproven.papers.sflcb.driver import preset, run

NETWORKS = {"three": three_node, "nine": nine_node}


def transport(
    ctx: Context,
    *,
    network: str,
    protocol: str | Sequence[str],
    start: Sequence[int],
    checkpoints: int,
    delta: Sequence[float] | None = None,
    scale: float = 1.0,
    iterations: int | None = None,
) -> None:
    """Run every method on a network and re-evaluate its capacities by exact lower-level solves.

    Args:
        network: ``three`` or ``nine``.
        protocol: ``published`` (published constants and multiplier map, floor y >= 0.01, old duals) and
            ``corrected`` (free multipliers, y >= 1e-4); settings from the presets ``transport_<network>_<protocol>``.
        start: seeds of the published start x ~ 0.3 + 0.7 U (Mersenne twister, filled by columns).
        delta: replaces the preset's delta, one run each; iterations the preset's number, scale multiplies it.
    Records utility_path, true_path and weighted_path (truncated and demand-weighted) along the run;
    reported, sustained, truncated (shares < 0.02 and
    capacities < 0.01 set to zero, as BLOCC reports), truncated_weighted (the same with revenue times demand, as
    BLOCC's 9-node file reports) and weight_effect (their difference), imbalance and mean_imbalance, served_reported and
    served_true at the end, best_sustained over the checkpoints; on three nodes capacity, capacity_error and
    utility_error against the closed form.
    """
    chosen_plans = [protocol] if isinstance(protocol, str) else protocol
    plans = [
        (p, m)
        for p in chosen_plans
        for m in ctx.methods
        if f"transport_{network}_{p}" in ctx.methods[m].presets
    ]
    for done, (plan, key) in enumerate(plans):
        method = ctx.methods[key]
        chosen = preset(method, f"transport_{network}_{plan}")
        problem = _problem(network, plan)
        x, y = _starts(problem, start)
        total = max(1, round(scale * (iterations or int(chosen["iterations"]))))
        values: Sequence[float | None] = delta or [None]
        for d in values:
            ctx.progress(done / len(plans), f"{plan} {key}")
            settings = dict(chosen) if d is None else {**chosen, "delta": d}
            trace = run(
                method,
                problem,
                x,
                y,
                settings,
                iterations=total,
                checkpoints=checkpoints,
                first=max(1, total // 30),
            )
            where: dict[str, Any] = {"method": key, "protocol": plan, "start": list(start)}
            if d is not None:
                where["delta"] = d
            true = np.array([[sustained(problem, row) for row in points] for points in trace.x])
            for k, (points, lower) in enumerate(zip(trace.x, trace.y)):
                at = {
                    **where,
                    "step": trace.gradients[k] // method.cost(settings)[0],
                    "seconds": trace.seconds[k],
                }
                at["gradients"] = trace.gradients[k]
                ctx.record_many(
                    "utility_path", problem.utility(points, lower), unit="1", direction="higher", **at
                )
                ctx.record_many("true_path", true[k], unit="1", direction="higher", **at)
                ctx.record_many("weighted_path", _weighted(problem, points, lower), unit="1", **at)
            ctx.record_many("best_sustained", true.max(0), unit="1", direction="higher", **where)
            ctx.record_many("sustained", true[-1], unit="1", direction="higher", **where)
            peak = np.max([problem.utility(p, q) for p, q in zip(trace.x, trace.y)], axis=0)
            ctx.record_many("peak_reported", peak, unit="1", **where)
            _final(ctx, problem, trace.x[-1], trace.y[-1], where)
            ctx.record(
                "seconds", trace.seconds[-1], unit="s", **{k: v for k, v in where.items() if k != "start"}
            )
            if network == "three" and plan == "corrected":
                _against_closed_form(ctx, problem, trace.x[-1], true[-1], settings, where)


def best_known(ctx: Context, *, network: str, restarts: int, rounds: int) -> None:
    """Search prices for the best true utility, confirm it by a conic solve, and bound the optimum.

    Records best_known (by shortest priced routes), best_known_conic (the lower level solved at its
    capacities), upper_bound.
    """
    problem = Transport(NETWORKS[network](), y_low=1e-4)
    value, capacities = search(problem, ctx.generator("network search"), restarts=restarts, rounds=rounds)
    x = np.zeros(problem.dx)
    x[: problem.L] = capacities
    ctx.record("best_known", value, unit="1", direction="higher", network=network)
    ctx.record("best_known_conic", sustained(problem, x), unit="1", direction="higher", network=network)
    ctx.record("upper_bound", utility_bound(problem), unit="1", direction="lower", network=network)
    ctx.record("links_built", int((capacities > 1e-6).sum()), unit="links", network=network)


def sustained(problem: Transport, x: np.ndarray) -> float:
    """Return the true utility of x; -inf where x is not finite."""
    if not np.abs(x).max() < 1e8:
        return -np.inf
    with warnings.catch_warnings():
        # Unserved pairs drive shares to the border of the cone; the value is good to 1e-3 all the same.
        warnings.simplefilter("ignore", UserWarning)
        return problem.sustained(x)[0]


def _problem(network: str, plan: str) -> Transport:
    if plan == "published":
        return Transport(NETWORKS[network](), published_duals=True)
    return Transport(NETWORKS[network](), y_low=1e-4)


def _starts(problem: Transport, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    n = problem.n
    square = [np.random.RandomState(seed).random_sample(n * n).reshape(n, n, order="F") for seed in seeds]
    x = np.stack([(0.3 + 0.7 * s)[tuple(problem.columns.T)] for s in square])
    y = np.zeros((len(seeds), problem.dy))
    assert problem.y_box is not None
    y[:, : problem.K] = problem.y_box[0][0]
    return x, y


def _weighted(problem: Transport, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return sum m w y - sum c x with shares < 0.02 and capacities < 0.01 set to zero."""
    share = y[..., : problem.K]
    return np.where(share < 0.02, 0, share) @ (problem.m * problem.w) - np.where(x < 0.01, 0, x) @ problem.c


def _final(ctx: Context, problem: Transport, x: np.ndarray, y: np.ndarray, where: dict[str, Any]) -> None:
    share = y[:, : problem.K]
    ctx.record_many("reported", problem.utility(x, y), unit="1", **where)
    cut = np.where(share < 0.02, 0, share) @ problem.m - np.where(x < 0.01, 0, x) @ problem.c
    weighted = _weighted(problem, x, y)
    ctx.record_many("truncated", cut, unit="1", **where)
    ctx.record_many("truncated_weighted", weighted, unit="1", **where)
    ctx.record_many("weight_effect", np.abs(weighted - cut), unit="1", **where)
    residual = problem.imbalance(y)
    ctx.record_many("imbalance", residual.max((-2, -1)), unit="1", direction="lower", **where)
    rows = np.arange(problem.K)
    ends = 0.5 * (residual[:, rows, problem.pairs[:, 0]] + residual[:, rows, problem.pairs[:, 1]])
    ctx.record_many("mean_imbalance", ends.mean(-1), unit="1", direction="lower", **where)
    ctx.record_many("served_reported", share.sum(-1), unit="1", **where)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        ctx.record_many("served_true", [problem.sustained(row)[1].sum() for row in x], unit="1", **where)


def _against_closed_form(
    ctx: Context, problem: Transport, x: np.ndarray, true: np.ndarray, settings: Any, where: dict[str, Any]
) -> None:
    delta = settings["delta"] if "delta" in settings else 1 / settings["gamma"]
    built = [k for k, (i, j) in enumerate(problem.columns.tolist()) if {i, j} == {0, 1}]
    error = np.abs(x[:, built] - three_node_capacity(delta)).max(-1)
    ctx.record_many("capacity", x[:, built].mean(-1), unit="1", **where)
    ctx.record_many("capacity_error", error, unit="1", direction="lower", **where)
    ctx.record_many(
        "utility_error", np.abs(true - three_node_utility(delta)), unit="1", direction="lower", **where
    )
