"""Claim tests that only this paper needs; the others are in `harness.claims`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from reproven.harness import intervals
from reproven.harness.claims import claim_test, combine, judge, per_seed, same
from reproven.harness.decision import Decision


def _along(data: pd.DataFrame, axis: str) -> pd.Series:
    """Return one value for each point of `axis`, in order; ValueError where rows are not told apart by it."""
    found = data.groupby(axis, sort=True)["value"].agg(["first", "count"])
    if (found["count"] > 1).any():
        raise ValueError(f"{axis} does not tell the measurements apart; narrow `where`")
    return found["first"]


@claim_test(exact=True)
def each_falls(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, floor: float
) -> Decision:
    """Decide that the curve falls strictly along `axis` and stays above `floor`, its limit. `ours`: its last value."""
    values = _along(data, axis)
    if len(values) < 2:
        raise ValueError(f"one point of {axis} has no neighbour")
    last = float(values.iloc[-1])
    falls = bool((np.diff(values) < 0).all() and (values > floor).all())
    reason = f"{', '.join(f'{v:.4g}' for v in values)} along {axis}, limit {floor:g}"
    return Decision(
        "holds" if falls else "violated", last, last, last, len(values), reason, _kept(data, values)
    )


@claim_test(exact=True)
def each_in_order(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, order: list[Any]
) -> Decision:
    """Decide that the value rises strictly along `order` of `axis`, at each point of `samples`. `ours`: least step."""
    if not samples:
        raise ValueError("name the coordinate at whose points the order is checked")
    steps = {}
    for point, rows in data.groupby(samples if len(samples) > 1 else samples[0], sort=True):
        values = _along(rows[same(rows[axis], list(order))], axis)
        missing = [name for name in order if name not in values.index]
        if missing:
            raise ValueError(f"nothing measured at {axis}={missing[0]}")
        least = min(float(values[b] - values[a]) for a, b in itertools.pairwise(order))
        steps[str(point)] = least
    worst = min(steps.values())
    verdict = "holds" if worst > 0 else "violated"
    reason = (
        f"least step {worst:.4g} between neighbours of {', '.join(map(str, order))}, over {len(steps)} points"
    )
    return Decision(
        verdict, worst, worst, worst, len(steps), reason, {f"point={k}": v for k, v in steps.items()}
    )


@claim_test(exact=True)
def follows(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    axis: str,
    values: list[float],
    atol: float,
    keys: list[Any] | None = None,
) -> Decision:
    """Decide that the curve along `axis` (at `keys`, or in its own order) is `values` within `atol`.

    `ours`: the largest difference.
    """
    found = _along(data, axis)
    ours = found.loc[keys].to_numpy() if keys else found.to_numpy()
    if len(ours) != len(values):
        raise ValueError(f"{len(ours)} points of {axis} against {len(values)} values")
    worst = float(np.abs(ours - np.array(values, dtype=float)).max())
    reason = f"{', '.join(f'{v:.4g}' for v in ours)} against {', '.join(f'{v:g}' for v in values)}, within {atol:g}"
    verdict = "holds" if worst <= atol else "violated"
    return Decision(verdict, worst, worst, worst, len(ours), reason, _kept(data, found))


@claim_test(exact=True)
def nearest(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    axis: str,
    winner: Any,
    rivals: list[Any],
    goal: float,
) -> Decision:
    """Decide that at `winner` the value is strictly nearer to `goal` than at every rival. `ours`: the lead."""
    distance = (_along(data, axis) - goal).abs()
    lead = float(min(distance[r] for r in rivals) - distance[winner])
    reason = f"{winner} is {distance[winner]:.4g} from {goal:g}, the best rival {distance[rivals].min():.4g}"
    return Decision("holds" if lead > 0 else "violated", lead, lead, lead, len(distance), reason, {})


@claim_test(exact=True)
def ratio_of_rows_at_least(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, a: Any, b: Any, bound: float
) -> Decision:
    """Decide that the value at `a` is at least `bound` times that at `b`, single measurements."""
    values = _along(data, axis)
    ratio = float(values[a] / values[b])
    verdict = "holds" if ratio >= bound else "violated"
    return Decision(verdict, ratio, ratio, ratio, 2, f"{a} over {b}: {ratio:.4g} against >= {bound:g}", {})


@claim_test(exact=True)
def difference_of_rows_at_least(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, a: Any, b: Any, bound: float
) -> Decision:
    """Decide that the value at `a` exceeds that at `b` by at least `bound`, single measurements."""
    values = _along(data, axis)
    gap = float(values[a] - values[b])
    verdict = "holds" if gap >= bound else "violated"
    return Decision(verdict, gap, gap, gap, 2, f"{a} less {b}: {gap:.4g} against >= {bound:g}", {})


@claim_test(exact=False)
def beats(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    method: str,
    rival: str,
    higher: bool,
    per: list[str] | None = None,
) -> Decision:
    """Report the paired interval of `method` less `rival`, turned so that above zero `method` is better.

    An open question: `holds` where the whole interval is at zero or above, `violated` where it is below.
    """
    parts = []
    grouped = data.groupby(per, sort=True) if per else [("", data)]
    level = 1 - (1 - confidence) / max(1, len(grouped) if per else 1)
    for point, rows in grouped:
        table = rows.pivot_table(index=samples, columns="method", values="value")
        both = table[[method, rival]].dropna()
        if len(both) < len(table) or both.empty:
            raise ValueError(f"{len(table) - len(both)} samples lack {method} or {rival}")
        gain = (both[method] - both[rival]).to_numpy() * (1.0 if higher else -1.0)
        low, high = intervals.mean_interval(gain, level)
        ours = float(gain.mean())
        label = f"{per}={point}" if per else ""
        reason = f"{method} is better than {rival} by {ours:.4g} [{low:.4g}, {high:.4g}]"
        verdict = judge(low, high, 0.0, np.inf)
        parts.append((label, Decision(verdict, ours, low, high, len(gain), reason, {}), low))
    return combine(parts)


def _kept(data: pd.DataFrame, values: pd.Series) -> dict[str, float]:
    last = values.index[-1]
    axis = values.index.name
    return per_seed(data[same(data[axis], last.item() if hasattr(last, "item") else last)], "last")
