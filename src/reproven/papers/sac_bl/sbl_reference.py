"""SBL in the paper's order and symbols: Version 1, Version 2 and Algorithm 1, one item at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reproven.papers.sac_bl.bl_reference import TIE


def sbl_index_reference(p: Sequence[float], alpha: float, gamma: float, delta: float, lam: float) -> int:
    """Version 2: i*_SBL = max{i : p_(i)^gamma <= delta alpha i / (n Lambda)}, 0 where the set is empty."""
    n = len(p)
    ordered = sorted(p)
    i_star = 0
    for i in range(1, n + 1):
        if ordered[i - 1] ** gamma * lam <= delta * alpha * i / n * TIE:
            i_star = i
    return i_star


def sbl_version2_reference(
    p: Sequence[float], alpha: float, gamma: float, delta: float, lam: float
) -> list[bool]:
    """Version 2: reject H_(i) for i <= i*_SBL."""
    n = len(p)
    i_star = sbl_index_reference(p, alpha, gamma, delta, lam)
    order = sorted(range(n), key=lambda j: p[j])
    rejected = [False] * n
    for j in order[:i_star]:
        rejected[j] = True
    return rejected


def sbl_version1_reference(
    p: Sequence[float], alpha: float, gamma: float, delta: float, lam: float
) -> list[bool]:
    """Version 1: round each p_i^gamma onto the level xi of Version 2 where Lambda permits, then apply BL."""
    n = len(p)
    xi = delta * alpha * sbl_index_reference(p, alpha, gamma, delta, lam) / n
    powers = []
    for p_i in p:
        power = p_i**gamma
        if power <= xi * TIE:
            powers.append(power)
        elif power * lam <= xi * TIE:
            powers.append(xi)
        else:
            powers.append(math.inf)
    order = sorted(range(n), key=lambda j: powers[j])
    i_bl = 0
    for i in range(1, n + 1):
        if powers[order[i - 1]] <= delta * alpha * i / n * TIE:
            i_bl = i
    rejected = [False] * n
    for j in order[:i_bl]:
        rejected[j] = True
    return rejected


def inclusion_reference(p: Sequence[float], alpha: float, gamma: float, delta: float) -> list[float]:
    """P(j rejected | data) = min(1, alpha / q_j), with q_(j) = min over i >= j of n p_(i)^gamma / (delta i)."""
    n = len(p)
    order = sorted(range(n), key=lambda j: p[j])
    probability = [0.0] * n
    for j in range(1, n + 1):
        q = min(n * p[order[i - 1]] ** gamma / (delta * i) for i in range(j, n + 1))
        probability[order[j - 1]] = 1.0 if q <= alpha else alpha / q
    return probability


def algorithm1_reference(
    calibration: Sequence[float],
    scores: Sequence[float],
    alpha: float,
    gamma: float,
    delta: float,
    lam: float,
) -> list[bool]:
    """Algorithm 1 from line 3 on: empirical p-values, the draw Lambda = `lam`, the index, the top ones anomalous.

    Line 5 of the paper calls the index i*_BL; it can only be i*_SBL.
    """
    k = len(calibration)
    p = [(1 + sum(c >= s for c in calibration)) / (k + 1) for s in scores]
    return sbl_version2_reference(p, alpha, gamma, delta, lam)
