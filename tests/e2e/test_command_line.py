"""The command line from any folder: one clear line for what the user got wrong, and nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=toy/maen"], "no experiment 'toy/maen' (did you mean 'toy/mean'?)"),
        (["experiment=toy/mean", "method=toy_on"], "no method 'toy_on' (did you mean 'toy_one'?)"),
        (["experiment=toy/mean", "tier=smok"], "no tier 'smok' (did you mean 'smoke'?)"),
        (["experiment=toy/mean", "hardware=cpus"], "no hardware 'cpus' (did you mean 'cpu'?)"),
        (["experiment=toy/mean", "tracker=wand"], "no tracker 'wand' (did you mean 'wandb'?)"),
        (["experiment=toy/mean", "sede=1"], "unknown key 'sede' (did you mean 'seed'?)"),
        (["experiment=toy/mean", "seed=-1"], "seed -1 is no whole number"),
        (["experiment=toy/mean", "tier=paper"], "no budget for tier 'paper'"),
        (["experiment=toy/mean", "+budget.m=3"], "takes no keyword 'm'"),
        (["experiment=toy/mean", "method=toy_typo"], "takes no keyword 'bye' (did you mean 'by'?)"),
        (["experiment=toy/mean", "grid.seed=[]"], "axis 'seed' is []"),
        (["tier=smoke"], "no experiment was named"),
        (["-m", "experiment=glob(toy/*)"], "expands to no job"),
        (["reprodce", "toy"], "no command 'reprodce' (did you mean 'reproduce'?)"),
        (["reproduce", "tooy"], "no paper or experiment 'tooy' (did you mean 'toy'?)"),
    ],
)
def test_a_wrong_word_ends_with_one_line(reproven, arguments, words):
    done = reproven(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert words in line
    assert not (reproven.results / "runs").exists()


def test_a_missing_keyword_is_named(reproven):
    done = reproven("experiment=toy/mean", "tier=smoke", "~budgets.smoke.n")
    assert done.returncode == 2
    assert "needs 'n', which nothing sets" in done.stderr


def test_overrides_replace_axes_and_reach_into_methods(reproven):
    done = reproven("experiment=toy/mean", "tier=smoke", "method=toy_one", "seed=7", "method.by=2.5")
    assert done.returncode == 0, done.stderr
    (path,) = reproven.results.glob("runs/toy/*/result.json")
    result = json.loads(path.read_text())
    assert result["seed"] == 7
    assert result["identity"]["method"] == {"toy_one": {"_target_": "toy_paper.Shift", "by": 2.5}}


@pytest.mark.parametrize("launcher", ["isolated", "basic", "joblib"])
def test_every_launcher_leaves_the_same_store(reproven, launcher):
    done = reproven("-m", "experiment=toy/mean", "tier=smoke", "seed=0,1,2", f"hydra/launcher={launcher}")
    assert done.returncode == 0, done.stderr
    found = {
        p.parent.name: json.loads(p.read_text()) for p in reproven.results.glob("runs/toy/*/result.json")
    }
    assert sorted(r["seed"] for r in found.values()) == [0, 1, 2]
    assert {r["state"] for r in found.values()} == {"done"}
    assert list(reproven.folder.iterdir()) == []  # nothing is left where the command was given


def test_a_second_run_with_nothing_to_do_runs_nothing(reproven):
    reproven("experiment=toy/mean", "tier=smoke")
    before = {p: p.stat().st_mtime_ns for p in reproven.results.glob("runs/toy/*/*")}
    done = reproven("experiment=toy/mean", "tier=smoke")
    assert "2 done before" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in reproven.results.glob("runs/toy/*/*")} == before


def test_methods_see_the_same_noise_also_when_one_runs_alone(reproven):
    reproven("experiment=toy/mean", "tier=smoke")
    reproven("experiment=toy/mean", "tier=smoke", "method=toy_outsider")
    values: dict[str, dict[tuple[int, int], float]] = {}
    for path in reproven.results.glob("runs/toy/*/result.json"):
        result = json.loads(path.read_text())
        for series in result["measurements"]:
            for name, replicate, value in zip(
                series["coords"]["method"], series["coords"]["replicate"], series["values"]
            ):
                values.setdefault(name, {})[(result["seed"], replicate)] = value
    for key, value in values["toy_zero"].items():
        assert values["toy_outsider"][key] == pytest.approx(value + 3.0, abs=1e-12)


def test_from_any_folder_by_the_console_script(reproven):
    script = Path(sys.executable).with_name("reproven")
    if not script.exists():
        pytest.skip("the console script is not installed in this environment")
    done = subprocess.run(
        [script, "--version"], capture_output=True, text=True, cwd=reproven.folder, env=reproven.environment()
    )
    assert done.returncode == 0


def test_wandb_offline_leaves_a_run_directory(reproven):
    done = reproven("experiment=toy/mean", "tier=smoke", "seed=0", "tracker=wandb")
    assert done.returncode == 0, done.stderr
    assert list(reproven.results.glob("runs/toy/*/wandb/offline-run-*/*.wandb"))
