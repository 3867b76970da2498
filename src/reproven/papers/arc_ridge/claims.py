"""Claim tests that only this paper needs; the others are in `harness.claims`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from reproven.harness.claims import claim_test, judge, paired, per_seed
from reproven.harness.decision import Decision
from reproven.harness.intervals import mean_interval


@claim_test(exact=True)
def each_at_most_other(
    data: pd.DataFrame, *, samples: list[str], confidence: float, a: str, b: str
) -> Decision:
    """Decide that metric `a` is at most metric `b` on every single sample (slack 1e-3); reports the largest ratio."""
    table = paired(data, samples, "metric", a, b)
    worst = float((table["a"] / table["b"]).max())
    verdict = "holds" if worst <= 1.001 else "violated"
    reason = f"largest ratio {worst:.6g} of {len(table)} samples, allowed 1.001"
    return Decision(verdict, worst, worst, worst, len(table), reason, {"worst": float(worst > 1.001)})


@claim_test(exact=False)
def metric_ratio_at_least(
    data: pd.DataFrame, *, samples: list[str], confidence: float, a: str, b: str, bound: float
) -> Decision:
    """Decide that the geometric mean ratio of two metrics of the same samples is at least `bound`."""
    table = paired(data, samples, "metric", a, b)
    logs = np.log((table["a"] / table["b"]).to_numpy())
    ours = math.exp(float(logs.mean()))
    low, high = (math.exp(end) for end in mean_interval(logs, confidence))
    reason = f"{a} over {b} {ours:.4g} [{low:.4g}, {high:.4g}] against >= {bound:g}"
    return Decision(
        judge(low, high, bound, math.inf), ours, low, high, len(table), reason, per_seed(data, "")
    )


@claim_test(exact=False)
def strongest_above(data: pd.DataFrame, *, samples: list[str], confidence: float, a: str, b: str) -> Decision:
    """Decide that the value of method `a` at its largest strength is above that of `b`, paired by sample."""
    strongest = data[data["method"] == a]["strength"].max()
    rows = data[(data["method"] == b) | (data["strength"] == strongest)]
    table = paired(rows, samples, "method", a, b)
    gap = (table["a"] - table["b"]).to_numpy()
    low, high = mean_interval(gap, confidence)
    reason = f"{a} at strength {strongest:g} less {b}: {gap.mean():.4g} [{low:.4g}, {high:.4g}] against >= 0"
    return Decision(
        judge(low, high, 0.0, math.inf), float(gap.mean()), low, high, len(gap), reason, per_seed(rows, "")
    )
