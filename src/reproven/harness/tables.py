"""Tables as text: a pure function of measurements and verdicts, so that they can be recomputed and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import pandas as pd
from scipy.special import stdtrit

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
# Columns that are no coordinate of a setting.
RESERVED = {"run", "experiment", "paper", "tier", "hardware", "method", "seed", "metric", "value", "unit"}
RESERVED |= {"direction"}
SHOWN_COORDINATES = 3  # beyond this many a Markdown table is no reading matter; the CSV has them all
SHOWN_ROWS = 60


def verdicts_csv(rows: Iterable[Row]) -> str:
    """Return ``verdicts.csv`` by the contract: one row a target, tier and hardware class."""
    table = [{**{c: getattr(row, c) for c in VERDICT_COLUMNS}, "runs": " ".join(row.runs)} for row in rows]
    return _csv(pd.DataFrame(table, columns=list(VERDICT_COLUMNS)))


def raw_csv(data: pd.DataFrame) -> str:
    """Return every measurement of one experiment, coordinates that it does not have left out."""
    kept = data.assign(value=[f"{v:.10g}" for v in data["value"]])  # "nan" is a value, a gap is none
    kept = kept.dropna(axis="columns", how="all")
    order = ("tier", "hardware", "metric", "method", "dataset", "seed", "run")
    return _csv(kept.sort_values([c for c in order if c in kept.columns], kind="stable"))


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


def comparison_markdown(
    experiment: str, data: pd.DataFrame, samples: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return the comparable table of an experiment: a row a setting, a column a method.

    samples: metric -> the coordinates of its independent samples, by default the seed. A cell is the mean over
    samples, the half-width of its 95 % interval, and their number; what is averaged within a sample is said.
    """
    lines = [f"# {experiment}\n", "Mean ± half of the 95 % interval (independent samples).\n"]
    for (tier, hardware, metric), rows in data.groupby(["tier", "hardware", "metric"], sort=True):
        rows = rows.dropna(axis="columns", how="all")
        independent = [c for c in (samples or {}).get(str(metric), ("seed",)) if c in rows.columns]
        varied = [c for c in rows.columns if c not in {*RESERVED, *independent} and rows[c].nunique() > 1]
        axes = sorted((c for c in varied if rows[c].nunique() <= 24), key=lambda c: rows[c].nunique())
        axes = axes[:SHOWN_COORDINATES]
        pooled = [c for c in varied if c not in axes]
        methods = sorted(rows["method"].astype(str).unique())
        unit = str(rows["unit"].iloc[0])
        title = f"\n## {metric}{f' ({unit})' if unit else ''}, tier {tier}, {hardware}\n"
        lines += [title] + [f"Averaged over {', '.join(pooled)}.\n"] * bool(pooled)
        lines.append("| " + " | ".join([*axes, *(m or "value" for m in methods)]) + " |")
        lines.append("|" + "---|" * (len(axes) + len(methods)))
        cells = _cells(rows.assign(method=rows["method"].astype(str)), axes, independent)
        for point, by_method in list(cells.items())[:SHOWN_ROWS]:
            shown = [*(_short(v) for v in point), *(by_method.get(m, "") for m in methods)]
            lines.append("| " + " | ".join(shown) + " |")
        if len(cells) > SHOWN_ROWS:
            lines.append(f"\n{len(cells) - SHOWN_ROWS} more rows stand in the CSV beside this file.")
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


def _cells(
    rows: pd.DataFrame, axes: Sequence[str], independent: Sequence[str]
) -> dict[tuple[object, ...], dict[str, str]]:
    """Return setting -> method -> "mean ± half-width (samples)"."""
    setting = [*axes, "method"]
    means = rows.groupby([*setting, *independent], sort=True, dropna=False)["value"].mean()
    levels = list(range(len(setting)))
    table = means.groupby(level=levels, sort=True, dropna=False).agg(["mean", "std", "count"])
    found: dict[tuple[object, ...], dict[str, str]] = {}
    for point, (mean, deviation, count) in zip(table.index, table.to_numpy()):
        *place, method = point if isinstance(point, tuple) else (point,)
        half = stdtrit(count - 1, 0.975) * deviation / math.sqrt(count) if count > 1 else math.nan
        spread = f" ± {_short(float(half))}" if math.isfinite(half) else ""
        found.setdefault(tuple(place), {})[str(method)] = f"{_short(float(mean))}{spread} ({int(count)})"
    return found


def _short(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n", float_format="%.10g")
