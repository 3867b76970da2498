"""The regression gate turns red when a method is broken: each known break, applied to a copy of the project.

`make mutate` runs them (``pytest -m mutation``); every test run checks that they still apply.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reproven.harness import paths

MUTATIONS = yaml.safe_load(Path(__file__).with_name("mutations.yaml").read_text(encoding="utf-8"))


def source(mutation, root: Path) -> Path:
    return root / "src" / "reproven" / "papers" / mutation["paper"] / mutation["file"]


def broken(mutation, text: str) -> str:
    assert text.count(mutation["old"]) == 1, "the place that the mutation breaks has moved: write it anew"
    return text.replace(mutation["old"], mutation["new"])


def copy_of_the_project(folder: Path) -> Path:
    for name in ("src", "conf", "experiments"):
        shutil.copytree(paths.CHECKOUT / name, folder / name, symlinks=True)
    shutil.copytree(paths.CHECKOUT / "results" / "accepted", folder / "results" / "accepted")
    return folder


def gate(root: Path, mutation) -> list[str]:
    """Run the experiment in a copy of the project; return the gate's lines that name it."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "HF_HUB_OFFLINE": "1"}
    environment.pop("REPROVEN_RESULTS", None)

    command = [
        sys.executable,
        "-m",
        "reproven",
        "regress",
        mutation["experiment"],
        "tier=smoke",
        "--no-report",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert "headline values compared" in done.stdout, lines[-3:]
    return [line for line in lines if line.startswith(f"{mutation['experiment']} ")]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m["id"])
def test_a_mutation_applies_to_the_source_as_it_is(mutation):
    text = source(mutation, paths.CHECKOUT).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(broken(mutation, text))) != ast.dump(ast.parse(text))


def test_every_paper_has_a_mutation():
    papers = {p.parent.name for p in paths.experiments().glob("*/README.md")}
    assert papers == {m["paper"] for m in MUTATIONS}


@pytest.mark.mutation
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m["id"])
def test_the_gate_turns_red(mutation, tmp_path):
    root = copy_of_the_project(tmp_path)
    path = source(mutation, root)
    path.write_text(broken(mutation, path.read_text(encoding="utf-8")), encoding="utf-8")
    moved = gate(root, mutation)
    assert any(line.split()[1] in mutation["caught_by"] for line in moved), moved


@pytest.mark.mutation
@pytest.mark.parametrize(
    "experiment", sorted({(m["paper"], m["experiment"]) for m in MUTATIONS}), ids=lambda e: e[1]
)
def test_the_gate_is_green_without_one(experiment, tmp_path):
    paper, name = experiment
    assert gate(copy_of_the_project(tmp_path), {"paper": paper, "experiment": name}) == []
