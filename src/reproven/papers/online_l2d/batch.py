"""Batch learning-to-defer, trained on the first rounds of a stream and frozen.

Cross-entropy over labels and experts (Mozannar & Sontag 2020; Verma, Barrejon & Nalisnick 2023, softmax) and
one-versus-all (Verma et al. 2023), linear scores, on pools that change: sums run over the round's pool.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from reproven.papers.online_l2d.learner import Trace, check_ranges
from reproven.papers.online_l2d.streams import Stream


def cross_entropy(
    scores: np.ndarray, pool: np.ndarray, cost: np.ndarray, weight: np.ndarray
) -> tuple[float, np.ndarray]:
    """sum_a weight_a (1 - c_a) (-log softmax_A(s)_a) and its gradient in s; all arrays (m, N)."""
    top = np.where(pool, scores, -np.inf).max(axis=1, keepdims=True)
    e = np.where(pool, np.exp(np.minimum(scores - top, 0.0)), 0.0)
    q = e / e.sum(axis=1, keepdims=True)
    r = np.where(pool, weight * (1 - cost), 0.0)
    log_q = np.where(pool, scores - top - np.log(e.sum(axis=1, keepdims=True)), 0.0)
    return float(-(r * log_q).sum()), r.sum(axis=1, keepdims=True) * q - r


def one_versus_all(
    scores: np.ndarray, pool: np.ndarray, cost: np.ndarray, weight: np.ndarray
) -> tuple[float, np.ndarray]:
    """sum_a weight_a [(1 - c_a) phi(s_a) + c_a phi(-s_a)], phi logistic, and its gradient; arrays (m, N)."""
    w = np.where(pool, weight, 0.0)
    loss = -w * ((1 - cost) * log_expit(scores) + cost * log_expit(-scores))
    return float(loss.sum()), w * (expit(scores) - (1 - cost))


LOSSES = {"ce": cross_entropy, "ova": one_versus_all}


def fit(
    loss: str, x: np.ndarray, pool: np.ndarray, cost: np.ndarray, weight: np.ndarray, penalty: float
) -> np.ndarray:
    """Return W (N, D) minimising the mean loss plus penalty/2 ||W||_F^2 (L-BFGS; convex)."""
    shape, m = (pool.shape[1], x.shape[1]), len(x)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        W = flat.reshape(shape)
        value, gradient = LOSSES[loss](x @ W.T, pool, cost, weight)
        total = gradient.T @ x / m + penalty * W
        return value / m + penalty / 2 * float((W**2).sum()), total.ravel()

    start = np.zeros(shape[0] * shape[1])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x.reshape(shape)


@dataclass(frozen=True)
class BatchL2D:
    """Play uniformly for the warm-up, fit on it once, then argmax of the frozen scores over the pool.

    loss: "ce" or "ova". logged: "full" trains on all costs of the warm-up, which no bandit learner sees;
    "bandit" on the played ones alone, weighted by 1 / p. penalty > 0: ridge. Experts never seen in the
    warm-up have no trained score and are never asked.
    """

    loss: str = "ce"
    logged: str = "full"
    penalty: float = 0.01

    def __post_init__(self) -> None:
        if self.loss not in LOSSES or self.logged not in ("full", "bandit"):
            raise ValueError(f"loss {self.loss!r} and logged {self.logged!r}: use ce or ova, full or bandit")
        check_ranges(self, positive=("penalty",))

    def candidates(self) -> list[BatchL2D]:
        """Grid for tuning: twelve penalties; nothing explores after the warm-up."""
        return [replace(self, penalty=self.penalty * 3.0**i) for i in range(-8, 4)]

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream; it must declare a warm-up of at least one round and be longer than that."""
        m = stream.warm_up
        if not 1 <= m < stream.rounds:
            raise ValueError(
                f"warm_up of the stream is {m}: a batch learner trains on 1 to {stream.rounds - 1} of its rounds"
            )
        pool, x = stream.pool(), stream.augmented()
        count = pool[:m].sum(axis=1)
        rank = (rng.random(m) * count).astype(int)
        played = (np.cumsum(pool[:m], axis=1, dtype=np.int16) > rank[:, None]).argmax(axis=1)
        weight = np.ones((m, stream.rows))
        if self.logged == "bandit":
            weight = (np.arange(stream.rows) == played[:, None]) * count[:, None].astype(float)
        cost = stream.head(m).costs()
        W = fit(self.loss, x[stream.index[:m]], pool[:m], cost, weight, self.penalty)
        seen = pool[:m].any(axis=0)
        score = (x @ W.T)[stream.index[m:]]
        frozen = np.where(pool[m:] & seen, score, -np.inf).argmax(axis=1)
        propensities = np.concatenate([1.0 / count, np.ones(stream.rounds - m)])
        return Trace(np.concatenate([played, frozen]), propensities, {"norm": float(np.linalg.norm(W))})
