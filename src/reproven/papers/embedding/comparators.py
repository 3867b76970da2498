"""Other ways to widen a network: what the splitting map is compared with, and maps broken on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from reproven.papers.embedding.splitting import Embedding, random_coefficients, widen
from reproven.papers.embedding.structure import find_path, module_named, units_of

Widened = tuple[nn.Module, Embedding]


def scaled_split(
    model: nn.Module,
    layer: str,
    unit: int,
    incoming: Sequence[float],
    outgoing: Sequence[float],
    homogeneous: bool = True,
) -> Widened:
    """Split `unit` with separate scales ``c = incoming``, ``d = outgoing``; nothing is checked of them.

    Only ``c = d >= 0``, ``sum c_i^2 = 1`` preserves output and gradients (reconstructed: Cauchy-Schwarz).
    homogeneous: False lets activations pass that are not 1-homogeneous (negative controls only).
    """
    path = find_path(model, layer, homogeneous=homogeneous)
    width = units_of(module_named(model, layer))
    if not 0 <= unit < width:
        raise ValueError(f"unit {unit} is out of range: layer {layer!r} has units 0 to {width - 1}")
    index = [*range(unit), *[unit] * len(incoming), *range(unit + 1, width)]
    left, right = [1.0] * unit, [1.0] * (width - unit - 1)
    return widen(model, path, index, [*left, *incoming, *right], [*left, *outgoing, *right])


def uniform_split(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None,
) -> Widened:  # fmt: skip
    """Split with ``c_i = 1/sqrt(copies)``, the paper's experiments (Section 5)."""
    c = [copies**-0.5] * copies
    return scaled_split(model, layer, unit, c, c, homogeneous)


def random_split(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None,
) -> Widened:  # fmt: skip
    """Split with c drawn on the positive unit sphere, so that copies round differently."""
    c = random_coefficients(copies, _needed(generator))
    return scaled_split(model, layer, unit, c, c, homogeneous)


def net2net(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None,
) -> Widened:  # fmt: skip
    """Net2WiderNet (Chen, Goodfellow, Shlens 2016): copy ingoing weights, divide outgoing by the count."""
    return scaled_split(model, layer, unit, [1.0] * copies, [1 / copies] * copies, homogeneous)


def splitting_2021(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None, alpha: float = 0.3,
) -> Widened:  # fmt: skip
    """One-step splitting embedding (Zhang et al. 2021): ``c = 1``, ``d = (alpha, 1 - alpha)``, then again."""
    shares = [alpha * (1 - alpha) ** i for i in range(copies - 1)]
    return scaled_split(model, layer, unit, [1.0] * copies, [*shares, 1 - sum(shares)], homogeneous)


def null_unit(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None, incoming: float = 1.0,
) -> Widened:  # fmt: skip
    """Null embedding (Zhang et al. 2021): new units read ``incoming`` times its weights, feed nothing."""
    extra = copies - 1
    return scaled_split(model, layer, unit, [1.0] + [incoming] * extra, [1.0] + [0.0] * extra, homogeneous)


def compatible_embedding(
    model: nn.Module, layer: str, assignment: Sequence[int], shares: Sequence[float]
) -> Widened:
    """General compatible embedding of one layer (Zhang et al. 2022, formula from general knowledge).

    Wide unit i copies the ingoing weights of narrow unit ``assignment[i]`` and takes ``shares[i]`` of its
    outgoing ones; the shares of each narrow unit sum to one and may have any sign.
    """
    width = units_of(module_named(model, layer))
    if len(assignment) != len(shares) or set(assignment) != set(range(width)):
        raise ValueError(
            f"the assignment must name each of the {width} units at least once, with one share each"
        )
    total = [0.0] * width
    for j, share in zip(assignment, shares, strict=True):
        total[j] += share
    if max(abs(t - 1) for t in total) > 1e-12:
        raise ValueError(f"shares of the units sum to {[round(t, 6) for t in total]}, each must sum to 1")
    path = find_path(model, layer)
    return widen(model, path, assignment, [1.0] * len(shares), shares)


def compatible_split(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None,
) -> Widened:  # fmt: skip
    """General compatible embedding of one unit: ``c = 1``, shares of any sign that sum to one, drawn normal."""
    drawn = torch.randn(copies, generator=_needed(generator), dtype=torch.float64)
    shares = (drawn + (1 - drawn.sum()) / copies).tolist()
    return scaled_split(model, layer, unit, [1.0] * copies, shares, homogeneous)


def independent_wide(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None,
) -> Widened:  # fmt: skip
    """Control: a wide network of its own random start (weights like the narrow ones, layer by layer)."""
    wide, embedding = random_split(model, layer, unit, copies, homogeneous, generator)
    for parameter in wide.parameters():
        with torch.no_grad():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise.to(parameter) * parameter.square().mean().sqrt())
    return wide, embedding


def sum_to_one(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None,
) -> Widened:  # fmt: skip
    """Broken twin: ``sum c_i = 1`` instead of ``sum c_i^2 = 1`` (the classic mistake)."""
    c = [1 / copies] * copies
    return scaled_split(model, layer, unit, c, c, homogeneous)


def signed_split(
    model: nn.Module, layer: str, unit: int, copies: int = 2, homogeneous: bool = True,
    generator: torch.Generator | None = None,
) -> Widened:  # fmt: skip
    """Broken twin: squares sum to one, but the first coefficient is negative."""
    c = random_coefficients(copies, _needed(generator))
    return scaled_split(model, layer, unit, [-c[0], *c[1:]], [-c[0], *c[1:]], homogeneous)


def _needed(generator: torch.Generator | None) -> torch.Generator:
    if generator is None:
        raise ValueError("random coefficients need a torch.Generator")
    return generator
