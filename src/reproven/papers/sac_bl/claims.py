"""Claim tests that only this paper needs; the others are in `harness.claims`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from reproven.harness.claims import claim_test
from reproven.harness.decision import Decision


@claim_test(exact=True)
def pathwise_order(
    data: pd.DataFrame, *, samples: Sequence[str], confidence: float, axis: str, order: Sequence[str]
) -> Decision:
    """The metric grows along `order` on every single sample: value(order[0]) <= value(order[1]) <= ...

    `samples` must name all coordinates but `axis`, so that nothing is averaged. `ours` is the largest step down.
    """
    table = data.pivot_table(index=list(samples), columns=axis, values="value", aggfunc=list)
    missing = [name for name in order if name not in table]
    if missing or table[list(order)].isna().any(axis=None):
        return Decision("failed", reason=f"no complete set of samples for {missing or list(order)}")
    if table[list(order)].map(len).ne(1).any(axis=None):
        return Decision("failed", reason=f"{list(samples)} do not tell the measurements apart")
    values = table[list(order)].map(lambda cell: cell[0]).to_numpy()
    if not np.isfinite(values).all():
        return Decision("failed", n=len(values), reason="a measurement is not finite")
    worst = float(np.max(values[:, :-1] - values[:, 1:]))
    broken = int((np.diff(values, axis=1) < -1e-12).any(axis=1).sum())
    verdict = "holds" if broken == 0 else "violated"
    reason = f"{broken} of {len(values)} samples leave the order {' <= '.join(order)}"
    return Decision(verdict, worst, worst, worst, len(values), reason, {"broken": float(broken)})


@claim_test(exact=False)
def mean_within(
    data: pd.DataFrame, *, samples: Sequence[str], confidence: float, low: float, high: float
) -> Decision:
    """The mean over samples lies in [low, high]: equivalence by a t interval."""
    values = data.groupby(list(samples))["value"].mean()
    if len(values) < 2 or not np.isfinite(values).all():
        return Decision("failed", n=len(values), reason="needs at least two finite samples")
    mean, half = float(values.mean()), float(stats.t.ppf((1 + confidence) / 2, len(values) - 1) * values.sem())
    ci = (mean - half, mean + half)
    inside, outside = low <= ci[0] and ci[1] <= high, ci[1] < low or ci[0] > high
    verdict = "holds" if inside else "violated" if outside else "inconclusive"
    reason = f"mean {mean:.4g}, interval [{ci[0]:.4g}, {ci[1]:.4g}] against [{low:g}, {high:g}]"
    kept = {_key(samples, index): float(v) for index, v in values.items()}
    return Decision(verdict, mean, *ci, len(values), reason, kept)


@claim_test(exact=False)
def follows_beta(data: pd.DataFrame, *, samples: Sequence[str], confidence: float, margin: float) -> Decision:
    """The measurements follow Beta(k + 1 - rank, rank), `k` and `rank` being coordinates.

    Kolmogorov distance within `margin`, with the Dvoretzky-Kiefer-Wolfowitz band around it.
    """
    values = data["value"].to_numpy()
    if len(values) == 0 or not np.isfinite(values).all():
        return Decision("failed", n=len(values), reason="needs finite measurements")
    k, rank = float(data["k"].iloc[0]), float(data["rank"].iloc[0])
    distance = float(stats.kstest(values, stats.beta(k + 1 - rank, rank).cdf).statistic)
    band = float(np.sqrt(np.log(2 / (1 - confidence)) / (2 * len(values))))
    low, high = max(0.0, distance - band), distance + band
    verdict = "holds" if high <= margin else "violated" if low > margin else "inconclusive"
    reason = f"Kolmogorov distance {distance:.4f} to Beta({k + 1 - rank:g}, {rank:g}), at most {high:.4f}"
    return Decision(verdict, distance, low, high, len(values), reason, {"distance": distance})


def _key(samples: Sequence[str], index: object) -> str:
    values = index if isinstance(index, tuple) else (index,)
    return ",".join(f"{name}={value}" for name, value in zip(samples, values))
