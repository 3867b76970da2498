"""Figures of the pooling paper: constants, bounds, task scores, critical differences, weights, sensitivity, attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproven.papers.pooling.claims import critical_difference, rank_table

# Readable without colour: dash, marker and grey differ.
STYLES: list[dict[str, Any]] = [
    {"color": "#1b1b1b", "linestyle": "-", "marker": "o"},
    {"color": "#c44e00", "linestyle": "--", "marker": "s"},
    {"color": "#2a6fb0", "linestyle": "-.", "marker": "^"},
    {"color": "#7a7a7a", "linestyle": ":", "marker": "D"},
    {"color": "#4f8a3c", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#a0529c", "linestyle": (0, (1, 1)), "marker": "x"},
    {"color": "#b08a2e", "linestyle": (0, (8, 2)), "marker": "P"},
]
MAIN = ("pool_last", "pool_first", "pool_avg", "pool_sum", "pool_max", "pool_w_avg", "pool_latent")


def _short(name: str) -> str:
    return str(name).removeprefix("pool_").replace("_", " ")


def _pick(data: pd.DataFrame, metric: str, **where: Any) -> pd.DataFrame:
    rows = data[data["metric"] == metric]
    for name, wanted in where.items():
        if name not in rows.columns:
            return rows.iloc[:0]
        rows = rows[rows[name].isin(wanted) if isinstance(wanted, tuple | list) else rows[name] == wanted]
    return rows


def _grid(count: int, columns: int = 3, width: float = 4.2, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    fig, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
    )
    flat = list(axes.flat)
    for ax in flat[count:]:
        ax.set_visible(False)
    return fig, flat[:count]


def _half(values: pd.Series) -> float:
    """Half-width of Student's 95 % interval of a mean; 0 for one value."""
    from scipy import stats

    n = len(values)
    return 0.0 if n < 2 else float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


def constants(data: pd.DataFrame) -> Figure:
    """Largest movement found over the constant, each pooling, both norms: 1 is attained, above 1 would break it."""
    fig, (ax,) = _grid(1, width=9.0, height=4.2)
    rows = _pick(data, "attained")
    names = list(dict.fromkeys(rows["method"]))
    for k, (norm, hatch, colour) in enumerate((("frobenius", "", "#3b3b3b"), ("operator", "//", "#c9c9c9"))):
        mine = rows[rows["norm"] == norm].groupby("method")["value"].max().reindex(names)
        ax.bar(
            np.arange(len(names)) + 0.4 * k - 0.2,
            mine,
            0.4,
            color=colour,
            hatch=hatch,
            edgecolor="black",
            label=norm,
        )
    ax.axhline(1.0, color="black", linewidth=1, linestyle="--")
    ax.set_xticks(np.arange(len(names)), [_short(n) for n in names], rotation=60, ha="right")
    ax.set_ylabel("largest |g(Z+E)-g(Z)| / (L |E|)")
    ax.set_ylim(0, 1.25)
    ax.legend(title="norm of E", ncols=2, loc="upper right", fontsize=8)
    return fig


def bounds(data: pd.DataFrame) -> Figure:
    """Empirical constants of blocks against their bounds over n; Avg over Last for two kinds of noise."""
    fig, (left, right) = _grid(2, columns=2, width=5.0, height=3.8)
    for style, kind in zip(STYLES, ("dot", "l2", "scsa")):
        for metric, fill in (("bound", "none"), ("empirical", "full")):
            rows = _pick(data, metric, kind=kind).groupby("n")["value"]
            if len(rows) == 0:
                continue
            line = left.plot(rows.mean(), **style, fillstyle=fill, markersize=5)[0]
            line.set_label(f"{kind}, {'bound' if metric == 'bound' else 'found'}")
            left.fill_between(
                rows.min().index, rows.min(), rows.max(), color=style["color"], alpha=0.15, linewidth=0
            )
    left.set(
        xscale="log", yscale="log", xlabel="tokens n", ylabel="Lipschitz constant (band: range over models)"
    )
    left.legend(fontsize=7)
    for style, noise in zip(STYLES, ("incoherent", "sink")):
        rows = _pick(data, "avg_over_last", noise=noise).groupby("n")["value"]
        if len(rows) == 0:
            continue
        right.errorbar(
            rows.mean().index, rows.mean(), rows.apply(_half), label=f"{noise} noise", capsize=3, **style
        )
    lengths = np.array(sorted(data["n"].dropna().unique()), dtype=float)
    right.plot(lengths, 1.2 * lengths**-0.5, color="black", linewidth=0.8, label="slope -1/2")
    right.set(
        xscale="log", yscale="log", xlabel="tokens n", ylabel="|change of Avg| / |change of Last| (95 %)"
    )
    right.legend(fontsize=7)
    return fig


