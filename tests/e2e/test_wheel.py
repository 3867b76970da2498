"""The built wheel works without the repository: an empty environment, an empty folder, results where you stand."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import venv

import pytest

from reproven.harness import paths


@pytest.mark.slow
def test_a_wheel_runs_an_experiment_from_an_empty_folder(tmp_path):
    wheels, home, work = tmp_path / "wheels", tmp_path / "venv", tmp_path / "work"
    work.mkdir()

    def call(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "REPROVEN_RESULTS")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, **options)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        return done

    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(paths.CHECKOUT))
    call(*pip, *build)
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "zz_dependencies.pth").write_text("\n".join(site.getsitepackages()))  # torch once is enough
    python = str(home / "bin" / "python")
    (wheel,) = wheels.glob("*.whl")
    call(*pip, "--python", python, "install", "--no-deps", "--ignore-installed", str(wheel))
    there = call(python, "-c", "import reproven; print(reproven.__file__)", cwd=work).stdout.strip()
    assert there.startswith(str(home))
    call(str(home / "bin" / "reproven"), "experiment=zero_one/twins", "tier=smoke", cwd=work)
    assert len(list((work / "results" / "runs" / "zero_one").glob("*/result.json"))) == 1
