"""Claim tests of this paper alone."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from reproven.harness.claims import claim_test, key
from reproven.harness.decision import Decision


def _samples(data: pd.DataFrame, samples: list[str]) -> dict[str, float]:
    names = [*samples, "metric"]
    return {key(names, tuple(row[n] for n in names)): float(row["value"]) for _, row in data.iterrows()}


@claim_test(exact=True)
def some_above(data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float) -> Decision:
    """Decide that at least one measurement exceeds `bound`."""
    largest = float(data["value"].max())
    verdict = "holds" if largest > bound else "violated"
    return Decision(
        verdict, largest, largest, largest, len(data), f"largest {largest:.6g} against > {bound:g}"
    )


@claim_test(exact=True)
def both_at_least(
    data: pd.DataFrame, *, samples: list[str], confidence: float, floors: Mapping[str, float]
) -> Decision:
    """Decide that every measurement of each metric reaches that metric's own floor."""
    missing = [m for m in floors if m not in set(data["metric"])]
    if missing:
        raise ValueError(f"no measurement of {missing[0]}")
    slack = {m: float(data[data["metric"] == m]["value"].min()) - floor for m, floor in floors.items()}
    worst = min(slack, key=lambda m: slack[m])
    ours = slack[worst] + floors[worst]
    verdict = "holds" if slack[worst] >= 0 else "violated"
    reason = f"least {worst} {ours:.4g} against >= {floors[worst]:g}"
    return Decision(verdict, ours, ours, ours, len(data), reason, _samples(data, samples))


@claim_test(exact=True)
def passes_and_fails(
    data: pd.DataFrame, *, samples: list[str], confidence: float, passes: str, fails: str
) -> Decision:
    """Decide that every measurement of `passes` is 1 while every one of `fails` is below 0.5."""
    up, down = (data[data["metric"] == m]["value"] for m in (passes, fails))
    if up.empty or down.empty:
        raise ValueError(f"no measurement of {passes if up.empty else fails}")
    verdict = "holds" if (up == 1).all() and (down < 0.5).all() else "violated"
    worst = float(down.max())
    reason = f"{passes} least {up.min():.4g}, {fails} largest {worst:.4g} against < 0.5"
    return Decision(verdict, worst, worst, worst, len(data), reason, _samples(data, samples))
