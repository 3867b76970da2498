"""Streams on real features: simulated regional specialists with fees, who arrive, leave, and go on and off.

Half of the problem is hard on purpose. With more than two classes the upper half of them (of three, two) is hard:
there the label is, by a hidden coin, the row's class or the next hard class in a cycle. With two classes the rows
beyond the median of the first component are hard: there the hidden coin decides between the two labels. So
no classifier beats one half on hard rows, and the specialists, who know the coin, carry what x does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from reproven.papers.online_l2d.streams import Stream, schedule

INSIDE, OUTSIDE = 0.92, 0.25  # how often a specialist is right in its region and elsewhere
FEE = 0.05
OFF, ON = 0.005, 0.02  # probabilities a round of going off and coming back


@dataclass(frozen=True)
class Team:
    """Experts' schedule as fractions of T: arrivals, departures. Expert 1 leaves half-way."""

    arrival: tuple[float, ...]
    departure: tuple[float, ...]


SIX = Team((0.0, 0.0, 0.15, 0.30, 0.45, 0.60), (1.0, 0.5, 1.0, 1.0, 1.0, 1.0))
FOUR = Team((0.0, 0.0, 0.20, 0.40), (1.0, 0.5, 1.0, 1.0))


def arrays(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features (M, d) and classes 0..n-1 (M,) of a loaded data set: an image set, a table, or (x, y)."""
    if isinstance(data, tuple):
        x, y = data
    elif hasattr(data, "targets"):
        images = np.asarray(data.data, float) / data.peak
        x = oriented_gradients(images) if images.shape[1] >= 28 else images.reshape(len(images), -1)
        y = data.targets
    else:
        from reproven.data.tables import arrays as table_arrays

        x, y = table_arrays(data)
        spread = np.std(x, axis=0)
        x = x / np.where(spread > 0, spread, 1.0)  # columns of a table have different units, pixels do not
    x, y = np.asarray(x, float), np.asarray(y)
    if not np.isfinite(x).all():
        raise ValueError("features hold NaN or infinity: drop those rows (drop_missing=True) first")
    return x, np.unique(y, return_inverse=True)[1]


def oriented_gradients(images: np.ndarray, *, cells: int = 4, bins: int = 9) -> np.ndarray:
    """Histograms of oriented gradients per cell, each image's histograms of unit norm: frozen features.

    images: (M, h, w) in [0, 1]; returns (M, cells^2 bins). Dalal & Triggs 2005, without block overlap.
    """
    gy, gx = np.gradient(images, axis=(1, 2))
    strength = np.hypot(gx, gy)
    angle = (np.arctan2(gy, gx) % np.pi) * (bins / np.pi)
    low = np.floor(angle).astype(int) % bins
    share = angle - np.floor(angle)  # linear interpolation between neighbouring bins
    m, h, w = images.shape
    cell = (np.arange(h) * cells // h)[:, None] * cells + np.arange(w) * cells // w
    out = np.zeros((m, cells * cells * bins))
    first = np.arange(m)[:, None, None]
    np.add.at(out, (first, cell * bins + low), strength * (1 - share))
    np.add.at(out, (first, cell * bins + (low + 1) % bins), strength * share)
    norm = np.linalg.norm(out, axis=1, keepdims=True)
    return out / np.maximum(norm, 1e-12)


def whitened(x: np.ndarray, components: int) -> np.ndarray:
    """Leading principal components, each of variance 1, all scaled to mean norm 1: (M, components)."""
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    rank = int((s > s[0] * 1e-9).sum())
    if not 1 <= components <= rank:
        raise ValueError(f"components is {components}, the features have rank {rank}: ask for 1 to {rank}")
    z = u[:, :components]
    return z / np.linalg.norm(z, axis=1).mean()


def _hidden_coin(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hard rows (M,); the two labels of each row's coin (M, 2); each expert's region by row and side."""
    n = int(y.max()) + 1
    if n > 2:
        classes = np.arange(n - max(2, n // 2), n)
        hard = y >= classes[0]
        after = np.where(hard, classes[0] + (y + 1 - classes[0]) % len(classes), y)
        coin = np.column_stack([y, after])
        return hard, coin, _class_regions(coin, classes)
    hard = z[:, 0] > np.median(z[:, 0])
    coin = np.column_stack([y, np.where(hard, 1 - y, y)])
    quarter = np.searchsorted(np.quantile(z[hard, 1], [0.25, 0.5, 0.75]), z[:, 1])
    regions = np.zeros((len(z), 2, 4), bool)
    for j in range(4):  # two neighbouring quarters each
        regions[:, :, j] = (hard & ((quarter == j) | (quarter == (j + 1) % 4)))[:, None]
    return hard, coin, regions


def _class_regions(coin: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Five specialists on neighbouring hard classes around the cycle, a sixth on every other one."""
    h = len(classes)
    width = int(np.ceil(2 * h / 5))
    regions = np.zeros((*coin.shape, 6), bool)
    for j in range(5):
        mine = classes[(j * h // 5 + np.arange(width)) % h]
        regions[:, :, j] = np.isin(coin, mine)
    regions[:, :, 5] = np.isin(coin, classes[::2])
    return regions


def specialists(
    x: np.ndarray,
    y: np.ndarray,
    rounds: int,
    rng: np.random.Generator,
    *,
    components: int,
    warm_up: int = 300,
) -> Stream:
    """Rows drawn with replacement, hidden coins, specialists with a fee of .05, and their schedule.

    x: (M, d) features; y: (M,) classes 0..n-1. The first `warm_up` rounds draw from one fifth of the rows,
    all others from the rest, so that a batch learner cannot memorise the stream. Source: dossier 7, E4.
    """
    if rounds <= warm_up:
        raise ValueError(f"rounds is {rounds}: give more than the {warm_up} of the warm-up")
    if not np.isfinite(x).all():
        raise ValueError("features hold NaN or infinity: drop or impute those rows first")
    if len(np.unique(y)) < 2:
        raise ValueError("y holds a single class: there is nothing to decide")
    if y.max() == 1 and components < 2:
        raise ValueError(
            f"components is {components}: with two classes the second sets regions, keep 2 or more"
        )
    z = whitened(x, components)
    hard, coin, regions = _hidden_coin(z, y)
    n, experts = int(y.max()) + 1, regions.shape[2]
    team = SIX if experts == 6 else FOUR
    order = rng.permutation(len(y))
    held = max(1, len(y) // 5)
    index = np.concatenate(
        [rng.choice(order[:held], warm_up), rng.choice(order[held:], rounds - warm_up)]
    ).astype(np.int32)
    side = (rng.random(rounds) < 0.5).astype(int)
    label = coin[index, side].astype(np.int16)
    right = np.where(regions[index, side], INSIDE, OUTSIDE)
    wrong = (rng.random(right.shape) >= right).astype(np.uint8)
    available = schedule(rounds, team.arrival, team.departure, rng, off=OFF, on=ON)
    expert_right = np.where(regions, INSIDE, OUTSIDE).mean(axis=1)
    label_right = 0.5 * (coin[:, :, None] == np.arange(n)).sum(axis=1)
    mean_cost = np.concatenate([1 - label_right, 1 - expert_right + FEE * expert_right], axis=1)
    fee = np.full(experts, FEE)
    start = np.zeros(1, np.int64)
    return Stream(n, z, index, label, wrong, available, fee, mean_cost[None], start, hard, warm_up)
