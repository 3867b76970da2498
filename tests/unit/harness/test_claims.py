"""Each claim test: by hand, at its best and worst, with ties, and what it must refuse."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from reproven.harness import claims, intervals
from reproven.harness.claims import CLAIM_TESTS, claim_test, combine, judge, resolve
from reproven.harness.decision import Decision
from reproven.harness.errors import UserError


def rows(values, unit="", **coordinates):
    """Return a frame with seed 0 unless given."""
    return pd.DataFrame({"seed": 0, "metric": "m", "unit": unit, "value": values, **coordinates})


def seeds(values, unit="", **coordinates):
    return rows(np.asarray(values, dtype=float), unit, **{"seed": range(len(values)), **coordinates})


def decide(name, data, samples=("seed",), confidence=0.95, **params):
    return resolve(name).function(data, samples=list(samples), confidence=confidence, **params)


# --- the register ----------------------------------------------------------------------------------------


def test_the_function_stays_plain_and_is_found_by_its_dotted_path():
    @claim_test(exact=True)
    def own(data, *, samples, confidence, bound):
        return Decision("holds", 1.0)

    name = f"{__name__}.own"
    try:
        assert own(None, samples=[], confidence=0.5, bound=1).verdict == "holds"
        assert resolve(name).exact
        assert list(resolve(name).parameters) == ["bound"]
    finally:
        del CLAIM_TESTS[name]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("mean_at_mots", r"no claim test 'mean_at_mots' \(did you mean 'mean_at_most'\?\)"),
        ("reproven.papers.nowhere.claims.f", "No module named"),
        ("reproven.harness.claims.judge", "no claim test"),
    ],
)
def test_unknown_tests(name, match):
    with pytest.raises(UserError, match=match):
        resolve(name)


# --- judging ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.0, 1.0, "holds"),
        (0.2, 0.8, "holds"),
        (-0.1, 0.5, "inconclusive"),
        (0.5, 1.1, "inconclusive"),
        (-1.0, 2.0, "inconclusive"),
        (1.0, 2.0, "inconclusive"),
        (1.1, 2.0, "violated"),
        (-2.0, -0.1, "violated"),
        (-math.inf, math.inf, "inconclusive"),
    ],
)
def test_judge_by_the_whole_interval(low, high, verdict):
    assert judge(low, high, 0.0, 1.0) == verdict


def test_combine_takes_the_worst_and_of_equals_the_tightest():
    parts = [
        ("k=1", Decision("holds", 1.0, samples={"k=1": 1.0}), 0.5),
        ("k=2", Decision("holds", 2.0, samples={"k=2": 2.0}), 0.1),
        ("k=3", Decision("inconclusive", 3.0, samples={"k=3": 3.0}), 9.0),
    ]
    assert combine(parts[:2]).ours == 2.0
    worst = combine(parts)
    assert (worst.verdict, worst.ours) == ("inconclusive", 3.0)
    assert "k=3" in worst.reason
    assert worst.samples == {"k=1": 1.0, "k=2": 2.0, "k=3": 3.0}


# --- means -----------------------------------------------------------------------------------------------


def test_mean_by_hand():
    # 1, 2, 3: mean 2, half-width 4.3027 / sqrt(3) = 2.4841
    data = seeds([1, 2, 3])
    for bound, verdict in ((4.5, "holds"), (4.0, "inconclusive"), (-0.4, "inconclusive"), (-0.5, "violated")):
        found = decide("mean_at_most", data, bound=bound)
        assert (found.verdict, found.n) == (verdict, 3)
        assert (found.ours, found.ci_low, found.ci_high) == pytest.approx((2, -0.48414, 4.48414), abs=1e-4)
        mirrored = decide("mean_at_least", data.assign(value=-data["value"]), bound=-bound)
        assert mirrored.verdict == verdict
    assert decide("mean_at_most", data, bound=4.0, margin=0.5).verdict == "holds"


def test_mean_within_is_equivalence_and_not_significance():
    assert decide("mean_within", seeds([1.0, 1.01, 0.99]), low=0.9, high=1.1).verdict == "holds"
    assert decide("mean_within", seeds([0.0, 2.0, 1.0]), low=0.9, high=1.1).verdict == "inconclusive"
    assert decide("mean_within", seeds([5.0, 5.01, 4.99]), low=0.9, high=1.1).verdict == "violated"


def test_samples_are_averaged_first():
    data = rows([0.0, 2.0, 1.0, 3.0, 2.0, 4.0], seed=[0, 0, 1, 1, 2, 2], replicate=[0, 1] * 3)
    found = decide("mean_at_most", data, bound=10)
    assert (found.n, found.ours) == (3, 2.0)
    assert (found.ci_low, found.ci_high) == pytest.approx(intervals.mean_interval([1.0, 2.0, 3.0], 0.95))
    assert found.samples == {"seed=0": 1.0, "seed=1": 2.0, "seed=2": 3.0}


def test_one_sample_is_inconclusive_however_good():
    for samples in ([], ["seed"]):
        found = decide("mean_at_most", rows([0.0, 0.0]), samples, bound=100)
        assert (found.verdict, found.n) == ("inconclusive", 1)


def test_equal_samples_of_a_rate_prove_little():
    zeros = seeds([0.0] * 20, unit="1")
    found = decide("mean_at_most", zeros, bound=0.1)
    assert found.verdict == "inconclusive"
    assert "all 20 samples equal" in found.reason
    assert decide("mean_at_most", zeros, bound=0.2).verdict == "holds"
    assert decide("mean_at_least", zeros, bound=0.2).verdict == "violated"
    assert decide("mean_at_most", zeros.assign(unit="count"), bound=0.1).verdict == "holds"
    assert decide("all_at_most", zeros, bound=0.1).verdict == "holds"


def test_worst_group_is_reported_at_its_share_of_the_error():
    data = pd.concat([seeds([1, 2, 3], k=10.0), seeds([2, 3, 4], k=200.0), seeds([0, 0, 1], k=5.0)])
    found = decide("mean_at_most", data, bound=100, per=["k"])
    assert found.verdict == "holds"
    assert found.ours == 3.0
    assert "k=200; the worst of 3" in found.reason
    share = intervals.mean_interval([2.0, 3.0, 4.0], 1 - 0.05 / 3)
    assert (found.ci_low, found.ci_high) == pytest.approx(share, rel=1e-9)
    assert set(found.samples) == {f"k={k},seed={s}" for k in (5, 10, 200) for s in range(3)}
    assert decide("mean_at_most", data, bound=2.5, per=["k"]).verdict == "inconclusive"


# --- proportions -----------------------------------------------------------------------------------------


def test_proportions_by_wilson():
    data = seeds([1] * 90 + [0] * 10)
    low, high = intervals.proportion_interval(90, 100, 0.95)
    found = decide("proportion_at_least", data, bound=0.8)
    assert found.verdict == "holds"
    assert (found.ours, found.ci_low, found.ci_high) == pytest.approx((0.9, low, high), abs=1e-12)
    assert decide("proportion_at_least", data, bound=0.9).verdict == "inconclusive"
    assert decide("proportion_at_least", data, bound=0.97).verdict == "violated"
    assert decide("proportion_at_most", data, bound=0.8).verdict == "violated"
    assert decide("proportion_at_most", data, bound=0.97).verdict == "holds"


def test_perfect_and_worst_proportions_still_have_an_interval():
    assert decide("proportion_at_least", seeds([1] * 10), bound=1.0).verdict == "inconclusive"
    assert decide("proportion_at_most", seeds([0] * 10), bound=0.0).verdict == "inconclusive"
    assert decide("proportion_at_least", seeds([0] * 10), bound=1.0).verdict == "violated"


def test_a_fraction_is_no_outcome():
    with pytest.raises(ValueError, match="0 or 1, one a sample"):
        decide("proportion_at_least", seeds([1, 0.5]), bound=0.1)


# --- comparisons -----------------------------------------------------------------------------------------


def pair(a, b, unit=""):
    return pd.concat([seeds(a, unit, method="a"), seeds(b, unit, method="b")], ignore_index=True)


def test_differences_are_paired():
    # differences of -1, -1.1, -0.9, although both sides range over hundreds
    data = pair([100, 200, 300], [101, 201.1, 300.9])
    low, high = intervals.mean_interval([-1.0, -1.1, -0.9], 0.95)
    found = decide("difference_at_most", data, bound=-0.5, axis="method", a="a", b="b")
    assert (found.verdict, found.n) == ("holds", 3)
    assert (found.ours, found.ci_low, found.ci_high) == pytest.approx((-1.0, low, high), abs=1e-9)
    assert decide("difference_at_least", data, bound=-0.5, axis="method", a="a", b="b").verdict == "violated"
    swapped = decide("difference_at_least", data, bound=0.5, axis="method", a="b", b="a")
    assert (swapped.verdict, swapped.ours) == ("holds", pytest.approx(1.0, abs=1e-9))
    assert found.samples["seed=0"] == -1.0


def test_ties_of_rates_do_not_prove_equality_but_ties_of_numbers_do():
    tied = pair([0.0] * 10, [0.0] * 10, unit="1")
    arguments = {"bound": 0.05, "axis": "method", "a": "a", "b": "b"}
    assert decide("difference_at_most", tied, **arguments).verdict == "inconclusive"
    assert decide("difference_at_most", tied.assign(unit="nats"), **arguments).verdict == "holds"


def test_broken_pairs_are_refused():
    data = pair([1, 2, 3], [1, 2, 3])
    for name, extra in (
        ("difference_at_most", {"bound": 1, "a": "a", "b": "b"}),
        ("ratio_at_most", {"bound": 2, "a": "a", "b": "b"}),
        ("ordering", {"order": ["a", "b"]}),
    ):
        with pytest.raises(ValueError, match="1 samples are at only some of a, b"):
            decide(name, data.iloc[:-1], axis="method", **extra)
        with pytest.raises(ValueError, match="no measurement at method=b"):
            decide(name, data.iloc[:3], axis="method", **extra)


def test_ratios_are_geometric():
    data = pair([2, 8, 4], [1, 1, 1])
    low, high = intervals.mean_interval(np.log([2.0, 8.0, 4.0]), 0.95)
    found = decide("ratio_at_least", data, bound=0.5, axis="method", a="a", b="b")
    assert found.verdict == "holds"
    assert (found.ours, found.ci_low, found.ci_high) == pytest.approx(
        (4, math.exp(low), math.exp(high)), rel=1e-9
    )
    assert decide("ratio_at_most", data, bound=0.5, axis="method", a="a", b="b").verdict == "violated"
    itself = decide("ratio_at_least", seeds([2, 8, 4]), bound=0.5)
    assert itself.ours == pytest.approx(4, rel=1e-12)


def test_ratios_that_do_not_exist():
    with pytest.raises(ValueError, match="no logarithm"):
        decide("ratio_at_least", pair([1, 1], [1, 0]), bound=1, axis="method", a="a", b="b")
    with pytest.raises(ValueError, match="no logarithm"):
        decide("ratio_at_least", seeds([1, -1]), bound=1)


def test_equal_rates_have_no_certain_ratio():
    data = pair([1.0] * 8, [1.0] * 8, unit="1")
    found = decide("ratio_at_least", data, bound=0.99, axis="method", a="a", b="b")
    assert found.verdict == "inconclusive"
    assert found.ci_low < 0.99 < found.ci_high
    many = pair([1.0] * 3000, [1.0] * 3000, unit="1")
    assert decide("ratio_at_least", many, bound=0.99, axis="method", a="a", b="b").verdict == "holds"


def three(a, b, c):
    return pd.concat([pair(a, b), seeds(c, method="c")], ignore_index=True)


def test_ordering_by_hand():
    data = three([1, 2, 3], [2, 3.1, 4], [5, 6, 7.2])
    found = decide("ordering", data, axis="method", order=["a", "b", "c"], strict=True)
    assert found.verdict == "holds"
    # the smaller step, b less a, at half of the error
    low, high = intervals.mean_interval([1.0, 1.1, 1.0], 0.975)
    assert (found.ours, found.ci_low, found.ci_high) == pytest.approx((1.0333333, low, high), abs=1e-6)
    assert decide("ordering", data, axis="method", order=["c", "b", "a"]).verdict == "violated"
    assert decide("ordering", data, axis="method", order=["a", "c", "b"]).verdict == "violated"
    assert found.samples["method=a|b,seed=1"] == pytest.approx(1.1, abs=1e-12)


def test_ordering_with_ties():
    data = pair([1, 2, 3], [1, 2, 3])
    assert decide("ordering", data, axis="method", order=["a", "b"]).verdict == "holds"
    assert decide("ordering", data, axis="method", order=["a", "b"], strict=True).verdict == "violated"
    near = pair([1, 2, 3], [1.01, 1.99, 3.0])
    assert decide("ordering", near, axis="method", order=["a", "b"]).verdict == "inconclusive"
    assert decide("ordering", near, axis="method", order=["a", "b"], margin=0.1).verdict == "holds"


def test_ordering_of_one_is_none():
    with pytest.raises(ValueError, match="two members or more"):
        decide("ordering", pair([1, 2], [1, 2]), axis="method", order=["a"])


# --- slopes ----------------------------------------------------------------------------------------------


def ladder(power, noise=0.0, samples=6, points=(10, 100, 1000)):
    rng = np.random.default_rng(0)
    return pd.concat(
        [
            rows(np.array([n**power * math.exp(noise * rng.normal()) for n in points]), seed=s, n=points)
            for s in range(samples)
        ],
        ignore_index=True,
    )


def test_slope_of_a_power_law():
    found = decide("slope_within", ladder(-0.5, 0.1), x="n", low=-0.6, high=-0.4)
    assert (found.verdict, found.n) == ("holds", 6)
    assert found.ours == pytest.approx(-0.5, abs=0.05)  # noise of 0.1 in the logarithm
    assert decide("slope_within", ladder(-0.5, 0.1), x="n", high=-0.7).verdict == "violated"
    assert decide("slope_within", ladder(-0.5, 0.1), x="n", low=-0.5).verdict == "inconclusive"
    assert len(found.samples) == 6


def test_slope_without_logarithms():
    data = pd.concat([rows([1.0, 3.0, 5.0], seed=s, n=[0, 1, 2]) for s in range(2)])
    found = decide("slope_within", data, x="n", low=2, high=2, log=False)
    assert (found.verdict, found.ours) == ("holds", pytest.approx(2.0, abs=1e-12))


def test_slope_needs_every_sample_at_every_point():
    with pytest.raises(ValueError, match="1 samples are at only some of 10, 100, 1000"):
        decide("slope_within", ladder(-0.5).iloc[1:], x="n", high=0)


def test_groups_may_have_points_of_their_own():
    data = pd.concat(
        [ladder(-0.5).assign(method="a"), ladder(-0.5, points=(10, 100)).assign(method="b")],
        ignore_index=True,
    )
    assert decide("slope_within", data, x="n", high=-0.4, per=["method"]).verdict == "holds"


def test_a_zero_of_one_seed_does_not_spoil_the_slope_of_means():
    data = ladder(-0.5, 0.05, samples=8)
    data.loc[(data["seed"] == 3) & (data["n"] == 1000), "value"] = 0.0
    found = decide("slope_within", data, x="n", high=-0.3)
    assert found.verdict == "holds"
    assert "seed=3" not in found.samples
    assert len(found.samples) == 7


# --- exact tests -----------------------------------------------------------------------------------------


def test_exact_tests_look_at_every_row():
    data = rows([0.0, 0.0, 1.0, 0.0], seed=[0, 0, 1, 1], replicate=[0, 1, 0, 1])
    assert (
        decide("all_at_most", data, bound=0.5).verdict == "violated"
    )  # though every seed's mean is at most 0.5
    found = decide("all_at_most", data, bound=1.0)
    assert (found.verdict, found.ours, found.ci_low, found.ci_high, found.n) == ("holds", 1.0, 1.0, 1.0, 4)
    assert found.samples == {"seed=0": 0.0, "seed=1": 1.0}
    assert decide("all_at_least", data, bound=0.0).verdict == "holds"
    assert decide("all_at_least", data, bound=1e-300).verdict == "violated"


def test_bounds_are_met_exactly():
    data = rows([0.1 + 0.2])
    assert decide("all_at_most", data, bound=0.3).verdict == "violated"
    assert decide("all_equal", data, value=0.3).verdict == "violated"
    assert decide("all_equal", data, value=0.3, rtol=1e-15).verdict == "holds"
    assert decide("all_equal", data, value=0.3, atol=1e-15).verdict == "holds"


def test_all_equal_reports_the_farthest():
    found = decide("all_equal", rows([2.0, 2.5, 1.8]), value=2.0, atol=0.1)
    assert (found.verdict, found.ours) == ("violated", 2.5)


def test_the_worst_group_of_an_exact_test_is_the_nearest_to_its_bound():
    data = rows([-100.0, 5.0, 2.0], k=[1, 2, 3])
    assert decide("all_at_most", data, bound=10, per=["k"]).ours == 5.0
    assert decide("all_at_most", data, bound=1, per=["k"]).ours == 5.0
    assert decide("all_at_least", data, bound=-1000, per=["k"]).ours == -100.0


def test_every_generic_test_is_documented_by_name():
    for name, test in CLAIM_TESTS.items():
        if "." not in name:
            assert test.function.__doc__, name
            assert getattr(claims, name) is test.function
