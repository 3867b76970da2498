"""Intervals that decide verdicts. Each takes independent samples and a two-sided confidence in (0, 1)."""

from __future__ import annotations

import numpy as np
from scipy import stats

BOOTSTRAP_DRAWS = 4000


def mean_interval(samples: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return Student's interval of the mean: ``m ± t_{n-1} s / sqrt(n)``; infinite for fewer than two samples."""
    x = np.asarray(samples, dtype=float)
    if len(x) < 2:
        return -np.inf, np.inf
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


def proportion_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion."""
    found = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def prediction_interval(samples: np.ndarray, repeat: int, confidence: float) -> tuple[float, float]:
    """Return where the mean of `repeat` new samples is to be expected: ``m ± t_{n-1} s sqrt(1/n + 1/repeat)``."""
    x = np.asarray(samples, dtype=float)
    if len(x) < 2:
        return -np.inf, np.inf
    half = stats.t.ppf((1 + confidence) / 2, len(x) - 1) * x.std(ddof=1) * np.sqrt(1 / len(x) + 1 / repeat)
    return float(x.mean() - half), float(x.mean() + half)


def bootstrap_prediction_interval(samples: np.ndarray, repeat: int, confidence: float) -> tuple[float, float]:
    """Return the same for skewed samples: quantiles of the mean of `repeat` draws from the samples.

    The draws come from a smaller sample each time (itself a resample), so that our own uncertainty counts too.
    """
    x = np.asarray(samples, dtype=float)
    if len(x) < 2:
        return -np.inf, np.inf
    rng = np.random.default_rng(0)  # the interval is a function of the samples alone
    worlds = rng.integers(len(x), size=(BOOTSTRAP_DRAWS, len(x)))
    picks = rng.integers(len(x), size=(BOOTSTRAP_DRAWS, repeat))
    means = x[np.take_along_axis(worlds, picks, axis=1)].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def binomial_prediction_interval(
    successes: int, trials: int, repeat: int, confidence: float
) -> tuple[float, float]:
    """Return where the share of successes in `repeat` new trials is to be expected (beta-binomial, Jeffreys)."""
    law = stats.betabinom(repeat, successes + 0.5, trials - successes + 0.5)
    low, high = law.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low / repeat), float(high / repeat)


def slope_interval(x: np.ndarray, y: np.ndarray, log: bool, confidence: float) -> tuple[float, float, float]:
    """Return the slope of the mean curve and its interval.

    x: (points,); y: (samples, points), one row a sample. With several samples the slope's standard error is that
    of a bootstrap over samples, so that points of one sample may depend on each other; with one sample it is that
    of least squares. With `log`, both axes are logarithmic, after the mean was taken (a zero mean is an error).
    """
    y = np.atleast_2d(np.asarray(y, dtype=float))
    horizontal = np.log(x) if log else np.asarray(x, dtype=float)
    centred = horizontal - horizontal.mean()
    weights = centred / (centred @ centred)

    def slope(curve: np.ndarray) -> np.ndarray:
        return (np.log(curve) if log else curve) @ weights

    curve = y.mean(axis=0)
    if log and (curve <= 0).any():
        raise ValueError("a mean of zero or less has no logarithm; leave these points out of `where`")
    ours = float(slope(curve))
    if len(y) == 1:
        if len(x) < 3:
            return ours, -np.inf, np.inf
        level = np.log(curve) if log else curve
        rest = level - level.mean() - ours * centred
        error = np.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred))
        half = stats.t.ppf((1 + confidence) / 2, len(x) - 2) * error
        return ours, float(ours - half), float(ours + half)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=BOOTSTRAP_DRAWS // 4) / len(y)
    curves = draws @ y
    kept = curves[(curves > 0).all(axis=1)] if log else curves
    half = stats.t.ppf((1 + confidence) / 2, len(y) - 1) * slope(kept).std(ddof=1)
    return ours, float(ours - half), float(ours + half)
