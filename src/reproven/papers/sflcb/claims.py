"""Claim tests of this paper, beyond the generic ones."""

from __future__ import annotations

import pandas as pd

from reproven.harness.claims import claim_test, per_seed, same, sampled
from reproven.harness.decision import Decision


@claim_test(exact=True)
def reported_is_sustained(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float
) -> Decision:
    """Decide that ``reported - sustained <= bound`` for every run: the plotted utility against the true one."""
    reported = sampled(data[data["metric"] == "reported"], samples)
    true = sampled(data[data["metric"] == "sustained"], samples)
    gap = reported - true
    if gap.isna().any() or gap.empty:
        raise ValueError("every run needs both metrics, reported and sustained")
    worst = float(gap.max())
    at = gap.idxmax()
    reason = f"reported {reported[at]:.4g}, sustained {true[at]:.4g}: {worst:.4g} against <= {bound:g}"
    return Decision(
        "holds" if worst <= bound else "violated", worst, worst, worst, len(gap), reason,
        per_seed(data[data["metric"] == "sustained"], ""),
    )  # fmt: skip


@claim_test(exact=True)
def best_in_the_middle(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, best: float, others: list[float]
) -> Decision:
    """Decide that the mean over samples at `best` exceeds that at each of `others` (fixed published starts)."""
    means = {
        point: float(sampled(data[same(data[axis], point)], samples).mean()) for point in [best, *others]
    }
    lead = means[best] - max(means[point] for point in others)
    reason = ", ".join(f"{axis}={point:g}: {mean:.4g}" for point, mean in means.items())
    kept = per_seed(data[same(data[axis], best)], f"{axis}={best:g}")
    return Decision("holds" if lead > 0 else "violated", lead, lead, lead, len(means), reason, kept)
