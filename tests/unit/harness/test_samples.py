"""Coordinates that are the same, groups, and independent samples."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from reproven.harness.samples import cells, groups, key, need, paired, per_seed, rate_range, same, sampled


@pytest.mark.parametrize(
    ("column", "wanted", "expected"),
    [
        ([5.0, 6.0, np.nan], 5, [True, False, False]),
        ([5, 6], 5.0, [True, False]),
        ([5, 6, 7], [7, 5.0], [True, False, True]),
        (["a", "b", None], "a", [True, False, False]),
        (["a", "b"], ["b", "c"], [False, True]),
        ([True, False], True, [True, False]),
        ([True, False], 1, [False, False]),
        (pd.Series([True, 1, 1.0, "1", None], dtype=object), True, [True, False, False, False, False]),
        (pd.Series([1, True, 1.0, "1", None], dtype=object), 1, [True, False, True, False, False]),
        (pd.Series([0.1 + 0.2, 0.3000001]), 0.3, [True, False]),
        (["5"], 5, [False]),
        ([1, 2], "1", [False, False]),
        ([], 1, []),
    ],
)
def test_same(column, wanted, expected):
    found = same(pd.Series(column), wanted)
    assert found.tolist() == expected
    assert found.index.equals(pd.Series(column).index)


def frame(**columns):
    length = len(columns["value"])
    return pd.DataFrame({"seed": [0] * length, "unit": ["1"] * length, **columns})


def test_sampled_averages_within_a_sample():
    data = frame(value=[1.0, 3.0, 5.0], replicate=[0, 0, 1])
    assert sampled(data, ["replicate"]).tolist() == [2.0, 5.0]


def test_without_axes_there_is_one_sample():
    assert sampled(frame(value=[1.0, 3.0]), []).tolist() == [2.0]


def test_a_gap_in_a_coordinate_is_told():
    data = frame(value=[1.0, 2.0, 3.0], k=[1.0, np.nan, 2.0])
    with pytest.raises(ValueError, match="1 of 3 measurements have no coordinate 'k'"):
        need(data, ["k"])
    with pytest.raises(ValueError, match="have no coordinate 'k'"):
        sampled(data, ["k"])
    with pytest.raises(ValueError, match="have no coordinate 'k'"):
        list(groups(data, ["k"]))
    with pytest.raises(ValueError, match=r"no coordinate 'kk' \(did you mean 'k'\?\)"):
        need(data, ["kk"])


def test_keys_outlive_a_change_of_type():
    assert key(["n", "seed"], (10.0, 3)) == key(["n", "seed"], (10, 3.0)) == "n=10,seed=3"
    assert key(["lr"], 0.5) == "lr=0.5"


def test_groups_are_labelled_and_ordered():
    data = frame(value=[1.0, 2.0, 3.0], k=[20.0, 3.0, 20.0])
    assert [(label, rows["value"].tolist()) for label, rows in groups(data, ["k"])] == [
        ("k=3", [2.0]),
        ("k=20", [1.0, 3.0]),
    ]


def test_pairs_must_be_whole():
    data = frame(value=[1.0, 2.0, 5.0], method=["a", "a", "b"], replicate=[0, 1, 0])
    with pytest.raises(ValueError, match="1 samples are at only one"):
        paired(data, ["replicate"], "method", "a", "b")
    with pytest.raises(ValueError, match="no measurement at method=c"):
        paired(data, ["replicate"], "method", "a", "c")
    found = paired(data[data["replicate"] == 0], ["replicate"], "method", "a", "b")
    assert (found["a"].tolist(), found["b"].tolist()) == ([1.0], [5.0])


def test_per_seed_leaves_out_what_a_seed_does_not_determine():
    data = pd.DataFrame({"seed": [0, 0, 1], "value": [1.0, 3.0, 0.0]})

    def log_mean(rows):
        if rows["value"].mean() <= 0:
            raise ValueError("no logarithm")
        return np.log(rows["value"].mean())

    assert per_seed(data, "k=1", log_mean) == {"k=1,seed=0": pytest.approx(np.log(2.0), abs=1e-12)}
    assert per_seed(data, "") == {"seed=0": 2.0, "seed=1": 0.0}


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("1", [0.0, 1.0], (0.0, 1.0)),
        ("1", [0.0, 1.1], None),
        ("%", [97.7, 100.0], (0.0, 100.0)),
        ("s", [0.5], None),
        ("", [0.5], None),
    ],
)
def test_range_of_a_rate(unit, values, expected):
    assert rate_range(pd.DataFrame({"unit": unit, "value": values})) == expected


def test_cells_agree_with_frames():
    rng = np.random.default_rng(0)
    data = pd.DataFrame(
        [
            {"seed": seed, "method": m, "k": k, "step": step, "unit": "s", "value": rng.normal()}
            for seed in range(3)
            for m in "ba"
            for k in (2.0, 10.0)
            for step in range(4)
        ]
    ).sample(frac=1, random_state=0)
    for (label, group), (name, rows) in zip(
        cells(data, ["k"], ["seed"], "method", ["a", "b"]), groups(data, ["k"]), strict=True
    ):
        assert label == name
        table = paired(rows, ["seed"], "method", "a", "b")
        np.testing.assert_allclose(group.table(), table.to_numpy(), rtol=1e-12)
        assert [s for s, _ in group.by_seed()] == ["seed=0", "seed=1", "seed=2"]
        one = next(iter(group.by_seed()))[1]
        np.testing.assert_allclose(one.table(), table.to_numpy()[:1], rtol=1e-12)


def test_cells_name_what_is_missing():
    data = frame(value=[1.0, 2.0, 5.0], method=["a", "a", "b"], replicate=[0, 1, 0])
    with pytest.raises(ValueError, match="no measurement at method=c"):
        cells(data, [], ["replicate"], "method", ["a", "c"])
    ((_, group),) = cells(data, [], ["replicate"], "method", ["a", "b"])
    with pytest.raises(ValueError, match="1 samples are at only some of a, b"):
        group.table()
    ((_, group), _) = cells(data, ["method"], ["replicate"], "method")
    with pytest.raises(ValueError, match="no measurement at b"):
        group.table()
    assert np.isnan(group.table(ragged=True)).tolist() == [[False, True], [False, True]]
