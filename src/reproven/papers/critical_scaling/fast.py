"""Row statistics in single precision at a few nanoseconds a key, for rows that a model's forward pass produces.

The same numbers as `rows.row_stats`, up to single precision. beta_{2/3} is solved on a summary of the row (its
first 64 gaps, then means over runs of one sixteenth of their rank), and is right to 1e-3 of itself, to 5e-3 where
gaps jump within a run.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from reproven.papers.critical_scaling.rows import ALL_TIES, NOT_FINITE, OK, ONE_KEY, TARGET, RowStats

HEAD = 64  # gaps that the summary keeps one by one
RUN = 16  # beyond, a run holds 1/RUN of its rank
BLOCK = 1 << 18  # keys at a time: what stays in the cache


def fast_stats(scores: np.ndarray, first: int = 0) -> RowStats:
    """Return the statistics of float32 rows at native scale (beta = 1).

    scores: (rows, n); -inf, or less than half of float32's lowest number, is no key. It is overwritten.
    first: leading keys to leave out (1: without the attention sink).
    """
    if scores.ndim != 2 or scores.dtype != np.float32:
        raise ValueError(f"rows of shape {scores.shape}, {scores.dtype}: pass float32 of shape (rows, n)")
    x = scores[:, first:]
    height = max(1, BLOCK // max(1, x.shape[1]))
    parts = [_block(x[a : a + height]) for a in range(0, len(x), height)] or [_block(x)]
    return RowStats(*(np.concatenate(column) for column in zip(*parts)))


def _block(x: np.ndarray) -> tuple[np.ndarray, ...]:
    rows, n = x.shape
    if n < 2:
        nothing, zero = np.full(rows, np.nan), np.zeros(rows, dtype=np.int64)
        status = np.full(rows, ONE_KEY, dtype=np.int8)
        return nothing, zero, nothing, nothing, nothing, nothing, zero + n, zero, status
    y = np.sort(x, axis=1)  # ascending, NaN last
    top = y[:, -1]
    broken = ~np.isfinite(top)
    masked = np.isneginf(top)
    floor = np.finfo(np.float32).min / 2
    keys = n - _leading(y, floor)  # type: ignore[arg-type]  # a float32 scalar
    with np.errstate(invalid="ignore", over="ignore"):
        g = top[:, None] - y[:, -2::-1]
    small = np.finfo(np.float32).eps * np.maximum(1.0, np.abs(np.where(broken, 1.0, top))).astype(np.float32)
    ties = (g[:, : min(n - 1, HEAD)] <= small[:, None]).sum(axis=1)
    many = ties == min(n - 1, HEAD)
    if many.any():
        ties[many] = (g[many] <= small[many, None]).sum(axis=1)
    np.maximum(g, small[:, None], out=g)
    slope = _logs(n) / g
    depth = slope.argmax(axis=1)
    line = np.arange(rows)
    scale, at = slope[line, depth].astype(float), g[line, depth].astype(float)
    z, h = _thermo(g)
    beta = _two_thirds(g, scale)
    status = np.zeros(rows, dtype=np.int8)
    status[ties >= keys - 1] = ALL_TIES
    status[(keys < 2) | masked] = ONE_KEY
    status[broken & ~masked] = NOT_FINITE
    bad = status != OK
    for column in (scale, at, z, h, beta):
        column[bad] = np.nan
    return scale, np.where(bad, 0, depth + 1), at, z, h, beta, keys, ties, status


def _leading(y: np.ndarray, floor: float) -> np.ndarray:
    """Return how many sorted scores of each row are no keys."""
    if (y[:, 0] >= floor).all():
        return np.zeros(len(y), dtype=np.int64)
    return (y < floor).sum(axis=1)


def _thermo(g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (p_max, entropy) at beta = 1 of sorted gaps."""
    with np.errstate(invalid="ignore", over="ignore"):
        w = np.exp(-g)
        total = 1.0 + w.sum(axis=1, dtype=np.float64)
        w *= np.minimum(g, np.float32(1e4))  # gaps of what is no key: weight zero, and no zero times infinity
        mean = w.sum(axis=1, dtype=np.float64) / total
    return 1.0 / total, np.log(total) + mean


def _two_thirds(g: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return beta_{2/3} by Newton's steps on log Z from beta = B: convex and falling, so that none overshoots."""
    starts = run_starts(g.shape[1])
    size = np.diff(np.append(starts, g.shape[1])).astype(float)
    with np.errstate(all="ignore"):
        point = np.add.reduceat(np.minimum(g, np.float32(1e30)), starts, axis=1) / size
        beta = np.where(np.isfinite(scale), scale, 1.0)
        for _ in range(6):
            w = size * np.exp(-beta[:, None] * point)
            z = 1.0 + w.sum(axis=1)
            excess = np.log(z * TARGET)
            step = excess * z / (w * point).sum(axis=1)
            beta = beta + np.where(np.isfinite(step), step, 0.0)
        reached = np.abs(excess) < 1e-2
    return np.where(reached, beta, np.nan)


@lru_cache(maxsize=256)
def run_starts(n: int) -> np.ndarray:
    """Return where each run of the summary of `n` gaps begins."""
    starts, k = list(range(min(n, HEAD))), HEAD
    while k < n:
        starts.append(k)
        k += max(1, k // RUN)
    return np.array(starts)


@lru_cache(maxsize=256)
def _logs(n: int) -> np.ndarray:
    return np.log1p(np.arange(1, n)).astype(np.float32)
