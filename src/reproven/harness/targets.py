"""Targets: what a paper says, as data. Parsed from an experiment's YAML and its printed tables, and checked."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproven.harness.claims import resolve
from reproven.harness.errors import UserError, did_you_mean

KINDS = ("claim", "value", "audit", "deviation")
INTERVALS = ("t", "bootstrap", "binomial", "exact")
TIERS = ("smoke", "cpu", "paper")
BETTER = ("higher", "lower")

SHARED_KEYS = ("id", "kind", "statement", "source", "metric", "where", "samples", "unit", "tiers")
GATE_KEYS = ("headline", "regress_tol")
TEST_KEYS = ("test", "params")
VALUE_KEYS = ("value", "spread", "seeds", "margin", "better", "interval")
PRINTED_COLUMNS = ("id", "source", "statement", "value", "spread", "seeds", "margin", "unit", "better")


@dataclass(frozen=True)
class Target:
    """One thing a paper says, with where it says it and what decides it.

    id: unique in its experiment. where: coordinate -> value, or a list of values of which each must be there.
    samples: coordinates whose combinations are independent samples.
    A claim (also audit and deviation rows) has a `test` with `params`.
    A value has a printed `value` from `seeds` independent samples, with standard deviation `spread` if printed.
    rounding: half a unit of its last printed digit, known only where the file keeps the digits (CSV cells, quoted
        numbers); the printed number lies anywhere within it.
    margin: the half-width of the widest prediction interval that still decides (``interval: exact``: the largest
        difference that still counts as the same number).
    headline: the regression gate watches it, and lets each sample move by `regress_tol`.
    """

    id: str
    experiment: str
    paper: str
    source: str
    metric: tuple[str, ...]
    kind: str = "value"
    statement: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[str, ...] = ("seed",)
    test: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    spread: float | None = None
    seeds: int = 1
    margin: float | None = None
    better: str | None = None
    interval: str = "t"
    unit: str = ""
    headline: bool = False
    regress_tol: float = 0.0
    tiers: tuple[str, ...] = TIERS
    rounding: float = 0.0

    @property
    def statistical(self) -> bool:
        """Tell whether this is a claim that shares the paper's simultaneous level."""
        return self.kind != "value" and not resolve(self.test).exact


def load_targets(experiment: str, entries: Sequence[Mapping[str, Any]], printed: Path) -> list[Target]:
    """Return the targets of one experiment; UserError on anything misspelt, missing or impossible."""
    found: list[Target] = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, Mapping):
            raise UserError(
                f"{experiment} target {number} is {entry!r}; write a mapping with id, kind, source"
            )
        if "printed" in entry:
            found += _from_table(experiment, entry, printed)
        else:
            found.append(_target(experiment, entry, f"{experiment} target {entry.get('id', number)!r}"))
    seen: set[str] = set()
    for target in found:
        if target.id in seen:
            raise UserError(f"{experiment}: two targets are called {target.id!r}; give each its own id")
        seen.add(target.id)
    return found


def _target(experiment: str, entry: Mapping[str, Any], name: str) -> Target:
    kind = _choice(entry.get("kind", "value"), KINDS, f"{name}: kind")
    own, needed = (VALUE_KEYS, ("value", "margin")) if kind == "value" else (TEST_KEYS, ("test",))
    allowed = (*SHARED_KEYS, *GATE_KEYS, *own)
    for given in entry:
        if given in (*VALUE_KEYS, *TEST_KEYS) and given not in own:
            raise UserError(f"{name}: a {kind} takes no {given!r}; it has {', '.join(own)}")
        if given not in allowed:
            raise UserError(f"{name}: unknown key {given!r}{did_you_mean(str(given), allowed)}")
    values = {k: v for k, v in entry.items() if v is not None}
    for key in ("id", "source", "metric", *needed):
        if values.get(key) in (None, "", [], ()):
            raise UserError(f"{name} needs {key!r}; add it")
    for key in ("id", "source"):
        values[key] = _text(values[key], f"{name}: {key}")
    for key in ("metric", "samples", "tiers"):
        if key in values:
            values[key] = _names(values[key], f"{name}: {key}")
    for tier in values.get("tiers", ()):
        _choice(tier, TIERS, f"{name}: tier")
    values["where"] = _where(values.get("where", {}), name)
    if not isinstance(values.get("headline", False), bool):
        raise UserError(f"{name}: headline {values['headline']!r} must be true or false")
    values["regress_tol"] = _number(values.get("regress_tol", 0.0), f"{name}: regress_tol", 0.0)
    values |= _value(values, name) if kind == "value" else _test(values, name)
    shared = {"kind": kind, "experiment": experiment, "paper": experiment.partition("/")[0]}
    return Target(**{**values, **shared})


