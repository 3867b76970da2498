"""AiPOD and E-AiPOD: alternating projected implicit gradients for equality constraints (arXiv 2211.07096)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg as sla

from reproven.papers.sflcb.driver import Method, Presets, Settings
from reproven.papers.sflcb.problem import Array, BilevelProblem


class AiPODState(NamedTuple):
    """x, lower iterate y on the affine set {h(x, y) = 0}, and the correction of skipped projections."""

    x: Array
    y: Array
    correction: Array


class AiPOD(Method):
    """y by `inner` projected gradient steps on {A y = b - B x}; x by the implicit gradient at that y.

    ``y <- Proj(y - eta_y g_y)``; ``x <- Proj_X{x - eta_x (f_x + J^T f_y)}`` with
    ``J = -V (V^T g_yy V)^{-1} V^T (g_yx - g_yy A^+ B) - A^+ B``, V a basis of the null space of A.
    E-AiPOD, ``skip > 1``: only every `skip`-th inner step projects; a correction in the range of A^T keeps
    the fixed point (as in projection-skipping methods; its exact form in the paper is not known here).
    """

    def __init__(
        self,
        *,
        inner: int = 5,
        skip: int = 1,
        eta_x: float = 0.05,
        eta_y: float = 0.5,
        presets: Presets | None = None,
    ) -> None:
        if inner % skip:
            raise ValueError(f"inner = {inner} must be a multiple of skip = {skip}")
        self.inner, self.skip = inner, skip
        super().__init__({"eta_x": eta_x, "eta_y": eta_y}, presets)

    def cost(self, settings: Settings) -> tuple[int, int]:
        """`inner` gradients of g and one of f; the projections and one reduced linear solve."""
        return self.inner + 1, self.inner // self.skip + 1

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> AiPODState:
        """Return the start, y projected; raises ValueError unless every row is an equality."""
        if problem.equality is None or not problem.equality.all():
            raise ValueError("AiPOD needs equality constraints in every row; use an inequality method here")
        return AiPODState(x, _project(problem, x, y), y * 0)

    def step(self, problem: Any, s: AiPODState, k: int, settings: Settings) -> AiPODState:
        """Return the state after the inner steps and one step of x."""
        p: dict[str, Any] = {**self.defaults, **settings}
        x, y, correction = s
        for inner in range(1, self.inner + 1):
            moved = y - p["eta_y"] * (problem.grad_g(x, y)[1] - correction)
            if inner % self.skip == 0:
                period = p["eta_y"] * self.skip
                y = _project(problem, x, moved - period * correction)
                correction = correction + (y - moved) / period if self.skip > 1 else correction
            else:
                y = moved
        f_x, f_y = problem.grad_f(x, y)
        null, particular = _factors(problem)
        g_yy, g_yx = problem.hessians_g(x, y)
        reduced = null.T @ g_yy @ null
        pushed = np.linalg.solve(reduced, (f_y @ null).T).T @ null.T
        gradient = f_x - f_y @ particular - pushed @ (g_yx - g_yy @ particular)
        return AiPODState(problem.project_x(x - p["eta_x"] * gradient), y, correction)


def _factors(problem: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a basis of the null space of A, and A^+ B."""
    if not hasattr(problem, "_affine"):
        inverse = np.linalg.pinv(problem.a)
        problem._affine = sla.null_space(problem.a), inverse @ problem.b_x, inverse
    return problem._affine[0], problem._affine[1]


def _project(problem: Any, x: Array, y: Array) -> Array:
    """Return the nearest y with h(x, y) = 0."""
    _factors(problem)
    return y - problem.residual(x, y) @ problem._affine[2].T
