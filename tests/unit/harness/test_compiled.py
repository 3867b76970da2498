"""Compiled code follows its sources: also where only a helper in another file of the package changed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("numba")

CALLER = """
from reproven.harness.compiled import njit
from package.helper import step

@njit
def run(n):
    total = 0
    for _ in range(n):
        total += step()
    return total
"""
HELPER = """
from reproven.harness.compiled import njit

@njit
def step():
    return {}
"""


def test_an_edited_helper_is_compiled_into_its_callers_again(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "caller.py").write_text(CALLER)
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "compiled"), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "from package.caller import run; print(run(10))"]
    for value in (1, 2, 1):
        (package / "helper.py").write_text(HELPER.format(value))
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
        assert int(said.stdout) == 10 * value
    kept = list((tmp_path / "compiled").iterdir())
    assert len(kept) == 2  # one folder a state of the sources: the third run found the first one's
    assert all(list(folder.rglob("*.nbi")) for folder in kept)
