"""Detectors on feature vectors: nearest neighbours, PCA reconstruction, and PyOD's ECOD and isolation forest.

Each is built, fitted on normal items and asked for scores that grow with anomaly. Calibration and test items must be
scored in one call (see `EcodScores`): every score is then a symmetric function of them, which is what conformal
p-values need.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from reproven.harness.errors import require


class KnnDistance:
    """Mean Euclidean distance to the nearest training items.

    s(x) = (1 / neighbours) * sum of the `neighbours` smallest |x - x_j|

    Args:
        neighbours: number of training items averaged over, at least 1.
        scale: divide each feature by its standard deviation in training (constant features stay as they are).
        block: items scored at a time; bounds the memory of the distances.

    >>> KnnDistance(neighbours=1).fit(np.array([[0.0], [10.0]])).score(np.array([[1.0], [4.0]])).round(6)
    array([1., 4.])
    """

    def __init__(self, *, neighbours: int = 2, scale: bool = False, block: int = 1024) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours={neighbours} must be at least 1")
        self.neighbours, self.scale, self.block = neighbours, scale, block

    def fit(self, items: np.ndarray) -> Self:
        """items: normal training items, shape (n, d), n >= `neighbours`."""
        items = check_items(items)
        if len(items) < self.neighbours:
            raise ValueError(f"{len(items)} training items for neighbours={self.neighbours}: give more")
        self.unit = spread(items) if self.scale else np.ones(items.shape[1])
        self.training = items / self.unit
        self.squared = np.sum(self.training**2, axis=1)
        return self

    def score(self, items: np.ndarray) -> np.ndarray:
        """Scores of items (m, d), shape (m,)."""
        items = check_items(items, self.training.shape[1]) / self.unit
        scores = np.empty(len(items))
        for start in range(0, len(items), self.block):
            part = items[start : start + self.block]
            squared = np.sum(part**2, axis=1)[:, None] + self.squared - 2 * part @ self.training.T
            near = np.partition(squared, self.neighbours - 1, axis=1)[:, : self.neighbours]
            scores[start : start + self.block] = np.sqrt(np.maximum(near, 0.0)).mean(axis=1)
        return scores


class PcaReconstruction:
    """Squared distance to the affine subspace of the leading principal components.

    s(x) = |x - m - V V^T (x - m)|^2, V the fewest components with `share` of the training variance.

    Args:
        share: part of the variance that the components keep, in (0, 1).
        scale: as `KnnDistance`.
    """

    def __init__(self, *, share: float = 0.95, scale: bool = False) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share={share} must lie in (0, 1)")
        self.share, self.scale = share, scale

    def fit(self, items: np.ndarray) -> Self:
        """items: normal training items, shape (n, d), n >= 2."""
        items = check_items(items)
        if len(items) < 2:
            raise ValueError("PCA needs at least 2 training items")
        self.unit = spread(items) if self.scale else np.ones(items.shape[1])
        self.mean = (items / self.unit).mean(axis=0)
        _, singular, rows = np.linalg.svd(items / self.unit - self.mean, full_matrices=False)
        kept = np.cumsum(singular**2) / max(np.sum(singular**2), np.finfo(float).tiny)
        self.components = rows[: int(np.searchsorted(kept, self.share)) + 1]
        return self

    def score(self, items: np.ndarray) -> np.ndarray:
        """Scores of items (m, d), shape (m,)."""
        centred = check_items(items, len(self.mean)) / self.unit - self.mean
        inside = centred @ self.components.T
        return np.maximum(np.sum(centred**2, axis=1) - np.sum(inside**2, axis=1), 0.0)


class EcodScores:
    """PyOD's ECOD: sum over features of minus the log of the rarer tail of the empirical distribution.

    PyOD computes these tails from the training items *and* the items being scored. Scores of calibration and test
    items are therefore comparable only where one call scored both. Features that are constant there say nothing
    and are left out (PyOD returns NaN for them).

    Source: Li et al. 2022 (TKDE); package pyod.
    """

    def fit(self, items: np.ndarray) -> Self:
        """items: normal training items, shape (n, d)."""
        self.training = check_items(items)
        return self

    def score(self, items: np.ndarray) -> np.ndarray:
        """Scores of items (m, d), shape (m,); each depends on all m items."""
        require("pyod", "sac_bl")
        from pyod.models.ecod import ECOD

        items = check_items(items, self.training.shape[1])
        low = np.minimum(self.training.min(axis=0), items.min(axis=0))
        varying = low < np.maximum(self.training.max(axis=0), items.max(axis=0))
        if not varying.any():
            return np.zeros(len(items))
        # PyOD's fit() keeps the items and scores them by themselves; only the first is needed.
        detector = ECOD()
        detector.X_train = self.training[:, varying]
        return detector.decision_function(items[:, varying])


class IsolationForestScores:
    """PyOD's isolation forest: how few random cuts isolate an item.

    Args:
        trees: number of trees. seed: of the forest.

    Source: Liu et al. 2008; package pyod.
    """

    def __init__(self, *, trees: int = 100, seed: int = 0) -> None:
        self.trees, self.seed = trees, seed

    def fit(self, items: np.ndarray) -> Self:
        """items: normal training items, shape (n, d)."""
        require("pyod", "sac_bl")
        from pyod.models.iforest import IForest

        self.forest = IForest(n_estimators=self.trees, random_state=self.seed).fit(check_items(items))
        return self

    def score(self, items: np.ndarray) -> np.ndarray:
        """Scores of items (m, d), shape (m,)."""
        return self.forest.decision_function(check_items(items))


def check_items(items: np.ndarray, width: int | None = None) -> np.ndarray:
    """Return items as float64 (n, d), images flattened; ValueError for none, NaN or another number of features."""
    items = np.asarray(items, dtype=np.float64)
    if items.ndim < 2 or len(items) == 0:
        raise ValueError(f"items of shape {items.shape}: need (n, ...) with n >= 1")
    items = items.reshape(len(items), -1)
    if not np.isfinite(items).all():
        raise ValueError("items contain NaN or infinity; impute or remove them first")
    if width is not None and items.shape[1] != width:
        raise ValueError(f"items have {items.shape[1]} features, the detector was fitted on {width}")
    return items


def spread(items: np.ndarray) -> np.ndarray:
    """Standard deviation of each feature, 1 where it is constant."""
    deviation = items.std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)
