"""First-order penalty method for lower constraints that do not depend on x (Kwon et al., arXiv 2309.01753)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reproven.papers.sflcb.driver import Method, Presets, Settings
from reproven.papers.sflcb.exact import ConvexQP
from reproven.papers.sflcb.problem import Array, BilevelProblem

RUNAWAY = 1e8  # entries beyond it are a diverged run, left as it is


class KwonState(NamedTuple):
    """x, penalised lower iterate y and lower iterate z, both in Y."""

    x: Array
    y: Array
    z: Array


class KwonPenalty(Method):
    """``x -= eta_x [delta f_x(x, y) + g_x(x, y) - g_x(x, z)]``, y and z by projected gradients on Y = {A y <= b}.

    Every inner step projects y and z onto Y by an exact quadratic program. Needs B = 0.
    """

    def __init__(
        self,
        *,
        inner: int = 1,
        delta: float = 0.1,
        eta_x: float = 0.15,
        eta_y: float = 0.05,
        presets: Presets | None = None,
    ) -> None:
        self.inner = inner
        super().__init__({"delta": delta, "eta_x": eta_x, "eta_y": eta_y}, presets)

    def cost(self, settings: Settings) -> tuple[int, int]:
        """Three gradients and two projections an inner step, and three gradients for x after more than one."""
        return 3 * self.inner + 3 * (self.inner > 1), 2 * self.inner

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> KwonState:
        """Return the start; raises ValueError when B is not zero."""
        if np.abs(np.asarray(problem.b_x)).max() > 0:
            raise ValueError(
                "the penalty method of Kwon et al. needs B = 0: its projection set must not depend on x"
            )
        return KwonState(x, y, y)

    def step(self, problem: BilevelProblem, s: KwonState, k: int, settings: Settings) -> KwonState:
        """Return the next state."""
        p: dict[str, Any] = {**self.defaults, **settings}
        x, y, z = s
        for _ in range(self.inner):
            d_x, d_y, d_z = problem.gradients(x, y, z, p["delta"])
            y = project_lower(problem, y - p["eta_y"] * d_y)
            z = project_lower(problem, z - p["eta_y"] * d_z)
        if self.inner > 1:
            d_x = problem.gradients(x, y, z, p["delta"])[0]
        return KwonState(problem.project_x(x - p["eta_x"] * d_x), y, z)


def project_lower(problem: BilevelProblem, y: np.ndarray) -> np.ndarray:
    """Return the nearest points of {A y <= b}, run by run."""
    y = y.copy()
    for index, member, (row,) in problem.each(y):
        if np.abs(row).max() < RUNAWAY and (member.a @ row - member.rhs).max() > 0:
            if not hasattr(member, "_set"):
                member._set = ConvexQP(np.eye(member.dy), member.a)
            y[index] = member._set.solve(row, member.rhs).y
    return y
