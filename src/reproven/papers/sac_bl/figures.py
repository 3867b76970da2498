"""Figures of the SAC-BL experiments; each takes the experiment's measurements."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREYS = ("0.0", "0.35", "0.6", "0.75")
LINES = ("-", "--", "-.", ":")


def interval(data: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean and half-width of the 95 % t interval of `value` for each combination of `by`."""
    groups = data.groupby(by, sort=False)["value"]
    count = groups.count()
    half = groups.sem().fillna(0.0) * stats.t.ppf(0.975, np.maximum(count - 1, 1))
    return pd.DataFrame({"mean": groups.mean(), "half": half}).reset_index()


def fdr_and_power(data: pd.DataFrame) -> Figure:
    """FDR and power of every rule: a column for each share of anomalies, a marker for each calibration size."""
    methods = list(dict.fromkeys(data["method"]))
    shares = sorted(data["prevalence"].unique())
    fig, axes = plt.subplots(
        2,
        len(shares),
        figsize=(2.6 * len(shares) + 1.5, 0.44 * len(methods) + 2.5),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    rows = (("fdp", "FDR (mean FDP)"), ("power", "share of anomalies found"))
    for line, (metric, label) in zip(axes, rows):
        for axis, share in zip(line, shares):
            part = data[(data["metric"] == metric) & (data["prevalence"] == share)]
            if part.empty:
                axis.set_axis_off()
                continue
            _dots(axis, part, methods, "k", "k = {:g}")
            axis.set_xlabel(label)
            axis.set_title(f"{share:.0%} anomalies")
            if metric == "fdp":
                axis.set_xscale("symlog", linthresh=0.01)
                axis.axvline(0.05, color="0.5", linestyle=":", linewidth=1, label="level 0.05")
            else:
                axis.set_xlim(-0.03, 1.03)
        first = next(axis for axis in line if axis.has_data())
        first.set_yticks(range(len(methods)), methods)
        first.tick_params(labelleft=True)
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    fig.suptitle(
        "FDR and power of rules on Gaussian scores, one shared calibration set; bars: 95 % intervals"
    )
    return fig


def _dots(axis: Axes, part: pd.DataFrame, methods: list[str], by: str, label: str) -> None:
    values = sorted(part[by].unique())
    for i, value in enumerate(values):
        points = interval(part[part[by] == value], ["method"]).set_index("method").reindex(methods)
        height = np.arange(len(methods)) + min(0.25, 0.8 / len(values)) * (i - (len(values) - 1) / 2)
        axis.errorbar(
            points["mean"], height, xerr=points["half"], linestyle="", marker=MARKERS[i % len(MARKERS)],
            markersize=4, color=GREYS[i % len(GREYS)], elinewidth=1, label=label.format(value),
        )  # fmt: skip
    axis.grid(axis="y", color="0.92")


def against_prevalence(data: pd.DataFrame) -> Figure:
    """FDR (full) and power (dashed) of each rule against the share of anomalies, one line a calibration size."""
    methods = list(dict.fromkeys(data["method"]))
    columns = min(5, len(methods))
    rows = -(-len(methods) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(2.5 * columns, 2.1 * rows + 0.8), sharex=True, sharey=True, squeeze=False
    )
    for axis in axes.flat[len(methods) :]:
        axis.set_axis_off()
    for axis, method in zip(axes.flat, methods):
        for metric, style, name in (("fdp", "-", "FDR"), ("power", "--", "power")):
            part = data[(data["metric"] == metric) & (data["method"] == method)]
            for i, k in enumerate(sorted(part["k"].unique())):
                line = interval(part[part["k"] == k], ["prevalence"]).sort_values("prevalence")
                axis.errorbar(
                    line["prevalence"], line["mean"], yerr=line["half"], linestyle=style, color=GREYS[i % len(GREYS)],
                    marker=MARKERS[i % len(MARKERS)], markersize=3, linewidth=1, label=f"{name}, k = {k:g}",
                )  # fmt: skip
        axis.axhline(0.05, color="0.5", linestyle=":", linewidth=1)
        axis.set_title(method, fontsize=9)
        axis.set_ylim(-0.03, 1.03)
    fig.supxlabel("share of anomalies in the batch")
    fig.supylabel("FDR, power")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="upper center", ncols=min(6, len(labels)), frameon=False, fontsize=8)
    fig.tight_layout(rect=(0, 0, 1, 0.95))
    return fig


