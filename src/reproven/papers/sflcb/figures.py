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


def toy_ends(data: pd.DataFrame) -> Figure:
    """Figure 1: where runs start and end on Phi(x), for the paper's own settings."""
    from reproven.papers.sflcb.beds.toy import Toy

    rows = data[(data["row"] == "paper") & (data["method"] == "sflcb")]
    grid = np.linspace(0, 3, 600)[:, None]
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    axis.plot(grid[:, 0], Toy.phi(grid), color="0.6", lw=1, label=r"$\Phi(x) = f(x, x)$, exact")
    for metric, mark, shade, label in (
        ("start_x", "|", "0.5", "starts"),
        ("end", "o", "0.0", "ends after 10,000 steps"),
    ):
        x = rows[rows["metric"] == metric]["value"].to_numpy()
        axis.plot(x, Toy.phi(x[:, None]), mark, color=shade, ms=5, mfc="none", label=f"{len(x)} {label}")
    axis.set(xlabel="upper variable x", ylabel=r"true upper value $\Phi(x)$")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def complexity(data: pd.DataFrame) -> Figure:
    """Iterations to epsilon-stationarity against 1/epsilon, with the proven slope 3."""
    rows = data[data["metric"] == "iterations_to"]
    figure, axis = plt.subplots(figsize=(5, 3.6))
    for k, (rho, part) in enumerate(rows.groupby("rho")):
        table = _table(part, "inverse_epsilon", ["problem"])
        _band(axis, table, k, rf"$\rho$ = {rho:g} (median, quartiles of problems)")
        if k == 0:
            place = np.array(table.index, float)
            bound = float(table.iloc[0].median()) * (place / place[0]) ** 3
            axis.plot(place, bound, color="0.6", ls=":", lw=1, label="slope 3 (proven)")
    axis.set(xscale="log", yscale="log", xlabel=r"$1/\epsilon$")
    axis.set_ylabel(r"iterations to $\|\nabla\Phi_\delta\| \leq \epsilon$")
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


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
    names = {"tuned": "tuned for the final gap", "tuned_for_cost": "tuned for the cost to 1 %"}
    rows = data[(data["metric"] == "gap") & data["protocol"].isin(list(names))]
    plans = [plan for plan in names if (rows["protocol"] == plan).any()]
    figure, axes = plt.subplots(
        len(plans), 3, figsize=(11, 3.3 * len(plans) + 0.9), sharey=True, squeeze=False
    )
    labels = {
        "gradients": "gradient evaluations",
        "solves": "exact solves",
        "seconds": "seconds (whole batch)",
    }
    methods = list(dict.fromkeys(rows["method"]))
    for line, plan in zip(axes, plans):
        for axis, (x, label) in zip(line, labels.items()):
            for method, part in rows[rows["protocol"] == plan].groupby("method", sort=False):
                if part[x].max() > 0:
                    table = _table(part, x, ["problem", "start"]).clip(lower=1e-5)
                    _band(axis, table, methods.index(method), str(method))
            axis.set(xscale="log", yscale="log", xlabel=label, title=names[plan])
        line[0].set_ylabel("gap to the certified\noptimum (relative)")
    handles, legend = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, legend, ncols=5, loc="lower center", frameon=False, fontsize=8)
    figure.suptitle("LC-QP: median and quartiles over problems and starts", fontsize=10)
    figure.tight_layout(rect=(0, 0.3 / len(plans) / 3.3, 1, 1))
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
        axis.set_xticks(range(len(sizes)), sizes, fontsize=8)
        axis.set(
            yscale="log", xlabel="dimensions dx-dy-dh", ylabel=f"{label} to a 1 % gap\n(median of problems)"
        )
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle("open marker: some problem did not reach 1 % within the budget", fontsize=9)
    figure.tight_layout()
    return figure


