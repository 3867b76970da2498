"""Figures of the ProGrad experiments; each takes the experiment's measurements."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREYS = ("0.0", "0.35", "0.6", "0.75")


def soundness(data: pd.DataFrame) -> Figure:
    """Largest violation of each network, with the activation condition held and dropped, by edited layer."""
    part = data[data["metric"] == "violation"]
    layers = [name for name in ("first", "middle", "last", "in_turn") if name in set(part["layer"])]
    fig, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for k, (condition, marker, colour) in enumerate((("held", "o", "0.0"), ("dropped", "^", "0.5"))):
        for i, layer in enumerate(layers):
            y = part[(part["layer"] == layer) & (part["condition"] == condition)]["value"].to_numpy()
            x = i + 0.25 * (k - 0.5) + np.linspace(-0.08, 0.08, len(y))
            label = f"condition {condition}" if i == 0 else None
            axis.plot(x, y, marker, color=colour, markersize=4, label=label)
    axis.axhline(0.0, color="0.6", linestyle=":", linewidth=1)
    axis.set_xticks(
        range(len(layers)), [f"{name} layer" if name != "in_turn" else "in turn" for name in layers]
    )
    axis.set_ylabel("largest violation of a Jacobian entry")
    axis.set_title("Boxes on Jacobians: each dot a network; above 0 is violated")
    axis.legend(frameon=False)
    return fig


def _spread(data: pd.DataFrame, by: str) -> pd.DataFrame:
    """Mean, least and largest value of each member of `by`, in order of appearance."""
    return data.groupby(by, sort=False)["value"].agg(["mean", "min", "max"])


def _bars(
    axis: plt.Axes, table: pd.DataFrame, names: list[str], label: str, k: int = 0, count: int = 1
) -> None:
    height = np.arange(len(names)) + 0.7 / count * (k - (count - 1) / 2)
    rows = table.reindex(names)
    axis.errorbar(
        100 * rows["mean"], height, xerr=100 * np.vstack([rows["mean"] - rows["min"], rows["max"] - rows["mean"]]),
        linestyle="", marker=MARKERS[k], markersize=4, color=GREYS[k], elinewidth=1, label=label,
    )  # fmt: skip


def _editors(data: pd.DataFrame, split: str, unit: str) -> Figure:
    data = data[data["method"] != ""]
    methods = [m for m in dict.fromkeys(data["method"]) if not str(m).startswith("(")]
    if "precision" in data.columns:
        data = data[data["precision"].isna() | (data["precision"] == "own")]
    fig, axes = plt.subplots(
        1, 3, figsize=(11, 0.36 * len(methods) + 1.6), sharey=True, layout="constrained", squeeze=False
    )
    panels = (
        ("satisfied", f"{unit} satisfied (%)"),
        ("mean_cosine", "mean cosine (%)"),
        ("accuracy", "accuracy (%)"),
    )
    for axis, (metric, label) in zip(axes[0], panels):
        part = data[data["metric"] == metric]
        if metric != "accuracy":
            _bars(axis, _spread(part, "method"), methods, metric)
        else:
            for k, name in enumerate(("edit", split)):
                rows = part[part["split"] == name]
                shown = "edit set" if name == "edit" else "held out"
                if len(rows):
                    _bars(axis, _spread(rows, "method"), methods, shown, k, 2)
            axis.legend(frameon=False, fontsize=8)
        axis.set_xlabel(label)
        axis.grid(axis="y", color="0.92")
        axis.set_xlim(-3, 103)
    axes[0][0].set_yticks(range(len(methods)), methods)
    axes[0][0].invert_yaxis()
    fig.suptitle(
        "Editors of the last layer: mean over edit sets; bars reach from the least to the largest set"
    )
    return fig


def editors(data: pd.DataFrame) -> Figure:
    """Pixels satisfied, cosine and accuracy of every editor of Grad-CAM maps."""
    split = "test" if "test" in set(data["split"].dropna()) else "shifted"
    return _editors(data, split, "pixels")


def language_editors(data: pd.DataFrame) -> Figure:
    """Tokens satisfied, cosine and accuracy of every editor of Integrated Gradients."""
    return _editors(data, "test", "tokens")


def map_triples(data: pd.DataFrame) -> Figure:
    """Maps of the first images: the target, before and after the edit; and where the edited one lies in its band."""
    part = data[data["metric"] == "map"]
    first = part["dataset"].dropna().unique()
    if len(first) > 1:
        part = part[part["dataset"] == first[0]]
    images = sorted(part["image"].unique())
    columns = (("(target)", "clean: target"), ("attr_original", "before"), ("prograd_keep", "after"))
    fig, axes = plt.subplots(
        len(images), 4, figsize=(10, 2.3 * len(images) + 0.5), layout="constrained", squeeze=False,
        width_ratios=[1, 1, 1, 2],
    )  # fmt: skip
    picture = None
    for line, image in zip(axes, images):
        rows = {}
        for axis, (method, title) in zip(line, columns):
            one = part[(part["image"] == image) & (part["method"] == method)].sort_values("entry")
            rows[method] = one["value"].to_numpy()
            side = round(len(one) ** 0.5)
            picture = axis.imshow(rows[method].reshape(side, side), cmap="gray", vmin=0, vmax=1)
            axis.set_title(f"{title}, image {image:g}", fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
        off = 100 * (rows["prograd_keep"] - rows["(target)"])
        line[3].axhspan(-1, 1, color="0.85", label="allowed: ± 0.01")
        line[3].plot(off, "o", color="0.0", markersize=3, label="after")
        before = 100 * (rows["attr_original"] - rows["(target)"])
        line[3].plot(before, "^", color="0.5", markersize=3, label="before")
        line[3].set_yscale("symlog", linthresh=2)
        line[3].set_xlabel("entry of the map")
        line[3].set_ylabel("off target (hundredths)")
    axes[0][3].legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    if picture is not None:
        fig.colorbar(picture, ax=axes[:, :3].ravel().tolist(), shrink=0.6, label="normalised map")
    return fig


def token_attributions(data: pd.DataFrame) -> Figure:
    """Attributions of the tokens of the first sentences: target with its band, before and after."""
    part = data[data["metric"] == "attribution"]
    keys = [k for k in ("dataset", "prompt") if k in part.columns and part[k].astype(str).str.len().min() > 0]
    groups = list(part.groupby(keys, sort=True))[:4]
    fig, axes = plt.subplots(
        len(groups), 1, figsize=(7, 2.2 * len(groups) + 0.6), layout="constrained", squeeze=False
    )
    for axis, (point, rows) in zip(axes[:, 0], groups):
        target = rows[rows["method"] == "(target)"].sort_values("token")
        x, y = target["token"].to_numpy(), target["value"].to_numpy()
        axis.fill_between(x, y - 0.05, y + 0.05, color="0.85", label="allowed: target ± 0.05")
        for method, marker, colour, label in (
            ("attr_original", "^", "0.5", "before"), ("prograd", "o", "0.0", "after")
        ):  # fmt: skip
            own = rows[rows["method"] == method].sort_values("token")
            axis.plot(own["token"], own["value"], marker, color=colour, markersize=4, label=label)
        axis.set_ylabel("normalised attribution")
        axis.set_title(
            ", ".join(
                f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
                for k, v in zip(keys, np.atleast_1d(np.array(point, dtype=object)))
            ),
            fontsize=9,
        )
        axis.set_xticks(x)
    axes[-1][0].set_xlabel("token of the sentence")
    axes[0][0].legend(frameon=False, fontsize=8)
    return fig


def gradient_bounds(data: pd.DataFrame) -> Figure:
    """The slope of one network before and after the edit, inside the bounds ± x."""
    part = data[data["metric"] == "slope"]
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axis, width in zip(axes, (3 * np.pi, 0.6)):
        for stage, style, colour, label in (
            ("f'", "-", "0.7", "f' = x sin x"), ("gd", "--", "0.4", "training alone"),
            ("prograd_cuts", "-", "0.0", "edited, with cuts"),
        ):  # fmt: skip
            rows = part[(part["stage"] == stage) & (part["x"] <= width)].sort_values("x")
            axis.plot(rows["x"], rows["value"], style, color=colour, linewidth=1.2, label=label)
        edge = np.array([0, width])
        axis.fill_between(edge, -edge, edge, color="0.93", label="allowed: |N'| <= x")
        axis.set_xlabel("x")
        axis.set_ylabel("slope N'(x)")
    axes[0].legend(frameon=False, fontsize=8)
    axes[1].set_title("near zero, where the bound is tight", fontsize=9)
    axes[0].set_title("whole interval", fontsize=9)
    return fig


def function_errors(data: pd.DataFrame) -> Figure:
    """Errors and violations of every network by stage."""
    stages = [s for s in ("gd", "prograd", "prograd_cuts") if s in set(data["stage"].dropna())]
    names = {"gd": "training", "prograd": "edited", "prograd_cuts": "with cuts"}
    panels = (("gradient_mse", "slope: mean squared error"), ("output_mse", "value: mean squared error"),
              ("violation", "training points violated (%)"),
              ("dense_violation", "dense grid violated (%)"))  # fmt: skip
    fig, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
    for axis, (metric, label) in zip(axes, panels):
        for i, stage in enumerate(stages):
            y = data[(data["metric"] == metric) & (data["stage"] == stage)]["value"].to_numpy()
            axis.plot(i + np.linspace(-0.12, 0.12, len(y)), y, MARKERS[i], color=GREYS[i], markersize=4)
        axis.set_xticks(range(len(stages)), [names[s] for s in stages])
        axis.set_ylabel(label)
        axis.set_yscale(
            "log" if metric.endswith("mse") else "symlog",
            **({} if metric.endswith("mse") else {"linthresh": 0.01}),
        )
        if not metric.endswith("mse"):
            axis.set_ylim(-0.005, 2 * max(0.01, data[data["metric"] == metric]["value"].max()))
    fig.suptitle("Function approximation under bounds on the slope: each mark a network")
    return fig


def capacity(data: pd.DataFrame) -> Figure:
    """Share of digits with an edit, and test accuracy, against asked values a weight."""
    wide = data.pivot_table(index=["images", "digit", "draw"], columns="metric", values="value").reset_index()
    grouped = wide.groupby("images")
    load = grouped["load"].mean()
    fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    axes[0].plot(load, 100 * grouped["feasible"].mean(), "o-", color="0.0", markersize=4)
    axes[0].set_ylabel("digits with an edit (%)")
    if "accuracy" in wide.columns:
        mean = 100 * grouped["accuracy"].mean()
        low, high = 100 * grouped["accuracy"].min(), 100 * grouped["accuracy"].max()
        axes[1].errorbar(
            load, mean, yerr=[mean - low, high - mean], marker="s", color="0.3", markersize=4, capsize=2
        )
    axes[1].set_ylabel("test accuracy (%), least to largest")
    for axis in axes:
        axis.set_xlabel("asked values a weight, 15 n / 512")
        axis.axvline(1.0, color="0.6", linestyle=":", linewidth=1)
    fig.suptitle("Capacity of one row: n maps of 16 entries")
    return fig


def quantisation(data: pd.DataFrame) -> Figure:
    """Pixels that stay satisfied when the edited layer is stored in few bits, by margin."""
    part = data[data["metric"] == "satisfied"]
    fig, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for k, store in enumerate(dict.fromkeys(part["store"])):
        rows = _spread(part[part["store"] == store], "margin").sort_index()
        axis.errorbar(
            rows.index, 100 * rows["mean"],
            yerr=100 * np.vstack([rows["mean"] - rows["min"], rows["max"] - rows["mean"]]),
            marker=MARKERS[k], markersize=4, color=GREYS[k % len(GREYS)], linestyle=("-", "--", "-.", ":", "-")[k],
            capsize=2, label=store,
        )  # fmt: skip
    axis.set_xlabel("margin, share of epsilon")
    axis.set_ylabel("pixels satisfied (%), least to largest set")
    axis.set_title("The edited layer stored in few bits")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def faithfulness(data: pd.DataFrame) -> Figure:
    """Agreement of maps with occlusion effects, and areas under deletion and insertion curves."""
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    kinds = [("occlusion_agreement", None, "occlusion, before and after"), ("map_agreement", "original", "map before"),
             ("map_agreement", "edited", "map after")]  # fmt: skip
    for i, (metric, model, _) in enumerate(kinds):
        rows = data[data["metric"] == metric]
        y = (rows if model is None else rows[rows["model"] == model])["value"].to_numpy()
        axes[0].plot(i + np.linspace(-0.12, 0.12, len(y)), y, MARKERS[i], color=GREYS[i], markersize=4)
    axes[0].set_xticks(range(len(kinds)), [k[2] for k in kinds], fontsize=8)
    axes[0].set_ylabel("mean correlation with occlusion effects")
    axes[0].set_ylim(-1.05, 1.05)
    labels = []
    for i, (metric, order) in enumerate(
        (m, o) for m in ("deletion", "insertion") for o in ("original", "edited")
    ):
        rows = data[(data["metric"] == metric) & (data["order"] == order) & (data["model"] == "edited")]
        y = rows["value"].to_numpy()
        axes[1].plot(i + np.linspace(-0.12, 0.12, len(y)), y, MARKERS[i], color=GREYS[i], markersize=4)
        labels.append(f"{metric},\n{'map before' if order == 'original' else 'map after'}")
    axes[1].set_xticks(range(len(labels)), labels, fontsize=8)
    axes[1].set_ylabel("mean probability of the true class")
    axes[0].set_title("each mark an edit set", fontsize=9)
    axes[1].set_title("edited network", fontsize=9)
    return fig
