"""Schedules supervisors: as many runs at a time as their threads fit the cores, with progress and a safe stop."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from reproven.harness.plan import Run, Step, remaining_seconds
from reproven.harness.store import Store
from reproven.harness.supervisor import RUNNING_ELSEWHERE, start_server, supervise

BAD_STATES = ("failed", "killed", "out-of-memory", "timeout")
ELSEWHERE_POLL_S = 0.5


class RunsFailed(Exception):
    """Some runs did not end as `done` or `blocked`; the sweep went on. Exit status 1."""


class Interrupted(Exception):
    """The user or the system asked to stop; children are ended, the store resumes. Exit status 130."""


def execute(
    steps: Sequence[Step], store: Store, *, jobs: int | None = None, console: Console | None = None
) -> Counter[str]:
    """Run every step that is to run and return how many runs ended in which state.

    At most `jobs` at a time (None: as the cores allow); the threads of the runs under way never exceed the
    cores; runs on CUDA go one at a time. Interrupted on SIGINT or SIGTERM, after the children are ended.
    """
    counts = Counter({"done before": sum(s.action == "skip" for s in steps)})
    counts.update(f"{s.reason.split(':')[0]} before" for s in steps if s.action == "keep")
    todo = [s for s in steps if s.action in ("run", "elsewhere")]
    if not todo:
        return +counts
    store.check_writable()
    start_server()
    stop = threading.Event()
    with _stop_on_signals(stop), _reporter(todo, console or Console(stderr=True)) as reporter:
        counts.update(_schedule(todo, store, jobs, stop, reporter))
    if stop.is_set():
        raise Interrupted("stopped; the runs under way are marked interrupted and run again next time")
    return +counts


def raise_on_failure(counts: Counter[str]) -> None:
    """Raise RunsFailed when any run ended badly, now or before."""
    bad = {s: n for s, n in counts.items() if s.removesuffix(" before") in BAD_STATES}
    if bad:
        words = ", ".join(f"{n} {state}" for state, n in sorted(bad.items()))
        raise RunsFailed(
            f"{words}, of {sum(counts.values())} runs; `reproven status` says why, retry=true runs them again"
        )


def available_cores(run: Run) -> int:
    """Return the cores that runs on this hardware may share."""
    if run.hardware["cores"] is not None:
        return int(run.hardware["cores"])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _schedule(
    todo: Sequence[Step], store: Store, jobs: int | None, stop: threading.Event, reporter: Reporter
) -> Counter[str]:
    counts: Counter[str] = Counter()
    waiting = deque(todo)
    under_way: dict[Future[str], Step] = {}
    not_before = 0.0
    cores = max(available_cores(s.run) for s in todo)
    with ThreadPoolExecutor(max_workers=max(1, min(cores, jobs or cores))) as pool:
        while waiting or under_way:
            while waiting and not stop.is_set() and time.monotonic() >= not_before:
                if not _fits(waiting[0].run, [s.run for s in under_way.values()], jobs, cores):
                    break
                step = waiting.popleft()
                reporter.started(step)
                watch = pool.submit(supervise, step.run, store, stop=stop, on_progress=reporter.watcher(step))
                under_way[watch] = step
            if stop.is_set():
                waiting.clear()
            if not under_way:
                time.sleep(
                    0 if stop.is_set() else min(ELSEWHERE_POLL_S, max(0.0, not_before - time.monotonic()))
                )
                continue
            finished, _ = wait(under_way, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                step = under_way.pop(future)
                state = future.result()
                if state == RUNNING_ELSEWHERE:
                    waiting.append(step)  # its other process finishes it, or dies and leaves it to us
                    not_before = time.monotonic() + ELSEWHERE_POLL_S
                else:
                    counts[state] += 1
                    reporter.ended(step, state)
    return counts


def _fits(run: Run, others: Sequence[Run], jobs: int | None, cores: int) -> bool:
    if not others:
        return True
    if jobs is not None and len(others) >= jobs:
        return False
    if run.hardware["device"] == "cuda":
        return False
    return sum(min(r.threads, cores) for r in (*others, run)) <= cores


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class Reporter:
    """Says what goes on: bars on a terminal, one plain line a run elsewhere."""

    def __init__(self, todo: Sequence[Step], console: Console) -> None:
        self.todo, self.console = list(todo), console
        self.left = {s.run.run_id: s for s in todo}
        self.cores = max(available_cores(s.run) for s in todo)
        self.begun: dict[str, float] = {}
        self.took: dict[str, list[float]] = {}
        self.count = 0
        self.bars: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.totals: dict[str, TaskID] = {}

    def open(self) -> None:
        if not self.console.is_terminal:
            eta = _duration(remaining_seconds(self.todo, self.cores))
            self.console.print(f"{len(self.todo)} runs to do, about {eta}", highlight=False)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=self.console)
        self.bars.start()
        for name, total in Counter(s.run.experiment for s in self.todo).items():
            self.totals[name] = self.bars.add_task(name, total=total, note="")

    def close(self) -> None:
        if self.bars is not None:
            self.bars.stop()

    def started(self, step: Step) -> None:
        self.begun.setdefault(step.run.run_id, time.monotonic())

    def watcher(self, step: Step) -> Callable[[float, str], None]:
        def on_progress(fraction: float, label: str) -> None:
            if self.bars is not None:
                self.bars.update(self.totals[step.run.experiment], note=f"{fraction:4.0%} {label}")

        return on_progress

    def ended(self, step: Step, state: str) -> None:
        self.count += 1
        self.left.pop(step.run.run_id, None)
        seconds = time.monotonic() - self.begun[step.run.run_id]
        self.took.setdefault(step.run.experiment, []).append(seconds)
        eta = _duration(self._remaining()) if self.left else "nothing"
        if self.bars is not None:
            self.bars.update(self.totals[step.run.experiment], advance=1, note=f"about {eta} left in all")
        if self.bars is None or state != "done":
            line = (
                f"[{self.count}/{len(self.todo)}] {step.run.label}: {state} after {seconds:.1f} s; {eta} left"
            )
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _remaining(self) -> float | None:
        """Return the seconds left, by what runs of the same experiment took just now."""
        known = {name: statistics.median(seconds) for name, seconds in self.took.items()}
        left = [replace(s, estimate_s=known.get(s.run.experiment, s.estimate_s)) for s in self.left.values()]
        return remaining_seconds(left, self.cores)


@contextmanager
def _reporter(todo: Sequence[Step], console: Console) -> Iterator[Reporter]:
    reporter = Reporter(todo, console)
    reporter.open()
    try:
        yield reporter
    finally:
        reporter.close()


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "an unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
