"""LV-HBA: Hessian-free steps on the proximal Lagrangian value function (Yao et al., ICLR 2024, arXiv 2401.16164)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reproven.papers.sflcb.driver import Method, Presets, Settings
from reproven.papers.sflcb.exact import ConvexQP
from reproven.papers.sflcb.problem import Array, BilevelProblem

RUNAWAY = 1e8  # entries beyond it are a diverged run, left as it is


class LVHBAState(NamedTuple):
    """Upper and lower iterate, proximal lower iterate theta, its multiplier lam, proximal centre zeta."""

    x: Array
    y: Array
    theta: Array
    lam: Array
    zeta: Array


class LVHBA(Method):
    """One step on the saddle problem, one on (x, y) projected jointly onto {h <= 0}, one on zeta.

    ``theta -= eta [g_y(x, theta) + A^T lam + (theta - y)/gamma1]``,
    ``lam = [lam + eta (h(x, theta) - (lam - zeta)/gamma2)]_+``,
    ``(x, y) = Proj{(x, y) - alpha [f'/c + (g_x(x, y) - g_x(x, theta) - B^T lam, g_y(x, y) - (y - theta)/gamma1)]}``,
    ``zeta = Proj_[0, r]{zeta - beta (zeta - lam)/gamma2}``, with ``c = c0 (k + 1)^p``.
    The projection onto {h <= 0} is an exact quadratic program each step.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.01,
        beta: float | None = None,
        eta: float = 0.01,
        gamma1: float = 10.0,
        gamma2: float = 10.0,
        c0: float = 1.0,
        p: float = 0.3,
        radius: float = 1000.0,
        presets: Presets | None = None,
    ) -> None:
        super().__init__({
            "alpha": alpha, "beta": beta, "eta": eta, "gamma1": gamma1, "gamma2": gamma2, "c0": c0, "p": p
        }, presets)  # fmt: skip
        self.radius = radius

    def cost(self, settings: Settings) -> tuple[int, int]:
        """Three gradients and one projection."""
        return 3, 1

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> LVHBAState:
        """Return the start: theta = y, zero multipliers."""
        zero = problem.residual(x, y) * 0
        return LVHBAState(x, y, y, zero, zero)

    def step(self, problem: BilevelProblem, s: LVHBAState, k: int, settings: Settings) -> LVHBAState:
        """Return the next state."""
        p: dict[str, Any] = {**self.defaults, **settings}
        beta = p["eta"] if p["beta"] is None else p["beta"]
        c = p["c0"] * (k + 1.0) ** p["p"]
        x, y, theta, lam, zeta = s
        g_theta = problem.grad_g(x, theta)
        theta_new = problem.project_y(
            theta - p["eta"] * (g_theta[1] + problem.adjoint_y(lam) + (theta - y) / p["gamma1"])
        )
        ascent = problem.residual(x, theta) - (lam - zeta) / p["gamma2"]
        lam_new = problem.project_dual(lam + p["eta"] * ascent)
        f_x, f_y = problem.grad_f(x, y)
        g_x, g_y = problem.grad_g(x, y)
        d_x = f_x / c + g_x - problem.grad_g(x, theta_new)[0] - problem.adjoint_x(lam_new)
        d_y = f_y / c + g_y - (y - theta_new) / p["gamma1"]
        x_new, y_new = project_joint(
            problem, problem.project_x(x - p["alpha"] * d_x), problem.project_y(y - p["alpha"] * d_y)
        )
        zeta_new = (zeta - beta * (zeta - lam_new) / p["gamma2"]).clip(-self.radius, self.radius)
        return LVHBAState(x_new, y_new, theta_new, lam_new, problem.project_dual(zeta_new))


def project_joint(problem: BilevelProblem, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest points (x, y) with h(x, y) <= 0, run by run (inequality rows only)."""
    if problem.equality is not None and problem.equality.any():
        raise ValueError("the joint projection takes inequality rows only: write h = 0 as two inequalities")
    x, y = x.copy(), y.copy()
    for index, member, (xi, yi) in problem.each(x, y):
        if max(np.abs(xi).max(), np.abs(yi).max()) < RUNAWAY and member.residual(xi, yi).max() > 0:
            x[index], y[index] = _project_one(member, xi, yi)
    return x, y


def _project_one(problem: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(problem, "project_joint"):
        return problem.project_joint(x, y)
    if not hasattr(problem, "_joint"):
        joint = np.hstack([problem.b_x, problem.a])
        problem._joint = ConvexQP(np.eye(joint.shape[1]), joint)
    point = problem._joint.solve(np.r_[x, y], problem.rhs).y
    return point[: problem.dx], point[problem.dx :]
