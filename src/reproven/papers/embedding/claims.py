"""Claim tests that only this paper needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from reproven.harness.claims import claim_test, paired, per_seed
from reproven.harness.decision import Decision


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
