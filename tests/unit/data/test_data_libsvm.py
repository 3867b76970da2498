"""LIBSVM's text format: columns, absent entries, classes, and files that are none."""

from __future__ import annotations

import numpy as np
import pytest

from reproven.data import libsvm
from reproven.data.tables import arrays, feature_names


def test_columns_absent_entries_and_classes(place):
    place("tiny", {"tiny": b"-1 1:0.5 3:-2 \n+1 2:1e-1 \n\n-1 \n"})
    table = libsvm.libsvm("tiny")
    x, y = arrays(table)
    np.testing.assert_array_equal(x, [[0.5, 0, -2], [0, 0.1, 0], [0, 0, 0]])
    assert y.tolist() == [0, 1, 0]
    assert table.features["y"].names == ["-1", "1"]
    assert feature_names(table) == ["x1", "x2", "x3"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no features"),
        (b"-1 0:2\n", "below 1"),
        (b"1 1:0.5\nyes 1:2\n", "line 2"),
        (b"1 1;2\n", "line 1"),
    ],
)
def test_a_broken_file_is_a_value_error(place, content, said):
    place("tiny", {"tiny": content})
    with pytest.raises(ValueError, match=said):
        libsvm.libsvm("tiny")
