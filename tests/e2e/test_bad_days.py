"""Bad days, tested by having them: each ends in the state that the design names, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest


def results(root: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(root.glob("runs/toy/*/result.json"))]


def states(root: Path) -> Counter[str]:
    return Counter(r["state"] for r in results(root))


@pytest.fixture(scope="module")
def bad_days(tmp_path_factory):
    from conftest import CommandLine

    root = tmp_path_factory.mktemp("bad days, ünïcode")
    cli = CommandLine(root / "results", root)
    limits = ["tier.time_limit_s=6", "hardware.memory_gb=1.5"]
    done = cli("experiment=toy/bad_day", "tier=smoke", *limits)
    return cli, done, {r["identity"]["axes"]["how"]: r for r in results(cli.results)}


@pytest.mark.parametrize(
    ("how", "state", "message"),
    [
        ("killed", "killed", "SIGKILL"),
        ("slow", "timeout", "tier.time_limit_s"),
        ("memory", "out-of-memory", "hardware.memory_gb"),
        ("allocator", "out-of-memory", "Unable to allocate"),
        ("raises", "failed", "the matrix is singular"),
        ("blocked", "blocked", "moon rock"),
        ("exits", "failed", "3"),
        ("silent", "failed", "recorded no measurement"),
    ],
)
def test_each_bad_run_is_a_row_that_says_why(bad_days, how, state, message):
    _, _, by_how = bad_days
    result = by_how[how]
    assert result["state"] == state
    assert message in result["failure"]["message"]
    assert "\n" not in result["failure"]["message"]
    assert result["measurements"] == []


def test_the_sweep_goes_on_and_says_so(bad_days):
    _, done, by_how = bad_days
    assert len(by_how) == 10
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("reproven: ")
    assert "Traceback" not in done.stderr


def test_the_log_keeps_the_traceback(bad_days):
    _, _, by_how = bad_days
    assert "ValueError: the matrix is singular" in by_how["raises"]["failure"]["log_tail"]


def test_a_non_finite_value_is_kept_as_a_word(bad_days):
    _, _, by_how = bad_days
    assert by_how["nan"]["state"] == "done"
    assert by_how["nan"]["measurements"][0]["values"] == ["nan"]


def test_what_a_run_leaves_behind_is_ended(bad_days):
    _, _, by_how = bad_days
    pid = int(by_how["orphan"]["measurements"][0]["values"][0])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_only_what_should_run_again_does(bad_days):
    cli, _, _ = bad_days
    again = cli("plan", "toy/bad_day", "tier=smoke", "tier.time_limit_s=6", "hardware.memory_gb=1.5")
    last = again.stdout.strip().splitlines()[-1]
    assert last.startswith("2 to run")  # killed and blocked
    assert "2 done" in last  # nan and orphan
    assert "6 failed before" in last
    retried = cli("plan", "toy/bad_day", "tier=smoke", "retry=true")
    assert retried.stdout.strip().splitlines()[-1].startswith("8 to run")


BACKWARDS = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The wall clock, a day behind and running backwards a thousand times as fast; every other clock stays true. */
int clock_gettime(clockid_t id, struct timespec *t) {
    struct timespec steady;
    long long now;
    if (syscall(SYS_clock_gettime, id, t)) return -1;
    if (id != CLOCK_REALTIME) return 0;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &steady);
    now = t->tv_sec * 1000000000LL + t->tv_nsec - 86400000000000LL;
    now -= 1000 * ((steady.tv_sec - atoll(getenv("CLOCK_ZERO"))) * 1000000000LL + steady.tv_nsec);
    t->tv_sec = now / 1000000000LL, t->tv_nsec = now % 1000000000LL;
    return 0;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return t ? (*t = now.tv_sec) : now.tv_sec;
}
"""


