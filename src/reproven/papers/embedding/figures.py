"""Figures of the embedding principle: errors, losses, boundaries, certificates, growth, condensation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Readable without colour: a dash pattern and a grey beside each hue.
STYLES: list[dict[str, Any]] = [
    {"color": "#1b1b1b", "linestyle": "-"},
    {"color": "#c44e00", "linestyle": "--"},
    {"color": "#2a6fb0", "linestyle": "-."},
    {"color": "#7a7a7a", "linestyle": ":"},
]
FLOOR = 1e-17  # errors of exactly zero are drawn here on log axes


def _pick(data: pd.DataFrame, metric: str, **where: Any) -> pd.DataFrame:
    rows = data[data["metric"] == metric]
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    return rows


def _band(ax: Axes, rows: pd.DataFrame, x: str, style: dict[str, Any], label: str) -> None:
    """Draw the median over seeds and the range between the smallest and the largest."""
    if rows.empty:
        return
    grouped = rows.assign(value=rows["value"].clip(lower=FLOOR)).groupby(x)["value"]
    ax.plot(grouped.median(), label=label, linewidth=1.5, **style)
    ax.fill_between(
        grouped.min().index, grouped.min(), grouped.max(), color=style["color"], alpha=0.18, linewidth=0
    )


def _grid(count: int, columns: int = 3, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    fig, axes = plt.subplots(
        rows, min(columns, count), figsize=(4.2 * min(columns, count), height * rows), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    flat = list(axes.flat)
    for ax in flat[count:]:
        ax.set_visible(False)
    return fig, flat[:count]


def _names(data: pd.DataFrame, column: str) -> list[Any]:
    return sorted(data[column].dropna().unique()) if column in data.columns else []


def defects(data: pd.DataFrame) -> Figure:
    """Norm, output and gradient defects of each way to widen, over homogeneous architectures."""
    metrics = ("isometry_error", "output_error", "gradient_error")
    titles = ("norm", "output", "gradient")
    homogeneous = data[data["architecture"].isin(["relu", "leaky", "linear", "bias", "cnn"])]
    methods = list(dict.fromkeys(homogeneous["method"]))
    fig, axes = _grid(3, height=3.4)
    for ax, metric, title in zip(axes, metrics, titles, strict=True):
        for i, method in enumerate(methods):
            values = _pick(homogeneous, metric, method=method)["value"].clip(lower=FLOOR)
            ax.plot([values.min(), values.max()], [i, i], color="#7a7a7a", linewidth=4, solid_capstyle="butt")
            ax.plot(values.median(), i, "o", color="#1b1b1b", markersize=5)
        ax.set(xscale="log", xlabel="relative change", title=title, xlim=(FLOOR / 2, 30))
        ax.set_yticks(range(len(methods)), methods if ax is axes[0] else [""] * len(methods))
        ax.invert_yaxis()
        ax.grid(axis="x", alpha=0.3)
    fig.suptitle("Change by widening: median (dot) and range (bar) over networks, units and trials")
    return fig


def table_1_errors(data: pd.DataFrame) -> Figure:
    """Trajectory error of each row of Table 1 by step; Exp. 5 with the growth that sigma_max(V) predicts."""
    rows = _pick(data, "error_window")
    fig, axes = _grid(len(_names(rows, "exp")))
    for ax, exp in zip(axes, _names(rows, "exp"), strict=True):
        for style, c in zip(STYLES, _names(rows, "coefficients"), strict=False):
            _band(ax, _pick(rows, "error_window", exp=exp, coefficients=c), "step", style, f"c {c}")
        rates = _pick(data, "sigma_max", exp=exp, coefficients="random", seed=0)
        if len(rates):
            _predicted(ax, rates, _pick(data, "error", exp=exp, coefficients="random", seed=0), "step")
        ax.set(xscale="log", yscale="log", xlabel="step", ylabel=r"$\|\eta - T\theta\|_2$", title=exp)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    fig.suptitle("Largest trajectory error since the last record: median and range over five seeds")
    return fig


def _predicted(ax: Axes, rates: pd.DataFrame, errors: pd.DataFrame, x: str, anchor: float = 1e-13) -> None:
    """Draw ``e_0 exp(int sigma_max dt)`` from where the error first exceeds `anchor`, over its next decades."""
    rates, errors = rates.sort_values(x), errors.sort_values(x)
    above = np.nonzero(errors["value"].to_numpy() > anchor)[0]
    if not len(above):
        return
    start, time = above[0], rates["time"].to_numpy()
    sigma = rates["value"].to_numpy()
    steps = np.diff(time[start:]) * (sigma[start + 1 :] + sigma[start:-1]) / 2
    growth = np.concatenate([[0.0], np.cumsum(steps)])
    use = growth < np.log(1e10)
    predicted = errors["value"].to_numpy()[start] * np.exp(growth[use])
    label = r"predicted $\exp\int\sigma_{\max}(V)\,dt$"
    ax.plot(
        rates[x].to_numpy()[start:][use], predicted, color="#2a6fb0", linestyle=":", linewidth=2, label=label
    )


def table_1_losses(data: pd.DataFrame) -> Figure:
    """Loss of both networks at the released seed: two lines that lie on each other, but for Exp. 4."""
    rows = data[(data["seed"] == 0) & (data["coefficients"] == "uniform")]
    names = _names(_pick(rows, "loss_narrow"), "exp")
    fig, axes = _grid(len(names))
    for ax, exp in zip(axes, names, strict=True):
        for style, side, width in zip(STYLES, ("narrow", "wide"), (3.0, 1.2), strict=False):
            curve = _pick(rows, f"loss_{side}", exp=exp).sort_values("step")
            ax.plot(curve["step"], curve["value"], label=side, linewidth=width, **style)
        ax.set(
            xscale="log", yscale="log", xlabel="step", ylabel="mean exponential loss of the batch", title=exp
        )
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    fig.suptitle("Loss pairs, released seed (one run, so no interval)")
    return fig


def decision_boundaries(data: pd.DataFrame) -> Figure:
    """Decision boundaries of both networks in the plane of the data: rays, as the networks are homogeneous."""
    rows = _pick(data, "output_on_circle", seed=0)
    names = _names(rows, "exp")
    fig, axes = _grid(len(names), height=3.8)
    for ax, exp in zip(axes, names, strict=True):
        points = _pick(data, "label", exp=exp, seed=0)
        for label, marker, grey in ((1, "o", "#1b1b1b"), (-1, "x", "#7a7a7a")):
            mine = points[points["value"] == label]
            ax.scatter(
                mine["x0"],
                mine["x1"],
                marker=marker,
                s=14,
                color=grey,
                linewidths=0.9,
                label=f"y = {label:+d}",
            )
        reach = 1.15 * float(points[["x0", "x1"]].abs().to_numpy().max())
        for style, side, width in zip(STYLES, ("narrow", "wide"), (4.0, 1.8), strict=False):
            curve = rows[(rows["exp"] == exp) & (rows["side"] == side)].sort_values("angle")
            angle, values = curve["angle"].to_numpy(), curve["value"].to_numpy()
            for n, i in enumerate(np.nonzero(np.diff(np.sign(values)))[0]):
                share = values[i] / (values[i] - values[i + 1])
                at = angle[i] + share * (angle[i + 1] - angle[i])
                line = [0, 2 * reach * np.cos(at)], [0, 2 * reach * np.sin(at)]
                ax.plot(*line, label=f"boundary, {side}" if n == 0 else None, linewidth=width, **style)
        ax.set(
            xlabel="first feature",
            ylabel="second feature",
            title=exp,
            xlim=(-reach, reach),
            ylim=(-reach, reach),
        )
        ax.set_aspect("equal")
    # Points fill the panels, whose entries are the same: one legend below all of them.
    entries: dict[str, Any] = {}
    for ax in axes:
        entries |= {label: line for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, fontsize=8)
    fig.suptitle("Decision boundaries after training, released seed")
    return fig


def table_2_errors(data: pd.DataFrame) -> Figure:
    """Trajectory error on two digits by step, with a random walk's slope."""
    return _table_2(data, "error_window", r"$\|\eta - T\theta\|_2$", walk=True)


