"""The SAC network's noise, losses and hard pairs, pixel by pixel in float64: slow, for comparison only."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Image = np.ndarray  # (channels, height, width)
Net = Callable[[Image], np.ndarray]


def perlin_noise_reference(angles: np.ndarray, cells: tuple[int, int], size: int) -> np.ndarray:
    """Perlin noise of one image; angles (g + 1, g + 1), cells (vertical, horizontal)."""
    noise = np.empty((size, size))
    fade = lambda t: 6 * t**5 - 15 * t**4 + 10 * t**3  # noqa: E731
    for i in range(size):
        for j in range(size):
            y, x = i * cells[0] / size, j * cells[1] / size
            top, left = math.floor(y), math.floor(x)
            dots = {}
            for dy in (0, 1):
                for dx in (0, 1):
                    angle = angles[top + dy, left + dx]
                    dots[dy, dx] = math.sin(angle) * (y - top - dy) + math.cos(angle) * (x - left - dx)
            wy, wx = fade(y - top), fade(x - left)
            upper = dots[0, 0] * (1 - wx) + dots[0, 1] * wx
            lower = dots[1, 0] * (1 - wx) + dots[1, 1] * wx
            noise[i, j] = math.sqrt(2) * (upper * (1 - wy) + lower * wy)
    return noise


def ssim_reference(a: np.ndarray, b: np.ndarray, window: int = 11, sigma: float = 1.5) -> np.ndarray:
    """Structural similarity of two grey images (h, w), zeros beyond the edge."""
    half = window // 2
    offsets = np.arange(window) - half
    line = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel = np.outer(line, line) / np.sum(line) ** 2
    height, width = a.shape
    c1, c2 = 0.01**2, 0.03**2
    result = np.empty((height, width))
    padded = [np.pad(x, half) for x in (a, b)]
    for i in range(height):
        for j in range(width):
            pa, pb = (x[i : i + window, j : j + window] for x in padded)
            ma, mb = np.sum(kernel * pa), np.sum(kernel * pb)
            va, vb = np.sum(kernel * pa**2) - ma**2, np.sum(kernel * pb**2) - mb**2
            vab = np.sum(kernel * pa * pb) - ma * mb
            result[i, j] = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return result


def focal_reference(logits: np.ndarray, mask: np.ndarray, gamma: float = 2.0) -> float:
    """Focal loss of one image; logits (2, h, w), mask (1, h, w)."""
    total = 0.0
    for i in range(mask.shape[1]):
        for j in range(mask.shape[2]):
            odds = np.exp(logits[:, i, j] - logits[:, i, j].max())
            p = odds / odds.sum()
            true = p[1] if mask[0, i, j] > 0.5 else p[0]
            total -= (1 - true) ** gamma * math.log(true)
    return total / (mask.shape[1] * mask.shape[2])


def sac_loss_reference(
    reconstruct: Net,
    discriminate: Net,
    clean: np.ndarray,
    image: np.ndarray,
    mask: np.ndarray,
    share: np.ndarray | None,
    weight: float = 1.0,
) -> float:
    """The SAC loss image by image; share: l of each image, None without hard pairs.

    reconstruct: (c, h, w) -> (c, h, w). discriminate: (2 c, h, w) -> logits (2, h, w).
    """
    terms = []
    for n in range(len(clean)):
        x, x_a, m = clean[n], image[n], mask[n]
        r = reconstruct(x_a)
        loss = np.mean((r - x) ** 2)
        loss += 1 - np.mean([ssim_reference(p, q) for p, q in zip(r, x)])
        loss += focal_reference(discriminate(np.concatenate([r, x_a])), m)
        if share is not None:
            x_w = x * (1 - m) + m * (share[n] * r + (1 - share[n]) * x_a)
            positive = focal_reference(discriminate(np.concatenate([reconstruct(x_w), x_w])), m)
            negative = focal_reference(discriminate(np.concatenate([reconstruct(x), x])), np.zeros_like(m))
            loss += weight * (positive + negative) / 2
        terms.append(loss)
    return float(np.mean(terms))
