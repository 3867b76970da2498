"""Verdicts: measurements joined with targets, by intervals against margins fixed beforehand.

A claim holds or is violated only where its whole interval says so, at a level that keeps all statistical claims of
a paper right together with probability 99 %. A printed number is reproduced where it lies in the interval in which a
repeat of ours, with the paper's own number of seeds, would fall, and that interval is no wider than the margin.
Nothing that is missing or not finite passes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from reproven.harness import intervals
from reproven.harness.claims import resolve
from reproven.harness.decision import CLAIM_VERDICTS, Decision
from reproven.harness.samples import key, per_seed, rate_range, same, sampled
from reproven.harness.targets import Target

CLAIM_ERROR = 0.01  # of a whole paper's statistical claims together
PREDICTION_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Row:
    """One row of ``verdicts.csv``, with what the regression gate needs beside it."""

    paper: str
    experiment: str
    target: str
    kind: str
    tier: str
    hardware: str
    method: str
    dataset: str
    ours: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    paper_value: float | None
    margin: float | None
    unit: str
    verdict: str
    reason: str
    runs: tuple[str, ...]
    samples: Mapping[str, float] = field(default_factory=dict, repr=False)


def decide(
    targets: Sequence[Target],
    data: pd.DataFrame,
    *,
    tier: str,
    hardware: str,
    absent: Mapping[tuple[str, str], tuple[str, str]],
) -> list[Row]:
    """Return a row for every target of one paper at one tier on one hardware class.

    data: the measurements of that tier and hardware alone. absent: (experiment, target) -> (state, reason) where
    runs that the target rests on are not done; such a target gets that state as its verdict, whatever else there is.
    Statistical claims share an error of 1 % (Bonferroni over all of `targets`, whatever has run).
    """
    if len(data) and (set(data["tier"]) != {tier} or set(data["hardware"]) != {hardware}):
        raise ValueError(
            f"measurements of other tiers or hardware than {tier}, {hardware} are never mixed in"
        )
    statistical = sum(t.statistical for t in targets)
    confidence = 1 - CLAIM_ERROR / max(1, statistical)
    measured = Measured(data)
    rows = []
    for target in targets:
        gap = absent.get((target.experiment, target.id))
        if gap is None and target.experiment not in measured.experiments:
            gap = ("not-run", "no run has measured this")
        if tier not in target.tiers:
            gap = ("reduced", f"the {tier} tier is too small to decide this")
        mine, missing = (measured.empty, "") if gap else measured.of(target)
        decision = Decision(gap[0], reason=gap[1]) if gap else _decide(target, mine, missing, confidence)
        rows.append(_row(target, mine, decision, tier, hardware))
    return rows


class Measured:
    """Measurements indexed by experiment and metric; which rows lie at a coordinate is found out once."""

    def __init__(self, data: pd.DataFrame) -> None:
        self.empty = data.iloc[:0]
        grouped = data.groupby(["experiment", "metric"], sort=False) if len(data) else []
        self.parts = {
            k: rows.drop(columns=[c for c in rows if c != "value" and rows[c].isna().to_numpy().all()])
            for k, rows in grouped
        }
        self.experiments = {experiment for experiment, _ in self.parts}
        self.frames: dict[tuple[str, ...], pd.DataFrame] = {}
        self.masks: dict[tuple[Any, ...], np.ndarray] = {}

    def of(self, target: Target) -> tuple[pd.DataFrame, str]:
        """Return the rows at the target's coordinates, and the first of these that nothing was measured at."""
        for metric in target.metric:
            if (target.experiment, metric) not in self.parts:
                return self.empty, f"metric={metric}"
        source = (target.experiment, *target.metric)
        if source not in self.frames:
            parts = [self.parts[target.experiment, m] for m in target.metric]
            self.frames[source] = parts[0] if len(parts) == 1 else pd.concat(parts)
        data = self.frames[source]
        keep, missing = np.ones(len(data), dtype=bool), ""
        for name, wanted in target.where.items():
            if name not in data.columns:
                return self.empty, missing or f"{name}={wanted}"
            chosen = np.zeros(len(data), dtype=bool)
            for option in wanted if isinstance(wanted, list | tuple) else [wanted]:
                at = self._at(source, name, option)
                if not missing and not (keep & at).any():
                    missing = f"{name}={option}"
                chosen |= at
            keep &= chosen
        data = data if keep.all() else data[keep]
        return data, missing or _missing_group(target, data)

    def _at(self, source: tuple[str, ...], name: str, option: Any) -> np.ndarray:
        place = (source, name, type(option), option)  # True and 1 are one key to a dictionary
        if place not in self.masks:
            self.masks[place] = same(self.frames[source][name], option).to_numpy(dtype=bool)
        return self.masks[place]


def _decide(target: Target, data: pd.DataFrame, missing: str, confidence: float) -> Decision:
    """Return the verdict of one target on its own measurements; `missing` names a coordinate without any."""
    if missing:
        return Decision("failed", reason=f"the runs are done but measured nothing at {missing}")
    bad = data[~np.isfinite(data["value"].to_numpy(dtype=float))]
    if len(bad):
        first = bad.iloc[0]
        return Decision(
            "failed", n=len(data), reason=f"{len(bad)} non-finite values, the first in run {first['run']}"
        )
    try:
        if target.kind == "value":
            return _value(target, data)
        samples = list(target.samples)
        found = resolve(target.test).function(data, samples=samples, confidence=confidence, **target.params)
    except ValueError as error:
        return Decision("failed", n=len(data), reason=str(error))
    except Exception as error:  # a defect in one paper's test must not take the other verdicts with it
        return Decision("failed", n=len(data), reason=f"{target.test}: {type(error).__name__}: {error}")
    return _sound(target, found)


