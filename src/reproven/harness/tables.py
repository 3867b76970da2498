"""Tables as text: a pure function of measurements and verdicts, so that they can be recomputed and compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
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
COST_COLUMNS = ("experiment", "tier", "hardware", "methods", "runs", "seconds", "peak_memory_mib")
# Columns that are no coordinate of a setting.
RESERVED = {"run", "experiment", "paper", "tier", "hardware", "method", "seed", "metric", "value", "unit"}
RESERVED |= {"direction"}
SHOWN_COORDINATES = 3  # beyond this many a Markdown table is no reading matter; the CSV has them all
SHOWN_ROWS = 60


@dataclass(frozen=True)
class RunInfo:
    """What the report tells of one run; `reason` where it is not done."""

    run_id: str
    experiment: str
    methods: tuple[str, ...]
    seed: int
    tier: str
    hardware: str
    state: str
    reason: str
    seconds: float
    peak_memory_bytes: int
    commit: str


def cost_csv(runs: Iterable[RunInfo]) -> str:
    """Return ``cost.csv``: one row for each experiment, tier, hardware class and set of methods that ran together.

    seconds: sum of the runs' wall times, of `runs` done runs. peak_memory_mib: the largest of any one process tree.
    """
    found: dict[tuple[str, ...], list[RunInfo]] = {}
    for run in runs:
        if run.state == "done":
            found.setdefault((run.experiment, run.tier, run.hardware, " ".join(run.methods)), []).append(run)
    table = []
    for place, mine in sorted(found.items()):
        peak = max(r.peak_memory_bytes for r in mine)
        table.append([*place, len(mine), round(sum(r.seconds for r in mine), 3), round(peak / 2**20)])
    return _csv(pd.DataFrame(table, columns=list(COST_COLUMNS)))


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


# What is not reproduced stands before what is; what this tier cannot decide comes last.
ORDER = (
    "violated", "deviates", "failed", "inconclusive", "single-run", "blocked", "not-run", "holds", "reproduced",
    "better", "reduced",
)  # fmt: skip


def by_scope(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return (tier, hardware) -> its rows, what is not reproduced first."""
    rank = {v: i for i, v in enumerate(ORDER)}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda r: (rank[r.verdict], r.experiment, r.target)):
        found.setdefault((row.tier, row.hardware), []).append(row)
    return dict(sorted(found.items()))


def interval(row: Row) -> str:
    """Return the interval behind a verdict as ``[low, high]``, or nothing."""
    if row.ci_low is None or row.ci_high is None:
        return ""
    return f"[{short(row.ci_low)}, {short(row.ci_high)}]"


_SHOWN = ("verdict", "experiment", "target", "ours", "interval", "paper", "n", "reason")


def _cells_of(row: Row) -> list[str]:
    numbers = [short(row.ours), interval(row), short(row.paper_value), str(row.n)]
    return [row.verdict, row.experiment, row.target, *numbers, row.reason]


def verdicts_markdown(rows: Sequence[Row]) -> str:
    """Return the verdict table of one paper for people: what is not reproduced stands before what is."""
    lines = []
    for (tier, hardware), mine in by_scope(rows).items():
        lines += [f"\n## Tier {tier}, {hardware}\n", "| " + " | ".join(_SHOWN) + " |", "|---" * 8 + "|"]
        lines += ["| " + " | ".join(c.replace("|", "\\|") for c in _cells_of(r)) + " |" for r in mine]
    return "\n".join(lines).lstrip("\n") + "\n"


def verdicts_latex(rows: Sequence[Row]) -> str:
    """Return the verdict tables of one paper as LaTeX (packages booktabs and longtable), a table a tier."""
    parts = []
    for (tier, hardware), mine in by_scope(rows).items():
        caption = f"{mine[0].paper}, tier {tier}, {hardware}"
        parts.append(_latex([_cells_of(r) for r in mine], _SHOWN, caption))
    return "\n".join(parts)


