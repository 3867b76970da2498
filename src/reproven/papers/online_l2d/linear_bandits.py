"""Contextual-bandit baselines on pools: per-action ridge regression under four rules, and Banditron.

All keep one linear model per row, masked to the pool of the round, and see only the played cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from reproven.harness.compiled import njit
from reproven.papers.online_l2d.kernels import (
    argmax_random_ties,
    cost_of,
    fill_pool,
    greedy_mixture,
    play,
    pool_scores,
    ridge_update,
)
from reproven.papers.online_l2d.learner import Trace, blocks, check_ranges, tuning_grid
from reproven.papers.online_l2d.streams import Stream

EPSILON_GREEDY, UCB, THOMPSON, SQUARECB = 0, 1, 2, 3
RULES = {"epsilon_greedy": EPSILON_GREEDY, "ucb": UCB, "thompson": THOMPSON, "squarecb": SQUARECB}


@njit
def run_ridge(block, rule, scale, epsilon, coefficients, inverse, normals):
    """Play a block; `normals` (T, N) is read by Thompson only."""
    rows, d = coefficients.shape
    pool = np.empty(rows, np.int64)
    value = np.empty(rows)
    p = np.empty(rows)
    for t in range(len(block.which)):
        x = block.contexts[block.which[t]]
        k = fill_pool(block, True, t, pool)
        pool_scores(coefficients, -1.0, x, pool, k, value)
        if rule in (UCB, THOMPSON):
            for i in range(k):
                row = pool[i]
                variance = 0.0
                for j in range(d):
                    inner = 0.0
                    for l in range(d):
                        inner += inverse[row, j, l] * x[l]
                    variance += x[j] * inner
                width = scale * np.sqrt(max(variance, 0.0))
                value[i] += width if rule == UCB else width * normals[t, row]
        best = argmax_random_ties(value, k, block.uniforms[t, 0])
        if rule == SQUARECB:
            mu = scale * np.sqrt(k * (block.first + t + 1))
            rest = 1.0
            for i in range(k):
                p[i] = 0.0 if i == best else 1.0 / (k + mu * (value[best] - value[i]))
                rest -= p[i]
            p[best] = rest
        else:
            share = epsilon / k if rule == EPSILON_GREEDY else 0.0
            for i in range(k):
                p[i] = share
            p[best] = 1.0 - share * (k - 1)
        row = pool[play(block, t, pool, p, k)]
        if rule == THOMPSON:
            block.propensities[t] = np.nan
        ridge_update(coefficients, inverse, row, x, cost_of(block, row, t))


@dataclass(frozen=True)
class RidgeBandit:
    """Ridge regression of the cost per action, c^_a(x) = <theta_a, x~>, and a rule that plays on it.

    "epsilon_greedy": argmin c^ with probability 1 - eps, eps = min(1, kappa T^{-1/3}), else uniform;
    "ucb" (LinUCB, disjoint): argmin c^ - kappa w, w^2 = x~^T (lambda I + X^T X)^{-1} x~;
    "thompson": argmin of draws N(c^, kappa^2 w^2); on one context this is posterior sampling of theta;
    "squarecb": p_a = 1 / (K + mu (c^_a - c^_best)), mu = kappa sqrt(K t), the rest on the best.

    kappa > 0; ridge > 0 is lambda. Sources: Li et al. 2010; Agrawal & Goyal 2013; Foster & Rakhlin 2020.
    """

    rule: str = "epsilon_greedy"
    kappa: float = 1.0
    ridge: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule {self.rule!r} is unknown: use one of {', '.join(RULES)}")
        check_ranges(self, positive=("kappa", "ridge"))

    def candidates(self) -> list[RidgeBandit]:
        """Grid for tuning: exploration times ridge, as large as every other method's."""
        return tuning_grid(self, "ridge")

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream; O(K d), or O(K d^2) for UCB and Thompson, and O(d^2) to learn, a round."""
        rows, d = stream.rows, stream.contexts.shape[1] + 1
        coefficients = np.zeros((rows, d))
        inverse = np.broadcast_to(np.eye(d) / self.ridge, (rows, d, d)).copy()
        epsilon = min(1.0, self.kappa * stream.rounds ** (-1 / 3))
        trace = Trace.blank(stream.rounds)
        for block in blocks(stream, trace, rng):
            drawn = (len(block.which), rows) if self.rule == "thompson" else (0, 0)
            normals = rng.standard_normal(drawn)
            run_ridge(block, RULES[self.rule], float(self.kappa), epsilon, coefficients, inverse, normals)
        return trace


@njit
def run_banditron(block, gamma, weights):
    """Play a block of Banditron rounds."""
    rows, d = weights.shape
    pool = np.empty(rows, np.int64)
    scores = np.empty(rows)
    p = np.empty(rows)
    for t in range(len(block.which)):
        x = block.contexts[block.which[t]]
        k = fill_pool(block, True, t, pool)
        pool_scores(weights, 1.0, x, pool, k, scores)
        best = argmax_random_ties(scores, k, block.uniforms[t, 0])
        greedy_mixture(best, gamma, k, p)
        played = play(block, t, pool, p, k)
        reward = 1.0 - cost_of(block, pool[played], t)
        for j in range(d):
            weights[pool[played], j] += reward / p[played] * x[j]
            weights[pool[best], j] -= x[j]


@dataclass(frozen=True)
class Banditron:
    """Banditron (Kakade, Shalev-Shwartz & Tewari 2008) on the pool's rows.

        w_a <- w_a + x~ (1[a = a_t] r_t / p_{a_t} - 1[a = argmax])

    with p the greedy mixture, gamma = min(1, kappa T^{-1/3}), kappa >= 0. Its reward is "the played action was right";
    with experts several actions can be right at once, so the mistake-bound argument does not carry over.
    """

    kappa: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, not_negative=("kappa",))

    def candidates(self) -> list[Banditron]:
        """Grid for tuning: the perceptron is free of scale, so twelve exploration constants."""
        return [replace(self, kappa=self.kappa * 3.0 ** (i / 2)) for i in range(-5, 7)]

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream."""
        weights = np.zeros((stream.rows, stream.contexts.shape[1] + 1))
        gamma = min(1.0, self.kappa * stream.rounds ** (-1 / 3))
        trace = Trace.blank(stream.rounds)
        for block in blocks(stream, trace, rng):
            run_banditron(block, gamma, weights)
        return trace
