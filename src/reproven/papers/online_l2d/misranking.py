"""Varying pools and one shared score vector: where the best scores of a surrogate rank a pool wrongly.

One context, n labels that are always there and experts that are there independently with probability 1/2. The
hinge (S-cost) centres its scores over the pool, so that its minimiser depends on the pool; softmax scores
s_a = log R_a + const do not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog, minimize
from scipy.special import logsumexp


@dataclass(frozen=True)
class Instance:
    """Conditional costs C (N,) of one context; pools (P, N) and their probabilities (P,)."""

    costs: np.ndarray
    pools: np.ndarray
    weights: np.ndarray


def random_instance(rng: np.random.Generator, n_labels: int = 2, n_experts: int = 3) -> Instance:
    """Label probabilities uniform on the simplex, expert accuracies uniform on [0, 1]."""
    labels = 1 - rng.dirichlet(np.ones(n_labels))
    experts = 1 - rng.random(n_experts)
    subsets = np.array(list(itertools.product([False, True], repeat=n_experts)))
    pools = np.hstack([np.ones((len(subsets), n_labels), bool), subsets])
    return Instance(np.concatenate([labels, experts]), pools, np.full(len(subsets), 0.5**n_experts))


def hinge_minimum(case: Instance, *, rank_right: bool = False) -> tuple[float, np.ndarray]:
    """Least expected S-cost surrogate over the pools and scores that attain it, by linear programming.

    rank_right: only scores that rank every pool's best action first. If that raises the minimum, then every
    minimiser of the surrogate misranks some pool.
    """
    N, P = len(case.costs), len(case.pools)
    objective, rows, bound = [np.zeros(N)], [], []
    for i, (pool, weight) in enumerate(zip(case.pools, case.weights)):
        members = np.flatnonzero(pool)
        objective.append(np.where(pool, weight * case.costs, 0.0))
        for a in members:
            row = np.zeros(N + P * N)
            row[a] += 1.0
            row[members] -= 1.0 / len(members)
            row[N + i * N + a] = -1.0
            rows.append(row)
            bound.append(-1.0)
        if rank_right:
            best = members[case.costs[members].argmin()]
            for a in members[members != best]:
                row = np.zeros(N + P * N)
                row[a], row[best] = 1.0, -1.0
                rows.append(row)
                bound.append(0.0)
    box = [(None, None)] * N + [(0, None)] * (P * N)
    found = linprog(np.concatenate(objective), A_ub=np.array(rows), b_ub=np.array(bound), bounds=box)
    return float(found.fun), found.x[:N]


def cross_entropy_minimiser(case: Instance) -> np.ndarray:
    """Scores (N,) that minimise the expected CE-reward surrogate over the pools, by BFGS from 0."""
    rewards = 1 - case.costs

    def objective(s: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = 0.0, np.zeros_like(s)
        for pool, weight in zip(case.pools, case.weights):
            total = rewards[pool].sum()
            log_sum = logsumexp(s[pool])
            value += weight * (total * log_sum - rewards[pool] @ s[pool])
            gradient[pool] += weight * (total * np.exp(s[pool] - log_sum) - rewards[pool])
        return value, gradient

    return minimize(objective, np.zeros(len(rewards)), jac=True, method="BFGS", options={"gtol": 1e-9}).x


def pool_regret(case: Instance, scores: np.ndarray) -> float:
    """Expected regret per round of the masked argmax of the scores."""
    chosen = np.where(case.pools, scores, -np.inf).argmax(axis=1)
    best = np.where(case.pools, case.costs, np.inf).min(axis=1)
    return float(case.weights @ (case.costs[chosen] - best))
