"""Exact evaluators: lower-level solves, repair, infeasibility certificates, relaxation bounds, global optima.

A strongly convex quadratic lower level is solved directly, through least-distance programming: with
``H = L L^T`` and ``s = L^T y - L^{-1} c``, ``min 1/2 y^T H y - c^T y, A y <= d`` becomes
``min |s|, G s >= e``, which one non-negative least-squares problem solves or proves infeasible.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sla
import scipy.optimize as so
import scipy.sparse as sp

from reproven.harness.errors import require
from reproven.papers.sflcb.problem import BilevelProblem, differences


class Infeasible(ValueError):
    """Y(x) is empty: no y satisfies the constraints of the lower level.

    Args: message, or explain, which finds the words when they are read: it takes a linear program, and loops
    that repair x never read them.
    """

    def __init__(self, message: str = "", *, explain: Callable[[], str] | None = None) -> None:
        super().__init__(message)
        self._explain = explain

    def __str__(self) -> str:
        return super().__str__() if self._explain is None else self._explain()


@dataclass(frozen=True)
class LowerSolution:
    """Exact lower-level response: y (dy,), multipliers (dh,) >= 0, and h(x, y) (dh,) at it."""

    y: np.ndarray
    multipliers: np.ndarray
    residual: np.ndarray

    def active(self, tolerance: float = 1e-9) -> np.ndarray:
        """Return the rows with a positive multiplier."""
        return np.flatnonzero(self.multipliers > tolerance)

    @property
    def margin(self) -> float:
        """Strict-complementarity margin: the smallest max(multiplier, slack) over the rows."""
        return float(np.maximum(self.multipliers, -self.residual).min())


class ConvexQP:
    """``argmin_y 1/2 y^T H y - c^T y`` subject to ``A y <= d``, for fixed H (positive definite) and A.

    Args: hessian (dy, dy), a (dh, dy). Raises ValueError when H is not positive definite.
    Source: Lawson and Hanson, Solving Least Squares Problems, ch. 23 (least-distance programming).
    """

    def __init__(self, hessian: np.ndarray, a: np.ndarray) -> None:
        try:
            low = np.linalg.cholesky(hessian)
        except np.linalg.LinAlgError:
            smallest = float(np.linalg.eigvalsh(hessian)[0])
            raise ValueError(
                f"the lower level is not strongly convex: smallest eigenvalue {smallest:.3g} of its Hessian"
            ) from None
        self.a = a
        self._inverse = np.linalg.inv(hessian)
        self._spread = a @ self._inverse  # A H^{-1}: moves of A y a unit of c
        self._gram = self._spread @ a.T  # A H^{-1} A^T, the Hessian of the dual
        self._g = -sla.solve_triangular(low, a.T, lower=True).T

    def solve(self, c: np.ndarray, d: np.ndarray) -> LowerSolution:
        """Return the solution; raises `Infeasible`, naming the worst row and the smallest violation possible."""
        excess = self._spread @ c - d
        multipliers = np.zeros(len(d))
        if excess.max() > 0:
            found = least_distance(self._g, self._gram, excess)
            if found is None:
                raise Infeasible(explain=lambda: emptiness(*smallest_violation(self.a, d)))
            multipliers = found
        y = self._inverse @ (c - self.a.T @ multipliers)
        return LowerSolution(y, multipliers, self.a @ y - d)


def least_distance(g: np.ndarray, gram: np.ndarray, e: np.ndarray) -> np.ndarray | None:
    """Return the multipliers of ``argmin |s|, G s >= e`` (s = G^T multipliers), None when no s satisfies the rows.

    Args: g (m, n), gram = G G^T (m, m), e (m,) with a positive entry.
    """
    scale = float(np.abs(e).max())
    stacked = np.vstack([g.T, e[None] / scale])
    target = np.zeros(len(stacked))
    target[-1] = 1.0
    weights, distance = so.nnls(stacked, target, maxiter=20 * len(e) + 200)
    last = 1.0 - float(stacked[-1] @ weights)
    if distance < 1e-9 or last < 1e-14:
        return None
    # Solving again on the support removes the cancellation in `last`.
    support = np.flatnonzero(weights > 0)
    try:
        exact = np.linalg.solve(gram[np.ix_(support, support)], e[support])
    except np.linalg.LinAlgError:
        return scale * weights / last
    multipliers = np.zeros(len(e))
    multipliers[support] = exact
    if np.all(exact >= 0) and np.all(gram @ multipliers >= e - 1e-9 * scale):
        return multipliers
    return scale * weights / last


def smallest_violation(
    a: np.ndarray,
    d: np.ndarray,
    equality: np.ndarray | None = None,
    box: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[float, int]:
    """Return ``min_y max_i (a_i y - d_i)`` and the row with the largest dual weight, by linear programming.

    Rows marked in `equality` count with ``|a_i y - d_i|``; y may be held in a box. Below -1 the value is -1.
    """
    rows, columns = a.shape
    both = np.zeros(rows, bool) if equality is None else equality
    matrix = np.c_[np.vstack([a, -a[both]]), -np.ones(rows + int(both.sum()))]
    bounds = np.empty((columns + 1, 2))
    bounds[:] = -np.inf, np.inf
    bounds[-1, 0] = -1.0
    if box is not None:
        bounds[:-1, 0], bounds[:-1, 1] = box
    answer = so.linprog(
        np.r_[np.zeros(columns), 1.0], A_ub=matrix, b_ub=np.r_[d, -d[both]], bounds=bounds, method="highs"
    )
    if answer.x is None:
        raise ValueError(f"the linear program of the smallest violation ended with: {answer.message}")
    weights = -np.asarray(answer.ineqlin.marginals)
    weights[np.flatnonzero(both)] += weights[rows:]
    return float(answer.fun), int(np.argmax(weights[:rows]))


def emptiness(violation: float, row: int, where: str = "") -> str:
    """Return the line that says how empty Y(x) is."""
    return (
        f"Y(x){where} is empty: every y violates some row by at least {violation:.3g} (row {row} binds); "
        "repair x so that B x + A y <= b has a solution"
    )


def check_feasible(problem: BilevelProblem, x: np.ndarray, tolerance: float = 1e-9) -> None:
    """Raise `Infeasible`, naming the binding row and the smallest violation possible, where Y(x) is empty.

    Args: x (dx,) or any batch (..., dx) of a single problem, NumPy.
    """
    for index, member, (row,) in problem.each(x):
        box = None if member.y_box is None else _bounds(member)
        d = member.rhs.reshape(-1) - member.b_x @ row
        violation, worst = smallest_violation(member.a, d, member.equality, box)
        if violation > tolerance:
            raise Infeasible(emptiness(violation, worst, f" of run {index}" if index else ""))


def nearest_feasible(problem: BilevelProblem, x: np.ndarray) -> np.ndarray:
    """Return the nearest x' (dx,) in X with Y(x') not empty: ``min |x' - x|`` over (x', y) with h(x', y) <= 0."""
    dx, dy = problem.dx, problem.dy
    both = np.zeros(problem.dh, bool) if problem.equality is None else problem.equality
    joint = sp.csr_matrix(np.hstack([problem.b_x, problem.a]))
    rhs = problem.rhs.reshape(-1)
    low, high = np.full(dx + dy, -np.inf), np.full(dx + dy, np.inf)
    if problem.x_box is not None:
        low[:dx], high[:dx] = problem.x_box
    if problem.y_box is not None:
        low[dx:], high[dx:] = problem.y_box
    identity = sp.identity(dx + dy, format="csr")
    upper = sp.vstack([joint[~both], identity[np.isfinite(high)], -identity[np.isfinite(low)]])
    limits = np.r_[rhs[~both], high[np.isfinite(high)], -low[np.isfinite(low)]]
    square = sp.diags(np.r_[np.ones(dx), np.zeros(dy)]).tocsc()
    found, _, _, status = conic_qp(square, np.r_[-x, np.zeros(dy)], joint[both], rhs[both], upper, limits)
    if status != "solved":
        raise Infeasible("no x of the box X leaves Y(x) non-empty: loosen B x + A y <= b")
    return found[:dx]


def lower_level(
    problem: BilevelProblem,
    x: np.ndarray,
    *,
    delta: float = 0.0,
    tolerance: float = 1e-10,
    rounds: int = 100,
) -> LowerSolution:
    """Return ``argmin_y delta f(x, y) + g(x, y)`` over Y(x) for smooth strongly convex levels, with multipliers.

    Newton's method: each round minimises the quadratic model over the linear constraints exactly, and a
    line search between two feasible points keeps the objective falling. Multipliers of equality rows are
    free in sign; those of boxes are not returned.

    Args: problem of NumPy arrays (see `BilevelProblem.numpy`); x (dx,). Raises `Infeasible` where Y(x) is
    empty, ValueError where the level is not strongly convex or the rounds do not suffice.
    """
    check_feasible(problem, x)
    rows, split = _all_rows(problem)
    d = np.r_[problem.rhs.reshape(-1) - problem.b_x @ x, split.limits]
    d = np.r_[d, -d[: problem.dh][split.both]]

    def value(y: np.ndarray) -> float:
        return float(problem.g(x, y)) + (delta * float(problem.f(x, y)) if delta else 0.0)

    def derivatives(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradient, hessian = problem.grad_g(x, y)[1], problem.hessians_g(x, y)[0]
        if delta:
            gradient, hessian = (
                gradient + delta * problem.grad_f(x, y)[1],
                hessian + delta * problem.hessian_f(x, y),
            )
        return gradient, hessian

    first = problem.project_y(np.zeros(problem.dy))
    y, multipliers = minimise_linear(value, derivatives, rows, d, first, tolerance=tolerance, rounds=rounds)
    own = multipliers[: problem.dh].copy()
    own[split.both] -= multipliers[len(multipliers) - int(split.both.sum()) :]
    return LowerSolution(y, own, problem.residual(x, y))


def high_point(
    problem: BilevelProblem, start: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the high-point bound ``min f(x, y)`` over h(x, y) <= 0 and the boxes, and the (x, y) that attains it.

    It drops the lower level, so it bounds min Phi from below. For f strongly convex in (x, y) together and
    inequality rows; raises ValueError otherwise.
    """
    if problem.equality is not None and problem.equality.any():
        raise ValueError("the high-point bound takes inequality rows only: write h = 0 as two inequalities")
    dx = problem.dx
    joint, limits = [np.hstack([problem.b_x, problem.a])], [problem.rhs.reshape(-1)]
    for box, width, offset in ((problem.x_box, dx, 0), (problem.y_box, problem.dy, dx)):
        if box is None:
            continue
        for sign, bound in ((-1.0, box[0]), (1.0, box[1])):
            bound = np.broadcast_to(np.asarray(bound, float), (width,))
            kept = np.flatnonzero(np.isfinite(bound))
            joint.append(sign * np.eye(dx + problem.dy)[offset + kept])
            limits.append(sign * bound[kept])

    def gradient(w: np.ndarray) -> np.ndarray:
        return np.concatenate(problem.grad_f(w[..., :dx], w[..., dx:]), axis=-1)

    def derivatives(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hessian = differences(gradient, w)
        return gradient(w), (hessian + hessian.T) / 2

    w, _ = minimise_linear(
        lambda w: float(problem.f(w[:dx], w[dx:])), derivatives, np.vstack(joint), np.concatenate(limits),
        np.zeros(dx + problem.dy) if start is None else start,
    )  # fmt: skip
    return float(problem.f(w[:dx], w[dx:])), w[:dx], w[dx:]


def minimise_linear(
    value: Callable[[np.ndarray], float],
    derivatives: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    a: np.ndarray,
    d: np.ndarray,
    start: np.ndarray,
    *,
    tolerance: float = 1e-10,
    rounds: int = 100,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimiser of a smooth strongly convex function over ``a y <= d``, and the multipliers.

    Args: derivatives, y -> (gradient, Hessian); a (m, n), d (m,), start (n,), which need not be feasible.
    Stops when the step is below `tolerance` relative to y; ValueError after `rounds`.
    """
    y = (
        start
        if not len(d) or (a @ start - d).max() <= 0
        else ConvexQP(np.eye(len(start)), a).solve(start, d).y
    )
    for _ in range(rounds):
        gradient, hessian = derivatives(y)
        answer = ConvexQP(hessian, a).solve(hessian @ y - gradient, d)
        move = answer.y - y
        if np.abs(move).max() <= tolerance * (1 + np.abs(y).max()):
            return answer.y, answer.multipliers
        length, now, fall = 1.0, value(y), float(gradient @ move)
        while length > 1e-12 and not value(y + length * move) <= now + 1e-4 * length * fall + 1e-15 * abs(
            now
        ):
            length /= 2
        if length <= 1e-12:
            # No decrease left in floating point: the step is rounding.
            return answer.y, answer.multipliers
        y = y + length * move
    raise ValueError(f"no solution after {rounds} Newton rounds: raise `rounds` or rescale the problem")


@dataclass(frozen=True)
class _Split:
    """Limits of the finite box rows, and the mask of equality rows, whose negatives stand last."""

    limits: np.ndarray
    both: np.ndarray


def _bounds(problem: BilevelProblem) -> tuple[np.ndarray, np.ndarray]:
    assert problem.y_box is not None
    low, high = (np.broadcast_to(np.asarray(bound, float), (problem.dy,)) for bound in problem.y_box)
    return low, high


def _all_rows(problem: BilevelProblem) -> tuple[np.ndarray, _Split]:
    """Return A with the box of y and the negated equality rows below it."""
    both = np.zeros(problem.dh, bool) if problem.equality is None else problem.equality
    parts, limits = [problem.a], []
    if problem.y_box is not None:
        low, high = _bounds(problem)
        for sign, bound in ((1.0, high), (-1.0, low)):
            kept = np.flatnonzero(np.isfinite(bound))
            parts.append(sign * np.eye(problem.dy)[kept])
            limits.append(sign * bound[kept])
    parts.append(-problem.a[both])
    return np.vstack(parts), _Split(np.concatenate([np.zeros(0), *limits]), both)


def conic_qp(
    p: sp.spmatrix, q: np.ndarray, a_eq: sp.spmatrix, b_eq: np.ndarray, a_ub: sp.spmatrix, b_ub: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, str]:
    """Return (x, multipliers of eq then ub, value, status) of ``min 1/2 x^T P x + q^T x`` with Clarabel.

    status is ``"solved"``, ``"infeasible"`` or Clarabel's own word. The value returned is the dual
    objective, a lower bound up to the solver's 1e-9 feasibility.
    """
    require("clarabel", "sflcb")
    import clarabel

    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [clarabel.ZeroConeT(len(b_eq)), clarabel.NonnegativeConeT(len(b_ub))]
    solver = clarabel.DefaultSolver(
        sp.triu(p, format="csc"), q, sp.vstack([a_eq, a_ub], format="csc"), np.r_[b_eq, b_ub], cones, settings
    )
    answer = solver.solve()
    status = str(answer.status)
    word = {"Solved": "solved", "AlmostSolved": "solved", "PrimalInfeasible": "infeasible"}.get(
        status, status
    )
    return np.asarray(answer.x), np.asarray(answer.z), float(answer.obj_val_dual), word


@dataclass(frozen=True)
class Certificate:
    """Bounds ``lower <= min Phi <= upper`` with the x that attains `upper`, and the nodes looked at."""

    lower: float
    upper: float
    x: np.ndarray
    nodes: int

    @property
    def closed(self) -> bool:
        """True when the bounds agree to 1e-6 of the value: x is a certified global optimum."""
        return self.upper - self.lower <= 1e-6 * max(1.0, abs(self.upper))


@dataclass(frozen=True)
class KKTProgram:
    """A bilevel problem with quadratic levels as one program with complementarity.

    ``min 1/2 w^T P w + q^T w + constant`` over w = (x, y, lambda) subject to ``E w = r`` (lower-level
    stationarity), ``s = b - B x - A y >= 0``, ``lambda >= 0``, ``lambda_i s_i = 0``. `slack` (dh, n) and
    `slack_rhs` (dh,) give ``s = slack_rhs - slack w``; the multipliers are the last dh entries of w.
    """

    p: sp.spmatrix
    q: np.ndarray
    constant: float
    e: sp.spmatrix
    r: np.ndarray
    slack: sp.spmatrix
    slack_rhs: np.ndarray

    @property
    def rows(self) -> int:
        """Number of complementarity pairs."""
        return len(self.slack_rhs)

    def relaxation(
        self, active: tuple[int, ...], inactive: tuple[int, ...]
    ) -> tuple[float, np.ndarray | None]:
        """Return bound and point with rows `active` held at s = 0, `inactive` at lambda = 0, others free.

        With both empty it is the relaxation that drops complementarity. Infeasible gives (inf, None).
        """
        n, m = self.p.shape[0], self.rows
        lam = sp.csr_matrix((-np.ones(m), (np.arange(m), np.arange(n - m, n))), shape=(m, n))
        free_s = [i for i in range(m) if i not in active]
        free_l = [i for i in range(m) if i not in inactive]
        equal = [self.e] + [self.slack[list(active)]] * bool(active) + [lam[list(inactive)]] * bool(inactive)
        rhs = np.r_[self.r, self.slack_rhs[list(active)], np.zeros(len(inactive))]
        upper = sp.vstack([self.slack[free_s], lam[free_l]]) if free_s or free_l else sp.csr_matrix((0, n))
        limits = np.r_[self.slack_rhs[free_s], np.zeros(len(free_l))]
        w, _, value, status = conic_qp(self.p, self.q, sp.vstack(equal), rhs, upper, limits)
        if status == "infeasible":
            return np.inf, None
        return value + self.constant, w


def certify(
    program: KKTProgram, phi, dx: int, *, tolerance: float = 1e-8, node_limit: int = 4000
) -> Certificate:
    """Return the global optimum by enumerating active sets, pruned by bounds (best first).

    Each node is a convex quadratic program; a row is branched into ``s_i = 0`` and ``lambda_i = 0``.

    Args:
        phi: x (dx,) -> Phi(x) at the exact lower-level response, the upper bounds.
        tolerance: relative gap at which a node is pruned.
        node_limit: nodes after which the open bound is returned as it stands (`closed` is then False).
    Source: the certificate of the test bed, reconstructed; `enumerate_active_sets` is its plain twin.
    """
    bound, w = program.relaxation((), ())
    if w is None:
        raise Infeasible("the relaxation without complementarity has no solution: no x has a non-empty Y(x)")
    best_x = w[:dx]
    best = float(phi(best_x))
    order = itertools.count()
    heap: list = [(bound, next(order), (), (), w)]
    nodes, lower = 1, bound
    while heap and nodes < node_limit:
        lower, _, active, inactive, w = heapq.heappop(heap)
        if lower >= best - tolerance * max(1.0, abs(best)):
            return Certificate(min(lower, best), best, best_x, nodes)
        s = program.slack_rhs - program.slack @ w
        lam = w[len(w) - program.rows :]
        product = np.minimum(s, lam)
        product[list(active) + list(inactive)] = -np.inf
        row = int(np.argmax(product))
        if product[row] == -np.inf:
            continue
        for extended in (((*active, row), inactive), (active, (*inactive, row))):
            bound, w_child = program.relaxation(*extended)
            nodes += 1
            if w_child is None or bound >= best - tolerance * max(1.0, abs(best)):
                continue
            value = float(phi(w_child[:dx]))
            if value < best:
                best, best_x = value, w_child[:dx]
            heapq.heappush(heap, (bound, next(order), *extended, w_child))
    lower = min([best] + [entry[0] for entry in heap])
    return Certificate(lower, best, best_x, nodes)


def enumerate_active_sets(program: KKTProgram) -> float:
    """Return the global optimum as the least value over all 2^dh active sets (plain twin of `certify`)."""
    rows = range(program.rows)
    sets = itertools.chain.from_iterable(itertools.combinations(rows, k) for k in range(program.rows + 1))
    return min(program.relaxation(s, tuple(i for i in rows if i not in s))[0] for s in sets)
