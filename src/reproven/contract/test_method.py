"""A method from outside: it is built as its file says, runs on the same data, repeats itself, and gets its column."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reproven.harness import compose, plan, signatures


@pytest.fixture(scope="module", autouse=True)
def hydra(config_dir: str | None) -> Iterator[None]:
    with compose.hydra_ready(config_dir):
        yield


@pytest.fixture(scope="module")
def measured(reproven: Any, method: str, experiment: str) -> list[list[dict[str, Any]]]:
    """Measurements of two runs of the same configuration in two stores."""
    found = []
    for store in ("first", "second"):
        done = reproven(f"experiment={experiment}", f"method={method}", "tier=smoke", store=store)
        assert done.returncode == 0, done.stderr.strip().splitlines()[-1:]
        results = sorted((reproven.root / store).glob("runs/*/*/result.json"))
        found.append([m for path in results for m in json.loads(path.read_text())["measurements"]])
    return found


def test_its_file_names_what_can_be_imported_and_takes_its_keywords(method: str) -> None:
    node = compose.entry("method", method)
    signatures.check(node, method)
    assert callable(compose.instantiate(node)) or not node.get("_partial_")


def test_it_is_compared_on_the_data_and_seeds_of_the_others(method: str, experiment: str) -> None:
    _, runs = plan.expand([f"experiment={experiment}", f"method={method}", "tier=smoke"])
    _, others = plan.expand([f"experiment={experiment}", "tier=smoke"])
    assert {r.comparable for r in runs} <= {r.comparable for r in others}


def test_it_measures_finite_numbers(measured: list[list[dict[str, Any]]]) -> None:
    first, _ = measured
    assert first
    bad = [
        m["metric"]
        for m in first
        if not all(isinstance(v, float | int) and math.isfinite(v) for v in m["values"])
    ]
    assert not bad, f"not finite: {', '.join(sorted(set(bad)))}"


def test_it_gives_the_same_numbers_twice(measured: list[list[dict[str, Any]]]) -> None:
    first, second = measured
    timed = {"s", "ms"}  # times differ
    assert [m for m in first if m["unit"] not in timed] == [m for m in second if m["unit"] not in timed]


def test_it_gets_a_column_beside_the_others(
    reproven: Any, measured: list[list[dict[str, Any]]], method: str, experiment: str
) -> None:
    paper, _, name = experiment.partition("/")
    assert reproven("report", paper, store="first").returncode == 0
    table = Path(reproven.root) / "first" / "tables" / paper / f"{name.replace('/', '-')}.csv"
    assert method in table.read_text(encoding="utf-8")
