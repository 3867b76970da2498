"""The gate as a maintainer meets it: what it reruns, what it leaves out, what turns it red."""

from __future__ import annotations

import json
import shutil

import pytest

from conftest import CommandLine


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The toy paper's accepted values of both tiers."""
    root = tmp_path_factory.mktemp("first")
    cli = CommandLine(root / "results", root)
    for tier in ("smoke", "cpu"):
        assert cli("reproduce", "toy/mean", f"tier={tier}", "--no-report").returncode == 0
    assert cli("accept", "toy", "--reason", "first").returncode == 0
    return cli.results / "accepted"


@pytest.fixture
def accepted(reproven, first):
    """The accepted values in a store without a run, so that the gate has to rerun them."""
    shutil.copytree(first, reproven.results / "accepted")
    return reproven.results / "accepted" / "toy.json"


def moved(path, tier):
    """Move one accepted sample, as a change of the code would have moved the one that is measured."""
    entries = json.loads(path.read_text())
    samples = entries[f"toy/mean:one_is_above_zero:{tier}:cpu"]["samples"]
    samples[next(iter(samples))] += 1e-3
    path.write_text(json.dumps(entries))


def test_it_reruns_both_tiers_and_is_green_where_nothing_moved(reproven, accepted):
    done = reproven("regress", "toy/mean")
    assert done.returncode == 0, done.stderr
    assert "cpu tier: 1 experiments with accepted headlines rerun; 0 left out" in done.stdout
    assert "4 done" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "2 headline values compared, 0 moved"
    assert reproven("verify", "toy").returncode == 0


@pytest.mark.parametrize("tier", ["smoke", "cpu"])
def test_a_value_that_moved_at_either_tier_turns_it_red(reproven, accepted, tier):
    moved(accepted, tier)
    done = reproven("regress", "toy/mean", "--no-report")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "became" in line]
    assert line.startswith(f"toy/mean one_is_above_zero ({tier}, cpu) at ")
    assert "more than 1e-09 apart, since " in line


def test_what_is_slow_at_the_cpu_tier_is_left_out_and_said_so(reproven, accepted):
    moved(accepted, "cpu")
    done = reproven("regress", "toy/mean", "--within", "0.15", "--no-report")  # two runs of 0.1 s each
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("cpu tier")]
    assert line == (
        "cpu tier: 0 experiments with accepted headlines rerun; 1 left out that take longer than 0.15 s (--within)"
    )
    assert done.stdout.strip().splitlines()[-1] == "1 headline values compared, 0 moved"


def test_what_is_accepted_at_the_smoke_tier_alone_is_compared_there_alone(reproven, accepted):
    entries = json.loads(accepted.read_text())
    accepted.write_text(json.dumps({k: v for k, v in entries.items() if ":smoke:" in k}))
    done = reproven("regress", "toy/mean", "--no-report")
    assert done.returncode == 0, done.stderr
    assert "cpu tier: 0 experiments with accepted headlines rerun; 0 left out" in done.stdout
    assert "1 headline values compared, 0 moved" in done.stdout


def test_a_paper_with_accepted_values_and_no_experiments_is_told(reproven):
    (reproven.results / "accepted").mkdir(parents=True)
    (reproven.results / "accepted" / "other.json").write_text(json.dumps({"other/e:t:smoke:cpu": {}}))
    done = reproven("regress")
    assert done.returncode == 2
    assert done.stderr.startswith("reproven: other has accepted values and no experiment")
