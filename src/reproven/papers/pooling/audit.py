"""The paper's printed tables against themselves. No model runs; every number is recomputed from the printed cells."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from reproven.harness import paths
from reproven.harness.context import Context
from reproven.harness.errors import UserError

TABLES = tuple(f"table_{i}.csv" for i in range(1, 11))
ECG200 = (64, 36)  # test series of the larger and the smaller class
BATCH = 64


def printed_audit(ctx: Context, *, printed_sha256: str) -> None:
    """ECG200's 65.19, the FGSM row of Sum, repeated cells; one measurement a finding.

    printed_sha256: digest of all printed cells, so that a corrected cell runs again.
    """
    folder = paths.experiments() / "pooling" / "printed"
    check_digest(folder, printed_sha256)
    tables = {name: pd.read_csv(folder / name) for name in TABLES}
    _ecg200(ctx, tables["table_5.csv"])
    _fgsm(ctx, tables["table_10.csv"])
    _rules(ctx, tables)


def check_digest(folder: Path, expected: str) -> None:
    """UserError unless the printed cells are those that the experiment's file was written for."""
    missing = [name for name in TABLES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"printed table {missing[0]} is not in {folder.name}/; restore it")
    found = hashlib.sha256(b"".join((folder / name).read_bytes() for name in TABLES)).hexdigest()
    if found != expected:
        raise UserError(
            f"printed cells of pooling have sha256 {found}, the experiment expects {expected}: set it there"
        )


def batch_mean(right_first: int, right_second: int, total: int = sum(ECG200), batch: int = BATCH) -> float:
    """Return the accuracy in percent of two batches averaged as if they were of one size."""
    return 100 * (right_first / batch + right_second / (total - batch)) / 2


def splits_that_round_to(printed: float, right: int = ECG200[0]) -> list[tuple[int, int]]:
    """Return all ways in which `right` correct series fall into the two batches and print as `printed`."""
    second = sum(ECG200) - BATCH
    ways = [(a, right - a) for a in range(min(right, BATCH) + 1) if 0 <= right - a <= second]
    return [way for way in ways if abs(batch_mean(*way) - printed) <= 0.005 + 1e-9]


def _ecg200(ctx: Context, table: pd.DataFrame) -> None:
    cells = table[(table["task"] == "ecg200") & (table["value"] == 65.19)]
    ctx.record("cells_of_65_19", len(cells), unit="cells", method="")
    ctx.record("cells_of_65_19_without_spread", int((cells["spread"] == 0).sum()), unit="cells", method="")
    ways = splits_that_round_to(65.19)
    ctx.record("majority_splits", len(ways), unit="splits", method="")
    ctx.record("majority_batch_mean", batch_mean(39, 25), unit="%", method="")
    distance = abs(65.19 - round(65.19))
    ctx.record("distance_from_whole_percent", distance, unit="%", method="")


def _fgsm(ctx: Context, table: pd.DataFrame) -> None:
    parts = table["task"].str.extract(r"fgsm_(\w+)_(\d+)$")
    table = table.assign(data=parts[0], budget=parts[1].astype(int))
    wide = table.pivot(index=["data", "method"], columns="budget", values="value")
    for (data, method), row in wide.iterrows():
        ctx.record("rise_with_budget", float(row[8] - row[3]), unit="%", method=method, data=data)


def _rules(ctx: Context, tables: dict[str, pd.DataFrame]) -> None:
    """Count how often the paper's own rules hold in its own cells, and cells that repeat where they should not."""
    eight = tables["table_8.csv"]
    stsb = eight[(eight["task"] == "stsb") & (eight["method"] == "pool_max")]["value"]
    ctx.record("stsb_max_values", stsb.nunique(), unit="values", method="", models=len(stsb))
    four = tables["table_4.csv"]
    columns = ("celeba", "flowers102", "pets", "voc_cls", "voc_det")
    wins = 0
    for task in columns:
        cell = four[four["task"] == task].set_index("method")["value"]
        lower = task in ("celeba", "flowers102", "pets")
        wins += int(cell["pool_avg"] < cell["pool_first"] if lower else cell["pool_avg"] > cell["pool_first"])
    ctx.record("avg_beats_cls", wins, unit="columns", method="", of=len(columns))
    best: set[str] = set()
    count = 0
    for name in ("table_1.csv", "table_2.csv", "table_4.csv", "table_5.csv"):
        table = tables[name]
        for (_, task), rows in table.groupby(["backbone", "task"]):
            lower = task in ("celeba", "flowers102", "pets")
            value = rows["value"]
            best.add(str(rows["method"].iloc[int(value.argmin() if lower else value.argmax())]))
            count += 1
    ctx.record("poolings_that_win_somewhere", len(best), unit="poolings", method="", columns=count)
