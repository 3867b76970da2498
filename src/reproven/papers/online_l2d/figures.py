"""Figures of online deferral: regret growth, rolling accuracy, deferral maps, shift, ablations, cost."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from reproven.papers.online_l2d.claims import bootstrap_exponent

SAMPLES = ("seed", "replicate")


def _style(i: int) -> dict[str, object]:
    """Line style, marker and a dark-to-light colour that stay apart in greyscale."""
    dash = ("-", "--", ":", "-.")[i % 4]
    marker = "os^DvPX<>*"[i % 10]
    return {"linestyle": dash, "marker": marker, "color": plt.cm.viridis((i % 7) / 7.5), "markersize": 4}


def _summary(data: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean and 95 % t half-width over the independent samples, per combination of the keys."""
    samples = [c for c in SAMPLES if c in data and data[c].notna().any()]
    per = data.groupby([*keys, *samples], dropna=False).value.mean().reset_index()
    out = per.groupby(list(keys)).value.agg(["mean", "std", "count"]).reset_index()
    half = stats.t.ppf(0.975, np.maximum(out["count"] - 1, 1)) * out["std"] / np.sqrt(out["count"])
    out["half"] = half.where(out["count"] > 1, 0.0).fillna(0.0)
    return out


def regret_growth(data: pd.DataFrame) -> Figure:
    """Cumulative pseudo-regret against the horizon, log-log, one panel a stream, guides of slope 2/3 and 1/2.

    Bands are 95 % intervals of the mean; the legend has each slope over the last four horizons with its 95 % bootstrap
    interval over seeds.
    """
    rows = data[data.metric == "regret"]
    streams = sorted(rows.stream.unique())
    figure, grid = plt.subplots(
        1, len(streams), figsize=(6.2 * len(streams), 6.4), squeeze=False, layout="constrained"
    )
    for axes, stream in zip(grid[0], streams):
        _growth_panel(axes, rows[rows.stream == stream])
        axes.set_title(f"stream: {stream}")
    figure.suptitle(
        "Mean and 95 % interval over seeds; slope of the last four horizons [95 % bootstrap]", fontsize=10
    )
    return figure


def _growth_panel(axes: Axes, rows: pd.DataFrame) -> None:
    table = _summary(rows, ["method", "rounds"])
    methods = table.groupby("method")["mean"].max().sort_values(ascending=False).index
    for i, method in enumerate(methods):
        part = table[table.method == method].sort_values("rounds")
        label = f"{method}  {_exponent(rows[rows.method == method])}"
        axes.plot(part["rounds"], part["mean"], label=label, **_style(i))  # type: ignore[arg-type]
        low = np.maximum(part["mean"] - part["half"], part["mean"] * 0.05)
        axes.fill_between(part["rounds"], low, part["mean"] + part["half"], color="0.6", alpha=0.3, lw=0)
    T = np.array(sorted(table["rounds"].unique()), float)
    start = float(table[table["rounds"] == T[0]]["mean"].median())
    for power, name, shade in ((2 / 3, "2/3", "0.0"), (1 / 2, "1/2", "0.45")):
        axes.plot(
            T, start * (T / T[0]) ** power, color=shade, lw=2.5, alpha=0.6, label=f"guide: slope {name}"
        )
    axes.set(xscale="log", yscale="log", xlabel="horizon T (rounds)", ylabel="pseudo-regret (cost)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=7, ncols=2)


def _exponent(rows: pd.DataFrame) -> str:
    """Slope over the last four horizons and its bootstrap interval, of one method, as text."""
    samples = [c for c in SAMPLES if c in rows and rows[c].notna().any()]
    last = sorted(rows["rounds"].unique())[-4:]
    curves = rows.pivot_table(index=samples, columns="rounds", values="value")[last].to_numpy()
    if len(curves) < 2 or len(last) < 2:
        return ""
    slope = np.polyfit(np.log(last), np.log(curves.mean(axis=0)), 1)[0]
    low, high = bootstrap_exponent(np.array(last, float), curves)
    return f"{slope:.2f} [{low:.2f}, {high:.2f}]"


def rolling_accuracy(data: pd.DataFrame) -> Figure:
    """System accuracy over time per data set, 95 % intervals, vertical lines where experts come and go."""
    curves = data[data.metric == "rolling_accuracy"]
    datasets = sorted(curves.dataset.unique())
    shown = _legible(curves)
    columns = min(3, len(datasets))
    rows = -(-len(datasets) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.4 * columns, 3.2 * rows + 1.2), squeeze=False, layout="constrained"
    )
    for axes, dataset in itertools.zip_longest(grid.flat, datasets):
        if dataset is None:
            axes.set_visible(False)
            continue
        table = _summary(curves[curves.dataset == dataset], ["method", "bin"])
        bins = table.bin.max() + 1
        for i, method in enumerate(shown):
            part = table[table.method == method].sort_values("bin")
            time = (part.bin + 0.5) / bins
            axes.plot(time, part["mean"], label=method, markevery=8, **_style(i))
            axes.fill_between(
                time, part["mean"] - part["half"], part["mean"] + part["half"], color="0.6", alpha=0.3, lw=0
            )
        for event, dash in (("arrival", ":"), ("departure", "--")):
            for when in _events(data[data.dataset == dataset], event):
                axes.axvline(when, color="0.3", lw=1, ls=dash)
        axes.set(title=dataset, xlabel="time (share of T)", ylabel="accuracy", xlim=(0, 1))
        axes.grid(alpha=0.3)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(
        "Accuracy over time, mean and 95 % interval over replicates; dotted: an expert arrives, dashed: one leaves"
    )
    return figure


