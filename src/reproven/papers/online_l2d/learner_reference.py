"""The reconstructed algorithm (dossier 3.3) line by line: dictionaries of rows, float64, no tricks.

Symbols are the paper's: x~ the augmented input, A_t the pool, E_t its experts, K = |A_t|, gamma_t
exploration, p_t the sampling distribution, W the score matrix, B its radius, rho the input bound. Rows are
keyed by action: labels 0..n-1, experts n + j; an expert's row is appended, as zeros, when it is first seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from reproven.papers.online_l2d.learner import OnlineL2D


class ReferenceLearner:
    """Online L2D for one stream; `N` and `rho` are the bounds that the theory step needs."""

    def __init__(self, method: OnlineL2D, n_labels: int, dimension: int, N: int, rho: float, T: int) -> None:
        self.method, self.n, self.N, self.rho, self.T = method, n_labels, N, rho, T
        self.W = {a: np.zeros(dimension) for a in range(n_labels)}
        self.regression: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # action -> (A, b) of A theta = b
        self.dimension = dimension
        self.t = 0
        self.gradient_sq = 0.0

    # Steps 2-5: the pool, its scores, the distribution.
    def decide(self, x: np.ndarray, experts: list[int], u_tie: float, u_draw: float) -> tuple[int, float]:
        """Return (a_t, p_{t, a_t}) for x~ and the rows n + j of E_t."""
        self.t += 1
        for a in experts:
            self.W.setdefault(a, np.zeros(self.dimension))
        A = list(range(self.n)) + experts
        s = self.scores(x, A)
        p = self.distribution(s, u_tie)
        i = int(np.searchsorted(np.cumsum(p), u_draw, side="right"))
        i = min(i, int(np.flatnonzero(p)[-1]))  # where rounding leaves the sum of p just below u_draw
        self.pending = (x, A, s, p, i)
        return A[i], p[i]

    def scores(self, x: np.ndarray, A: list[int]) -> np.ndarray:
        return np.array([self.W[a] @ x for a in A])

    def gamma(self) -> float:
        h = self.T if self.method.schedule == "horizon" else self.t
        return min(1.0, self.method.kappa * h**-self.method.exponent)

    def argmax(self, s: np.ndarray, u: float) -> int:
        best = np.flatnonzero(s == s.max())
        return int(best[int(u * len(best))])

    def distribution(self, s: np.ndarray, u_tie: float) -> np.ndarray:
        K = len(s)
        if self.method.sampler == "softmax":
            q = np.exp(s - s.max())
            q /= q.sum()
        else:
            q = np.eye(K)[self.argmax(s, u_tie)]
        return (1 - self.gamma()) * q + self.gamma() / K

    # Steps 6-8: observe, estimate, gradient, step, projection.
    def learn(self, costs: Mapping[int, float]) -> None:
        """Use the observed costs, keyed by action: of a_t, and what else the regime reveals."""
        x, A, s, p, i = self.pending
        c = self.estimate(costs, x, A, p, i)
        g = self.surrogate_gradient(s, c)
        self.step(g, A, x)
        self.refit(A[i], x, costs[A[i]])

    def observation(self, A: list[int], p: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (o, q): which costs are observed after playing A[i], and with what probability each is."""
        rows = np.array(A)
        o = rows == rows[i]
        q = p.copy()
        if self.method.feedback == "full":
            return np.ones(len(A), bool), np.ones(len(A))
        if self.method.feedback == "label_after_deferral":
            is_label = np.less(rows, self.n)
            if rows[i] >= self.n:
                o = o | is_label
            q = np.where(is_label, p + p[~is_label].sum(), p)
        return o, q

    def baseline(self, A: list[int], x: np.ndarray) -> np.ndarray:
        if self.method.estimator == "dr":
            return np.array([self.predict(a, x) for a in A])
        return np.zeros(len(A)) if self.method.surrogate == "s_cost" else np.ones(len(A))

    def estimate(
        self, costs: Mapping[int, float], x: np.ndarray, A: list[int], p: np.ndarray, i: int
    ) -> np.ndarray:
        o, q = self.observation(A, p, i)
        f = self.baseline(A, x)
        c = np.array([costs[a] if seen else 0.0 for a, seen in zip(A, o)])
        return np.where(o, f + (c - f) / q, f)

    def surrogate_gradient(self, s: np.ndarray, c: np.ndarray) -> np.ndarray:
        K, r = len(s), 1 - c
        s_bar = s - s.mean()
        active = (s_bar > -1).astype(float)
        if self.method.surrogate == "s_cost":
            v = c * active
        elif self.method.surrogate == "s_reward":
            # sum over a of r_a * sum over a' != a of the hinge's slope at a'
            v = sum(r[a] * np.where(np.arange(K) != a, active, 0.0) for a in range(K))
        else:
            q = np.exp(s - s.max())
            q /= q.sum()
            return sum(r[a] * (q - np.eye(K)[a]) for a in range(K))
        return v - v.mean()  # chain rule of s_bar = s - mean(s)

    def step(self, g: np.ndarray, A: list[int], x: np.ndarray) -> None:
        m, B = self.method, self.method.radius
        self.gradient_sq += float(np.sum(np.outer(g, x) ** 2))
        if self.gradient_sq == 0:
            return
        if m.step == "adagrad":
            eta = np.sqrt(2) * B / np.sqrt(self.gradient_sq)
        elif m.step == "theory":
            G = {"s_cost": self.N, "s_reward": self.N**1.5, "ce_reward": np.sqrt(2) * self.N}[m.surrogate]
            h = self.T if m.schedule == "horizon" else self.t
            root = 1.0 if m.feedback == "full" else np.sqrt(self.gamma())
            eta = B * root / (G * self.rho * np.sqrt(h))
        else:
            eta = m.eta
        for a, g_a in zip(A, g):
            self.W[a] = self.W[a] - eta * g_a * x
        norm = self.norm()
        if norm > B:
            self.W = {a: w * B / norm for a, w in self.W.items()}

    def norm(self) -> float:
        return float(np.sqrt(sum(w @ w for w in self.W.values())))

    # Section 3.4: one ridge regression of the cost per action.
    def predict(self, a: int, x: np.ndarray) -> float:
        if a not in self.regression:
            return 0.0
        A, b = self.regression[a]
        return float(np.clip(np.linalg.solve(A, b) @ x, 0, 1))

    def refit(self, a: int, x: np.ndarray, cost: float) -> None:
        A, b = self.regression.get(a, (self.method.ridge * np.eye(self.dimension), np.zeros(self.dimension)))
        self.regression[a] = (A + np.outer(x, x), b + cost * x)


def revealed(feedback: str, n_labels: int, played: int, costs: Mapping[int, float]) -> dict[int, float]:
    """Return the part of all the pool's costs that the regime shows after `played`."""
    shown: dict[str, Callable[[int], bool]] = {
        "bandit": lambda a: a == played,
        "label_after_deferral": lambda a: a == played or (played >= n_labels and a < n_labels),
        "full": lambda a: True,
    }
    return {a: c for a, c in costs.items() if shown[feedback](a)}
