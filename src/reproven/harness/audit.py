"""Audit of a paper's printed numbers against themselves: which cells cannot all be true, from the cells alone.

A printed number stands for the interval of all numbers that round to it. A rule asks whether some choice within these
intervals satisfies an identity that the numbers must obey (a rate is a count over a sample, an average is the mean of
its rows, ...). A cell is contradictory only where no choice does, so rounding alone never makes a finding.

Which rule applies to which cells is data: ``experiments/<paper>/printed/audit.yaml``, a list of checks

    - rule: counts                  # a function below
      title: "image rates are counts over the test split"
      cells: {table: mvtec_tpr.csv, where: {level: image}}      # named sets of cells, a rule's first arguments
      params: {n: {table: mvtec_splits.csv, column: test_normal, by: [category]}, scale: 100}

No run of a model is involved, and nothing here knows a paper.
"""

from __future__ import annotations

import csv
import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from reproven.harness.errors import UserError, did_you_mean

Interval = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """One printed number: every number within `low` and `high` is printed as `text`."""

    id: str
    text: str
    low: float
    high: float
    coords: Mapping[str, str] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The number as printed."""
        return float(self.text)


@dataclass(frozen=True)
class Finding:
    """What a rule says of one cell, or of one group of cells: consistent or not, and the arithmetic."""

    check: str
    rule: str
    cells: tuple[str, ...]
    consistent: bool
    arithmetic: str


class Judged(NamedTuple):
    """A rule's answer on the cells that it looked at together."""

    cells: tuple[Cell, ...]
    consistent: bool
    arithmetic: str


def printed(id: str, text: str, coords: Mapping[str, str] | None = None, decimals: int | None = None) -> Cell:
    """Return a printed number with the interval that rounds to it.

    decimals: digits behind the point that the table prints; by default those of `text`, where trailing zeros may have
    been dropped from a whole number: give it where a table prints 100 for 100.00. Both ends belong to the interval,
    since papers round halves either way.
    """
    match = re.fullmatch(r"[+-]?\d*(?:\.(\d*))?(?:[eE]([+-]?\d+))?", text.strip())
    if not match or not re.search(r"\d", text):
        raise UserError(f"printed number {text!r} of {id!r} is no number; mend the table")
    digits = len(match[1] or "") if decimals is None else decimals
    half = 0.5 * 10.0 ** (int(match[2] or 0) - digits)
    slack = 1e-9 * max(1.0, abs(float(text)))  # of binary arithmetic
    return Cell(id, text.strip(), float(text) - half - slack, float(text) + half + slack, dict(coords or {}))


def counts(cells: Sequence[Cell], n: Mapping[str, int], scale: float = 1.0) -> list[Judged]:
    """Ask whether each rate is ``scale * k / n`` for a whole k (the GRIM test).

    n: cell id -> size of the sample behind it. scale: 100 for percent, or the number of points an item can score.
    It can contradict only where a unit of the last digit is finer than scale / n.
    """
    found = []
    for cell in cells:
        size = n[cell.id]
        k = [math.ceil(cell.low * size / scale), math.floor(cell.high * size / scale)]
        fits = k[0] <= k[1] and k[1] >= 0
        nearest = round(cell.value * size / scale)
        around = f"{nearest}/{size} is {scale * nearest / size:.6g}"
        found.append(
            Judged((cell,), fits, f"printed {cell.text}; {around}; {'a' if fits else 'no'} whole count fits")
        )
    return found


def averages(cells: Sequence[Cell], axis: str, name: str = "average") -> list[Judged]:
    """Ask whether each printed average (``coords[axis] == name``) is the mean of the rows it is printed under."""
    found = []
    for group in _groups(cells, [c for c in _axes(cells) if c != axis]):
        means = [c for c in group if c.coords.get(axis) == name]
        rows = [c for c in group if c.coords.get(axis) != name]
        for mean in means:
            if not rows:
                raise UserError(f"average {mean.id!r} has no rows beside it along {axis!r}")
            low, high = (sum(getattr(c, end) for c in rows) / len(rows) for end in ("low", "high"))
            fits = low <= mean.high and mean.low <= high
            arithmetic = f"mean of {len(rows)} rows is within [{low:.6g}, {high:.6g}]; printed {mean.text}"
            found.append(Judged((mean,), fits, arithmetic))
    return found


