"""The step-up core that all p-value rules share, by sorting or, at pixel scale, by counting."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Relative slack of every "<=": conformal p-values tie exactly with thresholds such as alpha i / n, and a tie rejects.
TIE = 1e-12
# Pixels handled at a time: a block and its temporaries stay in the processor's cache.
BLOCK = 1 << 16

Levels = Callable[[np.ndarray], np.ndarray]


class NoPowerWarning(UserWarning):
    """The calibration set is so small that the rule cannot reject anything, whatever the scores."""


class Info(NamedTuple):
    """What a rule says beside its mask; one entry a batch.

    rejections: number of rejected items, shape (...).
    threshold: largest rejected p-value (or the level that decided), shape (...); 0 where nothing is rejected.
    uniform: the one uniform Lambda of a randomised rule, shape (...); None for the others.
    """

    rejections: np.ndarray
    threshold: np.ndarray
    uniform: np.ndarray | None = None


def step_up(
    p: np.ndarray, levels: Levels, *, k: int | None = None, need: Callable[[], int] | None = None
) -> tuple[np.ndarray, Info]:
    """Reject the i* smallest p-values, i* = max{i : p_(i) <= t_i}; ties of p_(i*) are rejected too.

    Args:
        p: p-values in [0, 1], shape (..., n); leading axes are independent batches.
        levels: r -> t_r for ranks r of shape (m,), non-decreasing in r; returns shape (m,) or (..., m).
        k: size of the calibration set when the p-values are conformal, that is on the grid {1..k+1}/(k+1).
            With n > k + 1 in a single batch the grid points are counted instead of sorting n values.
        need: the smallest k that can reject anything, where the levels themselves depend on k.

    Returns: mask of rejections, shape (..., n), and `Info`.
    """
    p = check_p(p)
    n = p.shape[-1]
    if k is not None:
        warn_without_power(levels, n, k, need)
        if p.ndim == 1 and n > k + 1:
            return _by_counting(p, levels, k)
    return by_sorting(p, levels)


def by_sorting(p: np.ndarray, levels: Levels) -> tuple[np.ndarray, Info]:
    """`step_up` without checks, for values that may lie outside [0, 1] (Version 1 of SBL uses infinity)."""
    n = p.shape[-1]
    ordered = np.sort(p, axis=-1)
    ok = ordered <= levels(np.arange(1.0, n + 1.0)) * (1 + TIE)
    last = n - np.argmax(ok[..., ::-1], axis=-1)  # i*, valid where any is ok
    found = np.asarray(ok.any(axis=-1))
    largest = np.take_along_axis(ordered, (last - 1)[..., None], axis=-1)[..., 0]
    return _reject(p, found, largest)


def _by_counting(p: np.ndarray, levels: Levels, k: int) -> tuple[np.ndarray, Info]:
    """`step_up` on the k + 1 grid points: #{p <= j/(k+1)} by counting, then one pass over the grid."""
    counts = grid_counts(p, k)
    occupied = np.flatnonzero(counts)
    grid = occupied / (k + 1)
    ok = grid <= levels(np.cumsum(counts)[occupied].astype(float)).reshape(-1) * (1 + TIE)
    hits = np.flatnonzero(ok)
    found = np.asarray(hits.size > 0)
    return _reject(p, found, np.asarray(grid[hits[-1]] if found else 0.0))


def _reject(p: np.ndarray, found: np.ndarray, largest: np.ndarray) -> tuple[np.ndarray, Info]:
    threshold = np.where(found, largest, 0.0)
    mask = p <= np.where(found, largest * (1 + TIE), -1.0)[..., None]
    return mask, Info(np.count_nonzero(mask, axis=-1), threshold)


def grid_counts(p: np.ndarray, k: int) -> np.ndarray:
    """Return ``#{i : p_i = j/(k+1)}`` for j = 0..k+1, shape (k + 2,), in blocks that need no memory of size n.

    Raises: ValueError where a p-value is off the grid (it was not computed from k calibration scores).
    """
    counts = np.zeros(k + 2, dtype=np.int64)
    for start in range(0, p.size, BLOCK):
        scaled = p[start : start + BLOCK] * (k + 1.0)
        ranks = np.rint(scaled)
        scaled -= ranks
        off = max(scaled.max(), -scaled.min())
        if off > 1e-6:
            raise ValueError(f"a p-value is off the grid j/{k + 1} of k={k}; leave k out for other p-values")
        counts += np.bincount(ranks.astype(np.int64), minlength=k + 2)
    return counts


def warn_without_power(levels: Levels, n: int, k: int, need: Callable[[], int] | None = None) -> None:
    """Warn (`NoPowerWarning`) where even n p-values at the minimum 1/(k+1) would not be rejected."""
    top = float(np.max(levels(np.asarray([float(n)]))))
    if 1 / (k + 1) > top * (1 + TIE):
        enough = need() if need is not None else math.ceil((1 - TIE) / top) - 1
        warnings.warn(
            f"k={k} calibration scores cannot reject anything at this level: at least k={enough} are needed",
            NoPowerWarning,
            stacklevel=4,
        )


def check_p(p: np.ndarray) -> np.ndarray:
    """Return p as a float array of shape (..., n), n >= 1; ValueError for NaN or values outside [0, 1]."""
    p = np.asarray(p, dtype=float)
    if p.ndim == 0 or p.shape[-1] == 0:
        raise ValueError(f"p-values of shape {p.shape}: need at least one on the last axis")
    low, high = p.min(), p.max()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"p-values must lie in [0, 1], got a range of [{low}, {high}]; NaN scores give NaN here"
        )
    return p


def check_open_unit(**values: float) -> None:
    """ValueError unless each named value lies in (0, 1)."""
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name}={value} must lie in (0, 1)")


def harmonic(n: int) -> float:
    """Return H_n = 1 + 1/2 + ... + 1/n."""
    if n < 10_000:
        return float(np.sum(1.0 / np.arange(1, n + 1)))
    return math.log(n) + np.euler_gamma + 1 / (2 * n) - 1 / (12 * n**2)  # error below 1e-18 here
