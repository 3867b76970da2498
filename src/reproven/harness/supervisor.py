"""One run under watch: start the child, watch its time and memory, and alone write ``result.json``."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
from filelock import Timeout

from reproven.harness import child, provenance, tracking
from reproven.harness.errors import Blocked, UserError
from reproven.harness.plan import Run, cards
from reproven.harness.store import SCHEMA, Result, Status, Store

POLL_S = 0.1
RUNNING_ELSEWHERE = "running"
_context = multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Start the fork server that children come from; returns at once, it imports torch meanwhile."""
    if multiprocessing.get_start_method(allow_none=True) not in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("forkserver", force=True)  # joblib's own is unknown to children
    _context.set_forkserver_preload(
        ["torch", "reproven.harness.child", "reproven.harness.compose", "reproven.cli"]
    )
    forkserver.ensure_running()


def supervise(
    run: Run,
    store: Store,
    *,
    stop: threading.Event | None = None,
    on_progress: Callable[[float, str], None] | None = None,
) -> str:
    """Run one configuration in its own process and return its terminal state.

    Returns ``"running"`` at once when another process holds the run. A run that another process has finished
    meanwhile is left as it is. Setting `stop` ends the child; the run is then `interrupted`.
    """
    try:
        lock = store.lock(run.paper, run.run_id)
        lock.acquire(timeout=0)
    except Timeout:
        return RUNNING_ELSEWHERE
    try:
        path = store.folder(run.paper, run.run_id) / "status.json"
        if path.is_file() and (store.folder(run.paper, run.run_id) / "result.json").is_file():
            status = store.status(run.paper, run.run_id)
            if status is not None and status.state == "done":
                return "done"
        return _supervised(run, store, stop or threading.Event(), on_progress)
    finally:
        lock.release()


def _supervised(
    run: Run, store: Store, stop: threading.Event, on_progress: Callable[[float, str], None] | None
) -> str:
    status = Status(
        run_id=run.run_id,
        paper=run.paper,
        experiment=run.experiment,
        tier=run.tier,
        hardware=run.hardware["name"],
        comparable=run.comparable,
        state="running",
        reason="",
        seconds=None,
        result_sha256=None,
    )
    environment = provenance.environment()
    folder = store.begin(status, run.config(), environment)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    outcome = _Outcome()
    digests: dict[str, str] = {}
    try:
        digests = freeze(run)
        _watch(run, folder, stop, on_progress, outcome)
        if outcome.state == "done" and freeze(run) != digests:
            outcome.fail("failed", "DataChanged", "a data file changed while the run read it; run it again")
    except Blocked as reason:
        outcome.fail("blocked", "Blocked", str(reason))
    except UserError as error:
        outcome.fail("failed", "UserError", str(error))
    failure = None
    if outcome.failure is not None:
        failure = {**outcome.failure, "log_tail": _tail(folder / "log.txt")}
    result: Result = {
        "schema": SCHEMA,
        "run_id": run.run_id,
        "paper": run.paper,
        "experiment": run.experiment,
        "tier": run.tier,
        "hardware": run.hardware["name"],
        "seed": run.seed,
        "state": outcome.state,  # type: ignore[typeddict-item]
        "failure": failure,  # type: ignore[typeddict-item]
        "started": started,
        "seconds": round(time.monotonic() - clock, 3),
        "peak_memory_bytes": outcome.peak,
        "data": digests,
        "identity": run.identity,
        "provenance": {**environment, "accelerator": outcome.accelerator},
        "measurements": outcome.measurements,
    }
    store.finish(result, status)
    tracking.track(run.tracker, result, folder)
    return outcome.state


def freeze(run: Run) -> dict[str, str]:
    """Return the digests of the run's data as it lies on the disk; Blocked when it is not there."""
    names = cards(run.datasets)
    if not names:
        return {}
    from reproven.data import provider

    for name in names:
        provider.locate(name)
    return {name: provider.digest(name) for name in names}


class _Outcome:
    """What is known of a run while it is watched."""

    def __init__(self) -> None:
        self.state = "killed"
        self.failure: dict[str, str] | None = {
            "kind": "killed",
            "message": "the process ended without a word",
        }
        self.measurements: list[dict[str, Any]] = []
        self.peak = 0
        self.accelerator: dict[str, Any] | None = None

    def fail(self, state: str, kind: str, message: str) -> None:
        self.state, self.measurements = state, []
        self.failure = {"kind": kind, "message": message}


def _watch(
    run: Run,
    folder: Path,
    stop: threading.Event,
    on_progress: Callable[[float, str], None] | None,
    outcome: _Outcome,
) -> None:
    receiver, sender = _context.Pipe(duplex=False)
    payload = {**run.config(), "threads": run.threads}
    process = _context.Process(target=child.main, args=(payload, str(folder), sender), name=run.run_id)
    process.start()
    sender.close()
    deadline = time.monotonic() + run.time_limit_s
    limit = int(float(run.hardware["memory_gb"]) * 2**30)
    ended = reported = False
    try:
        while not ended:
            ready = wait([receiver, process.sentinel], timeout=POLL_S)
            if ready:
                ended = _receive(process, receiver, outcome, on_progress)
                reported = ended
                continue
            memory = _resident(process)
            outcome.peak = max(outcome.peak, memory)
            if stop.is_set():
                outcome.fail("interrupted", "interrupted", "ended on request; run again to resume")
            elif time.monotonic() > deadline:
                outcome.fail(
                    "timeout", "timeout", f"longer than {run.time_limit_s:g} s; raise tier.time_limit_s"
                )
            elif memory > limit:
                used = f"{memory / 2**30:.1f} GiB of {limit / 2**30:.1f} GiB"
                outcome.fail("out-of-memory", "memory", f"resident memory {used}; raise hardware.memory_gb")
            else:
                continue
            ended = True
    finally:
        _end(process, grace_s=2.0 if reported else 0.0)
        receiver.close()


def _receive(
    process: BaseProcess,
    receiver: Connection,
    outcome: _Outcome,
    on_progress: Callable[[float, str], None] | None,
) -> bool:
    """Take one message, or notice that the child is gone; tell whether the run has ended."""
    try:
        message = receiver.recv() if receiver.poll() else None
    except EOFError:
        message = None
    if message is None:
        process.join()
        word = _exit_word(process.exitcode)
        outcome.fail("killed", "killed", f"the process ended with {word} before it reported")
        return True
    if message[0] == "progress":
        if on_progress is not None:
            on_progress(message[1], message[2])
        return False
    _, (state, payload), peak, outcome.accelerator = message
    outcome.peak = max(outcome.peak, peak)
    if state == "done":
        outcome.state, outcome.failure, outcome.measurements = "done", None, payload
    else:
        outcome.fail(state, payload["kind"], payload["message"])
    return True


def _resident(process: BaseProcess) -> int:
    """Return the resident memory of the child and everything it started, in bytes."""
    try:
        root = psutil.Process(process.pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for member in tree:
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total


def _end(process: BaseProcess, grace_s: float) -> None:
    """End the child's whole process group, also what it left behind."""
    process.join(timeout=grace_s)
    pid = process.pid
    if pid is not None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            process.kill()
    process.join()
    process.close()


def _exit_word(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"status {code}"


def _tail(path: Path, lines: int = 30) -> str:
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
