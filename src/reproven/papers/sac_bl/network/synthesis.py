"""Synthetic anomalies for training: foreign texture inside Perlin masks, after the recipe of DRAEM (dossier 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torchvision.transforms.v2 import functional as transforms

from reproven.papers.sac_bl.network.perlin import perlin_masks, rotate


class Mixed(NamedTuple):
    """A training batch: what the network sees, what it should reconstruct, and where they differ.

    image, clean: in [0, 1], shape (n, c, size, size). mask: 0 or 1, shape (n, 1, size, size).
    """

    image: torch.Tensor
    clean: torch.Tensor
    mask: torch.Tensor


def synthesise(
    clean: torch.Tensor,
    sources: torch.Tensor,
    *,
    generator: torch.Generator,
    exponents: int = 6,
    anomalous: float = 0.5,
    turned: float = 0.3,
    augmentations: int = 3,
    opacity: float = 0.8,
) -> Mixed:
    """Turn normal images into a mixed batch: x (1 - M) + M ((1 - b) A + b x), b ~ U(0, opacity).

    Args:
        clean: normal images, float in [0, 1], shape (n, c, size, size).
        sources: textures to draw A from, uint8, shape (m, c, size, size), m >= 1.
        generator: a CPU generator.
        exponents: grid sizes of the Perlin noise (`perlin_masks`).
        anomalous: probability that an image gets an anomaly.
        turned: probability that the normal image is turned first, by up to 90 degrees. Corners are filled by
            reflection, where DRAEM leaves them black: on a texture, black corners would be anomalies.
        augmentations: how many of the ten changes of `AUGMENTATIONS` each texture gets.
        opacity: the most that shines through, in [0, 1].
    """
    n, channels, size, _ = clean.shape
    if sources.dtype != torch.uint8 or sources.shape[1:] != clean.shape[1:] or len(sources) == 0:
        raise ValueError(
            f"sources must be uint8 textures of shape (m, {channels}, {size}, {size}), not {sources.dtype} "
            f"{tuple(sources.shape)}"
        )
    device = clean.device
    turn = math.pi * (torch.rand(n, generator=generator) - 0.5)
    turn = turn * (torch.rand(n, generator=generator) < turned)
    clean = rotate(clean, turn.to(device), padding="reflection")
    mask = perlin_masks(n, size, generator=generator, exponents=exponents)
    mask = mask * (torch.rand(n, generator=generator) < anomalous)[:, None, None, None]
    b = opacity * torch.rand(n, 1, 1, 1, generator=generator)
    chosen = sources[torch.randint(len(sources), (n,), generator=generator)]
    texture = torch.stack([augmented(one, augmentations, generator) for one in chosen]).float() / 255
    mask, b, texture = mask.to(device), b.to(device), texture.to(device)
    image = clean * (1 - mask) + mask * ((1 - b) * texture + b * clean)
    return Mixed(image, clean, mask)


def augmented(texture: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Apply `count` different changes, in random order and strength. texture: uint8, shape (c, h, w)."""
    order = torch.randperm(len(AUGMENTATIONS), generator=generator)[:count].tolist()
    for index, strength in zip(order, torch.rand(count, generator=generator).tolist()):
        texture = AUGMENTATIONS[index](texture, strength)
    return texture


def _brightness(x: torch.Tensor, u: float) -> torch.Tensor:
    return transforms.adjust_brightness(x, 0.7 + 0.6 * u)


def _hue_and_saturation(x: torch.Tensor, u: float) -> torch.Tensor:
    if len(x) != 3:
        return x  # grey
    return transforms.adjust_saturation(transforms.adjust_hue(x, 0.4 * (u - 0.5)), 0.5 + u)


def _turn(x: torch.Tensor, u: float) -> torch.Tensor:
    return transforms.rotate(x, 90 * (u - 0.5))


# The kinds that DRAEM's code lists; the strengths are ours. u is uniform on (0, 1).
AUGMENTATIONS: tuple[Callable[[torch.Tensor, float], torch.Tensor], ...] = (
    lambda x, u: transforms.adjust_gamma(x, 0.5 + 1.5 * u),
    _brightness,
    lambda x, u: transforms.adjust_sharpness(x, 0.5 + 2 * u),
    _hue_and_saturation,
    lambda x, u: transforms.solarize(x, 32 + 96 * u),
    lambda x, u: transforms.posterize(x, 3 + round(3 * u)),
    lambda x, u: transforms.invert(x),
    lambda x, u: transforms.autocontrast(x),
    lambda x, u: transforms.equalize(x),
    _turn,
)
