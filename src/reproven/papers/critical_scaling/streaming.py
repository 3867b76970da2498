"""B of a row that is never held whole: one pass, O(K) memory, exact near the top and certified beyond.

The K largest scores are kept, so that the gaps g_1 ... g_{K-1} are exact at the end whatever the order of arrival.
All gaps are counted in log-spaced bins (16 an octave). The maximum may rise on the way; then counted gaps grow, and
each is known only to lie between two bins. Both are kept, and give

    low <= B <= high,    low = high whenever B is attained among the K largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reproven.papers.critical_scaling import kernels

RELATIVE = 1e-6  # gaps are counted after rounding to single precision


@dataclass(frozen=True)
class StreamScale:
    """B of a stream: certified bounds, the depth k* behind the lower one, keys seen."""

    low: float
    high: float
    depth: int
    keys: int

    @property
    def exact(self) -> bool:
        """Whether B was attained among the scores that were kept."""
        return self.low == self.high


class ScaleStream:
    """Accumulates one row in chunks of any size.

    k: scores kept, at least 2. Example::

        stream = ScaleStream()
        for chunk in np.array_split(scores, 100):
            stream.update(chunk)
        stream.result().low
    """

    def __init__(self, k: int = 256) -> None:
        if k < 2:
            raise ValueError(f"k={k} must be at least 2: one score has no gap")
        self.k = k
        self._state = np.array([-np.inf, 0.0, 0.0, -np.inf])
        self._counts = np.zeros((3, kernels.PATTERNS), dtype=np.int64)
        self._kept = np.empty(2 * k)

    def update(self, scores: np.ndarray) -> None:
        """Take further scores, any shape; ValueError on NaN or infinite ones (masked keys are to be left out)."""
        x = np.ascontiguousarray(scores).ravel()
        if x.dtype not in (np.float32, np.float64):
            x = x.astype(np.float64)
        if not kernels.absorb(x, self._state, self._counts, self._kept, self.k):
            raise ValueError("a score is NaN or infinite; drop masked keys before they are streamed")

    def result(self) -> StreamScale:
        """Return the bounds for all scores so far; ValueError where there are fewer than two or all of them tie."""
        top, size, keys, _ = self._state
        if keys < 2:
            raise ValueError(f"{int(keys)} keys: a row needs two for a gap")
        kept = np.sort(self._kept[: int(size)])[::-1][: self.k]
        resolution = np.finfo(np.float32).eps * max(1.0, abs(top)) * 1e-6
        near = np.maximum(top - kept[1:], resolution)
        if near[-1] <= resolution and self._all_tie():
            raise ValueError(f"all {int(keys)} keys tie: B is infinite")
        slope = np.log1p(np.arange(1, len(near) + 1)) / near
        depth = int(slope.argmax()) + 1
        exact = float(slope[depth - 1])
        if keys <= self.k:
            return StreamScale(exact, exact, depth, int(keys))
        low, low_depth, high = self._beyond(float(near[-1]))
        if low > exact:
            return StreamScale(low, max(low, high), low_depth, int(keys))
        return StreamScale(exact, max(exact, high), depth, int(keys))

    def _all_tie(self) -> bool:
        return bool(self._counts[:, 1:].sum() == 0)

    def _beyond(self, last_kept: float) -> tuple[float, int, float]:
        """Return (lower bound of B, its k, upper bound) from the bins beyond the gap of the last kept score."""
        bins = np.flatnonzero(self._counts[:, : kernels.BINS].any(axis=0))
        patterns = np.stack([bins, bins + 1]).astype(np.int32) << kernels.SHIFT
        start, end = patterns.view(np.float32).astype(float)
        end = np.minimum(end, np.finfo(np.float32).max) * (1 + RELATIVE)
        fresh, nearest, farthest = self._counts[:, bins]
        sure = np.cumsum(fresh + farthest) - 1  # surely within the bin's end; the winner is no competitor
        low = np.log1p(np.maximum(sure, 0)) / end
        where = int(low.argmax())
        most = np.cumsum(fresh + nearest) - 1
        beyond = (most >= self.k) & (end >= last_kept)
        high = np.log1p(np.maximum(most, 0)) / np.maximum(start * (1 - RELATIVE), last_kept)
        return float(low[where]), int(sure[where]), float(np.where(beyond, high, 0.0).max())


def streaming_scale(scores: np.ndarray, *, k: int = 256) -> StreamScale:
    """Return the bounds of one array in one pass; see `ScaleStream`."""
    stream = ScaleStream(k)
    stream.update(scores)
    return stream.result()
