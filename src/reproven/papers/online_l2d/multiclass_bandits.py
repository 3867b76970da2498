"""Bandit multiclass learners on pools: SOBA and Gaptron, with "the label was right" read as the reward.

Both are published for labels alone. Here a row is any action of the pool and the reward 1 - c of the played row
takes the place of 1[played = y]; with experts several actions can be right at once, so that their regret
bounds are claimed for pools without experts only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reproven.harness.compiled import njit
from reproven.papers.online_l2d.kernels import (
    argmax_random_ties,
    cost_of,
    fill_pool,
    greedy_mixture,
    play,
    pool_scores,
    softmax,
)
from reproven.papers.online_l2d.learner import Trace, blocks, check_ranges, tuning_grid
from reproven.papers.online_l2d.streams import Stream


@njit
def run_gaptron(block, gamma, eta, weights):
    """Play a block of Gaptron rounds with the logistic loss."""
    rows, d = weights.shape
    pool = np.empty(rows, np.int64)
    scores = np.empty(rows)
    q = np.empty(rows)
    p = np.empty(rows)
    for t in range(len(block.which)):
        x = block.contexts[block.which[t]]
        k = fill_pool(block, True, t, pool)
        pool_scores(weights, 1.0, x, pool, k, scores)
        best = argmax_random_ties(scores, k, block.uniforms[t, 0])
        softmax(scores, k, q)
        gap = 1.0 - q[best] if q[best] >= 0.5 else 1.0
        greedy_mixture(best, max(gap, gamma), k, p)
        played = play(block, t, pool, p, k)
        weight = (1.0 - cost_of(block, pool[played], t)) / p[played]
        if weight == 0.0:
            continue
        for i in range(k):
            slope = eta * weight * (q[i] - 1.0 if i == played else q[i])
            for j in range(d):
                weights[pool[i], j] -= slope * x[j]


@dataclass(frozen=True)
class Gaptron:
    """Gaptron (van der Hoeven 2020), bandit setting, logistic loss, on the pool's rows.

        q = softmax(s),  a = 1 - max q if max q >= 1/2 else 1          (gap map)
        p = (1 - max(a, gamma)) 1[argmax s] + max(a, gamma) / K
        W <- W - eta (r / p) (q - e_played) x~^T

    gamma = min(1, kappa T^{-1/2}), kappa >= 0; eta > 0, a constant step; no projection. Logarithms are natural, the
    paper's to base 2: the step takes up the factor. Source: NeurIPS 2020, section 3 and its bandit algorithm.
    """

    kappa: float = 1.0
    eta: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(self, positive=("eta",), not_negative=("kappa",))

    def candidates(self) -> list[Gaptron]:
        """Grid for tuning: exploration times step, as large as every other method's."""
        return tuning_grid(self, "eta")

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream; O(K d) a round."""
        weights = np.zeros((stream.rows, stream.contexts.shape[1] + 1))
        gamma = min(1.0, self.kappa * stream.rounds**-0.5)
        trace = Trace.blank(stream.rounds)
        for block in blocks(stream, trace, rng):
            run_gaptron(block, gamma, self.eta, weights)
        return trace


@njit
def soba_update(weights, inverse, budget, row, rival, x, reward, p):
    """One second-order step for the played row against its rival; returns the new running sum of m."""
    d = x.shape[0]
    flat = weights.reshape(-1)  # w, a view
    n = flat.shape[0]
    gain = np.empty(n)  # inverse z
    size = reward / np.sqrt(p)  # z = sqrt(p) g, g = (r / p) (e_rival - e_row) x
    inner = 0.0  # <w, z>
    for j in range(d):
        inner += size * x[j] * (flat[rival * d + j] - flat[row * d + j])
    curvature = 0.0  # z^T inverse z
    for a in range(n):
        total = 0.0
        for j in range(d):
            total += size * x[j] * (inverse[a, rival * d + j] - inverse[a, row * d + j])
        gain[a] = total
    for j in range(d):
        curvature += size * x[j] * (gain[rival * d + j] - gain[row * d + j])
    margin = (inner * inner + 2.0 * inner / np.sqrt(p)) / (1.0 + curvature)
    if margin + budget < 0.0:
        return budget
    # A <- A + z z^T, theta <- theta - g, w = A^{-1} theta, by Sherman and Morrison; <gain, theta> = <w, z>
    pull = (inner - curvature / np.sqrt(p)) / (1.0 + curvature)
    for a in range(n):
        flat[a] -= gain[a] / np.sqrt(p) + gain[a] * pull
        for b in range(n):
            inverse[a, b] -= gain[a] * gain[b] / (1.0 + curvature)
    return margin + budget


@njit
def run_soba(block, gamma, weights, inverse, budget):
    """Play a block of SOBA rounds from the running sum `budget`; returns the new one."""
    rows = weights.shape[0]
    pool = np.empty(rows, np.int64)
    scores = np.empty(rows)
    p = np.empty(rows)
    for t in range(len(block.which)):
        x = block.contexts[block.which[t]]
        k = fill_pool(block, True, t, pool)
        pool_scores(weights, 1.0, x, pool, k, scores)
        greedy_mixture(argmax_random_ties(scores, k, block.uniforms[t, 0]), gamma, k, p)
        played = play(block, t, pool, p, k)
        reward = 1.0 - cost_of(block, pool[played], t)
        if reward == 0.0 or k == 1:
            continue
        scores[played] = -np.inf
        rival = argmax_random_ties(scores, k, 0.0)
        budget = soba_update(weights, inverse, budget, pool[played], pool[rival], x, reward, p[played])
    return budget


@dataclass(frozen=True)
class Soba:
    """SOBA (Beygelzimer, Orabona & Zhang 2017), second-order Banditron, on the pool's rows.

        after a reward r:  g = (r / p) (e_rival - e_played) x~,  rival the best other row,  z = sqrt(p) g
                           m = (<w, z>^2 + 2 <w, g>) / (1 + z^T A^{-1} z)
        if m + (sum of m over earlier updates) >= 0:  A <- A + z z^T,  theta <- theta - g,  w = A^{-1} theta

    from A = a I, with p the greedy mixture, gamma = min(1, kappa T^{-1/2}). kappa >= 0; a > 0. O((N d)^2) a rewarded
    round: for tens of rows and features. Source: ICML 2017, algorithm 1.
    """

    kappa: float = 1.0
    a: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, positive=("a",), not_negative=("kappa",))

    def candidates(self) -> list[Soba]:
        """Grid for tuning: exploration times regularisation, as large as every other method's."""
        return tuning_grid(self, "a")

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream."""
        weights, budget = np.zeros((stream.rows, stream.contexts.shape[1] + 1)), 0.0
        inverse = np.eye(weights.size) / self.a
        gamma = min(1.0, self.kappa * stream.rounds**-0.5)
        trace = Trace.blank(stream.rounds)
        for block in blocks(stream, trace, rng):
            budget = run_soba(block, gamma, weights, inverse, budget)
        return trace
