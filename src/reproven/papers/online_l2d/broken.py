"""Broken twins of the learner, for negative controls: each has one known defect that must be told apart."""

from __future__ import annotations

import numpy as np

from reproven.papers.online_l2d.learner_reference import ReferenceLearner


class MismatchedWeights(ReferenceLearner):
    """Samples from p but divides by the softmax mixture's probability: the estimate is biased."""

    def observation(self, A: list[int], p: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray]:
        o, _ = super().observation(A, p, i)
        s = self.pending[2]
        q = np.exp(s - s.max())
        return o, (1 - self.gamma()) * q / q.sum() + self.gamma() / len(s)


class ArgmaxOverAllRows(ReferenceLearner):
    """Takes the argmax over every row it knows, present or not: it plays experts who are not there."""

    def decide(self, x: np.ndarray, experts: list[int], u_tie: float, u_draw: float) -> tuple[int, float]:
        everyone = sorted({*experts, *(a for a in self.W if a >= self.n)})
        return super().decide(x, everyone, u_tie, u_draw)


class IndexTies(ReferenceLearner):
    """Breaks ties by index: the first round's argmax is always label 0, and new experts stay hidden."""

    def argmax(self, s: np.ndarray, u: float) -> int:
        return int(s.argmax())


BROKEN = {"mismatched_weights": MismatchedWeights, "all_rows": ArgmaxOverAllRows, "index_ties": IndexTies}
