"""Compiled loops over one row: counting gaps in log-spaced bins as they come, the largest scores kept apart.

A gap's bin is the leading part of its float32 pattern: sign, exponent and the first `BITS` bits of the fraction,
that is ``2^BITS`` = 16 bins an octave. Bins are ordered as gaps are, and finding one costs a shift.
"""

from __future__ import annotations

import numpy as np

from reproven.harness.compiled import njit

BITS = 4
SHIFT = 23 - BITS
PATTERNS = (
    512 << BITS
)  # bins of all patterns, those of negative numbers among them (no gap is, but NaN may be)
BINS = 255 << BITS  # bins of finite numbers; the next is infinity's, those behind it are NaN's
BLOCK, PART = 1024, 64


@njit
def _edges():
    """Return the lower edges of the bins of all finite gaps and the end of the last."""
    patterns = np.empty(BINS + 1, np.int32)
    for b in range(len(patterns)):
        patterns[b] = b << SHIFT
    return patterns.view(np.float32)


@njit
def _top(x):
    """Return the maximum, eight at a time: independent comparisons do not wait for each other. NaN is passed over."""
    a = b = c = d = p = q = r = s = x[0]
    n = len(x) // 8 * 8
    for i in range(0, n, 8):
        a = x[i] if x[i] > a else a
        b = x[i + 1] if x[i + 1] > b else b
        c = x[i + 2] if x[i + 2] > c else c
        d = x[i + 3] if x[i + 3] > d else d
        p = x[i + 4] if x[i + 4] > p else p
        q = x[i + 5] if x[i + 5] > q else q
        r = x[i + 6] if x[i + 6] > r else r
        s = x[i + 7] if x[i + 7] > s else s
    for i in range(n, len(x)):
        a = x[i] if x[i] > a else a
    return max(max(max(a, b), max(c, d)), max(max(p, q), max(r, s)))


@njit
def _subtract(top, x, g):
    """Fill ``g = top - x`` in single precision."""
    for i in range(len(x)):
        g[i] = top - x[i]


@njit
def _count(patterns, counts):
    """Count each pattern in its bin; unsigned, so that no index is negative."""
    for i in range(len(patterns)):
        counts[patterns[i] >> np.uint32(SHIFT)] += 1


@njit
def _nan(counts):
    """Tell whether a NaN was counted: its patterns are the last of the positive and of the negative ones."""
    found = False
    for b in range(BINS + 1, PATTERNS // 2):
        found |= counts[b] > 0 or counts[b + PATTERNS // 2] > 0
    return found


@njit
def absorb(x, state, counts, kept, cut):
    """Take scores `x` into a stream: bins relative to the running maximum, the largest kept apart.

    state: [running maximum, how many are kept, keys seen, smallest kept once the buffer was cut].
    counts: (3, PATTERNS) gaps counted exactly to a bin since the last new maximum, and, of those counted before
    it, at the nearest and the farthest bin that they can be in. kept: buffer of scores; `cut` of them stay when it
    is full. Returns False at the first block with a score that is NaN or infinite.
    """
    g = np.empty(BLOCK, np.float32)
    patterns = g.view(np.uint32)
    fresh = counts[0]
    size, floor = int(state[1]), state[3]
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        m = len(block)
        top = _top(block)
        if top > state[0]:
            if state[2] > 0:
                _shift(counts, top - state[0])
            state[0] = top
        _subtract(state[0], block, g)
        _count(patterns[:m], fresh)
        if fresh[BINS] or _nan(fresh):
            return False
        state[2] += m
        if top <= floor:
            continue
        for a in range(0, m, PART):
            part = block[a : a + PART]
            if _top(part) <= floor:
                continue
            for v in part:
                if v > floor:
                    kept[size] = v
                    size += 1
                    if size == len(kept):
                        kept[:cut] = np.partition(kept, size - cut)[size - cut :]  # its first is the smallest
                        size, floor = cut, kept[0]
    state[1], state[3] = size, floor
    return True


@njit
def _shift(counts, by):
    """Move all counts to where their gaps are after the maximum rose by `by`: nearest and farthest bin."""
    edge = _edges()
    moved = np.zeros((3, BINS), counts.dtype)
    for b in range(BINS):
        for row, grow in ((1, 0), (2, 1)):
            c = counts[row, b] + counts[0, b]
            if c:
                there = np.float32((edge[b + grow] + by) * (1.0 + (2 * grow - 1) * 1e-6))
                moved[row, _bin(there)] += c
    counts[:, :BINS] = moved


@njit
def _bin(gap):
    one = np.empty(1, np.float32)
    one[0] = gap
    return min(one.view(np.int32)[0] >> SHIFT, BINS - 1)


@njit
def running_maximum(x):
    """Return the maximum: the plainest compiled pass over an array, the yardstick of the streaming benchmark."""
    top = x[0]
    for i in range(len(x)):
        if x[i] > top:
            top = x[i]
    return top
