"""Claim tests that only this paper needs: statements over tasks, where a task is one observation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reproven.harness import intervals
from reproven.harness.claims import claim_test, paired, per_seed, same, sampled
from reproven.harness.decision import Decision


@claim_test(exact=False)
def no_dominance(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str = "method", over: str = "task"
) -> Decision:
    """Decide that every pooling is beaten by another one on some task: paired differences, error shared over all.

    `data` is oriented, higher is better. Holds where each member of `axis` has a task and a rival whose interval of
    (rival less member) lies above 0. Violated where some member's interval against every rival on every task lies at
    or above 0 in its favour. Ours: the number of members that are beaten somewhere.
    """
    members, points = sorted(data[axis].unique()), sorted(data[over].unique())
    comparisons = len(members) * (len(members) - 1) // 2 * len(points)
    level = 1 - (1 - confidence) / max(1, comparisons)
    beaten: set[Any] = set()
    unbeatable = set(members)
    for point in points:
        rows = data[same(data[over], point)]
        for i, a in enumerate(members):
            for b in members[i + 1 :]:
                table = paired(rows, samples, axis, a, b)
                low, high = intervals.mean_interval(table["a"] - table["b"], level)
                if low > 0:
                    beaten.add(b)
                if high < 0:
                    beaten.add(a)
                if low < 0:
                    unbeatable.discard(a)
                if high > 0:
                    unbeatable.discard(b)
    ours = float(len(beaten))
    verdict = "holds" if len(beaten) == len(members) else "violated" if unbeatable else "inconclusive"
    rest = ", ".join(str(m) for m in members if m not in beaten)
    reason = f"{len(beaten)} of {len(members)} poolings are beaten on one of {len(points)} tasks"
    reason += f"; not shown for {rest}" if rest else ""
    return Decision(verdict, ours, ours, ours, len(points), reason, per_seed(data, ""))


@claim_test(exact=False)
def ranks_differ(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str = "method", over: str = "task"
) -> Decision:
    """Decide by Friedman's test that mean ranks of the members of `axis` over tasks are not all equal.

    `data` is oriented, higher is better; rank 1 is best. Holds where p <= 1 - confidence, else inconclusive: a
    test that does not reject shows nothing. Ours: p.
    """
    ranks = rank_table(data, axis, over)
    if ranks.shape[0] < 2 or ranks.shape[1] < 3:
        raise ValueError(f"Friedman's test needs 2 tasks and 3 poolings, not {ranks.shape}")
    p = float(stats.friedmanchisquare(*(ranks[c] for c in ranks)).pvalue)
    order = ranks.mean().sort_values()
    reason = f"p = {p:.3g} against {1 - confidence:.3g}; mean ranks " + ", ".join(
        f"{name} {rank:.2f}" for name, rank in order.items()
    )
    verdict = "holds" if p <= 1 - confidence else "inconclusive"
    return Decision(verdict, p, 0.0, min(1.0, p), len(ranks), reason, {})


def rank_table(data: pd.DataFrame, axis: str = "method", over: str = "task") -> pd.DataFrame:
    """Return ranks (tasks, members), 1 best, of means over all samples; ValueError where a cell is missing."""
    table = data.pivot_table(index=over, columns=axis, values="value", aggfunc="mean")
    if table.isna().to_numpy().any():
        raise ValueError(f"{int(table.isna().to_numpy().sum())} cells of {over} by {axis} were not measured")
    return table.rank(axis=1, ascending=False)


def critical_difference(members: int, tasks: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of mean ranks, ``q_alpha sqrt(k (k + 1) / (6 N))``."""
    q = float(stats.studentized_range.ppf(1 - alpha, members, np.inf)) / math.sqrt(2)
    return q * math.sqrt(members * (members + 1) / (6 * tasks))


