"""Every experiment file runs at the smoke tier, leaves a verdict on every row, and verifies.

``REPROVEN_SMOKE_RESULTS`` names a store whose smoke runs of the present code are taken as they are: `.ci/run` sets it
to the checkout's own, where `make quick` has just made them. Without it everything runs anew under `tmp_path`.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reproven.harness import paths

PAPERS = sorted({p.parent.name for p in paths.experiments().glob("*/*.yaml")} - {"bench"})


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_at_the_smoke_tier(paper, tmp_path):
    results = Path(os.environ.get("REPROVEN_SMOKE_RESULTS") or tmp_path).resolve()
    environment = {**os.environ, "REPROVEN_RESULTS": str(results), "HF_HUB_OFFLINE": "1"}

    def reproven(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reproven", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    done = reproven("reproduce", paper, "tier=smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    with (results / "tables" / paper / "verdicts.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["tier"] == "smoke"]  # the gate leaves part of cpu behind
    assert rows
    assert all(row["verdict"] for row in rows)
    bad = [
        f"{r['experiment']} {r['target']}: {r['reason']}"
        for r in rows
        if r["verdict"] in ("failed", "not-run")
    ]
    assert not bad
    again = reproven("reproduce", paper, "tier=smoke")
    assert again.returncode == 0, again.stderr
    assert " done before" in again.stdout
    assert reproven("verify", paper).returncode == 0
