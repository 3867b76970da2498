"""Checks against closed forms: tight cases, worst dependence, Beta law, calibration sizes, covariate shift."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
from scipy.special import ndtr

from reproven.harness.context import Context
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.bl import best_gamma, bl, bl_levels, k_min, sharp_bl, worst_case_fdr
from reproven.papers.sac_bl.p_values import conformal_p, weighted_conformal_p
from reproven.papers.sac_bl.rules import bh, by
from reproven.papers.sac_bl.sbl import sbl, sbl_inclusion
from reproven.papers.sac_bl.step_up import NoPowerWarning


def theorems(
    ctx: Context, *, replicates: int, beta_draws: int, alpha: float = 0.05, n: int = 100, block: int = 50
) -> None:
    """Measure each closed form by running the rules themselves; means over blocks of `block` replicates."""
    blocks = max(2, replicates // block)
    for step, part in enumerate((_tight, _worst_dependence, _gain)):
        ctx.progress(step / 4, part.__name__)
        part(ctx, blocks, block, alpha, n)
    _beta_law(ctx, beta_draws, alpha)
    _calibration_size(ctx, alpha)
    _covariate_shift(ctx, blocks, block)


def _tight(ctx: Context, blocks: int, block: int, alpha: float, n: int) -> None:
    """Identical normal items: FDR of SBL = E min(1, alpha e). And all p = 1: everything goes at delta alpha.

    E min(1, alpha delta p^-gamma) = t + alpha delta (1 - t^(1-gamma)) / (1 - gamma), t = (alpha delta)^(1/gamma).
    """
    for gamma in (0.5, 0.8):
        delta = 1 - gamma
        rng = ctx.generator("tight", gamma=gamma)
        p = np.repeat(rng.random((blocks * block, 1)), n, axis=1)
        null = np.ones_like(p, dtype=bool)
        drawn = metrics.fdp(sbl(p, alpha=alpha, gamma=gamma, rng=rng)[0], null)
        exact = metrics.fdp(sbl_inclusion(p, alpha=alpha, gamma=gamma), null)
        t = (alpha * delta) ** (1 / gamma)
        closed = t + alpha * delta * (1 - t ** (1 - gamma)) / (1 - gamma)
        _means(ctx, "tight_fdr", drawn, block, gamma=gamma)
        _means(ctx, "tight_fdr_minus_closed_form", exact - closed, block, gamma=gamma)
        ones = np.ones((blocks * block, n))
        gone = sbl(ones, alpha=alpha, gamma=gamma, rng=rng)[0].all(axis=-1)
        _means(ctx, "clean_batch_all_rejected", gone.astype(float), block, gamma=gamma)
        probability = float(sbl_inclusion(ones[0], alpha=alpha, gamma=gamma).min())
        ctx.record("clean_batch_probability", probability, unit="1", direction="lower", gamma=gamma)


def _worst_dependence(ctx: Context, blocks: int, block: int, alpha: float, n: int) -> None:
    """All items normal, under each rule's own least favourable dependence; every p is exactly uniform.

    With probability n (t_r - t_(r-1)) / r, r random items have p in (t_(r-1), t_r], all others p above t_n: whenever
    this happens the rule rejects, so that its FDR is the sum of these probabilities.
    """
    ranks = np.arange(1.0, n + 1.0)
    gamma = 0.8
    rules = {
        "bl": (partial(bl, alpha=alpha, gamma=gamma), bl_levels((n,), alpha, gamma, 1 - gamma)(ranks)),
        "sharp_bl": (partial(sharp_bl, alpha=alpha, gamma=gamma), _sharp_levels(n, alpha, gamma)),
        "by": (partial(by, alpha=alpha), alpha * ranks / (n * np.sum(1 / ranks))),
        "bh": (partial(bh, alpha=alpha), alpha * ranks / n),
    }
    replicates = blocks * block
    for name, (rule, levels) in rules.items():
        rng = ctx.generator("worst", rule=name)
        lower = np.concatenate([[0.0], levels[:-1]])
        chance = n * (levels - lower) / ranks
        r = rng.choice(n + 1, size=replicates, p=np.append(1 - chance.sum(), chance))  # 0: nothing small
        small = rng.random((replicates, n)).argsort(axis=-1) < r[:, None]
        slot = np.maximum(r - 1, 0)[:, None]
        u = rng.random((replicates, n))
        p = np.where(small, lower[slot] + u * (levels - lower)[slot], levels[-1] + u * (1 - levels[-1]))
        reject, _ = rule(p)
        false = metrics.fdp(reject, np.ones_like(reject))
        _means(ctx, "worst_dependence_fdr", false, block, rule=name)
        ctx.record("worst_dependence_closed_form", worst_case_fdr(levels), unit="1", rule=name)
        _means(ctx, "worst_dependence_p_below_alpha", (p <= alpha).mean(axis=-1), block, rule=name)


def _sharp_levels(n: int, alpha: float, gamma: float) -> np.ndarray:
    """Levels of sharp BL from its definition, written apart from the rule."""
    ranks = np.arange(1.0, n + 1.0)
    shape = (ranks / n) ** (1 / gamma)
    return shape * alpha / np.sum(n * np.diff(shape, prepend=0.0) / ranks)


def _gain(ctx: Context, blocks: int, block: int, alpha: float, n: int) -> None:
    """Power that SBL gains over BL (dossier's case: n = 150, 75 % anomalies, shift 4), in exact expectation."""
    items, share = 150, 0.75
    for k in (200, 1000, 5000):
        rng = ctx.generator("gain", k=k)
        scores = rng.standard_normal((blocks * block, items))
        null = np.broadcast_to(np.arange(items) >= round(share * items), scores.shape)
        p = conformal_p(rng.standard_normal((blocks * block, k)), scores + 4.0 * ~null)
        gain = metrics.power(sbl_inclusion(p, alpha=alpha), null) - metrics.power(bl(p, alpha=alpha)[0], null)
        _means(ctx, "sbl_power_gain", gain, block, k=k)


def _beta_law(ctx: Context, draws: int, alpha: float) -> None:
    """Calibration-conditional TPR of p > t: exact given the calibration scores, one value a calibration set."""
    k = 200
    l = int(alpha * (k + 1) * (1 + 1e-12))
    calibration = np.sort(ctx.generator("beta").standard_normal((draws, k)), axis=-1)
    # p > t means more than l - 1 calibration scores at or above: the score is at most the l-th largest.
    tpr = ndtr(calibration[:, k - l])
    ctx.record_many("conditional_tpr", tpr, unit="1", draw=np.arange(draws), k=k, rank=l)


def _calibration_size(ctx: Context, alpha: float) -> None:
    """Smallest k at which a rule rejects when a share of items ties at the minimal p-value, found by running it."""
    items = 1000
    for share in (1.0, 0.5, 0.2, 0.1, 0.01):
        gamma = best_gamma(alpha=alpha, detectable=share)
        rules = {"bh": partial(bh, alpha=alpha), "bl": partial(bl, alpha=alpha, gamma=gamma)}
        for name, rule in rules.items():
            low, high = 0, 1 << 20  # rejects nothing at low, something at high
            while high - low > 1:
                middle = (low + high) // 2
                p = np.where(np.arange(items) < share * items, 1 / (middle + 1), 1.0)
                low, high = (low, middle) if rule(p)[0].any() else (middle, high)
            ctx.record("k_min", high, unit="images", direction="lower", rule=name, detectable=share)
        closed = k_min(alpha=alpha, gamma=gamma, detectable=share)
        ctx.record("k_min_closed_form", closed, unit="images", rule="bl", detectable=share)
    for k in (k_min(alpha=alpha) - 1, k_min(alpha=alpha)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NoPowerWarning)
            rejected = bl(np.full(items, 1 / (k + 1)), alpha=alpha, k=k)[1].rejections
        warned = any(issubclass(w.category, NoPowerWarning) for w in caught)
        ctx.record("warning_matches", float(warned == (rejected == 0)), unit="1", direction="higher", k=k)


def _covariate_shift(ctx: Context, blocks: int, block: int) -> None:
    """Normal items whose covariate has moved: P(p <= t) with and without likelihood-ratio weights.

    X ~ N(0, 1) in calibration, N(1, 1) in test, score X + noise: w(x) = exp(x - 1/2).
    """
    k, items = 200, 20
    for i in range(blocks):
        rng = ctx.generator("shift", block=i)
        plain, weighted = [], []
        for _ in range(block):
            x, y = rng.standard_normal(k), 1.0 + rng.standard_normal(items)
            calibration, scores = x + rng.standard_normal(k), y + rng.standard_normal(items)
            plain.append(conformal_p(calibration, scores))
            weighted.append(weighted_conformal_p(calibration, scores, np.exp(x - 0.5), np.exp(y - 0.5)))
        for kind, p in (("plain", plain), ("weighted", weighted)):
            for t in (0.05, 0.2):
                below = float(np.mean(np.asarray(p) <= t))
                ctx.record("null_p_below", below, unit="1", direction="lower", p_value=kind, t=t, block=i)
                ctx.record(
                    "null_p_excess", below - t, unit="1", direction="lower", p_value=kind, t=t, block=i
                )


def _means(ctx: Context, metric: str, values: np.ndarray, block: int, **coords) -> None:
    means = values.reshape(-1, block).mean(axis=1)
    ctx.record_many(metric, means, unit="1", direction="lower", block=np.arange(len(means)), **coords)
