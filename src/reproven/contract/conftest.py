"""Options of the contract tests: which method, of which configuration folder, in which experiment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

OPTIONS = {
    "--method": "name of the method: a file method/<name>.yaml of the folder",
    "--config-dir": "folder with method/<name>.yaml",
    "--experiment": "an experiment that takes methods of this kind, as sac_bl/simulation",
}
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the three options."""
    for name, text in OPTIONS.items():
        parser.addoption(name, help=text)


@pytest.fixture(scope="session")
def method(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--method"))


@pytest.fixture(scope="session")
def config_dir(request: pytest.FixtureRequest) -> str | None:
    folder = request.config.getoption("--config-dir")
    return os.path.abspath(folder) if folder else None


@pytest.fixture(scope="session")
def experiment(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--experiment"))


@pytest.fixture(scope="session")
def reproven(config_dir: str | None, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command line with the method's folder, and a results folder of its own for each `store`."""
    root = tmp_path_factory.mktemp("contract")

    def call(*arguments: str, store: str = "results") -> subprocess.CompletedProcess[str]:
        own = ["--config-dir", config_dir] if config_dir else []
        command = [sys.executable, "-m", "reproven", *arguments, *own]
        environment = {**os.environ, "REPROVEN_RESULTS": str(root / store)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    call.root = root  # type: ignore[attr-defined]
    return call
