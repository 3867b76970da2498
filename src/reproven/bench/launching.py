"""What isolation costs: twenty trivial runs through our launcher, Hydra's basic one and submitit's local one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reproven.harness.context import Context
from reproven.harness.errors import require

# A Hydra application that does as little as a run can: what people compare an isolating launcher with.
TRIVIAL_APPLICATION = """
import hydra, torch

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    return 1.0

main()
"""


def trivial(ctx: Context, *, value: float) -> None:
    """Record one number: the run that the launcher is timed with."""
    ctx.record("value", value)


def launchers(ctx: Context, *, runs: int, repeats: int) -> None:
    """Time whole processes, start to end, in turns: ``seconds`` of each launcher, ``ratio`` of ours to it."""
    require("hydra_plugins.hydra_submitit_launcher", "peers")
    seeds = ",".join(str(s) for s in range(runs))
    with tempfile.TemporaryDirectory() as folder:
        application = Path(folder) / "application.py"
        application.write_text(TRIVIAL_APPLICATION, encoding="utf-8")
        for repeat in range(repeats):
            results = Path(folder) / f"results-{repeat}"
            ours = [sys.executable, "-m", "reproven", "-m", "experiment=bench/trivial", f"seed={seeds}"]
            sweep = [f"hydra.sweep.dir={folder}/sweep-{repeat}", "hydra.output_subdir=null"]
            peer = [sys.executable, str(application), "-m", f"+seed={seeds}", *sweep]
            seconds = {
                "isolated": _seconds([*ours, "tier=smoke"], {"REPROVEN_RESULTS": str(results)}),
                "hydra_basic": _seconds([*peer, "hydra/launcher=basic"], {}),
            }
            done = len(list(results.glob("runs/bench/*/result.json")))
            ctx.record("runs_done", done, launcher="isolated", repeat=repeat)
            if repeat == 0:  # a minute long: once is enough for a factor of ten
                seconds["submitit_local"] = _seconds([*peer, "hydra/launcher=submitit_local"], {})
            for launcher, value in seconds.items():
                ctx.record("seconds", value, unit="s", direction="lower", launcher=launcher, repeat=repeat)
                ratio = seconds["isolated"] / value
                ctx.record("ratio", ratio, unit="x", direction="lower", launcher=launcher, repeat=repeat)
            ctx.progress((repeat + 1) / repeats, f"repeat {repeat + 1}")


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return time.perf_counter() - start
