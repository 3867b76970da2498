"""BLOCC: penalty and Lagrangian with inner max-min loops (Jiang et al., NeurIPS 2024, arXiv 2406.10148)."""

from __future__ import annotations

from typing import Any, NamedTuple

from reproven.papers.sflcb.driver import Method, Presets, Settings
from reproven.papers.sflcb.problem import Array, BilevelProblem


class BLOCCState(NamedTuple):
    """x, penalised lower iterate y with multiplier mu_f (of ``f/gamma + g``), lower iterate z with mu_g."""

    x: Array
    y: Array
    z: Array
    mu_f: Array
    mu_g: Array


class BLOCC(Method):
    """``x <- Proj_X{x - eta_x [f_x(x, y) + gamma (g_x(x, y) - g_x(x, z) + B^T (mu_f - mu_g))]}``.

    (y, mu_f) and (z, mu_g) come from `inner` dual steps, each after `primal` primal steps, on
    ``min_y max_{mu >= 0} f/gamma + g + mu^T h`` and the same without f, warm-started. This writes the
    penalised problem divided by gamma, so gamma = 1/delta is SFLCB's penalty.
    """

    def __init__(
        self,
        *,
        inner: int = 20,
        primal: int = 1,
        gamma: float = 10.0,
        eta_x: float = 0.02,
        eta_y: float = 0.05,
        eta_z: float | None = None,
        eta_u: float = 0.5,
        presets: Presets | None = None,
    ) -> None:
        if inner < 1 or primal < 1:
            raise ValueError(f"inner = {inner} and primal = {primal} must be at least 1")
        self.inner, self.primal = inner, primal
        super().__init__(
            {"gamma": gamma, "eta_x": eta_x, "eta_y": eta_y, "eta_z": eta_z, "eta_u": eta_u}, presets
        )

    def cost(self, settings: Settings) -> tuple[int, int]:
        """Three gradients an inner primal step, three for x."""
        return 3 * self.inner * self.primal + 3, 0

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> BLOCCState:
        """Return the start with zero multipliers."""
        zero = problem.residual(x, y) * 0
        return BLOCCState(x, y, y, zero, zero)

    def step(self, problem: BilevelProblem, s: BLOCCState, k: int, settings: Settings) -> BLOCCState:
        """Return the state after the inner loops and one step of x."""
        p: dict[str, Any] = {**self.defaults, **settings}
        delta, eta_z = 1 / p["gamma"], p["eta_y"] if p["eta_z"] is None else p["eta_z"]
        x, y, z, mu_f, mu_g = s
        for _ in range(self.inner):
            for _ in range(self.primal):
                _, d_y, d_z = problem.gradients(x, y, z, delta)
                y = problem.project_y(y - p["eta_y"] * (d_y + problem.adjoint_y(mu_f)))
                z = problem.project_y(z - eta_z * (d_z + problem.adjoint_y(mu_g)))
            mu_f = problem.project_dual(mu_f + p["eta_u"] * problem.residual(x, y))
            mu_g = problem.project_dual(mu_g + p["eta_u"] * problem.residual(x, z))
        d_x = problem.gradients(x, y, z, delta)[0] + problem.adjoint_x(mu_f - mu_g)
        return BLOCCState(problem.project_x(x - p["eta_x"] * p["gamma"] * d_x), y, z, mu_f, mu_g)
