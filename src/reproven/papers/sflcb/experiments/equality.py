"""Equality-constrained toys with known answers: AiPOD's, and BiC-GAFFA's up to n = 1,000."""

from __future__ import annotations

from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.papers.sflcb.beds.equality import AiPODToy, GAFFAToy
from reproven.papers.sflcb.driver import preset, run


def aipod(
    ctx: Context, *, rows: int, n: int, problems: int, starts: int, gradients: int, checkpoints: int = 20
) -> None:
    """Run every method on AiPOD's toy; score by |grad Phi| with the closed-form response.

    Method presets: ``aipod_toy``. Records stationarity along the run and at the end, phi, violation.
    """
    for i in range(problems):
        problem = AiPODToy.draw(rows, n, ctx.generator("aipod toy", problem=i))
        x = ctx.generator("aipod start", problem=i).standard_normal((starts, n))
        for name, method in ctx.methods.items():
            ctx.progress(i / problems, name)
            settings = preset(method, "aipod_toy")
            trace = run(method, problem, x, x * 0, settings, gradients=gradients, checkpoints=checkpoints)
            where: dict[str, Any] = {"method": name, "problem": i, "start": range(starts)}
            for k, point in enumerate(trace.x):
                size = np.linalg.norm(problem.phi_gradient(point), axis=-1)
                at = {"step": k, "gradients": trace.gradients[k], "seconds": trace.seconds[k]}
                ctx.record_many("stationarity_path", size, unit="1", direction="lower", **where, **at)
            ctx.record_many("stationarity", size, unit="1", direction="lower", **where)
            ctx.record_many("phi", problem.phi(trace.x[-1]), unit="1", direction="lower", **where)
            left = problem.violation(trace.x[-1], trace.y[-1])
            ctx.record_many("violation", left, unit="1", direction="lower", **where)


def gaffa(ctx: Context, *, n: list[int], gradients: int, starts: int, checkpoints: int = 20) -> None:
    """Run every method on BiC-GAFFA's toy; the optimum x = 1, y = (2, -3), multiplier -1 is known.

    Method presets: ``gaffa_toy``. Records phi_path (optimistic Phi over n), x_error, y_error (largest entries),
    and, for methods with a multiplier u, multiplier_error against -1.
    """
    for size in n:
        problem = GAFFAToy(size)
        x = ctx.generator("gaffa start", n=size).uniform(0, 2, (starts, size))
        y = np.zeros((starts, 2 * size))
        for name, method in ctx.methods.items():
            ctx.progress(n.index(size) / len(n), f"{name} n = {size}")
            settings = preset(method, "gaffa_toy")
            trace = run(method, problem, x, y, settings, gradients=gradients, checkpoints=checkpoints)
            where: dict[str, Any] = {"method": name, "n": size, "start": range(starts)}
            for k, point in enumerate(trace.x):
                at = {"step": k, "gradients": trace.gradients[k], "seconds": trace.seconds[k]}
                ctx.record_many(
                    "phi_path", problem.phi(point) / size, unit="1", direction="lower", **where, **at
                )
            error = np.abs(trace.x[-1] - 1).max(-1)
            ctx.record_many("x_error", error, unit="1", direction="lower", **where)
            wrong = np.abs(trace.y[-1] - np.repeat([2.0, -3.0], size)).max(-1)
            ctx.record_many("y_error", wrong, unit="1", direction="lower", **where)
            if hasattr(trace.state, "v"):
                # The row was divided by sqrt(n), so its multiplier is sqrt(n) times that of the plain row.
                scaled = trace.state.v[..., 0] / np.sqrt(size)
                ctx.record_many("multiplier_error", np.abs(scaled + 1), unit="1", direction="lower", **where)