def task_scores(data: pd.DataFrame) -> Figure:
    """Scores of the main poolings on every task, both arms, with 95 % intervals over probe seeds."""
    rows = _pick(data, "score")
    names = list(dict.fromkeys(rows["task"].dropna()))
    fig, axes = _grid(len(names), columns=4, width=3.5, height=2.9)
    marks = _pick(data, "reference")
    for ax, task in zip(axes, names):
        mine = rows[rows["task"] == task]
        shown = [m for m in MAIN if (mine["method"] == m).any()]
        for k, (arm, fill) in enumerate((("P", "full"), ("C", "none"))):
            grouped = mine[mine["arm"] == arm].groupby("method")["value"]
            mean, half = grouped.mean().reindex(shown), grouped.apply(_half).reindex(shown)
            ax.errorbar(
                np.arange(len(shown)) + 0.2 * k - 0.1, mean, half, linestyle="none", marker="o" if k == 0 else "s",
                color="black" if k == 0 else "#c44e00", fillstyle=fill, capsize=2, markersize=5, label=f"arm {arm}",
            )  # fmt: skip
        for style, (_, mark) in zip(
            STYLES[3:], marks[marks["task"] == task].iterrows() if len(marks) else ()
        ):
            ax.axhline(mark["value"], color=style["color"], linestyle=style["linestyle"], linewidth=1)
            ax.annotate(
                str(mark["reference"]).replace("_", " "), (0.01, mark["value"]), xycoords=("axes fraction", "data"),
                fontsize=6, va="bottom",
            )  # fmt: skip
        lower = (mine["direction"] == "lower").any()
        unit = mine["unit"].iloc[0]
        if lower:
            ax.set_yscale("log")
        ax.set_ylabel(f"score, {'accuracy' if unit == '1' else 'MSE' if lower else unit}", fontsize=7)
        ax.set_title(
            f"{str(task).replace('_', ' ')} ({mine['scope'].iloc[0]}{', lower is better' if lower else ''})",
            fontsize=7,
        )
        ax.set_xticks(np.arange(len(shown)), [_short(m) for m in shown], rotation=50, ha="right", fontsize=7)
        ax.tick_params(axis="y", labelsize=7)
    if axes:
        axes[0].legend(fontsize=6)
    return fig


