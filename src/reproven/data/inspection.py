"""Industrial inspection sets in their publishers' layouts: MVTec AD, VisA, BTAD, and DTD's textures; placed by hand.

Their licences and forms are for the user to accept, so nothing is downloaded: the user unpacks the publisher's archive
in the data cache. What is absent is `Blocked`, with what to place where.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reproven.data.provider import cache_folder
from reproven.harness.errors import Blocked, UserError, did_you_mean

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

MVTEC_AD = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
VISA = (
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3", "pcb4",
    "pipe_fryum",
)  # fmt: skip
BTAD = ("01", "02", "03")

SOURCES = {
    "mvtec_ad": "MVTec AD, mvtec.com/company/research/datasets/mvtec-ad, CC BY-NC-SA 4.0",
    "visa": "VisA, repository amazon-science/spot-diff, CC BY 4.0; split_csv/1cls.csv comes with that repository",
    "btad": "BTAD, avires.dimi.uniud.it/papers/btad/btad.zip, CC BY-NC-SA 4.0",
    "dtd": "Describable Textures, robots.ox.ac.uk/~vgg/data/dtd, for research",
}


@dataclass(frozen=True)
class Category:
    """Files of one category, in the publisher's division.

    train: normal images. test: all test images. anomalous: which of these are, shape (n,). masks: of each test image,
    None where it is normal.
    """

    train: list[Path]
    test: list[Path]
    anomalous: np.ndarray
    masks: list[Path | None]


def load(benchmark: str, category: str) -> Category:
    """Files of a category of "mvtec_ad", "visa" or "btad", placed under the data cache.

    Raises: UserError for an unknown name; Blocked where the data are absent; ValueError where they are not laid out
    as published.
    """
    readers = {"mvtec_ad": (mvtec_ad, MVTEC_AD), "visa": (visa, VISA), "btad": (btad, BTAD)}
    if benchmark not in readers:
        raise UserError(f"no inspection set {benchmark!r}{did_you_mean(benchmark, readers)}")
    read, categories = readers[benchmark]
    if category not in categories:
        raise UserError(f"{benchmark} has no category {category!r}{did_you_mean(category, categories)}")
    return read(_placed(benchmark, category), category)


def mvtec_ad(root: Path, category: str) -> Category:
    """``<category>/train/good``, ``test/<defect or good>``, ``ground_truth/<defect>/<name>_mask.png``."""
    home = root / category
    train = _images(home / "train" / "good")
    test, masks = [], []
    for folder in sorted(p for p in (home / "test").iterdir() if p.is_dir()):
        for image in _images(folder):
            test.append(image)
            mask = home / "ground_truth" / folder.name / f"{image.stem}_mask.png"
            masks.append(None if folder.name == "good" else _mask(mask))
    return _category(train, test, masks)


def visa(root: Path, category: str) -> Category:
    """The one-class split: rows ``object,split,label,image,mask`` of ``split_csv/1cls.csv``; paths from the root."""
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        raise Blocked(f"data set 'visa': place split_csv/1cls.csv ({SOURCES['visa']}) in {root}")
    train, test, masks = [], [], []
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["object"] != category:
                continue
            image = _file(root / row["image"])
            if row["split"] == "train":
                train.append(image)
            else:
                test.append(image)
                masks.append(None if row["label"] == "normal" else _mask(root / row["mask"]))
    return _category(train, test, masks)


def btad(root: Path, category: str) -> Category:
    """``<category>/train/ok``, ``test/ok``, ``test/ko``, ``ground_truth/ko/<name>`` with any image ending."""
    home = root / category
    normal, defective = _images(home / "test" / "ok"), _images(home / "test" / "ko")
    truth = {p.stem: p for p in _images(home / "ground_truth" / "ko")}
    lost = [p.name for p in defective if p.stem not in truth]
    if lost:
        raise ValueError(f"{home}/ground_truth/ko has no mask for {lost[0]}: unpack the archive again")
    masks = [None] * len(normal) + [truth[p.stem] for p in defective]
    return _category(_images(home / "train" / "ok"), normal + defective, masks)


def dtd_textures() -> list[Path]:
    """All images of DTD, ``images/<class>/*.jpg`` under the data cache; Blocked where they are absent."""
    return sorted(p for folder in (_placed("dtd", "images") / "images").iterdir() for p in _images(folder))


def read_images(paths: Sequence[Path], size: int) -> np.ndarray:
    """Images as uint8 (n, size, size, 3), resized whatever their shape (bilinear, as DRAEM does)."""
    out = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    for place, path in zip(out, paths):
        with Image.open(path) as image:
            place[:] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    return out


def read_masks(paths: Sequence[Path | None], size: int) -> np.ndarray:
    """Masks as bool (n, size, size), resized by nearest pixel; all False for None."""
    out = np.zeros((len(paths), size, size), dtype=bool)
    for place, path in zip(out, paths):
        if path is not None:
            with Image.open(path) as image:
                place[:] = np.asarray(image.convert("L").resize((size, size), Image.Resampling.NEAREST)) > 0
    return out


def _placed(benchmark: str, part: str) -> Path:
    """Root folder of a set under the data cache; Blocked unless `part` is in it."""
    root = cache_folder() / benchmark
    if not (root / part).is_dir():
        raise Blocked(f"data set {benchmark!r}: place the folder {part}/ of {SOURCES[benchmark]}, in {root}")
    return root


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: the set is not laid out as published; unpack it again")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing: unpack the archive again")
    return path


def _mask(path: Path) -> Path:
    return _file(path)


def _category(train: list[Path], test: list[Path], masks: list[Path | None]) -> Category:
    anomalous = np.array([m is not None for m in masks], dtype=bool)
    if not train or not test:
        raise ValueError(
            f"{len(train)} training and {len(test)} test images: the set is not laid out as published"
        )
    return Category(train, test, anomalous, masks)
