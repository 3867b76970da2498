"""Named tests that decide claims from stored measurements. Papers add their own in ``papers/<slug>/claims.py``.

A test is ``test(data, *, samples, confidence, **params) -> Decision``. `data` holds the rows of one target: the
metric and the coordinates asked for. Rows are averaged over everything but `samples`, the axes whose combinations
are independent. With ``per: [coords]`` the claim must hold in every group; the worst group is reported.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reproven.harness import intervals
from reproven.harness.decision import Decision
from reproven.harness.errors import UserError, did_you_mean

Estimate = Callable[
    [pd.DataFrame, float], tuple[float, float, float, int]
]  # (rows, level) -> ours, low, high, n
SEVERITY = ("failed", "violated", "inconclusive", "holds")


@dataclass(frozen=True)
class ClaimTest:
    """A registered test. exact: met or not, without an interval; otherwise decided at a simultaneous level."""

    name: str
    function: Callable[..., Decision]
    exact: bool

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Return what `params` may hold."""
        found = dict(inspect.signature(self.function).parameters)
        return {k: p for k, p in found.items() if k not in ("data", "samples", "confidence")}


CLAIM_TESTS: dict[str, ClaimTest] = {}


def claim_test(exact: bool) -> Callable[[Callable[..., Decision]], Callable[..., Decision]]:
    """Declare a claim test; the function stays a plain function."""

    def register(function: Callable[..., Decision]) -> Callable[..., Decision]:
        name = (
            function.__name__
            if function.__module__ == __name__
            else f"{function.__module__}.{function.__name__}"
        )
        CLAIM_TESTS[name] = ClaimTest(name, function, exact)
        return function

    return register


def resolve(name: str) -> ClaimTest:
    """Return a test by its generic name or dotted path; UserError with the nearest name when unknown."""
    if "." in name and name not in CLAIM_TESTS:
        try:
            importlib.import_module(name.rpartition(".")[0])
        except ImportError as error:
            raise UserError(f"claim test {name!r}: {error}") from None
    if name not in CLAIM_TESTS:
        raise UserError(f"no claim test {name!r}{did_you_mean(name, CLAIM_TESTS)}")
    return CLAIM_TESTS[name]


# --- what tests are made of ------------------------------------------------------------------------------


