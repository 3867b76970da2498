"""Figures of the critical-scaling experiments; each takes the experiment's measurements."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "d")
GREYS = ("0.0", "0.25", "0.45", "0.6", "0.72", "0.82")
LINES = ("-", "--", "-.", ":")


def interval(data: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean and half-width of the 95 % t interval of `value` for each combination of `by`."""
    groups = data.groupby(by, sort=True)["value"]
    count = groups.count()
    half = groups.sem().fillna(0.0) * stats.t.ppf(0.975, np.maximum(count - 1, 1))
    return pd.DataFrame({"mean": groups.mean(), "half": half}).reset_index()


def _of(data: pd.DataFrame, metric: str) -> pd.DataFrame:
    return data[data["metric"] == metric]


def bracket(data: pd.DataFrame) -> Figure:
    """Where beta_{2/3} lies in its bracket [B, 3 B], and how often the broken twin leaves it."""
    families = list(dict.fromkeys(_of(data, "rows_checked")["family"]))
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, layout="constrained")
    place = np.arange(len(families))
    for metric, marker, label in (
        ("bracket_ratio_median", "o", "median"),
        ("bracket_ratio_max", "s", "largest"),
    ):
        values = _of(data, metric).groupby("family")["value"].mean().reindex(families)
        left.plot(values, place, marker, color="0.2" if marker == "o" else "0.6", label=label)
    for edge in (1, 3):
        left.axvline(edge, color="0.0", linestyle="--", linewidth=1)
    left.set_xlabel("beta_2/3 over B (dashed: the bracket of Theorem A)")
    left.set_yticks(place, families)
    left.set_xlim(0.9, 3.1)
    left.legend(frameon=False, fontsize=8)
    broken = _of(data, "violations")
    for part, marker, grey in (("two_thirds", "o", "0.0"), ("control_log_n", "x", "0.4")):
        values = broken[broken["part"] == part].groupby("family")["value"].mean().reindex(families)
        label = "log(1 + N), as defined" if part == "two_thirds" else "control: log N"
        right.plot(values, place, marker, color=grey, label=label)
    right.set_xlabel("rows outside the bracket (counts; no sampling error)")
    right.legend(frameon=False, fontsize=8)
    left.invert_yaxis()
    fig.suptitle("Theorem A row by row")
    return fig


def _family_lines(axis, data: pd.DataFrame) -> None:
    for i, (name, part) in enumerate(data.groupby("family", sort=False)):
        line = part.groupby("log10_n")["value"].mean()
        axis.plot(
            line.index, line, marker=MARKERS[i % 12], linestyle=LINES[i % 4], color=GREYS[i % 5], markersize=4,
            linewidth=1, label=str(name).replace("_", " "),
        )  # fmt: skip


def exponents(data: pd.DataFrame) -> Figure:
    """Local exponents d log B / d log log n of the score families against n, with their limits."""
    limits = {
        "weibull_half": -1.0, "exponential": 0.0, "gaussian": 0.5, "weibull_4": 0.75, "edge_q2": 1.5, "edge_q1": 2.0,
        "edge_qhalf": 3.0,
    }  # fmt: skip
    fig, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    part = _of(data, "local_exponent")
    _family_lines(axis, part[part["family"].isin(limits)])
    right = part["log10_n"].max() + 0.15
    for name, value in limits.items():
        if name in set(part["family"]):
            axis.plot([right, right + 0.2], [value, value], color="0.0", linewidth=2)
    axis.set_xlabel("log10 of the number of keys n (black dashes at the right: limits)")
    axis.set_ylabel("local exponent of B in log n")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.set_title("One line of exponents; quantile rows, no sampling error", fontsize=10)
    return fig


def scales(data: pd.DataFrame) -> Figure:
    """B of the score families against n."""
    fig, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    _family_lines(axis, _of(data, "scale"))
    axis.set_yscale("log")
    axis.set_xlabel("log10 of the number of keys n")
    axis.set_ylabel("accumulation scale B (1 / score)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.set_title(
        "Critical inverse temperature of score families; quantile rows, no sampling error", fontsize=10
    )
    return fig


