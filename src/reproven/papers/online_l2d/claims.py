"""Claim tests of this paper: growth exponents with bootstrap intervals, their order, the U-shape of exploration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from reproven.harness import intervals
from reproven.harness.claims import claim_test, groups, key, slope_within
from reproven.harness.decision import Decision

DRAWS = 4000  # bootstrap samples
SHOWN = 0.95  # level of the bootstrap intervals that are reported beside a verdict


def _table(data: pd.DataFrame, samples: list[str], column: str) -> pd.DataFrame:
    """One row per independent sample, one sorted column per value of `column`; ValueError unless complete."""
    table = data.pivot_table(index=samples, columns=column, values="value", aggfunc="mean", dropna=False)
    if len(table) < 3 or table.shape[1] < 3:
        raise ValueError(f"{len(table)} samples at {table.shape[1]} values of {column!r}: at least 3 of each")
    if not (np.isfinite(table.to_numpy()).all() and (table.to_numpy() > 0).all()):
        raise ValueError(f"some sample lacks a positive value at some {column!r}")
    return table[sorted(table.columns)]


@claim_test(exact=False)
def u_shaped(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, centre: float, factor: float
) -> Decision:
    """Decide that the mean over `axis` is least within `factor` of `centre` and rises towards both ends.

    Statistic: the smaller of the two mean log ratios end / minimum, paired over the samples (each interval at
    half the error). `violated` where the minimum is far away and lower than every near setting beyond chance.
    """
    table = _table(data, samples, axis)
    settings, values = table.columns.to_numpy(float), table.to_numpy(float)
    near = (settings <= centre * factor) & (settings >= centre / factor)
    if not near.any():
        raise ValueError(f"no setting of {axis!r} within a factor {factor:g} of {centre:g}")
    mean, logs = values.mean(axis=0), np.log(values)
    best, best_near = int(mean.argmin()), int(np.where(near, mean, np.inf).argmin())
    level = 1 - (1 - confidence) / 2
    rises = np.minimum(logs[:, 0], logs[:, -1]) - logs[:, best_near]
    ends = [logs[:, end] - logs[:, best_near] for end in (0, -1)]
    lower = min(ends, key=lambda rise: rise.mean())
    low, high = intervals.mean_interval(lower, level)
    if near[best]:
        verdict = "violated" if high <= 0 else "holds" if low > 0 else "inconclusive"
    else:
        gap_low, _ = intervals.mean_interval(logs[:, best_near] - logs[:, best], level)
        verdict = "violated" if gap_low > 0 else "inconclusive"
    reason = f"least at {settings[best]:g}, wanted within {factor:g} of {centre:g}; log rise to the lower end"
    kept = {key(samples, index): float(rise) for index, rise in zip(table.index, rises)}
    return Decision(verdict, float(lower.mean()), low, high, len(values), reason, kept)


def bootstrap_exponent(rounds: np.ndarray, regret: np.ndarray, level: float = SHOWN) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the log-log slope of the mean curve, over samples.

    rounds: (points,); regret: (samples, points), each row one sample at every horizon. Few samples make it somewhat
    too narrow, so that it is reported beside verdicts and decides none.
    """
    x = np.log(rounds) - np.log(rounds).mean()
    picks = np.random.default_rng(0).integers(len(regret), size=(DRAWS, len(regret)))
    slopes = np.log(regret[picks].mean(axis=1)) @ x / (x @ x)
    low, high = np.quantile(slopes, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _curves(data: pd.DataFrame, samples: Sequence[str], x: str) -> tuple[np.ndarray, np.ndarray]:
    """Horizons (points,) and values (samples, points); ValueError unless every sample is at every horizon."""
    table = data.pivot_table(index=list(samples), columns=x, values="value", aggfunc="mean", dropna=False)
    if len(table) < 2 or table.shape[1] < 2 or not np.isfinite(table.to_numpy()).all():
        raise ValueError(
            f"{len(table)} samples at {table.shape[1]} values of {x!r}: at least 2 of each, complete"
        )
    table = table[sorted(table.columns)]
    return table.columns.to_numpy(float), table.to_numpy(float)


@claim_test(exact=False)
def exponent_within(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    x: str,
    low: float = -math.inf,
    high: float = math.inf,
    per: list[str] | None = None,
) -> Decision:
    """Decide as `slope_within` in log-log, and report the 95 % bootstrap interval of each group's exponent."""
    decision = slope_within(
        data, samples=samples, confidence=confidence, x=x, low=low, high=high, log=True, per=per
    )
    shown = []
    for label, part in groups(data, per or []):
        least, most = bootstrap_exponent(*_curves(part, samples, x))
        shown.append(f"{label + ' ' if label else ''}[{least:.3f}, {most:.3f}]")
    return replace(decision, reason=f"{decision.reason}; 95 % bootstrap {', '.join(shown)}")


@claim_test(exact=False)
def exponent_larger(
    data: pd.DataFrame, *, samples: list[str], confidence: float, x: str, axis: str, a: object, b: object
) -> Decision:
    """Decide that the log-log slope at `a` on `axis` exceeds that at `b`: independent curves, half the error each."""
    level = 1 - (1 - confidence) / 2
    found = []
    for member in (a, b):
        rounds, curves = _curves(data[data[axis] == member], samples, x)
        found.append((*intervals.slope_interval(rounds, curves, True, level), len(curves)))
    (slope_a, low_a, high_a, n), (slope_b, low_b, high_b, _) = found
    low, high = low_a - high_b, high_a - low_b
    verdict = "holds" if low > 0 else "violated" if high < 0 else "inconclusive"
    reason = f"slope {slope_a:.3f} at {a} less {slope_b:.3f} at {b}: [{low:.3f}, {high:.3f}] against > 0"
    return Decision(verdict, slope_a - slope_b, low, high, n, reason, {})
