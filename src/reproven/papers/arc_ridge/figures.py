"""Figures of the arc ridge experiments; each takes the experiment's measurements. Bars and bands: 95 % t intervals."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

STYLES: tuple[dict[str, Any], ...] = (
    {"color": "0.0", "marker": "o", "linestyle": "-"},
    {"color": "0.45", "marker": "s", "linestyle": "--"},
    {"color": "0.2", "marker": "^", "linestyle": "-."},
    {"color": "0.6", "marker": "D", "linestyle": ":"},
)
NAMES = {
    "ft_none": "no regularisation", "arc_ridge": "arc ridge", "ft_weight_decay": "weight decay",
    "ft_anchored_ridge": "anchored ridge (L2-SP)", "ft_patience": "patience",
    "ft_oracle_stop": "oracle stop (unachievable)", "ft_gradient_norm": "gradient-norm stop",
    "ft_discrepancy": "discrepancy principle", "ft_linear_probe": "linear probe", "ft_probe_then_tune": "LP-FT",
    "ft_interpolation": "WiSE-FT", "ft_kernel_ridge": "NTK ridge", "ntk": "NTK scaling",
    "mean_field": "mean-field scaling", "missing_factor": "control: factor missing", "anchored": "anchored ridge",
    "weight_decay": "weight decay",
    "geodesic": "geodesic ridge", "ridge": "anchored ridge", "own": "Adam's metric", "euclidean": "Euclidean (control)",
}  # fmt: skip


def _pick(data: pd.DataFrame, metric: str, **where: Any) -> pd.DataFrame:
    rows = data[data["metric"] == metric]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows


def _mean(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    groups = rows.groupby(by, sort=True)["value"]
    half = groups.sem().fillna(0.0) * stats.t.ppf(0.975, np.maximum(groups.count() - 1, 1))
    return pd.DataFrame({"mean": groups.mean(), "half": half}).reset_index()


def _curve(ax: Axes, rows: pd.DataFrame, x: str, style: int, label: str) -> None:
    found = _mean(rows, x)
    ax.errorbar(found[x], found["mean"], found["half"], label=label, markersize=4, capsize=2, linewidth=1.2,
                **STYLES[style % 4])  # fmt: skip


def _panels(count: int, width: float = 3.6, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    fig, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False, layout="constrained")
    return fig, list(axes[0])


def _label(ax: Axes, x: str, y: str, title: str = "", log: str = "") -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, fontsize=10)
    if "x" in log:
        ax.set_xscale("log")
    if "y" in log:
        ax.set_yscale("log", nonpositive="clip")
    count = len(ax.get_legend_handles_labels()[0])
    if count > 3:  # below the axes: nothing is hidden
        ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    elif count:
        ax.legend(fontsize=8, frameon=False)


def risks(data: pd.DataFrame) -> Figure:
    """Risk of arc ridge, ridge, no stopping and oracle stopping at lambda = sigma^2 (C4, C5)."""
    sigmas = sorted(_pick(data, "risk")["sigma"].unique())
    fig, axes = _panels(len(sigmas))
    rules = ["arc", "ridge", "oracle_stop", "no_stop"]
    for ax, sigma in zip(axes, sigmas):
        rows = _mean(_pick(data, "risk", sigma=sigma), "rule").set_index("rule").loc[rules]
        ax.errorbar(range(len(rules)), rows["mean"], rows["half"], fmt="o", color="0", capsize=3)
        ax.set_xticks(range(len(rules)), ["arc", "ridge", "oracle\nstop", "no stop"])
        ax.set_xlim(-0.5, len(rules) - 0.5)
        _label(ax, "rule", "excess risk (y²)", f"noise sigma = {sigma:g}, lambda = sigma²")
    return fig


def arc_against_distance(data: pd.DataFrame) -> Figure:
    """A/D along gradient flow of linear models (C3)."""
    fig, (ax,) = _panels(1, 4.5)
    _curve(ax, _pick(data, "arc_over_distance"), "time", 0, "A / D along the flow")
    ax.axhline(1.0, color="0.5", linestyle=":", label="lower bound 1")
    _label(ax, "time t", "A / D", "arc length over distance; the upper bound sqrt(60) is 7.7", "x")
    return fig


def widths(data: pd.DataFrame) -> Figure:
    """rho_V, the gap of vanishing ridge, and arc lengths against width (C6, C7, control)."""
    fig, axes = _panels(3)
    for i, scaling in enumerate(("ntk", "mean_field")):
        _curve(axes[0], _pick(data, "rho_v", scaling=scaling), "width", i, NAMES[scaling])
        _curve(axes[1], _pick(data, "ridge_gap", scaling=scaling), "width", i, NAMES[scaling])
    for i, scaling in enumerate(("ntk", "mean_field", "missing_factor")):
        _curve(axes[2], _pick(data, "arc", scaling=scaling), "width", i, NAMES[scaling])
    _label(axes[0], "width M", "rho_V (share)", "vertical share of the displacement", "xy")
    _label(axes[1], "width M", "RMS test gap (output)", "vanishing ridge against gradient flow", "xy")
    _label(axes[2], "width M", "arc length A (phi)", "length of the path", "xy")
    return fig


def vanishing(data: pd.DataFrame) -> Figure:
    """Gaps of anchored ridge to gradient flow and to the nearest fibre point against lambda (C8)."""
    fig, (ax,) = _panels(1, 4.5)
    _curve(ax, _pick(data, "gap_to_flow"), "lam", 0, "to the end of gradient flow")
    _curve(ax, _pick(data, "gap_to_fibre_point"), "lam", 1, "to the nearest fibre point")
    _label(ax, "lambda", "RMS test gap (output)", "where ridge goes for lambda to 0", "xy")
    return fig


def drift(data: pd.DataFrame) -> Figure:
    """Drift of the test function and rho_V after the fit, against tau = lambda t (C9)."""
    fig, axes = _panels(2, 4.2)
    for i, penalty in enumerate(("anchored", "weight_decay")):
        for j, lam in enumerate(sorted(data["lam"].dropna().unique())):
            name = f"{NAMES[penalty]}, " + ("limit" if lam == 0 else f"lambda = {lam:g}")
            rows = _pick(data, "test_drift", penalty=penalty, lam=lam)
            found = _mean(rows, "tau")
            style: dict[str, Any] = {**STYLES[2 * i], "linestyle": ("-", "--", ":")[j % 3]}
            axes[0].errorbar(
                found["tau"], found["mean"], found["half"], label=name, markersize=4, capsize=2, **style
            )
        _curve(axes[1], _pick(data, "rho_v", penalty=penalty, lam=0.0), "tau", i, NAMES[penalty])
    _label(axes[0], "tau = lambda t", "RMS change of the test function (output)", "drift after the fit")
    _label(axes[1], "tau = lambda t", "rho_V (share)", "vertical share, limit lambda to 0")
    return fig


def truncation(data: pd.DataFrame) -> Figure:
    """Error of prox descent against the step size (C10)."""
    fig, (ax,) = _panels(1, 4.5)
    _curve(ax, _pick(data, "error"), "eta", 0, "distance of end points")
    _curve(ax, _pick(data, "arc_error"), "eta", 1, "difference of arc lengths")
    _label(ax, "step size eta", "error (phi)", "arc ridge against the truncated flow", "xy")
    etas = sorted(data["eta"].dropna().unique())
    ax.set_xticks(etas, [f"{eta:g}" for eta in etas])
    ax.minorticks_off()
    return fig


def minibatches(data: pd.DataFrame) -> Figure:
    """Length over distance, and how far each rule stops from the full-batch stop (C16)."""
    fig, axes = _panels(2)
    for ax, metric, column, names in (
        (axes[0], "inflation", "how", ["every step", "chords"]),
        (axes[1], "stop_log_ratio", "how", ["raw", "debiased", "full"]),
    ):
        rows = _mean(_pick(data, metric), column).set_index(column).loc[names]
        ax.errorbar(range(len(names)), rows["mean"], rows["half"], fmt="o", color="0", capsize=3)
        ax.set_xticks(range(len(names)), names)
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_ylim(0)
    _label(axes[0], "length by", "A / distance", "minibatch noise inflates the length")
    _label(axes[1], "rule", "|log loss / loss at full-batch stop|", "where the rule stops")
    return fig


def geodesics(data: pd.DataFrame) -> Figure:
    """The chain D_fib <= d_geo <= A, and how far each rule's end is from gradient flow's (C11, C12)."""
    cases = sorted(data["case"].unique())
    fig, axes = _panels(2, 4.4)
    for i, metric in enumerate(("fibre_over_geodesic", "arc_over_geodesic")):
        rows = _mean(_pick(data, metric), "case").set_index("case").loc[cases]
        label = ("distance to fibre / d_geo", "arc length / d_geo")[i]
        axes[0].errorbar(range(len(cases)), rows["mean"], rows["half"], label=label, capsize=3,
                         **{**STYLES[i], "linestyle": "none"})  # fmt: skip
    axes[0].axhline(1.0, color="0.5", linestyle=":")
    for i, end in enumerate(("geodesic", "ridge")):
        rows = _mean(_pick(data, "end_gap", end=end), "case").set_index("case").loc[cases]
        axes[1].errorbar(np.arange(len(cases)) + 0.1 * i, rows["mean"], rows["half"],
                         label=f"{NAMES[end]}, lambda to 0",
                         capsize=3, **{**STYLES[i], "linestyle": "none"})  # fmt: skip
    for ax in axes:
        ax.set_xticks(range(len(cases)), [c.replace("_", " ").replace("-", "\nwidth ") for c in cases])
        ax.set_xlim(-0.5, len(cases) - 0.5)
    _label(axes[0], "networks", "ratio", "fibre distance, geodesic, arc")
    _label(axes[1], "networks", "RMS test gap to gradient flow (output)", "where each rule ends", "y")
    return fig


def toy(data: pd.DataFrame) -> Figure:
    """Arc, geodesic and anchored ridge on F = ab, and the tails of the Gibbs process (C13, C14)."""
    fig, axes = _panels(2, 4.2)
    for i, rule in enumerate(("arc", "geodesic", "anchored")):
        rows = _pick(data, "f", rule=rule).sort_values("lam")
        style: dict[str, Any] = {**STYLES[i], "markersize": 9 - 2 * i, "markerfacecolor": "none"}
        axes[0].plot(rows["lam"], rows["value"], label=f"{rule} ridge", **style)
    rows = _pick(data, "excess_kurtosis").sort_values("temperature")
    axes[1].plot(rows["temperature"], rows["value"], label="excess kurtosis", **STYLES[0])
    rows = _pick(data, "variance_over_t").sort_values("temperature")
    axes[1].plot(rows["temperature"], rows["value"], label="variance / T", **STYLES[1])
    axes[1].axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    _label(axes[0], "lambda", "f = ab (output)", "F = ab from (1, 0), target 1; exact", "x")
    _label(axes[1], "temperature T", "ratio; kurtosis", "Riemannian Gibbs process; exact", "x")
    return fig


def _against_strength(ax: Axes, data: pd.DataFrame, metric: str) -> None:
    for i, method in enumerate(("arc_ridge", "ft_anchored_ridge", "ft_weight_decay")):
        rows = _pick(data, metric, method=method)
        if len(rows):
            _curve(ax, rows, "strength", i, NAMES[method])


def vision_errors(data: pd.DataFrame) -> Figure:
    """Test error against lambda, with no regularisation and oracle stopping as lines; test error along the path."""
    fig, axes = _panels(2, 4.4)
    _against_strength(axes[0], data, "test_error")
    for method, line in (("ft_none", "-"), ("ft_oracle_stop", ":")):
        value = _pick(data, "test_error", method=method)["value"].mean()
        axes[0].axhline(value, color="0.5", linestyle=line, label=NAMES[method])
    path = _pick(data, "path_test_error")
    found = _mean(path[path["step"] > 0], "step")
    axes[1].plot(found["step"], found["mean"], color="0")
    axes[1].fill_between(
        found["step"], found["mean"] - found["half"], found["mean"] + found["half"], color="0.8"
    )
    _label(axes[0], "lambda (mean loss)", "test MSE (digit²/2)", "long training, 80 noisy labels", "x")
    _label(axes[1], "step", "test MSE (digit²/2)", "along the unregularised path", "x")
    return fig


def vision_retention(data: pd.DataFrame) -> Figure:
    """What is left of the pretrained body against lambda."""
    fig, axes = _panels(3)
    titles = {
        "probe_accuracy": "probe accuracy, pretraining classes",
        "cka": "CKA with pretrained features",
        "ntk_alignment": "alignment with pretrained NTK",
    }
    for ax, (metric, title) in zip(axes, titles.items()):
        _against_strength(ax, data, metric)
        _label(ax, "lambda (mean loss)", "share" if metric == "probe_accuracy" else "similarity", title, "x")
        ax.set_ylim(0, 1.03)
    return fig


def _methods(ax: Axes, data: pd.DataFrame, metric: str) -> None:
    methods = [m for m in NAMES if len(_pick(data, metric, method=m))]
    rows = _mean(_pick(data, metric), "method").set_index("method").loc[methods]
    ax.errorbar(
        rows["mean"], range(len(methods)), xerr=rows["half"], fmt="o", color="0", capsize=3, markersize=4
    )
    ax.set_yticks(range(len(methods)), [NAMES[m] for m in methods])
    ax.invert_yaxis()
    ax.grid(axis="x", color="0.9")


def vision_methods(data: pd.DataFrame) -> Figure:
    """Test error and retention of every method, strength picked on validation labels."""
    fig, axes = _panels(2, 5.0, 4.2)
    _methods(axes[0], data, "selected_error")
    _methods(axes[1], data, "selected_probe_accuracy")
    _label(axes[0], "test MSE (digit²/2)", "", "strength by validation")
    _label(axes[1], "probe accuracy on pretraining classes (share)", "", "retention")
    return fig


def text_methods(data: pd.DataFrame) -> Figure:
    """Share of wrong test classes of every method, by source and label noise."""
    cases = [
        (s, n)
        for s in sorted(data["source"].dropna().unique())
        for n in sorted(data["noise"].dropna().unique())
    ]
    fig, axes = plt.subplots(2, 2, figsize=(10.5, 7.2), layout="constrained", squeeze=False)
    for ax, (source, noise) in zip(axes.ravel(), cases):
        _methods(ax, data[(data["source"] == source) & (data["noise"] == noise)], "selected_error")
        _label(ax, "test error (share wrong)", "", f"{source}, {noise:.0%} wrong labels")
        ax.set_xlim(0, 1)
    return fig


def text_lengths(data: pd.DataFrame) -> Figure:
    """Where arc ridge stops in Adam's metric and with Euclidean lengths, on the same trajectories."""
    fig, axes = _panels(2, 4.4)
    for i, kind in enumerate(("own", "euclidean")):
        _curve(axes[0], _pick(data, "arc", metric_of=kind), "step", i, NAMES[kind])
        _curve(axes[1], _pick(data, "stop_step", metric_of=kind), "lam", i, NAMES[kind])
    _label(axes[0], "step of AdamW", "arc length A", "length of one trajectory in two metrics", "y")
    _label(axes[1], "lambda", "step of the stop", "where the rule stops", "x")
    return fig
