"""BL in the paper's order and symbols, one item at a time."""

from __future__ import annotations

from collections.abc import Sequence

TIE = 1 + 1e-12


def bl_reference(p: Sequence[float], alpha: float, gamma: float, delta: float) -> list[bool]:
    """Definition 2.3: sort p_(1) <= ... <= p_(n); i*_BL = max{i : p_(i)^gamma <= delta alpha i / n}.

    H_(i) is rejected for all i <= i*_BL; nothing is rejected where the set is empty.
    """
    n = len(p)
    order = sorted(range(n), key=lambda j: p[j])
    i_star = 0
    for i in range(1, n + 1):
        if p[order[i - 1]] ** gamma <= delta * alpha * i / n * TIE:
            i_star = i
    rejected = [False] * n
    for i in range(1, i_star + 1):
        rejected[order[i - 1]] = True
    return rejected
