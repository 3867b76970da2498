"""A paper made for tests: runs that behave, and runs that have a bad day in every way a run can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reproven.harness.context import Context
from reproven.harness.errors import Blocked


@dataclass(frozen=True)
class Shift:
    """Add a constant."""

    by: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x + self.by


def noisy_mean(ctx: Context, *, n: int, replicate: list[int]) -> None:
    """Record the mean of n shifted normals: the same normals for every method."""
    for name, method in ctx.methods.items():
        for r in replicate:
            x = ctx.generator("noise", replicate=r).standard_normal(n)
            ctx.record("mean", float(method(x).mean()), method=name, replicate=r, n=n)


def count(ctx: Context, *, seconds: float, tally: str = "") -> None:
    """Take some time, and leave a line in a file that only a run that really ran leaves."""
    if tally:
        with Path(tally).open("a", encoding="utf-8") as file:
            file.write(f"{ctx.seed}\n")
    time.sleep(seconds)
    ctx.record("x", 1.0)


def bad_day(ctx: Context, *, how: str) -> None:
    """Go wrong in the way named."""
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "slow":
        time.sleep(600)
    if how == "memory":
        hoard = []
        while True:
            hoard.append(np.ones(4_000_000))
            time.sleep(0.005)
    if how == "allocator":
        raise MemoryError("Unable to allocate 1 PiB")
    if how == "raises":
        raise ValueError("the matrix is singular\nsecond line")
    if how == "blocked":
        raise Blocked("the moon rock is not here: put it in ./moon")
    if how == "nan":
        ctx.record("x", float("nan"))
    if how == "exits":
        sys.exit(3)
    if how == "orphan":
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        ctx.record("x", float(orphan.pid))
    # "silent" records nothing at all
