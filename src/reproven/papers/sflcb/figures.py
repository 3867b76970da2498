"""Figures of the SFLCB experiments: what is reported against what is true, and cost against accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLES = [("0.0", "-"), ("0.0", "--"), ("0.4", "-"), ("0.4", "--"), ("0.0", ":"), ("0.6", "-"), ("0.6", "-."),
          ("0.4", ":"), ("0.7", "--")]  # fmt: skip
MARKERS = "osD^vP*Xd"


def _band(axis: Axes, table: pd.DataFrame, index: int, label: str) -> None:
    """Draw the median of each row of `table` (rows: x, columns: samples) with its quartiles."""
    colour, line = STYLES[index % len(STYLES)]
    middle = table.median(axis=1)
    axis.plot(middle.index, middle, color=colour, linestyle=line, label=label, lw=1.4)
    axis.fill_between(
        middle.index, table.quantile(0.25, axis=1), table.quantile(0.75, axis=1), color=colour, alpha=0.12
    )


def _table(rows: pd.DataFrame, x: str, samples: Sequence[str]) -> pd.DataFrame:
    return rows.pivot_table(index=x, columns=list(samples), values="value", aggfunc="mean")


def toy_cost(data: pd.DataFrame) -> Figure:
    """Gradient evaluations to each tolerance, for every row of settings."""
    rows = data[(data["metric"] == "gradients_to")].assign(label=data["method"] + ", " + data["row"])
    labels = list(dict.fromkeys(rows["label"]))
    figure, axis = plt.subplots(figsize=(8, 0.32 * len(labels) + 1.6))
    for k, (tolerance, part) in enumerate(sorted(rows.groupby("tolerance"), reverse=True)):
        grouped = part.groupby("label")["value"]
        middle, high = grouped.median()[labels], grouped.max()[labels]
        height = np.arange(len(labels)) + (k - 1) * 0.22
        axis.errorbar(middle, height, xerr=[np.zeros(len(labels)), high - middle], fmt=MARKERS[k], color=str(0.3 * k),
                      ms=4, lw=0.8, label=f"gap {tolerance:g}")  # fmt: skip
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("gradient evaluations (marker: median of starts, bar: up to the largest)")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def gradient_bias(data: pd.DataFrame) -> Figure:
    """Theorem 4.9: bias of the gradient against delta, one line a point, and slope 1."""
    rows = data[data["metric"] == "gradient_bias"]
    table = rows.pivot_table(index="delta", columns=["problem", "point"], values="value")
    figure, axis = plt.subplots(figsize=(5, 3.6))
    axis.plot(table.index, table, color="0.75", lw=0.5)
    middle = table.median(axis=1)
    axis.plot(middle.index, middle, color="0.0", marker="o", ms=4, label="median of points")
    axis.plot(
        middle.index, middle.iloc[0] * middle.index / middle.index[0], color="0.0", ls="--", label="slope 1"
    )
    axis.set(xscale="log", yscale="log", xlabel=r"penalty parameter $\delta$")
    axis.set_ylabel(r"$\|\nabla\Phi - \nabla\Phi_\delta\|$")
    axis.legend(frameon=False)
    figure.tight_layout()
    return figure


def potential(data: pd.DataFrame) -> Figure:
    """The potential along runs, proven regime beside equal steps."""
    rows = data[data["metric"] == "potential"]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    for axis, regime in zip(axes, ("proven", "equal")):
        for k, ((delta, rho), part) in enumerate(rows[rows["regime"] == regime].groupby(["delta", "rho"])):
            part = part.sort_values("step")
            colour, line = STYLES[k]
            axis.plot(
                part["step"],
                part["value"],
                color=colour,
                ls=line,
                label=rf"$\delta$={delta:g}, $\rho$={rho:g}",
            )
        axis.set(xlabel="iteration", yscale="log", title=f"{regime} steps (one problem)")
    axes[0].set_ylabel("potential $V_t$")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def bias(data: pd.DataFrame) -> Figure:
    """Distance and Phi gap of the penalised minimiser against delta, on and off kinks."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4))
    for axis, metric, label in zip(
        axes, ("distance", "phi_gap"), (r"$\|x_\delta - x^*\|$", r"$\Phi(x_\delta) - \Phi^*$")
    ):
        for k, (kink, part) in enumerate(data[data["metric"] == metric].groupby("at_kink")):
            _band(axis, _table(part, "delta", ["problem"]), k, "x* at a kink" if kink else "x* off kinks")
        axis.set(xscale="log", yscale="log", xlabel=r"penalty parameter $\delta$", ylabel=label)
    axes[0].legend(frameon=False)
    figure.suptitle("median and quartiles over problems", fontsize=9)
    figure.tight_layout()
    return figure


