"""The linear (or quadratic) program of an edit: assembled, decoupled where that is exact, solved by HiGHS or Clarabel.

    min  size(delta) + sum over preserved inputs of weight |change of output|
    s.t. requirements in delta, -box <= delta <= box

Sizes, n the number of variables:
    ``linf_l1``  max |delta_i| + sum |delta_i| / n    the predecessors' code
    ``l1``       sum |delta_i| / n
    ``linf``     max |delta_i|
    ``l2``       sum delta_i^2 / (2 n), with preservation sum change^2 / 2: a quadratic program

Variables are ``delta = P - N`` with P, N in [0, box]. Requirements of two stages keep their stage as free variables
where that has fewer entries. Variables and requirements that share no row form programs of their own: for
separable sizes (``l1``, ``l2``) solving them one by one is exact; ``linf`` couples all through one scalar.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from reproven.harness.errors import require
from reproven.papers.prograd.rows import Block

SIZES = ("linf_l1", "l1", "linf", "l2")
SIMPLEX_ROWS = 6000  # more rows than this go to the interior-point method
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Preserve:
    """Outputs that should stay: ``weight * mean |A delta|`` (squares for ``l2``) joins the objective.

    a: (rows, variables), change of each output. weight: against the size of the edit. target: (rows,), where
    given the outputs should change by this much instead of not at all.
    """

    a: sparse.csr_array
    weight: float = 1.0
    target: np.ndarray | None = None


@dataclass(frozen=True)
class Solution:
    """What a solver says.

    status: ``optimal``, ``infeasible``, ``time_limit`` or ``failed``. delta: (variables,), zeros unless optimal.
    rows, columns, nonzeros: of all programs together. programs: how many there were.
    """

    status: str
    delta: np.ndarray
    objective: float
    seconds: float
    rows: int
    columns: int
    nonzeros: int
    programs: int
    reason: str = ""


@dataclass
class Linear:
    """A program in columns: bounds and costs of columns, rows as triplets; grows, then is passed on whole."""

    cost: list[np.ndarray] = field(default_factory=list)
    lower: list[np.ndarray] = field(default_factory=list)
    upper: list[np.ndarray] = field(default_factory=list)
    columns: int = 0
    triplets: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    row_low: list[np.ndarray] = field(default_factory=list)
    row_high: list[np.ndarray] = field(default_factory=list)
    rows: int = 0

    def add_columns(self, count: int, lower: float, upper: float, cost: float | np.ndarray) -> int:
        start = self.columns
        self.cost.append(np.broadcast_to(np.asarray(cost, dtype=float), (count,)))
        self.lower.append(np.full(count, lower))
        self.upper.append(np.full(count, upper))
        self.columns += count
        return start

    def add_rows(
        self, parts: Sequence[tuple[sparse.csr_array, int, float]], low: np.ndarray, high: np.ndarray
    ) -> int:
        """Add rows ``low <= sum over parts of factor * matrix @ columns from start <= high``."""
        for matrix, start, factor in parts:
            entries = sparse.coo_array(matrix)
            self.triplets.append((entries.row + self.rows, entries.col + start, entries.data * factor))
        start_row = self.rows
        self.row_low.append(np.asarray(low, dtype=float))
        self.row_high.append(np.asarray(high, dtype=float))
        self.rows += len(low)
        return start_row

    def matrix(self) -> sparse.csc_array:
        if not self.triplets:
            return sparse.csc_array((self.rows, self.columns))
        row, column, value = (np.concatenate(p) for p in zip(*self.triplets))
        return sparse.csc_array(sparse.coo_array((value, (row, column)), shape=(self.rows, self.columns)))


def solve(
    blocks: Sequence[Block],
    n: int,
    *,
    size: str = "l1",
    box: float = 10.0,
    preserve: Preserve | None = None,
    time_limit: float = 600.0,
    decouple: bool = True,
    two_stage: bool = True,
    size_weight: float = 1.0,
) -> Solution:
    """Return the smallest edit that meets all requirements.

    n: variables. box: > 0, largest change of one. time_limit: seconds, > 0. size_weight: >= 0.
    ValueError on an unknown size or a bad number.
    """
    if size not in SIZES:
        raise ValueError(f"size {size!r} is none of {', '.join(SIZES)}")
    if not box > 0 or not time_limit > 0 or not size_weight >= 0:
        raise ValueError(
            f"box {box:g} and time_limit {time_limit:g} must be positive, size_weight {size_weight:g} not negative"
        )
    begin = time.perf_counter()
    blocks = [b for b in blocks if b.rows]
    groups = (
        _groups(blocks, n, preserve)
        if decouple and size in ("l1", "l2")
        else [(np.arange(n), blocks, preserve)]
    )
    delta, totals, objective = np.zeros(n), np.zeros(3, dtype=int), 0.0
    for columns, members, kept in groups:
        left = time_limit - (time.perf_counter() - begin)
        if left <= 0:
            return _stopped("time_limit", n, begin, totals, len(groups), f"no time left of {time_limit:g} s")
        if not len(columns):  # requirements that no variable enters: they hold or they do not
            if max(float(b.residual(np.zeros(0)).max()) for b in members) <= TOLERANCE:
                continue
            return _stopped(
                "infeasible", n, begin, totals, len(groups), _why("infeasible", time_limit, members)
            )
        solver = _quadratic if size == "l2" else _linear
        status, x, value, counts = solver(
            members, len(columns), n, size, box, kept, left, two_stage, size_weight
        )
        totals += counts
        if status != "optimal":
            return _stopped(status, n, begin, totals, len(groups), _why(status, time_limit, members))
        delta[columns] = x
        objective += value
    return Solution(
        "optimal",
        delta,
        objective,
        time.perf_counter() - begin,
        int(totals[0]),
        int(totals[1]),
        int(totals[2]),
        len(groups),
    )


def solve_lazily(
    block: Block,
    n: int,
    *,
    start: np.ndarray,
    slack: float,
    most: int = 200,
    rounds: int = 50,
    size: str = "l2",
    box: float = 10.0,
    preserve: Preserve | None = None,
    size_weight: float = 1.0,
    time_limit: float = 600.0,
) -> tuple[Solution, int]:
    """Return the solution under all rows of `block`, and how many of them were used.

    Cutting planes: solve with a few rows, add the `most` worst of those missed by more than `slack`, solve again. What
    it ends with meets every row within `slack`, and is optimal, for it is so under fewer rows. start: rows to begin
    with. Status ``failed`` where `rounds` do not suffice.
    """
    used = np.unique(start)
    found = Solution("failed", np.zeros(n), float("nan"), 0.0, 0, 0, 0, 0, "no round was allowed")
    for _ in range(rounds):
        some = Block(block.a[used], block.value[used], block.low[used], block.high[used], block.label)
        found = solve([some], n, size=size, box=box, preserve=preserve, size_weight=size_weight, time_limit=time_limit,
                      decouple=False)  # fmt: skip
        if found.status != "optimal":
            return found, len(used)
        missed = block.residual(found.delta)
        worst = np.argsort(-missed)[:most]
        worst = worst[missed[worst] > slack]
        if not len(worst):
            return found, len(used)
        used = np.union1d(used, worst)
    return replace(found, status="failed", reason=f"rows are still missed after {rounds} rounds"), len(used)


def _why(status: str, time_limit: float, members: Sequence[Block]) -> str:
    if status == "infeasible":
        return f"no edit of these parameters meets {sum(b.rows for b in members)} requirements together"
    if status == "time_limit":
        return f"the solver was stopped at its time limit of {time_limit:g} s: give it more, or fewer points"
    return "the solver found numerical trouble: set a smaller box, or scale the features"


def _stopped(status: str, n: int, begin: float, totals: np.ndarray, programs: int, reason: str) -> Solution:
    return Solution(
        status,
        np.zeros(n),
        float("nan"),
        time.perf_counter() - begin,
        int(totals[0]),
        int(totals[1]),
        int(totals[2]),
        programs,
        reason,
    )


def _groups(
    blocks: Sequence[Block], n: int, preserve: Preserve | None
) -> list[tuple[np.ndarray, list[Block], Preserve | None]]:
    """Split into programs that share no variable; variables that no requirement enters stay at zero.

    Rows with entries of one block are one node of the graph, so that blocks are never cut.
    """
    rows = [np.unique(b.a.indices) for b in blocks]
    if preserve is not None:
        rows += [np.unique(preserve.a.indices[a:b]) for a, b in zip(preserve.a.indptr, preserve.a.indptr[1:])]
    count = len(rows)
    row = np.repeat(np.arange(count), [len(r) for r in rows])
    column = np.concatenate([*rows, np.zeros(0, dtype=int)]).astype(int)  # no block at all: no column
    graph = sparse.coo_array((np.ones(len(row)), (row, column + count)), shape=(count + n, count + n))
    _, label = connected_components(graph, directed=False)
    found = []
    for k in dict.fromkeys(label[: len(blocks)].tolist()):
        columns = np.flatnonzero(label[count:] == k)
        members = [_restricted(b, columns) for b, own in zip(blocks, label) if own == k]
        kept = None
        if preserve is not None:
            some = np.flatnonzero(label[len(blocks) : count] == k)
            target = None if preserve.target is None else preserve.target[some]
            weight = preserve.weight * len(some) / preserve.a.shape[0]
            kept = Preserve(_columns(preserve.a[some], columns), weight, target) if len(some) else None
        found.append((columns, members, kept))
    return found


def _columns(a: sparse.csr_array, columns: np.ndarray) -> sparse.csr_array:
    """Return the columns, all that have entries among them: a relabelling, no search."""
    place = np.full(a.shape[1], -1)
    place[columns] = np.arange(len(columns))
    return sparse.csr_array((a.data, place[a.indices], a.indptr), shape=(a.shape[0], len(columns)))


def _restricted(block: Block, columns: np.ndarray) -> Block:
    return Block(_columns(block.a, columns), block.value, block.low, block.high, block.label, block.t)


def assemble(
    blocks: Sequence[Block], columns: int, box: float, two_stage: bool, split: bool
) -> tuple[Linear, list[int]]:
    """Return the program without its objective, and the first row of every block.

    split: delta = P - N (2 columns a variable), else delta itself.
    """
    p = Linear()
    ends: list[tuple[int, float]] = []
    if split:
        ends = [(p.add_columns(columns, 0.0, box, 0.0), 1.0), (p.add_columns(columns, 0.0, box, 0.0), -1.0)]
    else:
        ends = [(p.add_columns(columns, -box, box, 0.0), 1.0)]
    starts = []
    for block in blocks:
        if block.t is not None and two_stage and _stages_pay(block):
            stage = p.add_columns(block.a.shape[0], -np.inf, np.inf, 0.0)
            minus = sparse.csr_array(-sparse.eye_array(block.a.shape[0]))
            p.add_rows(
                [*((block.a, at, f) for at, f in ends), (minus, stage, 1.0)], -block.value, -block.value
            )
            starts.append(p.add_rows([(block.t, stage, 1.0)], block.low, block.high))
        else:
            a, low, high = block.direct()
            starts.append(p.add_rows([(a, at, f) for at, f in ends], low, high))
    return p, starts


def _stages_pay(block: Block) -> bool:
    assert block.t is not None
    dense = block.a.shape[1] if block.a.nnz else 0
    per_row = block.a.nnz / max(1, block.a.shape[0])
    product = block.t.shape[0] * min(dense, per_row * block.t.nnz / max(1, block.t.shape[0]))
    return block.a.nnz + block.t.nnz < product


def _linear(
    blocks: Sequence[Block], columns: int, n: int, size: str, box: float, preserve: Preserve | None,
    time_limit: float, two_stage: bool, size_weight: float,
) -> tuple[str, np.ndarray, float, np.ndarray]:  # fmt: skip
    p, _ = assemble(blocks, columns, box, two_stage, split=True)
    if size in ("l1", "linf_l1"):
        p.cost[0] = p.cost[1] = np.full(columns, size_weight / n)
    if size in ("linf", "linf_l1"):
        u = p.add_columns(1, 0.0, box, size_weight)
        eye = sparse.csr_array(sparse.eye_array(columns))
        one = sparse.csr_array(np.ones((columns, 1)))
        p.add_rows(
            [(eye, 0, 1.0), (eye, columns, 1.0), (one, u, -1.0)], np.full(columns, -np.inf), np.zeros(columns)
        )
    if preserve is not None:
        count = preserve.a.shape[0]
        up = p.add_columns(count, 0.0, np.inf, preserve.weight / count)
        down = p.add_columns(count, 0.0, np.inf, preserve.weight / count)
        eye = sparse.csr_array(sparse.eye_array(count))
        target = np.zeros(count) if preserve.target is None else preserve.target
        p.add_rows(
            [(preserve.a, 0, 1.0), (preserve.a, columns, -1.0), (eye, up, -1.0), (eye, down, 1.0)],
            target,
            target,
        )
    status, x, value, nonzeros = highs(p, time_limit)
    return status, x[:columns] - x[columns : 2 * columns], value, np.array([p.rows, p.columns, nonzeros])


def highs(p: Linear, time_limit: float = 600.0) -> tuple[str, np.ndarray, float, int]:
    """Return (status, columns, objective, nonzeros): dual simplex, or the interior-point method where rows are many."""
    status, x, _, value, nonzeros = highs_with_duals(p, time_limit)
    return status, x, value, nonzeros


def highs_with_duals(p: Linear, time_limit: float = 600.0) -> tuple[str, np.ndarray, np.ndarray, float, int]:
    """Return the same with the rows' dual values in third place."""
    solver, nonzeros = passed(p, time_limit)
    solver.run()
    status = _status(solver)
    if status == "failed":  # once more without presolve and with the other method
        solver.setOptionValue("presolve", "off")
        solver.setOptionValue("solver", "ipm" if p.rows <= SIMPLEX_ROWS else "simplex")
        solver.run()
        status = _status(solver)
    solution = solver.getSolution()
    x = np.asarray(solution.col_value) if status == "optimal" else np.zeros(p.columns)
    duals = np.asarray(solution.row_dual) if status == "optimal" else np.zeros(p.rows)
    return status, x, duals, float(solver.getInfo().objective_function_value), nonzeros