def dimensions_table(data: pd.DataFrame) -> Figure:
    """Table of median seconds and gradient evaluations to a 1 % gap over dimensions; the fastest is set bold."""
    rows = data[data["tolerance"] == 0.01]
    sizes = list(dict.fromkeys(rows["size"].dropna()))
    methods = list(dict.fromkeys(rows["method"]))

    def middle(metric: str, how: str) -> pd.DataFrame:
        table = rows[rows["metric"] == metric].pivot_table(
            index="method", columns="size", values="value", aggfunc=how
        )
        return table.reindex(index=methods, columns=sizes)

    seconds, gradients = middle("seconds_to", "median"), middle("gradients_to", "median")
    solved = middle("solved", "min") == 1
    figure, axis = plt.subplots(figsize=(1.75 * len(sizes) + 2.4, 0.36 * len(methods) + 1.3))
    axis.axis("off")

    def text(method: str, size: str) -> str:
        if not solved.loc[method, size]:
            return "not reached"
        return f"{seconds.loc[method, size]:.3g} s, {gradients.loc[method, size]:,.0f}"

    cells = [[text(method, size) for size in sizes] for method in methods]
    table = axis.table(cells, rowLabels=methods, colLabels=sizes, loc="center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.scale(1, 1.3)
    for column, size in enumerate(sizes):
        ranked = seconds[size].where(solved[size])
        if ranked.notna().any():
            table[1 + methods.index(str(ranked.idxmin())), column].set_text_props(weight="bold")
    axis.set_title(
        "LC-QP, dx-dy-dh: median seconds and gradient evaluations to a 1 % gap (bold: fastest)", fontsize=9
    )
    figure.tight_layout()
    return figure


def svm_reported_against_true(data: pd.DataFrame) -> Figure:
    """Accuracy at the reported iterate beside accuracy at the exact response; means over splits that stayed finite."""
    sets, plans = sorted(data["dataset"].unique()), ["published", "tuned"]
    figure, axes = plt.subplots(len(sets), 2, figsize=(9, 2.4 * len(sets) + 0.6), squeeze=False)
    for line, name in zip(axes, sets):
        for axis, plan in zip(line, plans):
            part = data[(data["dataset"] == name) & (data["protocol"] == plan)]
            methods = list(dict.fromkeys(part["method"].dropna()))
            names = ("at the reported iterate", "at the exact response")
            for k, metric in enumerate(("accuracy", "true_accuracy")):
                cells = part[part["metric"] == metric]
                lost = (~np.isfinite(cells["value"])).groupby(cells["method"]).sum().reindex(methods)
                rows = cells[np.isfinite(cells["value"])].groupby("method")["value"]
                places = np.arange(len(methods)) + 0.2 * (k - 0.5)
                spread = rows.std().reindex(methods)
                axis.errorbar(rows.mean().reindex(methods), places, xerr=spread, fmt=MARKERS[k], ms=5, lw=1,
                              color=str(0.55 * k), label=names[k])  # fmt: skip
            marks = [f"{m} ({int(n)} diverged)" if n else m for m, n in zip(methods, lost)]
            axis.set_yticks(range(len(methods)), marks)
            axis.invert_yaxis()
            axis.set_title(f"{name}, {plan}", fontsize=9)
            axis.set_xlabel("test accuracy (mean, 1 s.d. over splits)")
    handles, legend = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, legend, ncols=2, loc="lower center", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    return figure


def svm_accuracy(data: pd.DataFrame) -> Figure:
    """Figure 2's quantity along the run: accuracy at the reported iterate (published runs), beside the true one."""
    rows = data[(data["protocol"] == "published") & (data["seconds"] > 0)]
    sets = sorted(rows["dataset"].unique())
    figure, axes = plt.subplots(
        1, len(sets), figsize=(3.7 * len(sets) + 0.6, 3.8), squeeze=False, sharey=True
    )
    kinds = {"accuracy_path": "reported", "true_accuracy_path": "true"}
    for axis, name in zip(axes[0], sets):
        part = rows[rows["dataset"] == name]
        methods = list(dict.fromkeys(part[part["metric"] == "accuracy_path"]["method"]))
        for k, method in enumerate(methods):
            for metric, label in kinds.items():
                cell = part[(part["metric"] == metric) & (part["method"] == method)]
                grouped = cell.groupby("seconds")["value"]
                middle, spread = grouped.mean(), grouped.std()
                shade, line = str(0.28 * k), "-" if metric == "accuracy_path" else ":"
                axis.plot(middle.index, middle, color=shade, ls=line, marker=MARKERS[k], ms=3, lw=1.2,
                          label=f"{method}, {label}")  # fmt: skip
                if metric == "accuracy_path":
                    axis.fill_between(middle.index, middle - spread, middle + spread, color=shade, alpha=0.1)
        axis.set(xscale="log", xlabel="seconds (all splits)", title=name)
    axes[0][0].set_ylabel("test accuracy (mean; band: 1 s.d. over splits)")
    handles, legend = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, legend, ncols=3, loc="lower center", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
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
    """Reported utility beside the utility that the capacities sustain, against iterations and seconds."""
    names = {
        "utility_path": "reported",
        "true_path": "true",
        "weighted_path": "reported, revenue times demand",
    }
    rows = data[data["metric"].isin(list(names))]
    # Demand is one everywhere on 3 nodes; only BLOCC's 9-node file weights by it.
    weighted = rows["method"] == "blocc_nine_published"
    rows = rows[weighted | (rows["metric"] != "weighted_path")]
    panels = list(dict.fromkeys(zip(rows["protocol"], rows["method"])))
    figure, axes = plt.subplots(2, len(panels), figsize=(3.6 * len(panels) + 0.6, 6.2), squeeze=False)
    for column, (plan, method) in zip(axes.T, panels):
        part = rows[(rows["protocol"] == plan) & (rows["method"] == method)]
        late = part[part["step"] >= 0.1 * part["step"].max()]["value"]
        low, high = min(-1.0, float(late.min())), max(1.0, float(late.max()))
        for axis, x in zip(column, ("step", "seconds")):
            for k, (metric, cell) in enumerate(part.groupby("metric", sort=False)):
                table = _table(cell, x, ["start"])
                colour, line = STYLES[k]
                axis.plot(table.index, table.median(axis=1), color=colour, ls=line, label=names[str(metric)])
                axis.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.12)
            axis.axhline(0, color="0.7", lw=0.6)
            axis.set(xlabel="iteration" if x == "step" else "seconds (all starts)")
            axis.locator_params(axis="x", nbins=4)
            axis.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        column[0].set_title(f"{method}\n{plan}", fontsize=9)
        column[0].legend(frameon=False, fontsize=7)
    for line in axes:
        line[0].set_ylabel("utility (median and range of starts)")
    figure.tight_layout()
    return figure


