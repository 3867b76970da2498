"""What happens inside a run's own process. The fork server imports this module; nothing here computes on import."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from reproven.harness.context import Context
from reproven.harness.errors import Blocked, UserError

OUT_OF_MEMORY = ("can't allocate memory", "CUDA out of memory", "Unable to allocate", "bad_alloc")


def main(run: dict[str, Any], folder: str, pipe: Connection) -> None:
    """Run one experiment function and send what came of it: (state, payload)."""
    os.setsid()  # its own process group: a terminal's Ctrl-C reaches the supervisor alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    _log_to(Path(folder) / "log.txt")
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(run["threads"]), WANDB_MODE="offline")
    message: tuple[str, Any]
    try:
        message = ("done", _execute(run, Path(folder), pipe))
    except Blocked as reason:
        message = ("blocked", _failure("Blocked", str(reason)))
    except BaseException as error:
        traceback.print_exc()
        memory = isinstance(error, MemoryError) or any(word in str(error) for word in OUT_OF_MEMORY)
        lines = str(error).strip().splitlines() or [""]
        message = ("out-of-memory" if memory else "failed", _failure(type(error).__name__, lines[0]))
    sys.stdout.flush()
    sys.stderr.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send(("end", message, peak, _accelerator(run["hardware"]["device"])))
    pipe.close()


def _execute(run: dict[str, Any], folder: Path, pipe: Connection) -> list[dict[str, Any]]:
    import torch
    from threadpoolctl import threadpool_limits

    from reproven.harness.compose import instantiate
    from reproven.harness.store import pack

    threadpool_limits(limits=run["threads"])
    torch.set_num_threads(run["threads"])
    device = run["hardware"]["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise Blocked("hardware=cuda needs a CUDA device, and torch sees none; use hardware=cpu")

    def loader(node: dict[str, Any]) -> Any:
        return lambda: instantiate(node["loader"])

    ctx = Context(
        methods={name: instantiate(node) for name, node in run["methods"].items()},
        datasets={name: loader(node) for name, node in run["datasets"].items()},
        seed=run["seed"],
        device=device,
        dtype=run["hardware"]["dtype"],
        threads=run["threads"],
        folder=folder,
        on_progress=lambda fraction, label: pipe.send(("progress", fraction, label)),
    )
    task = instantiate({**run["task"], "_partial_": True})
    task(ctx, **run["keywords"])
    if not ctx.series:
        raise UserError(f"{run['experiment']} recorded no measurement")
    return pack(ctx.series)


def _accelerator(device: str) -> dict[str, Any] | None:
    """Return the GPU's name, its memory and how much of it tensors took at most: 0 where the run never used it."""
    import torch

    if device != "cuda" or not torch.cuda.is_available():
        return None
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_bytes": found.total_memory,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if used else 0,
        "cuda": torch.version.cuda,
    }


def _failure(kind: str, message: str) -> dict[str, str]:
    return {"kind": kind, "message": message}


def _end_with_parent() -> None:
    """End this process and all it started as soon as the supervisor's process is gone."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _log_to(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
