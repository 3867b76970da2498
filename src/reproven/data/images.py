"""Image data sets, torchvision-style: ``.data`` uint8, ``.targets`` int64, ``.classes``, item transforms."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch.utils.data
from PIL import Image

from reproven.data import provider
from reproven.data.split import TrainTest

Transform = Callable[[Image.Image], Any] | None


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
        targets: np.ndarray | list[int],
        classes: list[str],
        *,
        peak: int = 255,
        transform: Transform = None,
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
_CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_CIFAR100 = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
]  # fmt: skip


def mnist_5k(transform: Transform = None) -> ImageSet:
    """MNIST, 5,000 of its digits (500 a class, sorted by class), 28x28, pixels 0 to 255."""
    rows = _integer_rows(provider.locate("mnist_5k"))
    return ImageSet(rows[:, :-1].reshape(-1, 28, 28), rows[:, -1], _DIGITS, transform=transform)


def digits(transform: Transform = None) -> ImageSet:
    """Handwritten digits, 1,797 images 8x8, pixels 0 to 16 (the UCI test set, as in scikit-learn)."""
    rows = _integer_rows(provider.locate("digits"))
    return ImageSet(rows[:, :-1].reshape(-1, 8, 8), rows[:, -1], _DIGITS, peak=16, transform=transform)


def textures(transform: Transform = None) -> ImageSet:
    """Brick, grass and gravel: three grey images 512x512, one a class, to be cut into tiles."""
    names = ["brick", "grass", "gravel"]
    data = np.stack([_pixels(provider.locate(name)) for name in names])
    return ImageSet(data, np.arange(len(names)), names, transform=transform)


def lfw_subset(transform: Transform = None) -> ImageSet:
    """100 faces of Labeled Faces in the Wild and 100 patches of background, grey, 25x25.

    Published as real numbers in [0, 1] (resized crops), here rounded to 256 levels.
    """
    values = np.load(provider.locate("lfw_subset"), allow_pickle=False)
    data = np.rint(255 * values).astype(np.uint8)
    return ImageSet(data, np.repeat([1, 0], 100), ["background", "face"], transform=transform)


def imagenet_20(size: int = 224, transform: Transform = None) -> ImageSet:
    """20 labelled ImageNet images, resized to ``size`` x ``size`` pixels whatever their shape (bicubic)."""
    from torchvision.models import ResNet18_Weights  # the list of class names; no weights are loaded

    classes = list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return _labelled_by_name("imagenet_20", classes, transform, size)


def cifar10_20(transform: Transform = None) -> ImageSet:
    """The first 20 test images of CIFAR-10, 32x32 in colour."""
    return _labelled_by_name("cifar10_20", _CIFAR10, transform)


def cifar100_20(transform: Transform = None) -> ImageSet:
    """The first 20 test images of CIFAR-100, 32x32 in colour."""
    return _labelled_by_name("cifar100_20", _CIFAR100, transform)


def mnist(transform: Transform = None) -> TrainTest[ImageSet]:
    """MNIST whole: 60,000 and 10,000 digits 28x28."""
    parts = [_idx(path) for path in provider.locate_all("mnist")]
    return TrainTest(
        train=ImageSet(parts[0], parts[1], _DIGITS, transform=transform),
        test=ImageSet(parts[2], parts[3], _DIGITS, transform=transform),
    )


def cifar10(transform: Transform = None) -> TrainTest[ImageSet]:
    """CIFAR-10 whole: 50,000 and 10,000 images 32x32 in colour."""
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    return _cifar("cifar10", train, ["test_batch.bin"], 1, _CIFAR10, transform)


def cifar100(transform: Transform = None) -> TrainTest[ImageSet]:
    """CIFAR-100 whole, fine labels: 50,000 and 10,000 images 32x32 in colour."""
    return _cifar("cifar100", ["train.bin"], ["test.bin"], 2, _CIFAR100, transform)


def _integer_rows(path: Path) -> np.ndarray:
    with gzip.open(path, "rb") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.uint8)


def _pixels(path: Path, size: int | None = None) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image if size is None else image.resize((size, size), Image.Resampling.BICUBIC))


def _labelled_by_name(
    name: str, classes: list[str], transform: Transform, size: int | None = None
) -> ImageSet:
    """Files called ``<anything>_<index>_<class>.<ending>``."""
    paths = provider.locate_all(name)
    targets = [int(path.stem.rpartition("_")[2]) for path in paths]
    return ImageSet(np.stack([_pixels(path, size) for path in paths]), targets, classes, transform=transform)


def _idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of bytes: 0, 0, 8, number of axes, their lengths (big-endian), the bytes."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()


def _cifar(
    name: str, train: list[str], test: list[str], label_bytes: int, classes: list[str], transform: Transform
) -> TrainTest[ImageSet]:
    """Read the publisher's binary version; the last label byte counts (CIFAR-100: coarse, then fine)."""
    blocks = {}
    with tarfile.open(provider.locate(name), "r:gz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and member.name.endswith(".bin"):
                blocks[member.name.rsplit("/", 1)[-1]] = np.frombuffer(file.read(), np.uint8)

    def part(files: list[str]) -> ImageSet:
        rows = np.concatenate([blocks[file] for file in files]).reshape(-1, label_bytes + 3072)
        data = rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return ImageSet(np.ascontiguousarray(data), rows[:, label_bytes - 1], classes, transform=transform)

    return TrainTest(part(train), part(test))
