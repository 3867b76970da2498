"""Two equality-constrained toys of the literature, with closed-form responses."""

from __future__ import annotations

import numpy as np

from reproven.papers.sflcb.problem import Array, BilevelProblem


class AiPODToy(BilevelProblem):
    """``f = sin(c^T x + d^T y) + ln(|x + y|^2 + 1)``, ``g = |x - y|^2 / 2``, ``A y + H x = 0``.

    Strongly convex, linearly coupled, A (dh, n) of full row rank: the theory's case, with equalities.
    ``y*(x) = x - A^+ (A + H) x``. Source: AiPOD, arXiv 2211.07096, its toy problem.
    """

    def __init__(self, A: np.ndarray, H: np.ndarray, c: np.ndarray, d: np.ndarray) -> None:
        self.c, self.d = c, d
        super().__init__(
            self._f,
            lambda x, y: 0.5 * ((x - y) ** 2).sum(-1),
            A,
            H,
            np.zeros(len(A)),
            grad_f=self._grad_f,
            grad_g=lambda x, y: (x - y, y - x),
            equality=np.ones(len(A), bool),
            mu_g=1.0,
            l_g1=2.0,
        )
        # y* = response x, so Phi and its gradient follow by the chain rule.
        self.response = np.eye(A.shape[1]) - np.linalg.pinv(A) @ (A + H)

    def _f(self, x: Array, y: Array) -> Array:
        return np.sin(x @ self.c + y @ self.d) + np.log(((x + y) ** 2).sum(-1) + 1)

    def _grad_f(self, x: Array, y: Array) -> tuple[Array, Array]:
        wave = np.cos(x @ self.c + y @ self.d)[..., None]
        pull = 2 * (x + y) / (((x + y) ** 2).sum(-1, keepdims=True) + 1)
        return wave * self.c + pull, wave * self.d + pull

    def hessians_g(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return g_yy and g_yx."""
        return np.eye(self.dy), -np.eye(self.dy)

    def phi(self, x: Array) -> Array:
        """Return Phi(x) (...)."""
        return self._f(x, x @ self.response.T)

    def phi_gradient(self, x: Array) -> Array:
        """Return grad Phi(x) (..., n)."""
        f_x, f_y = self._grad_f(x, x @ self.response.T)
        return f_x + f_y @ self.response

    @classmethod
    def draw(cls, rows: int, n: int, generator: np.random.Generator) -> AiPODToy:
        """Return a random toy: A with singular values in [0.5, 1], H Gaussian of norm 0.5, c and d over sqrt(n).

        A plain Gaussian A of 90 x 100 has a condition number near 40, which multiplies into grad Phi.
        """
        left, _, right = np.linalg.svd(generator.standard_normal((rows, n)), full_matrices=False)
        A = (left * np.linspace(0.5, 1.0, rows)) @ right
        H = generator.standard_normal((rows, n))
        c, d = generator.standard_normal((2, n)) / np.sqrt(n)
        return cls(A, 0.5 * H / np.linalg.norm(H, 2), c, d)


class GAFFAToy(BilevelProblem):
    """``F = (y1 - 2)^T (x - 1) + |y2 + 3|^2``, ``f = |y1|^2/2 - x^T y1 + 1^T y2``, ``sum x + sum y1 + sum y2 = 0``.

    Optimum x = 1, y1 = 2, y2 = -3 with value 0 and multiplier -1. The lower level is linear in y2, so its
    response is a set and no theorem of SFLCB applies. The optimistic value is
    ``Phi(x) = |x - 1|^2 + 4 (sum(x - 1))^2 / n``.
    Source: BiC-GAFFA, arXiv 2406.01992, its synthetic problem with linear coupling.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        # The row is divided by sqrt(n), so that its norm does not grow with the size.
        row = np.full((1, n), 1 / np.sqrt(n))
        super().__init__(
            self._f,
            self._g,
            np.hstack([row, row]),
            row,
            np.zeros(1),
            grad_f=self._grad_f,
            grad_g=self._grad_g,
            equality=np.ones(1, bool),
        )

    def _f(self, x: Array, y: Array) -> Array:
        return ((y[..., : self.n] - 2) * (x - 1)).sum(-1) + ((y[..., self.n :] + 3) ** 2).sum(-1)

    def _g(self, x: Array, y: Array) -> Array:
        first = y[..., : self.n]
        return 0.5 * (first**2).sum(-1) - (x * first).sum(-1) + y[..., self.n :].sum(-1)

    def _grad_f(self, x: Array, y: Array) -> tuple[Array, Array]:
        return y[..., : self.n] - 2, np.concatenate([x - 1, 2 * (y[..., self.n :] + 3)], axis=-1)

    def _grad_g(self, x: Array, y: Array) -> tuple[Array, Array]:
        first = y[..., : self.n]
        return -first, np.concatenate([first - x, np.ones_like(first)], axis=-1)

    def phi(self, x: Array) -> Array:
        """Return the optimistic Phi(x) (...)."""
        return ((x - 1) ** 2).sum(-1) + 4 * (x - 1).sum(-1) ** 2 / self.n
