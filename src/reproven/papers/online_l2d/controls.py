"""The mandatory simple policies: uniform play, a random expert, the best fixed expert, the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reproven.papers.online_l2d.learner import Trace
from reproven.papers.online_l2d.streams import Stream

POLICIES = ("random", "random_expert", "best_expert", "oracle")


@dataclass(frozen=True)
class Control:
    """A policy that learns nothing.

    "random": uniform over A_t; "random_expert": uniform over the available experts (labels where none is);
    "best_expert": the expert of least mean expected cost, in hindsight, over the rounds in which it is there; where
    absent the next best of the experts, where none is there the best label; "oracle": the available row of least
    conditional cost. The last two know the stream's expected costs.
    """

    policy: str = "random"

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy {self.policy!r} is unknown: use one of {', '.join(POLICIES)}")

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream."""
        ones = np.ones(stream.rounds)
        if self.policy == "oracle":
            return Trace(stream.best_actions(), ones)
        if self.policy == "best_expert":
            return Trace(_best_expert(stream), ones)
        pool = stream.pool()
        if self.policy == "random_expert":
            some = pool[:, stream.n_labels :].any(axis=1)
            pool[some, : stream.n_labels] = False
        count = pool.sum(axis=1)
        rank = (rng.random(stream.rounds) * count).astype(int)
        actions = (np.cumsum(pool, axis=1, dtype=np.int16) > rank[:, None]).argmax(axis=1)
        return Trace(actions, 1.0 / count)


def _best_expert(stream: Stream) -> np.ndarray:
    """Rows in one fixed order of mean expected cost, experts before labels: the first available of them."""
    regime, n = stream.regime(), stream.n_labels
    total, present = np.zeros(stream.rows), np.zeros(stream.rows)
    pool = stream.pool()
    for start in range(0, stream.rounds, 1 << 16):
        block = slice(start, start + (1 << 16))
        cost = stream.mean_cost[regime[block], stream.index[block]]
        total += np.where(pool[block], cost, 0.0).sum(axis=0)
        present += pool[block].sum(axis=0)
    mean = total / np.maximum(present, 1)
    order = np.concatenate([n + mean[n:].argsort(kind="stable"), mean[:n].argsort(kind="stable")])
    return order[pool[:, order].argmax(axis=1)]
