"""Files that the publishers themselves serve: torchvision, the Hugging Face hub, archives; the `paper` tier.

Each function downloads the members of one card into a folder and says where they lie; `provider` verifies
and keeps them. What cannot be had is `Blocked` with a line that says what to place where.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

from reproven.data.cards import Card
from reproven.harness.errors import Blocked

Progress = Callable[[float, str], None]

_CHUNK = 1 << 20
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def download(entry: Card, folder: Path, home: Path, tell: Progress) -> list[Path]:
    """Download the members of a card into `folder`; return their paths in the card's order.

    home: where the user may place the files by hand; named in the reason when the download fails.
    """
    source = {"torchvision": _torchvision, "huggingface": _hub, "archive": _archive}[entry.provider]
    try:
        return source(entry, folder, tell)
    except Exception as error:  # each library has its own errors for "no network"
        if isinstance(error, OSError) and error.errno in _OURS:
            raise
        wanted = ", ".join(f"{member.name} (sha256 {member.sha256})" for member in entry.members)
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise Blocked(
            f"data set {entry.name!r}: cannot download ({said}): place {wanted} of {entry.source} in {home}"
        ) from error


def _torchvision(entry: Card, folder: Path, tell: Progress) -> list[Path]:
    """extras: ``dataset``, the class of `torchvision.datasets` that knows the addresses."""
    import torchvision.datasets

    tell(0.0, f"{entry.name}: downloading by torchvision")
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        getattr(torchvision.datasets, entry.extras["dataset"])(root=folder, download=True)
    return [next(folder.rglob(member.name)) for member in entry.members]


def _hub(entry: Card, folder: Path, tell: Progress) -> list[Path]:
    """extras: ``repo_type``, "dataset" or "model"; package and version: repository, revision."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper()
    if offline not in ("", "0", "FALSE", "NO", "OFF"):
        raise ConnectionError("HF_HUB_OFFLINE is set")
    from huggingface_hub import hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one line at the end, none for each attempt
    paths = []
    for i, member in enumerate(entry.members):
        tell(i / len(entry.members), f"{entry.name}: downloading {member.name}")
        path = hf_hub_download(
            entry.package,
            member.path,
            revision=entry.version,
            repo_type=entry.extras["repo_type"],
            local_dir=folder,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
        paths.append(Path(path))
    return paths


def _archive(entry: Card, folder: Path, tell: Progress) -> list[Path]:
    """extras: ``url``, the folder of the members at the publisher."""
    paths = []
    for member in entry.members:
        address = f"{entry.extras['url'].rstrip('/')}/{member.path}"
        target = folder / member.name
        done = 0
        with urllib.request.urlopen(address, timeout=60) as source, target.open("wb") as file:
            while chunk := source.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                tell(0.95 * min(1.0, done / member.size_bytes), f"{entry.name}: downloading {member.name}")
        paths.append(target)
    return paths
