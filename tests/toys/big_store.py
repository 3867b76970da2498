"""A store of many finished runs, made without running them: what planning and reporting must stay usable on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from reproven.harness.context import Series
from reproven.harness.plan import Run
from reproven.harness.store import SCHEMA, Status, Store, pack


def fill(store: Store, runs: list[Run]) -> None:
    """Write a `done` result with one measurement for each run."""
    for run in runs:
        folder = store.folder(run.paper, run.run_id)
        folder.mkdir(parents=True)
        result = {
            "schema": SCHEMA, "run_id": run.run_id, "paper": run.paper, "experiment": run.experiment,
            "tier": run.tier, "hardware": run.hardware["name"], "seed": run.seed, "state": "done", "failure": None,
            "started": "2026-01-01T00:00:00+00:00", "seconds": 0.1, "peak_memory_bytes": 2**20, "data": {},
            "identity": run.identity, "provenance": {"git": {"sha": None, "dirty": None}},
            "measurements": pack([Series("x", "", "", {}, [1.0])]),
        }  # fmt: skip
        text = json.dumps(result)
        sha = hashlib.sha256(text.encode()).hexdigest()
        status = Status(
            run.run_id,
            run.paper,
            run.experiment,
            run.tier,
            run.hardware["name"],
            run.comparable,
            "done",
            "",
            0.1,
            sha,
        )
        (folder / "status.json").write_text(json.dumps(asdict(status)))
        (folder / "result.json").write_text(text)
