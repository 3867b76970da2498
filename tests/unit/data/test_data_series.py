"""Time series: padding, masks, and the archive's file formats."""

from __future__ import annotations

import numpy as np
import pytest

from reproven.data import series

HEADER = b"# a comment\n@problemName Tiny\n@timeStamps false\n@classLabel true x y\n@data\n"


def test_ts_files_of_unequal_length_and_with_gaps(place):
    train = HEADER + b"1,2,3:4,5,6:10\n7:8:9\n"
    test = HEADER + b"1,?,3,4:5,6,7,NaN:9\n"
    place("tiny", {"Tiny_TRAIN.ts": train, "Tiny_TEST.ts": test})
    data = series.archive("tiny")
    assert data.train.classes == data.test.classes == ["9", "10"]  # by value
    assert data.train.targets.tolist() == [1, 0]
    assert data.train.values.shape == (2, 2, 4)  # both parts share the greatest length
    assert data.train.mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert data.train.values[0].tolist() == [[1, 2, 3, 0], [4, 5, 6, 0]]
    assert data.train.values[1].tolist() == [[7, 0, 0, 0], [8, 0, 0, 0]]
    # a point that misses in one channel is no observation; its other channel is cleared too
    assert data.test.mask.tolist() == [[True, False, True, False]]
    assert data.test.values[0].tolist() == [[1, 0, 3, 0], [5, 0, 7, 0]]
    assert len(data.train) == 2


def test_text_files_have_the_class_first(place):
    place("tiny", {"T_TRAIN.txt": b" 1.0e+00  0.5 0.25\n 0.0 1 2\n", "T_TEST.txt": b"0 3 4\n"})
    data = series.archive("tiny")
    assert data.train.values.tolist() == [[[0.5, 0.25]], [[1, 2]]]
    assert data.train.targets.tolist() == [1, 0]
    assert data.test.values.shape == (1, 1, 2)
    assert data.test.mask.all()


def test_ts_file_without_data_is_refused(place):
    place("tiny", {"T_TRAIN.ts": b"@problemName x\n", "T_TEST.ts": HEADER})
    with pytest.raises(ValueError, match="@data"):
        series.archive("tiny")


TRAIN = b"timestamp,value,is_anomaly\n0,1.5,0\n1,2.5,0\n"


def test_anomaly_series_knows_its_training_part(place):
    place("kdd_tsad_135", {"TRAIN.csv": TRAIN, "TEST.csv": TRAIN + b"2,9,1\n3,2,0\n"})
    data = series.kdd_tsad_135()
    assert data.values.tolist() == [[1.5, 2.5, 9.0, 2.0]]
    assert data.anomaly.tolist() == [False, False, True, False]
    assert data.n_train == 2
    assert data.channels == ["value"]
    assert data.mask.all()
    assert len(data) == 4


def test_training_part_of_another_series_is_refused(place):
    place("kdd_tsad_135", {"TRAIN.csv": TRAIN, "TEST.csv": b"timestamp,value,is_anomaly\n0,7,0\n1,2.5,0\n"})
    with pytest.raises(ValueError, match="beginning"):
        series.kdd_tsad_135()


def test_daphnet_skips_the_time_stamp(place):
    place("daphnet", {"S.csv": b"timestamp,a,b,is_anomaly\n1970-01-01 00:04:40.000,101,-9,0\n1970,1,2,1\n"})
    data = series.daphnet()
    assert data.values.tolist() == [[101, 1], [-9, 2]]
    assert data.anomaly.tolist() == [False, True]
    assert data.channels == ["a", "b"]
    assert np.isfinite(data.values).all()