@claim_test(exact=False)
def norm_predicts(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    norm: str,
    score: str,
    a: str,
    b: str,
    method: str,
    arm: str,
    bound: float = 0.0,
) -> Decision:
    """Decide that over tasks the learned norm of `method`, a W-Avg, goes with the lead of pooling `a` over `b`:
    Spearman's rho > bound, scores of one arm.

    data: rows of both metrics; the lead is (score of a less score of b) over the larger of their absolute values.
    Fisher's interval of rho, with Fieller's factor 1.06.
    """
    metric = data["metric"]
    learned = data[(metric == norm) & (data["method"] == method)].groupby("task")["value"].mean()
    scores = (
        data[(metric == score) & (data["arm"] == arm)]
        .groupby(["task", "method"])["value"]
        .mean()
        .unstack("method")
    )
    lead = (scores[a] - scores[b]) / scores[[a, b]].abs().max(axis=1)
    joined = pd.concat([learned, lead], axis=1, keys=["norm", "lead"]).dropna()
    n = len(joined)
    if n < 5:
        raise ValueError(f"a rank correlation over {n} tasks says nothing; measure 5 or more")
    rho = float(stats.spearmanr(joined["norm"], joined["lead"]).statistic)
    half = stats.norm.ppf((1 + confidence) / 2) * 1.03 / math.sqrt(n - 3)
    centre = math.atanh(min(max(rho, -0.999999), 0.999999))
    low, high = math.tanh(centre - half), math.tanh(centre + half)
    verdict = "holds" if low > bound else "violated" if high < bound else "inconclusive"
    reason = f"rho {rho:.3f} [{low:.3f}, {high:.3f}] over {n} tasks against > {bound:g}"
    return Decision(verdict, rho, low, high, n, reason, {})


@claim_test(exact=True)
def equal_members(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, a: Any, b: Any, atol: float
) -> Decision:
    """Decide that each sample has the same value at both points of `axis`, within `atol`."""
    table = paired(data, samples, axis, a, b)
    gap = float((table["a"] - table["b"]).abs().max())
    verdict = "holds" if gap <= atol else "violated"
    reason = f"largest difference {gap:.3g} of {len(table)} samples, allowed {atol:g}"
    return Decision(verdict, gap, gap, gap, len(table), reason, per_seed(data[data[axis] == a], ""))


@claim_test(exact=False)
def best_in_each(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    member: str,
    rivals: list[str],
    factor: float,
    per: list[str],
) -> Decision:
    """Decide that the mean error of `member` is at most `factor` times the least mean among `rivals`, in every group.

    Errors, lower is better. The interval is of the paired log ratio to the best rival of the group.
    """
    worst: tuple[float, float, float, str] | None = None
    verdicts = []
    grouped = list(data.groupby(per, sort=True))
    level = 1 - (1 - confidence) / len(grouped)
    for point, rows in grouped:
        means = {r: float(sampled(rows[same(rows["method"], r)], samples).mean()) for r in rivals}
        rival = min(means, key=lambda r: means[r])
        table = paired(rows, samples, "method", member, rival)
        logs = np.log(table["a"] / table["b"])
        low, high = intervals.mean_interval(logs, level)
        bar = math.log(factor)
        verdicts.append("holds" if high <= bar else "violated" if low > bar else "inconclusive")
        found = (float(logs.mean()), low, high, f"{point} against {rival}")
        if worst is None or found[0] > worst[0]:
            worst = found
    assert worst is not None
    verdict = (
        "violated" if "violated" in verdicts else "inconclusive" if "inconclusive" in verdicts else "holds"
    )
    ours, low, high = (math.exp(v) if math.isfinite(v) else (math.inf if v > 0 else 0.0) for v in worst[:3])
    reason = (
        f"largest ratio {ours:.3f} at {worst[3]}; {verdicts.count('holds')} of {len(verdicts)} groups hold"
    )
    return Decision(verdict, ours, low, high, len(grouped), reason, {})


