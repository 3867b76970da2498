"""From B at several lengths to its law: local exponents, fits with a document bootstrap, choice among laws.

With L = log n: ``B ~ L^xi``, xi = 1 - 1/alpha for unbounded tails, 1 at a fixed gap, 1 + 1/q for flat edges; a power
of n for regular edges. Finite-n exponents drift (Gaussian rows show .65 to .71, not .5, up to n = 10^7): compare
families with each other, not with their limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LAWS = ("const", "sqrt_log", "log", "log_squared", "power")


def local_exponents(n: Sequence[float] | np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return d log B / d log log n between neighbouring lengths, (..., lengths - 1). scale: (..., lengths)."""
    x = np.log(np.log(np.asarray(n, dtype=float)))
    return np.diff(np.log(scale), axis=-1) / np.diff(x)


def fit_exponent(n: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return xi of the least-squares line ``log B = a + xi log log n``, (...,). scale: (..., lengths)."""
    x = np.log(np.log(np.asarray(n, dtype=float)))
    centred = x - x.mean()
    return (np.log(scale) @ centred) / (centred @ centred)


@dataclass(frozen=True)
class ExponentFit:
    """xi by head with its bootstrap interval over documents; each (...,)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap_exponents(
    n: np.ndarray, scale: np.ndarray, rng: np.random.Generator, *, draws: int = 400, confidence: float = 0.95
) -> ExponentFit:
    """Return xi of the median over documents, documents resampled whole.

    scale: (documents, lengths, ...) medians of B by document.
    """
    count = len(scale)
    if count < 2:
        raise ValueError(f"{count} documents: a bootstrap over documents needs two")

    def fitted(chosen: np.ndarray) -> np.ndarray:
        return fit_exponent(n, np.moveaxis(np.nanmedian(scale[chosen], axis=0), 0, -1))

    worlds = np.stack([fitted(rng.integers(count, size=count)) for _ in range(draws)])
    low, high = np.nanquantile(worlds, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return ExponentFit(fitted(np.arange(count)), low, high)


def choose_law(n: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (number of the best law in `LAWS`, residuals (..., laws)) by AIC of log B.

    Each law fixes the shape and fits the level (one parameter); `power`, n^{1/gamma}, also fits gamma (two). AIC is
    corrected for few points. scale: (..., lengths).
    """
    n = np.asarray(n, dtype=float)
    if len(n) < 4:
        raise ValueError(
            f"{len(n)} lengths cannot choose between laws with up to two parameters; use four or more"
        )
    y = np.log(np.asarray(scale, dtype=float))
    loglog = np.log(np.log(n))
    shapes = {"const": 0 * loglog, "sqrt_log": loglog / 2, "log": loglog, "log_squared": 2 * loglog}
    squares = []
    for law in LAWS[:-1]:
        rest = y - shapes[law]
        squares.append(((rest - rest.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1))
    x = np.log(n) - np.log(n).mean()
    slope = np.maximum((y @ x) / (x @ x), 0.0)  # gamma is positive
    rest = y - y.mean(axis=-1, keepdims=True) - slope[..., None] * x
    squares.append((rest**2).sum(axis=-1))
    residual = np.stack(squares, axis=-1)
    m, k = len(n), np.array([2, 2, 2, 2, 3])  # parameters with the variance
    correction = 2 * k + 2 * k * (k + 1) / np.maximum(m - k - 1, 0.5)
    score = m * np.log(residual / m + 1e-12) + correction
    return score.argmin(axis=-1), residual
