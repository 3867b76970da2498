"""Audit of the paper's printed Tables 1 and 2: which cells cannot be true together, recomputed from the cells."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from reproven.harness import paths
from reproven.harness.context import Context
from reproven.harness.errors import UserError
from reproven.papers.sac_bl.bl import best_gamma, k_min

HALF = 0.005  # printed with two decimals of a percent
TABLES = ("mvtec", "visa")
METRICS = ("tpr", "fpr", "f1")


def audit(ctx: Context, *, printed_sha256: str, alpha: float = 0.05) -> None:
    """Recompute counts, F1, averages and implied ratios from the printed cells; one measurement a cell.

    Rates are in percent. The digest of the cells is part of the run, so that a corrected cell runs again.
    """
    folder = paths.experiments() / "sac_bl" / "printed"
    check_digest(folder, printed_sha256)
    totals = dict.fromkeys(("image_f1_contradictions", "pixel_ratio_contradictions", "unmoved_cells"), 0)
    for table in TABLES:
        cells, splits = read_tables(folder, table)
        totals["image_f1_contradictions"] += _image_level(ctx, table, cells, splits)
        totals["pixel_ratio_contradictions"] += _pixel_level(ctx, table, cells)
        totals["unmoved_cells"] += _text(ctx, table, cells)
        _averages(ctx, table, cells)
        if "train_normal" in splits:
            need = k_min(alpha=alpha, gamma=best_gamma(alpha=alpha))
            enough = int((splits["train_normal"] >= need).sum())
            ctx.record("categories_with_enough_normals", enough, unit="categories", table=table, needed=need)
    for metric, count in totals.items():
        ctx.record(metric, count, unit="cells", direction="lower", tables="mvtec,visa")


def files() -> list[str]:
    """Names of the printed files, in the order in which they are digested."""
    return [f"{t}_{m}.csv" for t in TABLES for m in METRICS] + [f"{t}_splits.csv" for t in TABLES]


def check_digest(folder: Path, expected: str) -> None:
    """UserError unless the printed cells are those that the experiment's file was written for."""
    found = hashlib.sha256(b"".join((folder / name).read_bytes() for name in files())).hexdigest()
    if found != expected:
        raise UserError(
            f"printed cells of sac_bl have sha256 {found}, the experiment expects {expected}: set it there"
        )


