"""Accepted values, committed under ``results/accepted/``: what a headline number may not leave unnoticed."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reproven.harness.errors import UserError
from reproven.harness.store import write_atomically
from reproven.harness.verdicts import Row

NEVER_GATED = ("s", "x", "ms", "MiB")  # times, ratios and memory depend on the machine
BEGIN, END = "<!-- verdicts:begin -->", "<!-- verdicts:end -->"


def load(root: Path, paper: str) -> dict[str, Any]:
    """Return the accepted rows of a paper by ``experiment:target:tier:hardware``; empty when there are none."""
    path = root / f"{paper}.json"
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); restore it from git") from None
    return found


def accept(
    root: Path,
    rows: Sequence[Row],
    reason: str,
    commit: str | None,
    headline: Collection[tuple[str, str]] = (),
) -> int:
    """Make `rows` the accepted ones of their paper, tier and hardware class; return how many there are.

    headline: the (experiment, target) that the gate watches. It is kept with the row, so that a headline cannot be
    dropped without a reviewed diff.
    An unchanged row keeps its date, commit and reason, so that the diff shows only what moved.
    """
    if not reason.strip():
        raise UserError("accept needs a reason: --reason 'why the values may move'")
    (paper,) = {r.paper for r in rows}
    scopes = {(r.tier, r.hardware) for r in rows}
    before = load(root, paper)
    kept = {k: v for k, v in before.items() if tuple(k.split(":")[-2:]) not in scopes}
    for row in rows:
        entry = {
            "kind": row.kind,
            "headline": (row.experiment, row.target) in headline,
            "verdict": row.verdict,
            "ours": _rounded(row.ours),
            "paper_value": row.paper_value,
            "unit": row.unit,
            "samples": {k: _rounded(v) for k, v in row.samples.items()},
        }
        old = before.get(_key(row), {})
        when = {"reason": reason, "commit": commit, "date": datetime.now(UTC).date().isoformat()}
        same = all(old.get(k) == v for k, v in entry.items())
        kept[_key(row)] = {**entry, **({k: old[k] for k in when} if same else when)}
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(root / f"{paper}.json", json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return len(rows)


def compare(root: Path, rows: Sequence[Row], headline: Mapping[tuple[str, str], float]) -> list[str]:
    """Return one line for each headline row that is not what was accepted, sample by sample on the same seeds.

    headline: (experiment, target) -> how far one sample may lie from the accepted one.
    """
    accepted = {paper: load(root, paper) for paper in {r.paper for r in rows}}
    moves = []
    for row in rows:
        tolerance = headline.get((row.experiment, row.target))
        if tolerance is None or row.unit in NEVER_GATED:
            continue
        name = f"{row.experiment} {row.target} ({row.tier}, {row.hardware})"
        old = accepted[row.paper].get(_key(row))
        if old is None and row.verdict == "reduced":
            continue
        if old is None:
            moves.append(
                f"{name}: nothing accepted here; `reproven accept {row.paper} --reason ...` accepts it"
            )
            continue
        since = f"since {(old['commit'] or 'an unknown commit')[:10]} of {old['date']}"
        if row.verdict != old["verdict"]:
            moves.append(f"{name}: {old['verdict']} became {row.verdict} {since}: {row.reason}")
        before: dict[str, float | None] = old["samples"]
        after: dict[str, float | None] = dict(row.samples)
        if not before and not after:  # a test that keeps no samples is held to its one number
            before, after = {"all": old["ours"]}, {"all": row.ours}
        for sample, value in before.items():
            if sample not in after:
                moves.append(f"{name} at {sample}: {_shown(value)} is missing now, {since}")
            elif not _near(after[sample], value, tolerance):
                moves.append(
                    f"{name} at {sample}: {_shown(value)} became {_shown(after[sample])}, "
                    f"more than {tolerance:g} apart, {since}"
                )
        for sample in sorted(set(after) - set(before)):
            moves.append(f"{name} at {sample}: not accepted before, {since}")
    return moves


def dropped(root: Path, rows: Sequence[Row], headline: Collection[tuple[str, str]]) -> list[str]:
    """Return one line for each accepted headline, at a tier and hardware class of `rows`, that nothing watches now."""
    accepted = {paper: load(root, paper) for paper in {r.paper for r in rows}}
    scopes = {(r.tier, r.hardware) for r in rows}
    watched = {_key(r) for r in rows if (r.experiment, r.target) in headline}
    return [
        f"{name}: was a headline and is none now; put it back, or `reproven accept {paper} --reason ...`"
        for paper, entries in accepted.items()
        for name, entry in entries.items()
        if entry.get("headline") and tuple(name.split(":")[-2:]) in scopes and name not in watched
    ]


def _near(now: float | None, before: float | None, tolerance: float) -> bool:
    """Tell whether a sample stayed; a number that is none never stays, no number at all (blocked) does."""
    if now is None or before is None:
        return now is None and before is None
    rounded = _rounded(now)
    return rounded is not None and abs(rounded - before) <= tolerance


def _shown(value: float | None) -> str:
    return "no number" if value is None else f"{value:.10g}"


def readme_table(root: Path, tier: str = "cpu") -> str:
    """Return the README's table: one row a paper and hardware class, from the accepted values alone."""
    lines = [
        "| paper | hardware | claims held | violated | inconclusive | values reproduced | deviate | blocked |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for path in sorted(root.glob("*.json")):
        rows = {k: v for k, v in load(root, path.stem).items() if k.split(":")[-2] == tier}
        for hardware in sorted({k.split(":")[-1] for k in rows}):
            mine = [v for k, v in rows.items() if k.split(":")[-1] == hardware]
            claims = [v["verdict"] for v in mine if v["kind"] != "value"]
            values = [v["verdict"] for v in mine if v["kind"] == "value"]
            good = values.count("reproduced") + values.count("better")
            blocked = (claims + values).count("blocked")
            cells = [f"[{path.stem}](experiments/{path.stem}/README.md)", hardware]
            cells += [f"{claims.count('holds')} of {len(claims)}", str(claims.count("violated"))]
            cells += [
                str(claims.count("inconclusive")),
                f"{good} of {len(values)}",
                str(values.count("deviates")),
            ]
            lines.append("| " + " | ".join([*cells, str(blocked)]) + " |")
    return "\n".join(lines) + "\n"


def with_table(readme: str, table: str) -> str:
    """Return the README with its generated part replaced."""
    if BEGIN not in readme or END not in readme:
        raise UserError(f"README.md has no {BEGIN} ... {END} for the verdict table; put them back")
    head, _, rest = readme.partition(BEGIN)
    return f"{head}{BEGIN}\n{table}{END}{rest.partition(END)[2]}"


def _key(row: Row) -> str:
    return f"{row.experiment}:{row.target}:{row.tier}:{row.hardware}"


def _rounded(value: float | None) -> Any:
    """Twelve digits: beyond them is the noise of a processor, not a number anyone accepts."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.12g}")
