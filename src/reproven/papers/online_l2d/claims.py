"""Claim test of this paper: the U-shape of exploration."""

from __future__ import annotations

import numpy as np
import pandas as pd

from reproven.harness import intervals
from reproven.harness.claims import claim_test, key
from reproven.harness.decision import Decision


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
