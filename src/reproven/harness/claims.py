"""Named tests that decide claims from stored measurements. Papers add their own in ``papers/<slug>/claims.py``.

A test is ``test(data, *, samples, confidence, **params) -> Decision``. `data` holds the rows of one target: the
metric and the coordinates asked for. Statistical tests average rows over everything but `samples`, the axes whose
combinations are independent; exact tests look at every single row. With ``per: [coords]`` the claim must hold in
every group, statistical tests share their error between the groups, and the worst group is reported.

Equal samples have an interval of width zero, as befits a deterministic number. A metric in unit ``1`` or ``%`` with
values in that unit's range may be a rate, of which equal samples prove little: its interval is as wide as what n
samples can have missed (`intervals.mean_interval`). What must hold without exception is a case for an exact test.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from reproven.harness import intervals
from reproven.harness.decision import Decision
from reproven.harness.errors import UserError, did_you_mean
from reproven.harness.samples import Cells, cells, groups, key, paired, per_seed, same, sampled

# With `combine` and `judge` below, what papers' own tests are made of.
__all__ = ["claim_test", "combine", "groups", "judge", "key", "paired", "per_seed", "same", "sampled"]

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


@dataclass(frozen=True)
class Statistic:
    """What a test compares: cells -> independent samples, these -> our number, these at a level -> its interval."""

    reduce: Callable[[Cells], np.ndarray]
    value: Callable[[np.ndarray], float]
    interval: Callable[[np.ndarray, float], tuple[float, float]]

    def each_seed(self, group: Cells, label: str) -> dict[str, float]:
        """Return what the regression gate keeps: our number from each base seed alone, where there is one."""
        kept = {}
        for name, part in group.by_seed():
            try:
                kept[f"{label},{name}" if label else name] = float(self.value(self.reduce(part)))
            except ValueError:  # one seed alone does not determine it: its mean has no logarithm, say
                continue
        return kept


CLAIM_TESTS: dict[str, ClaimTest] = {}


def claim_test(exact: bool) -> Callable[[Callable[..., Decision]], Callable[..., Decision]]:
    """Declare a claim test; the function stays a plain function."""

    def register(function: Callable[..., Decision]) -> Callable[..., Decision]:
        own = function.__module__ == __name__
        name = function.__name__ if own else f"{function.__module__}.{function.__name__}"
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
    grouped: Sequence[tuple[str, Cells]],
    confidence: float,
    floor: float,
    ceiling: float,
    statistic: Statistic,
    what: str,
) -> Decision:
    """Compare a statistic of each group with an allowed range; the level is shared between the groups."""
    level = 1 - (1 - confidence) / len(grouped)
    bar = " and ".join(f"{s} {b + 0.0:.6g}" for s, b in ((">=", floor), ("<=", ceiling)) if math.isfinite(b))
    parts = []
    for label, group in grouped:
        x = statistic.reduce(group)
        ours = float(statistic.value(x))
        low, high = map(float, statistic.interval(x, level))
        shown = f"{ours:.6g}" if low == high == ours else f"{ours:.4g} [{low:.4g}, {high:.4g}]"
        reason = f"{what} {shown} against {bar}"
        if low < high and len(x) > 1 and intervals.equal(x):
            reason += f", all {len(x)} samples equal"
        kept = statistic.each_seed(group, label)
        decision = Decision(judge(low, high, floor, ceiling), ours, low, high, len(x), reason, kept)
        parts.append((label, decision, min(low - floor, ceiling - high)))
    return combine(parts)


def _mean_against(
    data: pd.DataFrame,
    samples: Sequence[str],
    per: Sequence[str] | None,
    confidence: float,
    floor: float,
    ceiling: float,
) -> Decision:
    grouped = cells(data, per or [], samples)
    return _against(grouped, confidence, floor, ceiling, _mean(grouped[0][1].rate), "mean")


def _mean(rate: tuple[float, float] | None) -> Statistic:
    return Statistic(
        lambda group: group.table()[:, 0],
        lambda x: float(x.mean()),
        lambda x, level: intervals.mean_interval(x, level, rate),
    )


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
    return _mean_against(data, samples, per, confidence, -math.inf, bound + margin)


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
    return _mean_against(data, samples, per, confidence, bound - margin, math.inf)


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
    return _mean_against(data, samples, per, confidence, low, high)


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
    grouped = cells(data, per or [], [s for s in samples if s != x], x)
    points = np.array(grouped[0][1].members, dtype=float)

    def slope(table: np.ndarray, level: float) -> tuple[float, float, float]:
        there = ~np.isnan(table[0])  # groups may have points of their own
        return intervals.slope_interval(points[there], table[:, there], log, level)

    statistic = Statistic(
        lambda group: group.table(ragged=True),
        lambda table: slope(table, 0.5)[0],
        lambda table, level: slope(table, level)[1:],
    )
    return _against(grouped, confidence, low, high, statistic, "slope")


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
    if len(order) < 2:
        raise ValueError("an ordering needs two members or more")
    grouped = cells(data, per or [], samples, axis, order)
    level = 1 - (1 - confidence) / (len(order) - 1)
    parts = []
    for i, (a, b) in enumerate(itertools.pairwise(order)):
        step = [(f"{label + ',' if label else ''}{axis}={a}|{b}", group) for label, group in grouped]
        statistic = _difference(i + 1, i, grouped[0][1].rate)
        found = _against(step, level, -margin, math.inf, statistic, f"{b} less {a}:")
        low, high = found.ci_low or 0.0, found.ci_high or 0.0
        if strict and found.verdict == "holds" and low <= 0:
            found = replace(found, verdict="violated" if high <= 0 else "inconclusive")
        if strict:
            found = replace(found, reason=found.reason.replace("against >=", "against >"))
        parts.append(("", found, low))
    return combine(parts)


@claim_test(exact=False)
def proportion_at_least(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, per: list[str] | None = None
) -> Decision:
    """Decide that at least a share `bound` of samples (values 0 or 1) succeeds, by Wilson's interval."""
    return _against(cells(data, per or [], samples), confidence, bound, 1.0, _share(), "share")


