"""Many runs: two hundred short ones in one sweep, and a store of thousands that planning and reporting read."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from big_store import fill

from conftest import TOYS, CommandLine
from reproven.harness import compose, plan
from reproven.harness.store import Store

MANY = 3000


@pytest.mark.slow
def test_two_hundred_short_runs_leave_two_hundred_results(reproven, tmp_path):
    tally = tmp_path / "tally"
    done = reproven("reproduce", "toy/count", "tier=smoke", "seed=range(0,200)", "+task.tally=" + str(tally))
    assert done.returncode == 0, done.stderr[-2000:]
    assert Counter(tally.read_text().split()) == {str(seed): 1 for seed in range(200)}
    assert len(list(reproven.results.glob("runs/toy/*/result.json"))) == 200
    again = reproven("reproduce", "toy/count", "tier=smoke", "seed=0,7", "+task.tally=" + str(tally))
    assert "2 done before" in again.stdout


@pytest.fixture(scope="module")
def big(tmp_path_factory) -> tuple[CommandLine, Path]:
    root = tmp_path_factory.mktemp("big")
    conf = root / "conf"
    shutil.copytree(TOYS / "conf", conf)
    path = conf / "experiment" / "toy" / "count.yaml"
    node = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(f"# @package _global_\n{yaml.safe_dump({**node, 'grid': {'seed': list(range(MANY))}})}")
    with compose.hydra_ready(str(conf)):
        _, runs = plan.expand(["experiment=toy/count", "tier=smoke"])
    assert len(runs) == MANY
    fill(Store(root / "results"), runs)
    return CommandLine(root / "results", root, conf), root / "results"


@pytest.mark.slow
def test_a_large_store_is_planned_and_reported(big):
    reproven, results = big
    planned = reproven("plan", "toy/count", "tier=smoke")
    assert planned.stdout.strip().splitlines()[-1].startswith(f"0 to run (about 0 s), {MANY} done")
    assert reproven("report", "toy").returncode == 0
    with (results / "tables" / "toy" / "count.csv").open() as file:
        assert len(list(csv.DictReader(file))) == MANY
    assert reproven("verify", "toy").returncode == 0
