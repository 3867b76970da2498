"""Tables as Hugging Face data sets: column ``x`` holds a row's features (float64), column ``y`` its class.

Numerical code takes `arrays`: it hands out the columns as they are, where ``with_format("numpy")`` would
round float64 to float32.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from reproven.data import provider

_MISSING = ("<null>", "?", "")


def arrays(table: datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return x, float64 (n, d), and y, int64 (n,), of a table made here; respects selection and shuffling."""
    rows = table.with_format("arrow")[:]
    x = rows.column("x").combine_chunks().flatten()
    return x.to_numpy(zero_copy_only=False).reshape(len(table), -1), rows.column("y").to_numpy()


def feature_names(table: datasets.Dataset) -> list[str]:
    """Names of the features, in the order of column ``x``."""
    return table.info.description.splitlines()


def breast_cancer() -> datasets.Dataset:
    """Breast cancer Wisconsin (diagnostic): 569 rows, 30 features, classes malignant and benign."""
    measures = [
        "radius", "texture", "perimeter", "area", "smoothness",
        "compactness", "concavity", "concave points", "symmetry", "fractal dimension",
    ]  # fmt: skip
    names = [f"{kind} {measure}" for kind in ("mean", "standard error of", "worst") for measure in measures]
    return _counted_header(provider.locate("breast_cancer"), names)


def wine() -> datasets.Dataset:
    """Wine recognition: 178 rows, 13 features, 3 cultivars."""
    names = [
        "alcohol", "malic acid", "ash", "alkalinity of ash", "magnesium", "total phenols", "flavonoids",
        "non-flavonoid phenols", "proanthocyanins", "colour intensity", "hue", "OD280/OD315", "proline",
    ]  # fmt: skip
    return _counted_header(provider.locate("wine"), names)


def keel(name: str, drop_missing: bool = False) -> datasets.Dataset:
    """One data set of the KEEL repository, by the name of its card without ``keel_``.

    Classes are the distinct labels in numeric order where all are numbers, else in alphabetical order.
    A nominal feature (one with a value that is no number) becomes one indicator a value, in alphabetical
    order. The files name no features: they are called x1, x2, ... and x3=value.

    drop_missing: leave out rows with a missing value; otherwise such a row is a `ValueError`.
    """
    path = provider.locate(f"keel_{name}")
    with path.open(newline="", encoding="latin-1") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    if len({len(row) for row in rows}) != 1:
        raise ValueError(f"{path} is empty or its rows differ in length")
    complete = [row for row in rows if not any(cell in _MISSING for cell in row)]
    if len(complete) < len(rows) and not drop_missing:
        raise ValueError(
            f"keel set {name!r}: {len(rows) - len(complete)} rows miss values; pass drop_missing=True"
        )
    columns, names = [], []
    *features, labels = zip(*complete, strict=True)
    for j, column in enumerate(features, start=1):
        try:
            columns.append(np.array(column, dtype=np.float64))
            names.append(f"x{j}")
        except ValueError:
            for value in sorted(set(column)):
                columns.append(np.array([cell == value for cell in column], dtype=np.float64))
                names.append(f"x{j}={value}")
    classes = _ordered(set(labels))
    index = {label: i for i, label in enumerate(classes)}
    return _table(np.column_stack(columns), np.array([index[label] for label in labels]), classes, names)


def _ordered(labels: set[str]) -> list[str]:
    try:
        return sorted(labels, key=float)
    except ValueError:
        return sorted(labels)


def _counted_header(path: Path, names: Sequence[str]) -> datasets.Dataset:
    """A file whose first line is ``rows, features, class names...`` and whose last column is the class."""
    with path.open(newline="", encoding="utf-8") as file:
        n, d, *classes = next(csv.reader(file))
        rows = np.loadtxt(file, delimiter=",", dtype=np.float64)
    if rows.shape != (int(n), int(d) + 1) or len(names) != int(d):
        raise ValueError(f"{path} holds {rows.shape} values, not {n} rows of {d} features and a class")
    return _table(rows[:, :-1], rows[:, -1].astype(np.int64), classes, names)


def _table(x: np.ndarray, y: np.ndarray, classes: Sequence[str], names: Sequence[str]) -> datasets.Dataset:
    x = np.ascontiguousarray(x, dtype=np.float64)
    columns = pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]),
            "y": pa.array(y.astype(np.int64)),
        }
    )
    features = datasets.Features(
        {
            "x": datasets.Sequence(datasets.Value("float64"), length=x.shape[1]),
            "y": datasets.ClassLabel(names=list(classes)),
        }
    )
    info = datasets.DatasetInfo(description="\n".join(names), features=features)
    return datasets.Dataset(columns, info=info)
