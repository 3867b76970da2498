"""The surrogates' theory, checked on numbers: calibration, minima, unbiasedness, second moments, projection.

All functions work on conditional means: costs C in [0, 1]^K of one pool, rewards R = 1 - C, scores s.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import linprog

from reproven.papers.online_l2d import kernels
from reproven.papers.online_l2d.learner import FEEDBACK, SAMPLERS, SURROGATES, OnlineL2D


def surrogate_value(surrogate: str, scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Psi(s, C), (m,), of scores and costs (m, K); see `kernels.score_gradient` for the formulas."""
    rewards = 1 - costs
    total = rewards.sum(axis=1, keepdims=True)
    if surrogate == "ce_reward":
        top = scores.max(axis=1, keepdims=True)
        log_q = scores - top - np.log(np.exp(scores - top).sum(axis=1, keepdims=True))
        return -(rewards * log_q).sum(axis=1)
    hinge = np.maximum(1 + scores - scores.mean(axis=1, keepdims=True), 0)
    slope = costs if surrogate == "s_cost" else total - rewards
    return (slope * hinge).sum(axis=1)


def surrogate_minimum(surrogate: str, costs: np.ndarray) -> np.ndarray:
    """min over s of Psi(s, C), (m,): K min C; K min (sum R - R_a); the entropy form for CE-reward."""
    K = costs.shape[1]
    rewards = 1 - costs
    total = rewards.sum(axis=1, keepdims=True)
    if surrogate == "ce_reward":
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(rewards > 0, rewards * np.log(rewards / total), 0.0)
        return -terms.sum(axis=1)
    slope = costs if surrogate == "s_cost" else total - rewards
    return K * slope.min(axis=1)


def target_excess(scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """C at the argmax of the scores minus min C, (m,)."""
    return costs[np.arange(len(costs)), scores.argmax(axis=1)] - costs.min(axis=1)


def calibration_slack(surrogate: str, scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Surrogate excess minus target excess (hinges), or sqrt(2 R- excess) minus target excess (CE), (m,).

    Never negative: the calibration lemma with constant 1, and Pinsker's square root for cross-entropy.
    """
    excess = surrogate_value(surrogate, scores, costs) - surrogate_minimum(surrogate, costs)
    if surrogate == "ce_reward":
        excess = np.sqrt(2 * (1 - costs).sum(axis=1) * np.maximum(excess, 0.0))
    return excess - target_excess(scores, costs)


def linear_program_minimum(costs: np.ndarray) -> float:
    """min over s of sum_a C_a (1 + s-_a)_+ for one cost vector (K,), by linear programming."""
    K = len(costs)
    centre = np.eye(K) - 1.0 / K
    # variables (s, u): minimise C u with u >= 1 + centre s, u >= 0
    found = linprog(
        np.concatenate([np.zeros(K), costs]),
        A_ub=np.hstack([centre, -np.eye(K)]),
        b_ub=-np.ones(K),
        bounds=[(None, None)] * K + [(0, None)] * K,
    )
    return float(found.fun)


def played_gradients(
    method: OnlineL2D, n_labels: int, scores: np.ndarray, costs: np.ndarray, p: np.ndarray, gamma: float
) -> np.ndarray:
    """Score gradients (K, K) that the compiled learner forms, row i after playing i; other costs are NaN.

    The pool is rows 0..K-1. A doubly robust method gets regressions with fixed random coefficients.
    """
    K = len(scores)
    pool, x = np.arange(K), np.array([1.0])
    spec = method.spec(n_labels, K, 1.0, 100)
    state = method.new_state(K, 1)
    if method.estimator == "dr":
        state.coefficients[:, 0] = np.random.default_rng(K).random(K)
    out = np.empty((K, K))
    for played in range(K):
        shown = np.full(K, np.nan)
        shown[played] = costs[played]
        if method.feedback == "full":
            shown = costs
        elif method.feedback == "label_after_deferral" and played >= n_labels:
            shown[:n_labels] = costs[:n_labels]
        estimate = np.empty(K)
        kernels.estimate_costs(spec, state, x, pool, K, p, played, shown, estimate)
        kernels.score_gradient(spec.surrogate, scores, estimate, K, out[played])
    return out


def full_gradient(surrogate: str, scores: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Gradient of Psi at the true costs, (K,)."""
    out = np.empty(len(scores))
    kernels.score_gradient(SURROGATES[surrogate], scores, costs, len(scores), out)
    return out


def sampling_distribution(sampler: str, scores: np.ndarray, gamma: float) -> np.ndarray:
    """p over the pool, (K,)."""
    p = np.empty(len(scores))
    kernels.distribution(SAMPLERS[sampler], gamma, scores, len(scores), 0.5, p)
    return p


def variants() -> list[OnlineL2D]:
    """Every combination of surrogate, sampler, estimator and feedback regime."""
    axes = itertools.product(SURROGATES, SAMPLERS, ("iw", "dr"), FEEDBACK)
    return [OnlineL2D(surrogate=s, sampler=q, estimator=e, feedback=f) for s, q, e, f in axes]


def second_moment_bound(surrogate: str, K: int, gamma: float) -> float:
    """Bound on E||g^||^2 in score space: N^2/gamma, N^3/gamma, 2 N^2/gamma."""
    return {"s_cost": K**2, "s_reward": K**3, "ce_reward": 2 * K**2}[surrogate] / gamma


def published_bound(B: float, N: int, rho: float, T: int) -> float:
    """v5, general case: (B N^{3/2} rho + 1) T^{2/3}."""
    return (B * N**1.5 * rho + 1) * T ** (2 / 3)


def project(W: np.ndarray, radius: float) -> np.ndarray:
    """Nearest matrix of Frobenius norm at most `radius`."""
    norm = np.linalg.norm(W)
    return W if norm <= radius else W * (radius / norm)
