"""Paper-tier protocols (dossier 5, reconstructed): UTKFace with ResNet18, Yelp reviews with DistilBERT.

Neither data nor weights ship in a package. They are placed by hand in the data cache; without them a run is `blocked`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.data import provider
from reproven.harness.context import Context
from reproven.harness.errors import Blocked, require
from reproven.papers.arc_ridge.network import (
    NetworkFineTuning,
    half_mean_square,
    squared_error,
    wrong_class,
)
from reproven.papers.arc_ridge.retention import linear_cka
from reproven.papers.arc_ridge.text import flip_labels, noise_entropy
from reproven.papers.arc_ridge.transfer import compare

FACE = re.compile(r"(\d+)_([01])_([0-4])_\d+\.jpg(?:\.chip\.jpg)?")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _placed(folder: str, name: str, source: str) -> Path:
    path = provider.cache_folder() / folder / name
    if not path.exists():
        raise Blocked(f"{folder}: place {name} ({source}) in {path.parent}")
    return path


@dataclass(frozen=True)
class Faces:
    """Files of aligned faces, ages in years (n,), ethnicity codes 0 to 4 (n,)."""

    paths: list[Path]
    age: np.ndarray
    ethnicity: np.ndarray


def utkface(folder: Path) -> Faces:
    """Read ``[age]_[gender]_[ethnicity]_[date].jpg[.chip.jpg]`` files of a folder; other names (a few) are skipped."""
    found = [(path, FACE.fullmatch(path.name)) for path in sorted(folder.glob("*.jpg"))]
    kept = [(path, match) for path, match in found if match is not None]
    if not kept:
        raise ValueError(f"{folder} holds no UTKFace file such as 25_0_2_20170116174525125.jpg.chip.jpg")
    return Faces(
        [path for path, _ in kept],
        np.array([int(match[1]) for _, match in kept], dtype=float),
        np.array([int(match[3]) for _, match in kept]),
    )


def face_pixels(paths: list[Path], size: int) -> Tensor:
    """Return images (n, 3, size, size), normalised as torchvision's ImageNet weights expect."""
    from PIL import Image

    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    images = []
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((size, size)), dtype=np.float32)
        images.append((torch.from_numpy(pixels).permute(2, 0, 1) / 255 - mean) / std)
    return torch.stack(images)


class FaceNet(nn.Module):
    """ResNet18 without its classifier, in evaluation mode (running statistics stay), and a zero scalar head."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        from torchvision.models import resnet18

        body = resnet18(weights=None)
        body.load_state_dict(weights)
        body.fc = nn.Identity()
        self.body, self.head = body.eval(), nn.Linear(512, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """x: (n, 3, h, w) -> (n, 512)."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, 1)."""
        return self.head(self.features(x))


class ReviewNet(nn.Module):
    """DistilBERT in evaluation mode (no dropout), first token's state, zero head."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder.eval(), nn.Linear(width, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: (n, tokens) -> (n, width)."""
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.head(self.features(ids, mask))


def reviews(path: Path) -> tuple[list[str], np.ndarray]:
    """Read a split of yelp_review_full, a parquet file with columns ``label`` (0 to 4) and ``text``."""
    import pandas as pd

    table = pd.read_parquet(path)
    if not {"label", "text"} <= set(table.columns):
        raise ValueError(f"{path} has columns {list(table.columns)}, expected label and text: fetch it again")
    return table["text"].tolist(), table["label"].to_numpy()


def _retention(
    problem: NetworkFineTuning, probe: tuple[Tensor, ...]
) -> Callable[[Tensor], dict[str, Tensor]]:
    before = problem.features(problem.start, probe)[None].double()
    return lambda theta: {"cka": linear_cka(before, problem.features(theta, probe)[None].double())}


