"""Claim tests that only this paper needs. ``each_*`` decide statements about every single run: training here is
deterministic, so a run either obeys or does not, and no mean over runs is involved."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from reproven.harness.claims import claim_test, groups, paired, per_seed, slope_within
from reproven.harness.decision import Decision


def _complete(data: pd.DataFrame, samples: list[str], axis: str) -> tuple[pd.DataFrame, str]:
    """Return the samples that were measured at every point of `axis`, and a note on those left out."""
    points = data.groupby(samples)[axis].transform("nunique")
    kept = data[points == data[axis].nunique()]
    count = data[samples].drop_duplicates().shape[0] - kept[samples].drop_duplicates().shape[0]
    return kept, f"; {count} samples are not at every {axis} and are left out" if count else ""


@claim_test(exact=False)
def complete_slope_within(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    x: str,
    low: float,
    high: float,
    log: bool = True,
) -> Decision:
    """Decide as `slope_within`, on the samples that were measured at every point of `x`."""
    kept, note = _complete(data, samples, x)
    found = slope_within(kept, samples=samples, confidence=confidence, x=x, low=low, high=high, log=log)
    return replace(found, reason=found.reason + note)


@claim_test(exact=True)
def any_at_least(data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float) -> Decision:
    """Decide that at least one single measurement reaches `bound` (existence)."""
    ours = float(data["value"].max())
    count = int((data["value"] >= bound).sum())
    verdict = "holds" if ours >= bound else "violated"
    reason = f"{count} of {len(data)} reach {bound:g}, the largest {ours:.4g}"
    return Decision(verdict, ours, ours, ours, len(data), reason, per_seed(data, ""))


@claim_test(exact=True)
def equal_sides(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, a: Any, b: Any, rtol: float
) -> Decision:
    """Decide that each sample has the same value at both points of `axis`: ``|a - b| <= rtol max(|a|, |b|)``."""
    table = paired(data, samples, axis, a, b)
    size = np.maximum(table["a"].abs(), table["b"].abs()).clip(lower=1e-300)
    gap = ((table["a"] - table["b"]).abs() / size).to_numpy()
    ours = float(gap.max())
    verdict = "holds" if ours <= rtol else "violated"
    reason = f"largest relative difference {ours:.3g} of {len(gap)}, allowed {rtol:g}"
    return Decision(verdict, ours, ours, ours, len(gap), reason, per_seed(data[data[axis] == a], ""))


@claim_test(exact=True)
def each_rises(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    axis: str,
    order: list[Any],
    complete: bool = False,
) -> Decision:
    """Decide that in each sample the value rises strictly along `order` of `axis`; reports the least step.

    complete: leave out samples that were not measured at every point of `axis` (the reason counts them).
    """
    data, note = _complete(data, samples, axis) if complete else (data, "")
    steps = [paired(data, samples, axis, a, b) for a, b in pairwise(order)]
    least = min(float((t["b"] - t["a"]).min()) for t in steps)
    reason = f"least step {least:.4g} over {len(steps)} steps of {len(steps[0])} runs{note}"
    verdict = "holds" if least > 0 else "violated"
    return Decision(verdict, least, least, least, len(steps[0]), reason, per_seed(data, ""))


@claim_test(exact=True)
def each_ratio_at_most(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, axis: str, a: Any, b: Any
) -> Decision:
    """Decide that in each sample the value at `a` is at most `bound` times the value at `b`."""
    table = paired(data, samples, axis, a, b)
    worst = float((table["a"] / table["b"]).max())
    verdict = "holds" if worst <= bound else "violated"
    reason = f"worst ratio {worst:.4g} of {len(table)} runs, allowed {bound:g}"
    return Decision(verdict, worst, worst, worst, len(table), reason, per_seed(data, ""))


@claim_test(exact=True)
def each_slope_within(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    x: str,
    low: float,
    high: float,
    log: bool = True,
) -> Decision:
    """Decide that the least-squares slope against `x` lies in [low, high] in each sample; log-log if `log`."""
    slopes = []
    for _, rows in groups(data, samples):
        points, values = rows[x].to_numpy(dtype=float), rows["value"].to_numpy(dtype=float)
        if log:
            points, values = np.log(points), np.log(values)
        slopes.append(float(np.polyfit(points, values, 1)[0]))
    least, most = min(slopes), max(slopes)
    verdict = "holds" if low <= least and most <= high else "violated"
    reason = f"slopes of {len(slopes)} runs in [{least:.4g}, {most:.4g}], allowed [{low:g}, {high:g}]"
    return Decision(verdict, float(np.mean(slopes)), least, most, len(slopes), reason, per_seed(data, ""))
