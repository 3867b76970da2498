"""Figure 1: the toy problem from random starts, at several common steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.papers.sflcb.beds.toy import MINIMA, Toy
from reproven.papers.sflcb.driver import preset
from reproven.papers.sflcb.sflcb import State

TOLERANCES = (1e-2, 1e-3, 1e-4)


def toy(ctx: Context, *, starts: int, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Run every method from `starts` random x in [0, 3] with the settings of each row.

    Args: rows, name -> ``{iterations, ...settings}``; only SFLCB's settings are known to a row, other methods
    run once, with their preset ``toy``.
    Records final_gap (to the nearest listed minimum), gradients_to (gradient evaluations after which the gap
    stays below a tolerance; the budget where it never does), solved, phi,
    start_x and end, and minimum (the mean end point of a basin).
    """
    problem, minima = Toy(), np.array(MINIMA)
    levels = problem.phi(minima[:, None])
    generator = ctx.generator("toy starts")
    x = generator.uniform(0, 3, (starts, 1))
    y = generator.uniform(-5, 8.5, (starts, 1))
    # The published code draws both multipliers from U(0, 10).
    dual = generator.uniform(0, 10, (starts, 1))
    for m, (name, method) in enumerate(ctx.methods.items()):
        own = preset(method, "toy")
        plans = {"own": own} if "iterations" in own else {k: {**own, **v} for k, v in rows.items()}
        for row, settings in plans.items():
            state = method.init(problem, x, y, settings)
            if isinstance(state, State):
                state = replace(state, u=dual, v=dual)
            path = np.empty((settings["iterations"] + 1, starts))
            path[0] = state.x[:, 0]
            with np.errstate(all="ignore"):
                for k in range(settings["iterations"]):
                    state = method.step(problem, state, k, settings)
                    path[k + 1] = state.x[:, 0]
            ctx.progress((m + 0.5) / len(ctx.methods), f"{name} {row}")
            value = problem.phi(path[..., None])
            nearest = np.abs(value[-1][:, None] - levels).argmin(1)
            gap = np.abs(value - levels[nearest])
            where: dict[str, Any] = {"method": name, "row": row, "start": range(starts)}
            ctx.record_many("final_gap", gap[-1], unit="1", direction="lower", **where)
            ctx.record_many("phi", value[-1], unit="1", **where, basin=nearest.tolist())
            ctx.record_many("end", path[-1], unit="1", **where)
            ctx.record_many("start_x", path[0], unit="1", **where)
            for basin in np.unique(nearest):
                reached = float(path[-1][nearest == basin].mean())
                ctx.record("minimum", reached, unit="1", method=name, row=row, basin=int(basin))
            cost = method.cost(settings)[0]
            for tolerance in TOLERANCES:
                above = gap > tolerance
                # The first step after the last one that was still above the tolerance.
                last = len(path) - np.argmax(above[::-1], axis=0)
                first = np.where(above.any(0), last, 0)
                inside = first < len(path)
                ctx.record_many("solved", inside, unit="1", direction="higher", **where, tolerance=tolerance)
                spent = np.minimum(first, settings["iterations"]) * cost
                ctx.record_many("gradients_to", spent, unit="evaluations", direction="lower", **where,
                                tolerance=tolerance)  # fmt: skip
