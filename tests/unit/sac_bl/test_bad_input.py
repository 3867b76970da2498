"""Bad input ends with one clear line; too little calibration is a warning that says how much is needed."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from reproven.papers.sac_bl import (
    Evidence,
    NoPowerWarning,
    bh,
    bl,
    by,
    closed_e_bh,
    conformal_e_values,
    decide,
    discrete_bl,
    e_bh,
    fixed_threshold,
    k_min,
    lond,
    power_calibrator,
    sbl,
    sharp_bl,
    storey_bh,
    u_by,
    u_e_bh,
)

P = np.array([0.01, 0.5])
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 2.0, float("nan")])
@pytest.mark.parametrize("rule", [bl, sharp_bl, bh, by, storey_bh, e_bh, closed_e_bh, lond])
def test_alpha_outside_the_open_unit_interval(rule, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha=.* must lie in \(0, 1\)"):
        rule(P, alpha=alpha)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bl(P, gamma=0.8, delta=0.3), r"gamma \+ delta = 1.1"),
        (lambda: sbl(P, gamma=0.8, delta=0.0, uniform=0.5), "need delta > 0"),
        (lambda: power_calibrator(P, gamma=0.8, delta=0.3), r"gamma \+ delta = 1.1"),
        (lambda: bl(P, gamma=1.0), r"gamma=1.0 must lie in"),
        (lambda: bl(np.array([0.1, np.nan])), r"must lie in \[0, 1\]"),
        (lambda: bh(np.array([0.1, 1.2])), r"must lie in \[0, 1\]"),
        (lambda: bh(np.array([])), "at least one"),
        (lambda: sbl(P), "needs rng= or uniform="),
        (lambda: sbl(P, mode="median", rng=RNG), "is not one of"),
        (lambda: sbl(P, uniform=1.5), r"must lie in \[0, 1\]"),
        (lambda: u_by(P), "needs rng= or uniform="),
        (lambda: u_e_bh(P), "needs rng= or uniform="),
        (lambda: e_bh(np.array([1.0, -1.0])), "must be >= 0"),
        (lambda: e_bh(np.array([1.0, np.nan])), "must be >= 0"),
        (lambda: discrete_bl(P, k=10, gamma=0.0), "gamma=0.0 must be positive"),
        (lambda: conformal_e_values(P, P, alpha_bh=1.0), "alpha_bh=1.0 must lie"),
        (lambda: fixed_threshold(calibration=np.array([]), scores=P), "calibration set is empty"),
        (lambda: bh(np.full(100, 0.123), k=40), "off the grid"),
    ],
)
def test_one_clear_line(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_too_little_calibration_warns_with_the_size_needed() -> None:
    need = k_min(alpha=0.05, gamma=0.8)
    assert need == 316
    p = np.full(50, 1 / need)  # k = need - 1, every item at the minimum
    with pytest.warns(NoPowerWarning, match=f"k={need} are needed"):
        mask, _ = bl(p, k=need - 1)
    assert not mask.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bl(np.full(50, 1 / (need + 1)), k=need)[0].all()
        assert bh(np.full(50, 1 / 20), k=19)[0].all()
    with pytest.warns(NoPowerWarning, match="k=19 are needed"):
        bh(np.full(50, 1 / 19), k=18)


def test_discrete_bl_says_how_much_it_needs_though_its_levels_depend_on_k() -> None:
    for gamma in (0.6, 1.0, float("inf")):
        with pytest.warns(NoPowerWarning) as caught:
            discrete_bl(np.full(50, 0.1), k=9, gamma=gamma)
        need = int(str(caught[0].message).split("at least k=")[1].split()[0])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert discrete_bl(np.full(50, 1 / (need + 1)), k=need, gamma=gamma)[0].all()
        with pytest.warns(NoPowerWarning, match=f"k={need} are needed"):
            discrete_bl(np.full(50, 1 / need), k=need - 1, gamma=gamma)


def test_a_rule_is_given_what_it_names() -> None:
    evidence = Evidence(P, np.array([0.0, 1.0, 2.0]), np.array([3.0, 0.5]), np.array([False, True]))
    seen = {}

    def mine(p, *, k, scores, null, rng, alpha=0.5, other="kept"):
        seen.update(k=k, scores=scores, alpha=alpha, other=other, rng=rng)
        return p < alpha

    assert decide(mine, evidence, alpha=0.2, rng=RNG).tolist() == [True, False]
    assert (seen["k"], seen["alpha"], seen["other"], seen["rng"]) == (3, 0.2, "kept", RNG)
    known = Evidence(P, None, evidence.scores, evidence.null)
    assert known.k is None
    assert decide(bl, known, alpha=0.2, rng=RNG).shape == (2,)
