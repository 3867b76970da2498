"""BL and SBL: fast versions against the paper's order and symbols, against a package, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reproven.papers.sac_bl import (
    bl,
    conformal_p,
    e_bh,
    metrics,
    power_calibrator,
    sbl,
    sbl_inclusion,
    sbl_per_item,
    sbl_version1,
)
from reproven.papers.sac_bl.bl_reference import bl_reference
from reproven.papers.sac_bl.sbl_reference import (
    algorithm1_reference,
    inclusion_reference,
    sbl_version1_reference,
    sbl_version2_reference,
)

ALPHA, GAMMA = 0.1, 0.7
DELTA = 1 - GAMMA


def cases(seed: int, count: int = 60):
    """p-values with and without ties, with and without signal."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        n = int(rng.choice([1, 2, 7, 40]))
        scores = rng.standard_normal(n) + rng.choice([0.0, 3.0], n)
        yield conformal_p(rng.standard_normal(int(rng.choice([5, 60, 1000]))), scores), float(rng.random())
        yield rng.random(n) ** (1 + 5 * (index % 3)), float(rng.random())


@pytest.mark.parametrize("seed", [0, 1])
def test_bl_equals_reference(seed: int) -> None:
    for p, _ in cases(seed):
        assert bl(p, alpha=ALPHA, gamma=GAMMA)[0].tolist() == bl_reference(p, ALPHA, GAMMA, DELTA)


@pytest.mark.parametrize("seed", [2, 3])
def test_both_versions_equal_their_references(seed: int) -> None:
    for p, lam in cases(seed):
        version2 = sbl(p, alpha=ALPHA, gamma=GAMMA, uniform=lam)[0].tolist()
        assert version2 == sbl_version2_reference(p, ALPHA, GAMMA, DELTA, lam)
        version1 = sbl_version1(p, alpha=ALPHA, gamma=GAMMA, uniform=lam)[0].tolist()
        assert version1 == sbl_version1_reference(p, ALPHA, GAMMA, DELTA, lam)
        assert version1 == version2  # Theorem 4.3


def test_algorithm_1_from_scores_to_anomalies() -> None:
    rng = np.random.default_rng(4)
    calibration, scores = rng.standard_normal(300), rng.standard_normal(40) + 4 * (rng.random(40) < 0.6)
    for lam in (0.03, 0.4, 1.0):
        ours = sbl(conformal_p(calibration, scores), alpha=ALPHA, gamma=GAMMA, uniform=lam)[0]
        assert ours.tolist() == algorithm1_reference(calibration, scores, ALPHA, GAMMA, DELTA, lam)


def test_inclusion_equals_reference_and_is_the_share_of_draws() -> None:
    for p, _ in cases(5, 20):
        exact = sbl_inclusion(p, alpha=ALPHA, gamma=GAMMA)
        np.testing.assert_allclose(exact, inclusion_reference(p, ALPHA, GAMMA, DELTA), rtol=1e-12, atol=0)
        grid = (np.arange(2000) + 0.5) / 2000  # midpoints of Lambda: the share errs by at most 1/4000
        share = sbl(np.broadcast_to(p, (2000, len(p))), alpha=ALPHA, gamma=GAMMA, uniform=grid)[0].mean(
            axis=0
        )
        np.testing.assert_allclose(share, exact, rtol=0, atol=1 / 4000 + 1e-9)


def test_expected_metrics_are_the_mean_over_lambda() -> None:
    rng = np.random.default_rng(6)
    grid = (np.arange(4000) + 0.5) / 4000
    for p, _ in cases(7, 10):
        null = rng.random(len(p)) < 0.5
        masks = sbl(np.broadcast_to(p, (4000, len(p))), alpha=ALPHA, gamma=GAMMA, uniform=grid)[0]
        inclusion = sbl(p, alpha=ALPHA, gamma=GAMMA, mode="expectation")[0]
        for metric in (metrics.fdp, metrics.tpr, metrics.fpr, metrics.f1):
            expected, drawn = metric(inclusion, null), metric(masks, null)
            if np.isnan(expected):
                assert np.isnan(drawn).any()
                continue
            # Up to 40 jumps of Lambda, each misplaced by at most half a grid step.
            np.testing.assert_allclose(drawn.mean(), expected, rtol=0, atol=40 / 8000)


def test_bl_is_e_bh_of_the_package() -> None:
    package = pytest.importorskip("online_fdr.e_values")
    for p, lam in cases(8):
        e = [package.p_to_e_power(x, 1 - GAMMA) for x in p.tolist()]
        assert bl(p, alpha=ALPHA, gamma=GAMMA)[0].tolist() == package.e_bh(e, ALPHA)
        assert sbl(p, alpha=ALPHA, gamma=GAMMA, uniform=lam)[0].tolist() == package.e_bh(
            [x / lam for x in e], ALPHA
        )
        assert e_bh(power_calibrator(p, gamma=GAMMA), alpha=ALPHA)[0].tolist() == package.e_bh(e, ALPHA)