ALWAYS = ("l2d_s_cost", "l2d_label_only", "l2d_random_expert")  # the claims compare these


def _legible(curves: pd.DataFrame, most: int = 8) -> list[str]:
    """At most `most` methods: those in ALWAYS, the others spread evenly over the ranking by mean accuracy."""
    ranked = curves.groupby("method").value.mean().sort_values(ascending=False).index.tolist()
    fixed = [m for m in ranked if m in ALWAYS]
    others = [m for m in ranked if m not in ALWAYS]
    count = min(most - len(fixed), len(others))
    keep = np.linspace(0, len(others) - 1, count).round().astype(int)
    shown = {*fixed, *(others[i] for i in keep)}
    return [m for m in ranked if m in shown]


def _events(data: pd.DataFrame, event: str) -> list[float]:
    """Times strictly inside the stream at which an expert first comes or last leaves, replicates averaged."""
    rows = data[(data.metric == "schedule") & (data.event == event)]
    times = rows.groupby("expert").value.mean() if len(rows) else pd.Series(dtype=float)
    return [float(t) for t in times if 0.02 < t < 0.97]


def deferral_map(data: pd.DataFrame) -> Figure:
    """Share of rounds in which each expert is asked, over time, one panel per data set, one learner.

    The learner shown is the one of least mean cost among those named l2d_* that ask by what they learnt.
    """
    asked = data[data.metric == "asked"]
    learners = [m for m in asked.method.unique() if str(m).startswith("l2d_") and not _is_control(str(m))]
    cost = data[(data.metric == "cost") & data.method.isin(learners or asked.method.unique())]
    method = cost.groupby("method").value.mean().idxmin()
    datasets = sorted(asked.dataset.unique())
    columns = min(3, len(datasets))
    rows = -(-len(datasets) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.4 * columns, 2.6 * rows), squeeze=False, layout="constrained"
    )
    part = asked[asked.method == method]
    top = float(part.groupby(["dataset", "expert", "bin"]).value.mean().max())
    for axes, dataset in itertools.zip_longest(grid.flat, datasets):
        if dataset is None:
            axes.set_visible(False)
            continue
        table = part[part.dataset == dataset].pivot_table(index="expert", columns="bin", values="value")
        image = axes.imshow(
            table.to_numpy(),
            aspect="auto",
            origin="lower",
            extent=(0, 1, -0.5, len(table) - 0.5),
            vmin=0,
            vmax=top,
            cmap="Greys",
        )
        axes.set(title=dataset, xlabel="time (share of T)", ylabel="expert", yticks=range(len(table)))
    figure.colorbar(image, ax=grid.ravel().tolist(), label="share of rounds asked")
    figure.suptitle(f"Deferral per expert over time, {method}, mean over replicates")
    return figure


