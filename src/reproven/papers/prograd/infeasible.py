"""What an infeasible edit is told: the least relaxation that would do, and requirements that cannot hold together.

The elastic program ``min sum of slacks`` with a slack on every requirement gives the relaxation. By duality the
requirements with a dual value in it, with the box, are infeasible by themselves; a deletion filter makes these few
irreducible: leave any one out and the rest can be met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from reproven.papers.prograd.program import assemble, highs, highs_with_duals
from reproven.papers.prograd.rows import Block

SLACK = 1e-7


@dataclass(frozen=True)
class Conflict:
    """Why no edit exists.

    requirements: (label, row in its block) of an irreducible conflicting set. rows: the same as positions among all
    rows of all blocks. relaxation: (label, row, by how much) of
    the requirements that give way in the cheapest relaxation. total: the sum of these. delta: the edit that
    meets the relaxed requirements. irreducible: whether the filter finished in its time.
    """

    requirements: list[tuple[str, int]]
    relaxation: list[tuple[str, int, float]]
    total: float
    delta: np.ndarray
    irreducible: bool
    rows: tuple[int, ...] = ()


def relax(
    blocks: Sequence[Block], n: int, *, box: float, time_limit: float = 600.0, hard: Sequence[Block] = ()
) -> tuple[Conflict, np.ndarray]:
    """Return the least total relaxation (conflict not yet reduced), and the dual value of every requirement.

    hard: requirements that do not give way; zero must meet them, or there may be no solution.
    RuntimeError where the elastic program, which always has a solution, is not solved in time.
    """
    p, starts = assemble([*blocks, *hard], n, box, two_stage=True, split=True)
    slack_columns = []
    for block, start in zip(blocks, starts, strict=False):
        eye = sparse.csr_array(sparse.eye_array(block.rows))
        up = p.add_columns(block.rows, 0.0, np.inf, 1.0)
        down = p.add_columns(block.rows, 0.0, np.inf, 1.0)
        for column, sign in ((up, 1.0), (down, -1.0)):
            entries = sparse.coo_array(eye)
            p.triplets.append((entries.row + start, entries.col + column, entries.data * sign))
        slack_columns.append((up, down))
    status, x, duals, total, _ = highs_with_duals(p, time_limit)
    if status != "optimal":
        raise RuntimeError(f"the elastic program ended as {status}: give it more time than {time_limit:g} s")
    relaxation, kept = [], []
    for block, start, (up, down) in zip(blocks, starts, slack_columns, strict=False):
        slack = x[up : up + block.rows] - x[down : down + block.rows]
        relaxation += [
            (block.label, int(i), float(abs(slack[i]))) for i in np.flatnonzero(np.abs(slack) > SLACK)
        ]
        kept.append(duals[start : start + block.rows])
    delta = x[:n] - x[n : 2 * n]
    return Conflict([], relaxation, float(total), delta, False), np.concatenate(kept) if kept else np.zeros(0)


def conflict(
    blocks: Sequence[Block], n: int, *, box: float, time_limit: float = 600.0, most: int = 400
) -> Conflict:
    """Return the least relaxation and an irreducible conflicting set.

    most: requirements beyond which the filter is not run, and the set is given as the duals leave it.
    """
    found, duals = relax(blocks, n, box=box, time_limit=time_limit)
    names = [(b.label, i) for b in blocks for i in range(b.rows)]
    suspects = [int(k) for k in np.flatnonzero(np.abs(duals) > 1e-9)]
    owner = _owners(blocks)
    if found.total > SLACK and 0 < len(suspects) <= most:
        suspects = _filter(blocks, owner, suspects, n, box, time_limit)
        return Conflict(
            [names[k] for k in suspects], found.relaxation, found.total, found.delta, True, tuple(suspects)
        )
    return Conflict(
        [names[k] for k in suspects], found.relaxation, found.total, found.delta, False, tuple(suspects)
    )


def _filter(
    blocks: Sequence[Block],
    owner: list[tuple[int, int]],
    suspects: list[int],
    n: int,
    box: float,
    time_limit: float,
) -> list[int]:
    kept = list(suspects)
    for candidate in suspects:
        trial = [k for k in kept if k != candidate]
        if not trial or feasible(_rows(blocks, owner, trial), n, box=box, time_limit=time_limit):
            continue
        kept = trial
    return kept


def _owners(blocks: Sequence[Block]) -> list[tuple[int, int]]:
    return [(k, i) for k, b in enumerate(blocks) for i in range(b.rows)]


def conflict_rows(blocks: Sequence[Block], found: Conflict, leave: int | None = None) -> list[Block]:
    """Return the rows of a conflicting set alone, without its member number `leave`."""
    return _rows(blocks, _owners(blocks), [k for i, k in enumerate(found.rows) if i != leave])


def _rows(blocks: Sequence[Block], owner: list[tuple[int, int]], wanted: Sequence[int]) -> list[Block]:
    by_block: dict[int, list[int]] = {}
    for k in wanted:
        block, row = owner[k]
        by_block.setdefault(block, []).append(row)
    found = []
    for block, rows in by_block.items():
        a, low, high = blocks[block].direct()
        found.append(Block(a[rows], np.zeros(len(rows)), low[rows], high[rows], blocks[block].label))
    return found


def feasible(blocks: Sequence[Block], n: int, *, box: float, time_limit: float = 600.0) -> bool:
    """Tell whether some edit within the box meets all requirements."""
    p, _ = assemble(blocks, n, box, two_stage=True, split=True)
    return highs(p, time_limit)[0] == "optimal"