def real_scores(data: pd.DataFrame) -> Figure:
    """Missed anomalies and FDR of every rule on real scores, a column for each data set and share of anomalies."""
    data = data[data["method"] != ""]
    methods = list(dict.fromkeys(data["method"]))
    pairs = data[["dataset", "prevalence"]].drop_duplicates().sort_values(["dataset", "prevalence"])
    fig, axes = plt.subplots(
        1, len(pairs), figsize=(2.9 * len(pairs) + 1.5, 0.36 * len(methods) + 1.8), sharey=True, squeeze=False
    )
    for axis, (name, share) in zip(axes[0], pairs.itertuples(index=False)):
        cell = data[(data["dataset"] == name) & (data["prevalence"] == share)]
        for i, (metric, colour, label) in enumerate(
            (("fpr", "0.35", "FPR (anomalies missed)"), ("fdp", "0.75", "FDR"))
        ):
            part = cell[cell["metric"] == metric]
            if part.empty:
                continue
            # Splits of one class share its images: the classes are the samples.
            classes = part.groupby(["method", "anomaly"], as_index=False)["value"].mean()
            bars = interval(classes, ["method"]).set_index("method").reindex(methods)
            height = np.arange(len(methods)) + 0.38 * i - 0.19
            axis.barh(
                height, bars["mean"], 0.36, xerr=bars["half"], color=colour, edgecolor="0.0", label=label
            )
        axis.axvline(0.1, color="0.0", linestyle=":", linewidth=1, label="level 0.1")
        axis.set_xlim(0, 1.05)
        axis.set_xlabel("share")
        axis.set_title(f"{name}\n{share:.0%} anomalies", fontsize=9)
    axes[0][0].set_yticks(range(len(methods)), methods)
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][-1].get_legend_handles_labels()
    fig.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    fig.suptitle("Each class in turn as the anomaly; bars: 95 % intervals over classes")
    fig.tight_layout(rect=(0, 0.05, 1, 1))
    return fig