def _is_control(method: str) -> bool:
    return method.startswith("l2d_random") or method in (
        "l2d_best_expert",
        "l2d_oracle",
        "l2d_label_only",
        "l2d_full",
    )


def regret_around_shift(data: pd.DataFrame) -> Figure:
    """Per-round regret over time around the shift at T/2, 95 % intervals."""
    table = _summary(data[data.metric == "rolling_regret"], ["method", "bin"])
    bins = table.bin.max() + 1
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for i, method in enumerate(sorted(table.method.unique())):
        part = table[table.method == method].sort_values("bin")
        time = (part.bin + 0.5) / bins
        axes.plot(time, part["mean"], label=method, markevery=6, **_style(i))  # type: ignore[arg-type]
        axes.fill_between(
            time, part["mean"] - part["half"], part["mean"] + part["half"], color="0.6", alpha=0.3, lw=0
        )
    axes.axvline(0.5, color="0.2", lw=1, ls="--")
    axes.set(
        xlabel="time (share of T)", ylabel="pseudo-regret (cost per round)", yscale="symlog", xlim=(0, 1)
    )
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(bottom=0)
    axes.set_title("Reliability shift at T/2, mean and 95 % interval over seeds")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def ablations(data: pd.DataFrame) -> Figure:
    """Regret by setting, one panel per ablation, 95 % intervals over seeds."""
    rows = data[data.metric == "regret"]
    names = list(dict.fromkeys(rows.ablation))
    columns = min(3, len(names))
    height = -(-len(names) // columns)
    figure, grid = plt.subplots(
        height, columns, figsize=(4.2 * columns, 2.8 * height + 0.6), squeeze=False, layout="constrained"
    )
    for axes, name in itertools.zip_longest(grid.flat, names):
        if name is None:
            axes.set_visible(False)
            continue
        part = rows[rows.ablation == name]
        settings = list(dict.fromkeys(part.setting))
        table = _summary(part, ["method", "setting"])
        for i, method in enumerate(dict.fromkeys(part.method)):
            mine = table[table.method == method].set_index("setting").loc[settings]
            style = _style(3 * i) | {"linestyle": "-" if i == 0 else "--"}
            axes.errorbar(range(len(settings)), mine["mean"], mine["half"], label=method, capsize=3, **style)
        axes.set_xticks(
            range(len(settings)), [f"{s:.3g}" if isinstance(s, float) else str(s) for s in settings]
        )
        axes.set(xlabel=name, ylabel="pseudo-regret (cost)", yscale="log")
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(alpha=0.3)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle("Regret by setting, mean and 95 % interval over seeds", fontsize=10)
    return figure


def cost_per_round(data: pd.DataFrame) -> Figure:
    """Microseconds a round against the number of actions K and the dimension d, with least-squares lines."""
    rows = data[data.metric == "us_per_round"]
    figure, grid = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    for axes, sweep in zip(grid, ("K", "d")):
        table = _summary(rows[rows.sweep == sweep], ["size"])
        axes.errorbar(table["size"], table["mean"], table["half"], fmt="o", color="0.1", capsize=3)
        slope, start = np.polyfit(table["size"].astype(float), table["mean"], 1)
        axes.plot(
            table["size"], start + slope * table["size"], color="0.5", label=f"{slope * 1e3:.3g} ns per unit"
        )
        axes.set(xlabel=f"{sweep}", ylabel="time (µs per round)", title=f"Cost per round against {sweep}")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