def f_measure(precision: Sequence[Cell], recall: Sequence[Cell], f1: Sequence[Cell]) -> list[Judged]:
    """Ask whether F1 = 2 P R / (P + R), P, R and F1 in one unit; cells are matched by their coordinates."""
    found = []
    for p, r, f in _matched(precision, recall, f1):
        low, high = (
            _harmonic(getattr(p, end), getattr(r, end)) for end in ("low", "high")
        )  # it grows in both
        fits = low <= f.high and f.low <= high
        found.append(
            Judged(
                (p, r, f),
                fits,
                f"P {p.text}, R {r.text} give F1 in [{low:.6g}, {high:.6g}]; printed {f.text}",
            )
        )
    return found


def confusion(
    tpr: Sequence[Cell],
    fpr: Sequence[Cell],
    f1: Sequence[Cell],
    positives: Mapping[str, int],
    negatives: Mapping[str, int],
    scale: float = 1.0,
) -> list[Judged]:
    """Ask whether whole counts TP and FP exist that give all three printed numbers.

    F1 = 2 TP / (2 TP + FP + FN), FN = positives - TP. positives, negatives: id of the TPR cell -> size.
    """
    found = []
    for t, f, m in _matched(tpr, fpr, f1):
        n1, n0 = positives[t.id], negatives[t.id]
        true = [k for k in range(n1 + 1) if t.low <= scale * k / n1 <= t.high]
        false = [k for k in range(n0 + 1) if f.low <= scale * k / n0 <= f.high]
        made = {
            (a, b): scale * 2 * a / (2 * a + b + n1 - a) for a, b in itertools.product(true, false) if a + b
        }
        fits = any(m.low <= value <= m.high for value in made.values())
        given = ", ".join(
            f"TP {a}, FP {b} give {value:.6g}" for (a, b), value in itertools.islice(made.items(), 3)
        )
        said = f"{given}; printed F1 {m.text}" if made else f"no counts give TPR {t.text} and FPR {f.text}"
        found.append(Judged((t, f, m), fits, said))
    return found


def ratios(numerator: Sequence[Cell], denominator: Sequence[Cell], over: Sequence[str]) -> list[Judged]:
    """Ask whether numerator / denominator can be one number in all rows that differ only along `over`.

    Speed-ups against one baseline, costs per sample, and the like. Denominators must be positive.
    """
    pairs = _matched(numerator, denominator)
    found = []
    kept = [a for a, _ in pairs]
    for group in _groups(kept, [c for c in _axes(kept) if c not in over]):
        mine = [(a, b) for a, b in pairs if a in group]
        if any(b.low <= 0 for _, b in mine):
            raise UserError(f"denominator of {mine[0][0].id!r} is not positive; a ratio rule cannot judge it")
        spans = [_quotient(a, b) for a, b in mine]
        low, high = max(s[0] for s in spans), min(s[1] for s in spans)
        shown = ", ".join(f"{a.text}/{b.text}={a.value / b.value:.6g}" for a, b in mine)
        found.append(
            Judged(
                tuple(a for a, _ in mine),
                low <= high,
                f"{shown}: {'one' if low <= high else 'no'} ratio fits all",
            )
        )
    return found


def spreads(
    means: Sequence[Cell],
    deviations: Sequence[Cell],
    n: Mapping[str, int],
    low: float,
    high: float,
) -> list[Judged]:
    """Ask whether n numbers within [low, high] can have the printed mean and sample standard deviation.

    The largest is sqrt(n / (n - 1) (mean - low) (high - mean)), reached by numbers at the two ends alone. It is the
    bound with the divisor n - 1; with the divisor n it is smaller, so that a finding holds for both.
    """
    found = []
    for mean, deviation in _matched(means, deviations):
        size = n[mean.id]
        if size < 2:
            raise UserError(f"spread of {mean.id!r} comes from {size} number; at least 2 are needed")
        middle = min(max((low + high) / 2, mean.low), mean.high)  # the bound is largest nearest the middle
        inside = max(0.0, (middle - low) * (high - middle))
        bound = math.sqrt(size / (size - 1) * inside)
        fits = deviation.low <= bound and deviation.high >= 0
        said = f"mean {mean.text} of {size} numbers in [{low:g}, {high:g}] allows a spread up to {bound:.6g}"
        found.append(Judged((mean, deviation), fits, f"{said}; printed {deviation.text}"))
    return found


