"""Tables: the files' own formats, the columns, and arrays without loss."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets

from reproven.data import tables


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_equal_to_those_of_scikit_learn(name):
    table = getattr(tables, name)()
    theirs = getattr(sklearn.datasets, f"load_{name}")()
    x, y = tables.arrays(table)
    assert np.array_equal(x, theirs.data)
    assert np.array_equal(y, theirs.target)
    assert table.features["y"].names == list(theirs.target_names)
    assert len(tables.feature_names(table)) == x.shape[1]


def test_numeric_columns_and_numeric_classes(place):
    place("keel_tiny", {"tiny.dat": b"1.5, 2,10\n-3,4e1,9\n0,0,10\n"})
    table = tables.keel("tiny")
    x, y = tables.arrays(table)
    assert x.tolist() == [[1.5, 2.0], [-3.0, 40.0], [0.0, 0.0]]
    assert table.features["y"].names == ["9", "10"]  # by value, not by letter
    assert y.tolist() == [1, 0, 1]
    assert tables.feature_names(table) == ["x1", "x2"]


def test_nominal_column_becomes_indicators(place):
    place("keel_tiny", {"tiny.dat": b"b,1,yes\na,2,no\nc,3,no\n"})
    table = tables.keel("tiny")
    x, y = tables.arrays(table)
    assert x.tolist() == [[0, 1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]]
    assert tables.feature_names(table) == ["x1=a", "x1=b", "x1=c", "x2"]
    assert [table.features["y"].int2str(int(label)) for label in y] == ["yes", "no", "no"]


def test_missing_values_are_an_error_or_dropped(place):
    place("keel_tiny", {"tiny.dat": b"1,2,a\n<null>,2,b\n3,?,a\n4,5,b\n"})
    with pytest.raises(ValueError, match="2 rows miss values"):
        tables.keel("tiny")
    x, y = tables.arrays(tables.keel("tiny", drop_missing=True))
    assert x.tolist() == [[1, 2], [4, 5]]
    assert y.tolist() == [0, 1]


@pytest.mark.parametrize("content", [b"", b"1,2,a\n3,b\n"])
def test_a_broken_file_is_a_value_error(place, content):
    place("keel_tiny", {"tiny.dat": content})
    with pytest.raises(ValueError, match="tiny"):
        tables.keel("tiny")


def test_arrays_follow_selection_and_lose_nothing(place):
    place("keel_tiny", {"tiny.dat": b"0.1,a\n0.2,b\n0.3,a\n0.4,b\n"})
    table = tables.keel("tiny")
    x, y = tables.arrays(table.select([3, 0]))
    assert x.tolist() == [[0.4], [0.1]]  # equal as float64
    assert y.tolist() == [1, 0]
    assert tables.arrays(table.select(range(1, 3)))[0].tolist() == [[0.2], [0.3]]
    rows = table.with_format("numpy")
    assert np.allclose(rows["x"][:], tables.arrays(table)[0], rtol=1e-6, atol=0)  # that format is float32


def test_header_that_does_not_fit_is_refused(place):
    place("wine", {"wine_data.csv": b"2,13,a,b\n" + b",".join([b"1"] * 13 + [b"0"]) + b"\n"})
    with pytest.raises(ValueError, match="not 2 rows"):
        tables.wine()
