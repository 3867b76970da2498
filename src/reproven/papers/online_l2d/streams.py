"""Streams of deferral rounds as arrays, and the synthetic ones: static, low-noise, varying pool, shift.

A stream holds everything that the world knows, also what a learner never sees; the compiled loops read only
what the feedback regime reveals. Row a < n is label a, row n + j is expert j.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

# Static stream of the dossier, section 4.1: five clusters, four labels, three experts.
TOP_LABEL = np.array([0.61, 0.52, 0.46, 0.45, 0.65])  # probability of label (cluster mod 4)
STATIC_EXPERTS = np.array(
    [[0.85, 0.48, 0.52, 0.46, 0.58], [0.54, 0.86, 0.56, 0.31, 0.52], [0.35, 0.56, 0.92, 0.39, 0.43]]
)


@dataclass(frozen=True)
class Stream:
    """One sequence of T rounds.

    contexts: (M, d) distinct contexts; index: (T,) context of each round; label: (T,) in 0..n-1;
    wrong: (T, n_e) 1 where the expert errs; available: (T, n_e) the pool; fee: (n_e,) >= 0;
    mean_cost: (R, M, N) expected costs in regime r, which starts at round regime_start[r];
    hard: (M,) contexts on which the labels alone cannot do well; warm_up: rounds a batch learner may use.
    """

    n_labels: int
    contexts: np.ndarray
    index: np.ndarray
    label: np.ndarray
    wrong: np.ndarray
    available: np.ndarray
    fee: np.ndarray
    mean_cost: np.ndarray
    regime_start: np.ndarray
    hard: np.ndarray
    warm_up: int = 0

    def __post_init__(self) -> None:
        rounds, experts = self.available.shape
        if rounds == 0:
            raise ValueError("horizon is 0: a stream needs at least one round")
        if not np.isfinite(self.contexts).all():
            raise ValueError("contexts hold NaN or infinity: drop or impute those rows first")
        shapes = self.index.shape, self.label.shape, self.wrong.shape
        if shapes != ((rounds,), (rounds,), (rounds, experts)):
            raise ValueError(
                f"index, label, wrong and available disagree: {', '.join(map(str, shapes))}, "
                f"{self.available.shape}; give one row a round"
            )
        # compiled code reads where these point, unchecked
        if self.index.min() < 0 or self.index.max() >= len(self.contexts):
            raise ValueError(
                f"index runs from {self.index.min()} to {self.index.max()}: "
                f"number the {len(self.contexts)} contexts from 0"
            )
        if self.fee.shape != (experts,) or not (np.isfinite(self.fee) & (self.fee >= 0)).all():
            raise ValueError(f"fee is {self.fee}: give a finite number >= 0 for each of {experts} experts")
        if self.n_labels == 0 and not self.available.any(axis=1).all():
            raise ValueError("empty pool: without labels every round needs an available expert")

    @property
    def rounds(self) -> int:
        return len(self.index)

    @property
    def n_experts(self) -> int:
        return self.available.shape[1]

    @property
    def rows(self) -> int:
        """N, labels and experts."""
        return self.n_labels + self.n_experts

    def augmented(self) -> np.ndarray:
        """Contexts with the constant 1 appended, (M, d + 1)."""
        return np.column_stack([self.contexts, np.ones(len(self.contexts))]).astype(float)

    def pool(self) -> np.ndarray:
        """Availability of every row, (T, N); labels always."""
        labels = np.ones((self.rounds, self.n_labels), bool)
        return np.concatenate([labels, self.available.astype(bool)], axis=1)

    def regime(self) -> np.ndarray:
        """Regime of every round, (T,)."""
        if len(self.regime_start) == 1:
            return np.zeros(self.rounds, np.int64)
        return np.searchsorted(self.regime_start, np.arange(self.rounds), side="right") - 1

    def costs(self) -> np.ndarray:
        """Realised costs of every row, (T, N)."""
        labels = (np.arange(self.n_labels) != self.label[:, None]).astype(float)
        return np.concatenate([labels, np.minimum(1.0, self.wrong + self.fee)], axis=1)

    def realised_cost(self, actions: np.ndarray) -> np.ndarray:
        """Realised cost of the played rows, (T,)."""
        error = self.error(actions).astype(float)
        expert = np.maximum(actions - self.n_labels, 0)
        fee = self.fee[expert] if self.n_experts else np.zeros(1)
        return np.where(actions < self.n_labels, error, np.minimum(1.0, error + fee))

    def realised_cost_at(self, t: int, row: int) -> float:
        """Realised cost of `row` in round t."""
        if row < self.n_labels:
            return float(row != self.label[t])
        return float(min(1.0, self.wrong[t, row - self.n_labels] + self.fee[row - self.n_labels]))

    def error(self, actions: np.ndarray) -> np.ndarray:
        """1 where the answer given (a label, or the asked expert's) is wrong, (T,)."""
        own = actions != self.label
        if not self.n_experts:
            return own
        expert = np.maximum(actions - self.n_labels, 0)
        return np.where(actions < self.n_labels, own, self.wrong[np.arange(self.rounds), expert] > 0)

    def expected_cost(self, actions: np.ndarray) -> np.ndarray:
        """Conditional mean cost of the played rows, (T,)."""
        return self.mean_cost[self.regime(), self.index, actions]

    @cached_property
    def oracle_cost(self) -> np.ndarray:
        """Conditional mean cost of each round's best available row, (T,)."""
        return self.expected_cost(self.best_actions())

    def best_actions(self) -> np.ndarray:
        """Row of least conditional mean cost in each round's pool, (T,): the per-round oracle."""
        best = np.empty(self.rounds, np.int64)
        regime, pool = self.regime(), self.pool()
        for start in range(0, self.rounds, 1 << 16):
            block = slice(start, start + (1 << 16))
            cost = self.mean_cost[regime[block], self.index[block]]
            best[block] = np.where(pool[block], cost, np.inf).argmin(axis=1)
        return best

    def pseudo_regret(self, actions: np.ndarray) -> np.ndarray:
        """C_{t,a_t} - min_{a in A_t} C_{t,a}, (T,): conditional means, so without realisation noise.

        The comparator is the best available row of each context, which on one-hot contexts is also the best
        fixed matrix under the masked argmax.
        """
        return self.expected_cost(actions) - self.oracle_cost

    def head(self, rounds: int) -> Stream:
        """The first `rounds` rounds."""
        part = {name: getattr(self, name)[:rounds] for name in ("index", "label", "wrong", "available")}
        return replace(self, **part)


def schedule(
    rounds: int,
    arrival: Sequence[float],
    departure: Sequence[float],
    rng: np.random.Generator,
    *,
    off: float = 0.0,
    on: float = 0.0,
) -> np.ndarray:
    """Availability (T, n_e): present on [arrival, departure) T, where a two-state chain turns it off and on.

    off, on: probabilities per round of leaving and rejoining; an expert starts on.
    """
    available = np.zeros((rounds, len(arrival)), np.uint8)
    for j, (start, stop) in enumerate(zip(arrival, departure, strict=True)):
        first, last = int(start * rounds), int(np.ceil(stop * rounds))
        if off == 0.0:
            available[first:last, j] = 1
            continue
        t, here = first, True
        while t < last:  # sojourn times of the chain are geometric
            stay = int(rng.geometric(off if here else on))
            available[t : min(t + stay, last), j] = here
            t, here = t + stay, not here
    return available


def label_probabilities(n_labels: int, top: np.ndarray) -> np.ndarray:
    """P(y = a | cluster), (d, n): label (cluster mod n) has probability top[cluster], the rest is uniform."""
    clusters = np.arange(len(top))
    p = np.repeat(((1 - top) / (n_labels - 1))[:, None], n_labels, axis=1)
    p[clusters, clusters % n_labels] = top
    return p


def tabular(
    labels: np.ndarray,
    accuracy: np.ndarray,
    available: np.ndarray,
    rng: np.random.Generator,
    *,
    regime_start: Sequence[int] = (0,),
) -> Stream:
    """Stream on one-hot contexts: cluster uniform, label from `labels` (d, n), experts right by `accuracy`.

    accuracy: (n_e, d), or (R, n_e, d) with a regime axis.
    """
    rounds, n_experts = available.shape
    d, n_labels = labels.shape
    profiles = accuracy if accuracy.ndim == 3 else accuracy[None]
    starts = np.asarray(regime_start, np.int64)
    index = rng.integers(d, size=(rounds,), dtype=np.int32)
    above = rng.random((rounds, 1)) > labels.cumsum(axis=1)[index][:, :-1]
    label = above.sum(axis=1).astype(np.int16)
    regime = np.searchsorted(starts, np.arange(rounds), side="right") - 1
    wrong = np.empty((rounds, n_experts), np.uint8)
    for j in range(n_experts):
        wrong[:, j] = rng.random(rounds) >= profiles[regime, j, index]
    mean_cost = np.stack([np.concatenate([1 - labels, 1 - profile.T], axis=1) for profile in profiles])
    best_label = (1 - labels).min(axis=1)
    hard = best_label > np.median(best_label)
    return Stream(
        n_labels, np.eye(d), index, label, wrong, available, np.zeros(n_experts), mean_cost, starts, hard
    )


def static(rounds: int, rng: np.random.Generator) -> Stream:
    """Four labels, three experts always there, five clusters, one of them nearly tied (gap 0.009-0.01)."""
    available = np.ones((rounds, 3), np.uint8)
    return tabular(label_probabilities(4, TOP_LABEL), STATIC_EXPERTS, available, rng)


def realizable(rounds: int, rng: np.random.Generator) -> Stream:
    """As `static`, but one action a cluster has cost 0: an expert in clusters 0-2, a label in 3 and 4."""
    accuracy = np.full((3, 5), 0.4)
    accuracy[[0, 1, 2], [0, 1, 2]] = 1.0
    labels = label_probabilities(4, np.array([0.4, 0.4, 0.4, 1.0, 1.0]))
    return tabular(labels, accuracy, np.ones((rounds, 3), np.uint8), rng)


def massart(rounds: int, rng: np.random.Generator) -> Stream:
    """As `realizable` with noise: the best action is right with probability .9, all others at most .55."""
    accuracy = np.full((3, 5), 0.4)
    accuracy[[0, 1, 2], [0, 1, 2]] = 0.9
    labels = label_probabilities(4, np.array([0.55, 0.55, 0.55, 0.9, 0.9]))
    return tabular(labels, accuracy, np.ones((rounds, 3), np.uint8), rng)


def ten_experts() -> np.ndarray:
    """Accuracies (10, 5): expert j is good in cluster j mod 5 (.80 to .935) and .30 to .58 elsewhere."""
    j, k = np.meshgrid(np.arange(10), np.arange(5), indexing="ij")
    elsewhere = 0.30 + 0.04 * ((3 * j + 2 * k) % 8)
    return np.where(j % 5 == k, 0.80 + 0.015 * j, elsewhere)


def varying(rounds: int, rng: np.random.Generator) -> Stream:
    """Ten experts arriving at jT/20; experts 9 and 7, each the best of its cluster, leave at .75T and .80T.

    While present each expert toggles on and off with probability .02 a round.
    """
    arrival = [j / 20 for j in range(10)]
    departure = [0.75 if j == 9 else 0.80 if j == 7 else 1.0 for j in range(10)]
    available = schedule(rounds, arrival, departure, rng, off=0.02, on=0.02)
    return tabular(label_probabilities(4, TOP_LABEL), ten_experts(), available, rng)


def shift(rounds: int, rng: np.random.Generator) -> Stream:
    """Ten experts always there whose accuracy profiles are rotated over the clusters at T/2."""
    profile = ten_experts()
    regimes = np.stack([profile, np.roll(profile, 1, axis=1)])
    available = np.ones((rounds, 10), np.uint8)
    labels = label_probabilities(4, TOP_LABEL)
    return tabular(labels, regimes, available, rng, regime_start=(0, rounds // 2))


def sized(rounds: int, rng: np.random.Generator, *, experts: int = 3, clusters: int = 5) -> Stream:
    """Four labels, `experts` always-available experts and `clusters` one-hot contexts: for cost sweeps."""
    top = np.resize(TOP_LABEL, clusters)
    accuracy = np.resize(STATIC_EXPERTS, (experts, clusters))
    return tabular(label_probabilities(4, top), accuracy, np.ones((rounds, experts), np.uint8), rng)


def labels_noisy(rounds: int, rng: np.random.Generator) -> Stream:
    """Bandit multiclass, n_e = 0: the labels of `static` without its experts."""
    return tabular(label_probabilities(4, TOP_LABEL), np.zeros((0, 5)), np.ones((rounds, 0), np.uint8), rng)


def labels_separable(rounds: int, rng: np.random.Generator) -> Stream:
    """Bandit multiclass, n_e = 0, one label a cluster: linearly separable."""
    return tabular(label_probabilities(4, np.ones(5)), np.zeros((0, 5)), np.ones((rounds, 0), np.uint8), rng)


SYNTHETIC: dict[str, Callable[[int, np.random.Generator], Stream]] = {
    "labels_noisy": labels_noisy,
    "labels_separable": labels_separable,
    "static": static,
    "realizable": realizable,
    "massart": massart,
    "varying": varying,
    "shift": shift,
}


def synthetic(name: str) -> Callable[[int, np.random.Generator], Stream]:
    """Return the maker of a synthetic stream, a function of T and a generator; ValueError for an unknown name."""
    if name not in SYNTHETIC:
        raise ValueError(f"stream {name!r} is unknown: use one of {', '.join(SYNTHETIC)}")
    return SYNTHETIC[name]
