"""SFLCB and its labelled variants as methods of the comparison (see `driver.Method`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from reproven.papers.sflcb import variants
from reproven.papers.sflcb.controls import CONTROLS
from reproven.papers.sflcb.driver import Method, Presets, Settings
from reproven.papers.sflcb.problem import Array, BilevelProblem
from reproven.papers.sflcb.sflcb import GRADIENTS_PER_ITERATION, State, Steps, start

UPDATES = {**variants.UPDATES, **CONTROLS}


class SFLCB(Method):
    """SFLCB (Algorithm 1), three gradient evaluations a step.

    Args:
        delta, rho, eta_x, eta_y, eta_u: defaults of the settings; eta_z = eta_y, eta_v = eta_u.
        fresh: primal steps see the new duals (paper) or the old ones (published SVM and transport code).
        warm: start from the exact lower-level solution and its multipliers at x.
        update: ``"algorithm_1"``, the variant ``"slack_eliminated"``, or a broken twin of `controls`.
        presets: settings by name of problem and protocol, see `driver.Presets`.
    """

    def __init__(
        self,
        *,
        delta: float = 0.1,
        rho: float = 1.0,
        eta_x: float = 0.01,
        eta_y: float = 0.01,
        eta_u: float = 0.01,
        fresh: bool = True,
        warm: bool = False,
        update: str = "algorithm_1",
        presets: Presets | None = None,
    ) -> None:
        if update not in UPDATES:
            raise ValueError(f"update {update!r} is not one of {sorted(UPDATES)}")
        steps = {"eta_x": eta_x, "eta_y": eta_y, "eta_u": eta_u}
        super().__init__({"delta": delta, "rho": rho, **steps, "fresh": fresh, "warm": warm}, presets)
        self.update = UPDATES[update]

    def cost(self, settings: Settings) -> tuple[int, int]:
        """Three gradients, no solve."""
        return GRADIENTS_PER_ITERATION, 0

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> State:
        """Return the start: z = y, slacks at h; zero multipliers, or those of the exact solution when warm."""
        if not {**self.defaults, **settings}["warm"]:
            return start(problem, x, y)
        z = np.empty_like(y)
        multipliers = problem.residual(x, y) * 0
        for index, member, (row,) in problem.each(x):
            answer = member.lower(row)
            z[index], multipliers[index] = answer.y, answer.multipliers
        return replace(start(problem, x, z), u=multipliers, v=multipliers)

    def step(self, problem: BilevelProblem, state: State, k: int, settings: Settings) -> State:
        """Return the next iterate."""
        p: dict[str, Any] = {**self.defaults, **settings}
        steps = Steps(p["eta_x"], p["eta_y"], p["eta_y"], p["eta_u"], p["eta_u"])
        duals = {"fresh_duals": bool(p["fresh"]), "dual_map": problem.dual_map}
        return self.update(problem, state, steps, p["delta"], p["rho"], p["rho"], **duals)

    def report(self, state: State) -> Array:
        """Return z, the iterate that the published code reports."""
        return state.z
