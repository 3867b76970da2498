"""Metrics in the paper's polarity (positive = normal): hand case, perfect, worst, ties, invariance."""

from __future__ import annotations

import numpy as np
import pytest

from reproven.papers.sac_bl import metrics

NULL = np.array([True, True, True, False, False])
ALL = (metrics.fdp, metrics.tpr, metrics.fpr, metrics.f1, metrics.power, metrics.false_alarm_rate)


def values(mask: np.ndarray, null: np.ndarray = NULL) -> list[float]:
    return [float(m(mask, null)) for m in ALL]


def test_hand_case() -> None:
    """One normal and one of two anomalies rejected: TP 2, FN 1, FP 1, TN 1."""
    mask = np.array([True, False, False, True, False])
    np.testing.assert_allclose(values(mask), [1 / 2, 2 / 3, 1 / 2, 4 / 6, 1 / 2, 1 / 3], rtol=1e-15, atol=0)


def test_perfect_and_worst() -> None:
    np.testing.assert_array_equal(values(~NULL), [0, 1, 0, 1, 1, 0])
    np.testing.assert_array_equal(values(NULL), [1, 0, 1, 0, 0, 1])
    np.testing.assert_allclose(values(np.zeros(5, dtype=bool)), [0, 1, 1, 6 / 8, 0, 0], rtol=1e-15, atol=0)


def test_clean_and_wholly_anomalous_batches() -> None:
    clean = np.ones(3, dtype=bool)
    rejected = np.array([True, False, False])
    assert metrics.fdp(rejected, clean) == 1
    assert metrics.tpr(rejected, clean) == pytest.approx(2 / 3, rel=1e-15)
    assert np.isnan(metrics.fpr(rejected, clean))
    assert np.isnan(metrics.tpr(rejected, ~clean))
    assert metrics.fdp(rejected, ~clean) == 0


def test_published_counts() -> None:
    """Table 1, pill, SAC-BL: 26 normals accepted, 61 of 141 anomalies missed: FPR 43.26, F1 46.02."""
    null = np.arange(167) < 26
    mask = np.arange(167) >= 26 + 61
    assert 100 * metrics.fpr(mask, null) == pytest.approx(43.26, abs=0.005)
    assert 100 * metrics.f1(mask, null) == pytest.approx(46.02, abs=0.005)


def test_permutation_and_batches_change_nothing() -> None:
    rng = np.random.default_rng(0)
    mask, null = rng.random((6, 30)) < 0.4, rng.random((6, 30)) < 0.5
    order = rng.permutation(30)
    for metric in ALL:
        together = metric(mask, null)
        np.testing.assert_array_equal(metric(mask[:, order], null[:, order]), together)
        np.testing.assert_array_equal([metric(m, h) for m, h in zip(mask, null)], together)


def test_probabilities_of_zero_and_one_are_a_mask_and_ties_have_no_width() -> None:
    rng = np.random.default_rng(1)
    mask, null = rng.random((6, 30)) < 0.4, rng.random((6, 30)) < 0.5
    for metric in ALL:
        np.testing.assert_allclose(metric(mask.astype(float), null), metric(mask, null), rtol=1e-12, atol=0)
    pi = np.array([0.5, 0.5, 0.0, 0.5, 0.0])  # rejected together or not at all
    assert metrics.fdp(pi, NULL) == pytest.approx(0.5 * 2 / 3, rel=1e-12)
    assert metrics.power(pi, NULL) == pytest.approx(0.25, rel=1e-12)


def test_spread() -> None:
    mask = np.array([True, False, False, True, False])  # FDP 1/2
    assert metrics.fdp_exceeds(mask, NULL, 0.4) == 1
    assert metrics.fdp_exceeds(mask, NULL, 0.5) == 0
    assert metrics.fdp_exceeds(mask * 0.3, NULL, 0.4) == pytest.approx(0.3, rel=1e-12)
