"""Rules to compare with: BH, Storey-BH, BY, randomised BY, a fixed threshold and the F1-adaptive threshold."""

from __future__ import annotations

import numpy as np

from reproven.papers.sac_bl.p_values import check_scores
from reproven.papers.sac_bl.step_up import TIE, Info, check_open_unit, check_p, harmonic, step_up


def bh(p: np.ndarray, *, alpha: float = 0.05, k: int | None = None) -> tuple[np.ndarray, Info]:
    """Benjamini-Hochberg: i* = max{i : p_(i) <= alpha i / n}; FDR <= alpha n0/n under positive dependence.

    Split-conformal p-values are positively dependent in the needed sense (Bates et al. 2104.08279).

    Args:
        p: p-values, shape (..., n); alpha: level in (0, 1); k: calibration size, enables counting at pixel scale.
    Returns: mask, shape (..., n), and `Info`.

    >>> bh(np.array([0.01, 0.04, 0.9]), alpha=0.06)[0]
    array([ True,  True, False])
    """
    check_open_unit(alpha=alpha)
    n = np.shape(p)[-1]
    return step_up(p, lambda r: alpha * r / n, k=k)


def storey_bh(
    p: np.ndarray, *, alpha: float = 0.05, split: float = 0.5, k: int | None = None
) -> tuple[np.ndarray, Info]:
    """Storey-BH: BH at alpha / pi0, pi0 = (1 + #{p > split}) / (n (1 - split)).

    Args: as `bh`; split: p-values above it are taken for normal, in (0, 1).
    Source: Storey, Taylor & Siegmund 2004.
    """
    check_open_unit(alpha=alpha, split=split)
    p = check_p(p)
    n = p.shape[-1]
    null_share = (1 + np.count_nonzero(p > split * (1 + TIE), axis=-1)) / (n * (1 - split))
    levels_at = (alpha / (n * np.asarray(null_share)))[..., None]
    return step_up(p, lambda r: levels_at * r, k=k)


def by(p: np.ndarray, *, alpha: float = 0.05, k: int | None = None) -> tuple[np.ndarray, Info]:
    """Benjamini-Yekutieli: BH at alpha / H_n; FDR <= alpha n0/n under any dependence. Args: as `bh`."""
    check_open_unit(alpha=alpha)
    n = np.shape(p)[-1]
    level = alpha / (n * harmonic(n))
    return step_up(p, lambda r: level * r, k=k)


def u_by(
    p: np.ndarray,
    *,
    alpha: float = 0.05,
    rng: np.random.Generator | None = None,
    uniform: np.ndarray | float | None = None,
    k: int | None = None,
) -> tuple[np.ndarray, Info]:
    """U-BY: i* = max{i : p_(i) <= alpha min(floor(i / Lambda), n) / (n H_n)}, one shared uniform Lambda.

    Never rejects less than BY, same FDR bound. Args: as `bh`; `rng` draws Lambda, one a batch, unless `uniform`
    gives it, shape (...). Source: Xu & Ramdas 2305.11126.
    """
    check_open_unit(alpha=alpha)
    n = np.shape(p)[-1]
    if uniform is None:
        if rng is None:
            raise ValueError("u_by needs rng= or uniform=")
        uniform = rng.random(np.shape(p)[:-1])
    lam = np.broadcast_to(np.asarray(uniform, dtype=float), np.shape(p)[:-1])
    level = alpha / (n * harmonic(n))

    def levels(r: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return level * np.minimum(np.floor(r / lam[..., None] * (1 + TIE)), n)

    mask, info = step_up(p, levels, k=k)
    return mask, info._replace(uniform=lam)


def fixed_threshold(
    *, calibration: np.ndarray, scores: np.ndarray, quantile: float = 0.95
) -> tuple[np.ndarray, Info]:
    """Reject scores above the calibration scores' quantile ("FPR at 95 % TPR"); makes no claim on the FDR.

    Args: calibration, shape (..., k) or (k,); scores, shape (..., n); quantile in (0, 1).
    """
    check_open_unit(quantile=quantile)
    calibration, scores = check_scores(calibration, scores)
    cut = np.quantile(calibration, quantile, axis=-1)
    mask = scores > np.asarray(cut)[..., None]
    return mask, Info(np.count_nonzero(mask, axis=-1), np.broadcast_to(cut, mask.shape[:-1]))


def f1_adaptive(*, scores: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, Info]:
    """Threshold with the best F1 of the anomalies on the labelled test batch itself: an oracle, for scale only.

    Rejects scores >= the threshold; among equal F1 the highest threshold. A batch without anomalies rejects nothing.

    Args: scores, shape (..., n); null: True for normal items, shape (..., n).
    """
    scores, null = np.asarray(scores, dtype=float), np.asarray(null, dtype=bool)
    order = np.argsort(-scores, axis=-1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=-1)
    hits = np.cumsum(~np.take_along_axis(null, order, axis=-1), axis=-1)
    anomalies = hits[..., -1:]
    rejected = np.arange(1, scores.shape[-1] + 1)
    f1 = 2 * hits / (rejected + np.maximum(anomalies, 1))
    last_of_tie = np.append(
        ordered[..., 1:] < ordered[..., :-1], np.ones_like(anomalies, dtype=bool), axis=-1
    )
    best = np.argmax(np.where(last_of_tie, f1, -1.0), axis=-1)
    cut = np.take_along_axis(ordered, best[..., None], axis=-1)
    mask = (scores >= cut) & (anomalies > 0)
    return mask, Info(np.count_nonzero(mask, axis=-1), cut[..., 0])
