"""The report page: one stand-alone HTML file, made of one section a paper, from findings alone.

A section is a pure function of what the runs say, the figures drawn from it and the paper's card, so that `verify`
can make it again and compare. The page loads nothing from anywhere: styles, script and figures stand in it.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt

from reproven.harness import tables
from reproven.harness.audit import Finding
from reproven.harness.targets import Target
from reproven.harness.verdicts import Row

# Every verdict with a mark, so that none is told by colour alone.
MARKS = {
    "violated": "✗", "deviates": "≠", "failed": "!", "inconclusive": "?", "single-run": "1", "blocked": "∅",
    "not-run": "…", "reduced": "↓", "holds": "✓", "reproduced": "=", "better": "▲",
}  # fmt: skip
GROUPS = {
    "claim": "Claims",
    "value": "Printed values",
    "deviation": "Deviation ledger: paper, code and us",
    "audit": "Audit of the paper's own numbers",
}
HEADER = (
    "verdict",
    "what the paper says",
    "ours",
    "n",
    "paper",
    "difference",
    "reason",
    "time of its runs",
    "runs",
)
RUN_HEADER = (
    "run",
    "experiment",
    "methods",
    "seed",
    "tier",
    "hardware",
    "time",
    "peak MiB",
    "state",
    "commit",
)
FRONT_HEADER = (
    "paper", "tier", "hardware", "claims held", "violated", "undecided", "values reproduced", "deviate", "blocked",
    "failed", "time",
)  # fmt: skip
TIER_ORDER = ("paper", "cpu", "smoke")  # the weightiest evidence stands first
UNDECIDED = ("not-run", "blocked", "failed", "reduced")  # verdicts that say nothing of a claim
LIMIT_BYTES = 10_000_000
FIGURE_WIDTH = 1000
SHOWN_RUNS = 6
SHOWN_ROWS = 30  # of a comparison; the tables beside the page have all


@dataclass(frozen=True)
class Figure:
    """A drawn figure: a PNG file, with the first line of what its function says of it."""

    path: Path
    experiment: str
    tier: str
    hardware: str
    caption: str


def section(
    paper: str,
    rows: Sequence[Row],
    targets: Mapping[tuple[str, str], Target],
    comparisons: Mapping[str, Sequence[tables.Comparison]],
    figures: Sequence[Figure],
    runs: Sequence[tables.RunInfo],
    card: str,
    audited: Sequence[Finding] = (),
) -> str:
    """Return the section of one paper: verdicts, figures, methods side by side, audit, card, runs."""
    seconds = {r.run_id: r.seconds for r in runs}
    scopes = []
    # The smoke tier shows that the code runs: beside a real tier its figures, tables and undecided rows would only fill
    # the page.
    real = any(r.tier != "smoke" for r in runs)
    for (tier, hardware), mine in sorted(tables.by_scope(rows).items(), key=lambda s: _weight(*s[0])):
        verdicts_alone = tier == "smoke" and real
        shown = [r for r in mine if not (verdicts_alone and r.verdict == "reduced")]
        groups = [
            {
                "name": name,
                "rows": [
                    _verdict(r, targets.get((r.experiment, r.target)), seconds)
                    for r in shown
                    if r.kind == kind
                ],
            }
            for kind, name in GROUPS.items()
            if any(r.kind == kind for r in shown)
        ]
        here = [f for f in figures if (f.tier, f.hardware) == (tier, hardware)]
        scopes.append(
            {
                "tier": tier,
                "hardware": hardware,
                "decided": sum(r.verdict not in UNDECIDED for r in mine),
                "line": _line(mine, sum(r.seconds for r in runs if (r.tier, r.hardware) == (tier, hardware))),
                "groups": groups,
                "figures": [] if verdicts_alone else [_picture(f) for f in here],
                "tables": [
                    _comparison(experiment, one)
                    for experiment, found in comparisons.items()
                    for one in found
                    if (one.tier, one.hardware) == (tier, hardware) and not verdicts_alone
                ],
            }
        )
    return _template("section.html.j2").render(
        paper=paper,
        title=title_of(card) or paper,
        scopes=scopes,
        header=HEADER,
        legend=tables.LEGEND,
        card=MarkdownIt("commonmark", {"html": False}).enable("table").render(_without_title(card)),
        audited=len(audited),
        contradictions=[f for f in audited if not f.consistent],
        run_header=RUN_HEADER,
        runs=[_run(r) for r in runs],
    )


def index(papers: Mapping[str, tuple[str, str | None]], summaries: Iterable[Mapping[str, str]]) -> str:
    """Return the page.

    papers: slug -> (title, its section, None where nothing has run). summaries: the rows of ``front_rows``.
    """
    front: list[dict[str, Any]] = []
    by_paper = {
        p: sorted(r, key=lambda s: _weight(s["tier"], s["hardware"])) for p, r in _grouped(summaries).items()
    }
    for paper, (title, _) in papers.items():
        for one in by_paper.get(paper) or [{"tier": ""}]:
            front.append({**one, "paper": paper, "title": title})
    return _template("index.html.j2").render(
        papers=papers,
        front=front,
        front_header=FRONT_HEADER,
        sections=[s for _, s in papers.values() if s],
        verdicts=list(MARKS),
        marks=MARKS,
        css=_asset("page.css"),
        js=_asset("page.js"),
    )


def front_rows(verdicts: str, seconds: Mapping[tuple[str, str], str]) -> list[dict[str, str]]:
    """Return the front page's rows of one paper, one a tier and hardware class, from the text of its verdicts.csv."""
    found = []
    rows = list(csv.DictReader(io.StringIO(verdicts)))
    for tier, hardware in sorted({(r["tier"], r["hardware"]) for r in rows}):
        mine = [r for r in rows if (r["tier"], r["hardware"]) == (tier, hardware)]
        claims = [r["verdict"] for r in mine if r["kind"] != "value"]
        values = [r["verdict"] for r in mine if r["kind"] == "value"]
        counts = {
            "held": claims.count("holds"),
            "claims": len(claims),
            "violated": claims.count("violated"),
            "undecided": claims.count("inconclusive") + values.count("inconclusive"),
            "reproduced": values.count("reproduced") + values.count("better"),
            "values": len(values),
            "deviate": values.count("deviates"),
            "blocked": (claims + values).count("blocked"),
            "failed": (claims + values).count("failed"),
        }
        spent = seconds.get((tier, hardware), "")
        place = {"paper": mine[0]["paper"], "tier": tier, "hardware": hardware}
        numbers = {k: str(v) for k, v in counts.items()}
        found.append({**place, **numbers, "seconds": spent, "time": _time(float(spent)) if spent else ""})
    return found


