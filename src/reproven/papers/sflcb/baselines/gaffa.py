"""BiC-GAFFA: single-loop steps on a doubly regularised gap function (Yao et al., NeurIPS 2024, arXiv 2406.01992)."""

from __future__ import annotations

from typing import Any, NamedTuple

from reproven.papers.sflcb.driver import Method, Presets, Settings
from reproven.papers.sflcb.problem import Array, BilevelProblem


class GAFFAState(NamedTuple):
    """Upper and lower iterate, multiplier z of the gap function, its inner minimiser theta."""

    x: Array
    y: Array
    z: Array
    theta: Array


class BiCGAFFA(Method):
    """Gradient steps on ``F/c + G``, G the doubly regularised gap of the lower level.

    ``theta -= eta [g_y(x, theta) + A^T z + (theta - y)/gamma1]``, ``lam = [z + gamma2 h(x, y)]_+``,
    ``x -= alpha [F_x/c + g_x(x, y) - g_x(x, theta) + B^T (lam - z)]``,
    ``y -= alpha [F_y/c + g_y(x, y) + A^T lam - (y - theta)/gamma1]``,
    ``z = Proj_[0, R]{z - beta [(lam - z)/gamma2 - h(x, theta)]}``, with ``c = c0 (k + 1)^p``. Equality rows
    leave lam free and box z in [-R, R].
    """

    def __init__(
        self,
        *,
        alpha: float = 0.01,
        beta: float | None = None,
        eta: float = 0.01,
        gamma1: float = 10.0,
        gamma2: float = 1.0,
        c0: float = 1.0,
        p: float = 0.3,
        radius: float = 10.0,
        presets: Presets | None = None,
    ) -> None:
        super().__init__({
            "alpha": alpha, "beta": beta, "eta": eta, "gamma1": gamma1, "gamma2": gamma2, "c0": c0, "p": p
        }, presets)  # fmt: skip
        self.radius = radius

    def cost(self, settings: Settings) -> tuple[int, int]:
        """Three gradients."""
        return 3, 0

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> GAFFAState:
        """Return the start: theta = y, z = 0."""
        return GAFFAState(x, y, problem.residual(x, y) * 0, y)

    def step(self, problem: BilevelProblem, s: GAFFAState, k: int, settings: Settings) -> GAFFAState:
        """Return the next state."""
        p: dict[str, Any] = {**self.defaults, **settings}
        beta = p["alpha"] if p["beta"] is None else p["beta"]
        c = p["c0"] * (k + 1.0) ** p["p"]
        x, y, z, theta = s
        pull = problem.grad_g(x, theta)[1] + problem.adjoint_y(z) + (theta - y) / p["gamma1"]
        theta = problem.project_y(theta - p["eta"] * pull)
        lam = problem.project_dual(z + p["gamma2"] * problem.residual(x, y))
        f_x, f_y = problem.grad_f(x, y)
        g_x, g_y = problem.grad_g(x, y)
        d_x = f_x / c + g_x - problem.grad_g(x, theta)[0] + problem.adjoint_x(lam - z)
        d_y = f_y / c + g_y + problem.adjoint_y(lam) - (y - theta) / p["gamma1"]
        d_z = (lam - z) / p["gamma2"] - problem.residual(x, theta)
        boxed = (z - beta * d_z).clip(-self.radius, self.radius)
        return GAFFAState(
            problem.project_x(x - p["alpha"] * d_x),
            problem.project_y(y - p["alpha"] * d_y),
            problem.project_dual(boxed),
            theta,
        )
