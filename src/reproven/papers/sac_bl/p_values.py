"""p-values of "this item is normal": conformal (plain, per location, weighted) and from a known null.

Scores grow with anomaly. A p-value is super-uniform for normal items, so that a small one speaks for an anomaly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def conformal_p(calibration: np.ndarray, scores: np.ndarray, *, plus_one: bool = True) -> np.ndarray:
    """Rank each score among the scores of held-out normal items.

    p_i = (1 + #{j : s(X_j^cal) >= s(X_i)}) / (k + 1); ties count against the anomaly.

    Args:
        calibration: scores of k normal items that took no part in training, shape (k,) or (..., k).
        scores: scores to test, shape (..., n); with a batched calibration the leading axes are the same.
        plus_one: False gives the invalid #/k (p = 0 above the calibration maximum); kept as a negative control.

    Returns: p-values on the grid {1..k+1}/(k+1), shape (..., n).
    Raises: ValueError for NaN scores, an empty calibration set, or unequal leading axes.
    Source: paper Eq. 5, whose display was lost; form reconstructed (dossier section 2), Bates et al. 2104.08279.

    >>> conformal_p(np.array([1.0, 2.0, 3.0]), np.array([2.0, 9.0]))
    array([0.75, 0.25])
    """
    calibration, scores = check_scores(calibration, scores)
    k = calibration.shape[-1]
    above = _count_at_least(calibration, scores)
    return (above + 1.0) / (k + 1.0) if plus_one else above / float(k)


def conformal_p_per_location(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Conformal p-values of pixels, each ranked among the same pixel of the calibration images.

    The unit of exchangeability is the image: nothing is assumed across locations, and k is the number of images.

    Args:
        calibration: score maps of k normal images, shape (k, ...).
        scores: score maps to test, shape (n, ...), same trailing shape.

    Returns: p-values, shape (n, ...).
    """
    calibration, scores = np.asarray(calibration), np.asarray(scores)
    if calibration.shape[1:] != scores.shape[1:]:
        raise ValueError(
            f"maps of shape {scores.shape[1:]} do not match calibration maps {calibration.shape[1:]}"
        )
    p = conformal_p(np.moveaxis(calibration, 0, -1), np.moveaxis(scores, 0, -1))
    return np.moveaxis(p, -1, 0)


def weighted_conformal_p(
    calibration: np.ndarray, scores: np.ndarray, weights: np.ndarray, test_weights: np.ndarray
) -> np.ndarray:
    """Conformal p-values under covariate shift, with likelihood ratios w = dP_test/dP_calibration.

    p_i = (w_i + sum_j w_j 1{s_j >= s_i}) / (w_i + sum_j w_j)

    Args:
        calibration, weights: scores and positive weights of the k calibration items, shape (k,).
        scores, test_weights: scores and positive weights of the items to test, shape (..., n).

    Returns: p-values, shape (..., n); equal to `conformal_p` for constant weights.
    Raises: ValueError for NaN, an empty calibration set, or a weight that is not positive and finite.
    Source: Tibshirani et al. 1904.06019 (weighted exchangeability).
    """
    calibration, scores = check_scores(calibration, scores)
    weights, test_weights = np.asarray(weights, dtype=float), np.asarray(test_weights, dtype=float)
    if calibration.ndim != 1 or weights.shape != calibration.shape or test_weights.shape != scores.shape:
        raise ValueError(
            f"weights {weights.shape}, {test_weights.shape} must match the scores they belong to"
        )
    for name, w in (("weights", weights), ("test_weights", test_weights)):
        if not (np.isfinite(w).all() and (w > 0).all()):
            raise ValueError(f"{name} must be positive and finite: they are likelihood ratios")
    order = np.argsort(calibration)
    at_least = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)  # weight of scores from this rank up
    above = at_least[np.searchsorted(calibration[order], scores, side="left")]
    return (above + test_weights) / (at_least[0] + test_weights)


def known_null_p(scores: np.ndarray, survival: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """p = 1 - F(s) with the known survival function 1 - F of normal scores (``scipy.stats.norm.sf``)."""
    scores = np.asarray(scores, dtype=float)
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN; remove or impute these items first")
    return survival(scores)


def check_scores(calibration: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float arrays; ValueError for NaN, emptiness, constant calibration or unequal leading axes."""
    calibration, scores = np.asarray(calibration, dtype=float), np.asarray(scores, dtype=float)
    if calibration.ndim == 0 or calibration.shape[-1] == 0:
        raise ValueError("the calibration set is empty: hold out scores of normal items")
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores of shape {scores.shape}: need at least one on the last axis")
    for name, values in (("calibration", calibration), ("scores", scores)):
        if np.isnan(values).any():
            raise ValueError(f"{name} scores contain NaN; remove or impute these items first")
    if calibration.ndim > 1 and calibration.shape[:-1] != scores.shape[:-1]:
        raise ValueError(f"batch axes differ: calibration {calibration.shape}, scores {scores.shape}")
    low = calibration.min()
    if low == calibration.max() and calibration.size > 1 and (scores == low).all():
        raise ValueError(
            f"all scores equal {low}: a constant detector ranks nothing; use logits if it saturates"
        )
    return calibration, scores


def _count_at_least(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """#{j : calibration_j >= score}, shape of `scores`."""
    k = calibration.shape[-1]
    if calibration.ndim == 1:
        return k - np.searchsorted(np.sort(calibration), scores, side="left")
    ordered = np.sort(calibration, axis=-1).reshape(-1, k)
    rows = scores.reshape(len(ordered), -1)
    below = np.empty(rows.shape, dtype=np.int64)
    for out, cal, row in zip(below, ordered, rows):
        out[:] = np.searchsorted(cal, row, side="left")
    return (k - below).reshape(scores.shape)