def read_tables(folder: Path, table: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the cells, indexed by (level, method, category) with columns tpr, fpr, f1, and the official splits."""
    parts = []
    for metric in METRICS:
        part = pd.read_csv(folder / f"{table}_{metric}.csv").set_index(["level", "method", "category"])
        parts.append(part["value"].rename(metric))
    return pd.concat(parts, axis=1).sort_index(), pd.read_csv(folder / f"{table}_splits.csv").set_index(
        "category"
    )


def _rows(cells: pd.DataFrame, level: str):
    for (_, method, category), row in cells.loc[[level]].iterrows():
        if category != "average":
            yield str(method), str(category), row


def _image_level(ctx: Context, table: str, cells: pd.DataFrame, splits: pd.DataFrame) -> int:
    """Rates must be counts over the test split; F1 must follow from the counts. Returns the F1 cells that do not."""
    contradictions = 0
    mended = []
    for method, category, row in _rows(cells, "image"):
        n0, n1 = int(splits.loc[category, "test_normal"]), int(splits.loc[category, "test_anomalous"])
        coords = {"table": table, "category": category, "method": method, "level": "image"}
        counts = {}
        for metric, size in (("tpr", n0), ("fpr", n1)):
            counts[metric] = round(row[metric] * size / 100)
            distance = abs(row[metric] - 100 * counts[metric] / size)
            ctx.record("distance_from_count", distance, unit="%", rate=metric, **coords)
        tp, fp = counts["tpr"], counts["fpr"]
        off = row["f1"] - _f1(tp, fp, n0 - tp)
        contradictions += abs(off) > HALF + 1e-9
        ctx.record("f1_minus_recomputed", off, unit="%", **coords)
        # The whole number of accepted normals that the printed F1 and FPR imply.
        options = np.array([_f1(t, fp, n0 - t) for t in range(n0 + 1)])
        implied = int(np.argmin(abs(options - row["f1"])))
        ctx.record("tpr_implied_by_f1", 100 * implied / n0, unit="%", **coords)
        impossible = abs(row["tpr"] - 100 * tp / n0) > HALF + 1e-9
        if method == "sac_sbl":
            mended.append(100 * implied / n0 if impossible else row["tpr"])
    if table == "mvtec":
        ctx.record("average_tpr_mended", float(np.mean(mended)), unit="%", table=table, method="sac_sbl")
    return contradictions


def _f1(tp: float, fp: float, fn: float) -> float:
    return 200 * tp / (2 * tp + fp + fn)


def _pixel_level(ctx: Context, table: str, cells: pd.DataFrame) -> int:
    """Both rows of a category share one ratio of anomalous to normal pixels, n1/n0 = (2t/F1 - 1 - t) / FPR.

    Returns the number of categories whose rows do not, beyond rounding.
    """
    recomputed = []
    contradictions = 0
    for method, category, row in _rows(cells, "pixel"):
        if method != "sac_bl":
            continue
        other = cells.loc[("pixel", "sac_sbl", category)]
        coords = {"table": table, "category": category, "level": "pixel"}
        ratios = {"sac_bl": _ratio(row), "sac_sbl": _ratio(other)}
        for name, (low, middle, high) in ratios.items():
            for bound, value in (("low", low), ("middle", middle), ("high", high)):
                ctx.record("pixel_ratio", value, unit="1", method=name, bound=bound, **coords)
        (low_a, _, high_a), (low_b, middle, high_b) = ratios["sac_bl"], ratios["sac_sbl"]
        gap = max(low_a - high_b, low_b - high_a)
        contradictions += gap > 0
        ctx.record("pixel_ratio_gap", gap, unit="1", **coords)
        t, f = row["tpr"] / 100, row["fpr"] / 100
        consistent = 200 * t / (1 + t + middle * f)
        recomputed.append(consistent)
        ctx.record("pixel_f1_recomputed", consistent, unit="%", method="sac_bl", **coords)
        for name, source in (("sac_bl", row), ("sac_sbl", other)):
            t, f = source["tpr"] / 100, source["fpr"] / 100
            false, true = 1 - t, middle * (1 - f)
            ctx.record("implied_pixel_fdp", 100 * false / (false + true), unit="%", method=name, **coords)
    average = float(np.mean(recomputed))
    ctx.record("pixel_f1_average_recomputed", average, unit="%", table=table, method="sac_bl")
    gain = cells.loc[("pixel", "sac_sbl", "average"), "f1"] - average
    ctx.record("pixel_f1_gain_recomputed", gain, unit="%", table=table)
    printed = cells.loc[("pixel", "sac_bl", "average"), "f1"]
    shown = cells.loc[("pixel", "sac_sbl", "average"), "f1"] - printed
    ctx.record("pixel_f1_gain_printed", shown, unit="%", table=table)
    return contradictions


def _ratio(row: pd.Series) -> tuple[float, float, float]:
    """Lowest, printed and highest n1/n0 over all values that round to the printed cells."""
    values = []
    for dt in (0.0, -HALF, HALF):
        for df in (0.0, -HALF, HALF):
            for dg in (0.0, -HALF, HALF):
                t, f, g = (row["tpr"] + dt) / 100, (row["fpr"] + df) / 100, (row["f1"] + dg) / 100
                values.append((2 * t / g - 1 - t) / f)
    return min(values), values[0], max(values)


def _averages(ctx: Context, table: str, cells: pd.DataFrame) -> None:
    for level in ("image", "pixel"):
        for method in ("sac_bl", "sac_sbl"):
            rows = cells.loc[(level, method)]
            for metric in METRICS:
                mean = rows.drop("average")[metric].mean()
                coords = {"table": table, "level": level, "method": method, "rate": metric}
                ctx.record("average_minus_recomputed", rows.loc["average", metric] - mean, unit="%", **coords)


def _text(ctx: Context, table: str, cells: pd.DataFrame) -> int:
    """Gains that the text says hold in all classes. Returns the FPR and F1 cells that do not move as it says."""
    unmoved = 0
    for level in ("image", "pixel"):
        gain = cells.loc[(level, "sac_sbl")] - cells.loc[(level, "sac_bl")]
        for category, row in gain.drop("average").iterrows():
            unmoved += int(row["fpr"] > -1e-9) + int(row["f1"] < 1e-9)
            for metric in METRICS:
                coords = {"table": table, "level": level, "category": str(category), "rate": metric}
                ctx.record("sbl_minus_bl", row[metric], unit="%", **coords)
    return unmoved
