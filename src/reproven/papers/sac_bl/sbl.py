"""SBL, the paper's randomised rule: BL with its levels divided by one uniform Lambda that all items share."""

from __future__ import annotations

import math

import numpy as np

from reproven.papers.sac_bl.bl import bl_levels, stake
from reproven.papers.sac_bl.step_up import TIE, Info, by_sorting, check_p, grid_counts, step_up

MODES = ("single", "expectation", "mean_lambda", "vote")


def sbl(
    p: np.ndarray,
    *,
    alpha: float = 0.05,
    gamma: float = 0.8,
    delta: float | None = None,
    mode: str = "single",
    rng: np.random.Generator | None = None,
    uniform: np.ndarray | float | None = None,
    draws: int = 100,
    k: int | None = None,
) -> tuple[np.ndarray, Info]:
    """SBL, Version 2: i* = max{i : p_(i)^gamma <= delta alpha i / (n Lambda)}, Lambda ~ U(0, 1) shared by all items.

    Never rejects less than `bl`, and its FDR is at most alpha n0/n under any dependence. With probability of at
    least delta alpha one draw rejects **everything**, a clean batch included; do not redraw until it looks good.

    Args:
        p, alpha, gamma, delta, k: as `bl`.
        mode: "single" is one draw, the rule with the guarantee. "expectation" returns the exact inclusion
            probabilities min(1, alpha/q_j) instead of a mask. "mean_lambda" uses the mean of `draws` uniforms (1/2
            without rng) and "vote" a majority over `draws` masks; the paper repeats the draw 100 times and takes
            "the mean", without saying of what, and no theorem covers these two.
        rng: draws Lambda, one a batch. Needed by "single" and "vote" unless `uniform` is given.
        uniform: Lambda itself, shape (...).
        draws: number of draws behind "mean_lambda" and "vote".

    Returns: mask (probabilities for "expectation"), shape (..., n), and `Info` with the Lambda used.
    Source: Section 4 and Algorithm 1; the display was lost, form reconstructed (dossier 3.4).

    >>> sbl(np.array([1e-6, 0.02, 0.9]), alpha=0.1, uniform=0.05)[0]
    array([ True,  True, False])
    """
    delta = stake(alpha, gamma, delta)
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not one of {', '.join(MODES)}")
    if mode == "expectation":
        inclusion = sbl_inclusion(p, alpha=alpha, gamma=gamma, delta=delta, k=k)
        return inclusion, Info(inclusion.sum(axis=-1), np.full(inclusion.shape[:-1], np.nan))
    lam = _draw(np.shape(p)[:-1], mode, rng, uniform, draws)
    if k is not None and np.ndim(p) > 1:
        k = None  # counting is for one large batch
    mask, info = step_up(p, bl_levels(np.shape(p)[-1:], alpha, gamma, delta, lam), k=k)
    return mask, info._replace(uniform=lam)