def phase_diagram(data: pd.DataFrame) -> Figure:
    """Mean-field FPR of each rule over (beta, r), with the stated and the corrected boundary, for growing n."""
    rules, sizes = list(dict.fromkeys(data["rule"])), sorted(data["log10_n"].unique())
    fig, axes = plt.subplots(
        len(rules), len(sizes), figsize=(2.9 * len(sizes) + 1, 2.5 * len(rules) + 0.6), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    mesh = None
    for line, rule in zip(axes, rules):
        for axis, size in zip(line, sizes):
            part = data[(data["rule"] == rule) & (data["log10_n"] == size)]
            table = part.pivot_table(index="r", columns="beta", values="value")
            mesh = axis.pcolormesh(
                table.columns, table.index, table.to_numpy(), cmap="Greys", vmin=0, vmax=1, shading="nearest"
            )
            beta = np.asarray(table.columns, dtype=float)
            gamma = float(part["gamma"].iloc[0])
            axis.plot(beta, beta, color="tab:orange", linestyle="--", linewidth=2, label="stated: r = beta")
            axis.plot(beta, beta / gamma, color="tab:blue", linewidth=2, label=f"r = beta / {gamma:.2g}")
            axis.set_ylim(0, 1)
            axis.set_title(f"{rule}, n = $10^{{{size:g}}}$", fontsize=9)
    axes[0][0].legend(loc="lower right", fontsize=7)
    fig.supxlabel("beta: anomalies number n^(1 - beta)")
    fig.supylabel("r: their shift is sqrt(2 r log n)")
    assert mesh is not None
    fig.colorbar(
        mesh, ax=axes, label="FPR (share of anomalies missed); deterministic, no sampling error", shrink=0.6
    )
    return fig


def fpr_against_strength(data: pd.DataFrame) -> Figure:
    """Monte Carlo FPR against r at the largest n of the grid, one panel a beta, one line a rule."""
    counts = data.groupby("n")["r"].nunique()
    data = data[(data["metric"] == "fpr") & (data["n"] == counts.idxmax())]
    betas = sorted(data["beta"].unique())
    fig, axes = plt.subplots(1, len(betas), figsize=(2.8 * len(betas) + 0.5, 3.2), sharey=True, squeeze=False)
    for axis, beta in zip(axes[0], betas):
        for i, method in enumerate(dict.fromkeys(data["method"])):
            part = data[(data["beta"] == beta) & (data["method"] == method)]
            line = interval(part, ["r"]).sort_values("r")
            axis.errorbar(
                line["r"], line["mean"], yerr=line["half"], label=method, color=GREYS[i % len(GREYS)],
                linestyle=LINES[i % len(LINES)], marker=MARKERS[i % len(MARKERS)], markersize=4,
            )  # fmt: skip
        axis.axvline(beta, color="tab:orange", linestyle="--", linewidth=1)
        axis.set_title(f"beta = {beta:g}", fontsize=9)
        axis.set_xlabel("r")
        axis.set_ylim(-0.03, 1.03)
    axes[0][0].set_ylabel("FPR (share of anomalies missed)")
    axes[0][0].legend(fontsize=8)
    fig.suptitle(
        f"n = {data['n'].iloc[0]:,}; dashed vertical line: r = beta; bars: 95 % intervals", fontsize=10
    )
    fig.tight_layout()
    return fig


def over_lambda(data: pd.DataFrame) -> Figure:
    """What one draw of Lambda does: share rejected and FDP against Lambda, median and middle 90 % of replicates."""
    sizes = sorted(data["k"].unique())
    rows = (("rejected_share", "share rejected"), ("fdp", "FDP"))
    fig, axes = plt.subplots(
        2, len(sizes), figsize=(3 * len(sizes) + 0.5, 5), sharex=True, sharey="row", squeeze=False
    )
    for line, (metric, label) in zip(axes, rows):
        for axis, k in zip(line, sizes):
            part = data[(data["metric"] == metric) & (data["k"] == k)]
            band = part.groupby("uniform")["value"].quantile([0.05, 0.5, 0.95]).unstack()
            axis.fill_between(
                band.index, band[0.05], band[0.95], color="0.8", label="middle 90 % of replicates"
            )
            axis.plot(band.index, band[0.5], color="0.0", label="median")
            mean = part.groupby("uniform")["value"].mean()
            axis.plot(mean.index, mean, color="0.4", linestyle="--", label="mean")
            axis.set_xscale("log")
            axis.set_ylim(-0.03, 1.03)
            if metric == "rejected_share":
                axis.set_title(f"k = {k:g}", fontsize=9)
            else:
                axis.set_xlabel("Lambda (uniform on (0, 1))")
        line[0].set_ylabel(label)
    axes[1][0].legend(fontsize=8)
    fig.suptitle("SBL: one shared uniform decides for the whole batch", fontsize=10)
    fig.tight_layout()
    return fig


def detectors_by_rules(data: pd.DataFrame) -> Figure:
    """FPR (anomalies missed) and FDR of each rule with each detector; a column a data set, highest prevalence."""
    data = data[data["method"].isin([m for m in data["method"].unique() if m])]
    names, methods = list(dict.fromkeys(data["dataset"])), list(dict.fromkeys(data["method"]))
    if "protocol" in data:
        data = data[data["protocol"].isin(["shuffled"])]
    columns = [n for n in names if (data["dataset"] == n).any()]
    fig, axes = plt.subplots(
        2, len(columns), figsize=(2.1 * len(columns) + 3.2, 0.34 * len(methods) * 2 + 2.4), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for column, name in enumerate(columns):
        part = data[data["dataset"] == name]
        with_power = part[part["metric"] == "fpr"]["prevalence"]
        share = with_power.max() if len(with_power) else part["prevalence"].max()
        for axis, (metric, label) in zip(
            axes[:, column], (("fpr", "FPR (anomalies missed)"), ("fdp", "FDR (mean FDP)"))
        ):
            cell = part[(part["metric"] == metric) & (part["prevalence"] == share)]
            axis.set_title(f"{name.removeprefix('keel_')}\n{share:.0%} anomalies", fontsize=7)
            axis.set_xlabel(label, fontsize=8)
            axis.set_xlim(-0.03, 1.03)
            axis.grid(axis="y", color="0.92")
            if metric == "fdp":
                axis.axvline(0.1, color="0.0", linestyle=":", linewidth=1)
            if cell.empty:
                axis.text(0.5, len(methods) / 2, "no anomaly marked:\nno power", ha="center", fontsize=8)
                continue
            _dots(axis, cell, methods, "detector", "{}")
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(methods)), methods, fontsize=8)
    axes[0][0].invert_yaxis()
    shown = next(axis for axis in axes[1] if axis.get_legend_handles_labels()[0])
    handles, labels = shown.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    fig.suptitle("All detectors, all rules; dotted: level 0.1; bars: 95 % intervals over fits", fontsize=10)
    return fig