def groups(data: pd.DataFrame, per: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (label, rows) for each combination of the `per` coordinates; one group without any."""
    if not per:
        yield "", data
        return
    _need(data, per)
    for point, rows in data.groupby(list(per), sort=True, dropna=False):
        yield key(per, point), rows


def key(names: Sequence[str], point: Any) -> str:
    """Return ``"n=10,seed=0"``; whole numbers without a point, so that keys outlive a change of type."""
    values = point if isinstance(point, tuple) else (point,)
    return ",".join(f"{n}={_word(v)}" for n, v in zip(names, values))


def sampled(data: pd.DataFrame, samples: Sequence[str]) -> pd.Series:
    """Return one value a sample: the mean over all rows that share the `samples` coordinates."""
    _need(data, samples)
    if not samples:
        return data["value"].reset_index(drop=True)
    return data.groupby(list(samples), sort=True, dropna=False)["value"].mean()


def per_seed(
    data: pd.DataFrame,
    label: str,
    statistic: Callable[[pd.DataFrame], float] = lambda rows: rows["value"].mean(),
) -> dict[str, float]:
    """Return what the regression gate keeps of a group: the statistic of each base seed alone."""
    prefix = f"{label}," if label else ""
    return {f"{prefix}seed={_word(s)}": float(statistic(rows)) for s, rows in data.groupby("seed", sort=True)}


def paired(data: pd.DataFrame, samples: Sequence[str], axis: str, a: Hashable, b: Hashable) -> pd.DataFrame:
    """Return columns ``a`` and ``b``: the values of the same samples at two points of `axis`.

    ValueError when a sample is at only one of them: a comparison of other samples is no pairing.
    """
    _need(data, [axis])
    sides = {}
    for name, point in (("a", a), ("b", b)):
        rows = data[same(data[axis], point)]
        if rows.empty:
            raise ValueError(f"no measurement at {axis}={point}")
        sides[name] = sampled(rows, samples)
    table = pd.concat(sides, axis=1)
    if table.isna().to_numpy().any():
        raise ValueError(f"{int(table.isna().any(axis=1).sum())} samples are at only one of {axis}={a}, {b}")
    return table


def same(column: pd.Series, wanted: Any) -> pd.Series:
    """Tell which entries equal `wanted` (any of a list), where 5, 5.0 and a column turned float are the same."""
    options = wanted if isinstance(wanted, list | tuple) else [wanted]
    found = pd.Series(False, index=column.index)
    for option in options:
        if isinstance(option, int | float) and not isinstance(option, bool):
            numbers = (
                column if pd.api.types.is_numeric_dtype(column) else pd.to_numeric(column, errors="coerce")
            )
            found |= np.isclose(numbers.astype(float), float(option), rtol=1e-12, atol=0.0)
        else:
            found |= column.astype(object) == option
    return found


def combine(parts: Sequence[tuple[str, Decision, float]]) -> Decision:
    """Return the worst group's decision, with the samples of all. Each part: (label, decision, slack).

    slack: by how much the decision's own interval clears the bar; the least slack is the worst of equals.
    """
    if not parts:
        raise ValueError("no measurement")
    label, worst, _ = min(
        parts, key=lambda p: (SEVERITY.index(p[1].verdict), p[2] if math.isfinite(p[2]) else -math.inf)
    )
    kept = {k: v for _, decision, _ in parts for k, v in decision.samples.items()}
    where = f" ({label}; the worst of {len(parts)})" if label else ""
    return Decision(
        worst.verdict, worst.ours, worst.ci_low, worst.ci_high, worst.n, worst.reason + where, kept
    )


def judge(low: float, high: float, floor: float, ceiling: float) -> str:
    """Return the verdict of the interval [low, high] against the allowed range [floor, ceiling]."""
    if low >= floor and high <= ceiling:
        return "holds"
    return "violated" if low > ceiling or high < floor else "inconclusive"


def _against(
    data: pd.DataFrame,
    per: Sequence[str],
    confidence: float,
    floor: float,
    ceiling: float,
    estimate: Estimate,
    what: str,
) -> Decision:
    """Compare an estimate of each group with an allowed range; the level is shared between the groups."""
    members = list(groups(data, per or []))
    level = 1 - (1 - confidence) / max(1, len(members))
    parts = []
    for label, rows in members:
        ours, low, high, n = estimate(rows, level)
        slack = min(low - floor, ceiling - high)
        bar = " and ".join(f"{s} {b:g}" for s, b in ((">=", floor), ("<=", ceiling)) if math.isfinite(b))
        reason = f"{what} {ours:.4g} [{low:.4g}, {high:.4g}] against {bar}"
        kept = per_seed(rows, label, _first(estimate))
        decision = Decision(judge(low, high, floor, ceiling), ours, low, high, n, reason, kept)
        parts.append((label, decision, slack))
    return combine(parts)


def _mean(samples: Sequence[str]) -> Estimate:
    def estimate(rows: pd.DataFrame, level: float) -> tuple[float, float, float, int]:
        x = sampled(rows, samples).to_numpy()
        return (float(x.mean()), *intervals.mean_interval(x, level), len(x))

    return estimate


def _first(estimate: Estimate) -> Callable[[pd.DataFrame], float]:
    return lambda rows: estimate(rows, 0.95)[0]


def _need(data: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in data.columns:
            raise ValueError(f"no coordinate {name!r}{did_you_mean(name, [str(c) for c in data.columns])}")


def _word(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


# --- statistical tests -----------------------------------------------------------------------------------


@claim_test(exact=False)
def mean_at_most(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    bound: float,
    margin: float = 0.0,
    per: list[str] | None = None,
) -> Decision:
    """Decide ``mean <= bound + margin`` by Student's interval of the mean over samples."""
    return _against(data, per or [], confidence, -math.inf, bound + margin, _mean(samples), "mean")


@claim_test(exact=False)
def mean_at_least(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    bound: float,
    margin: float = 0.0,
    per: list[str] | None = None,
) -> Decision:
    """Decide ``mean >= bound - margin`` by Student's interval of the mean over samples."""
    return _against(data, per or [], confidence, bound - margin, math.inf, _mean(samples), "mean")


@claim_test(exact=False)
def mean_within(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    low: float,
    high: float,
    per: list[str] | None = None,
) -> Decision:
    """Decide ``low <= mean <= high`` (equivalence) by Student's interval of the mean over samples."""
    return _against(data, per or [], confidence, low, high, _mean(samples), "mean")


@claim_test(exact=False)
def slope_within(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    x: str,
    low: float = -math.inf,
    high: float = math.inf,
    log: bool = True,
    per: list[str] | None = None,
) -> Decision:
    """Decide that the slope of the mean curve against `x` lies in [low, high]; log-log unless ``log: false``."""
    units = [s for s in samples if s != x]

    def estimate(rows: pd.DataFrame, level: float) -> tuple[float, float, float, int]:
        _need(rows, [x, *units])
        table = rows.pivot_table(index=units or (lambda _: 0), columns=x, values="value", aggfunc="mean")
        if table.isna().to_numpy().any():
            raise ValueError(f"some samples lack some points of {x!r}")
        points = table.columns.to_numpy(dtype=float)
        return (*intervals.slope_interval(points, table.to_numpy(), log, level), len(table))

    return _against(data, per or [], confidence, low, high, estimate, "slope")


@claim_test(exact=False)
def ordering(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    axis: str,
    order: list[Any],
    strict: bool = False,
    margin: float = 0.0,
    per: list[str] | None = None,
) -> Decision:
    """Decide that the mean does not fall along `order` (rises, when strict): paired differences of neighbours."""
    members = list(groups(data, per or []))
    level = 1 - (1 - confidence) / max(1, len(members) * (len(order) - 1))
    parts = []
    for label, rows in members:
        for a, b in itertools.pairwise(order):
            table = paired(rows, samples, axis, a, b)
            x = (table["b"] - table["a"]).to_numpy()
            low, high = intervals.mean_interval(x, level)
            verdict = judge(low, high, -margin, math.inf)
            if strict and verdict == "holds" and low <= 0:
                verdict = "violated" if high <= 0 else "inconclusive"
            ours = float(x.mean())
            sign = ">" if strict else ">="
            reason = f"{axis}={b} less {a}: {ours:.4g} [{low:.4g}, {high:.4g}] against {sign} {-margin:g}"
            step = f"{label + ',' if label else ''}{axis}={a}|{b}"
            kept = per_seed(rows, step, _first(_difference(samples, axis, b, a)))
            parts.append((label, Decision(verdict, ours, low, high, len(x), reason, kept), low))
    return combine(parts)


@claim_test(exact=False)
def proportion_at_least(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, per: list[str] | None = None
) -> Decision:
    """Decide that at least a share `bound` of samples (values 0 or 1) succeeds, by Wilson's interval."""
    return _against(data, per or [], confidence, bound, 1.0, _share(samples), "share")


@claim_test(exact=False)
def proportion_at_most(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, per: list[str] | None = None
) -> Decision:
    """Decide that at most a share `bound` of samples (values 0 or 1) succeeds, by Wilson's interval."""
    return _against(data, per or [], confidence, 0.0, bound, _share(samples), "share")


def _share(samples: Sequence[str]) -> Estimate:
    def estimate(rows: pd.DataFrame, level: float) -> tuple[float, float, float, int]:
        x = sampled(rows, samples).to_numpy()
        if not np.isin(x, (0.0, 1.0)).all():
            raise ValueError("a proportion needs values 0 or 1, one a sample")
        return (float(x.mean()), *intervals.proportion_interval(int(x.sum()), len(x), level), len(x))

    return estimate


def _difference(samples: Sequence[str], axis: str, a: Any, b: Any) -> Estimate:
    def estimate(rows: pd.DataFrame, level: float) -> tuple[float, float, float, int]:
        table = paired(rows, samples, axis, a, b)
        x = (table["a"] - table["b"]).to_numpy()
        return (float(x.mean()), *intervals.mean_interval(x, level), len(x))

    return estimate


@claim_test(exact=False)
def difference_at_most(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    bound: float,
    axis: str,
    a: Any,
    b: Any,
    per: list[str] | None = None,
) -> Decision:
    """Decide that the mean paired difference, value at `a` less value at `b`, is at most `bound`."""
    return _against(
        data, per or [], confidence, -math.inf, bound, _difference(samples, axis, a, b), f"{a} less {b}"
    )


@claim_test(exact=False)
def difference_at_least(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    bound: float,
    axis: str,
    a: Any,
    b: Any,
    per: list[str] | None = None,
) -> Decision:
    """Decide that the mean paired difference, value at `a` less value at `b`, is at least `bound`."""
    return _against(
        data, per or [], confidence, bound, math.inf, _difference(samples, axis, a, b), f"{a} less {b}"
    )


def _ratio(samples: Sequence[str], axis: str | None, a: Any, b: Any) -> Estimate:
    def estimate(rows: pd.DataFrame, level: float) -> tuple[float, float, float, int]:
        if axis is None:
            x = sampled(rows, samples).to_numpy()
        else:
            table = paired(rows, samples, axis, a, b)
            x = (table["a"] / table["b"]).to_numpy()
        if (x <= 0).any():
            raise ValueError("a ratio of zero or less has no logarithm")
        low, high = intervals.mean_interval(np.log(x), level)
        return float(np.exp(np.log(x).mean())), float(np.exp(low)), float(np.exp(high)), len(x)

    return estimate


@claim_test(exact=False)
def ratio_at_least(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    bound: float,
    axis: str | None = None,
    a: Any = None,
    b: Any = None,
    per: list[str] | None = None,
) -> Decision:
    """Decide that the geometric mean ratio is at least `bound`: of `a` to `b` on `axis`, or of the metric itself."""
    return _against(data, per or [], confidence, bound, math.inf, _ratio(samples, axis, a, b), "ratio")


@claim_test(exact=False)
def ratio_at_most(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    bound: float,
    axis: str | None = None,
    a: Any = None,
    b: Any = None,
    per: list[str] | None = None,
) -> Decision:
    """Decide that the geometric mean ratio is at most `bound`: of `a` to `b` on `axis`, or of the metric itself."""
    return _against(data, per or [], confidence, -math.inf, bound, _ratio(samples, axis, a, b), "ratio")


# --- exact tests -----------------------------------------------------------------------------------------


def _all(
    data: pd.DataFrame,
    per: Sequence[str],
    worst: Callable[[pd.Series], float],
    holds: Callable[[float], bool],
    bar: str,
) -> Decision:
    parts = []
    for label, rows in groups(data, per):
        ours = float(worst(rows["value"]))
        verdict = "holds" if holds(ours) else "violated"
        kept = per_seed(rows, label, lambda part: float(worst(part["value"])))
        decision = Decision(
            verdict, ours, ours, ours, len(rows), f"worst of {len(rows)}: {ours:.6g} against {bar}", kept
        )
        parts.append((label, decision, -abs(ours)))
    return combine(parts)


@claim_test(exact=True)
def all_at_most(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, per: list[str] | None = None
) -> Decision:
    """Decide that every single measurement is at most `bound`."""
    return _all(data, per or [], lambda v: v.max(), lambda x: x <= bound, f"<= {bound:g}")


@claim_test(exact=True)
def all_at_least(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, per: list[str] | None = None
) -> Decision:
    """Decide that every single measurement is at least `bound`."""
    return _all(data, per or [], lambda v: v.min(), lambda x: x >= bound, f">= {bound:g}")


@claim_test(exact=True)
def all_equal(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    value: float,
    atol: float = 0.0,
    rtol: float = 0.0,
    per: list[str] | None = None,
) -> Decision:
    """Decide that every single measurement equals `value` within ``atol + rtol |value|``."""
    tolerance = atol + rtol * abs(value)

    def farthest(values: pd.Series) -> float:
        return float(values.to_numpy()[int(np.argmax(np.abs(values.to_numpy() - value)))])

    return _all(
        data, per or [], farthest, lambda x: abs(x - value) <= tolerance, f"{value:g} within {tolerance:g}"
    )
