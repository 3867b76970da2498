"""p-values: hand cases, ties, validity, broken assumptions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from reproven.papers.sac_bl import conformal_p, conformal_p_per_location, known_null_p, weighted_conformal_p


def test_hand_case_with_ties_counted_against_the_anomaly() -> None:
    p = conformal_p(np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.0, 2.0, 2.5, 5.0, 6.0]))
    np.testing.assert_allclose(p, [1.0, 4 / 5, 2 / 5, 2 / 5, 1 / 5], rtol=1e-15, atol=0)
    broken = conformal_p(np.array([1.0, 2.0]), np.array([3.0]), plus_one=False)
    assert broken.tolist() == [0.0]


def test_batched_calibration_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    calibration, scores = rng.standard_normal((3, 2, 30)).round(1), rng.standard_normal((3, 2, 7)).round(1)
    p = conformal_p(calibration, scores)
    for i in range(3):
        for j in range(2):
            expected = [(1 + (calibration[i, j] >= s).sum()) / 31 for s in scores[i, j]]
            np.testing.assert_allclose(p[i, j], expected, rtol=1e-15, atol=0)


def test_invariant_under_a_monotone_change_of_scores() -> None:
    rng = np.random.default_rng(1)
    calibration, scores = rng.standard_normal(50), rng.standard_normal(20)
    np.testing.assert_array_equal(
        conformal_p(calibration, scores), conformal_p(np.exp(calibration), np.exp(scores))
    )


def test_uniform_on_the_grid_under_the_null_and_not_without_plus_one() -> None:
    rng = np.random.default_rng(2)
    calibration, scores = rng.standard_normal((20_000, 9)), rng.standard_normal((20_000, 1))
    p = conformal_p(calibration, scores).ravel()
    share = np.bincount(np.rint(p * 10).astype(int), minlength=11)[1:] / 20_000
    np.testing.assert_allclose(share, 0.1, rtol=0, atol=5 * np.sqrt(0.09 / 20_000))  # five standard errors
    assert (conformal_p(calibration, scores, plus_one=False) == 0).mean() > 0.08  # about 1/10, should be 0


def test_per_location_ranks_each_pixel_among_its_own() -> None:
    rng = np.random.default_rng(3)
    calibration, scores = rng.standard_normal((12, 4, 5)), rng.standard_normal((3, 4, 5))
    p = conformal_p_per_location(calibration, scores)
    assert p.shape == (3, 4, 5)
    expected = (1 + (calibration[None] >= scores[:, None]).sum(axis=1)) / 13
    np.testing.assert_allclose(p, expected, rtol=1e-15, atol=0)
    with pytest.raises(ValueError, match="do not match"):
        conformal_p_per_location(calibration, scores[:, :3])


def test_weighted_equals_plain_for_constant_weights_and_by_definition() -> None:
    rng = np.random.default_rng(4)
    calibration, scores = rng.standard_normal(40).round(1), rng.standard_normal((2, 9)).round(1)
    plain = weighted_conformal_p(calibration, scores, np.full(40, 2.0), np.full((2, 9), 2.0))
    np.testing.assert_allclose(plain, conformal_p(calibration, scores), rtol=1e-12, atol=0)
    w, v = rng.random(40) + 0.1, rng.random((2, 9)) + 0.1
    above = ((calibration >= scores[..., None]) * w).sum(axis=-1)
    expected = (above + v) / (w.sum() + v)
    np.testing.assert_allclose(weighted_conformal_p(calibration, scores, w, v), expected, rtol=1e-12, atol=0)


def test_known_null() -> None:
    s = np.array([-1.0, 0.0, 3.0])
    np.testing.assert_array_equal(known_null_p(s, norm.sf), norm.sf(s))


@pytest.mark.parametrize(
    ("calibration", "scores", "message"),
    [
        ([], [1.0], "calibration set is empty"),
        ([1.0, np.nan], [1.0], "calibration scores contain NaN"),
        ([1.0, 2.0], [np.nan], "scores contain NaN"),
        ([1.0, 2.0], [], "need at least one"),
        ([3.0, 3.0], [3.0, 3.0], "constant detector"),
    ],
)
def test_bad_scores_end_in_one_line(calibration: list, scores: list, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        conformal_p(np.array(calibration), np.array(scores))
    assert "\n" not in str(caught.value)


def test_bad_shapes_and_weights() -> None:
    with pytest.raises(ValueError, match="batch axes differ"):
        conformal_p(np.zeros((2, 5)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="positive and finite"):
        weighted_conformal_p(np.arange(3.0), np.ones(2), np.array([1.0, 0.0, 1.0]), np.ones(2))
    with pytest.raises(ValueError, match="must match"):
        weighted_conformal_p(np.arange(3.0), np.ones(2), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="NaN"):
        known_null_p(np.array([np.nan]), norm.sf)
