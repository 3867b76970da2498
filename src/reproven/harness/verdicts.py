"""Verdicts: measurements joined with targets, by intervals against margins fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from reproven.harness import intervals
from reproven.harness.claims import per_seed, resolve, same, sampled
from reproven.harness.decision import Decision
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
    statistical = sum(t.statistical for t in targets)
    confidence = 1 - CLAIM_ERROR / max(1, statistical)
    by_metric = dict(iter(data.groupby(["experiment", "metric"], sort=False))) if len(data) else {}
    rows = []
    for target in targets:
        found = [by_metric[k] for m in target.metric if (k := (target.experiment, m)) in by_metric]
        mine = pd.concat(found) if len(found) > 1 else found[0] if found else data.iloc[:0]
        mine, missing = _where(mine, target.where)
        decision = _decide(
            target, mine, missing, tier, confidence, absent.get((target.experiment, target.id))
        )
        rows.append(_row(target, mine, decision, tier, hardware))
    return rows


def _decide(
    target: Target,
    data: pd.DataFrame,
    missing: str,
    tier: str,
    confidence: float,
    absent: tuple[str, str] | None,
) -> Decision:
    if tier not in target.tiers:
        return Decision("reduced", reason=f"the {tier} tier is too small to decide this")
    if absent is not None:
        return Decision(absent[0], reason=absent[1])
    if missing:
        return Decision("failed", reason=f"no measurement at {missing}")
    if data.empty:
        return Decision("not-run", reason="no run has measured this")
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
        return resolve(target.test).function(data, samples=samples, confidence=confidence, **target.params)
    except ValueError as error:
        return Decision("failed", n=len(data), reason=str(error))


def _value(target: Target, data: pd.DataFrame) -> Decision:
    """Compare with a printed number: is it where a repeat of ours, at the paper's number of seeds, would fall?"""
    assert target.value is not None
    assert target.margin is not None
    x = sampled(data, target.samples).to_numpy()
    ours, printed, n = float(x.mean()), target.value, len(x)
    kept = per_seed(data, "")
    if target.interval == "exact":
        close = abs(ours - printed) <= target.margin
        verdict = "reproduced" if close else _outside(target, ours)
        return Decision(
            verdict, ours, ours, ours, n, f"{ours:.6g} against {printed:.6g} within {target.margin:g}", kept
        )
    if n < 2:
        return Decision("single-run", ours, None, None, n, "one sample has no spread", kept)
    low, high = _predict(target, x)
    reason = f"printed {printed:.4g}, a repeat at {target.seeds} seeds falls in [{low:.4g}, {high:.4g}]"
    if not low <= printed <= high:
        return Decision(_outside(target, ours), ours, low, high, n, reason, kept)
    if (high - low) / 2 > target.margin:
        return Decision(
            "inconclusive", ours, low, high, n, f"{reason}, wider than the margin {target.margin:g}", kept
        )
    return Decision("reproduced", ours, low, high, n, reason, kept)


def _predict(target: Target, x: np.ndarray) -> tuple[float, float]:
    if target.interval == "bootstrap":
        return intervals.bootstrap_prediction_interval(x, target.seeds, PREDICTION_CONFIDENCE)
    if target.interval == "binomial":
        if not np.isin(x, (0.0, 1.0)).all():
            raise ValueError("interval: binomial needs values 0 or 1, one a sample")
        return intervals.binomial_prediction_interval(
            int(x.sum()), len(x), target.seeds, PREDICTION_CONFIDENCE
        )
    return intervals.prediction_interval(x, target.seeds, PREDICTION_CONFIDENCE)


def _outside(target: Target, ours: float) -> str:
    assert target.value is not None
    wanted = {"higher": ours > target.value, "lower": ours < target.value}
    return "better" if target.better is not None and wanted[target.better] else "deviates"


def _where(data: pd.DataFrame, where: Mapping[str, object]) -> tuple[pd.DataFrame, str]:
    """Return the rows at the coordinates, and the first wanted coordinate that nothing was measured at."""
    missing = ""
    for name, wanted in where.items():
        if name not in data.columns:
            return data.iloc[:0], "" if data.empty else f"{name}={wanted}"
        before = data
        data = data[same(data[name], wanted)]
        options = wanted if isinstance(wanted, list | tuple) else [wanted]
        absent = [o for o in options if not same(before[name], o).any()]
        if absent and len(before) and not missing:
            missing = f"{name}={absent[0]}"
    return data, missing


def _row(target: Target, data: pd.DataFrame, decision: Decision, tier: str, hardware: str) -> Row:
    def only(name: str) -> str:
        wanted = target.where.get(name)
        if isinstance(wanted, str):
            return wanted
        names = sorted(set(data[name].dropna().astype(str))) if name in data.columns else []
        return names[0] if len(names) == 1 else ""

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
        unit=target.unit,
        verdict=decision.verdict,
        reason=" ".join(decision.reason.split()),
        runs=tuple(sorted(set(data["run"]))) if len(data) else (),
        samples=decision.samples,
    )
