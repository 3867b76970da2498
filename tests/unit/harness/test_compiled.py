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


def package_in(folder):
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "caller.py").write_text(CALLER)
    return package


def said_by(folder, **env):
    command = [sys.executable, "-c", "from package.caller import run; print(run(10))"]
    env = {**os.environ, "PYTHONPATH": str(folder), **env}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


def test_an_edited_helper_is_compiled_into_its_callers_again(tmp_path):
    package = package_in(tmp_path)
    for value in (1, 2, 1):
        (package / "helper.py").write_text(HELPER.format(value))
        assert said_by(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "compiled")) == 10 * value
    kept = list((tmp_path / "compiled").iterdir())
    assert len(kept) == 2  # one folder a state of the sources: the third run found the first one's
    assert all(list(folder.rglob("*.nbi")) for folder in kept)


def test_where_nothing_can_be_written_it_compiles_all_the_same(tmp_path):
    package = package_in(tmp_path)
    (package / "helper.py").write_text(HELPER.format(3))
    (tmp_path / "file").write_text("")
    assert said_by(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below")) == 30