def convergence(data: pd.DataFrame) -> Figure:
    """Relative gap of the best iterate against gradient evaluations, exact solves and seconds."""
    rows = data[(data["metric"] == "gap") & (data["protocol"] == "tuned")]
    figure, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True)
    labels = {
        "gradients": "gradient evaluations",
        "solves": "exact solves",
        "seconds": "seconds (whole batch)",
    }
    for axis, (x, label) in zip(axes, labels.items()):
        for k, (method, part) in enumerate(rows.groupby("method", sort=False)):
            if part[x].max() > 0:
                _band(axis, _table(part, x, ["problem", "start"]).clip(lower=1e-5), k, str(method))
        axis.set(xscale="log", yscale="log", xlabel=label)
    axes[0].set_ylabel("gap to the certified optimum (relative)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=5, loc="lower center", frameon=False, fontsize=8)
    figure.suptitle("LC-QP, tuned: median and quartiles over problems and starts", fontsize=10)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    return figure


def dimensions(data: pd.DataFrame) -> Figure:
    """Seconds and gradient evaluations to 1 % over dimensions; open markers did not get there."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    sizes = list(dict.fromkeys(data["size"].dropna()))
    done = data[(data["metric"] == "solved") & (data["tolerance"] == 0.01)]
    for axis, metric, label in zip(axes, ("seconds_to", "gradients_to"), ("seconds", "gradient evaluations")):
        rows = data[(data["metric"] == metric) & (data["tolerance"] == 0.01)]
        for k, (method, part) in enumerate(rows.groupby("method", sort=False)):
            middle = part.groupby("size")["value"].median().reindex(sizes)
            solved = done[done["method"] == method].groupby("size")["value"].min().reindex(sizes) == 1
            colour, line = STYLES[k]
            places = np.arange(len(sizes)) + 0.08 * (k - 2.5)
            axis.plot(places, middle, color=colour, ls=line, lw=1)
            axis.scatter(
                places[solved], middle[solved], color=colour, marker=MARKERS[k], s=28, label=str(method)
            )
            axis.scatter(
                places[~solved],
                middle[~solved],
                facecolors="none",
                edgecolors=colour,
                marker=MARKERS[k],
                s=28,
            )
        axis.set_xticks(range(len(sizes)), sizes)
        axis.set(
            yscale="log", xlabel="dimensions dx-dy-dh", ylabel=f"{label} to a 1 % gap (median of problems)"
        )
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle("open marker: some problem did not reach 1 % within the budget", fontsize=9)
    figure.tight_layout()
    return figure


def svm_reported_against_true(data: pd.DataFrame) -> Figure:
    """Accuracy at the reported iterate beside accuracy at the exact response, published and tuned."""
    sets, plans = sorted(data["dataset"].unique()), ["published", "tuned"]
    figure, axes = plt.subplots(len(sets), 2, figsize=(9, 2.4 * len(sets) + 0.6), squeeze=False)
    for line, name in zip(axes, sets):
        for axis, plan in zip(line, plans):
            part = data[(data["dataset"] == name) & (data["protocol"] == plan)]
            methods = list(dict.fromkeys(part["method"].dropna()))
            names = ("at the reported iterate", "at the exact response")
            for k, metric in enumerate(("accuracy", "true_accuracy")):
                rows = part[part["metric"] == metric].groupby("method")["value"]
                places = np.arange(len(methods)) + 0.2 * (k - 0.5)
                spread = rows.std().reindex(methods)
                axis.errorbar(rows.mean().reindex(methods), places, xerr=spread, fmt=MARKERS[k], ms=5, lw=1,
                              color=str(0.55 * k), label=names[k])  # fmt: skip
            axis.set_yticks(range(len(methods)), methods)
            axis.invert_yaxis()
            axis.set_title(f"{name}, {plan}", fontsize=9)
            axis.set_xlabel("test accuracy (mean, 1 s.d. over splits)")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def svm_value(data: pd.DataFrame) -> Figure:
    """Phi at the exact response of the repaired c, against gradient evaluations and seconds."""
    rows = data[data["metric"] == "phi_path"]
    sets = sorted(rows["dataset"].unique())
    plans = list(dict.fromkeys(rows["protocol"]))
    columns = [(plan, x) for plan in plans for x in ("gradients", "seconds")]
    figure, axes = plt.subplots(
        len(sets),
        len(columns),
        figsize=(3.1 * len(columns) + 1, 2.9 * len(sets) + 0.5),
        squeeze=False,
        sharey="row",
    )
    for line, name in zip(axes, sets):
        bound = data[(data["metric"] == "bound") & (data["dataset"] == name)]["value"].median()
        for axis, (plan, x) in zip(line, columns):
            part = rows[(rows["dataset"] == name) & (rows["protocol"] == plan)]
            for k, (method, cell) in enumerate(part.groupby("method", sort=False)):
                _band(axis, _table(cell[cell[x] > 0], x, ["split"]).replace(np.inf, np.nan), k, str(method))
            if bound > 1e-6:
                axis.axhline(bound, color="0.0", lw=0.8, ls=":")
            axis.set(xscale="log", yscale="log", title=f"{name}, {plan}")
            axis.set_xlabel("gradient evaluations" if x == "gradients" else "seconds (all splits)")
        line[0].set_ylabel(r"true $\Phi(c)$ after repair")
    handles, names = axes[0][-1].get_legend_handles_labels()
    figure.legend(handles, names, ncols=6, loc="lower center", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def transport(data: pd.DataFrame) -> Figure:
    """Reported utility beside the utility that the capacities sustain, along the run."""
    rows = data[data["metric"].isin(["utility_path", "true_path"])]
    plans = list(dict.fromkeys(rows["protocol"]))
    figure, axes = plt.subplots(1, len(plans), figsize=(4.6 * len(plans), 3.8), squeeze=False)
    names = {"utility_path": "reported", "true_path": "true"}
    for axis, plan in zip(axes[0], plans):
        part = rows[rows["protocol"] == plan]
        floor = -2.0
        for k, ((method, metric), cell) in enumerate(part.groupby(["method", "metric"], sort=False)):
            table = _table(cell, "step", ["start"])
            colour, line = STYLES[k]
            label = f"{method}, {names[str(metric)]}"
            axis.plot(table.index, table.median(axis=1), color=colour, ls=line, label=label)
            axis.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.12)
            floor = min(floor, 1.2 * float(table.iloc[-1].min()))
        axis.axhline(0, color="0.7", lw=0.6)
        axis.set(xlabel="iteration", title=f"{plan} (line: median of starts, band: range)")
        axis.locator_params(axis="x", nbins=5)
        axis.set_ylim(bottom=floor, top=1.15 * max(1.0, float(part["value"].max())))
        axis.legend(frameon=False, fontsize=8)
    axes[0][0].set_ylabel("utility")
    figure.tight_layout()
    return figure


def delta_study(data: pd.DataFrame) -> Figure:
    """Reported and true utility at the end against delta."""
    figure, axis = plt.subplots(figsize=(5, 3.6))
    for k, (metric, label) in enumerate((("reported", "reported"), ("sustained", "true"))):
        table = _table(data[data["metric"] == metric], "delta", ["start"])
        middle = table.mean(axis=1)
        reach = [middle - table.min(axis=1), table.max(axis=1) - middle]
        axis.errorbar(middle.index * (1 + 0.06 * k), middle, yerr=reach, fmt=MARKERS[k] + "-", color=str(0.5 * k),
                      label=f"{label} (mean and range of starts)")  # fmt: skip
    axis.set(xscale="log", xlabel=r"penalty parameter $\delta$", ylabel="utility after 20,000 iterations")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def aipod(data: pd.DataFrame) -> Figure:
    """Stationarity on AiPOD's toy against gradient evaluations and seconds."""
    rows = data[data["metric"] == "stationarity_path"]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True)
    for axis, x in zip(axes, ("gradients", "seconds")):
        for k, (method, part) in enumerate(rows.groupby("method", sort=False)):
            place = part.groupby("step")[x].median()
            table = _table(part, "step", ["problem", "start"]).clip(lower=1e-8)
            table.index = place.reindex(table.index)
            _band(axis, table, k, str(method))
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="gradient evaluations" if x == "gradients" else "seconds (all starts)",
        )
    axes[0].axhline(0.03, color="0.0", lw=0.7, ls=":")
    axes[0].set_ylabel(r"$\|\nabla\Phi(x)\|$ (median, quartiles)")
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def gaffa(data: pd.DataFrame) -> Figure:
    """Optimistic value over n on BiC-GAFFA's toy against gradient evaluations, for each n."""
    rows = data[data["metric"] == "phi_path"]
    sizes = sorted(rows["n"].unique())
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(3.2 * len(sizes) + 0.6, 3.5), sharey=True, squeeze=False
    )
    for axis, size in zip(axes[0], sizes):
        for k, (method, part) in enumerate(rows[rows["n"] == size].groupby("method", sort=False)):
            _band(axis, _table(part, "gradients", ["start"]).clip(lower=1e-14), k, str(method))
        axis.set(xscale="symlog", yscale="log", xlabel="gradient evaluations", title=f"n = {size}")
    axes[0][0].set_ylabel(r"optimistic $\Phi(x) / n$ (optimum 0)")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure
