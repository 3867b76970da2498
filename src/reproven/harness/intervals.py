"""Intervals that decide verdicts. Each takes independent samples and a two-sided confidence in (0, 1).

A sample too small for an interval gets the whole line, which decides nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import ndtri, stdtrit

BOOTSTRAP_DRAWS = 4000
EQUAL = 1e-12  # relative spread below which samples count as equal: the rounding of averages, no variation


def equal(samples: ArrayLike) -> bool:
    """Tell whether all samples are the same number, up to rounding."""
    x = np.asarray(samples, dtype=float)
    return bool(np.ptp(x) <= EQUAL * np.abs(x).max())


def mean_interval(
    samples: ArrayLike, confidence: float, support: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Return Student's interval of the mean: ``m ± t_{n-1} s / sqrt(n)``; infinite for fewer than two samples.

    support: the range [a, b] of one sample, where it is known to have one. Equal samples have no spread and an
        interval of width zero. That is right for a deterministic number and wrong for a rate: ten zeros do not
        prove that an event never happens. n equal samples c leave a share of up to ``q = 1 - (alpha/2)^(1/n)``
        unseen (Clopper and Pearson 1934), so that with a support the interval is
        ``[c - q (c - a), c + q (b - c)]``.
    """
    x = np.asarray(samples, dtype=float)
    if len(x) < 2:
        return -np.inf, np.inf
    centre = float(x.mean())
    if equal(x):
        if support is None or not support[0] <= centre <= support[1]:
            return centre, centre
        unseen = 1 - ((1 - confidence) / 2) ** (1 / len(x))
        return centre - unseen * (centre - support[0]), centre + unseen * (support[1] - centre)
    half = stdtrit(len(x) - 1, (1 + confidence) / 2) * x.std(ddof=1) / np.sqrt(len(x))
    return float(centre - half), float(centre + half)


def proportion_interval(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (1927): ``|p - q| <= z sqrt(q (1 - q) / n)``, solved for q."""
    z2 = ndtri((1 + confidence) / 2) ** 2 / trials
    share = successes / trials
    half = np.sqrt(z2 * share * (1 - share) + z2**2 / 4)
    low = 0.0 if successes == 0 else float((share + z2 / 2 - half) / (1 + z2))
    high = 1.0 if successes == trials else float((share + z2 / 2 + half) / (1 + z2))
    return low, high


def prediction_interval(samples: ArrayLike, repeat: int, confidence: float) -> tuple[float, float]:
    """Return where the mean of `repeat` new samples is to be expected: ``m ± t_{n-1} s sqrt(1/n + 1/repeat)``.

    Equal samples give a width of zero, which fits deterministic numbers; rates are for the binomial one below.
    """
    x = np.asarray(samples, dtype=float)
    if len(x) < 2:
        return -np.inf, np.inf
    half = stdtrit(len(x) - 1, (1 + confidence) / 2) * x.std(ddof=1) * np.sqrt(1 / len(x) + 1 / repeat)
    return float(x.mean() - half), float(x.mean() + half)


def bootstrap_prediction_interval(samples: ArrayLike, repeat: int, confidence: float) -> tuple[float, float]:
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
    successes: float, trials: int, repeat: int, confidence: float
) -> tuple[float, float]:
    """Return where the share of successes in `repeat` new trials is to be expected (beta-binomial, Jeffreys).

    Also for the mean of samples that are fractions, with their sum as `successes`: a variable in [0, 1] varies at
    most as much as zeros and ones of the same mean, so that the interval is too wide rather than too narrow.
    """
    law = stats.betabinom(repeat, successes + 0.5, trials - successes + 0.5)
    low, high = law.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low / repeat), float(high / repeat)


def slope_interval(x: ArrayLike, y: ArrayLike, log: bool, confidence: float) -> tuple[float, float, float]:
    """Return the least-squares slope of the mean curve and its interval.

    With ``m_j`` the mean over samples at ``x_j`` and ``w`` the least-squares weights, the slope is
    ``sum_j w_j f(m_j)``, f being log or the identity. Sample i shifts it by ``sum_j w_j f'(m_j) (y_ij - m_j)``;
    Student's interval of these shifts is the slope's (the delta method, clustered by sample, so that points of
    one sample may depend on each other). With one sample it is that of the residuals of the line.

    x: (points,), at least two; y: (samples, points), one row a sample. With `log` both axes are logarithmic, after
    the mean was taken: single zeros do no harm, a mean of zero is an error.
    """
    x, y = np.asarray(x, dtype=float), np.atleast_2d(np.asarray(y, dtype=float))
    curve = y.mean(axis=0)
    if log and ((curve <= 0).any() or (x <= 0).any()):
        raise ValueError("a mean or an x of zero or less has no logarithm; leave these points out of `where`")
    horizontal, vertical = (np.log(x), np.log(curve)) if log else (x, curve)
    centred = horizontal - horizontal.mean()
    if len(x) < 2 or not centred.any():
        raise ValueError(f"a slope needs two different points, not {len(x)}")
    weights = centred / (centred @ centred)
    ours = float(vertical @ weights)
    if len(y) > 1:
        low, high = mean_interval((y - curve) @ (weights / curve if log else weights), confidence)
        return ours, ours + low, ours + high
    if len(x) < 3:
        return ours, -np.inf, np.inf
    rest = vertical - vertical.mean() - ours * centred
    error = np.sqrt(rest @ rest / (len(x) - 2) / (centred @ centred))
    half = stdtrit(len(x) - 2, (1 + confidence) / 2) * error
    return ours, float(ours - half), float(ours + half)