def repeated(first: Sequence[Cell], second: Sequence[Cell]) -> list[Judged]:
    """Ask whether one quantity printed in two places can be one number, each as coarsely rounded as it is printed."""
    found = []
    for a, b in _matched(first, second):
        found.append(
            Judged((a, b), a.low <= b.high and b.low <= a.high, f"printed {a.text} here and {b.text} there")
        )
    return found


def digits(cells: Sequence[Cell], decimals: int) -> list[Judged]:
    """Ask whether every number is printed with as many decimals as the table claims."""
    found = []
    for cell in cells:
        shown = len(cell.text.partition(".")[2])
        found.append(
            Judged(
                (cell,), shown == decimals, f"printed {cell.text}: {shown} decimals, the table has {decimals}"
            )
        )
    return found


RULES: dict[str, Callable[..., list[Judged]]] = {
    f.__name__: f for f in (counts, averages, f_measure, confusion, ratios, spreads, repeated, digits)
}


def audit(folder: Path) -> list[Finding]:
    """Return what every check of ``folder/audit.yaml`` finds; nothing where a paper has none.

    UserError with one line on an unknown rule, table, column or coordinate.
    """
    path = folder / "audit.yaml"
    if not path.is_file():
        return []
    checks = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(checks, list):
        raise UserError(f"{path} must be a list of checks")
    found = []
    for check in checks:
        found += _check(folder, check)
    return found


def findings_csv(found: Iterable[Finding]) -> str:
    """Return findings as CSV text, contradictions first."""
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["consistent", "check", "rule", "cells", "arithmetic"])
    for f in sorted(found, key=lambda f: f.consistent):
        writer.writerow(["yes" if f.consistent else "no", f.check, f.rule, " ".join(f.cells), f.arithmetic])
    return text.getvalue()


def _check(folder: Path, check: Mapping[str, Any]) -> list[Finding]:
    title = str(check.get("title", ""))
    unknown = set(check) - {"rule", "title", "cells", "params"}
    if unknown or not title:
        raise UserError(
            f"audit check {title or check!r}: {f'unknown key {min(unknown)!r}' if unknown else 'no title'}"
        )
    rule = RULES.get(str(check.get("rule")))
    if rule is None:
        raise UserError(
            f"audit check {title!r}: no rule {check.get('rule')!r}{did_you_mean(str(check.get('rule')), RULES)}"
        )
    parameters = list(inspect.signature(rule).parameters)
    sets = [p for p in parameters if p in _SETS]
    asked = check["cells"]
    named = {sets[0]: asked} if len(sets) == 1 and "table" in asked else asked
    if set(named) != set(sets):
        raise UserError(
            f"audit check {title!r}: cells of {check['rule']} are {', '.join(sets)}, not {', '.join(named)}"
        )
    cells = {k: _cells(folder, v, title) for k, v in named.items()}
    params = {
        k: _sizes(folder, v, cells[sets[0]], title) if k in _SIZES else v
        for k, v in (check.get("params") or {}).items()
    }
    stray = set(params) - set(parameters)
    if stray:
        raise UserError(
            f"audit check {title!r}: {check['rule']} takes no {min(stray)!r}{did_you_mean(min(stray), parameters)}"
        )
    found = rule(**cells, **params)
    if not found:
        raise UserError(f"audit check {title!r} compares nothing; mend its cells or delete it")
    return [
        Finding(title, rule.__name__, tuple(c.id for c in group), fits, said) for group, fits, said in found
    ]


# Arguments of rules that are sets of cells, and those that are a size for each cell.
_SETS = (
    "cells", "precision", "recall", "f1", "tpr", "fpr", "numerator", "denominator", "means", "deviations", "first",
    "second",
)  # fmt: skip
_SIZES = ("n", "positives", "negatives")


