"""Perlin noise for whole batches, every image with a grid of its own, and the blob masks made of it."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def perlin_noise(angles: torch.Tensor, cells: torch.Tensor, size: int) -> torch.Tensor:
    """Gradient noise: fade-weighted sum of the four corner gradients' dot products, times sqrt(2).

    f(t) = 6 t^5 - 15 t^4 + 10 t^3 weighs the corners; pixel i of an axis with c cells stands at i c / size.

    Args:
        angles: directions of the unit gradients at the grid's corners, shape (n, g + 1, g + 1).
        cells: number of grid cells (vertical, horizontal) of each image, integers in [1, g], shape (n, 2).
        size: height and width in pixels.

    Returns: noise, shape (n, size, size); about in [-1, 1], 0 at the corners.
    Source: Perlin 2002; the recipe of DRAEM (dossier 3.1).
    """
    if cells.min() < 1 or cells.max() >= angles.shape[-1]:
        raise ValueError(
            f"cells between {int(cells.min())} and {int(cells.max())}: {angles.shape[-1]} corners an axis allow "
            f"1 to {angles.shape[-1] - 1}"
        )
    steps = torch.arange(size, dtype=angles.dtype, device=angles.device) / size
    y, x = (steps * cells[:, axis, None].to(angles.dtype) for axis in (0, 1))  # (n, size)
    top, left = y.floor().long(), x.floor().long()
    fy, fx = (y - top)[:, :, None], (x - left)[:, None, :]
    image = torch.arange(len(angles), device=angles.device)[:, None, None]
    sine, cosine = angles.sin(), angles.cos()

    def corner(dy: int, dx: int) -> torch.Tensor:
        at = (image, top[:, :, None] + dy, left[:, None, :] + dx)
        return sine[at] * (fy - dy) + cosine[at] * (fx - dx)

    wy, wx = _fade(fy), _fade(fx)
    upper = torch.lerp(corner(0, 0), corner(0, 1), wx)
    lower = torch.lerp(corner(1, 0), corner(1, 1), wx)
    return math.sqrt(2) * torch.lerp(upper, lower, wy)


def _fade(t: torch.Tensor) -> torch.Tensor:
    return t**3 * (t * (6 * t - 15) + 10)


def perlin_masks(
    n: int, size: int, *, generator: torch.Generator, exponents: int = 6, threshold: float = 0.5
) -> torch.Tensor:
    """Blob masks: noise with 2^U{0..exponents-1} cells an axis, turned by up to 90 degrees, above `threshold`.

    Args:
        n, size: number of masks, pixels a side.
        generator: a CPU generator.
        exponents: number of grid sizes, at least 1; 6 for DRAEM's 256 pixels, where the finest cell has 8 pixels.
        threshold: noise above it is inside.

    Returns: float32 in {0, 1}, shape (n, 1, size, size); some masks are empty.
    """
    if exponents < 1 or 2 ** (exponents - 1) > size:
        raise ValueError(f"exponents={exponents} asks for cells below a pixel at size={size}, or for none")
    cells = 2 ** torch.randint(exponents, (n, 2), generator=generator)
    corners = 2 ** (exponents - 1) + 1
    angles = 2 * math.pi * torch.rand(n, corners, corners, generator=generator)
    noise = perlin_noise(angles, cells, size)[:, None]
    turn = math.pi * (torch.rand(n, generator=generator) - 0.5)
    return (rotate(noise, turn) > threshold).float()


def rotate(images: torch.Tensor, turn: torch.Tensor, *, padding: str = "zeros") -> torch.Tensor:
    """Images (n, c, h, w) turned by `turn` (n,) radians about their centre (bilinear); `padding` as grid_sample."""
    cosine, sine = turn.cos(), turn.sin()
    zero = torch.zeros_like(turn)
    matrix = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = functional.affine_grid(matrix.to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode=padding, align_corners=False)