def delta_study(data: pd.DataFrame) -> Figure:
    """Figure 4: reported and true utility at the end against delta, and along the run."""
    figure, (axis, course) = plt.subplots(1, 2, figsize=(10, 3.8))
    for k, (metric, label) in enumerate((("reported", "reported"), ("sustained", "true"))):
        table = _table(data[data["metric"] == metric], "delta", ["start"])
        middle = table.mean(axis=1)
        reach = [middle - table.min(axis=1), table.max(axis=1) - middle]
        axis.errorbar(middle.index * (1 + 0.06 * k), middle, yerr=reach, fmt=MARKERS[k] + "-", color=str(0.5 * k),
                      label=f"{label} (mean and range of starts)")  # fmt: skip
    axis.set(xscale="log", xlabel=r"penalty parameter $\delta$", ylabel="utility after 20,000 iterations")
    axis.legend(frameon=False, fontsize=8)
    rows = data[data["metric"] == "utility_path"]
    for k, (delta, part) in enumerate(rows.groupby("delta")):
        table = _table(part, "step", ["start"])
        colour, line = STYLES[k]
        course.plot(table.index, table.mean(axis=1), color=colour, ls=line, label=rf"$\delta$ = {delta:g}")
        course.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.1)
    course.set(xlabel="iteration", ylabel="reported utility (mean, range of starts)", ylim=(-3, 2.2))
    course.legend(frameon=False, fontsize=8)
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
