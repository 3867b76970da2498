"""Tables as text: a pure function of measurements and verdicts, so that they can be recomputed and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import pandas as pd
from scipy import stats

from reproven.harness.store import write_atomically
from reproven.harness.verdicts import Row

VERDICT_COLUMNS = tuple(f.name for f in fields(Row) if f.name != "samples")
SUMMARY_COLUMNS = (
    "paper",
    "tier",
    "hardware",
    "claims_hold",
    "claims_violated",
    "claims_inconclusive",
    "claims_total",
    "values_reproduced",
    "values_total",
    "blocked",
    "failed",
    "seconds",
)
SHOWN_COORDINATES = 3  # beyond this many a Markdown table is no reading matter; the CSV has them all
SHOWN_ROWS = 60


def verdicts_csv(rows: Iterable[Row]) -> str:
    """Return ``verdicts.csv`` by the contract: one row a target, tier and hardware class."""
    table = [{**{c: getattr(row, c) for c in VERDICT_COLUMNS}, "runs": " ".join(row.runs)} for row in rows]
    return _csv(pd.DataFrame(table, columns=list(VERDICT_COLUMNS)))


def raw_csv(data: pd.DataFrame) -> str:
    """Return every measurement of one experiment, coordinates that it does not have left out."""
    kept = data.dropna(axis="columns", how="all")
    order = [
        c for c in ("tier", "hardware", "metric", "method", "dataset", "seed", "run") if c in kept.columns
    ]
    return _csv(kept.sort_values(order, kind="stable"))


def summary_rows(rows: Sequence[Row], seconds: Mapping[tuple[str, str], float]) -> list[dict[str, object]]:
    """Return one row of ``summary.csv`` for each tier and hardware class of one paper."""
    found = []
    for tier, hardware in sorted(seconds):
        mine = [r for r in rows if (r.tier, r.hardware) == (tier, hardware)]
        claims = [r for r in mine if r.kind != "value"]
        values = [r for r in mine if r.kind == "value"]
        found.append(
            {
                "paper": rows[0].paper if rows else "",
                "tier": tier,
                "hardware": hardware,
                "claims_hold": sum(r.verdict == "holds" for r in claims),
                "claims_violated": sum(r.verdict == "violated" for r in claims),
                "claims_inconclusive": sum(r.verdict == "inconclusive" for r in claims),
                "claims_total": len(claims),
                "values_reproduced": sum(r.verdict in ("reproduced", "better") for r in values),
                "values_total": len(values),
                "blocked": sum(r.verdict == "blocked" for r in mine),
                "failed": sum(r.verdict == "failed" for r in mine),
                "seconds": round(seconds[tier, hardware], 1),
            }
        )
    return found


def summary_csv(rows: Iterable[Mapping[str, object]]) -> str:
    """Return ``summary.csv`` by the contract: one row a paper, tier and hardware class."""
    return _csv(pd.DataFrame(list(rows), columns=list(SUMMARY_COLUMNS)))


def verdicts_markdown(rows: Sequence[Row]) -> str:
    """Return the verdict table of one paper for people: what is not reproduced stands before what is."""
    order = ("violated", "deviates", "failed", "inconclusive", "single-run", "blocked", "not-run", "reduced")
    lines = []
    for tier, hardware in sorted({(r.tier, r.hardware) for r in rows}):
        mine = [r for r in rows if (r.tier, r.hardware) == (tier, hardware)]
        rank = {v: i for i, v in enumerate(order)}
        mine.sort(key=lambda r: (rank.get(r.verdict, len(order)), r.experiment, r.target))
        lines += [f"\n## Tier {tier}, {hardware}\n"]
        lines += [
            "| verdict | experiment | target | ours | interval | paper | n | reason |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for r in mine:
            interval = (
                "" if r.ci_low is None or r.ci_high is None else f"[{_short(r.ci_low)}, {_short(r.ci_high)}]"
            )
            cells = (
                r.verdict,
                r.experiment,
                r.target,
                _short(r.ours),
                interval,
                _short(r.paper_value),
                str(r.n),
                r.reason,
            )
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines).lstrip("\n") + "\n"


def comparison_markdown(experiment: str, data: pd.DataFrame) -> str:
    """Return the comparable table of an experiment: a row a setting, a column a method, mean and 95 % interval."""
    lines = [f"# {experiment}\n"]
    reserved = {
        "run",
        "experiment",
        "paper",
        "tier",
        "hardware",
        "method",
        "seed",
        "metric",
        "value",
        "unit",
        "direction",
    }
    for (tier, hardware, metric), rows in data.groupby(["tier", "hardware", "metric"], sort=True):
        unit = str(rows["unit"].iloc[0])
        axes = [c for c in rows.columns if c not in reserved and 1 < rows[c].nunique(dropna=True) <= 24]
        axes = sorted(axes, key=lambda c: rows[c].nunique())[:SHOWN_COORDINATES]
        methods = sorted(rows["method"].astype(str).unique())
        title = f"\n## {metric}{f' ({unit})' if unit else ''}, tier {tier}, {hardware}\n"
        lines += [title, "| " + " | ".join([*axes, *(m or "value" for m in methods)]) + " |"]
        lines.append("|" + "---|" * (len(axes) + len(methods)))
        named = rows.assign(method=rows["method"].astype(str))
        cells = named.groupby([*axes, "method"], sort=True)["value"].agg(["mean", "std", "count"])
        shown = pd.Series(
            map(_cell, cells["mean"], cells["std"], cells["count"]), index=cells.index, dtype=object
        )
        wide = shown.unstack("method") if axes else shown.to_frame().T
        body = [
            "| "
            + " | ".join([*(_short(v) for v in point), *(c if isinstance(c, str) else "" for c in line)])
            + " |"
            for point, line in zip(_points(wide.index, bool(axes)), wide[methods].to_numpy())
        ]
        lines += body[:SHOWN_ROWS]
        if len(body) > SHOWN_ROWS:
            lines.append(f"\n{len(body) - SHOWN_ROWS} more rows stand in the CSV beside this file.")
    return "\n".join(lines) + "\n"


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write tables below `root`, each atomically."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)


def differences(root: Path, files: Mapping[str, str]) -> list[str]:
    """Return one line for each file below `root` that is not what it should be, naming the first line that differs."""
    found = []
    for name, text in files.items():
        path = root / name
        if not path.is_file():
            found.append(f"{path}: missing; `reproven report` writes it")
            continue
        there = path.read_text(encoding="utf-8")
        if there != text:
            pairs = enumerate(zip(there.splitlines(), text.splitlines()), start=1)
            line = next(
                (n for n, (a, b) in pairs if a != b), min(len(there.splitlines()), len(text.splitlines())) + 1
            )
            found.append(f"{path}: line {line} is not what the runs say; `reproven report` writes it anew")
    return found


def _points(index: pd.Index, named: bool) -> list[tuple[object, ...]]:
    if not named:
        return [()]
    return [p if isinstance(p, tuple) else (p,) for p in index]


def _cell(mean: float, std: float, count: int) -> str:
    """Return ``mean ± half-width of the 95 % interval (n)``."""
    half = stats.t.ppf(0.975, count - 1) * std / math.sqrt(count) if count > 1 else math.nan
    return f"{_short(float(mean))}{f' ± {_short(float(half))}' if math.isfinite(half) else ''} ({count})"


def _short(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n", float_format="%.10g")
