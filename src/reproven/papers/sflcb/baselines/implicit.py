"""Exact implicit gradient, and GAM, which takes the hull of such gradients near a kink (arXiv 2302.01970)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize as so

from reproven.papers.sflcb.driver import Method, Presets, Settings
from reproven.papers.sflcb.exact import Infeasible, LowerSolution
from reproven.papers.sflcb.problem import Array, BilevelProblem

RUNAWAY = 1e8  # entries beyond it are a diverged run; its response is not solved for


class ImplicitState(NamedTuple):
    """x and the exact lower-level response y."""

    x: Array
    y: Array


def hypergradient(
    problem: Any, x: np.ndarray, answer: LowerSolution, active: np.ndarray | None = None
) -> np.ndarray:
    """Return grad Phi(x) (dx,) through the KKT system of the active rows.

    With ``[g_yy A_S^T; A_S 0] [p; r] = [f_y; 0]``: ``grad Phi = f_x - g_yx^T p - B_S^T r``. Exact where the
    active rows are independent and strictly complementary; else a one-sided gradient.

    Args: problem with `hessians_g`; `active` overrides the rows with a positive multiplier.
    Source: implicit function theorem; the paper's section 4.
    """
    rows = answer.active() if active is None else active
    f_x, f_y = problem.grad_f(x, answer.y)
    g_yy, g_yx = problem.hessians_g(x, answer.y)
    a, n, k = problem.a[rows], problem.dy, len(rows)
    system, target = np.zeros((n + k, n + k)), np.zeros(n + k)
    system[:n, :n], system[:n, n:], system[n:, :n] = g_yy, a.T, a
    target[:n] = f_y
    # Least squares: dependent active rows leave r undetermined but B_S^T r exact where y* is smooth.
    try:
        solution = np.linalg.solve(system, target)
    except np.linalg.LinAlgError:
        solution = np.linalg.lstsq(system, target, rcond=None)[0]
    return f_x - g_yx.T @ solution[:n] - problem.b_x[rows].T @ solution[n:]


class ImplicitGradient(Method):
    """``x -= eta_x / (1 + decay k) grad Phi(x)``, each gradient through one exact lower-level solve."""

    def __init__(self, *, eta_x: float = 0.3, decay: float = 0.0, presets: Presets | None = None) -> None:
        super().__init__({"eta_x": eta_x, "decay": decay}, presets)

    def cost(self, settings: Settings) -> tuple[int, int]:
        """One gradient of f and one exact solve."""
        return 1, 1

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> ImplicitState:
        """Return the start."""
        return ImplicitState(x, y)

    def direction(self, problem: BilevelProblem, x: np.ndarray, answer: LowerSolution) -> np.ndarray:
        """Return the gradient at one x."""
        return hypergradient(problem, x, answer)

    def respond(self, problem: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and exact response at one x; raises Infeasible where Y(x) is empty."""
        answer = problem.lower(x)
        return self.direction(problem, x, answer), answer.y

    def step(self, problem: BilevelProblem, s: ImplicitState, k: int, settings: Settings) -> ImplicitState:
        """Return the state after one gradient step.

        Where Y(x) is empty, x is repaired so that the last response is feasible (problems with `repair`);
        without a repair the run becomes NaN.
        """
        p: dict[str, Any] = {**self.defaults, **settings}
        start, gradient, y = s.x.copy(), np.full_like(s.x, np.nan), np.full_like(s.y, np.nan)
        for index, member, (x, last) in problem.each(s.x, s.y):
            if not np.abs(x).max() < RUNAWAY:
                continue
            try:
                gradient[index], y[index] = self.respond(member, x)
            except Infeasible:
                if not hasattr(member, "repair"):
                    continue
                # A hair more than needed: the border of feasibility is not solvable in floating point.
                start[index] = member.repair(x, last) + 1e-9
                if not np.abs(start[index]).max() < RUNAWAY:
                    continue
                with contextlib.suppress(Infeasible):
                    gradient[index], y[index] = self.respond(member, start[index])
        return ImplicitState(problem.project_x(start - p["eta_x"] / (1 + p["decay"] * k) * gradient), y)


class GAM(ImplicitGradient):
    """GAM: the shortest vector in the hull of the gradients of every active set within `epsilon`.

    Rows with multiplier and slack both below epsilon may be active or not; at most `limit` such rows (the
    most ambiguous) are enumerated. With none it is the implicit gradient.
    Source: Xu and Zhu, AAAI 2023, arXiv 2302.01970, after its abstract and README; reconstructed.
    """

    def __init__(
        self,
        *,
        eta_x: float = 0.3,
        decay: float = 0.0,
        epsilon: float = 0.005,
        limit: int = 4,
        presets: Presets | None = None,
    ) -> None:
        super().__init__(eta_x=eta_x, decay=decay, presets=presets)
        self.epsilon, self.limit = epsilon, limit

    def direction(self, problem: BilevelProblem, x: np.ndarray, answer: LowerSolution) -> np.ndarray:
        """Return the shortest vector of the hull at one x."""
        doubt = np.maximum(answer.multipliers, -answer.residual)
        ambiguous = np.flatnonzero(doubt < self.epsilon)
        ambiguous = ambiguous[np.argsort(doubt[ambiguous])][: self.limit]
        if not len(ambiguous):
            return hypergradient(problem, x, answer)
        sure = np.setdiff1d(answer.active(), ambiguous)
        sets = [
            np.sort(np.array([*sure, *extra], dtype=int))
            for size in range(len(ambiguous) + 1)
            for extra in itertools.combinations(ambiguous, size)
            if len(sure) + size <= problem.dy
        ]
        hull = [hypergradient(problem, x, answer, rows) for rows in sets]
        # Dependent rows make a KKT system singular and its gradient meaningless: such sets are left out.
        finite = [vector for vector in hull if np.isfinite(vector).all()]
        return shortest(finite) if finite else hypergradient(problem, x, answer)


def shortest(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return the shortest vector in the convex hull of `vectors`.

    ``min_w |V w|^2 + (1 - sum w)^2`` over w >= 0 has its solution on the same ray, so the normalised weights
    solve the problem on the simplex (Wolfe's least-norm point by non-negative least squares).
    """
    columns = np.stack(vectors, axis=1)
    scale = max(float(np.abs(columns).max()), 1e-300)
    weights, _ = so.nnls(
        np.vstack([columns / scale, np.ones((1, columns.shape[1]))]), np.r_[np.zeros(len(columns)), 1.0]
    )
    return columns @ (weights / weights.sum())
