"""A wheel and cards made for tests."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

from reproven.data.cards import Card, Member

FILES = {"tiny/data/a.csv": b"1,2\n3,4\n", "tiny/data/b-train.csv": b"5\n", "tiny/data/b-test.csv": b"6\n"}


def member(path: str, content: bytes) -> Member:
    return Member(path, len(content), hashlib.sha256(content).hexdigest())


def make_card(name: str, files: dict[str, bytes], **more) -> Card:
    members = tuple(member(path, content) for path, content in files.items())
    fields = {"title": name, "source": "nobody", "licence": "CC0", "package": "tiny-data", "version": "1.0"}
    return Card(name=name, members=members, **(fields | more))


def write_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A valid wheel ``tiny_data-1.0`` whose own code fails when it is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "tiny_data-1.0.dist-info"
    content = {
        "tiny/__init__.py": b"raise RuntimeError('a data package was imported')\n",
        **files,
        f"{info}/METADATA": (
            b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
        ),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for name, data in content.items()
    ]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    path = folder / "tiny_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path