def fdp_spread(data: pd.DataFrame) -> Figure:
    """The FDR is a mean: for each rule the mean FDP and the 90 % quantile of the FDP over test batches."""
    data = data[data["metric"].isin(["fdp", "fdp_q90"]) & (data["method"] != "")]
    methods = list(dict.fromkeys(data["method"]))
    shares = sorted(data["prevalence"].unique())
    fig, axes = plt.subplots(
        1, len(shares), figsize=(3 * len(shares) + 2, 0.3 * len(methods) + 1.8), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, share in zip(axes[0], shares):
        for metric, marker, colour, label in (
            ("fdp", "o", "0.0", "mean FDP (FDR)"),
            ("fdp_q90", "D", "0.6", "90 % quantile of the FDP"),
        ):
            cell = data[(data["prevalence"] == share) & (data["metric"] == metric)]
            points = interval(cell, ["method"]).set_index("method").reindex(methods)
            axis.errorbar(
                points["mean"], range(len(methods)), xerr=points["half"], linestyle="", marker=marker,
                markersize=4, color=colour, elinewidth=1, label=label,
            )  # fmt: skip
        axis.axvline(0.1, color="0.0", linestyle=":", linewidth=1, label="level 0.1")
        axis.set_title(f"{share:.0%} anomalies", fontsize=9)
        axis.set_xlim(-0.03, 1.03)
        axis.set_xlabel("FDP")
        axis.grid(axis="y", color="0.92")
    axes[0][0].set_yticks(range(len(methods)), methods, fontsize=8)
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    fig.suptitle("Spread of the FDP; all detectors and data sets; bars: 95 % intervals", fontsize=10)
    return fig


def texture_detectors(data: pd.DataFrame) -> Figure:
    """AUROC of every detector on weak and strong defects, a panel a texture; small marks: kinds of defects."""
    textures = list(dict.fromkeys(data["texture"]))
    detectors = list(dict.fromkeys(data["detector"]))
    fig, axes = plt.subplots(
        1, len(textures), figsize=(3.2 * len(textures) + 1.2, 0.5 * len(detectors) + 1.6), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, texture in zip(axes[0], textures):
        part = data[(data["texture"] == texture) & (data["metric"] == "auroc")]
        for i, strength in enumerate(("weak", "strong")):
            points = interval(part[part["strength"] == strength], ["detector"])
            points = points.set_index("detector").reindex(detectors)
            height = np.arange(len(detectors)) + 0.3 * (i - 0.5)
            axis.errorbar(
                points["mean"], height, xerr=points["half"], linestyle="", marker=MARKERS[i], color=GREYS[2 * i],
                elinewidth=1, label=f"{strength} defects",
            )  # fmt: skip
        axis.axvline(0.5, color="0.5", linestyle=":", linewidth=1)
        axis.set_xlim(0.4, 1.02)
        axis.set_xlabel("AUROC (image level)")
        axis.set_title(texture, fontsize=9)
        axis.grid(axis="y", color="0.92")
    axes[0][0].set_yticks(range(len(detectors)), detectors)
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    fig.suptitle("Defects of kinds unseen in training; bars: 95 % intervals over fits", fontsize=10)
    return fig


def texture_rules(data: pd.DataFrame) -> Figure:
    """FPR of each rule on strong defects, a column a detector, a marker a calibration size; image level."""
    data = data[(data["level"] == "image") & (data["metric"] == "fpr") & (data["strength"] == "strong")]
    data = data[data["prevalence"] == data["prevalence"].max()]
    methods, detectors = list(dict.fromkeys(data["method"])), list(dict.fromkeys(data["detector"]))
    fig, axes = plt.subplots(
        1, len(detectors), figsize=(1.7 * len(detectors) + 2.2, 0.3 * len(methods) + 1.8), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, name in zip(axes[0], detectors):
        _dots(axis, data[data["detector"] == name], methods, "k", "k = {:g}")
        axis.set_xlim(-0.05, 1.05)
        axis.set_title(name, fontsize=9)
    axes[0][len(detectors) // 2].set_xlabel("FPR (share of defective tiles missed)", fontsize=9)
    axes[0][0].set_yticks(range(len(methods)), methods, fontsize=8)
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    share = data["prevalence"].max()
    fig.suptitle(
        f"Strong defects, {share:.0%} of the batch, alpha = 0.05; bars: 95 % intervals over textures and fits",
        fontsize=10,
    )
    return fig


def pixel_nulls(data: pd.DataFrame) -> Figure:
    """Share of normal pixels with p <= 0.05: on clean tiles, beside a strong defect, and farther off."""
    data = data[(data["metric"] == "null_p_below_alpha") & (data["strength"] != "weak")]
    detectors, kinds = list(dict.fromkeys(data["detector"])), list(dict.fromkeys(data["ranked"]))
    fig, axes = plt.subplots(
        1, len(kinds), figsize=(3.6 * len(kinds) + 1, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, kind in zip(axes[0], kinds):
        for i, (group, label) in enumerate(
            (
                ("clean", "clean tile"),
                ("far", "defective tile, far"),
                ("halo", "within 3 pixels of the defect"),
            )
        ):
            part = data[(data["ranked"] == kind) & (data["pixels"] == group)]
            fits = part.groupby(["detector", "texture", "seed", "fit"], as_index=False)["value"].mean()
            points = interval(fits, ["detector"]).set_index("detector").reindex(detectors)
            axis.errorbar(
                np.arange(len(detectors)) + 0.2 * (i - 1), points["mean"], yerr=points["half"], linestyle="",
                marker=MARKERS[i], color=GREYS[i], elinewidth=1, label=label,
            )  # fmt: skip
        axis.axhline(0.05, color="0.0", linestyle=":", linewidth=1, label="level 0.05")
        axis.set_xticks(range(len(detectors)), detectors)
        axis.set_title(f"p-values: {kind.replace('_', ' ')}", fontsize=9)
    axes[0][0].set_ylabel("share of normal pixels with p <= 0.05")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    fig.suptitle(
        "Normal pixels beside a defect are not exchangeable; bars: 95 % intervals over fits", fontsize=10
    )
    return fig
