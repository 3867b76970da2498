"""What the stream must bracket, in plain Python: exact B, and B's bounds from binned gaps and the K largest."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reproven.papers.critical_scaling.rows_reference import gaps_reference


def bounds_reference(s: Sequence[float], k: int, per_octave: int) -> tuple[float, float]:
    """(low, high) with the K - 1 smallest gaps exact and all others rounded to the ends of their bin.

    A bin is [2^e (1 + j / per_octave), 2^e (1 + (j + 1) / per_octave)).
    """
    gaps = gaps_reference(s)
    low = high = max(math.log(1 + i) / g for i, g in enumerate(gaps[: k - 1], start=1))
    for i, g in enumerate(gaps, start=1):
        if i < k:
            continue
        fraction, exponent = math.frexp(g)  # g = fraction 2^exponent, fraction in [1/2, 1)
        step = math.floor((2 * fraction - 1) * per_octave)
        start, end = (2.0 ** (exponent - 1) * (1 + (step + j) / per_octave) for j in (0, 1))
        same_bin = sum(1 for other in gaps if other < end)  # all of the bin, at its nearest end
        low = max(low, math.log(1 + i) / end)
        high = max(high, math.log(1 + same_bin) / max(start, gaps[k - 2]))
    return low, high