def table_2_losses(data: pd.DataFrame) -> Figure:
    """Full-batch loss of both networks on two digits by step."""
    return _table_2(data, ("full_loss_narrow", "full_loss_wide"), "mean exponential loss, training set")


def _table_2(data: pd.DataFrame, metrics: str | Sequence[str], ylabel: str, walk: bool = False) -> Figure:
    names = _names(_pick(data, "error_window"), "model")
    fig, axes = _grid(len(names), height=3.2)
    for ax, model in zip(axes, names, strict=True):
        for style, metric in zip(STYLES, [metrics] if isinstance(metrics, str) else metrics, strict=False):
            rows = _pick(data, metric, model=model)
            _band(ax, rows, "step", style, metric.removeprefix("full_loss_").removesuffix("_window"))
        if walk and len(rows):
            first = rows.groupby("step")["value"].median()
            steps = first.index.to_numpy(dtype=float)
            line = first.iloc[0] * np.sqrt(steps / steps[0])
            ax.plot(steps, line, label="slope 1/2", **STYLES[3])
        ax.set(xscale="log", yscale="log", xlabel="step", ylabel=ylabel, title=model.upper())
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    fig.suptitle("3 against 5: median and range over seeds")
    return fig


def errors_by_method(data: pd.DataFrame) -> Figure:
    """Largest relative trajectory error of each method: dot for the median, bar from smallest to largest seed."""
    rows = _pick(data, "max_relative_error")
    methods = list(dict.fromkeys(rows["method"]))
    fig, ax = plt.subplots(figsize=(6.5, 0.34 * len(methods) + 1.2), layout="constrained")
    for i, method in enumerate(methods):
        values = rows[rows["method"] == method]["value"].clip(lower=FLOOR)
        ax.plot([values.min(), values.max()], [i, i], color="#7a7a7a", linewidth=5, solid_capstyle="butt")
        ax.plot(values.median(), i, "o", color="#1b1b1b")
    ax.axvline(1e-13, label="bar of the claim", **STYLES[1])
    ax.set(
        xscale="log", xlabel=r"largest relative error $\|\eta - T\theta\| / \|T\theta\|$", xlim=(1e-16, 10)
    )
    ax.set_yticks(range(len(methods)), [m.removeprefix("pair_") for m in methods])
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    ax.legend(fontsize=8)
    ax.set_title("Median (dot) and range (bar) over seeds", fontsize=10)
    return fig