def passed(p: Linear, time_limit: float) -> tuple[Any, int]:
    """Return a HiGHS solver that holds the program, and its number of nonzeros."""
    require("highspy", "prograd")
    import highspy

    matrix = p.matrix()
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = p.columns, p.rows
    lp.col_cost_ = np.concatenate(p.cost)
    lp.col_lower_, lp.col_upper_ = np.concatenate(p.lower), np.concatenate(p.upper)
    lp.row_lower_ = np.concatenate(p.row_low) if p.row_low else np.zeros(0)
    lp.row_upper_ = np.concatenate(p.row_high) if p.row_high else np.zeros(0)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    solver = highspy.Highs()
    solver.silent()
    for option, value in (
        ("output_flag", False), ("threads", 1), ("random_seed", 0), ("time_limit", float(time_limit)),
        ("primal_feasibility_tolerance", TOLERANCE), ("dual_feasibility_tolerance", TOLERANCE),
        ("solver", "simplex" if p.rows <= SIMPLEX_ROWS else "ipm"),
    ):  # fmt: skip
        solver.setOptionValue(option, value)
    solver.passModel(lp)
    return solver, matrix.nnz


def _status(solver: Any) -> str:
    import highspy

    said = solver.getModelStatus()
    kinds = highspy.HighsModelStatus
    if said == kinds.kOptimal:
        return "optimal"
    if said in (kinds.kInfeasible, kinds.kUnboundedOrInfeasible):  # bounded columns: never unbounded
        return "infeasible"
    return "time_limit" if said == kinds.kTimeLimit else "failed"


