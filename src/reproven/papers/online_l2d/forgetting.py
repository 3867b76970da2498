"""Ridge regressions that forget, for experts whose reliability moves: sliding window and discount.

Epsilon-greedy on one ridge regression of the cost per row, as `linear_bandits.RidgeBandit`, but on weighted data:

    theta_a(t) = (lambda I + sum_s w_s x~_s x~_s^T)^{-1} sum_s w_s x~_s c_s,   s over the rounds in which a was played

with w_s = 1[t - s <= span] (window; Cheung, Simchi-Levi & Zhu 2019) or (1 - 1/span)^(t - s) (discount; Russac,
Vernade & Cappe 2019). Both take confidence bounds; here the rule is epsilon-greedy, so that only the memory differs
from the baseline without forgetting. What was long not played falls back to a predicted cost of 0 and is tried again.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass

import numpy as np

from reproven.harness.compiled import njit
from reproven.papers.online_l2d.kernels import argmax_random_ties, cost_of, fill_pool, play, pool_scores
from reproven.papers.online_l2d.learner import Trace, blocks, check_ranges, tuning_grid
from reproven.papers.online_l2d.streams import Stream

MEMORIES = ("window", "discount")


@njit
def solve_regularised(gram, moment, weight, ridge, factor, out):
    """out = (weight gram + ridge I)^{-1} weight moment by Cholesky, in O(d^3); `factor` (d, d) is overwritten."""
    d = moment.shape[0]
    for i in range(d):
        for j in range(i + 1):
            total = weight * gram[i, j]
            if i == j:
                total += ridge
            for l in range(j):
                total -= factor[i, l] * factor[j, l]
            factor[i, j] = np.sqrt(total) if i == j else total / factor[j, j]
    for i in range(d):
        total = weight * moment[i]
        for l in range(i):
            total -= factor[i, l] * out[l]
        out[i] = total / factor[i, i]
    for i in range(d - 1, -1, -1):
        total = out[i]
        for l in range(i + 1, d):
            total -= factor[l, i] * out[l]
        out[i] = total / factor[i, i]


@njit
def add_observation(gram, moment, row, x, cost, sign):
    """Add (sign = 1) or take away (-1) one observation of a row."""
    for i in range(x.shape[0]):
        moment[row, i] += sign * cost * x[i]
        for j in range(i + 1):
            gram[row, i, j] += sign * x[i] * x[j]


@njit
def run_forgetting(
    block, windowed, span, ridge, epsilon, gram, moment, coefficients, last, index, played_row, played_cost
):
    """Play a block; `index` and the two histories hold the whole stream."""
    rows, d = coefficients.shape
    pool = np.empty(rows, np.int64)
    value = np.empty(rows)
    p = np.empty(rows)
    factor = np.empty((d, d))
    keep = 1.0 - 1.0 / span
    for i in range(len(block.which)):
        t = block.first + i
        if windowed and t > span:
            old = t - span - 1
            row = played_row[old]
            add_observation(gram, moment, row, block.contexts[index[old]], played_cost[old], -1.0)
            solve_regularised(gram[row], moment[row], 1.0, ridge, factor, coefficients[row])
        x = block.contexts[index[t]]
        k = fill_pool(block, True, i, pool)
        for j in range(k):
            row = pool[j]
            if not windowed and last[row] >= 0:
                weight = keep ** (t - last[row])
                solve_regularised(gram[row], moment[row], weight, ridge, factor, coefficients[row])
            p[j] = epsilon / k
        pool_scores(coefficients, -1.0, x, pool, k, value)
        best = argmax_random_ties(value, k, block.uniforms[i, 0])
        p[best] = 1.0 - epsilon / k * (k - 1)
        row = pool[play(block, i, pool, p, k)]
        cost = cost_of(block, row, i)
        played_row[t] = row
        played_cost[t] = cost
        if not windowed and last[row] >= 0:
            weight = keep ** (t - last[row])
            for j in range(d):
                moment[row, j] *= weight
                for l in range(j + 1):
                    gram[row, j, l] *= weight
        last[row] = t
        add_observation(gram, moment, row, x, cost, 1.0)
        if windowed:
            solve_regularised(gram[row], moment[row], 1.0, ridge, factor, coefficients[row])


@dataclass(frozen=True)
class ForgettingRidge:
    """Ridge regression per row with a memory of about `span` rounds, and epsilon-greedy on it.

    memory: "window", the last `span` rounds alone, O(K d + d^3) a round; or "discount", weights
    (1 - 1/span)^age, O(K d^3) a round. span >= 1; None takes share * T, share > 0.
    epsilon = min(1, kappa T^{-1/3}), kappa > 0; ridge > 0 is lambda. Raises ValueError outside these ranges.
    Source: module docstring.

    >>> trace = ForgettingRidge(span=500).run(static(1000, np.random.default_rng(0)), np.random.default_rng(1))
    """

    memory: str = "window"
    span: int | None = None
    kappa: float = 1.0
    ridge: float = 1.0
    share: float = 0.05

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ValueError(f"memory {self.memory!r} is unknown: use one of {', '.join(MEMORIES)}")
        check_ranges(self, positive=("kappa", "ridge", "share"))
        if self.span is not None and not (isinstance(self.span, numbers.Integral) and self.span >= 1):
            raise ValueError(f"span is {self.span}: give whole rounds, at least 1, or None for share * T")

    def candidates(self) -> list[ForgettingRidge]:
        """Grid for tuning: exploration times memory, as large as every other method's."""
        return tuning_grid(self, "share")

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream; `rng` gives two uniforms a round."""
        d, rows, T = stream.contexts.shape[1] + 1, stream.rows, stream.rounds
        span = self.span or max(1, int(self.share * T))
        gram, moment, coefficients = np.zeros((rows, d, d)), np.zeros((rows, d)), np.zeros((rows, d))
        last, played_row, played_cost = np.full(rows, -1), np.empty(T, np.int64), np.empty(T)
        epsilon = min(1.0, self.kappa * T ** (-1 / 3))
        trace = Trace.blank(T)
        for block in blocks(stream, trace, rng):
            run_forgetting(
                block, self.memory == "window", span, self.ridge, epsilon, gram, moment, coefficients, last,
                stream.index, played_row, played_cost,
            )  # fmt: skip
        return trace
