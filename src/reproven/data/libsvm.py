"""Two-class sets in the sparse text format of LIBSVM: ``label index:value ...`` a line, indices from 1."""

from __future__ import annotations

import datasets
import numpy as np

from reproven.data import provider
from reproven.data.tables import _table


def libsvm(name: str) -> datasets.Dataset:
    """One set in LIBSVM's format, by the name of its card; entries that a line leaves out are 0.

    Classes are the distinct labels in numeric order. Raises ValueError on a file that does not parse or
    holds no number in some column.
    """
    path = provider.locate(name)
    labels, rows = [], []
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            label, *cells = line.split()
            labels.append(float(label))
            pairs = [cell.split(":") for cell in cells]
            rows.append({int(index): float(value) for index, value in pairs})
        except ValueError:
            raise ValueError(f"{path} line {number} is not in LIBSVM's format: {line[:60]!r}") from None
    width = max((max(row, default=0) for row in rows), default=0)
    if width == 0 or min(min(row, default=1) for row in rows) < 1:
        raise ValueError(f"{path} holds no features, or an index below 1")
    x = np.zeros((len(rows), width))
    for i, row in enumerate(rows):
        x[i, [index - 1 for index in row]] = list(row.values())
    classes = sorted(set(labels))
    y = np.array([classes.index(label) for label in labels])
    return _table(x, y, [f"{label:g}" for label in classes], [f"x{j + 1}" for j in range(width)])
