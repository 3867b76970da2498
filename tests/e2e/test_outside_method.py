"""The worked example of the documentation: a package of one's own, its contract tests, its column."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from reproven.harness import paths

EXAMPLE = paths.CHECKOUT / "docs" / "example"


def contract(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(EXAMPLE), str(paths.CHECKOUT / "src")])
    command = [sys.executable, "-m", "reproven", "contract", "--config-dir", "conf", *arguments]
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=EXAMPLE, check=False)


@pytest.mark.slow
def test_the_example_passes_the_contract():
    done = contract("method=bonferroni", "experiment=sac_bl/simulation")
    assert done.returncode == 0, done.stdout
    assert "....." in done.stdout


def test_a_missing_option_is_named():
    done = contract("method=bonferroni")
    assert done.returncode == 2
    assert "experiment=<name>" in done.stderr