def _sound(target: Target, found: Decision) -> Decision:
    """Return the decision of a test, unless it passes on a number that is none or speaks in other words."""
    if found.verdict not in (*CLAIM_VERDICTS, "failed"):
        return Decision(
            "failed", n=found.n, reason=f"{target.test} said {found.verdict!r}: no claim's verdict"
        )
    ends = [v for v in (found.ci_low, found.ci_high) if v is not None]
    if found.verdict == "holds" and not _finite(found.ours):
        return Decision("failed", n=found.n, reason=f"{target.test} holds on {found.ours}: {found.reason}")
    if any(math.isnan(v) for v in ends):
        return Decision(
            "failed", found.ours, n=found.n, reason=f"{target.test}: an interval end is no number"
        )
    return found


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _value(target: Target, data: pd.DataFrame) -> Decision:
    """Compare with a printed number: is it where a repeat of ours, at the paper's number of seeds, would fall?"""
    assert target.value is not None
    assert target.margin is not None
    x = sampled(data, target.samples).to_numpy()
    ours, printed, n = float(x.mean()), target.value, len(x)
    kept = per_seed(data, "")
    shown = f"printed {printed:.6g}" + (f" ± {target.rounding:.1g}" if target.rounding else "")
    if target.interval == "exact":
        close = abs(ours - printed) <= target.margin
        verdict = "reproduced" if close else _outside(target, ours)
        reason = f"{shown}, ours {ours:.6g}, the same within {target.margin:g}"
        return Decision(verdict, ours, ours, ours, n, reason, kept)
    if n < 2:
        return Decision("single-run", ours, None, None, n, f"{shown}; one sample has no spread", kept)
    low, high = _predict(target, x, rate_range(data))
    reason = f"{shown}, a repeat at {target.seeds} seeds falls in [{low:.4g}, {high:.4g}]"
    if printed + target.rounding < low or printed - target.rounding > high:
        return Decision(_outside(target, ours), ours, low, high, n, reason, kept)
    if (high - low) / 2 > target.margin * (1 + 1e-9):  # shares of a few repeats meet a margin exactly
        reason += f", wider than the margin ± {target.margin:g}"
        return Decision("inconclusive", ours, low, high, n, reason, kept)
    return Decision("reproduced", ours, low, high, n, reason, kept)


def _predict(target: Target, x: np.ndarray, rate: tuple[float, float] | None) -> tuple[float, float]:
    if target.interval == "binomial" and not np.isin(x, (0.0, 1.0)).all():
        raise ValueError("interval: binomial needs values 0 or 1, one a sample")
    if target.interval == "binomial" or (rate is not None and intervals.equal(x)):
        top = 1.0 if rate is None else rate[1]  # a rate without spread: a repeat may see what ours missed
        low, high = intervals.binomial_prediction_interval(
            float(x.sum()) / top, len(x), target.seeds, PREDICTION_CONFIDENCE
        )
        return low * top, high * top
    if target.interval == "bootstrap":
        return intervals.bootstrap_prediction_interval(x, target.seeds, PREDICTION_CONFIDENCE)
    return intervals.prediction_interval(x, target.seeds, PREDICTION_CONFIDENCE)


def _outside(target: Target, ours: float) -> str:
    assert target.value is not None
    wanted = {"higher": ours > target.value, "lower": ours < target.value}
    return "better" if target.better is not None and wanted[target.better] else "deviates"


def _missing_group(target: Target, data: pd.DataFrame) -> str:
    """Return the first group of `per` that the lists of `where` call for and nothing was measured at, or ""."""
    axes = [a for a in target.params.get("per") or () if isinstance(target.where.get(a), list | tuple)]
    if len(axes) < 2 or data.empty:
        return ""
    for point in itertools.product(*(target.where[a] for a in axes)):
        rows = data
        for axis, value in zip(axes, point):
            rows = rows[same(rows[axis], value)]
        if rows.empty:
            return key(axes, point)
    return ""


def _row(target: Target, data: pd.DataFrame, decision: Decision, tier: str, hardware: str) -> Row:
    def only(name: str) -> str:
        wanted = target.where.get(name)
        if isinstance(wanted, str):
            return wanted
        names = data[name].dropna().unique() if name in data.columns else []
        return str(names[0]) if len(names) == 1 else ""

    def number(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else float(value)

    return Row(
        paper=target.paper,
        experiment=target.experiment,
        target=target.id,
        kind=target.kind,
        tier=tier,
        hardware=hardware,
        method=only("method"),
        dataset=only("dataset"),
        ours=number(decision.ours),
        ci_low=number(decision.ci_low),
        ci_high=number(decision.ci_high),
        n=decision.n,
        paper_value=target.value,
        margin=target.margin,
        unit=target.unit or only("unit"),
        verdict=decision.verdict,
        reason=" ".join(decision.reason.split()),
        runs=tuple(sorted(data["run"].unique())),
        samples=decision.samples,
    )
