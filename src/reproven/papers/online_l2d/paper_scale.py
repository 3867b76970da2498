"""Paper-scale data: Covertype, and CIFAR-10 whose experts are the people of CIFAR-10H.

Neither ships in a package. The files are placed by hand in the data cache; without them a run is `blocked`.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reproven.data import provider
from reproven.harness.context import Context
from reproven.harness.errors import Blocked, require
from reproven.papers.online_l2d.real import compare
from reproven.papers.online_l2d.real_streams import oriented_gradients, specialists, whitened
from reproven.papers.online_l2d.streams import Stream, schedule

COVERTYPE = "covtype.data.gz"
VOTES = "cifar10h-counts.npy"
COLUMNS = 54  # of Covertype: 10 measured, 44 indicators

# Panels that may be asked: people who vote, fee, arrival and departure as shares of T.
PANELS = (
    (1, 0.02, 0.0, 1.0),
    (1, 0.02, 0.0, 0.5),
    (3, 0.06, 0.15, 1.0),
    (5, 0.10, 0.3, 1.0),
    (9, 0.18, 0.45, 1.0),
)
DRAWS = 400  # simulated panels behind each conditional mean cost


@dataclass(frozen=True)
class HumanVotes:
    """Images (M, h, w) grey in [0, 1], their classes (M,), and how many people chose each class (M, n)."""

    images: np.ndarray
    classes: np.ndarray
    votes: np.ndarray


def _placed(folder: str, name: str, source: str) -> Path:
    path = provider.cache_folder() / folder / name
    if not path.is_file():
        raise Blocked(f"{folder}: place {name} ({source}) in {path.parent}")
    return path


def covertype_rows() -> tuple[np.ndarray, np.ndarray]:
    """Covertype: 581,012 rows, 54 features scaled to unit variance, 7 classes."""
    path = _placed("covertype", COVERTYPE, "UCI repository, Covertype")
    try:
        with gzip.open(path, "rt") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.float64, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from None
    if rows.shape[1] != COLUMNS + 1 or not np.isfinite(rows).all():
        raise ValueError(f"{path} has {rows.shape[1]} columns, expected {COLUMNS + 1} finite: fetch it again")
    x, y = rows[:, :-1], np.unique(rows[:, -1], return_inverse=True)[1]
    spread = x.std(axis=0)
    return x / np.where(spread > 0, spread, 1.0), y


def with_votes(test: Any) -> HumanVotes:
    """CIFAR-10's test images, an image set, with the votes of CIFAR-10H (Peterson et al. 2019), in its order."""
    path = _placed("cifar10h", VOTES, "github.com/jcpeterson/cifar-10h, folder data")
    try:
        votes = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from None
    expected = (len(test.targets), len(test.classes))
    if votes.shape != expected:
        raise ValueError(f"{path} has shape {votes.shape}, expected {expected} counts: fetch it again")
    if not ((votes >= 0) & np.isfinite(votes)).all() or (votes.sum(axis=1) < 1).any():
        raise ValueError(f"{path} holds what is no count, or an image without votes: fetch it again")
    grey = np.asarray(test.data, float).mean(axis=-1) / test.peak
    return HumanVotes(grey, np.asarray(test.targets), votes)


def panel_answers(chances: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Majority answers of panels of `size` people who vote independently by `chances` (m, n); random ties."""
    counts = rng.multinomial(size, chances)
    return (counts + 0.5 * rng.random(counts.shape)).argmax(axis=1)


def human_stream(
    data: HumanVotes, features: np.ndarray, rounds: int, rng: np.random.Generator, *, warm_up: int
) -> Stream:
    """Rows drawn with replacement; experts are panels of people drawn from each image's own votes, with fees.

    features: (M, d) frozen features of the images. A row is hard where its people disagree most (upper fifth of
    the error of one person). As in `real_streams`, the warm-up draws from a fifth of the rows of its own.
    """
    if rounds <= warm_up:
        raise ValueError(f"rounds is {rounds}: give more than the {warm_up} of the warm-up")
    chances = data.votes / data.votes.sum(axis=1, keepdims=True)
    n, fees = chances.shape[1], np.array([panel[1] for panel in PANELS])
    order = rng.permutation(len(chances))
    held = max(1, len(order) // 5)
    index = np.concatenate([rng.choice(order[:held], warm_up), rng.choice(order[held:], rounds - warm_up)])
    label = data.classes[index]
    wrong, error = np.empty((rounds, len(PANELS)), np.uint8), np.empty((len(chances), len(PANELS)))
    simulated = np.random.default_rng(0)  # the same conditional means for every stream
    for j, (size, *_) in enumerate(PANELS):
        wrong[:, j] = panel_answers(chances[index], size, rng) != label
        missed = [
            panel_answers(chances, size, simulated) != data.classes for _ in range(DRAWS if size > 1 else 1)
        ]
        error[:, j] = np.mean(missed, axis=0)
    single = 1 - chances[np.arange(len(chances)), data.classes]
    error[:, [j for j, panel in enumerate(PANELS) if panel[0] == 1]] = single[:, None]
    labels = (np.arange(n) != data.classes[:, None]).astype(float)
    mean_cost = np.concatenate([labels, error + fees * (1 - error)], axis=1)[None]
    available = schedule(rounds, [p[2] for p in PANELS], [p[3] for p in PANELS], rng, off=0.005, on=0.02)
    hard = single > np.quantile(single, 0.8)
    start = np.zeros(1, np.int64)
    return Stream(
        n, features, index.astype(np.int32), label.astype(np.int16), wrong, available, fees, mean_cost, start, hard,
        warm_up,
    )  # fmt: skip


def covertype(
    ctx: Context, *, replicates: int, rounds: int, tuning_rounds: int, warm_up: int, components: int
) -> None:
    """E4 on Covertype with simulated specialists; measurements as in `real.real`."""
    require("numba", "online_l2d")
    x, y = covertype_rows()
    make = partial(specialists, x, y, components=components, warm_up=warm_up)
    compare(ctx, "covertype", make, replicates=replicates, rounds=rounds, tuning_rounds=tuning_rounds)


def humans(
    ctx: Context, *, replicates: int, rounds: int, tuning_rounds: int, warm_up: int, components: int
) -> None:
    """E4 with people: CIFAR-10's test images (the run's data set), experts from CIFAR-10H."""
    require("numba", "online_l2d")
    data = with_votes(ctx.dataset().test)
    features = whitened(oriented_gradients(data.images), components)
    make = partial(human_stream, data, features, warm_up=warm_up)
    compare(ctx, "cifar10h", make, replicates=replicates, rounds=rounds, tuning_rounds=tuning_rounds)
