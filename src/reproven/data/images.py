"""Image data sets, torchvision-style: ``.data`` uint8, ``.targets`` int64, ``.classes``, item transforms."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch.utils.data
from PIL import Image

from reproven.data import provider


class ImageSet(torch.utils.data.Dataset):
    """Images in memory; item i is ``(transform(PIL image), target_transform(int))`` as in torchvision.

    data: uint8, (n, height, width) or (n, height, width, 3).
    targets: int64, (n,), indices into `classes`.
    classes: names of the classes.
    peak: the largest value that a pixel can have; ``data / peak`` lies in [0, 1].
    transform, target_transform: applied to each item, or None.
    """

    def __init__(
        self,
        data: np.ndarray,
        targets: np.ndarray,
        classes: list[str],
        *,
        peak: int = 255,
        transform: Callable[[Image.Image], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
    ) -> None:
        if data.dtype != np.uint8 or data.ndim not in (3, 4) or len(data) != len(targets):
            raise ValueError(
                f"images must be uint8 (n, h, w[, 3]) with n targets, not {data.dtype} {data.shape}"
            )
        self.data = data
        self.targets = np.asarray(targets, dtype=np.int64)
        self.classes = classes
        self.peak = peak
        self.transform = transform
        self.target_transform = target_transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = Image.fromarray(self.data[index])
        target: Any = int(self.targets[index])
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return image, target


_DIGITS = [str(i) for i in range(10)]


def mnist_5k(transform: Callable | None = None) -> ImageSet:
    """MNIST, 5,000 of its digits (500 a class, sorted by class), 28x28, pixels 0 to 255."""
    rows = _integer_rows(provider.locate("mnist_5k"))
    return ImageSet(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1], _DIGITS, transform=transform)


def digits(transform: Callable | None = None) -> ImageSet:
    """Handwritten digits, 1,797 images 8x8, pixels 0 to 16 (the UCI test set, as in scikit-learn)."""
    rows = _integer_rows(provider.locate("digits"))
    return ImageSet(rows[:, :-1].reshape(-1, 8, 8), rows[:, -1], _DIGITS, peak=16, transform=transform)


def _integer_rows(path: Path) -> np.ndarray:
    with gzip.open(path, "rb") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)
