"""SFLCB and its labelled variants as methods of the comparison (see `driver.Method`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reproven.papers.sflcb import sflcb as core
from reproven.papers.sflcb import variants
from reproven.papers.sflcb.driver import Settings
from reproven.papers.sflcb.problem import Array, BilevelProblem
from reproven.papers.sflcb.sflcb import State, Steps


class SFLCB:
    """SFLCB (Algorithm 1), three gradient evaluations a step.

    Args:
        delta, rho, eta_x, eta_y, eta_u: defaults of the settings; eta_z = eta_y, eta_v = eta_u.
        order: ``"fresh"`` duals (paper) or ``"simultaneous"`` (published SVM and transport code).
        variant: ``"algorithm_1"``; ``"slack_eliminated"`` minimises over alpha and beta in closed form.
        grid: settings that are tuned.
    """

    def __init__(
        self,
        *,
        delta: float = 0.1,
        rho: float = 1.0,
        eta_x: float = 0.01,
        eta_y: float = 0.01,
        eta_u: float = 0.01,
        order: str = "fresh",
        variant: str = "algorithm_1",
        grid: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if order not in ("fresh", "simultaneous"):
            raise ValueError(f"order {order!r} is not 'fresh' or 'simultaneous'")
        if variant not in variants.UPDATES:
            raise ValueError(f"variant {variant!r} is not one of {sorted(variants.UPDATES)}")
        self.defaults = {"delta": delta, "rho": rho, "eta_x": eta_x, "eta_y": eta_y, "eta_u": eta_u}
        self.order, self.variant = order, variant
        self.grid = dict(grid or {})

    def cost(self, settings: Settings) -> tuple[int, int]:
        """Three gradients, no solve."""
        return core.GRADIENTS_PER_ITERATION, 0

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> State:
        """Return the cold start: z = y, zero multipliers, slacks at h."""
        return core.start(problem, x, y)

    def step(self, problem: BilevelProblem, state: State, k: int, settings: Settings) -> State:
        """Return the next iterate of Algorithm 1 (or of the variant)."""
        p: dict[str, Any] = {**self.defaults, **settings}
        steps = Steps(p["eta_x"], p["eta_y"], p["eta_y"], p["eta_u"], p["eta_u"])
        update = variants.UPDATES[self.variant]
        fresh = self.order == "fresh"
        return update(problem, state, steps, p["delta"], p["rho"], p["rho"], fresh_duals=fresh)

    def warm(self, state: State, z: Array, multipliers: Array, problem: BilevelProblem) -> State:
        """Return `state` with y = z and u = v at a lower-level solution."""
        slack = problem.project_slack(problem.residual(state.x, z))
        return replace(state, y=z, z=z, u=multipliers, v=multipliers, alpha=slack, beta=slack)
