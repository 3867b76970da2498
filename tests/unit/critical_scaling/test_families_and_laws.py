"""Score families against closed forms, exponents and laws against curves that follow them exactly, claim tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from reproven.papers.critical_scaling import claims, families
from reproven.papers.critical_scaling.certificates import entropy_ceiling, p_max_floor
from reproven.papers.critical_scaling.exponents import (
    LAWS,
    bootstrap_exponents,
    choose_law,
    fit_exponent,
    local_exponents,
)
from reproven.papers.critical_scaling.families import quantile_scale
from reproven.papers.critical_scaling.rows import row_stats

N = np.array([64, 256, 1024, 4096, 16384])


@pytest.mark.parametrize(
    ("family", "rtol"),
    [
        (families.Simplex(0.4), 1e-12),
        (families.LogDistance(0.7), 1e-9),
        (families.Alibi(0.25), 1e-9),
        (families.Clusters(), 0.01),
        (families.Exponential(2.0), 0.08),  # finite n: the exponent goes to zero as 1 / log n
        (families.Needle(20.0), 0.08),
    ],
)
def test_b_follows_its_law(family, rtol: float) -> None:
    np.testing.assert_allclose(
        quantile_scale(family.quantiles(10**5))[0], family.law(10**5), rtol=rtol, atol=0
    )


def test_quantile_scale_is_that_of_row_stats_across_blocks() -> None:
    row = families.Gaussian().quantiles(1_200_000)
    b, k = quantile_scale(row)
    g = row[0] - row[1:]
    slope = np.log1p(np.arange(1, len(row))) / g
    assert k == slope.argmax() + 1
    np.testing.assert_allclose(b, slope.max(), rtol=1e-14, atol=0)
    short = families.Gaussian().quantiles(500)
    np.testing.assert_allclose(quantile_scale(short)[0], row_stats(short[None]).scale[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "family",
    [
        families.Gaussian(2.0),
        families.Weibull(0.5),
        families.FlatEdge(1.0),
        families.RegularEdge(3.0),
        families.Pareto(),
    ],
)
def test_samples_have_the_quantiles(family) -> None:
    row = np.sort(family.sample(1, 40_000, np.random.default_rng(0))[0])[::-1]
    want = family.quantiles(40_000)
    assert (np.diff(want) <= 0).all()
    u = np.searchsorted(-want, -np.quantile(row, [0.1, 0.5, 0.9])) / 40_000
    np.testing.assert_allclose(u, [0.9, 0.5, 0.1], rtol=0, atol=0.01)  # sampling error


def test_sphere_samples_are_cosines_of_uniform_keys() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20_000, 5))
    cosines = np.sort(x[:, 0] / np.linalg.norm(x, axis=1))
    ours = np.sort(families.Sphere(5).sample(1, 20_000, rng)[0])
    np.testing.assert_allclose(ours[::500], cosines[::500], rtol=0, atol=0.03)  # sampling error


def test_almost_simplex_stays_in_its_bracket() -> None:
    family = families.AlmostSimplex(0.1, 0.6)
    low, high = family.bracket(300)
    b = row_stats(family.sample(50, 300, np.random.default_rng(2))).scale
    assert ((b >= low * (1 - 1e-12)) & (b <= high * (1 + 1e-12))).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: families.Simplex(1.0), "rho=1.0 must be below 1"),
        (lambda: families.AlmostSimplex(0.5, 0.2), "need rho1=0.5 <= rho2=0.2"),
        (lambda: families.Weibull(0.0), "alpha=0.0 must be positive"),
        (lambda: families.Gaussian().quantiles(1), "n=1 must be at least 2"),
        (lambda: families.Needle(1.0).law(1000), "lies in the noise"),
        (lambda: families.Sphere(1), "d=1 must be at least 2"),
        (lambda: row_stats(np.empty((3, 0))), "hold no key"),
        (lambda: p_max_floor(np.ones(2), beta=0.0), "must be positive"),
        (lambda: choose_law([1, 2, 3], np.ones(3)), "use four or more"),
        (lambda: bootstrap_exponents(N, np.ones((1, 5)), np.random.default_rng(0)), "needs two"),
    ],
)
def test_one_clear_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("xi", [-0.5, 0.0, 0.5, 1.0, 2.0])
def test_exponents_of_exact_powers(xi: float) -> None:
    curve = 3.0 * np.log(N) ** xi
    np.testing.assert_allclose(local_exponents(N, curve), xi, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fit_exponent(N, np.stack([curve, 2 * curve])), xi, rtol=0, atol=1e-12)


def test_the_bootstrap_covers_and_is_narrow_without_noise() -> None:
    rng = np.random.default_rng(3)
    curve = np.log(N)[:, None] * np.ones(4)
    exact = bootstrap_exponents(N, np.stack([curve] * 5), rng)
    np.testing.assert_allclose([exact.low, exact.high], 1.0, rtol=0, atol=1e-9)
    noisy = bootstrap_exponents(N, curve * np.exp(0.2 * rng.normal(size=(12, 5, 4))), rng)
    assert ((noisy.low < noisy.value) & (noisy.value < noisy.high)).all()
    assert ((noisy.low < 1) & (noisy.high > 1)).mean() >= 0.75


def test_the_law_is_found() -> None:
    log = np.log(N)
    curves = {"const": 0 * log + 1, "sqrt_log": log**0.5, "log": log, "log_squared": log**2, "power": N**0.5}
    rng = np.random.default_rng(4)
    for name, curve in curves.items():
        best, residual = choose_law(N, curve * np.exp(1e-3 * rng.normal(size=(7, 5))))
        assert residual.shape == (7, 5)
        assert (best == LAWS.index(name)).all(), name


def test_entropy_ceiling_at_hand() -> None:
    np.testing.assert_allclose(
        entropy_ceiling(np.array([1.0]), 1.5), np.log(3) + 6 / (np.e * 0.25), rtol=1e-12, atol=0
    )
    np.testing.assert_allclose(
        entropy_ceiling(np.array([1.0]), 4.0), np.log(4 / 3) + 16 / (9 * np.e), rtol=1e-12, atol=0
    )
    assert np.isinf(entropy_ceiling(np.array([1.0]), 1.0))[0]


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"seed": 0, "unit": "x", "run": "r", **columns})


def test_claim_tests_decide() -> None:
    falling = frame(n=[1, 2, 3], value=[3.0, 2.0, 1.5])
    asked = {"samples": ["seed"], "confidence": 0.99}
    assert claims.each_falls(falling, axis="n", floor=1.0, **asked).verdict == "holds"
    assert claims.each_falls(falling, axis="n", floor=1.6, **asked).verdict == "violated"
    assert (
        claims.each_falls(frame(n=[1, 2], value=[1.0, 1.0]), axis="n", floor=0, **asked).verdict == "violated"
    )
    assert claims.follows(falling, axis="n", values=[3, 2, 1.5], atol=1e-9, **asked).verdict == "holds"
    assert claims.follows(falling, axis="n", values=[3, 2, 1.4], atol=0.05, **asked).verdict == "violated"
    order = frame(family=["a", "b"] * 2, n=[1, 1, 2, 2], value=[1.0, 2.0, 1.0, 0.5])
    found = claims.each_in_order(order, samples=["n"], confidence=0.99, axis="family", order=["a", "b"])
    assert (found.verdict, found.ours) == ("violated", -0.5)
    rivals = {"axis": "family", "winner": "a", "rivals": ["b"], "goal": 1.1}
    assert claims.nearest(order[order["n"] == 1], **rivals, **asked).verdict == "holds"
    two = frame(w=["mean", "median"], value=[6.0, 2.0])
    assert (
        claims.ratio_of_rows_at_least(two, axis="w", a="mean", b="median", bound=2.0, **asked).verdict
        == "holds"
    )
    ends = {"axis": "w", "a": "mean", "b": "median"}
    assert claims.difference_of_rows_at_least(two, **ends, bound=5.0, **asked).verdict == "violated"
    with pytest.raises(ValueError, match="does not tell"):
        claims.follows(order, axis="n", values=[1, 1], atol=1, **asked)


def test_beats_is_paired_and_turned() -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(size=12)
    data = frame(
        method=["ours"] * 12 + ["rival"] * 12,
        document=[*range(12), *range(12)],
        value=[*(base - 1 + 0.01 * rng.normal(size=12)), *base],
    )
    asked = {"samples": ["document"], "confidence": 0.99, "method": "ours", "rival": "rival"}
    lower = claims.beats(data, higher=False, **asked)
    assert lower.verdict == "holds"
    assert 0.9 < lower.ci_low < lower.ours < lower.ci_high < 1.1
    assert claims.beats(data, higher=True, **asked).verdict == "violated"
    with pytest.raises(ValueError, match="lack"):
        claims.beats(data.iloc[:-1], higher=True, **asked)
