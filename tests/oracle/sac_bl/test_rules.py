"""The other rules against statsmodels, online-fdr, brute force and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reproven.papers.sac_bl import (
    addis,
    best_gamma,
    bh,
    by,
    closed_e_bh,
    conformal_e_values,
    conformal_p,
    derandomised_conformal_e,
    discrete_bl,
    discrete_calibrator,
    e_bh,
    e_lond,
    f1_adaptive,
    fixed_threshold,
    integral_calibrator,
    k_min,
    lond,
    lord_plus_plus,
    power_calibrator,
    saffron,
    sharp_bl,
    storey_bh,
    u_by,
    u_e_bh,
    worst_case_fdr,
)

RNG_SEED = 20


def p_values(count: int, n: int, seed: int = RNG_SEED) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.random((count, n)) ** rng.choice([1, 4, 8], (count, 1))


@pytest.mark.parametrize(("rule", "name"), [(bh, "fdr_bh"), (by, "fdr_by")])
@pytest.mark.parametrize("k", [None, 1008])  # 1009 is prime: no float tie between p = j/1009 and alpha i / n
def test_step_up_rules_equal_statsmodels(rule, name: str, k: int | None) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(RNG_SEED)
    p = p_values(50, 60)
    if k is not None:
        p = conformal_p(
            rng.standard_normal((50, k)), rng.standard_normal((50, 60)) + 3 * (rng.random((50, 60)) < 0.4)
        )
    for row in p:
        np.testing.assert_array_equal(
            rule(row, alpha=0.07)[0], multitest.multipletests(row, 0.07, method=name)[0]
        )


def test_storey_equals_the_package() -> None:
    package = pytest.importorskip("online_fdr.p_values")
    for row in p_values(50, 40):
        theirs, _ = package.BatchStoreyBH(0.05, 0.5)._storey_batch_decisions(row.tolist(), 0.05)
        assert storey_bh(row, alpha=0.05)[0].tolist() == theirs


def test_e_bh_equals_the_package_also_with_ties_zeros_and_infinity() -> None:
    package = pytest.importorskip("online_fdr.e_values")
    rng = np.random.default_rng(RNG_SEED)
    for _ in range(100):
        e = rng.choice([0.0, 1.0, 5.0, 40.0, 300.0, np.inf], 20) * (1 + (rng.random() < 0.5))
        assert e_bh(e, alpha=0.1)[0].tolist() == package.e_bh(e.tolist(), 0.1)


def test_calibrators() -> None:
    package = pytest.importorskip("online_fdr.e_values")
    grid = np.linspace(0.001, 1, 50)
    theirs = [package.p_to_e_power(x, 0.3) for x in grid.tolist()]
    np.testing.assert_allclose(power_calibrator(grid, gamma=0.7), theirs, rtol=1e-12, atol=0)
    u = (np.arange(10**6) + 0.5) / 10**6
    # Heavy tail at p = 0: the midpoint rule misses a little, and never exceeds 1.
    assert 0.9 < integral_calibrator(u).mean() <= 1.0
    near = integral_calibrator(np.array([1.0, 1 - 1e-9, 1 - 2e-4, 0.0]))
    np.testing.assert_allclose(
        near, [0.5, 0.5, 0.5 + 2e-4 / 6, np.inf], rtol=1e-6, atol=0
    )  # series' next term
    for gamma in (0.4, 1.0, 3.0, np.inf):
        on_grid = discrete_calibrator(np.arange(1, 102) / 101, k=100, gamma=gamma)
        np.testing.assert_allclose(on_grid.mean(), 1.0, rtol=1e-12, atol=0)
        assert (np.diff(on_grid) <= 1e-12).all()


@pytest.mark.parametrize("gamma", [0.6, 1.0, 2.5, np.inf])
def test_discrete_bl_is_e_bh_on_its_calibrator(gamma: float) -> None:
    rng = np.random.default_rng(RNG_SEED)
    p = conformal_p(
        rng.standard_normal((80, 97)), rng.standard_normal((80, 30)) + 4 * (rng.random((80, 30)) < 0.5)
    )
    ours = discrete_bl(p, k=97, alpha=0.31, gamma=gamma)[0]
    np.testing.assert_array_equal(ours, e_bh(discrete_calibrator(p, k=97, gamma=gamma), alpha=0.31)[0])
    assert ours.any()


def test_randomised_rules_contain_their_plain_ones_and_meet_them_at_one() -> None:
    p = p_values(200, 30)
    lam = np.random.default_rng(1).random(200)
    e = power_calibrator(p, gamma=0.6)
    for plain, randomised in (
        (by(p)[0], lambda u: u_by(p, uniform=u)[0]),
        (e_bh(e)[0], lambda u: u_e_bh(e, uniform=u)[0]),
    ):
        assert not (plain & ~randomised(lam)).any()
        assert (randomised(lam) & ~plain).any()
        np.testing.assert_array_equal(randomised(1.0), plain)


def test_u_by_is_u_e_bh_on_bys_own_e_values() -> None:
    """BY rejects by e = (n/alpha) / ceil(n H_n p / alpha) where that is at most n; U-BY divides it by Lambda."""
    n, alpha = 30, 0.1
    p, lam = p_values(100, n), np.random.default_rng(2).random(100)
    steps = np.ceil(n * np.sum(1 / np.arange(1, n + 1)) * p / alpha)
    e = np.where(steps <= n, n / alpha / steps, 0.0)
    np.testing.assert_array_equal(
        u_by(p, alpha=alpha, uniform=lam)[0], u_e_bh(e, alpha=alpha, uniform=lam)[0]
    )


def closed_by_brute_force(e: np.ndarray, alpha: float) -> int:
    """Largest |R| over all R, by the definition over all subsets S."""
    n = len(e)
    subsets = [s for size in range(1, n + 1) for s in itertools.combinations(range(n), size)]
    for size in range(n, 0, -1):
        for r in itertools.combinations(range(n), size):
            if all(e[list(s)].mean() * (1 + 1e-12) >= len(set(s) & set(r)) / (alpha * size) for s in subsets):
                return size
    return 0


def test_closed_e_bh_equals_brute_force() -> None:
    rng = np.random.default_rng(RNG_SEED)
    found = set()
    for _ in range(60):
        e = np.exp(rng.normal(1.0, 2.0, 6))  # no ties, so that the largest set is one of top values
        size = closed_by_brute_force(e, 0.3)
        assert closed_e_bh(e, alpha=0.3)[1].rejections == size
        found.add(size)
    assert len(found) >= 5  # the cases reach from nothing to everything


def test_closed_e_bh_contains_e_bh_and_treats_ties_alike() -> None:
    rng = np.random.default_rng(RNG_SEED)
    p = conformal_p(
        rng.standard_normal((100, 2000)), rng.standard_normal((100, 40)) + 4 * (rng.random((100, 40)) < 0.7)
    )
    e = power_calibrator(p)
    ours, plain = closed_e_bh(e)[0], e_bh(e)[0]
    assert not (plain & ~ours).any()
    assert ours.sum() > plain.sum()
    for mask, row in zip(ours, e):
        assert not set(row[mask]) & set(row[~mask])


def test_sharp_bl_levels_spend_alpha_and_beat_bl() -> None:
    n, alpha, gamma = 100, 0.05, 0.8
    ranks = np.arange(1, n + 1)
    bl_levels = ((1 - gamma) * alpha * ranks / n) ** (1 / gamma)
    assert worst_case_fdr(bl_levels) == pytest.approx(0.0111, abs=5e-5)
    shape = (ranks / n) ** (1 / gamma)
    sharp = shape * alpha / np.sum(n * np.diff(shape, prepend=0.0) / ranks)
    assert worst_case_fdr(sharp) == pytest.approx(alpha, rel=1e-12)
    assert worst_case_fdr(alpha * ranks / n) == pytest.approx(alpha * np.sum(1 / ranks), rel=1e-12)
    for row in p_values(100, n):
        ordered = np.sort(row)
        passed = np.flatnonzero(ordered <= sharp)
        assert sharp_bl(row, alpha=alpha, gamma=gamma)[1].rejections == (passed[-1] + 1 if passed.size else 0)


def conformal_e_by_definition(calibration: np.ndarray, scores: np.ndarray, alpha_bh: float) -> np.ndarray:
    n, k = len(scores), len(calibration)
    for t in sorted([*calibration, *scores]):
        v, m = np.sum(calibration >= t), np.sum(scores >= t)
        if m and n * v / (k * m) <= alpha_bh:
            return (scores >= t) * (1 + k) / (1 + v)
    return np.zeros(n)


def test_conformal_e_values_by_definition_and_their_sum_bound() -> None:
    rng = np.random.default_rng(RNG_SEED)
    total = []
    for index in range(300):
        calibration, scores = rng.standard_normal(40), rng.standard_normal(15)
        if index % 2:
            calibration, scores = calibration.round(1), scores.round(1) + 3 * (rng.random(15) < 0.4)
        ours = conformal_e_values(calibration, scores, alpha_bh=0.2)
        np.testing.assert_allclose(
            ours, conformal_e_by_definition(calibration, scores, 0.2), rtol=1e-12, atol=0
        )
        if index % 2 == 0:
            total.append(ours.sum())
    assert np.mean(total) <= 15 + 4 * np.std(total) / np.sqrt(
        len(total)
    )  # all normal: sum at most n in the mean


def test_derandomising_averages_e_values() -> None:
    rng = np.random.default_rng(RNG_SEED)
    pairs = [(rng.standard_normal(200), rng.standard_normal(50) + 4 * (np.arange(50) < 25)) for _ in range(3)]
    e = np.mean([conformal_e_values(c, s, alpha_bh=0.05) for c, s in pairs], axis=0)
    ours = derandomised_conformal_e(calibration=pairs[0][0], scores=pairs[0][1], splits=pairs[1:], alpha=0.1)[
        0
    ]
    np.testing.assert_array_equal(ours, e_bh(e, alpha=0.1)[0])
    assert ours[:25].mean() > 0.5


def test_fixed_and_f1_thresholds() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(RNG_SEED)
    calibration, scores = rng.standard_normal((4, 100)), rng.standard_normal((4, 50)).round(1)
    null = rng.random((4, 50)) < 0.6
    fixed = fixed_threshold(calibration=calibration, scores=scores)[0]
    np.testing.assert_array_equal(fixed, scores > np.quantile(calibration, 0.95, axis=1)[:, None])
    scores = scores + 1.0 * ~null
    ours = f1_adaptive(scores=scores, null=null)[0]
    for mask, row, normal in zip(ours, scores, null):
        best = max(f1_score(~normal, row >= t) for t in row)
        assert f1_score(~normal, mask) == pytest.approx(best, rel=1e-12)
    assert not f1_adaptive(scores=scores, null=np.ones_like(null))[0].any()


@pytest.mark.parametrize(
    ("rule", "name", "arguments"),
    [
        (lond, "Lond", (0.1,)),
        (lord_plus_plus, "LordPlusPlus", (0.1, 0.05)),
        (saffron, "Saffron", (0.1, 0.05, 0.5)),
        (addis, "Addis", (0.1, 0.05, 0.25, 0.5)),
    ],
)
def test_online_rules_are_the_packages(rule, name: str, arguments: tuple) -> None:
    package = pytest.importorskip("online_fdr.p_values")
    p = p_values(6, 40)
    mask, info = rule(p, alpha=0.1)
    for row, got in zip(p, mask):
        test = getattr(package, name)(*arguments)
        assert got.tolist() == [test.test_one(x) for x in row.tolist()]
    assert info.rejections.sum() == mask.sum() > 0


def test_e_lond_is_the_packages() -> None:
    package = pytest.importorskip("online_fdr.e_values")
    e = power_calibrator(p_values(6, 40) ** 3)
    for row, got in zip(e, e_lond(e, alpha=0.1)[0]):
        test = package.ELond(0.1)
        assert got.tolist() == [test.test_one(x) for x in row.tolist()]


@pytest.mark.parametrize(
    ("share", "table"), [(1.0, 312), (0.5, 714), (0.2, 2076), (0.1, 4583), (0.01, 59795)]
)
def test_k_min_table(share: float, table: int) -> None:
    gamma = best_gamma(alpha=0.05, detectable=share)
    assert k_min(alpha=0.05, gamma=gamma, detectable=share) == table
    assert k_min(alpha=0.05, gamma=gamma - 0.02, detectable=share) > table
    assert k_min(alpha=0.05, gamma=gamma + 0.02, detectable=share) > table