def critical_difference_axes(ax: Axes, data: pd.DataFrame, title: str) -> None:
    """Draw mean ranks over tasks and the critical difference of Nemenyi's test."""
    ranks = rank_table(data)
    mean = ranks.mean().sort_values()
    width = critical_difference(ranks.shape[1], ranks.shape[0])
    y = np.arange(len(mean))
    ax.errorbar(mean, y, xerr=width / 2, fmt="o", color="black", ecolor="#9a9a9a", capsize=2, markersize=4)
    ax.set_yticks(y, [_short(n) for n in mean.index], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel(
        f"mean rank over {len(ranks)} tasks, 1 best (bars: half the critical difference {width:.1f})",
        fontsize=7,
    )
    ax.set_title(title, fontsize=8)


def critical_difference_of_arm(data: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return the oriented scores of one arm on the tasks that are no control."""
    return _pick(data, "utility", arm=arm, scope=["global", "local", "mixed"])


def critical_difference_figure(data: pd.DataFrame) -> Figure:
    """Mean ranks of all poolings over tasks in both arms; bars that do not overlap differ (Nemenyi, 5 %)."""
    fig, axes = _grid(2, columns=2, width=5.2, height=5.2)
    for ax, arm in zip(axes, ("P", "C")):
        critical_difference_axes(ax, critical_difference_of_arm(data, arm), f"arm {arm}")
    return fig


def learned_weights(data: pd.DataFrame) -> Figure:
    """W-Avg's learned weights by position from the end, and cosines of its vector to the fixed poolings'."""
    rows = _pick(data, "weight", method="pool_w_avg")
    fig, (left, right) = _grid(2, columns=2, width=6.0, height=4.6)
    mean = rows.groupby(["task", "from_end"])["value"].mean().unstack("from_end").iloc[:, :32]
    counts = rows.groupby("task")["from_end"].nunique()
    uniform = mean.mul(counts.reindex(mean.index), axis=0)
    drawn = left.imshow(np.log2(uniform.clip(lower=2.0**-3)), cmap="Greys", vmin=-2, vmax=3, aspect="auto")
    left.set_yticks(range(len(uniform)), [str(t).replace("_", " ") for t in uniform.index], fontsize=6)
    left.set_xlabel("position, from the last token (0) backwards; blank: no token")
    fig.colorbar(drawn, ax=left, label="log$_2$ of the learned weight over 1/n")
    cosine = _pick(data, "cosine", method="pool_w_avg")
    table = cosine.pivot_table(index="task", columns="fixed", values="value").reindex(
        columns=["pool_avg", "pool_last", "pool_max", "pool_first"]
    )
    image = right.imshow(table.to_numpy(), cmap="Greys", vmin=0, vmax=1, aspect="auto")
    right.set_xticks(range(table.shape[1]), [_short(c) for c in table.columns])
    right.set_yticks(range(table.shape[0]), [str(t).replace("_", " ") for t in table.index], fontsize=6)
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        right.text(
            j,
            i,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=6,
            color="white" if value > 0.6 else "black",
        )
    fig.colorbar(image, ax=right, label="mean cosine of W-Avg to the fixed pooling")
    return fig


def norm_against_lead(data: pd.DataFrame) -> Figure:
    """Does |a|_2 of a learned W-Avg say whether Last or Avg is better? One point a task, arm P."""
    fig, (ax,) = _grid(1, width=7.0, height=4.2)
    norm = _pick(data, "sharpness", method="pool_w_avg").groupby("task")["value"].mean()
    scores = _pick(data, "utility", arm="P").groupby(["task", "method"])["value"].mean().unstack("method")
    norm = norm.drop(index=[t for t in norm.index if str(t).endswith("shuffled")])
    lead = (scores["pool_last"] - scores["pool_avg"]) / scores[["pool_last", "pool_avg"]].abs().max(axis=1)
    for number, task in enumerate(norm.index.intersection(lead.index)):
        mark = chr(ord("A") + number)
        ax.plot(norm[task], lead[task], marker=rf"$\mathrm{{{mark}}}$", color="black", markersize=6, linestyle="",
                label=str(task).replace("_", " "))  # fmt: skip
    ax.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set(xlabel="|a|$_2$ sqrt(n) of W-Avg (1: uniform)", ylabel="lead of Last over Avg, relative")
    return fig


def _curves(ax: Axes, rows: pd.DataFrame, x: str, members: Sequence[str], axis: str = "method") -> None:
    for style, name in zip(STYLES, members):
        grouped = rows[rows[axis] == name].groupby(x)["value"]
        if len(grouped):
            ax.errorbar(
                grouped.mean().index, grouped.mean(), grouped.apply(_half), label=_short(name), capsize=2, markersize=4,
                linewidth=1.2, **style,
            )  # fmt: skip


def expressivity(data: pd.DataFrame) -> Figure:
    """gamma over epsilon in each modality, as the paper draws it and divided by the scale of the outputs."""
    sources = list(dict.fromkeys(_pick(data, "gamma")["source"]))
    fig, axes = _grid(2 * len(sources), columns=len(sources), width=4.0, height=3.2)
    for row, (metric, label) in enumerate(
        (("gamma", "mean |f(X)-f(X')|$_2$"), ("scale_free", "divided by the mean distance of inputs"))
    ):
        for column, source in enumerate(sources):
            ax = axes[row * len(sources) + column]
            rows = _pick(data, metric, source=source)
            _curves(ax, rows, "share", list(dict.fromkeys(rows["method"])))
            ax.set(xscale="log", yscale="log", xlabel="epsilon, share of |X|$_F$", title=str(source))
            if column == 0:
                ax.set_ylabel(label + " (95 %)", fontsize=8)
    axes[0].legend(fontsize=6)
    return fig


def sentences(data: pd.DataFrame) -> Figure:
    """Distance to variants of a sentence, and the AUC between synonyms and unrelated words, each pooling."""
    fig, (left, right) = _grid(2, columns=2, width=5.2, height=3.8)
    names = list(dict.fromkeys(_pick(data, "auc")["method"]))
    for k, (kind, fill) in enumerate((("synonym", "none"), ("unrelated", "full"))):
        grouped = _pick(data, "variant_distance", kind=kind).groupby("method")["value"]
        left.errorbar(
            np.arange(len(names)) + 0.2 * k - 0.1, grouped.mean().reindex(names), grouped.apply(_half).reindex(names),
            linestyle="none", marker="os"[k], color="black" if k else "#c44e00", fillstyle=fill, capsize=2, label=kind,
        )  # fmt: skip
    left.set(yscale="log", ylabel="distance of pooled vectors (95 %)")
    left.legend(fontsize=7)
    grouped = _pick(data, "auc").groupby("method")["value"]
    right.errorbar(
        np.arange(len(names)), grouped.mean().reindex(names), grouped.apply(_half).reindex(names), linestyle="none",
        marker="o", color="black", capsize=2,
    )  # fmt: skip
    right.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
    right.set_ylabel("AUC, unrelated against synonym (95 %)")
    for ax in (left, right):
        ax.set_xticks(np.arange(len(names)), [_short(n) for n in names], rotation=60, ha="right", fontsize=7)
    return fig


def attacks(data: pd.DataFrame) -> Figure:
    """Success of the attacks on each pooling's probe, two budgets, 95 % intervals over probe seeds."""
    rows = _pick(data, "success")
    budgets = sorted(rows["epsilon"].unique())
    fig, axes = _grid(len(budgets), columns=2, width=5.4, height=3.8)
    names = list(dict.fromkeys(rows["method"]))
    kinds = [(a, l) for a in ("fgsm", "pgd") for l in ("cross_entropy", "normalised")]
    for ax, level in zip(axes, budgets):
        for k, (style, (attack, loss)) in enumerate(zip(STYLES, kinds)):
            mine = rows[(rows["epsilon"] == level) & (rows["attack"] == attack) & (rows["loss"] == loss)]
            grouped = mine.groupby("method")["value"]
            ax.errorbar(
                np.arange(len(names)) + 0.16 * (k - 1.5), 100 * grouped.mean().reindex(names),
                100 * grouped.apply(_half).reindex(names), linestyle="none", marker=style["marker"],
                color=style["color"], capsize=2, markersize=5, label=f"{attack.upper()}, {loss.replace('_', ' ')}",
            )  # fmt: skip
        ax.set_xticks(np.arange(len(names)), [_short(n) for n in names], rotation=40, ha="right")
        ax.set(title=f"epsilon {level:g}/255", ylabel="success on initially correct digits, %")
    if axes:
        axes[0].legend(fontsize=7)
    return fig


def signal(data: pd.DataFrame) -> Figure:
    """Error over the number of signal tokens among 128, end-to-end training, 95 % intervals over seeds."""
    fig, (ax,) = _grid(1, width=5.6, height=4.0)
    rows = _pick(data, "relative_error")
    _curves(ax, rows, "k", list(dict.fromkeys(rows["method"])))
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="signal tokens k of 128",
        ylabel="squared error over variance (95 %)",
    )
    ax.legend(fontsize=8)
    return fig