@claim_test(exact=False)
def proportion_at_most(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, per: list[str] | None = None
) -> Decision:
    """Decide that at most a share `bound` of samples (values 0 or 1) succeeds, by Wilson's interval."""
    return _against(cells(data, per or [], samples), confidence, 0.0, bound, _share(), "share")


def _share() -> Statistic:
    def outcomes(group: Cells) -> np.ndarray:
        x = group.table()[:, 0]
        if not np.isin(x, (0.0, 1.0)).all():
            raise ValueError("a proportion needs values 0 or 1, one a sample")
        return x

    return Statistic(
        outcomes,
        lambda x: float(x.mean()),
        lambda x, level: intervals.proportion_interval(int(x.sum()), len(x), level),
    )


def _difference(a: int, b: int, rate: tuple[float, float] | None) -> Statistic:
    """Return the mean of member `a` less member `b` (by number), paired by sample."""
    support = None if rate is None else (rate[0] - rate[1], rate[1] - rate[0])
    return Statistic(
        lambda group: group.table() @ (np.eye(len(group.members))[a] - np.eye(len(group.members))[b]),
        lambda x: float(x.mean()),
        lambda x, level: intervals.mean_interval(x, level, support),
    )


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
    grouped = cells(data, per or [], samples, axis, [a, b])
    statistic = _difference(0, 1, grouped[0][1].rate)
    return _against(grouped, confidence, -math.inf, bound, statistic, f"{a} less {b}")


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
    grouped = cells(data, per or [], samples, axis, [a, b])
    statistic = _difference(0, 1, grouped[0][1].rate)
    return _against(grouped, confidence, bound, math.inf, statistic, f"{a} less {b}")


def _ratio(rate: tuple[float, float] | None) -> Statistic:
    """Return the geometric mean of the first member over the second, or of the metric itself when it stands alone."""

    def ratios(group: Cells) -> np.ndarray:
        table = group.table()
        if (table <= 0).any():
            raise ValueError("a ratio of zero or less, or to it, has no logarithm")
        return table

    def logs(table: np.ndarray) -> np.ndarray:
        ratio: np.ndarray = table[:, 0] / table[:, 1] if table.shape[1] > 1 else table[:, 0]
        found: np.ndarray = np.log(ratio)
        return found

    def interval(table: np.ndarray, level: float) -> tuple[float, float]:
        x = logs(table)
        if rate is not None and table.shape[1] > 1 and len(x) > 1 and intervals.equal(x):
            half = (1 + level) / 2  # rates without spread: the ends of both means, half of the error each
            (a, b), (c, d) = (intervals.mean_interval(column, half, rate) for column in table.T)
            return a / d, b / c if c > 0 else math.inf
        low, high = intervals.mean_interval(x, level)
        return math.exp(low), math.exp(high)

    return Statistic(ratios, lambda table: math.exp(logs(table).mean()), interval)


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
    grouped = cells(data, per or [], samples, axis, None if axis is None else [a, b])
    return _against(grouped, confidence, bound, math.inf, _ratio(grouped[0][1].rate), "ratio")


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
    grouped = cells(data, per or [], samples, axis, None if axis is None else [a, b])
    return _against(grouped, confidence, -math.inf, bound, _ratio(grouped[0][1].rate), "ratio")


# --- exact tests -----------------------------------------------------------------------------------------


def _all(
    data: pd.DataFrame,
    per: Sequence[str] | None,
    floor: float,
    ceiling: float,
    worst: Callable[[np.ndarray], float],
) -> Decision:
    statistic = Statistic(lambda group: group.value, worst, lambda x, _: (worst(x), worst(x)))
    grouped = cells(data, per or [], [])
    return _against(grouped, 0.5, floor, ceiling, statistic, "worst")  # the level is not used


@claim_test(exact=True)
def all_at_most(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, per: list[str] | None = None
) -> Decision:
    """Decide that every single measurement is at most `bound`."""
    return _all(data, per, -math.inf, bound, lambda x: float(x.max()))


@claim_test(exact=True)
def all_at_least(
    data: pd.DataFrame, *, samples: list[str], confidence: float, bound: float, per: list[str] | None = None
) -> Decision:
    """Decide that every single measurement is at least `bound`."""
    return _all(data, per, bound, math.inf, lambda x: float(x.min()))


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
    farthest = lambda x: float(x[int(np.argmax(np.abs(x - value)))])  # noqa: E731 - one use, below
    return _all(data, per, value - tolerance, value + tolerance, farthest)