@pytest.fixture
def set_back(tmp_path, monkeypatch):
    """Return a function that sets the wall clock of every process started from then on back, and backwards."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux, to stand before the system's clock")
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(BACKWARDS)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)

    def set_back() -> None:
        monkeypatch.setenv("CLOCK_ZERO", str(int(time.monotonic())))
        monkeypatch.setenv("LD_PRELOAD", str(library))

    return set_back


def test_a_clock_that_goes_backwards_changes_no_duration_and_no_order(reproven, set_back, tmp_path):
    tally = tmp_path / "tally"
    arguments = ["reproduce", "toy/count", "tier=smoke", f"+task.tally={tally}"]
    assert reproven(*arguments, "seed=0,1,2", "--no-report").returncode == 0
    set_back()
    done = reproven(*arguments, "jobs=1")
    assert done.returncode == 0, done.stderr
    assert "3 done before" in done.stdout
    assert Counter(tally.read_text().split()) == {str(seed): 1 for seed in range(6)}
    kept = {r["seed"]: r for r in results(reproven.results)}
    assert max(kept[seed]["started"] for seed in (3, 4, 5)) < min(kept[seed]["started"] for seed in (0, 1, 2))
    assert (
        kept[5]["started"] < kept[4]["started"] < kept[3]["started"]
    )  # one at a time, in the order of seeds
    assert all(r["seconds"] >= 0.05 for r in kept.values())  # what each run slept
    assert not re.search(r"-\d[\d.]* (s|min|h)\b", done.stderr), "a negative time was shown"
    assert reproven("verify", "toy").returncode == 0
    plan = reproven("plan", "toy/count", "tier=smoke", f"+task.tally={tally}")
    assert plan.stdout.strip().splitlines()[-1].startswith("0 to run (about 0 s), 6 done")


@pytest.mark.parametrize("clock", ["true", "backwards"])
def test_parent_killed_in_the_middle_and_started_again(reproven, wait_until, tmp_path, set_back, clock):
    if clock == "backwards":
        set_back()
    tally = tmp_path / "tally"
    arguments = ["experiment=toy/count", "tier=cpu", f"+task.tally={tally}", "jobs=1"]
    parent = reproven.start(*arguments)
    wait_until(lambda: states(reproven.results)["done"] >= 1)
    wait_until(lambda: len(tally.read_text().splitlines()) >= 2)
    children = psutil.Process(parent.pid).children(recursive=True)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE], "children outlive their parent"
    before = states(reproven.results)["done"]
    plan = reproven("plan", "toy/count", "tier=cpu", f"+task.tally={tally}")
    assert "killed" in plan.stdout
    again = reproven(*arguments)
    assert again.returncode == 0, again.stderr
    assert states(reproven.results) == {"done": 6}
    assert f"{before} done before" in again.stdout
    ran = Counter(tally.read_text().split())
    assert set(ran) == {str(seed) for seed in range(6)}
    assert sum(ran.values()) == 7  # the one under way was begun twice, nothing else


def test_two_parents_at_once_run_nothing_twice(reproven, tmp_path):
    tally = tmp_path / "tally"
    arguments = ["experiment=toy/count", "tier=smoke", f"+task.tally={tally}"]
    parents = [reproven.start(*arguments) for _ in range(2)]
    outputs = [p.communicate(timeout=120)[0] for p in parents]
    assert [p.returncode for p in parents] == [0, 0], outputs
    assert Counter(tally.read_text().split()) == {str(seed): 1 for seed in range(6)}
    assert states(reproven.results) == {"done": 6}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_on_request_ends_children_and_resumes(reproven, wait_until, number):
    parent = reproven.start("experiment=toy/count", "tier=paper", "jobs=2")
    wait_until(lambda: len(list(reproven.results.glob("runs/toy/*/log.txt"))) >= 2)
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.send_signal(number)
    output, _ = parent.communicate(timeout=30)
    assert parent.returncode == 130, output
    assert output.strip().splitlines()[-1].startswith("reproven: stopped")
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert states(reproven.results) == {"interrupted": 2}
    plan = reproven("plan", "toy/count", "tier=paper")
    assert plan.stdout.strip().splitlines()[-1].startswith("6 to run")


def test_a_damaged_result_is_named_with_the_remedy(reproven):
    assert reproven("experiment=toy/mean", "tier=smoke").returncode == 0
    path = next(reproven.results.glob("runs/toy/*/result.json"))
    path.write_text(path.read_text()[:100])
    report = reproven("report", "toy")
    assert report.returncode == 2
    (line,) = report.stderr.strip().splitlines()
    assert str(path) in line
    assert "run again" in line


def test_results_that_cannot_be_written(reproven, tmp_path):
    (tmp_path / "file").write_text("")
    done = reproven("experiment=toy/mean", "tier=smoke", f"results={tmp_path}/file/results")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "not writable" in line


def test_a_results_folder_that_is_read_only(reproven, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs a file system of its own: {mounted.stderr.decode().strip()}")
    try:
        assert reproven("reproduce", "toy/mean", "tier=smoke", f"results={disk}").returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for arguments in (
            ["experiment=toy/count", "tier=smoke"],
            ["report", "toy"],
            ["accept", "toy", "--reason", "why"],
        ):
            done = reproven(*arguments, f"results={disk}")
            assert done.returncode == 2, done.stderr
            (line,) = done.stderr.strip().splitlines()
            assert "Read-only file system" in line
            assert "results=" in line
        assert states(disk) == {"done": 2}
        read = reproven("verify", "toy", f"results={disk}")  # reading goes on
        assert read.returncode == 0, read.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_with_one_line_and_loses_nothing(reproven, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"needs a small file system: {mounted.stderr.decode().strip()}")
    try:
        (disk / "filling").write_bytes(bytes(200 * 1024))
        full = reproven("experiment=toy/count", "tier=smoke", f"results={disk}")
        assert full.returncode == 2, full.stderr
        line = full.stderr.strip().splitlines()[-1]
        assert "No space left on device" in line
        assert "Traceback" not in full.stderr
        before = states(disk)["done"]
        (disk / "filling").unlink()
        again = reproven("experiment=toy/count", "tier=smoke", f"results={disk}")
        assert again.returncode == 0, again.stderr
        assert states(disk) == {"done": 6}
        assert f"{before} done before" in again.stdout or before == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)
