"""How far the pooled output moves when the input does: E_epsilon, its gamma, and versions without a scale (3.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reproven.harness.intervals import proportion_interval

Outputs = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exceedance:
    """Share of neighbours that move the output by more than sigma, with Wilson's interval."""

    share: float
    low: float
    high: float
    n: int


def neighbours(x: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """Return ``X + epsilon G / |G|_F``, G Gaussian, for inputs (batch, ...): on the sphere of radius epsilon.

    The paper says "Gaussian noise scaled to epsilon" and not in which norm: Frobenius' here.
    """
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    length = noise.flatten(1).norm(dim=1).view(-1, *([1] * (x.ndim - 1)))
    return x + epsilon * noise / length


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Return ``|a_i - b_i|_2`` of pooled vectors (batch, d')."""
    return (a - b).norm(dim=-1)


def exceedance(moved: Tensor | np.ndarray, sigma: float, confidence: float = 0.99) -> Exceedance:
    """Return E_epsilon = P(distance > sigma) estimated from distances (n,), with Wilson's interval."""
    moved = np.asarray(moved, dtype=float)
    if moved.size == 0 or not sigma > 0:
        raise ValueError(f"E_epsilon needs distances and a positive sigma, not {moved.size} and {sigma}")
    hits = int((moved > sigma).sum())
    low, high = proportion_interval(hits, moved.size, confidence)
    return Exceedance(hits / moved.size, low, high, int(moved.size))


def spread(outputs: Tensor) -> float:
    """Return the mean distance between different outputs (batch, d'): the scale that the free version divides by."""
    gaps = torch.pdist(outputs.double())
    return float(gaps.mean())


def auc(similar: np.ndarray, different: np.ndarray) -> float:
    """Return P(distance of a different pair > that of a similar pair), ties half: 1 separates, 1/2 is chance."""
    similar, different = np.asarray(similar, dtype=float), np.asarray(different, dtype=float)
    if not similar.size or not different.size:
        raise ValueError("the AUC needs at least one similar and one different pair")
    ordered = np.sort(similar)
    below = np.searchsorted(ordered, different, side="left")
    upto = np.searchsorted(ordered, different, side="right")
    return float((below + upto).mean() / 2 / similar.size)
