"""Fixtures for all tests: a command line in a process of its own, with results under tmp_path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TOYS = TESTS / "toys"


@dataclass(frozen=True)
class CommandLine:
    """``reproven`` with the toy paper on its path and a results folder of its own."""

    results: Path
    folder: Path
    conf: Path = TOYS / "conf"

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(TESTS.parent / "src"), str(TOYS), os.environ.get("PYTHONPATH", "")])
        own = {
            "PYTHONPATH": path,
            "REPROVEN_RESULTS": str(self.results),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
        }
        return {**os.environ, **own}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "reproven", *arguments, "--config-dir", str(self.conf)]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=self.folder,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            cwd=self.folder,
        )


@pytest.fixture
def reproven(tmp_path: Path) -> CommandLine:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return CommandLine(tmp_path / "results", folder)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    import time

    def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.05)

    return wait