def certificates(data: pd.DataFrame) -> Figure:
    """KKT residual, normalised margin and slackness of narrow, wide and independent networks by step."""
    metrics = {
        "residual": "relative KKT residual (Clarke)",
        "normalised_margin": r"normalised margin $q_{\min}/\|\theta\|^2$",
        "slackness": r"$\sum\lambda_k(q_k-1)/\sum\lambda_k$",
    }
    fig, axes = _grid(3, height=3.4)
    for ax, (metric, label) in zip(axes, metrics.items(), strict=True):
        for style, side in zip(STYLES, ("narrow", "wide", "independent"), strict=False):
            _band(ax, _pick(data, metric, side=side), "step", style, side)
        ax.set(xscale="log", xlabel="step", ylabel=label)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    axes[0].set_yscale("log")
    fig.suptitle(
        "KKT certificates late in training: narrow and wide lie on each other (median and range of seeds)"
    )
    return fig


def limit_directions(data: pd.DataFrame) -> Figure:
    """Distance between the directions of T theta and eta by step."""
    fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
    for style, metric, label in zip(
        STYLES,
        ("direction_error", "relative_error"),
        ("of directions", "relative, of parameters"),
        strict=False,
    ):
        _band(ax, _pick(data, metric), "step", style, label)
    ax.axhline(1e-12, label="bar of the claim", **STYLES[3])
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel=r"distance of $\eta$ from $T\theta$")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return fig