def _value(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    number, rounding = _printed_number(values["value"], f"{name}: value")
    margin = _number(values["margin"], f"{name}: margin", 0.0)
    if margin == 0:
        raise UserError(f"{name}: margin 0 is not positive; no interval is that narrow")
    seeds = _number(values.get("seeds", 1), f"{name}: seeds", 1)
    if seeds != int(seeds):
        raise UserError(f"{name}: seeds {values['seeds']!r} is no whole number")
    checked = {"value": number, "rounding": rounding, "margin": margin, "seeds": int(seeds)}
    if "spread" in values:
        checked["spread"] = _number(values["spread"], f"{name}: spread", 0.0)
    for key, known in (("better", BETTER), ("interval", INTERVALS)):
        if key in values:
            _choice(values[key], known, f"{name}: {key}")
    return checked


def _test(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    params = values.get("params", {})
    if not isinstance(params, Mapping):
        raise UserError(f"{name}: params {params!r} must be a mapping of the test's keywords")
    try:
        parameters = resolve(_text(values["test"], f"{name}: test")).parameters
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    for given in params:
        if given not in parameters:
            raise UserError(
                f"{name}: {values['test']} takes no {given!r}{did_you_mean(str(given), parameters)}"
            )
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in params:
            raise UserError(f"{name}: {values['test']} needs {key!r} in params")
    if params.get("per") is not None:
        params = {**params, "per": list(_names(params["per"], f"{name}: per"))}
    return {"params": params}


def _from_table(experiment: str, entry: Mapping[str, Any], folder: Path) -> list[Target]:
    path = folder / str(entry["printed"])
    name = f"{experiment}: printed table {str(entry['printed'])!r}"
    if not path.is_file():
        there = [p.name for p in folder.glob("*.csv")] if folder.is_dir() else []
        raise UserError(f"{name} is not in the paper's folder printed/{did_you_mean(path.name, there)}")
    shared = {k: v for k, v in entry.items() if k not in ("printed", "where", "rows", "without")}
    common = _where(entry.get("where") or {}, name)
    wanted, left_out = (_where(entry.get(key) or {}, f"{name}: {key}") for key in ("rows", "without"))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{name} does not parse: {error}") from None
    if not {"id", "value"} <= set(columns) or len(set(columns)) < len(columns) or not rows:
        raise UserError(f"{name} needs rows and the columns id and value, each once; it has {columns}")
    for column in (*wanted, *left_out):
        if column not in columns:
            raise UserError(f"{name} has no column {column!r}{did_you_mean(column, columns)}")
    targets = []
    for line, row in enumerate(rows, start=2):
        place = f"{name} line {line}"
        if None in row or None in row.values():
            raise UserError(f"{place} has {'more' if None in row else 'fewer'} cells than the header")
        cells = {k: v.strip() for k, v in row.items() if v.strip()}
        if any(not _is(cells.get(c), v) for c, v in wanted.items()):
            continue
        if left_out and all(_is(cells.get(c), v) for c, v in left_out.items()):
            continue
        axes = {k: _scalar(v) for k, v in cells.items() if k not in (*PRINTED_COLUMNS, *wanted)}
        doubled = sorted(set(axes) & set(common))
        if doubled:
            raise UserError(f"{place}: {doubled[0]!r} is both a column and in where; keep one")
        own = {k: v for k, v in cells.items() if k in PRINTED_COLUMNS}
        if "value" not in own or "id" not in own:
            raise UserError(
                f"{place} has no {'value' if 'id' in own else 'id'}; fill it in or delete the row"
            )
        targets.append(_target(experiment, {**shared, **own, "where": {**common, **axes}}, place))
    if not targets:
        raise UserError(f"{name}: no row is left; mend rows or without")
    return targets


def _is(cell: str | None, value: Any) -> bool:
    """Tell whether a printed cell is `value`, or one of a list of values."""
    return cell is not None and _scalar(cell) in (value if isinstance(value, list | tuple) else [value])


def _where(where: Any, name: str) -> dict[str, Any]:
    if not isinstance(where, Mapping):
        raise UserError(f"{name}: where {where!r} must be a mapping of coordinates")
    for key, value in where.items():
        members = value if isinstance(value, list | tuple) else [value]
        if not members or not all(isinstance(m, str | int | float | bool) for m in members):
            raise UserError(f"{name}: where {key} is {value!r}; give a value or a list of values")
    return {str(k): v for k, v in where.items()}


def _names(value: Any, name: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
        raise UserError(f"{name} {value!r} must be a name or a list of names")
    if len(set(names)) < len(names):
        raise UserError(f"{name} {value!r} names one thing twice")
    return tuple(names)


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise UserError(f"{name} {value!r} must be text")
    return str(value)


def _choice(value: Any, known: Sequence[str], name: str) -> str:
    if value not in known:
        raise UserError(f"{name} {value!r}{did_you_mean(str(value), known)}")
    return str(value)


def _number(value: Any, name: str, low: float = -math.inf) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < low:
        raise UserError(
            f"{name} {value!r} must be a finite number{f', {low:g} or more' if low > -math.inf else ''}"
        )
    return number


def _printed_number(value: Any, name: str) -> tuple[float, float]:
    """Return a printed number and half a unit of its last decimal: "0.10" is 0.1 ± 0.005; a bare 0.1 is 0.1."""
    number = _number(value, name)
    text = value.strip() if isinstance(value, str) else ""
    digits = re.fullmatch(r"[+-]?\d*\.(\d+)(?:[eE]([+-]?\d+))?", text)
    return number, 0.5 * 10.0 ** (int(digits[2] or 0) - len(digits[1])) if digits else 0.0


def _scalar(text: str) -> int | float | str | bool:
    if text in ("true", "false", "True", "False"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
