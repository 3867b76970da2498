"""Claim tests of this paper: growth exponents by bootstrap, and the U-shape of exploration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from reproven.harness.claims import claim_test
from reproven.harness.decision import Decision

RESAMPLES = 20_000


def exponents(table: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """Least-squares slopes of log mean regret on log T; table (..., seeds, horizons), mean over the seeds."""
    x = np.log(horizons) - np.log(horizons).mean()
    y = np.log(table.mean(axis=-2))
    return (y * x).sum(axis=-1) / (x**2).sum()


def bootstrap_exponent(
    table: np.ndarray, horizons: np.ndarray, confidence: float
) -> tuple[float, float, float]:
    """Exponent and its bootstrap interval over the seeds, (value, low, high); table (seeds, horizons).

    Percentile interval, widened around the value by sqrt(n / (n - 1)) for the small number of seeds.
    """
    n = len(table)
    rng = np.random.default_rng(0)  # the interval is a fixed function of the data
    drawn = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 1000):
        rows = rng.integers(n, size=(1000, n))
        drawn[start : start + 1000] = exponents(table[rows], horizons)
    value = float(exponents(table, horizons))
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    widen = np.sqrt(n / (n - 1))
    return value, value + widen * (float(low) - value), value + widen * (float(high) - value)


def _pivot(data: pd.DataFrame, samples: Sequence[str], column: str) -> pd.DataFrame:
    """One row per independent sample, one column per value of `column`; others averaged."""
    return data.pivot_table(index=list(samples), columns=column, values="value", aggfunc="mean", dropna=False)


def _key(index: object, samples: Sequence[str]) -> str:
    values = index if isinstance(index, tuple) else (index,)
    return ",".join(f"{name}={value}" for name, value in zip(samples, values))


@claim_test(exact=False)
def growth_exponent_at_most(
    data: pd.DataFrame,
    *,
    samples: Sequence[str],
    confidence: float,
    bound: float,
    x: str = "rounds",
    last: int | None = None,
    per: Sequence[str] = (),
) -> Decision:
    """Exponent of the mean regret in `x` over its `last` largest values, at most `bound`, in each group.

    `holds` when the bootstrap interval lies at or below the bound in every group, `violated` when it lies
    above in one; of the groups with the worst verdict, that of the largest exponent is reported.
    """
    worst: Decision | None = None
    groups = data.groupby(list(per), dropna=False) if per else [((), data)]
    for name, group in groups:
        found = _exponent_decision(group, samples, confidence, bound, x, last)
        where = ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)
        found = Decision(
            **{**found.__dict__, "reason": f"{where}: {found.reason}" if where else found.reason}
        )
        rank = ("failed", "violated", "inconclusive", "holds")
        if worst is None or (rank.index(found.verdict), -(found.ours or 0.0)) < (
            rank.index(worst.verdict),
            -(worst.ours or 0.0),
        ):
            worst = found
    return worst if worst is not None else Decision("failed", reason="no measurement")


def _exponent_decision(
    data: pd.DataFrame, samples: Sequence[str], confidence: float, bound: float, x: str, last: int | None
) -> Decision:
    table = _pivot(data, samples, x)
    table = table[sorted(table.columns)[-last if last else None :]]
    values = table.to_numpy(float)
    if len(values) < 3 or values.shape[1] < 3:
        return Decision("inconclusive", n=len(values), reason="needs at least 3 samples and 3 horizons")
    if not (np.isfinite(values).all() and (values > 0).all()):
        return Decision("failed", n=len(values), reason="a regret is missing, not finite, or not positive")
    horizons = np.asarray(table.columns, float)
    value, low, high = bootstrap_exponent(values, horizons, confidence)
    verdict = "holds" if high <= bound else "violated" if low > bound else "inconclusive"
    per_seed = {
        _key(index, samples): float(exponents(row[None], horizons)) for index, row in zip(table.index, values)
    }
    reason = f"exponent over {x} {horizons[0]:g} to {horizons[-1]:g} against {bound:g}"
    return Decision(verdict, value, low, high, len(values), reason, per_seed)


@claim_test(exact=False)
def u_shaped(
    data: pd.DataFrame,
    *,
    samples: Sequence[str],
    confidence: float,
    axis: str,
    centre: float,
    factor: float,
) -> Decision:
    """The mean over `axis` has its minimum within `factor` of `centre` and rises towards both ends.

    Statistic: the smaller of the two mean log ratios end / minimum, paired over the samples (t intervals,
    each at half the error). `holds` when both are positive and the minimum is near; `violated` when it is far away
    and significantly lower than every near setting.
    """
    table = _pivot(data, samples, axis)
    table = table[sorted(table.columns)]
    values = table.to_numpy(float)
    if len(values) < 2 or not (np.isfinite(values).all() and (values > 0).all()):
        return Decision("failed", n=len(values), reason="needs two or more complete, positive samples")
    settings = np.asarray(table.columns, float)
    near = (settings <= centre * factor) & (settings >= centre / factor)
    if not near.any():
        return Decision("failed", n=len(values), reason=f"no setting within {factor:g} of {centre:g}")
    mean = values.mean(axis=0)
    best, best_near = int(mean.argmin()), int(np.where(near, mean, np.inf).argmin())
    logs = np.log(values)
    ends = [_log_ratio(logs[:, end] - logs[:, best_near], confidence) for end in (0, -1)]
    value, low, high = min(ends)
    keys = {
        _key(i, samples): float(v)
        for i, v in zip(table.index, np.minimum(logs[:, 0], logs[:, -1]) - logs[:, best_near])
    }
    reason = (
        f"minimum at {settings[best]:g}, wanted within {factor:g} of {centre:g}; log rise to the lower end"
    )
    if not near[best]:
        _, gap_low, _ = _log_ratio(logs[:, best_near] - logs[:, best], confidence)
        verdict = "violated" if gap_low > 0 else "inconclusive"
    else:
        verdict = "holds" if low > 0 else "violated" if high <= 0 else "inconclusive"
    return Decision(verdict, value, low, high, len(values), reason, keys)


def _log_ratio(values: np.ndarray, confidence: float) -> tuple[float, float, float]:
    """Mean and t interval at confidence 1 - (1 - confidence) / 2: two of them hold together."""
    n = len(values)
    half = stats.t.ppf(1 - (1 - confidence) / 4, n - 1) * values.std(ddof=1) / np.sqrt(n)
    mean = float(values.mean())
    return mean, mean - float(half), mean + float(half)
