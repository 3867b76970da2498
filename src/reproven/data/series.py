"""Time series as arrays with a mask: values (float64) and which time points were observed (bool).

Values outside the mask are 0, never NaN. Series of unequal length are padded at the end.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reproven.data import provider
from reproven.data.split import TrainTest


@dataclass(frozen=True)
class SeriesSet:
    """Labelled series for classification.

    values: float64, (n, channels, length); 0 where the mask is False.
    mask: bool, (n, length); True where a time point was observed.
    targets: int64, (n,), indices into `classes`.
    """

    values: np.ndarray
    mask: np.ndarray
    targets: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class AnomalySeries:
    """One long series with marked anomalies.

    values: float64, (channels, length); 0 where the mask is False.
    mask: bool, (length,).
    anomaly: bool, (length,); True inside an anomaly.
    channels: names of the channels.
    n_train: the first `n_train` points are published as the training part (0: there is none).
    """

    values: np.ndarray
    mask: np.ndarray
    anomaly: np.ndarray
    channels: list[str]
    n_train: int

    def __len__(self) -> int:
        return self.values.shape[-1]


def archive(name: str) -> TrainTest[SeriesSet]:
    """A set of the UCR/UEA archive by the name of its card, in its official training and test part.

    Both parts are padded to the length of the longest series. Values are as published (most univariate sets
    are z-normalised series by series).
    """
    train, test = provider.locate_all(name)
    read = _ts_file if train.suffix == ".ts" else _text_file
    parts = read(train), read(test)
    classes = _ordered({label for _, labels in parts for label in labels})
    length = max(one.shape[1] for series, _ in parts for one in series)
    return TrainTest(*(_padded(series, labels, classes, length) for series, labels in parts))


def daphnet() -> AnomalySeries:
    """Daphnet freezing of gait, subject 6, run 2: 9 accelerometer channels at 64 Hz.

    The published excerpt marks no time point as an anomaly: a null series, good for false alarms alone.
    """
    return _anomalies(provider.locate("daphnet"))


def kdd_tsad_135() -> AnomalySeries:
    """Series 135 of the UCR anomaly archive (internal bleeding 16); its training part has no anomaly."""
    train, whole = (_anomalies(path) for path in provider.locate_all("kdd_tsad_135"))
    if not np.array_equal(train.values, whole.values[:, : len(train)]):
        raise ValueError("the training part of kdd_tsad_135 is not the beginning of its series")
    return dataclasses.replace(whole, n_train=len(train))


def _ts_file(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Rows ``channel:channel:...:label`` after ``@data``, values by commas, ``?`` or NaN if missing."""
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.strip().lower() == "@data":
            break
    else:
        raise ValueError(f"{path} has no line @data")
    series, labels = [], []
    for line in lines:
        if not line.strip():
            continue
        *channels, label = line.strip().split(":")
        rows = [np.array(channel.replace("?", "nan").split(","), dtype=np.float64) for channel in channels]
        series.append(np.stack(rows))
        labels.append(label)
    return series, labels


def _text_file(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Rows of numbers divided by blanks, the class first."""
    rows = np.loadtxt(path, dtype=np.float64, ndmin=2)
    return [row[None, 1:] for row in rows], [f"{row[0]:g}" for row in rows]


def _padded(
    series: Sequence[np.ndarray], labels: Sequence[str], classes: list[str], length: int
) -> SeriesSet:
    values = np.zeros((len(series), len(series[0]), length))
    mask = np.zeros((len(series), length), dtype=bool)
    for i, one in enumerate(series):
        values[i, :, : one.shape[1]] = one
        mask[i, : one.shape[1]] = np.isfinite(one).all(axis=0)
    values[np.broadcast_to(~mask[:, None, :], values.shape)] = 0.0
    index = {label: i for i, label in enumerate(classes)}
    return SeriesSet(values, mask, np.array([index[label] for label in labels], dtype=np.int64), classes)


def _anomalies(path: Path) -> AnomalySeries:
    """A table with a header: time stamp first, ``is_anomaly`` last, channels between."""
    with path.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
        rows = np.loadtxt(file, delimiter=",", usecols=range(1, len(header)), ndmin=2)
    values = rows[:, :-1].T
    mask = np.asarray(np.isfinite(values).all(axis=0))
    return AnomalySeries(
        values=np.where(mask, values, 0.0),
        mask=mask,
        anomaly=rows[:, -1] == 1,
        channels=header[1:-1],
        n_train=0,
    )


def _ordered(labels: set[str]) -> list[str]:
    try:
        return sorted(labels, key=float)
    except ValueError:
        return sorted(labels)
