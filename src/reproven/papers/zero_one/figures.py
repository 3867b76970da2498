"""Figures of this paper's measurements. Each takes the rows of one experiment at one tier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from reproven.harness.intervals import mean_interval, proportion_interval
from reproven.papers.zero_one.released import GRAPHS, released_counts

LEVEL = 0.95
MARKERS = "os^Dvx*P"
LINES = ("-", "--", ":", "-.")


def proportion_curves(data: pd.DataFrame) -> Figure:
    """Share of graphs in class 1 against size: ten models with Wilson bands, the released curves in grey."""
    rows = data[data["metric"] == "proportion"]
    cells = list(_cells(rows, ["method", "depth"]))
    figure, axes = _grid(len(cells), columns=3)
    for axis, ((method, depth), cell) in zip(axes, cells, strict=False):
        for _, curve in _released(method, depth, cell).groupby(["source", "model"]):
            axis.plot(curve["n"], curve["proportion"], color="0.75", lw=0.8, zorder=1)
        first = cell[cell["model"] < 10].groupby(["model", "n"])["value"].mean().unstack(0)
        for k, model in enumerate(first):
            p = first[model].dropna()
            bands = [proportion_interval(round(v * GRAPHS), GRAPHS, LEVEL) for v in p]
            low, high = zip(*bands, strict=True)
            axis.fill_between(p.index, low, high, color="C0", alpha=0.06, lw=0)
            axis.plot(p.index, p, color="C0", lw=1, ls=LINES[k % 4], marker=MARKERS[k % 8], ms=3)
        axis.set(xscale="log", title=f"{method}, T = {depth}", ylim=(-0.03, 1.03))
    _label(axes, "nodes n", "share of graphs in class 1")
    figure.suptitle(
        f"ten models, Wilson {LEVEL:.0%} bands of {GRAPHS} graphs; grey: released curves", fontsize=9
    )
    return figure


def minority_against_size(data: pd.DataFrame, released: bool = True) -> Figure:
    """Mean minority fraction over models against size, one panel a setting.

    released: show released values as crosses. They are of the released depth rule, where T = 1 has two layers, and do
    not belong beside networks of true depth.
    """
    rows = data[data["metric"] == "minority_fraction"]
    cells = list(_cells(rows, ["method", "family", "features"]))
    figure, axes = _grid(len(cells), columns=3)
    for axis, ((method, family, features), cell) in zip(axes, cells, strict=False):
        for depth, curve in cell.groupby("depth"):
            k = int(depth) - 1  # one look for each depth, whichever of them a panel has
            x, mean, low, high = _mean_band(curve, "model")
            shade: Any = {"color": str(0.55 * min(k, 2) / 2)}
            axis.plot(x, mean, ls=LINES[k % 4], marker=MARKERS[k % 8], ms=4, label=f"T = {depth:g}", **shade)
            if len(x) == 1:  # a band of one size has no width
                axis.vlines(x, np.maximum(low, 0), high, **shade)
            axis.fill_between(x, np.maximum(low, 0), high, alpha=0.12, lw=0, **shade)
            if not released:
                continue
            mean_released = (
                _released(method, depth, curve).groupby(["source", "n"])["minority_fraction"].mean()
            )
            for _, line in mean_released.groupby(level="source"):
                axis.plot(
                    line.index.get_level_values("n"), line, ls="none", marker="+xv"[k % 3], ms=7, **shade
                )
        axis.set(xscale="log", title=_title(method, family, features), ylim=(0, None))
        axis.legend(fontsize=7, frameon=False)
    _label(axes, "nodes n", "mean minority fraction")
    crosses = "; + x v: released, T = 1 2 3" if released else ", true depth"
    figure.suptitle(f"bands: {LEVEL:.0%} of the mean over models{crosses}", fontsize=9)
    return figure


def minority_law(data: pd.DataFrame) -> Figure:
    """Mean minority fraction over many models, log-log, with a guide of slope -1/2."""
    rows = data[data["metric"] == "minority_fraction"]
    figure, axes = _grid(1)
    for k, (depth, curve) in enumerate(rows.groupby("depth")):
        x, mean, low, high = _mean_band(curve, "model")
        error = np.clip([mean - low, high - mean], 0, mean * 0.99)
        axes[0].errorbar(
            x, mean, error, color="k", ls=LINES[k % 4], marker=MARKERS[k % 8], label=f"T = {depth:g}"
        )
        axes[0].plot(
            x, mean[0] * np.sqrt(x[0] / x), color="0.6", lw=1, label="slope -1/2" if k == 0 else None
        )
    axes[0].set(xscale="log", yscale="log")
    axes[0].legend(frameon=False)
    _label(axes, "nodes n", "mean minority fraction")
    figure.suptitle(f"bars: {LEVEL:.0%} of the mean over models", fontsize=9)
    return figure


def concentration_slopes(data: pd.DataFrame) -> Figure:
    """Deviation from the limit against size: largest over nodes, and of the pooled state; guides of slope -1/2."""
    figure, axes = _grid(2, columns=2)
    panels = (
        ("node_deviation_scaled", "largest over nodes / sqrt(log n)"),
        ("pooled_deviation", "pooled state"),
    )
    for axis, (metric, title) in zip(axes, panels, strict=True):
        cells = _cells(data[data["metric"] == metric], ["method", "depth"])
        for k, ((method, depth), cell) in enumerate(cells):
            x, mean, low, high = _mean_band(cell, "graph")
            style: Any = {"color": f"C{k // 2}", "ls": LINES[k % 2], "marker": MARKERS[k % 8], "ms": 4}
            axis.plot(x, mean, label=f"{method}, T = {depth:g}", **style)
            axis.fill_between(x, np.maximum(low, 1e-9), high, color=f"C{k // 2}", alpha=0.15, lw=0)
        axis.plot(x, 0.5 * np.sqrt(x[0] / x), color="0.6", lw=1, label="slope -1/2")
        axis.set(xscale="log", yscale="log", title=title)
    axes[-1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _label(axes, "nodes n", "relative deviation from the limit")
    figure.suptitle(f"bands: {LEVEL:.0%} of the mean over graphs", fontsize=9)
    return figure


def property_curves(data: pd.DataFrame) -> Figure:
    """Share of graphs with each property against size, with Wilson intervals."""
    figure, axes = _grid(1)
    for k, ((name,), cell) in enumerate(_cells(data[data["metric"] == "holds"], ["property"])):
        table = cell.groupby("n")["value"].agg(["sum", "count"])
        share = (table["sum"] / table["count"]).to_numpy()
        bands = [proportion_interval(int(s), int(c), LEVEL) for s, c in table.to_numpy()]
        error = np.abs(np.array(bands).T - share)
        axes[0].errorbar(
            table.index, share, error, marker=MARKERS[k], ls=LINES[k % 4], label=name.replace("_", " ")
        )
    axes[0].set(xscale="log", ylim=(-0.03, 1.03))
    axes[0].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _label(axes, "nodes n", "share of graphs")
    figure.suptitle(f"properties of G(n, 1/2); bars: Wilson {LEVEL:.0%}", fontsize=9)
    return figure


def collapse(data: pd.DataFrame) -> Figure:
    """Measured against predicted probability of class 1, for both laws; one mark a model and size."""
    keys = ["method", "depth", "n", "model", "seed"]
    measured = data[data["metric"] == "proportion"].set_index(keys)["value"].rename("measured")
    predicted = data[data["metric"] == "predicted_probability"]
    cells = list(_cells(predicted, ["law", "method"]))
    figure, axes = _grid(len(cells), columns=2)
    for axis, ((law, method), cell) in zip(axes, cells, strict=False):
        table = cell.set_index(keys)[["value"]].join(measured)
        sizes = table.index.get_level_values("n")
        for k, n in enumerate(sorted(set(sizes))):
            part = table[sizes == n]
            shade = str(0.75 - 0.75 * k / max(1, len(set(sizes)) - 1))
            axis.plot(
                part["value"],
                part["measured"],
                ls="none",
                marker=MARKERS[k % 8],
                ms=4,
                color=shade,
                label=f"{n:g}",
            )
        axis.plot([0, 1], [0, 1], color="0.5", lw=0.8)
        axis.set(title=f"{method}: {law} law")
    axes[0].legend(fontsize=7, frameon=False, title="nodes n")
    _label(axes, "predicted probability of class 1", "measured share of graphs")
    return figure


def decision_sizes(data: pd.DataFrame) -> Figure:
    """Curves of all models against m sqrt(n) / s: they collapse on the normal distribution function."""
    keys = ["method", "depth", "n", "model", "seed"]
    scaled = data[data["metric"] == "scaled_size"].set_index(keys)["value"].rename("scaled")
    cells = list(_cells(data[data["metric"] == "proportion"], ["method", "depth"]))
    figure, axes = _grid(len(cells), columns=2)
    grid = np.linspace(-4, 4, 200)
    for axis, ((method, depth), cell) in zip(axes, cells, strict=False):
        table = cell.set_index(keys)[["value"]].join(scaled)
        sizes = table.index.get_level_values("n")
        for k, n in enumerate(sorted(set(sizes))):
            part = table[sizes == n]
            shade = str(0.75 - 0.75 * k / max(1, len(set(sizes)) - 1))
            axis.plot(
                part["scaled"],
                part["value"],
                ls="none",
                marker=MARKERS[k % 8],
                ms=4,
                color=shade,
                label=f"{n:g}",
            )
        axis.plot(grid, norm.cdf(grid), color="C0", lw=1, label="normal law")
        axis.set(title=f"{method}, T = {depth:g}", xlim=(-4, 4))
    axes[0].legend(fontsize=7, frameon=False, title="nodes n")
    _label(axes, "m sqrt(n) / s", "share of graphs in class 1")
    return figure


def constant_spread(data: pd.DataFrame) -> Figure:
    """Standard deviation of class probabilities over graphs against size, one panel a family."""
    cells = list(_cells(data[data["metric"] == "group_sd"], ["family"]))
    figure, axes = _grid(len(cells), columns=3)
    for axis, ((family,), cell) in zip(axes, cells, strict=False):
        for k, (method, curve) in enumerate(cell.groupby("method")):
            x, mean, low, high = _mean_band(curve, "group")
            axis.plot(x, mean, color=f"C{k}", ls=LINES[k % 4], marker=MARKERS[k], ms=4, label=method)
            axis.fill_between(x, np.maximum(low, mean * 0.05), high, color=f"C{k}", alpha=0.15, lw=0)
        axis.plot(x, mean.max() * 2 * np.sqrt(x[0] / x), color="0.6", lw=1, label="slope -1/2")
        axis.set(xscale="log", yscale="log", title=family)
    axes[0].legend(fontsize=7, frameon=False)
    _label(axes, "nodes n", "sd of class probabilities")
    figure.suptitle(f"bands: {LEVEL:.0%} of the mean over groups of graphs", fontsize=9)
    return figure


def constant_probabilities(data: pd.DataFrame) -> Figure:
    """Class probabilities of the first model against size, bars of one standard deviation over graphs."""
    rows = data[data["metric"].isin(["class_mean", "class_sd"]) & (data["model"] == 0)]
    cells = list(_cells(rows, ["method", "family"]))
    families, methods = sorted({c[0][1] for c in cells}), sorted({c[0][0] for c in cells})
    figure, grid = plt.subplots(
        len(methods),
        len(families),
        figsize=(2.3 * len(families), 1.9 * len(methods)),
        squeeze=False,
        sharex=True,
    )
    for (method, family), cell in cells:
        axis = grid[methods.index(method), families.index(family)]
        table = cell.pivot_table(index=["label", "n"], columns="metric", values="value")
        for k, (_, curve) in enumerate(table.groupby(level="label")):
            n = curve.index.get_level_values("n")
            axis.errorbar(
                n,
                curve["class_mean"],
                curve["class_sd"],
                color=str(0.15 * k),
                ls=LINES[k % 4],
                marker=MARKERS[k],
                ms=3,
            )
        axis.set_xscale("log")
        axis.set_title(f"{method}\n{family}", fontsize=7)
        axis.tick_params(labelsize=6)
    _label(list(grid.flat), "nodes n", "probability")
    figure.tight_layout()
    return figure


def _cells(rows: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple, pd.DataFrame]]:
    yield from rows.groupby(keys, sort=True)


def _grid(count: int, columns: int = 1) -> tuple[Figure, list[Axes]]:
    columns = min(columns, max(count, 1))
    rows = -(-max(count, 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for spare in axes.flat[count:]:
        spare.set_visible(False)
    return figure, list(axes.flat[: max(count, 1)])


def _label(axes: list[Axes], x: str, y: str) -> None:
    for axis in axes:
        spec = axis.get_subplotspec()
        if spec is None or spec.is_last_row() or len(axes) < 4:
            axis.set_xlabel(x)
        if spec is None or spec.is_first_col():
            axis.set_ylabel(y)


def _mean_band(rows: pd.DataFrame, sample: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return sizes, means, and the ends of the mean's interval over (sample, seed)."""
    table = rows.groupby(["n", sample, "seed"])["value"].mean().groupby(level="n")
    means = table.mean()
    ends = np.array([mean_interval(values.to_numpy(), LEVEL) for _, values in table])
    ends[~np.isfinite(ends)] = np.nan
    return means.index.to_numpy(dtype=float), means.to_numpy(), ends[:, 0], ends[:, 1]


def _released(method: str, depth: float, cell: pd.DataFrame) -> pd.DataFrame:
    """Return the released counts of the setting that `cell` measured; none for other settings."""
    table = released_counts()
    keep = (table["method"] == method) & (table["depth"] == depth)
    for coordinate in ("family", "features"):
        keep &= table[coordinate].isin(cell[coordinate].unique())
    return table[keep]


def _title(method: str, family: str, features: str) -> str:
    extra = [w for w in (family, features) if w not in ("er_half", "uniform")]
    return ", ".join([method, *extra])
