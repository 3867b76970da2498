"""Synthetic defects to test with, of kinds that training on Perlin masks never sees: lines, spots, blur, disorder."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

STRENGTHS = {"weak": (0.2, 0.4), "strong": (0.7, 1.0)}


class Defective(NamedTuple):
    """tiles: uint8, (n, h, w). masks: bool, (n, h, w), where a tile was changed. kinds: index into `KINDS`, (n,)."""

    tiles: np.ndarray
    masks: np.ndarray
    kinds: np.ndarray


def add_defects(tiles: np.ndarray, *, strength: str, rng: np.random.Generator) -> Defective:
    """Give each tile one defect of a random kind: x (1 - a M) + a M D, a uniform within `STRENGTHS[strength]`.

    Args: tiles: normal ones, uint8, (n, h, w). strength: "weak" or "strong".
    """
    if strength not in STRENGTHS:
        raise ValueError(f"strength={strength!r} is not one of {', '.join(STRENGTHS)}")
    if tiles.dtype != np.uint8 or tiles.ndim != 3:
        raise ValueError(f"tiles must be uint8 of shape (n, h, w), not {tiles.dtype} {tiles.shape}")
    low, high = STRENGTHS[strength]
    kinds = rng.integers(len(KINDS), size=len(tiles))
    changed, masks = np.empty_like(tiles), np.empty(tiles.shape, dtype=bool)
    for i, (tile, kind) in enumerate(zip(tiles, kinds)):
        x = tile.astype(float)
        mask, inside = KINDS[kind](x, rng)
        a = rng.uniform(low, high)
        changed[i] = np.clip(np.rint(x + a * mask * (inside - x)), 0, 255)
        masks[i] = mask
    return Defective(changed, masks, kinds)


def _scratch(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A straight line of one or two pixels, brighter or darker than anything in the tile."""
    size = x.shape[0]
    angle, width = rng.uniform(0, np.pi), rng.uniform(0.6, 1.2)
    y0, x0 = rng.uniform(0.3, 0.7, 2) * size
    rows, columns = np.mgrid[:size, : x.shape[1]]
    along = (columns - x0) * np.cos(angle) + (rows - y0) * np.sin(angle)
    across = -(columns - x0) * np.sin(angle) + (rows - y0) * np.cos(angle)
    mask = (abs(across) <= width) & (abs(along) <= rng.uniform(0.25, 0.5) * size)
    return mask, np.full_like(x, _extreme(x, rng))


def _spot(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright or dark disc."""
    return _disc(x, rng, 0.08, 0.16), np.full_like(x, _extreme(x, rng))


def _blur(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A disc without detail."""
    return _disc(x, rng, 0.15, 0.3), gaussian_filter(x, 0.08 * x.shape[0])


def _disorder(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A disc whose pixels changed places."""
    mask = _disc(x, rng, 0.15, 0.3)
    inside = x.copy()
    inside[mask] = rng.permutation(x[mask])
    return mask, inside


def _negative(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A disc with bright and dark exchanged."""
    return _disc(x, rng, 0.15, 0.3), x.max() + x.min() - x


def _disc(x: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    size = x.shape[0]
    radius = rng.uniform(low, high) * size
    centre = rng.uniform(0.25, 0.75, 2) * size
    rows, columns = np.mgrid[:size, : x.shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def _extreme(x: np.ndarray, rng: np.random.Generator) -> float:
    return float(np.clip(x.max() + 40, 0, 255) if rng.random() < 0.5 else np.clip(x.min() - 40, 0, 255))


Kind = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
KINDS: tuple[Kind, ...] = (_scratch, _spot, _blur, _disorder, _negative)
KIND_NAMES = ("scratch", "spot", "blur", "disorder", "negative")