def _draw(batch, mode: str, rng, uniform, draws: int) -> np.ndarray:
    """Lambda for each batch, shape `batch`."""
    if uniform is not None:
        lam = np.broadcast_to(np.asarray(uniform, dtype=float), batch)
        if not ((lam >= 0) & (lam <= 1)).all():
            raise ValueError(f"uniform={uniform} must lie in [0, 1]")
        return lam
    if rng is None:
        if mode == "mean_lambda":
            return np.full(batch, 0.5)
        raise ValueError(f"sbl with mode={mode!r} needs rng= or uniform=")
    if mode == "single":
        return rng.random(batch)
    repeats = rng.random((*batch, draws))
    if mode == "mean_lambda":
        return repeats.mean(axis=-1)
    # More than half of the masks {p^gamma Lambda_d <= level} hold iff this order statistic's mask does.
    return np.partition(repeats, draws // 2, axis=-1)[..., draws // 2]


def sbl_inclusion(
    p: np.ndarray,
    *,
    alpha: float = 0.05,
    gamma: float = 0.8,
    delta: float | None = None,
    k: int | None = None,
) -> np.ndarray:
    """Exact P(item j is rejected by SBL | data) = min(1, alpha / q_j), q_(j) = min_(i>=j) n p_(i)^gamma / (delta i).

    BL rejects j iff q_j <= alpha, SBL iff q_j <= alpha / Lambda. Replaces Monte Carlo over Lambda.

    Returns: probabilities, shape (..., n). Source: reconstructed, checked (dossier 3.4).
    """
    delta = stake(alpha, gamma, delta)
    p = check_p(p)
    n = p.shape[-1]
    log_budget = math.log(delta * alpha) - math.log(n)
    if k is not None and p.ndim == 1 and n > k + 1:
        counts = grid_counts(p, k)
        with np.errstate(divide="ignore", invalid="ignore"):  # p = 0, where the count is usually 0
            log_ratio = log_budget + np.log(np.cumsum(counts)) - gamma * np.log(np.arange(k + 2) / (k + 1.0))
        log_ratio[counts == 0] = -np.inf
        on_grid = np.exp(np.minimum(0.0, np.maximum.accumulate(log_ratio[::-1])[::-1]))
        return on_grid[np.rint(p * (k + 1.0)).astype(np.int64)]
    order = np.argsort(p, axis=-1)
    with np.errstate(divide="ignore"):
        log_p = np.log(np.take_along_axis(p, order, axis=-1))
    log_ratio = (
        log_budget + np.log(np.arange(1.0, n + 1.0)) - gamma * log_p
    )  # log(alpha / (n p^gamma/(delta i)))
    best = np.maximum.accumulate(log_ratio[..., ::-1], axis=-1)[..., ::-1]
    inclusion = np.empty_like(p)
    np.put_along_axis(inclusion, order, np.exp(np.minimum(0.0, best)), axis=-1)
    return inclusion


def sbl_version1(
    p: np.ndarray,
    *,
    uniform: np.ndarray | float,
    alpha: float = 0.05,
    gamma: float = 0.8,
    delta: float | None = None,
) -> tuple[np.ndarray, Info]:
    """SBL, Version 1 (the paper's proof device): round the p-values at random, then run BL on them.

    With xi = delta alpha i*_SBL / n: p~^gamma = p^gamma where p^gamma <= xi; = xi where xi < p^gamma <= xi / Lambda;
    infinity otherwise. Theorem 4.3 says that its rejections are those of Version 2.

    Args: as `sbl`, with the uniform Lambda given, shape (...).
    Source: Section 4; displays lost, equivalent construction reconstructed (dossier 3.4).
    """
    delta = stake(alpha, gamma, delta)
    p = check_p(p)
    shape = p.shape[-1:]
    lam = np.broadcast_to(np.asarray(uniform, dtype=float), p.shape[:-1])
    _, info = by_sorting(p, bl_levels(shape, alpha, gamma, delta, lam))
    with np.errstate(divide="ignore"):
        level = bl_levels(shape, alpha, gamma, delta)(np.asarray(info.rejections, dtype=float)[..., None])
        top = level / lam[..., None] ** (1 / gamma)
    level = np.where(info.rejections[..., None] > 0, level, -1.0)
    top = np.where(info.rejections[..., None] > 0, top, -1.0)
    modified = np.where(p <= level * (1 + TIE), p, np.where(p <= top * (1 + TIE), level, np.inf))
    mask, bl_info = by_sorting(modified, bl_levels(shape, alpha, gamma, delta))
    return mask, bl_info._replace(uniform=lam)


def sbl_per_item(
    p: np.ndarray,
    *,
    rng: np.random.Generator,
    alpha: float = 0.05,
    gamma: float = 0.8,
    delta: float | None = None,
) -> tuple[np.ndarray, Info]:
    """SBL with an independent uniform for each item: e-BH on delta p_i^(-gamma) / Lambda_i.

    Keeps the FDR bound and avoids the draw that rejects everything, but a less anomalous item may be rejected while
    a more anomalous one is not. Not the paper's rule; the negative control of monotonicity.

    Source: reconstructed (dossier 3.5.4).
    """
    delta = stake(alpha, gamma, delta)
    p = check_p(p)
    lam = rng.random(p.shape)
    return by_sorting(p * lam ** (1 / gamma), bl_levels(p.shape[-1:], alpha, gamma, delta))
