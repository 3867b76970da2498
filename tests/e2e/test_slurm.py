"""A sweep on a real Slurm: what is killed, out of memory, late or blocked is a row there as it is here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import slurm_node
from conftest import CommandLine

BAD = ["killed", "memory", "slow", "blocked"]
SWEEP = ["-m", "experiment=toy/bad_day", "tier=smoke", "grid.how=" + ",".join(f"[{how}]" for how in BAD)]
SWEEP += ["tier.time_limit_s=15", "hardware.memory_gb=1.5"]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=10", "hydra.launcher.cpus_per_task=1"]


def states(results: Path) -> dict[str, tuple[str, str]]:
    """Run id -> (how, state)."""
    found = [json.loads(p.read_text()) for p in results.glob("runs/toy/*/result.json")]
    return {r["run_id"]: (r["identity"]["axes"]["how"], r["state"]) for r in found}


@pytest.mark.slow
@pytest.mark.skipif(slurm_node.missing() is not None, reason=str(slurm_node.missing()))
def test_a_sweep_on_slurm_leaves_the_store_of_the_local_launcher(tmp_path):
    here = CommandLine(tmp_path / "here", tmp_path)
    assert here(*SWEEP).returncode == 1
    there = CommandLine(tmp_path / "there", tmp_path)
    with slurm_node.slurm(tmp_path / "slurm") as environment:
        own = {k: environment[k] for k in ("SLURM_CONF", "PATH")}
        done = subprocess.run(
            there.command(*SWEEP, *SLURM),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, **there.environment(), **own},
            timeout=300,
        )
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("reproven: ")
    want = dict(zip(BAD, ["killed", "out-of-memory", "timeout", "blocked"]))
    assert dict(states(there.results).values()) == want
    assert states(there.results) == states(here.results)
