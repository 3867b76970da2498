"""BL, the paper's first rule, and the stronger rules with the same guarantee: sharp BL and discrete-exact BL.

A test stakes one unit on "X_i is anomalous" and is paid delta p_i^(-gamma); it is rejected where its wealth reaches
n / (alpha i*). E delta p^(-gamma) = delta / (1 - gamma) <= 1 under the null, which is what gamma + delta <= 1 asks
for; so BL is e-BH on power-calibrated p-values, and its FDR is at most alpha n0/n under any dependence
(reconstructed, dossier 3.3).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from reproven.papers.sac_bl.step_up import TIE, Info, check_open_unit, step_up


def bl(
    p: np.ndarray,
    *,
    alpha: float = 0.05,
    gamma: float = 0.8,
    delta: float | None = None,
    k: int | None = None,
) -> tuple[np.ndarray, Info]:
    """BL: reject the i* smallest p-values, i* = max{i : p_(i)^gamma <= delta alpha i / n}.

    Args:
        p: p-values, shape (..., n); any dependence.
        alpha: FDR level in (0, 1).
        gamma: exponent in (0, 1). The paper's value is not known; 0.8 is near the best one at alpha = 0.05.
        delta: stake in (0, 1 - gamma]; None means 1 - gamma, which is always best.
        k: calibration size of conformal p-values; enables counting, and a warning where nothing can be rejected.

    Returns: mask of anomalies, shape (..., n), and `Info`.
    Raises: ValueError for alpha outside (0, 1), gamma + delta > 1, or p outside [0, 1].
    Source: Definition 2.3 and Section 4 of the paper.

    >>> bl(np.array([1e-6, 0.5, 0.9]), alpha=0.1)[0]
    array([ True, False, False])
    """
    delta = stake(alpha, gamma, delta)
    return step_up(p, bl_levels(np.shape(p)[-1:], alpha, gamma, delta), k=k)


def stake(alpha: float, gamma: float, delta: float | None) -> float:
    """Return delta (1 - gamma when None) after checking alpha, gamma, delta in (0, 1) and gamma + delta <= 1."""
    check_open_unit(alpha=alpha, gamma=gamma)
    if delta is None:
        return 1 - gamma
    if delta <= 0 or gamma + delta > 1 + TIE:
        raise ValueError(
            f"gamma + delta = {gamma + delta:g} with delta={delta}: need delta > 0, gamma + delta <= 1"
        )
    return delta


def bl_levels(shape, alpha: float, gamma: float, delta: float, uniform: np.ndarray | float = 1.0):
    """Return r -> t_r = (delta alpha r / (n Lambda))^(1/gamma), in logs; `uniform` is Lambda, shape (...)."""
    (n,) = shape
    with np.errstate(divide="ignore"):
        shift = math.log(delta * alpha) - math.log(n) - np.log(np.asarray(uniform, dtype=float))[..., None]

    def levels(r: np.ndarray) -> np.ndarray:
        return np.exp(np.minimum((shift + np.log(r)) / gamma, 1.0))  # beyond 1 all p-values lie below

    return levels


def sharp_bl(
    p: np.ndarray, *, alpha: float = 0.05, gamma: float = 0.8, k: int | None = None
) -> tuple[np.ndarray, Info]:
    """Sharp BL: BL's shape with its levels raised until the worst dependence spends exactly alpha.

    t_r = (c r / n)^(1/gamma), c = n (alpha / (n S))^gamma, S = sum_r (r^(1/gamma) - (r-1)^(1/gamma)) / r, so that
    sum_r n (t_r - t_(r-1)) / r = alpha, the FDR of a step-up rule under its least favourable dependence.

    Args: as `bl`; there is no stake to choose.
    Source: reconstructed (dossier 3.5), after Blanchard & Roquain 0802.1406.
    """
    check_open_unit(alpha=alpha, gamma=gamma)
    n = np.shape(p)[-1]
    log_c = math.log(n) + gamma * (math.log(alpha) - math.log(n) - math.log(_sharp_sum(n, gamma)))

    def levels(r: np.ndarray) -> np.ndarray:
        return np.exp((log_c + np.log(r) - math.log(n)) / gamma)

    return step_up(p, levels, k=k)


@lru_cache(maxsize=64)
def _sharp_sum(n: int, gamma: float) -> float:
    total, block = 0.0, 1 << 20
    for start in range(0, n, block):
        r = np.arange(start, min(start + block, n) + 1, dtype=float)
        total += float(np.sum(np.diff(r ** (1 / gamma)) / r[1:]))
    return total


def worst_case_fdr(levels: np.ndarray) -> float:
    """FDR of the step-up rule with levels t_1 <= .. <= t_n under its least favourable dependence, all items null.

    sum_r n (t_r - t_(r-1)) / r, capped at 1. Source: reconstructed (dossier 3.5.1).
    """
    t = np.asarray(levels, dtype=float)
    n = len(t)
    return min(1.0, float(np.sum(n * np.diff(t, prepend=0.0) / np.arange(1, n + 1))))


def discrete_bl(p: np.ndarray, *, k: int, alpha: float = 0.05, gamma: float = 1.0) -> tuple[np.ndarray, Info]:
    """Discrete-exact BL: e-BH on e = p^(-gamma) / mean_j (j/(k+1))^(-gamma), whose mean is 1 on the conformal grid.

    Args:
        p: conformal p-values on {1..k+1}/(k+1), shape (..., n).
        k: size of the calibration set.
        alpha: FDR level in (0, 1).
        gamma: exponent in (0, inf]; it may exceed 1, and infinity stakes everything on the minimal p-value.

    Source: reconstructed (dossier 3.5.2).
    """
    check_open_unit(alpha=alpha)
    if not gamma > 0:
        raise ValueError(f"gamma={gamma} must be positive (infinity is allowed)")
    n = np.shape(p)[-1]
    # e = (1 / ((k+1) p))^gamma (k+1) / H with H = sum_j j^(-gamma): never forms (k+1)^gamma, which may overflow.
    power_sum = _power_sum(k, gamma)

    def levels(r: np.ndarray) -> np.ndarray:
        wealth = alpha * r * (k + 1) / (n * power_sum)
        if math.isinf(gamma):
            return np.where(wealth * (1 + TIE) >= 1, 1.0 / (k + 1), 0.0)
        return wealth ** (1 / gamma) / (k + 1)

    def need() -> int:  # smallest k whose largest e-value, (k+1) / H, reaches 1 / alpha
        low, high = k, 2 * k + 1
        while (high + 1) * alpha * (1 + TIE) < _power_sum(high, gamma):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            enough = (middle + 1) * alpha * (1 + TIE) >= _power_sum(middle, gamma)
            low, high = (low, middle) if enough else (middle, high)
        return high

    return step_up(p, levels, k=k, need=need)


def _power_sum(k: int, gamma: float) -> float:
    return 1.0 if math.isinf(gamma) else float(np.sum(np.arange(1.0, k + 2.0) ** -gamma))


def k_min(
    *, alpha: float = 0.05, gamma: float = 0.8, delta: float | None = None, detectable: float = 1.0
) -> int:
    """Smallest calibration set with which BL can reject, when a fraction of the tests ties at the minimal p-value.

    1/(k+1) <= (delta alpha pi)^(1/gamma). Source: reconstructed (dossier 5.4, item 8, and section 7).
    """
    delta = stake(alpha, gamma, delta)
    return math.ceil((delta * alpha * detectable) ** (-1 / gamma) * (1 - TIE)) - 1


def best_gamma(*, alpha: float = 0.05, detectable: float = 1.0) -> float:
    """The gamma with the largest level ((1 - gamma) alpha pi)^(1/gamma), hence the smallest `k_min`."""
    check_open_unit(alpha=alpha)
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda g: -math.log((1 - g) * alpha * detectable) / g, bounds=(1e-6, 1 - 1e-9), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    return float(found.x)
