"""The row statistics as the dossier's section 3.1 writes them: one row, plain floats, no tricks."""

from __future__ import annotations

import math
from collections.abc import Sequence


def gaps_reference(s: Sequence[float]) -> list[float]:
    """g_1 <= ... <= g_{n-1}: distances of the competitors to the winner."""
    ordered = sorted(s, reverse=True)
    return [ordered[0] - x for x in ordered[1:]]


def counting_reference(s: Sequence[float], t: float) -> int:
    """N(t) = #{k : g_k <= t}."""
    return sum(1 for g in gaps_reference(s) if g <= t)


def scale_reference(s: Sequence[float]) -> tuple[float, int, float]:
    """B = sup_{t>0} log(1 + N(t)) / t, looked for at the jumps of N; (B, k*, t*)."""
    best = (-math.inf, 0, math.nan)
    for k, g in enumerate(gaps_reference(s), start=1):
        slope = math.log(1 + k) / g
        if slope > best[0]:
            best = (slope, k, g)
    return best


def partition_reference(s: Sequence[float], beta: float) -> float:
    """Z(beta) = sum_i exp(-beta (s_(1) - s_i))."""
    top = max(s)
    return math.fsum(math.exp(-beta * (top - x)) for x in s)


def entropy_reference(s: Sequence[float], beta: float) -> float:
    """H = -sum_i p_i log p_i with p_i = exp(-beta (s_(1) - s_i)) / Z."""
    top, z = max(s), partition_reference(s, beta)
    p = [math.exp(-beta * (top - x)) / z for x in s]
    return -math.fsum(q * math.log(q) for q in p if q > 0)


def beta_reference(s: Sequence[float], target: float = 2 / 3) -> float:
    """The beta with p_max(beta) = target, by bisection on [B, 3 B]."""
    scale = scale_reference(s)[0]
    low, high = scale, 3 * scale
    for _ in range(200):
        middle = (low + high) / 2
        if 1 / partition_reference(s, middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