@claim_test(exact=False)
def differ_by(
    data: pd.DataFrame, *, samples: list[str], confidence: float, axis: str, a: Any, b: Any, least: float
) -> Decision:
    """Decide that the mean paired difference of `a` and `b` is at least `least` in size, either way."""
    table = paired(data, samples, axis, a, b)
    gap = table["a"] - table["b"]
    low, high = intervals.mean_interval(gap, confidence)
    ours = float(gap.mean())
    if low >= least or high <= -least:
        verdict = "holds"
    else:
        verdict = "violated" if -least < low and high < least else "inconclusive"
    reason = f"{a} less {b} {ours:.4g} [{low:.4g}, {high:.4g}] against a size of {least:g}"
    return Decision(verdict, ours, low, high, len(gap), reason, per_seed(data[same(data[axis], a)], ""))


@claim_test(exact=True)
def above_reference(
    data: pd.DataFrame, *, samples: list[str], confidence: float, reference: str, method: str, arm: str
) -> Decision:
    """Decide that the mean score of a pooling is above the named reference on every task that has it."""
    return _against_references(data, method, arm, [reference], None, higher=True)


@claim_test(exact=True)
def below_references(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    tasks: list[str],
    references: list[str],
    method: str,
    arm: str,
) -> Decision:
    """Decide that the mean error of a pooling is below every named reference on every task named."""
    return _against_references(data, method, arm, references, tasks, higher=False)


def _against_references(
    data: pd.DataFrame, method: str, arm: str, references: list[str], tasks: list[str] | None, higher: bool
) -> Decision:
    scores = data[(data["metric"] == "score") & (data["method"] == method) & (data["arm"] == arm)]
    marks = data[(data["metric"] == "reference") & data["reference"].isin(references)]
    if tasks is not None:
        marks = marks[marks["task"].isin(tasks)]
    if marks.empty:
        raise ValueError(f"no reference {', '.join(references)} was measured")
    mean = scores.groupby("task")["value"].mean()
    leads, kept = [], {}
    for _, mark in marks.iterrows():
        if mark["task"] not in mean.index:
            raise ValueError(f"no score of {method} on {mark['task']}")
        lead = float(mean[mark["task"]] - mark["value"]) * (1 if higher else -1)
        leads.append((lead, f"{mark['task']} against {mark['reference']}"))
        kept[f"task={mark['task']},reference={mark['reference']}"] = lead
    worst = min(leads)
    verdict = "holds" if worst[0] > 0 else "violated"
    reason = f"least lead {worst[0]:.4g} ({worst[1]}) of {len(leads)}"
    return Decision(verdict, worst[0], worst[0], worst[0], len(leads), reason, kept)


@claim_test(exact=False)
def stronger_attack(
    data: pd.DataFrame,
    *,
    samples: list[str],
    confidence: float,
    strong: list[str],
    weak: list[str],
    margin: float,
    per: list[str],
) -> Decision:
    """Decide that the mean success of (attack, loss) `strong` is at least that of `weak` less `margin`, every group."""
    named = data.assign(kind=data["attack"] + " " + data["loss"])
    grouped = list(named.groupby(per, sort=True))
    level = 1 - (1 - confidence) / len(grouped)
    worst: tuple[float, float, float, str] | None = None
    verdicts = []
    for point, rows in grouped:
        table = paired(rows, samples, "kind", " ".join(strong), " ".join(weak))
        gap = table["a"] - table["b"]
        low, high = intervals.mean_interval(gap, level)
        verdicts.append("holds" if low >= -margin else "violated" if high < -margin else "inconclusive")
        if worst is None or low < worst[1]:
            worst = (float(gap.mean()), low, high, str(point))
    assert worst is not None
    verdict = next((v for v in ("violated", "inconclusive") if v in verdicts), "holds")
    reason = (
        f"least lead {worst[0]:.4g} at {worst[3]}; {verdicts.count('holds')} of {len(verdicts)} groups hold"
    )
    return Decision(verdict, *worst[:3], len(grouped), reason, {})