def _cells(folder: Path, asked: Mapping[str, Any], title: str) -> list[Cell]:
    """Read the cells of one table: ``{table, where, without, column, drop, decimals}``."""
    unknown = set(asked) - {"table", "where", "without", "column", "drop", "decimals"}
    if unknown:
        raise UserError(f"audit check {title!r}: cells take no {min(unknown)!r}")
    where, without = asked.get("where") or {}, asked.get("without") or {}
    column = asked.get("column", "value")
    found = []
    for row in _table(folder, asked["table"], title):
        for name in (*where, *without, column, *asked.get("drop", ())):
            if name not in row:
                raise UserError(
                    f"audit check {title!r}: {asked['table']} has no column {name!r}{did_you_mean(name, row)}"
                )
        chosen = all(_one_of(row[k], v) for k, v in where.items())
        if chosen and not any(_one_of(row[k], v) for k, v in without.items()) and row[column].strip():
            dropped = {
                "id",
                "source",
                "value",
                "unit",
                "statement",
                "spread",
                "seeds",
                "margin",
                "better",
                column,
            }
            coords = {k: v for k, v in row.items() if k not in dropped and k not in asked.get("drop", ())}
            found.append(printed(row["id"], row[column], coords, asked.get("decimals")))
    if not found:
        raise UserError(f"audit check {title!r}: no cell of {asked['table']} is at {dict(where)}")
    return found


def _sizes(folder: Path, asked: Any, cells: Sequence[Cell], title: str) -> dict[str, int]:
    """Return a sample size for each cell: one number, or a column of a table looked up by coordinates."""
    if isinstance(asked, int):
        return {c.id: asked for c in cells}
    by = list(asked["by"])
    sizes = {tuple(r[k] for k in by): int(r[asked["column"]]) for r in _table(folder, asked["table"], title)}
    found = {}
    for cell in cells:
        place = tuple(cell.coords[k] for k in by)
        if place not in sizes:
            raise UserError(f"audit check {title!r}: {asked['table']} has no row for {' '.join(place)}")
        found[cell.id] = sizes[place]
    return found


def _table(folder: Path, name: str, title: str) -> list[dict[str, str]]:
    path = folder / name
    if not path.is_file():
        there = [p.name for p in folder.glob("*.csv")]
        raise UserError(f"audit check {title!r}: no table {name!r}{did_you_mean(name, there)}")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _one_of(text: str, wanted: Any) -> bool:
    return text in [str(w) for w in (wanted if isinstance(wanted, list) else [wanted])]


def _axes(cells: Sequence[Cell]) -> list[str]:
    return sorted({axis for c in cells for axis in c.coords})


def _groups(cells: Sequence[Cell], axes: Sequence[str]) -> list[list[Cell]]:
    found: dict[tuple[str | None, ...], list[Cell]] = {}
    for cell in cells:
        found.setdefault(tuple(cell.coords.get(a) for a in axes), []).append(cell)
    return list(found.values())


def _matched(*sets: Sequence[Cell]) -> list[tuple[Cell, ...]]:
    """Return tuples of cells, one of each set, at the same coordinates; UserError where one has no partner."""
    places = [{tuple(sorted(c.coords.items())): c for c in cells} for cells in sets]
    for cells, there in zip(sets, places):
        if len(there) < len(cells):
            raise UserError(f"two cells beside {cells[0].id!r} have the same coordinates; narrow `where`")
    common = set(places[0]).intersection(*places)
    odd = set(places[0]).union(*places) - common
    if odd:
        raise UserError(
            f"cells at {dict(min(odd))} stand in one table and not in the other; narrow `where` or drop an axis"
        )
    return [tuple(there[place] for there in places) for place in places[0]]


def _harmonic(a: float, b: float) -> float:
    return 2 * max(a, 0.0) * max(b, 0.0) / (a + b) if a + b > 0 else 0.0


def _quotient(a: Cell, b: Cell) -> Interval:
    ends = [x / y for x in (a.low, a.high) for y in (b.low, b.high)]
    return min(ends), max(ends)