def test_counting_equals_sorting_at_pixel_scale() -> None:
    rng = np.random.default_rng(9)
    scores = rng.standard_normal(200_000)
    scores[:2000] += 4
    p = conformal_p(rng.standard_normal(999), scores)
    for alpha in (0.05, 0.3):
        counted, info = bl(p, alpha=alpha, k=999)
        np.testing.assert_array_equal(counted, bl(p, alpha=alpha)[0])
        assert info.rejections == counted.sum()
        np.testing.assert_array_equal(
            sbl(p, alpha=alpha, uniform=0.1, k=999)[0], sbl(p, alpha=alpha, uniform=0.1)[0]
        )
        np.testing.assert_allclose(
            sbl_inclusion(p, alpha=alpha, k=999), sbl_inclusion(p, alpha=alpha), rtol=1e-12, atol=0
        )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(1e-6, 1), st.floats(0.05, 0.95))
def test_containments_hold_pathwise(p: list[float], lam: float, gamma: float) -> None:
    """Theorems 4.4.2 and 4.5, and R_BL within R_BH, on arbitrary p-values (exact zeros and ones among them)."""
    from reproven.papers.sac_bl import bh

    array = np.array(p)
    ours, more = bl(array, gamma=gamma)[0], sbl(array, gamma=gamma, uniform=lam)[0]
    assert not (ours & ~more).any()
    assert not (ours & ~bh(array)[0]).any()


def test_batch_equals_loop_and_permutation_moves_the_mask() -> None:
    rng = np.random.default_rng(10)
    p = rng.random((3, 4, 25)) ** 6
    lam = rng.random((3, 4))
    together = sbl(p, alpha=ALPHA, gamma=GAMMA, uniform=lam)[0]
    for i in range(3):
        for j in range(4):
            one = sbl(p[i, j], alpha=ALPHA, gamma=GAMMA, uniform=lam[i, j])[0]
            np.testing.assert_array_equal(together[i, j], one)
    order = rng.permutation(25)
    np.testing.assert_array_equal(
        sbl(p[..., order], alpha=ALPHA, gamma=GAMMA, uniform=lam)[0], together[..., order]
    )


def test_modes_of_the_repeated_draw() -> None:
    rng = np.random.default_rng(11)
    p = rng.random((50, 30)) ** 6
    half = sbl(p, uniform=0.5)[0]
    np.testing.assert_array_equal(sbl(p, mode="mean_lambda")[0], half)  # no generator: Lambda = 1/2
    seed = 12
    repeats = np.random.default_rng(seed).random((50, 100))
    votes = np.stack([sbl(p, uniform=repeats[:, d])[0] for d in range(100)]).mean(axis=0)
    np.testing.assert_array_equal(sbl(p, mode="vote", rng=np.random.default_rng(seed))[0], votes > 0.5)
    mean = sbl(p, mode="mean_lambda", rng=np.random.default_rng(seed))
    np.testing.assert_allclose(mean[1].uniform, repeats.mean(axis=1), rtol=1e-15, atol=0)
    # With Lambda = 1/2 SBL is BL at twice the level.
    np.testing.assert_array_equal(half, bl(p, alpha=0.1)[0])


def test_negative_control_uniforms_per_item_break_monotonicity() -> None:
    rng = np.random.default_rng(13)
    p = rng.random((400, 30)) ** 6

    def broken(mask: np.ndarray) -> int:
        return int((np.where(mask, p, -1).max(axis=1) > np.where(mask, 2, p).min(axis=1)).sum())

    assert broken(sbl(p, rng=rng)[0]) == 0
    per_item = sbl_per_item(p, rng=rng)[0]
    assert broken(per_item) > 20
    assert not (bl(p)[0] & ~per_item).any()


def test_fdr_of_identical_normal_items_is_the_closed_form() -> None:
    """All p equal: FDR = E min(1, alpha e), the tight case of Theorem 4.4.1."""
    alpha, gamma = 0.05, 0.5
    u = (np.arange(200_000) + 0.5) / 200_000  # midpoint rule for the common p-value
    inclusion = sbl_inclusion(np.repeat(u[:, None], 3, axis=1), alpha=alpha, gamma=gamma)
    t = (alpha * (1 - gamma)) ** (1 / gamma)
    closed = t + alpha * (1 - t ** (1 - gamma))
    measured = metrics.fdp(inclusion, np.ones_like(inclusion, dtype=bool)).mean()
    np.testing.assert_allclose(measured, closed, rtol=0, atol=2e-5)  # midpoint rule near p = 0