def growth(data: pd.DataFrame) -> Figure:
    """Error against time in Exp. 5's data with the predicted exponential, for each precision and split."""
    rows = _pick(data, "error")
    panels = [(p, s) for p in _names(rows, "precision") for s in _names(rows, "split")]
    fig, axes = _grid(len(panels), height=3.2)
    for ax, (precision, split) in zip(axes, panels, strict=True):
        mine = rows[(rows["precision"] == precision) & (rows["split"] == split)]
        for seed in _names(mine, "seed"):
            curve = mine[mine["seed"] == seed].sort_values("time")
            label = "error, one line a seed" if seed == 0 else None
            ax.plot(
                curve["time"], curve["value"].clip(lower=FLOOR), color="#7a7a7a", linewidth=0.9, label=label
            )
        where = {"precision": precision, "split": split, "seed": 0}
        if split != "uniform" and precision == "float64":
            _predicted(ax, _pick(data, "sigma_max", **where), _pick(data, "error", **where), "time")
        ax.set(
            yscale="log", ylim=(1e-16, 30), xlabel=r"time (step size $\times$ steps)",
            ylabel=r"$\|\eta - T\theta\|_2$", title=f"{precision}, c = {split}",
        )  # fmt: skip
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    return fig


def released_growth(data: pd.DataFrame) -> Figure:
    """Error and loss of Exp. 5 in the released arithmetic by step, with the fitted rate of growth."""
    fig, axes = _grid(2, height=3.2)
    error, loss = (_pick(data, m, seed=0).sort_values("step") for m in ("error", "loss_narrow"))
    axes[0].plot(error["step"], error["value"].clip(lower=FLOOR), label="error", **STYLES[0])
    rates = _pick(data, "growth_rate", seed=0)["value"]
    late = error[error["value"] > 1e-12]
    if len(rates) and len(late):
        at, first = 0.001 * late["step"].to_numpy(), late["value"].iloc[0]
        line = first * np.exp(rates.iloc[0] * (at - at[0]))
        axes[0].plot(late["step"], line, label=f"fitted rate {rates.iloc[0]:.3f} per time", **STYLES[1])
    axes[0].set(yscale="log", xlabel="step", ylabel=r"$\|\eta - T\theta\|_2$")
    axes[1].plot(loss["step"], loss["value"], label="narrow", **STYLES[0])
    axes[1].set(xlabel="step", ylabel="mean exponential loss")
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    fig.suptitle("Exp. 5, two autograd passes a step, released seed (one run, so no interval)")
    return fig


def loss_after_escape(data: pd.DataFrame) -> Figure:
    """Loss of narrow and wide networks against time: the wide one starts to use its width after its escape."""
    data = data[data["precision"] == "float64"]
    names = [s for s in _names(data, "split") if s != "uniform"]
    fig, axes = _grid(len(names), height=3.2)
    for ax, split in zip(axes, names, strict=True):
        for style, side in zip(STYLES, ("narrow", "wide"), strict=False):
            _band(ax, _pick(data, f"loss_{side}", split=split), "time", style, side)
        ax.set(
            xlabel=r"time (step size $\times$ steps)", ylabel="mean exponential loss", title=f"c = {split}"
        )
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    return fig


def condensation(data: pd.DataFrame) -> Figure:
    """Relative distance of trained wide networks from the image of k-unit networks, against width."""
    rows = _pick(data, "ray_distance", phase="end")
    scales = _names(rows, "scale")
    fig, axes = _grid(len(scales), height=3.2)
    for ax, scale in zip(axes, scales, strict=True):
        for style, k in zip(STYLES, _names(rows, "rays"), strict=False):
            _band(ax, rows[(rows["scale"] == scale) & (rows["rays"] == k)], "width", style, f"k = {k:g}")
        ax.set(
            xscale="log", yscale="log", ylim=(1e-3, 1.2), xlabel="hidden units of the wide network",
            ylabel="distance / norm", title=f"start scaled by {scale:g}",
        )  # fmt: skip
        widths = _names(rows, "width")
        ax.set_xticks(widths, [f"{w:g}" for w in widths])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    fig.suptitle("Distance from the image of all k-unit networks: median and range over seeds")
    return fig
