"""Targets: what a paper says, as data. Parsed from an experiment's YAML and its printed tables, and checked."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from reproven.harness.claims import resolve
from reproven.harness.errors import UserError, did_you_mean

KINDS = ("claim", "value", "audit", "deviation")
INTERVALS = ("t", "bootstrap", "binomial", "exact")
TIERS = ("smoke", "cpu", "paper")
PRINTED_COLUMNS = ("id", "source", "statement", "value", "spread", "seeds", "margin", "unit", "better")


@dataclass(frozen=True)
class Target:
    """One thing a paper says, with where it says it and what decides it.

    A claim (also audit and deviation rows) has a `test` with `params`; a value has a printed `value`, the number of
    `seeds` behind it and a `margin`: the half-width of the prediction interval beyond which nothing is decided
    (``interval: exact``: the largest difference that still counts as the same number).
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

    @property
    def statistical(self) -> bool:
        """Tell whether this is a claim that shares the paper's simultaneous level."""
        return self.kind != "value" and not resolve(self.test).exact


def load_targets(experiment: str, entries: Sequence[Mapping[str, Any]], printed: Path) -> list[Target]:
    """Return the targets of one experiment; UserError on anything misspelt, missing or impossible."""
    found: list[Target] = []
    for entry in entries:
        if "printed" in entry:
            found += _from_table(experiment, entry, printed)
        else:
            found.append(_target(experiment, entry))
    seen: set[str] = set()
    for target in found:
        if target.id in seen:
            raise UserError(
                f"{experiment}: two targets are called {target.id!r}; ids are unique in an experiment"
            )
        seen.add(target.id)
    return found


def _target(experiment: str, entry: Mapping[str, Any]) -> Target:
    name = entry.get("id")
    where = f"{experiment} target {name!r}"
    known = [f.name for f in fields(Target) if f.name not in ("experiment", "paper")]
    for given in entry:
        if given not in known:
            raise UserError(f"{where}: unknown key {given!r}{did_you_mean(given, known)}")
    for needed in ("id", "source", "metric"):
        if not entry.get(needed):
            raise UserError(f"{where} needs {needed!r}")
    values = {k: v for k, v in entry.items() if v is not None}
    for many in ("metric", "samples", "tiers"):
        if many in values:
            values[many] = tuple(values[many]) if isinstance(values[many], list | tuple) else (values[many],)
    target = Target(**{**values, "experiment": experiment, "paper": experiment.partition("/")[0]})
    _check(where, target)
    return target


def _check(where: str, target: Target) -> None:
    for value, known, what in (
        (target.kind, KINDS, "kind"),
        (target.interval, INTERVALS, "interval"),
        (target.better or "higher", ("higher", "lower"), "better"),
    ):
        if value not in known:
            raise UserError(f"{where}: {what} {value!r}{did_you_mean(value, known)}")
    for tier in target.tiers:
        if tier not in TIERS:
            raise UserError(f"{where}: tier {tier!r}{did_you_mean(tier, TIERS)}")
    if not (isinstance(target.regress_tol, int | float) and target.regress_tol >= 0):
        raise UserError(f"{where}: regress_tol {target.regress_tol!r} is no number from 0 up")
    if target.kind == "value":
        if target.value is None or not math.isfinite(target.value):
            raise UserError(f"{where}: a value target needs a finite value, not {target.value!r}")
        if target.margin is None or not (math.isfinite(target.margin) and target.margin > 0):
            raise UserError(f"{where}: margin {target.margin!r} is not finite and positive")
        if target.seeds < 1:
            raise UserError(f"{where}: seeds {target.seeds!r} is not at least 1")
        return
    if not target.test:
        raise UserError(f"{where}: a {target.kind} needs a test")
    parameters = resolve(target.test).parameters
    for given in target.params:
        if given not in parameters:
            raise UserError(f"{where}: {target.test} takes no {given!r}{did_you_mean(given, parameters)}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in target.params:
            raise UserError(f"{where}: {target.test} needs {name!r} in params")


def _from_table(experiment: str, entry: Mapping[str, Any], printed: Path) -> list[Target]:
    path = printed / str(entry["printed"])
    if not path.is_file():
        raise UserError(f"{experiment}: no printed table {path.name!r} in {printed}")
    shared = {k: v for k, v in entry.items() if k not in ("printed", "where")}
    targets = []
    with path.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            cells = {k: v for k, v in row.items() if v not in ("", None)}
            try:
                own = {
                    k: _number(v) if k in ("value", "spread", "margin") else v
                    for k, v in cells.items()
                    if k in PRINTED_COLUMNS
                }
                if "seeds" in own:
                    own["seeds"] = int(own["seeds"])
            except ValueError as error:
                raise UserError(f"{experiment}: {path.name} line {line}: {error}") from None
            axes = {k: _scalar(v) for k, v in cells.items() if k not in PRINTED_COLUMNS}
            targets.append(
                _target(experiment, {**shared, **own, "where": {**entry.get("where", {}), **axes}})
            )
    return targets


def _number(text: str) -> float:
    return float(text)


def _scalar(text: str) -> int | float | str | bool:
    if text in ("true", "false", "True", "False"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
