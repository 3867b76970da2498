"""Contextual-bandit baselines on pools: per-action ridge regression under four rules, and Banditron.

All keep one linear model per row, masked to the pool of the round, and see only the played cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from reproven.harness.compiled import njit
from reproven.papers.online_l2d.kernels import argmax_random_ties, cost_of, draw, fill_pool, ridge_update
from reproven.papers.online_l2d.learner import BLOCK, EXPLORATION_GRID, SCALE_GRID, Trace
from reproven.papers.online_l2d.streams import Stream

EPSILON_GREEDY, UCB, THOMPSON, SQUARECB = 0, 1, 2, 3
RULES = {"epsilon_greedy": EPSILON_GREEDY, "ucb": UCB, "thompson": THOMPSON, "squarecb": SQUARECB}


@njit
def run_ridge(
    rule, scale, n_labels, first, coefficients, inverse, epsilon, contexts, index, label, wrong, available,
    fee, uniforms, normals, actions, propensities,
):  # fmt: skip
    """Play a block; `first` is the number of its first round, `normals` (T, N) is read by Thompson only."""
    rows, d = coefficients.shape
    pool = np.empty(rows, np.int64)
    value = np.empty(rows)
    p = np.empty(rows)
    for t in range(index.shape[0]):
        x = contexts[index[t]]
        k = fill_pool(n_labels, True, available, t, pool)
        for i in range(k):
            row = pool[i]
            mean = 0.0
            for j in range(d):
                mean += coefficients[row, j] * x[j]
            value[i] = -mean
            if rule in (UCB, THOMPSON):
                variance = 0.0
                for j in range(d):
                    inner = 0.0
                    for l in range(d):
                        inner += inverse[row, j, l] * x[l]
                    variance += x[j] * inner
                width = scale * np.sqrt(max(variance, 0.0))
                value[i] += width if rule == UCB else width * normals[t, row]
        best = argmax_random_ties(value, k, uniforms[t, 0])
        if rule == SQUARECB:
            mu = scale * np.sqrt(k * (first + t))
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
        played = draw(p, k, uniforms[t, 1])
        actions[t] = pool[played]
        propensities[t] = np.nan if rule == THOMPSON else p[played]
        cost = cost_of(n_labels, pool[played], label, wrong, fee, t)
        ridge_update(coefficients, inverse, pool[played], x, cost)


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
        if not (self.kappa > 0 and self.ridge > 0):
            raise ValueError(f"kappa is {self.kappa} and ridge {self.ridge}: give positive numbers")

    def candidates(self) -> list[RidgeBandit]:
        """Grid for tuning: exploration times ridge, as large as every other method's."""
        return [
            replace(self, kappa=self.kappa * k, ridge=self.ridge * s)
            for k in EXPLORATION_GRID
            for s in SCALE_GRID
        ]

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream; O(K d), or O(K d^2) for UCB and Thompson, and O(d^2) to learn, a round."""
        contexts = stream.augmented()
        d, rows = contexts.shape[1], stream.rows
        coefficients = np.zeros((rows, d))
        inverse = np.broadcast_to(np.eye(d) / self.ridge, (rows, d, d)).copy()
        actions, propensities = np.empty(stream.rounds, np.int16), np.empty(stream.rounds)
        epsilon = min(1.0, self.kappa * stream.rounds ** (-1 / 3))
        for start in range(0, stream.rounds, BLOCK):
            block = slice(start, min(start + BLOCK, stream.rounds))
            uniforms = rng.random((block.stop - start, 2))
            drawn = (block.stop - start, rows) if self.rule == "thompson" else (0, 0)
            run_ridge(
                RULES[self.rule], float(self.kappa), stream.n_labels, start + 1, coefficients, inverse,
                epsilon, contexts, stream.index[block], stream.label[block], stream.wrong[block],
                stream.available[block], stream.fee, uniforms, rng.standard_normal(drawn),
                actions[block], propensities[block],
            )  # fmt: skip
        return Trace(actions, propensities)


@njit
def run_banditron(
    n_labels, gamma, weights, contexts, index, label, wrong, available, fee, uniforms, actions, propensities
):
    """Play a block of Banditron rounds."""
    rows, d = weights.shape
    pool = np.empty(rows, np.int64)
    scores = np.empty(rows)
    p = np.empty(rows)
    for t in range(index.shape[0]):
        x = contexts[index[t]]
        k = fill_pool(n_labels, True, available, t, pool)
        for i in range(k):
            scores[i] = 0.0
            for j in range(d):
                scores[i] += weights[pool[i], j] * x[j]
            p[i] = gamma / k
        best = argmax_random_ties(scores, k, uniforms[t, 0])
        p[best] += 1.0 - gamma
        played = draw(p, k, uniforms[t, 1])
        actions[t] = pool[played]
        propensities[t] = p[played]
        reward = 1.0 - cost_of(n_labels, pool[played], label, wrong, fee, t)
        for j in range(d):
            weights[pool[played], j] += reward / p[played] * x[j]
            weights[pool[best], j] -= x[j]


@dataclass(frozen=True)
class Banditron:
    """Banditron (Kakade, Shalev-Shwartz & Tewari 2008) on the pool's rows.

        w_a <- w_a + x~ (1[a = a_t] r_t / p_{a_t} - 1[a = argmax])

    with p the greedy mixture, gamma = min(1, kappa T^{-1/3}). Its reward is "the played action was right";
    with experts several actions can be right at once, so the mistake-bound argument does not carry over.
    """

    kappa: float = 1.0

    def candidates(self) -> list[Banditron]:
        """Grid for tuning: the perceptron is free of scale, so twelve exploration constants."""
        return [replace(self, kappa=self.kappa * 3.0 ** (i / 2)) for i in range(-5, 7)]

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream."""
        contexts = stream.augmented()
        weights = np.zeros((stream.rows, contexts.shape[1]))
        actions, propensities = np.empty(stream.rounds, np.int16), np.empty(stream.rounds)
        run_banditron(
            stream.n_labels, min(1.0, self.kappa * stream.rounds ** (-1 / 3)), weights, contexts,
            stream.index, stream.label, stream.wrong, stream.available, stream.fee,
            rng.random((stream.rounds, 2)), actions, propensities,
        )  # fmt: skip
        return Trace(actions, propensities)