@dataclass(frozen=True)
class Comparison:
    """One metric of one experiment in one tier: a row a setting, a column a method.

    pooled: coordinates averaged within a sample. rows: cells of the axes, then one a method, as text
    "mean ± half of the 95 % interval (independent samples)".
    """

    metric: str
    unit: str
    tier: str
    hardware: str
    pooled: tuple[str, ...]
    axes: tuple[str, ...]
    methods: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def title(self) -> str:
        """What the table is of."""
        return f"{self.metric}{f' ({self.unit})' if self.unit else ''}, tier {self.tier}, {self.hardware}"

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns."""
        return (*self.axes, *(m or "value" for m in self.methods))


def comparisons(data: pd.DataFrame, samples: Mapping[str, Sequence[str]] | None = None) -> list[Comparison]:
    """Return the comparable tables of an experiment.

    samples: metric -> the coordinates of its independent samples, by default the seed. A cell is the mean over
    samples, the half-width of its 95 % interval, and their number; what is averaged within a sample is `pooled`.
    """
    found = []
    for (tier, hardware, metric), rows in data.groupby(["tier", "hardware", "metric"], sort=True):
        rows = rows.dropna(axis="columns", how="all")
        independent = [c for c in (samples or {}).get(str(metric), ("seed",)) if c in rows.columns]
        varied = [c for c in rows.columns if c not in {*RESERVED, *independent} and rows[c].nunique() > 1]
        axes = sorted((c for c in varied if rows[c].nunique() <= 24), key=lambda c: rows[c].nunique())
        axes = axes[:SHOWN_COORDINATES]
        methods = sorted(rows["method"].astype(str).unique())
        cells = _cells(rows.assign(method=rows["method"].astype(str)), axes, independent)
        table = [(*map(short, point), *(by.get(m, "") for m in methods)) for point, by in cells.items()]
        found.append(
            Comparison(
                metric=str(metric),
                unit=str(rows["unit"].iloc[0]),
                tier=str(tier),
                hardware=str(hardware),
                pooled=tuple(c for c in varied if c not in axes),
                axes=tuple(axes),
                methods=tuple(methods),
                rows=tuple(table),
            )
        )
    return found


LEGEND = "Mean ± half of the 95 % interval (independent samples)."


def comparison_markdown(experiment: str, found: Sequence[Comparison]) -> str:
    """Return the comparable tables of an experiment as Markdown."""
    lines = [f"# {experiment}\n", f"{LEGEND}\n"]
    for one in found:
        lines += [f"\n## {one.title}\n"]
        lines += [f"Averaged over {', '.join(one.pooled)}.\n"] * bool(one.pooled)
        lines += ["| " + " | ".join(one.header) + " |", "|" + "---|" * len(one.header)]
        lines += ["| " + " | ".join(cells) + " |" for cells in one.rows[:SHOWN_ROWS]]
        if len(one.rows) > SHOWN_ROWS:
            lines.append(f"\n{len(one.rows) - SHOWN_ROWS} more rows stand in the CSV beside this file.")
    return "\n".join(lines) + "\n"


def comparison_latex(experiment: str, found: Sequence[Comparison]) -> str:
    """Return the comparable tables of an experiment as LaTeX (packages booktabs and longtable)."""
    parts = []
    for one in found:
        pooled = f" Averaged over {', '.join(one.pooled)}." if one.pooled else ""
        parts.append(_latex(one.rows, one.header, f"{experiment}: {one.title}. {LEGEND}{pooled}"))
    return "\n".join(parts)


def _latex(rows: Sequence[Sequence[str]], header: Sequence[str], caption: str) -> str:
    table = pd.DataFrame([list(r) for r in rows], columns=list(header), dtype=str)
    escaped = pd.DataFrame({"c": [caption]}).to_latex(index=False, header=False, escape=True)
    (caption,) = (line[:-3] for line in escaped.splitlines() if line.endswith(r" \\"))
    text: str = table.to_latex(
        index=False, escape=True, longtable=True, caption=caption, column_format="l" * len(header)
    )
    return text.replace("±", r"$\pm$")


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
        spread = f" ± {short(float(half))}" if math.isfinite(half) else ""
        found.setdefault(tuple(place), {})[str(method)] = f"{short(float(mean))}{spread} ({int(count)})"
    return found


def short(value: object) -> str:
    """Return a cell: four significant digits, nothing for what is absent."""
    if value is None or value is pd.NA or value != value:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _csv(table: pd.DataFrame) -> str:
    text: str = table.to_csv(index=False, lineterminator="\n", float_format="%.10g")
    return text
