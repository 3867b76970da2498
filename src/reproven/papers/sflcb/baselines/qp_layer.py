"""Hypergradients through a differentiable QP layer (cvxpylayers): an independent oracle, and a peer in speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from reproven.harness.errors import require
from reproven.papers.sflcb.baselines.implicit import ImplicitGradient
from reproven.papers.sflcb.exact import Infeasible


class QPLayerGradient(ImplicitGradient):
    """`ImplicitGradient` whose gradient comes from a cvxpylayers layer: solve and differentiate in one call."""

    def respond(self, problem: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and response from one call of the layer; no other solve is made."""
        return layer_hypergradient(problem, x)


def layer_hypergradient(
    problem: Any, x: np.ndarray, tolerance: float = 1e-7
) -> tuple[np.ndarray, np.ndarray]:
    """Return (grad Phi(x), y*(x)) of an LC-QP through ``min 1/2 |L^T y|^2 - c^T y, A y <= d``, c and d parameters."""
    require("cvxpylayers", "sflcb")
    import cvxpy as cp
    import torch
    from cvxpylayers.torch import CvxpyLayer
    from diffcp.cone_program import SolverError

    if not hasattr(problem, "_layer"):
        y, c, d = cp.Variable(problem.dy), cp.Parameter(problem.dy), cp.Parameter(problem.dh)
        root = np.linalg.cholesky(problem.Q).T
        program = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(root @ y) - c @ y), [problem.a @ y <= d])
        problem._layer = CvxpyLayer(program, parameters=[c, d], variables=[y])
    point = torch.as_tensor(x, dtype=torch.float64).requires_grad_()
    as_tensor = torch.as_tensor
    linear = as_tensor(problem.C) @ point + as_tensor(problem.q)
    room = as_tensor(problem.rhs) - as_tensor(problem.b_x) @ point
    try:
        (y,) = problem._layer(linear, room, solver_args={"eps": tolerance, "max_iters": 50_000})
    except SolverError as error:
        raise Infeasible(f"the layer's solver did not converge: {error}") from None
    value = (
        0.5 * ((y - as_tensor(problem.y_t)) ** 2).sum() + 0.05 * ((point - as_tensor(problem.x_t)) ** 2).sum()
    )
    (gradient,) = torch.autograd.grad(value, point)
    return gradient.numpy(), y.detach().numpy()
