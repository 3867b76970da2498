"""Metrics in the paper's polarity: the positive class is *normal*.

TP: normal items accepted, FN: normal items rejected, FP: anomalies accepted, TN: anomalies rejected. So the paper's
FPR is the share of anomalies missed, and its TPR the share of normal items left alone. Each has a plain name too:
`miss_rate` = FPR, `power` = 1 - FPR, `false_alarm_rate` = 1 - TPR.

`reject` is a mask, or inclusion probabilities of a rule whose rejections are nested in one shared uniform (SBL's
"expectation" mode); then each metric is its exact expectation over that uniform.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Counts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def fdp(reject: np.ndarray, null: np.ndarray) -> np.ndarray:
    """False discovery proportion, |R & H0| / max(1, |R|); 0 for no rejection. Its mean is the FDR.

    Args: reject: mask or inclusion probabilities, shape (..., n). null: True for normal items, shape (..., n).
    Returns: shape (...).
    """
    return _metric(reject, null, _fdp)


def tpr(reject: np.ndarray, null: np.ndarray) -> np.ndarray:
    """TP / n0, the share of normal items accepted; NaN without normal items. Args, returns: as `fdp`."""
    return _metric(reject, null, _tpr)


def fpr(reject: np.ndarray, null: np.ndarray) -> np.ndarray:
    """FP / n1, the share of anomalies accepted (missed); NaN without anomalies. Args, returns: as `fdp`."""
    return _metric(reject, null, _fpr)


def f1(reject: np.ndarray, null: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN), F1 of the normal class; NaN where all three are 0. Args, returns: as `fdp`."""
    return _metric(reject, null, _f1)


def power(reject: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of anomalies rejected, 1 - `fpr`. Args, returns: as `fdp`."""
    return 1 - fpr(reject, null)


miss_rate = fpr


def false_alarm_rate(reject: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Share of normal items rejected, 1 - `tpr`. Args, returns: as `fdp`."""
    return 1 - tpr(reject, null)


def fdp_exceeds(reject: np.ndarray, null: np.ndarray, level: float) -> np.ndarray:
    """1{FDP > level}, or its probability over Lambda: the spread that the FDR, a mean, does not show."""
    return _metric(reject, null, lambda *counts: (_fdp(*counts) > level * (1 + 1e-12)).astype(float))


def _fdp(rn: np.ndarray, ra: np.ndarray, n0: np.ndarray, n1: np.ndarray) -> np.ndarray:
    return rn / np.maximum(1, rn + ra)


def _tpr(rn: np.ndarray, ra: np.ndarray, n0: np.ndarray, n1: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (n0 - rn) / n0


def _fpr(rn: np.ndarray, ra: np.ndarray, n0: np.ndarray, n1: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (n1 - ra) / n1


def _f1(rn: np.ndarray, ra: np.ndarray, n0: np.ndarray, n1: np.ndarray) -> np.ndarray:
    tp, fp, fn = n0 - rn, n1 - ra, rn
    with np.errstate(invalid="ignore"):
        return 2 * tp / (2 * tp + fp + fn)


def _metric(reject: np.ndarray, null: np.ndarray, of_counts: Callable[..., np.ndarray]) -> np.ndarray:
    """Apply `of_counts(rejected normals, rejected anomalies, n0, n1)`, in expectation over Lambda if need be."""
    reject, null = np.asarray(reject), np.asarray(null, dtype=bool)
    null = np.broadcast_to(null, reject.shape)
    n0 = np.count_nonzero(null, axis=-1).astype(float)
    n1 = null.shape[-1] - n0
    if reject.dtype == bool:
        rn = np.count_nonzero(reject & null, axis=-1).astype(float)
        return np.asarray(of_counts(rn, np.count_nonzero(reject, axis=-1) - rn, n0, n1))
    # Sorted downwards, the set of the first j items is rejected for Lambda in (pi_(j+1), pi_(j)].
    order = np.argsort(-reject, axis=-1)
    pi = np.take_along_axis(reject, order, axis=-1)
    sorted_null = np.take_along_axis(null, order, axis=-1)
    zero = np.zeros((*reject.shape[:-1], 1))
    width = np.concatenate([zero + 1, pi], axis=-1) - np.concatenate([pi, zero], axis=-1)
    rn = np.concatenate([zero, np.cumsum(sorted_null, axis=-1)], axis=-1)
    ra = np.concatenate([zero, np.cumsum(~sorted_null, axis=-1)], axis=-1)
    return np.sum(width * of_counts(rn, ra, n0[..., None], n1[..., None]), axis=-1)