def quantiles(data: pd.DataFrame) -> Figure:
    """The law of B / scale of Gumbel-class rows by its quantiles, and REM's distance to Poisson-Dirichlet."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    line = interval(_of(data, "poisson_quantile"), ["quantile"])
    left.errorbar(line["quantile"], line["mean"], yerr=line["half"], marker="o", color="0.0", linestyle="-")
    left.set_yscale("log")
    left.set_xlabel("quantile (%)")
    left.set_ylabel("B over its scale")
    left.set_title("Gumbel-class rows: B does not settle", fontsize=10)
    for i, (c, part) in enumerate(_of(data, "rem_excess").groupby("c")):
        line = interval(part, ["log2_n"])
        right.errorbar(
            line["log2_n"], line["mean"], yerr=line["half"], marker=MARKERS[i], color=GREYS[i],
            linestyle=LINES[i], label=f"c = {c:g}",
        )  # fmt: skip
    right.axhline(0, color="0.0", linewidth=0.8)
    right.set_xlabel("log2 of the number of keys n")
    right.set_ylabel("E sum p^2 less (1 - 1/c)")
    right.legend(frameon=False, fontsize=8)
    right.set_title("Random energy model", fontsize=10)
    fig.suptitle("Bars: 95 % intervals over blocks", fontsize=9)
    return fig


def schedule_table(data: pd.DataFrame) -> Figure:
    """p_max against n under each power of log n and the B-rule, one panel a family."""
    part = _of(data, "p_max")
    families, rules = list(dict.fromkeys(part["family"])), list(dict.fromkeys(part["rule"]))
    fig, axes = plt.subplots(
        1, len(families), figsize=(3.0 * len(families), 3.6), sharey=True, layout="constrained"
    )
    for axis, family in zip(np.atleast_1d(axes), families):
        for i, rule in enumerate(rules):
            line = part[(part["family"] == family) & (part["rule"] == rule)].groupby("log2_n")["value"].mean()
            axis.plot(
                line.index, line, marker=MARKERS[i], linestyle=LINES[i % 4], color=GREYS[i % 5], markersize=4,
                linewidth=2.2 if rule == "b_rule" else 1, label=rule.replace("_", " "),
            )  # fmt: skip
        axis.axhline(0.5, color="0.7", linewidth=0.8)
        axis.set_title(family.replace("_", " "), fontsize=10)
        axis.set_xlabel("log2 of n")
    np.atleast_1d(axes)[0].set_ylabel("p_max (calibrated to 1/2 at n = 1024)")
    fig.legend(
        *np.atleast_1d(axes)[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        frameon=False,
    )
    fig.suptitle("Which schedule keeps the winner's weight; quantile rows, no sampling error", fontsize=10)
    return fig


def ssmax(data: pd.DataFrame) -> Figure:
    """p_max of one score 5 above the rest under SSMax, and what broken twins change."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    line = _of(data, "ssmax_p_max").groupby("log2_n")["value"].mean()
    left.plot(line.index, line, "o-", color="0.0", label="multiplied by s log n")
    left.axhline(0.535, color="0.4", linestyle="--", label="guaranteed by Theorem A")
    left.set_xlabel("log2 of n")
    left.set_ylabel("p_max")
    left.set_ylim(0.5, 1.02)
    left.legend(frameon=False, fontsize=8)
    error = _of(data, "mask_error").groupby("twin")["value"].mean()
    right.barh(error.index, error, color="0.6", edgecolor="0.0")
    right.set_xlabel("relative error of B (masked out: largest; far keys: least)")
    fig.suptitle("SSMax on a gap of 5, and masked keys; deterministic", fontsize=10)
    return fig