def _quadratic(
    blocks: Sequence[Block], columns: int, n: int, size: str, box: float, preserve: Preserve | None,
    time_limit: float, two_stage: bool, size_weight: float,
) -> tuple[str, np.ndarray, float, np.ndarray]:  # fmt: skip
    """Clarabel: ``min 1/2 x' P x + q' x`` with delta, stages and preserved changes as variables."""
    require("clarabel", "prograd")
    import clarabel

    p, _ = assemble(blocks, columns, box, two_stage, split=False)
    quadratic = [np.full(columns, size_weight / n), np.zeros(p.columns - columns)]
    linear = np.zeros(p.columns)
    if preserve is not None:
        r, target = _compressed(preserve)
        start = p.add_columns(len(target), -np.inf, np.inf, 0.0)
        eye = sparse.csr_array(-sparse.eye_array(len(target)))
        p.add_rows([(r, 0, 1.0), (eye, start, 1.0)], target, target)
        quadratic.append(np.full(len(target), preserve.weight / preserve.a.shape[0]))
        linear = np.zeros(p.columns)
    matrix = sparse.csr_array(p.matrix())
    low, high = (np.concatenate(v) if v else np.zeros(0) for v in (p.row_low, p.row_high))
    equal = low == high
    upper, lower = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
    bound = np.flatnonzero(np.isfinite(np.concatenate(p.upper)))
    eye = sparse.csr_array(sparse.eye_array(p.columns))[bound]
    stacked = sparse.csc_array(sparse.vstack([matrix[equal], matrix[upper], -matrix[lower], eye, -eye]))
    right = np.concatenate(
        [
            low[equal],
            high[upper],
            -low[lower],
            np.concatenate(p.upper)[bound],
            -np.concatenate(p.lower)[bound],
        ]
    )
    cones = [clarabel.ZeroConeT(int(equal.sum())), clarabel.NonnegativeConeT(len(right) - int(equal.sum()))]
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.time_limit, settings.max_iter = False, float(time_limit), 500
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = 1e-9
    hessian = sparse.csc_matrix(sparse.diags_array(np.concatenate(quadratic)))
    answer = clarabel.DefaultSolver(
        hessian, linear, sparse.csc_matrix(stacked), right, cones, settings
    ).solve()
    said = str(answer.status)
    status = {"Solved": "optimal", "AlmostSolved": "optimal", "MaxTime": "time_limit"}.get(said, "failed")
    if "PrimalInfeasible" in said:
        status = "infeasible"
    x = np.asarray(answer.x)[:columns] if status == "optimal" else np.zeros(columns)
    return status, x, float(answer.obj_val), np.array([p.rows, p.columns, stacked.nnz])


def _compressed(preserve: Preserve) -> tuple[sparse.csr_array, np.ndarray]:
    """Return R and R's targets with ``|A d - t|^2 = |R d - r|^2 + const``: no more rows than columns (QR)."""
    target = np.zeros(preserve.a.shape[0]) if preserve.target is None else preserve.target
    if preserve.a.shape[0] <= preserve.a.shape[1]:
        return preserve.a, target
    q, r = np.linalg.qr(preserve.a.toarray())
    return sparse.csr_array(r), q.T @ target
