"""LC-QP: random bilevel quadratic programs with certified global optima."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from reproven.papers.sflcb.exact import Certificate, ConvexQP, KKTProgram, LowerSolution, certify
from reproven.papers.sflcb.problem import Array, BilevelProblem

X_WEIGHT = 0.1  # f has 0.05 |x - x_t|^2


class LCQP(BilevelProblem):
    """``f = 1/2 |y - y_t|^2 + 0.05 |x - x_t|^2``, ``g = 1/2 y^T Q y - (C x + q)^T y``, ``B x + A y <= b``.

    Args: Q (dy, dy) with eigenvalues in [1, 10], C (dy, dx), q, y_t (dy,), x_t (dx,), A (dh, dy) with norm 1,
    B (dh, dx) with norm 0.5, b (dh,). With a leading axis of S problems (`stack`) vectors carry an axis of
    one before the last, and x is (S, P, dx).
    Source: reconstructed test bed; it satisfies every assumption of the coupled case.
    """

    def __init__(
        self, Q: Array, C: Array, q: Array, y_t: Array, x_t: Array, A: Array, B: Array, b: Array
    ) -> None:
        self.Q, self.C, self.q, self.y_t, self.x_t = Q, C, q, y_t, x_t
        super().__init__(
            self._f, self._g, A, B, b, grad_f=self._grad_f, grad_g=self._grad_g, mu_g=1.0, l_f1=1.0
        )

    def _f(self, x: Array, y: Array) -> Array:
        return 0.5 * ((y - self.y_t) ** 2).sum(-1) + X_WEIGHT / 2 * ((x - self.x_t) ** 2).sum(-1)

    def _linear(self, x: Array) -> Array:
        return x @ self.C.swapaxes(-1, -2) + self.q

    def _g(self, x: Array, y: Array) -> Array:
        return 0.5 * ((y @ self.Q) * y).sum(-1) - (self._linear(x) * y).sum(-1)

    def _grad_f(self, x: Array, y: Array) -> tuple[Array, Array]:
        return X_WEIGHT * (x - self.x_t), y - self.y_t

    def _grad_g(self, x: Array, y: Array) -> tuple[Array, Array]:
        return -(y @ self.C), y @ self.Q - self._linear(x)

    def gradients(self, x: Array, y: Array, z: Array, delta: Array) -> tuple[Array, Array, Array]:
        """As in the base class, with the products that y and z share taken once."""
        linear = self._linear(x)
        d_x = delta * X_WEIGHT * (x - self.x_t) - (y - z) @ self.C
        return d_x, delta * (y - self.y_t) + y @ self.Q - linear, z @ self.Q - linear

    def hessians_g(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return g_yy (dy, dy) and g_yx (dy, dx)."""
        return self.Q, -self.C

    def hessian_f(self, x: Array, y: Array) -> Array:
        """Return f_yy (dy, dy)."""
        return np.eye(self.dy)

    @cached_property
    def _lower(self) -> ConvexQP:
        return ConvexQP(self.Q, self.a)

    def lower(self, x: np.ndarray) -> LowerSolution:
        """Return the exact lower-level response at x (dx,); one problem only."""
        return self._lower.solve(self._linear(x), self.rhs - self.b_x @ x)

    def penalised(self, x: np.ndarray, delta: float) -> LowerSolution:
        """Return y*_delta(x) = argmin delta f + g over Y(x), with its multipliers."""
        qp = ConvexQP(self.Q + delta * np.eye(self.dy), self.a)
        return qp.solve(self._linear(x) + delta * self.y_t, self.rhs - self.b_x @ x)

    def phi(self, x: np.ndarray) -> float:
        """Return Phi(x) = f(x, y*(x))."""
        return float(self._f(x, self.lower(x).y))

    def program(self) -> KKTProgram:
        """Return the problem as one program with complementarity (for `certify`)."""
        dx, dy, dh = self.dx, self.dy, self.dh
        weights = np.r_[np.full(dx, X_WEIGHT), np.ones(dy), np.zeros(dh)]
        q = np.r_[-X_WEIGHT * self.x_t, -self.y_t, np.zeros(dh)]
        constant = 0.5 * self.y_t @ self.y_t + X_WEIGHT / 2 * self.x_t @ self.x_t
        e = sp.csr_matrix(np.hstack([-self.C, self.Q, self.a.T]))
        slack = sp.csr_matrix(np.hstack([self.b_x, self.a, np.zeros((dh, dh))]))
        return KKTProgram(sp.diags(weights).tocsc(), q, float(constant), e, self.q, slack, self.rhs)

    def certificate(self, node_limit: int = 4000) -> Certificate:
        """Return the certified global optimum (or the open bounds at the node limit)."""
        return certify(self.program(), self.phi, self.dx, node_limit=node_limit)

    def to_torch(self, **where) -> LCQP:
        """Return the problem on torch tensors (keywords of `torch.as_tensor`)."""
        import torch

        parts = (self.Q, self.C, self.q, self.y_t, self.x_t, self.a, self.b_x, self.rhs)
        return LCQP(*(torch.as_tensor(part, **where) for part in parts))


def draw(dx: int, dy: int, dh: int, generator: np.random.Generator, *, coupled: bool = True) -> LCQP:
    """Return a random LC-QP; ``coupled=False`` sets B = 0. Sizes >= 1, dh <= dy for a full-row-rank A."""
    if dh > dy:
        raise ValueError(f"dh = {dh} constraints for dy = {dy} lower variables: A cannot have full row rank")
    basis, _ = np.linalg.qr(generator.standard_normal((dy, dy)))
    eigenvalues = generator.uniform(1.0, 10.0, dy)
    eigenvalues[0] = 1.0
    eigenvalues[-1] = 10.0
    C = generator.standard_normal((dy, dx)) / np.sqrt(dx)
    q, y_t = generator.standard_normal(dy), generator.standard_normal(dy)
    x_t = generator.standard_normal(dx)
    A = generator.standard_normal((dh, dy))
    B = generator.standard_normal((dh, dx))
    b = 0.1 * generator.standard_normal(dh)
    A /= np.linalg.norm(A, 2)
    B *= 0.5 * coupled / np.linalg.norm(B, 2)
    Q = (basis * eigenvalues) @ basis.T
    problem = LCQP((Q + Q.T) / 2, C, q, y_t, x_t, A, B, b)
    # The Hessian of g is [[0, -C^T], [-C, Q]].
    problem.l_g1 = 10.0 + float(np.linalg.norm(C, 2))
    return problem


def stack(problems: Sequence[LCQP]) -> LCQP:
    """Return S problems of equal sizes as one; x is then (S, P, dx), y (S, P, dy)."""
    matrices = {k: np.stack([getattr(p, k) for p in problems]) for k in ("Q", "C", "a", "b_x")}
    vectors = {k: np.stack([getattr(p, k) for p in problems])[:, None] for k in ("q", "y_t", "x_t", "rhs")}
    batch = LCQP(
        matrices["Q"], matrices["C"], vectors["q"], vectors["y_t"], vectors["x_t"], matrices["a"], matrices["b_x"],
        vectors["rhs"],
    )  # fmt: skip
    batch.members = list(problems)
    return batch
