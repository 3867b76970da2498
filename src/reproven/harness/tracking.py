"""Experiment trackers: a copy of finished results for people who watch them elsewhere. Off by default."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproven.harness.store import Result

_one_at_a_time = threading.Lock()


def track(tracker: Mapping[str, Any], result: Result, folder: Path) -> None:
    """Hand a finished result to the tracker that the configuration names; ``none`` costs nothing."""
    if tracker["name"] == "none":
        return
    with _one_at_a_time:
        _wandb(tracker, result, folder)


def _wandb(tracker: Mapping[str, Any], result: Result, folder: Path) -> None:
    import wandb

    run = wandb.init(
        project=tracker["project"],
        mode=tracker["mode"],
        dir=str(folder),
        id=result["run_id"],
        group=result["experiment"],
        job_type=result["tier"],
        config={"identity": result["identity"], "provenance": result["provenance"], "data": result["data"]},
        reinit="create_new",
        settings=wandb.Settings(console="off", silent=True),
    )
    for series in result["measurements"]:
        columns = [*series["coords"], "value"]
        rows = [list(row) for row in zip(*series["coords"].values(), series["values"])]
        run.log({series["metric"]: wandb.Table(columns=columns, data=rows)})
    run.summary.update({k: result[k] for k in ("state", "seconds", "peak_memory_bytes")})
    run.finish(exit_code=0 if result["state"] == "done" else 1)
