"""Claims that hold on every sample: containments, equivalences, monotonicity. Counts of violations, and controls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import ndtr

from reproven.harness.context import Context
from reproven.harness.errors import require
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.bl import best_gamma, bl
from reproven.papers.sac_bl.e_values import closed_e_bh, e_bh, power_calibrator
from reproven.papers.sac_bl.p_values import conformal_p
from reproven.papers.sac_bl.rules import bh, by
from reproven.papers.sac_bl.sbl import sbl, sbl_inclusion, sbl_per_item, sbl_version1
from reproven.papers.sac_bl.step_up import harmonic


def pathwise(ctx: Context, *, cases: int, package_cases: int, alpha: float = 0.05, batch: int = 500) -> None:
    """Compare the rules item by item on random batches: p-values with and without ties, sparse and dense anomalies.

    Each measurement is a count of violating cases (0 where the claim holds) or a mean, over `batch` cases of one
    kind; kinds cycle over n, gamma, calibration size (None: continuous p-values) and share of anomalies.
    """
    for index, (kind, p, null, gamma) in enumerate(_kinds(ctx, cases, batch)):
        ctx.progress(index * batch / cases, "pathwise")
        record = _recorder(ctx, kind, index)
        uniform = ctx.generator("uniform", index=index).random(len(p))
        by_bl, info = bl(p, alpha=alpha, gamma=gamma)
        by_sbl, _ = sbl(p, alpha=alpha, gamma=gamma, uniform=uniform)
        version1, _ = sbl_version1(p, alpha=alpha, gamma=gamma, uniform=uniform)
        record("version_mismatches", (version1 != by_sbl).any(axis=-1).sum())
        record("bl_outside_sbl", _outside(by_bl, by_sbl))
        record("bl_outside_bh", _outside(by_bl, bh(p, alpha=alpha)[0]))
        record("bl_outside_by", _outside(by_bl, by(p, alpha=alpha)[0]))
        e = power_calibrator(p, gamma=gamma)
        record("e_bh_mismatches", (e_bh(e, alpha=alpha)[0] != by_bl).any(axis=-1).sum())
        record("e_bh_outside_closed", _outside(by_bl, closed_e_bh(e, alpha=alpha)[0]))
        record("non_monotone_sbl", _non_monotone(by_sbl, p))
        per_item, _ = sbl_per_item(p, alpha=alpha, gamma=gamma, rng=ctx.generator("per_item", index=index))
        record("non_monotone_per_item", _non_monotone(per_item, p))
        _record_gain(record, p, null, by_bl, by_sbl, np.asarray(info.rejections), alpha, gamma)
    _record_package(ctx, package_cases, alpha, batch)
    _record_dominance(ctx, alpha)


def _kinds(ctx: Context, cases: int, batch: int) -> Iterator[tuple[dict, np.ndarray, np.ndarray, float]]:
    settings = [
        (n, gamma, k, share)
        for n in (1, 5, 30, 150)
        for gamma in (0.3, 0.5, 0.8, 0.95)
        for k in (None, 20, 1000)
        for share in (0.0, 0.2, 0.8)
    ]
    choose = ctx.generator("settings").permutation(len(settings))
    for index in range(cases // batch):
        n, gamma, k, share = settings[choose[index % len(settings)]]
        rng = ctx.generator("cases", index=index)
        null = rng.random((batch, n)) >= share
        scores = rng.standard_normal((batch, n)) + rng.choice([2.0, 4.0]) * ~null
        p = ndtr(-scores) if k is None else conformal_p(rng.standard_normal((batch, k)), scores)
        yield {"n": n, "gamma": gamma, "k": k or 0, "prevalence": share}, p, null, gamma


def _recorder(ctx: Context, kind: dict, index: int):
    def record(metric: str, value: float, unit: str = "cases") -> None:
        ctx.record(metric, float(value), unit=unit, direction="lower", index=index, **kind)

    return record


def _outside(inner: np.ndarray, outer: np.ndarray) -> int:
    return int((inner & ~outer).any(axis=-1).sum())


def _non_monotone(mask: np.ndarray, p: np.ndarray) -> int:
    """Cases in which an item is rejected while one with a smaller p-value is not."""
    largest = np.where(mask, p, -1.0).max(axis=-1)
    smallest = np.where(mask, 2.0, p).min(axis=-1)
    return int((largest > smallest).sum())


def _record_gain(record, p, null, by_bl, by_sbl, rejected, alpha: float, gamma: float) -> None:
    """Strictness (C5, C6), the bound (1 - delta alpha), and the draw that rejects everything."""
    n = p.shape[-1]
    more = by_sbl.sum(axis=-1) > by_bl.sum(axis=-1)
    full = rejected == n
    record("strictly_more_beyond_all", more[full].sum())
    inclusion = sbl_inclusion(p, alpha=alpha, gamma=gamma)
    # Given the data, SBL is strictly larger as soon as the likeliest item that BL leaves is rejected.
    if (~full).any():
        chance = np.where(by_bl, 0.0, inclusion).max(axis=-1)[~full]
        record("strict_probability", chance.min(), "1")
        record("strict_drawn_minus_exact", (more[~full] - chance).mean(), "1")
    share = 1 - (1 - gamma) * alpha
    has = (~null).any(axis=-1)
    if has.any():
        missed_bl, missed_sbl = metrics.fpr(by_bl[has], null[has]), metrics.fpr(by_sbl[has], null[has])
        record("fpr_increases", (missed_sbl > missed_bl).sum())
        open_cases = missed_bl > 0
        if open_cases.any():
            chance = np.where(by_bl | null, 0.0, inclusion).max(axis=-1)[has][open_cases]
            record("fpr_strict_probability", chance.min(), "1")
        record("fpr_above_bound", (metrics.fpr(inclusion[has], null[has]) - share * missed_bl).max(), "1")
    normals = null.any(axis=-1)
    if normals.any():
        kept = metrics.tpr(by_bl[normals], null[normals])
        record("tpr_above_bound", (metrics.tpr(inclusion[normals], null[normals]) - share * kept).max(), "1")
    record("everything_shortfall", ((1 - gamma) * alpha - inclusion.min(axis=-1)).max(), "1")


def _record_package(ctx: Context, cases: int, alpha: float, batch: int) -> None:
    """BL against another package's e-BH on its own power calibrator."""
    require("online_fdr", "sac_bl")
    from online_fdr.e_values import e_bh as package_e_bh
    from online_fdr.e_values import p_to_e_power

    rows = max(1, batch // 10)  # of each kind
    wrong, seen = 0, 0
    for _, p, _, gamma in _kinds(ctx, -(-cases // rows) * batch, batch):
        ours, _ = bl(p[:rows], alpha=alpha, gamma=gamma)
        for mask, row in zip(ours, p[:rows].tolist()):
            theirs = package_e_bh([p_to_e_power(x, 1 - gamma) for x in row], alpha)
            wrong += bool((mask != theirs).any())
        seen += rows
    ctx.record("package_e_bh_mismatches", wrong, unit="cases", direction="lower", cases=seen)


def _record_dominance(ctx: Context, alpha: float) -> None:
    """How far "R_BL within R_BY" reaches: H_n <= alpha / (delta alpha)^(1/gamma), and a case beyond it."""
    gamma = best_gamma(alpha=alpha)
    reach = alpha / ((1 - gamma) * alpha) ** (1 / gamma)
    ctx.record("by_dominates_up_to", float(np.exp(reach - np.euler_gamma)), unit="items", alpha=alpha)
    wide, n, gamma = 0.5, 10_000, 0.8  # a level at which the condition fails for moderate n
    p = np.full(n, 0.99 * ((1 - gamma) * wide) ** (1 / gamma))
    beyond = _outside(bl(p, alpha=wide, gamma=gamma)[0], by(p, alpha=wide)[0])
    holds = harmonic(n) <= wide / ((1 - gamma) * wide) ** (1 / gamma)
    ctx.record("bl_outside_by_beyond_reach", beyond, unit="cases", condition_holds=bool(holds), n=n)
