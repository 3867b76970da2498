"""e-values (non-negative, mean at most 1 for a normal item) and the rules that decide with them.

e-values need no assumption on dependence, and averages of e-values are e-values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from reproven.papers.sac_bl.evidence import call_with
from reproven.papers.sac_bl.p_values import check_scores
from reproven.papers.sac_bl.step_up import TIE, Info, by_sorting, check_open_unit, check_p


def power_calibrator(p: np.ndarray, *, gamma: float = 0.8, delta: float | None = None) -> np.ndarray:
    """e = delta p^(-gamma), infinity at p = 0; delta is 1 - gamma when None (Vovk & Wang's kappa p^(kappa-1)).

    Raises: ValueError for gamma outside (0, 1) or gamma + delta > 1, where the mean would exceed 1.
    """
    check_open_unit(gamma=gamma)
    delta = 1 - gamma if delta is None else delta
    if delta <= 0 or gamma + delta > 1 + TIE:
        raise ValueError(f"gamma + delta = {gamma + delta:g}: need delta > 0 and gamma + delta <= 1")
    with np.errstate(divide="ignore"):
        return delta * check_p(p) ** -gamma


def integral_calibrator(p: np.ndarray) -> np.ndarray:
    """e = (1 - p + p log p) / (p (log p)^2), the average of all power calibrators; 1/2 at p = 1, infinity at 0.

    Source: Vovk & Wang 1912.06116.
    """
    p = check_p(p)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.log(p)
        e = (1 - p + p * log_p) / (p * log_p**2)
    near_one = 0.5 - log_p / 6  # series around p = 1, where the quotient loses its digits
    return np.where(p == 0, np.inf, np.where(log_p > -1e-4, near_one, e))


def discrete_calibrator(p: np.ndarray, *, k: int, gamma: float = 1.0) -> np.ndarray:
    """e = p^(-gamma) / mean_j (j/(k+1))^(-gamma): mean exactly 1 on the conformal grid; gamma in (0, inf].

    Source: reconstructed (dossier 3.5.2).
    """
    if not gamma > 0:
        raise ValueError(f"gamma={gamma} must be positive (infinity is allowed)")
    ranks = check_p(p) * (k + 1)
    if math.isinf(gamma):
        return np.where(ranks <= 1 + TIE, k + 1.0, 0.0)
    with np.errstate(divide="ignore"):
        return ranks**-gamma * (k + 1) / np.sum(np.arange(1.0, k + 2.0) ** -gamma)


def conformal_e_values(calibration: np.ndarray, scores: np.ndarray, *, alpha_bh: float) -> np.ndarray:
    """Conformal e-values of one split, e_i = 1{s_i >= T} (1 + k) / (1 + V(T)).

    V(t), K(t) count calibration and test scores >= t; T is the smallest pooled score with n V(T) / (k K(T)) <=
    alpha_bh. The e-values of the normal items sum to at most n in expectation.

    Args:
        calibration: shape (k,) or (..., k); scores: shape (..., n).
        alpha_bh: level of the estimated FDP in (0, 1); at the rule's own alpha the power is nearly zero.

    Returns: e-values, shape (..., n). Source: Bashari et al. 2302.07294.
    """
    check_open_unit(alpha_bh=alpha_bh)
    calibration, scores = check_scores(calibration, scores)
    rows = scores.reshape(-1, scores.shape[-1])
    calibrations = np.broadcast_to(calibration, (*scores.shape[:-1], calibration.shape[-1])).reshape(
        len(rows), -1
    )
    e = np.zeros(rows.shape)
    n, k = rows.shape[1], calibrations.shape[1]
    for out, cal, row in zip(e, calibrations, rows):
        cal, test = np.sort(cal), np.sort(row)
        pooled = np.concatenate([cal, test])
        pooled.sort()
        v = k - np.searchsorted(cal, pooled, side="left")
        m = n - np.searchsorted(test, pooled, side="left")
        ok = (n * v <= alpha_bh * k * m * (1 + TIE)) & (m > 0)
        if ok.any():
            stop = np.argmax(ok)
            out[row >= pooled[stop]] = (1 + k) / (1 + v[stop])
    return e.reshape(scores.shape)


def e_bh(e: np.ndarray, *, alpha: float = 0.05) -> tuple[np.ndarray, Info]:
    """e-BH: reject the i* largest e-values, i* = max{i : e_(i) >= n / (alpha i)}; FDR <= alpha n0/n, any dependence.

    Args:
        e: e-values in [0, inf], shape (..., n); alpha: level in (0, 1).

    Returns: mask, shape (..., n), and `Info`, whose threshold is the smallest rejected e-value (infinity if none).
    Source: Wang & Ramdas 2009.02824.

    >>> e_bh(np.array([100.0, 25.0, 1.0]), alpha=0.1)[0]
    array([ True,  True, False])
    """
    check_open_unit(alpha=alpha)
    return _e_bh(check_e(e), alpha)


def _e_bh(e: np.ndarray, alpha: float) -> tuple[np.ndarray, Info]:
    n = e.shape[-1]
    with np.errstate(divide="ignore"):
        mask, info = by_sorting(1 / e, lambda r: alpha * r / n)
        return mask, info._replace(threshold=1 / np.where(info.rejections > 0, info.threshold, 0.0))


def u_e_bh(
    e: np.ndarray,
    *,
    alpha: float = 0.05,
    rng: np.random.Generator | None = None,
    uniform: np.ndarray | float | None = None,
) -> tuple[np.ndarray, Info]:
    """U-eBH: e-BH on e_i / Lambda with one shared uniform; never rejects less than e-BH, same FDR bound.

    e_i / Lambda is no e-value (its mean is infinite): use it here only, never in averages or products.

    Args: as `e_bh`; `rng` draws Lambda, one a batch, unless `uniform` gives it, shape (...).
    Source: Xu & Ramdas 2305.11126.
    """
    check_open_unit(alpha=alpha)
    e = check_e(e)
    if uniform is None:
        if rng is None:
            raise ValueError("u_e_bh needs rng= or uniform=")
        uniform = rng.random(e.shape[:-1])
    lam = np.broadcast_to(np.asarray(uniform, dtype=float), e.shape[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(e == 0, 0.0, e / lam[..., None])
    mask, info = _e_bh(scaled, alpha)
    return mask, info._replace(uniform=lam)


def closed_e_bh(e: np.ndarray, *, alpha: float = 0.05) -> tuple[np.ndarray, Info]:
    """Closed e-BH: the largest set R of top e-values with mean_S(e) >= |R & S| / (alpha |R|) for every set S.

    Contains the e-BH rejections, with the same FDR bound. For R fixed, the worst S takes the a smallest of R and
    those outside below a / (alpha |R|), so that |R| conditions decide. Ties are rejected together or not at all.

    Args, returns: as `e_bh`. At most O(n^2 log n). Source: Xu et al. 2504.11759.
    """
    check_open_unit(alpha=alpha)
    e = check_e(e)
    n = e.shape[-1]
    rows = np.minimum(e, n / alpha).reshape(-1, n)  # any S with such an item meets its condition either way
    threshold = np.full(len(rows), np.inf)
    for i, row in enumerate(rows):
        descending = np.sort(row)[::-1]
        size = _closed_size(descending, alpha)
        if size:
            threshold[i] = descending[size - 1]
    smallest = threshold.reshape(e.shape[:-1])
    mask = np.minimum(e, n / alpha) >= smallest[..., None]
    return mask, Info(mask.sum(axis=-1), smallest)


def _closed_size(descending: np.ndarray, alpha: float) -> int:
    """Largest feasible |R| for e-values sorted downwards; 0 if none."""
    n = len(descending)
    ascending = descending[::-1]
    top = np.concatenate([[0.0], np.cumsum(descending)])
    low = np.concatenate([[0.0], np.cumsum(ascending)])
    if top[n] * (1 + TIE) < n / alpha:  # S = all items
        return 0

    def feasible(r: np.ndarray, a: np.ndarray) -> np.ndarray:
        price = a / (alpha * r)  # mean that S must reach
        b = np.minimum(np.searchsorted(ascending, price, side="left"), n - r)
        return (top[r] - top[r - a] + low[b]) * (1 + 1e-10) >= price * (a + b)

    r = np.flatnonzero(np.append(descending[1:] < descending[:-1], True)) + 1  # ends of ties
    for share in (0.0, 1.0, 0.5, 0.25, 0.75):  # cheap necessary conditions first
        r = r[feasible(r, np.maximum(1, (share * r).astype(int)))]
        if r.size == 0:
            return 0
    for size in r[::-1]:
        if feasible(np.full(size, size), np.arange(1, size + 1)).all():
            return int(size)
    return 0


def conformal_e(
    *, calibration: np.ndarray, scores: np.ndarray, alpha: float = 0.05, alpha_bh: float | None = None
) -> tuple[np.ndarray, Info]:
    """e-BH on the conformal e-values of one split into training and calibration.

    Args:
        calibration, scores: as `conformal_e_values`.
        alpha: FDR level in (0, 1).
        alpha_bh: level of the threshold; None means alpha / 2, as the authors use for one-class scores.

    Source: Bashari et al. 2302.07294.
    """
    return derandomised_conformal_e(calibration=calibration, scores=scores, alpha=alpha, alpha_bh=alpha_bh)


def derandomised_conformal_e(
    *,
    calibration: np.ndarray,
    scores: np.ndarray,
    splits: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    alpha: float = 0.05,
    alpha_bh: float | None = None,
) -> tuple[np.ndarray, Info]:
    """e-BH on conformal e-values averaged over splits of the normal data: takes away the luck of one split.

    Args: as `conformal_e`; splits: pairs (calibration, scores) of further splits, the same test items in the same
        order.
    Source: Bashari et al. 2302.07294.
    """
    check_open_unit(alpha=alpha)
    level = alpha / 2 if alpha_bh is None else alpha_bh
    pairs = [(calibration, scores), *splits]
    e = np.mean([conformal_e_values(c, s, alpha_bh=level) for c, s in pairs], axis=0)
    return e_bh(e, alpha=alpha)


def on_e_values(
    p: np.ndarray,
    *,
    rule: Callable[..., tuple[np.ndarray, Info]],
    calibrator: Callable[..., np.ndarray],
    alpha: float = 0.05,
    k: int | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, Info]:
    """Turn p-values into e-values with `calibrator` and decide with the e-value rule `rule`."""
    e = call_with(calibrator, {"k": k}, p)
    return call_with(rule, {"alpha": alpha, "rng": rng}, e)


def check_e(e: np.ndarray) -> np.ndarray:
    """Return e as a float array of shape (..., n), n >= 1; ValueError for NaN or negative values."""
    e = np.asarray(e, dtype=float)
    if e.ndim == 0 or e.shape[-1] == 0:
        raise ValueError(f"e-values of shape {e.shape}: need at least one on the last axis")
    if not e.min() >= 0:
        raise ValueError(f"e-values must be >= 0 (infinity is allowed), got a minimum of {e.min()}")
    return e
