"""Every generic claim test answers the same questions."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from reproven.harness.claims import CLAIM_TESTS
from reproven.harness.decision import CLAIM_VERDICTS
from reproven.harness.targets import Target
from reproven.harness.verdicts import decide

A_TO_B = {"axis": "method", "a": "a", "b": "b"}
B_TO_A = {"axis": "method", "a": "b", "b": "a"}
# Name -> parameters under which the data of `measurements` hold, and under which they are violated.
CASES = {
    "mean_at_most": ({"bound": 9.0}, {"bound": -9.0}),
    "mean_at_least": ({"bound": -9.0}, {"bound": 9.0}),
    "mean_within": ({"low": -9.0, "high": 9.0}, {"low": 8.0, "high": 9.0}),
    "proportion_at_most": ({"bound": 0.95}, {"bound": 0.01}),
    "proportion_at_least": ({"bound": 0.05}, {"bound": 0.999}),
    "difference_at_most": ({"bound": -0.5, **A_TO_B}, {"bound": -9.0, **A_TO_B}),
    "difference_at_least": ({"bound": 0.5, **B_TO_A}, {"bound": 9.0, **B_TO_A}),
    "ratio_at_most": ({"bound": 0.5, **A_TO_B}, {"bound": 0.01, **A_TO_B}),
    "ratio_at_least": ({"bound": 2.0, **B_TO_A}, {"bound": 99.0, **B_TO_A}),
    "ordering": (
        {"axis": "method", "order": ["a", "b"], "strict": True},
        {"axis": "method", "order": ["b", "a"]},
    ),
    "slope_within": ({"x": "n", "low": 0.2, "high": 2.0}, {"x": "n", "high": -0.5}),
    "all_at_most": ({"bound": 9.0}, {"bound": 0.1}),
    "all_at_least": ({"bound": 0.0}, {"bound": 9.0}),
    "all_equal": ({"value": 1.0, "atol": 9.0}, {"value": 99.0}),
}
STATISTICAL = [n for n in CASES if not n.startswith("all_")]
PROPORTIONS = ("proportion_at_most", "proportion_at_least")


def measurements(name, seeds=12):
    """Two methods, b above a by about one, growing with n; zeros and ones for shares."""
    rng = np.random.default_rng(0)
    table = [
        {"seed": seed, "method": method, "n": n, "value": n / 10 + (method == "b") + 0.1 * rng.random()}
        for seed in range(seeds)
        for method in "ab"
        for n in (1.0, 10.0)
    ]
    data = pd.DataFrame(table)
    if name in PROPORTIONS:
        data["value"] = data["seed"] % 2.0
    if name != "slope_within":
        data = data[data["n"] == 1.0].reset_index(drop=True)
    shared = {"run": "r", "experiment": "p/e", "paper": "p", "tier": "cpu", "hardware": "cpu", "dataset": ""}
    return data.assign(**shared, metric="m", unit="", direction="")


def verdict(name, params, data, samples=("seed",)):
    target = Target(
        id="t", experiment="p/e", paper="p", source="s", metric=("m",), kind="claim", test=name, params=params,
        samples=samples,
    )  # fmt: skip
    (row,) = decide([target], data, tier="cpu", hardware="cpu", absent={})
    return row


every = pytest.mark.parametrize("name", CASES)
statistical = pytest.mark.parametrize("name", STATISTICAL)


def test_no_generic_test_is_left_out():
    assert set(CASES) == {n for n in CLAIM_TESTS if "." not in n}
    assert set(STATISTICAL) == {n for n in CASES if not CLAIM_TESTS[n].exact}


@every
def test_it_tells_the_true_from_the_false(name):
    holds, violated = (verdict(name, params, measurements(name)) for params in CASES[name])
    assert (holds.verdict, violated.verdict) == ("holds", "violated"), (holds.reason, violated.reason)
    for row in (holds, violated):
        assert row.ci_low <= row.ours <= row.ci_high
        assert math.isfinite(row.ours)
        assert row.n > 0
        assert row.reason
        assert len(row.samples) == 12


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes(name, bad):
    data = measurements(name)
    data.loc[3, "value"] = bad
    assert verdict(name, CASES[name][0], data).verdict == "failed"


@every
def test_the_order_of_rows_does_not_count(name):
    data = measurements(name)
    for params in CASES[name]:
        one = verdict(name, params, data)
        other = verdict(name, params, data.sample(frac=1, random_state=1))
        assert (one.verdict, one.n) == (other.verdict, other.n)
        assert (one.ours, one.ci_low, one.ci_high) == pytest.approx(
            (other.ours, other.ci_low, other.ci_high), rel=1e-12
        )
        assert one.samples == pytest.approx(other.samples, rel=1e-12)


@every
def test_a_group_of_all_is_no_group(name):
    data = measurements(name).assign(k=5.0)
    for params in CASES[name]:
        plain, grouped = verdict(name, params, data), verdict(name, {**params, "per": ["k"]}, data)
        assert (plain.verdict, plain.ours, plain.ci_low) == (grouped.verdict, grouped.ours, grouped.ci_low)
        assert {f"k=5,{key}" for key in plain.samples} == set(grouped.samples)


def spoiled(name, data):
    """Return data that violate what `measurements` holds."""
    if name in PROPORTIONS:  # twenty times as many, all on the wrong side
        more = [data.assign(seed=data["seed"] + 12 * i) for i in range(20)]
        return pd.concat(more).assign(value=1.0 if name == "proportion_at_most" else 0.0)
    if name == "slope_within":
        return data.assign(n=data["n"].map({1.0: 10.0, 10.0: 1.0}))
    if "axis" in CASES[name][0]:
        return data.assign(method=data["method"].map({"a": "b", "b": "a"}))
    return data.assign(value=data["value"] + (-99.0 if name.endswith("at_least") else 99.0))


@every
def test_one_violated_group_is_enough(name):
    params = {**CASES[name][0], "per": ["k"]}
    data = measurements(name)
    both = pd.concat([data.assign(k=1), spoiled(name, data).assign(k=2), data.assign(k=3)], ignore_index=True)
    row = verdict(name, params, both)
    assert row.verdict == "violated", row.reason
    assert "k=2" in row.reason
    assert "the worst of 3" in row.reason
    assert verdict(name, params, both[both["k"] != 2]).verdict == "holds"


@pytest.mark.parametrize("name", [n for n in STATISTICAL if n not in PROPORTIONS])
def test_one_sample_decides_nothing(name):
    for params in CASES[name]:
        row = verdict(name, params, measurements(name, seeds=1))
        assert row.verdict == "inconclusive", row.reason


@pytest.mark.parametrize("name", PROPORTIONS)
def test_one_outcome_is_not_enough(name):
    for bound in (0.3, 0.5, 0.7):
        assert verdict(name, {"bound": bound}, measurements(name, seeds=1)).verdict == "inconclusive"


@statistical
def test_more_confidence_decides_less(name):
    """At the level of a thousand claims the interval contains the one of a single claim."""
    data = measurements(name)
    target = Target(
        id="t", experiment="p/e", paper="p", source="s", metric=("m",), kind="claim", test=name,
        params=CASES[name][0],
    )  # fmt: skip
    (alone,) = decide([target], data, tier="cpu", hardware="cpu", absent={})
    crowd = [target] * 50
    together = decide(crowd, data, tier="cpu", hardware="cpu", absent={})[0]
    assert together.ci_low <= alone.ci_low <= alone.ci_high <= together.ci_high
    assert together.ci_high - together.ci_low > alone.ci_high - alone.ci_low


@every
def test_an_unknown_group_is_told(name):
    row = verdict(name, {**CASES[name][0], "per": ["methd"]}, measurements(name))
    assert row.verdict == "failed"
    assert "no coordinate 'methd' (did you mean 'method'?)" in row.reason


@statistical
def test_an_unknown_sample_axis_is_told(name):
    row = verdict(name, CASES[name][0], measurements(name), samples=("seeds",))
    assert row.verdict == "failed"
    assert "no coordinate 'seeds' (did you mean 'seed'?)" in row.reason


@every
def test_its_verdict_is_one_of_the_three(name):
    rng = np.random.default_rng(2)
    for _ in range(5):
        data = measurements(name)
        if name not in PROPORTIONS:
            data["value"] = rng.gamma(1.0, size=len(data))
        for params in CASES[name]:
            assert verdict(name, params, data).verdict in CLAIM_VERDICTS
