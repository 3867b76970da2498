"""Image loaders on tiny files in the formats of the real ones."""

from __future__ import annotations

import gzip
import io
import tarfile

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image

from reproven.data import images


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_digits_equal_those_of_scikit_learn():
    data = images.digits()
    theirs = sklearn.datasets.load_digits()
    assert np.array_equal(data.data, theirs.images)
    assert np.array_equal(data.targets, theirs.target)
    assert data.data.max() == data.peak == 16


def test_mnist_5k_rows_are_pixels_then_label(place):
    rows = np.zeros((2, 785), dtype=int)
    rows[0, 0], rows[0, 27], rows[0, -1] = 255, 7, 4
    rows[1, -2], rows[1, -1] = 9, 1
    text = "\n".join(",".join(map(str, row)) for row in rows)
    place("mnist_5k", {"mnist_5k.csv.gz": gzip.compress(text.encode())})
    data = images.mnist_5k()
    assert data.data.shape == (2, 28, 28)
    assert data.data.dtype == np.uint8
    assert (data.data[0, 0, 0], data.data[0, 0, 27], data.data[1, 27, 27]) == (255, 7, 9)
    assert data.targets.tolist() == [4, 1]


def test_items_are_as_in_torchvision():
    data = images.ImageSet(np.arange(18, dtype=np.uint8).reshape(2, 3, 3), np.array([1, 0]), ["a", "b"])
    image, target = data[1]
    assert isinstance(image, Image.Image)
    assert np.array_equal(np.asarray(image), data.data[1])
    assert target == 0
    data.transform = lambda image: torch.from_numpy(np.array(image))
    data.target_transform = lambda target: -target
    batch, targets = next(iter(torch.utils.data.DataLoader(data, batch_size=2)))
    assert batch.shape == (2, 3, 3)
    assert targets.tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("data", "targets"),
    [
        (np.zeros((2, 3, 3)), [0, 1]),  # not uint8
        (np.zeros((2, 9), dtype=np.uint8), [0, 1]),  # no images
        (np.zeros((2, 3, 3), dtype=np.uint8), [0]),  # a target is missing
    ],
)
def test_what_is_no_image_set_is_refused(data, targets):
    with pytest.raises(ValueError, match="uint8"):
        images.ImageSet(data, np.array(targets), ["a", "b"])


def test_textures_and_samples(place):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 6, 6), dtype=np.uint8)
    for name, one in zip(("brick", "grass", "gravel"), pixels, strict=True):
        place(name, {f"skimage/data/{name}.png": png(one)})
    data = images.textures()
    assert np.array_equal(data.data, pixels)
    assert [data.classes[i] for i in data.targets] == ["brick", "grass", "gravel"]

    colour = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    place("cifar10_20", {"cifar10_00_3.png": png(colour[0]), "cifar10_01_8.png": png(colour[1])})
    sample = images.cifar10_20()
    assert np.array_equal(sample.data, colour)
    assert [sample.classes[i] for i in sample.targets] == ["cat", "ship"]


def test_imagenet_images_are_brought_to_one_size(place):
    wide, tall = np.full((4, 10, 3), 7, np.uint8), np.full((10, 4, 3), 9, np.uint8)
    place("imagenet_20", {"imagenet_00_243.jpg": png(wide), "imagenet_01_559.jpg": png(tall)})
    data = images.imagenet_20(size=5)
    assert data.data.shape == (2, 5, 5, 3)
    assert (data.data[0] == 7).all()
    assert [data.classes[i] for i in data.targets] == ["bull mastiff", "folding chair"]


def test_faces_are_rounded_to_256_levels(place):
    values = np.linspace(0, 1, 200 * 25 * 25).reshape(200, 25, 25)
    buffer = io.BytesIO()
    np.save(buffer, values)
    place("lfw_subset", {"lfw_subset.npy": buffer.getvalue()})
    data = images.lfw_subset()
    assert np.abs(data.data / data.peak - values).max() <= 0.5 / 255 + 1e-12
    assert data.targets.sum() == 100
    assert data.classes[data.targets[0]] == "face"


def test_pickled_arrays_are_refused(place):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    place("lfw_subset", {"lfw_subset.npy": buffer.getvalue()})
    with pytest.raises(ValueError, match="allow_pickle"):
        images.lfw_subset()


def cifar_archive(blocks: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, rows in blocks.items():
            entry = tarfile.TarInfo(f"folder/{name}")
            entry.size = rows.size
            archive.addfile(entry, io.BytesIO(rows.astype(np.uint8).tobytes()))
        archive.addfile(tarfile.TarInfo("folder/readme.html"))
    return buffer.getvalue()


def record(label: list[int], red: int, last: int) -> list[int]:
    pixels = np.zeros((3, 32, 32), dtype=int)
    pixels[0, 0, 1], pixels[2, 31, 31] = red, last
    return label + pixels.ravel().tolist()


def test_cifar10_binary_version(place):
    names = [f"data_batch_{i}.bin" for i in range(1, 6)]
    blocks = {name: np.array([record([i], 10 + i, i)]) for i, name in enumerate(names)}
    shuffled = dict(reversed(blocks.items()))  # the order inside the archive must not matter
    shuffled["test_batch.bin"] = np.array([record([9], 1, 2), record([0], 3, 4)])
    place("cifar10", {"cifar-10-binary.tar.gz": cifar_archive(shuffled)})
    data = images.cifar10()
    assert data.train.data.shape == (5, 32, 32, 3)
    assert data.train.targets.tolist() == [0, 1, 2, 3, 4]
    assert data.train.data[2, 0, 1].tolist() == [12, 0, 0]
    assert data.train.data[2, 31, 31].tolist() == [0, 0, 2]
    assert data.test.targets.tolist() == [9, 0]


def test_cifar100_takes_the_fine_label(place):
    blocks = {"train.bin": np.array([record([4, 30], 1, 1)]), "test.bin": np.array([record([10, 99], 1, 1)])}
    place("cifar100", {"cifar-100-binary.tar.gz": cifar_archive(blocks)})
    data = images.cifar100()
    assert [data.train.classes[i] for i in data.train.targets] == ["dolphin"]
    assert data.test.targets.tolist() == [99]


def test_a_file_that_is_no_idx_is_refused(place):
    place("mnist", {"a.gz": gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00")})
    with pytest.raises(ValueError, match="IDX"):
        images.mnist()