def head_maps(data: pd.DataFrame) -> Figure:
    """Median B by head and layer at the longest length, with the half-width of its interval over documents."""
    part = _of(data, "head_scale")
    part = part[(part["mode"] == "prefix") & (part["n"] == part["n"].max())]
    fig, axes = plt.subplots(2, 2, figsize=(9.5, 8.0), layout="constrained", squeeze=False)
    for column, keys in enumerate(("all", "no_first")):
        logs = part[part["keys"] == keys].assign(value=lambda d: np.log2(d["value"]))
        table = interval(logs, ["layer", "head"])
        for row, (name, label) in enumerate((("mean", "log2 of B"), ("half", "95 % half-width, log2"))):
            grid = table.pivot(index="layer", columns="head", values=name)
            limits = {"vmin": -3, "vmax": 3} if name == "mean" else {"vmin": 0, "vmax": 1.5}
            mesh = axes[row][column].pcolormesh(
                grid.columns, grid.index, grid, cmap="Greys", shading="nearest", **limits
            )
            fig.colorbar(mesh, ax=axes[row][column], label=label, extend="both" if name == "mean" else "max")
            axes[row][column].invert_yaxis()
            axes[row][column].set_xlabel("head")
            axes[row][column].set_ylabel("layer")
            axes[row][column].set_title("all keys" if keys == "all" else "without the first key", fontsize=10)
    documents = part.groupby("source")["document"].nunique().sum()
    network = part["network"].iloc[0]
    fig.suptitle(
        f"{network}, n = {part['n'].max():.0f}: median B by head over {documents} documents; below 0 condensed",
        fontsize=10,
    )
    return fig


def scale_against_length(data: pd.DataFrame) -> Figure:
    """Median B over heads against n, with and without the first key, and the share of condensed heads."""
    fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.6), layout="constrained")
    panels = (
        ("scale", "B (1 / logit), median over heads"),
        ("share_condensed", "share of heads with B < 1"),
        ("layer_scale", "B (1 / logit), median over heads"),
    )
    for axis, (metric, label) in zip(axes, panels):
        part = _of(data, metric)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("number of keys n")
        axis.set_ylabel(label)
        split = "layers" if metric == "layer_scale" else "keys"
        for i, ((mode, which), rows) in enumerate(part.groupby(["mode", split], sort=True)):
            line = interval(rows, ["n"])
            axis.errorbar(
                line["n"], line["mean"], yerr=line["half"], marker=MARKERS[i], color=GREYS[i],
                linestyle=LINES[i % 4], markersize=4, label=f"{mode}, {str(which).replace('_', ' ')}",
            )  # fmt: skip
        axis.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        if metric != "share_condensed":
            axis.axhline(1.0, color="0.7", linewidth=0.8)
    network = _of(data, "scale")["network"].iloc[0]
    fig.suptitle(f"{network}; bars: 95 % intervals over documents", fontsize=10)
    return fig


