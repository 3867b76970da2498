"""The LC-QP bed: cost of every method to a certified optimum, and the sweep over dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.papers.sflcb.beds.lcqp import LCQP, draw, stack
from reproven.papers.sflcb.driver import Settings, Trace, preset, run, tune
from reproven.papers.sflcb.exact import Infeasible
from reproven.papers.sflcb.problem import Array

COST_GAP = 0.01  # the gap whose cost the plan `tuned_for_cost` tunes for


def cost(
    ctx: Context,
    *,
    protocol: list[str],
    size: Sequence[int],
    problems: int,
    starts: int,
    tuning: int,
    gradients: int,
    solves: int,
    tolerances: Sequence[float],
    coupled: bool = True,
    checkpoints: int = 40,
) -> None:
    """Run every method on the same problems and starts, score x by its exact Phi against the certified optimum.

    Args: protocol, any of ``fixed`` (a method's preset ``lcqp_fixed``, skipped where it has none) and ``tuned``
    (preset ``lcqp``, tuned on `tuning` other problems at the same budget of `gradients` evaluations and `solves`, by
    the final gap), ``tuned_for_cost`` (the same, by the cost to a relative gap of 1 %).
    Records gap (relative, at checkpoints), best_gap, solved and gradients_to, solves_to, seconds_to per tolerance.
    """
    bed, certificates = _bed(ctx, "lcqp", size, problems, coupled)
    batch = stack(bed)
    x = np.stack([
        [ctx.generator("lcqp start", problem=i, start=j).standard_normal(size[0]) for j in range(starts)]
        for i in range(problems)
    ])  # fmt: skip
    y = np.zeros((problems, starts, size[1]))
    others, _ = _bed(ctx, "lcqp tuning", size, tuning, coupled)
    x_tune = np.stack(
        [[ctx.generator("lcqp tuning start", problem=i).standard_normal(size[0])] for i in range(tuning)]
    )
    y_tune = np.zeros((tuning, 1, size[1]))
    scale = phis(batch, x) - certificates[:, None]
    base = np.array([c.certificate().upper for c in others])
    tune_scale = phis(stack(others), x_tune) - base[:, None]

    tuning_bed = stack(others)

    def score(points: Array, _: Array) -> np.ndarray:
        return (phis(tuning_bed, points) - base[:, None]) / tune_scale

    plans = [(p, name) for p in protocol for name in ctx.methods]
    for done, (plan, name) in enumerate(plans):
        method = ctx.methods[name]
        ctx.progress(done / len(plans), f"{plan} {name}")
        if plan == "fixed":
            if "lcqp_fixed" not in method.presets:
                continue
            settings: Settings = preset(method, "lcqp_fixed")
        else:
            settings = tune(
                method,
                tuning_bed,
                x_tune,
                y_tune,
                preset(method, "lcqp"),
                score,
                gradients=gradients,
                solves=solves,
                reach=COST_GAP if plan == "tuned_for_cost" else None,
            )
            for key, value in settings.items():
                ctx.record("setting", value, method=name, protocol=plan, setting=key)
        trace = run(
            method, batch, x, y, settings, gradients=gradients, solves=solves, checkpoints=checkpoints
        )
        gaps = np.stack([(phis(batch, point) - certificates[:, None]) / scale for point in trace.x])
        _record(ctx, trace, gaps, tolerances, {"method": name, "protocol": plan}, starts)


def dimensions(
    ctx: Context,
    *,
    size: list[str],
    problems: int,
    gradients: int,
    seconds: float,
    node_limit: int,
    certify_rows: int,
    tolerances: Sequence[float],
    checkpoints: int = 30,
) -> None:
    """Sweep dx, dy, dh: seconds, gradients and solves of each method to a relative gap, one run at a time.

    Args: size, texts ``"dx-dy-dh"``; seconds, ceiling of one method on one problem; node_limit of the
    certificate, which problems with more than `certify_rows` constraints go without. Where it is absent or
    stays open the best value of any method is the reference: recorded as closed = 0.
    Method presets: ``lcqp_sweep``.
    """
    for s, text in enumerate(size):
        dims = [int(v) for v in text.split("-")]
        for i in range(problems):
            problem = draw(dims[0], dims[1], dims[2], ctx.generator("lcqp", size=text, problem=i))
            x = ctx.generator("lcqp start", size=text, problem=i).standard_normal(dims[0])
            y = np.zeros(dims[1])
            traces: dict[str, Trace] = {}
            for m, (name, method) in enumerate(ctx.methods.items()):
                ctx.progress((s + (i + m / len(ctx.methods)) / problems) / len(size), f"{text} {name}")
                settings = preset(method, "lcqp_sweep")
                traces[name] = run(
                    method,
                    problem,
                    x,
                    y,
                    settings,
                    gradients=gradients,
                    seconds=seconds,
                    checkpoints=checkpoints,
                )
            values = {name: np.array([_phi(problem, p) for p in trace.x]) for name, trace in traces.items()}
            best = min(float(np.nanmin(v)) for v in values.values())
            certificate = problem.certificate(node_limit) if problem.dh <= certify_rows else None
            closed = certificate is not None and certificate.closed
            where: dict[str, Any] = {"size": text, "problem": i}
            ctx.record("closed", closed, unit="1", **where)
            if certificate is not None:
                ctx.record(
                    "optimum_gap", (best - certificate.lower) / max(abs(best), 1e-12), unit="1", **where
                )
            reference = certificate.upper if certificate is not None and closed else best
            start = _phi(problem, x)
            for name, trace in traces.items():
                gap = (values[name] - reference)[:, None, None] / (start - reference)
                _record(ctx, trace, gap, tolerances, {**where, "method": name}, 1)


def phis(batch: LCQP, x: Array) -> np.ndarray:
    """Return Phi at the exact lower-level response for every run (S, P); inf where x is not finite."""
    out = np.full(x.shape[:-1], np.inf)
    for index, member, (point,) in batch.each(x):
        out[index] = _phi(member, point)
    return out


def _phi(problem: LCQP, x: np.ndarray) -> float:
    if not np.abs(x).max() < 1e8:
        return np.inf
    try:
        return problem.phi(x)
    except Infeasible:
        return np.inf


def _bed(
    ctx: Context, purpose: str, size: Sequence[int], count: int, coupled: bool
) -> tuple[list[LCQP], np.ndarray]:
    bed = [
        draw(size[0], size[1], size[2], ctx.generator(purpose, problem=i), coupled=coupled)
        for i in range(count)
    ]
    return bed, np.array([p.certificate().upper for p in bed])


def _record(
    ctx: Context, trace: Trace, gaps: np.ndarray, tolerances: Sequence[float], where: dict, starts: int
) -> None:
    """Record gaps (K, S, P) at the K checkpoints and what each tolerance took."""
    count, width, _ = gaps.shape
    best = np.minimum.accumulate(np.nan_to_num(gaps, nan=np.inf, posinf=1e6), axis=0)
    first = {} if "problem" in where else {"problem": np.repeat(np.arange(width), starts).tolist()}
    axes = {**where, **first, "start": np.tile(np.arange(starts), width).tolist()}
    for k in range(count):
        ctx.record_many("gap", best[k].ravel(), unit="1", direction="lower", **axes, step=k,
                        gradients=trace.gradients[k], solves=trace.solves[k], seconds=trace.seconds[k])  # fmt: skip
    ctx.record_many("best_gap", best[-1].ravel(), unit="1", direction="lower", **axes)
    if width > 1 or starts > 1:
        rest = {key: value for key, value in where.items() if key != "problem"}
        lowest = best[-1].min(-1)
        ctx.record_many("multistart_gap", lowest, unit="1", direction="lower", **rest, problem=range(width))
    costs = {"gradients": trace.gradients, "solves": trace.solves, "seconds": trace.seconds}
    for tolerance in tolerances:
        reached = best <= tolerance
        solved = reached[-1].ravel()
        index = np.where(reached[-1], reached.argmax(0), count - 1).ravel()
        ctx.record_many("solved", solved, unit="1", direction="higher", **axes, tolerance=tolerance)
        for kind, column in costs.items():
            unit = "s" if kind == "seconds" else "evaluations" if kind == "gradients" else "solves"
            ctx.record_many(f"{kind}_to", np.array(column)[index], unit=unit, direction="lower", **axes,
                            tolerance=tolerance)  # fmt: skip