def faces(
    ctx: Context, *, shift: list[bool], labels: list[int], noise: list[float], tasks: int, test: int, size: int,
    steps: int, rate: float, batch: int, every: int, lams: list[float], arc_lams: list[float],
) -> None:  # fmt: skip
    """Age from faces: few labels, label noise in years, tests on the same or on a held-out ethnicity (code 4).

    shift: whether ethnicity 4 is held out of training and is the test.
    """
    found = utkface(_placed("utkface", "images", "susanqq.github.io/UTKFace, aligned and cropped"))
    weights = torch.load(
        _placed("resnet18", "resnet18-f37072fd.pth", "torchvision, IMAGENET1K_V1"), weights_only=True
    )
    scale = float(found.age.std())
    for shifted in shift:
        for count in labels:
            for task in range(tasks):
                g = ctx.generator("faces", shift=shifted, task=task)
                order = g.permutation(len(found.age))
                outside = found.ethnicity[order] == 4
                train = order[~outside][:count] if shifted else order[:count]
                tests = order[outside][:test] if shifted else order[count:][:test]
                if len(train) < count or not len(tests):
                    raise ValueError(f"{len(found.age)} faces are too few for {count} labels and a test set")
                x, x_test = (face_pixels([found.paths[i] for i in rows], size) for rows in (train, tests))
                centre = float(found.age[train].mean())
                y, y_test = (
                    torch.tensor((found.age[rows] - centre) / scale, dtype=torch.float32)
                    for rows in (train, tests)
                )
                for sigma in noise:
                    rough = y + sigma / scale * torch.tensor(g.normal(size=count), dtype=torch.float32)
                    cut = round(0.8 * count)
                    problem = NetworkFineTuning(
                        FaceNet(weights).to(ctx.device), (x[:cut], rough[:cut]), (x[cut:], rough[cut:]),
                        (x_test, y_test), half_mean_square, squared_error, lams, arc_lams,
                        0.5 * (sigma / scale) ** 2, rate, steps, batch, every, ctx.derive("batches", task=task),
                    )  # fmt: skip
                    where: dict[str, Any] = {"shift": shifted, "labels": count, "noise": sigma}
                    compare(
                        ctx,
                        problem,
                        _retention(problem, (x_test,)),
                        [task],
                        "age^2 / var",
                        ends=True,
                        **where,
                    )


def reviews_transfer(
    ctx: Context, *, labels: list[int], noise: list[float], tasks: int, test: int, tokens: int, steps: int,
    rate: float, batch: int, every: int, lams: list[float], arc_lams: list[float],
) -> None:  # fmt: skip
    """Stars of Yelp reviews from few labels, a share `noise` of them wrong; all of DistilBERT is trained."""
    train_file, test_file = (
        _placed("yelp_review_full", f"{split}.parquet", "Hugging Face, yelp_review_full")
        for split in ("train", "test")
    )
    folder = _placed(
        "distilbert-base-uncased", "model.safetensors", "Hugging Face, with config and tokeniser"
    ).parent
    require("transformers", "arc_ridge")
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    (texts, stars), (test_texts, test_stars) = reviews(train_file), reviews(test_file)
    classes = int(stars.max()) + 1

    def coded(rows: np.ndarray, pool: list[str]) -> tuple[Tensor, Tensor]:
        found = tokenizer(
            [pool[i] for i in rows],
            truncation=True,
            max_length=tokens,
            padding="max_length",
            return_tensors="pt",
        )
        return found["input_ids"], found["attention_mask"]

    tests = ctx.generator("test").permutation(len(test_texts))[:test]
    held = (*coded(tests, test_texts), torch.as_tensor(test_stars[tests]))
    for count in labels:
        for share in noise:
            for task in range(tasks):
                g = ctx.generator("reviews", task=task)
                rows = g.permutation(len(texts))[:count]
                if len(rows) < count:
                    raise ValueError(f"{len(texts)} reviews are too few for {count} labels")
                ids, mask = coded(rows, texts)
                y = torch.as_tensor(flip_labels(stars[rows], share, classes, g))
                encoder = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
                net = ReviewNet(encoder, encoder.config.dim, classes).to(ctx.device)
                cut = round(0.8 * count)
                problem = NetworkFineTuning(
                    net, (ids[:cut], mask[:cut], y[:cut]), (ids[cut:], mask[cut:], y[cut:]), held,
                    nn.functional.cross_entropy, wrong_class, lams, arc_lams, noise_entropy(share, classes), rate,
                    steps, batch, every, ctx.derive("batches", task=task),
                )  # fmt: skip
                where: dict[str, Any] = {"labels": count, "noise": share}
                compare(
                    ctx, problem, _retention(problem, held[:2]), [task], "share wrong", ends=True, **where
                )
