"""The counts that the authors released beside their code, for overlays and for checking what was printed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

GRAPHS = 32  # behind every released count


@cache
def released_counts() -> pd.DataFrame:
    """Return one row a released cell and model: method, depth, family, features, n, source, model, count (of 32).

    Facts read from result files, notebook outputs and script results of the official repository.
    """
    table = pd.read_csv(Path(__file__).with_name("released.csv"))
    table["count"] = table.pop("counts").str.split()
    table = table.explode("count", ignore_index=True)
    table["count"] = table["count"].astype(int)
    cell = ["method", "depth", "family", "features", "n", "source"]
    table["model"] = table.groupby(cell, sort=False).cumcount()
    table["proportion"] = table["count"] / GRAPHS
    table["minority_fraction"] = table["proportion"].clip(upper=1 - table["proportion"])
    return table
