"""Claim tests that only this paper needs; the others are in `harness.claims`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reproven.harness.claims import claim_test, combine, judge, paired, per_seed, same
from reproven.harness.decision import Decision


@claim_test(exact=True)
def pathwise_order(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, order: list[Any]
) -> Decision:
    """Decide that value(order[0]) <= value(order[1]) <= ... on every single sample, not only in the mean.

    `samples` name all coordinates but `axis`, so that nothing is averaged. `ours` is the number of samples that
    break the order; rounding of 1e-12 is forgiven.
    """
    rows = data[same(data[axis], list(order))]
    if rows.duplicated([*samples, axis]).any():
        raise ValueError(f"{samples} and {axis} do not tell the measurements apart; name every coordinate")
    parts = []
    for a, b in itertools.pairwise(order):
        table = paired(rows, samples, axis, a, b)
        broken = float((table["a"] > table["b"] + 1e-12).sum())
        reason = f"{broken:g} of {len(table)} samples have {a} above {b}"
        verdict = "violated" if broken else "holds"
        kept = {f"{axis}={a}|{b}": broken}
        parts.append(("", Decision(verdict, broken, broken, broken, len(table), reason, kept), -broken))
    return combine(parts)


@claim_test(exact=False)
def follows_beta(data: pd.DataFrame, *, samples: list[str], confidence: float, margin: float) -> Decision:
    """Decide that the measurements follow Beta(k + 1 - rank, rank), `k` and `rank` being coordinates.

    Kolmogorov's distance is at most `margin`, by the Dvoretzky-Kiefer-Wolfowitz band around it.
    """
    values = data["value"].to_numpy()
    k, rank = float(data["k"].iloc[0]), float(data["rank"].iloc[0])
    distance = float(stats.kstest(values, stats.beta(k + 1 - rank, rank).cdf).statistic)
    band = float(np.sqrt(np.log(2 / (1 - confidence)) / (2 * len(values))))
    low, high = max(0.0, distance - band), distance + band
    reason = (
        f"distance {distance:.4f} to Beta({k + 1 - rank:g}, {rank:g}), at most {high:.4f}, against {margin:g}"
    )
    return Decision(
        judge(low, high, 0.0, margin), distance, low, high, len(values), reason, per_seed(data, "")
    )