def title_of(card: str) -> str:
    """Return the title of a paper's card, its first heading."""
    first = next((line for line in card.splitlines() if line.startswith("# ")), "")
    return first[2:].strip()


def _without_title(card: str) -> str:
    return "\n".join(line for line in card.splitlines() if not line.startswith("# "))


def _weight(tier: str, hardware: str) -> tuple[int, str]:
    return TIER_ORDER.index(tier) if tier in TIER_ORDER else len(TIER_ORDER), hardware


def _grouped(rows: Iterable[Mapping[str, str]]) -> dict[str, list[dict[str, str]]]:
    ordered = sorted((dict(r) for r in rows), key=lambda r: r["paper"])
    return {paper: list(group) for paper, group in groupby(ordered, key=lambda r: r["paper"])}


def _line(rows: Sequence[Row], seconds: float) -> str:
    counts = {v: sum(r.verdict == v for r in rows) for v in tables.ORDER}
    said = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
    return f"{said}; {_time(seconds)} of runs"


def _verdict(row: Row, target: Target | None, seconds: Mapping[str, float]) -> dict[str, Any]:
    cost = sum(seconds.get(r, 0.0) for r in row.runs)
    both = row.ours is not None and row.paper_value is not None
    difference = row.ours - row.paper_value if both else None  # type: ignore[operator]
    return {
        "verdict": row.verdict,
        "mark": MARKS.get(row.verdict, ""),
        "experiment": row.experiment.partition("/")[2],
        "target": row.target,
        "statement": target.statement if target else "",
        "source": target.source if target else "",
        "ours": tables.short(row.ours),
        "ours_v": _sortable(row.ours),
        "unit": row.unit if row.unit != "1" else "",
        "interval": tables.interval(row),
        "n": row.n,
        "printed": tables.short(row.paper_value),
        "paper_v": _sortable(row.paper_value),
        "difference": f"{difference:+.3g}" if difference is not None else "",
        "difference_v": _sortable(difference),
        "reason": row.reason,
        "cost": f"{cost:.1f}" if row.runs else "",
        "time": _time(cost) if row.runs else "",
        "runs": row.runs[:SHOWN_RUNS],
        "more": max(0, len(row.runs) - SHOWN_RUNS),
    }


def _comparison(experiment: str, one: tables.Comparison) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "metric": one.metric,
        "unit": one.unit,
        "pooled": ", ".join(one.pooled),
        "header": one.header,
        "rows": one.rows[:SHOWN_ROWS],
        "hidden": max(0, len(one.rows) - SHOWN_ROWS),
    }


def _run(run: tables.RunInfo) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "experiment": run.experiment.partition("/")[2],
        "methods": ", ".join(run.methods),
        "seed": run.seed,
        "tier": run.tier,
        "hardware": run.hardware,
        "seconds": f"{run.seconds:.1f}",
        "time": _time(run.seconds),
        "peak_mib": round(run.peak_memory_bytes / 2**20),
        "state": run.state,
        "reason": run.reason,
        "commit": run.commit[:10],
    }


def _picture(figure: Figure) -> dict[str, Any]:
    """Return a figure as WebP in base64, no wider than the page: a quarter of the PNG's size."""
    from PIL import Image

    with Image.open(figure.path) as image:
        shrunk = image.convert("RGB")
        if shrunk.width > FIGURE_WIDTH:
            height = round(shrunk.height * FIGURE_WIDTH / shrunk.width)
            shrunk = shrunk.resize((FIGURE_WIDTH, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        shrunk.save(buffer, "WEBP", quality=60, method=6)
    return {
        "experiment": figure.experiment.partition("/")[2],
        "caption": figure.caption,
        "width": shrunk.width,
        "height": shrunk.height,
        "data": base64.b64encode(buffer.getvalue()).decode(),
    }


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _sortable(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.10g}"


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(_asset(name))