def head_exponents(data: pd.DataFrame) -> Figure:
    """Exponent of every head with its bootstrap interval, sorted, and the share of heads by law."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=(2, 1))
    part = _of(data, "head_exponent")
    if part.empty:
        left.text(0.5, 0.5, "fewer than four lengths", ha="center")
        return fig
    part = part[part["mode"] == "prefix"]
    for i, (source, rows) in enumerate(part.groupby("source")):
        table = rows.pivot_table(index=["layer", "head"], columns="end", values="value").sort_values("value")
        x = np.arange(len(table)) / len(table)
        left.fill_between(x, table["low"], table["high"], color=("0.8", "0.9")[i % 2], linewidth=0)
        left.plot(x, table["value"], linestyle=LINES[i], color="0.0", label=str(source).replace("_", " "))
    for value in (0, 0.5, 1, 2):
        left.axhline(value, color="0.6", linewidth=0.6, linestyle=":")
    left.set_ylim(-2, 4)
    left.set_xlabel("heads, sorted by exponent (share)")
    left.set_ylabel("exponent of B in log n; band: 95 % bootstrap")
    left.legend(frameon=False, fontsize=8)
    law = _of(data, "share_of_heads")
    table = law[law["mode"] == "prefix"].pivot_table(
        index="law", columns="source", values="value", sort=False
    )
    for i, source in enumerate(table.columns):
        right.bar(
            np.arange(len(table)) + 0.4 * i, table[source], 0.38, color=("0.35", "0.75")[i % 2], edgecolor="0.0",
            label=str(source).replace("_", " "),
        )  # fmt: skip
    right.set_xticks(
        np.arange(len(table)) + 0.2, [str(x).replace("_", " ") for x in table.index], rotation=30
    )
    right.set_ylabel("share of heads whose B it fits best (AIC)")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    fig.suptitle(f"{part['network'].iloc[0]}: laws of B by head, prefix mode", fontsize=10)
    return fig


def rules(data: pd.DataFrame) -> Figure:
    """Gain of each rule over the native model by length, paired over documents, by position scheme or source."""
    data = data[data["method"] != ""]
    metrics = [m for m in ("loss", "retrieved") if m in set(data["metric"])]
    column = "positions" if "positions" in data else "source"
    schemes = sorted(data[column].dropna().unique())
    labels = {
        "loss": "loss less that of the native model (nats)",
        "retrieved": "needles found less the native share",
    }
    names = {"none": "no positions", "rotary": "rotary positions"}
    fig, axes = plt.subplots(
        len(metrics), len(schemes), figsize=(5.4 * len(schemes), 4.2 * len(metrics)), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, metric in zip(axes, metrics):
        for axis, scheme in zip(line, schemes):
            part = _of(data, metric)
            _gains(axis, part[part[column] == scheme])
            axis.set_xlabel(labels[metric])
            name = names.get(scheme, str(scheme).replace("_", " "))
            axis.set_title(f"{name} {axis.get_title()}".strip(), fontsize=10)
    fig.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=8,
    )
    fig.suptitle(
        "Length extrapolation under each rule; bars: 95 % intervals, paired over documents", fontsize=10
    )
    return fig


def _gains(axis, part: pd.DataFrame) -> None:
    """Dots: the mean paired difference to the native model; its own mean by length stands in the title."""
    table = part.pivot_table(index=["n", "document"], columns="method", values="value", sort=False)
    others = [m for m in table.columns if m != "beta_none"]
    lengths = sorted(part["n"].unique())
    native = table["beta_none"].groupby("n").mean()
    for i, n in enumerate(lengths):
        gain = table.loc[n][others].sub(table.loc[n]["beta_none"], axis=0)
        half = gain.sem().fillna(0.0) * stats.t.ppf(0.975, max(1, len(gain) - 1))
        place = np.arange(len(others)) + 0.16 * (i - (len(lengths) - 1) / 2)
        axis.errorbar(
            gain.mean(), place, xerr=half, linestyle="", marker=MARKERS[i], color=GREYS[i % 5], markersize=4,
            label=f"{n:.0f} tokens",
        )  # fmt: skip
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.set_yticks(range(len(others)), [m.removeprefix("beta_").replace("_", " ") for m in others])
    axis.set_ylim(len(others) - 0.4, -0.6)
    axis.grid(axis="y", color="0.93")
    shown = ", ".join(f"{native[n]:.3g}" for n in lengths)
    axis.set_title(f"(native: {shown})")


def costs(data: pd.DataFrame) -> Figure:
    """Time and memory of the diagnostic relative to the forward pass."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, metric, label in zip(
        axes, ("seconds", "peak_memory_mib"), ("seconds a pass", "peak memory above start (MiB)")
    ):
        table = interval(_of(data, metric), ["way"])
        axis.barh(table["way"], table["mean"], xerr=table["half"], color="0.7", edgecolor="0.0")
        axis.set_xlabel(label)
    fig.suptitle("One pass with and without statistics; bars: 95 % intervals over repeats", fontsize=10)
    return fig


def costs_by_length(data: pd.DataFrame) -> Figure:
    """Seconds and peak GPU memory of a pass against its length, one line a way, one column a precision."""
    precisions = sorted(data["precision"].unique(), reverse=True)
    fig, axes = plt.subplots(
        2, len(precisions), figsize=(4.6 * len(precisions), 6.4), sharex=True, sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for line, metric, label in zip(
        axes, ("seconds", "peak_memory_mib"), ("seconds a pass", "peak memory above start (MiB)")
    ):
        for axis, precision in zip(line, precisions):
            part = _of(data, metric)
            part = part[part["precision"] == precision]
            for i, (way, rows) in enumerate(part.groupby("way", sort=False)):
                low, middle, high = (rows.groupby("n")["value"].quantile(q) for q in (0, 0.5, 1))
                axis.errorbar(
                    middle.index, middle, yerr=[middle - low, high - middle], marker=MARKERS[i], color=GREYS[i],
                    linestyle=LINES[i], markersize=4, label=way,
                )  # fmt: skip
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.grid(color="0.93")
        line[0].set_ylabel(label)
    for axis, precision in zip(axes[0], precisions):
        axis.set_title(precision, fontsize=10)
    for axis in axes[1]:
        axis.set_xlabel("tokens")
    fig.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    fig.suptitle(
        "One pass with and without statistics; median over repeats, bars: smallest to largest", fontsize=10
    )
    return fig
