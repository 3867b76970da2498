"""Linear requirements on the edit, in two stages: ``s = value + A delta`` and ``low <= T s <= high``.

A holds what the network says (dense rows, one a pixel, token or Jacobian entry), T what is asked of it (a few
entries a row). Kept apart, the program has ``nnz(A) + nnz(T)`` entries; multiplied out, every requirement has a dense
row (`Block.direct`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Block:
    """One group of requirements.

    a: (stage, variables). value: (stage,), at delta = 0. t: (rows, stage) or None for the identity.
    low, high: (rows,). label: what the requirements are, e.g. ``map of point 3``.
    """

    a: sparse.csr_array
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label: str
    t: sparse.csr_array | None = None

    @property
    def rows(self) -> int:
        return len(self.low)

    def direct(self) -> tuple[sparse.csr_array, np.ndarray, np.ndarray]:
        """Return (rows, low, high) in delta alone."""
        if self.t is None:
            return self.a, self.low - self.value, self.high - self.value
        shift = self.t @ self.value
        return sparse.csr_array(self.t @ self.a), self.low - shift, self.high - shift

    def residual(self, delta: np.ndarray) -> np.ndarray:
        """Return by how much each requirement is missed, (rows,); zero where it holds."""
        s = self.value + self.a @ delta
        got = s if self.t is None else self.t @ s
        return np.maximum(np.maximum(self.low - got, got - self.high), 0.0)


def inset(low: np.ndarray, high: np.ndarray, margin: float, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the band [low, high] drawn in by the margin; one narrower than two margins keeps its centre."""
    if (low > high).any():
        i = int(np.flatnonzero(low > high)[0])
        raise ValueError(f"{label}: lower bound {low[i]:g} exceeds upper bound {high[i]:g}")
    width = np.where(np.isfinite(low) & np.isfinite(high), high - low, np.inf)
    by = np.minimum(margin, width / 2)
    return low + by, high - by


def band(
    a: sparse.csr_array, value: np.ndarray, low: np.ndarray, high: np.ndarray, margin: float, label: str
) -> Block:
    """Return ``low + margin <= value + A delta <= high - margin``."""
    low, high = (np.broadcast_to(v, value.shape).astype(float) for v in (low, high))
    return Block(a, value, *inset(low, high, margin, label), label)


def min_max(map_: np.ndarray) -> np.ndarray:
    """Return ``(L - min L) / (max L - min L)`` over the last axis; ValueError for a flat map, which has none."""
    low, high = map_.min(-1, keepdims=True), map_.max(-1, keepdims=True)
    if not (high > low).all():
        raise ValueError("a flat map has no min-max normalisation")
    return (map_ - low) / (high - low)


def min_max_template(
    target: np.ndarray, epsilon: float, margin: float, extremes: tuple[int, int] | None = None
) -> sparse.csr_array:
    """Return T of the sound linear encoding of ``|mm(L') - target| <= epsilon`` (dossier 3.6): every row >= 0.

    target: (m,), a map normalised to [0, 1]; p and q are its least and largest entry, or `extremes`. For every other i

        L'_i - L'_p >= 0,   L'_q - L'_i >= 0                                              (i)
        (epsilon - margin)(L'_q - L'_p) -+ ((L'_i - L'_p) - r_i (L'_q - L'_p)) >= 0       (ii)

    and last ``L'_q - L'_p`` (iii), which must be at least some delta > 0: without it the flat map would pass.
    Rows: 4 (m - 2) + 1.
    """
    m = len(target)
    if m < 2:
        raise ValueError(f"a map of {m} entry has no min-max normalisation")
    if not 0 <= margin < epsilon:
        raise ValueError(f"margin {margin:g} must be at least 0 and below epsilon {epsilon:g}")
    p, q = extremes or (int(target.argmin()), int(target.argmax()))
    rest = np.array([i for i in range(m) if i not in (p, q)], dtype=int)
    r, n, width = target[rest], len(rest), epsilon - margin
    one = np.ones(n)
    order = np.arange(n)
    at_p, at_q = np.full(n, p), np.full(n, q)
    entries = [  # (row, column, value) of each group of rows
        (order, rest, one), (order, at_p, -one),
        (n + order, at_q, one), (n + order, rest, -one),
        (2 * n + order, rest, -one), (2 * n + order, at_p, 1 - r - width), (2 * n + order, at_q, r + width),
        (3 * n + order, rest, one), (3 * n + order, at_p, r - 1 - width), (3 * n + order, at_q, width - r),
        (np.array([4 * n] * 2), np.array([q, p]), np.array([1.0, -1.0])),
    ]  # fmt: skip
    rows, columns, values = (np.concatenate(parts) for parts in zip(*entries))
    return sparse.csr_array(sparse.coo_array((values, (rows, columns)), shape=(4 * n + 1, m)))


def min_max_block(
    a: sparse.csr_array,
    value: np.ndarray,
    target: np.ndarray,
    *,
    epsilon: float,
    margin: float,
    floor: float,
    label: str,
    extremes: tuple[int, int] | None = None,
) -> Block:
    """Return the requirement that the normalised map stays within epsilon of `target`, its range at least `floor`."""
    t = min_max_template(target, epsilon, margin, extremes)
    low = np.zeros(t.shape[0])
    low[-1] = floor
    return Block(a, value, low, np.full(t.shape[0], np.inf), label, t)


def total_rows(blocks: Sequence[Block]) -> int:
    """Return how many requirements there are."""
    return sum(b.rows for b in blocks)


def drop_settled(block: Block) -> Block:
    """Leave out rows that no variable enters and that hold: pooled ties between units that are off, say."""
    a, low, high = block.direct()
    live = np.asarray(abs(a).sum(axis=1)).ravel() > 0
    settled = ~live & (low <= 1e-12) & (high >= -1e-12)
    if not settled.any():
        return block
    keep = np.flatnonzero(~settled)
    return Block(a[keep], np.zeros(len(keep)), low[keep], high[keep], block.label)
