"""Shared by the experiments: the same graphs, features and weights for every method, and logits in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reproven.harness.context import Context
from reproven.papers.zero_one.adjacency import SMALL, Graphs
from reproven.papers.zero_one.curves import guarded_logits
from reproven.papers.zero_one.families import batches, sample_graphs
from reproven.papers.zero_one.features import feature_law
from reproven.papers.zero_one.products import fastest_precision

STATE_ENTRIES = 2**25  # node states held at a time: 128 MB in float32


@dataclass(frozen=True)
class Sample:
    """A batch of graphs, their numbers, and how to draw features for them."""

    ctx: Context
    family: str
    n: int
    numbers: range
    graphs: Graphs

    def features(self, law: str, width: int) -> Tensor:
        """Draw features (graphs, width, nodes); they depend on law, family, n and number alone."""
        drawn = [
            feature_law(law).sample(
                width,
                self.graphs.n,
                self.ctx.generator("features", family=self.family, law=law, n=self.n, graph=g),
            )
            for g in self.numbers
        ]
        return torch.stack(drawn).to(self.ctx.device, getattr(torch, self.ctx.dtype))


def samples(
    ctx: Context, family: str, n: int, graphs: int, columns: int, *, fast: bool = True
) -> Iterator[Sample]:
    """Yield `graphs` graphs in batches; graph g depends on (seed, family, n, g) alone.

    Args:
        columns: features of all models together, for the size of a batch.
        fast: let the processor choose the number format of products with large graphs.
    """
    choose = fast and ctx.dtype == "float32" and n > SMALL
    precision = fastest_precision(ctx.device) if choose else "float32"
    for numbers in batches(graphs, n, columns):
        keys = [ctx.derive("graphs", family=family, n=n, graph=g) for g in numbers]
        sampled = sample_graphs(
            family, n, keys, dtype=getattr(torch, ctx.dtype), device=ctx.device, precision=precision
        )
        yield Sample(ctx, family, n, numbers, sampled)


def draw(ctx: Context, network: Any, depth: int, models: int, layers: int | None = None) -> Any:
    """Draw weights with `layers` layers (`depth` when None).

    Streams follow (depth, model) alone: architectures share them, and two depths never do.
    """
    generators = [ctx.torch_generator("weights", depth=depth, model=k) for k in range(models)]
    weights = network.draw(layers or depth, generators)
    moved = ctx.device != "cpu" or ctx.dtype != "float32"
    return weights.to(ctx.device, getattr(torch, ctx.dtype)) if moved else weights


def all_logits(network: Any, weights: Any, models: int, sample: Sample, x: Tensor) -> Tensor:
    """Return the logits (graphs, models) of the full pass, a few models at a time where states are large."""
    at_once = max(1, STATE_ENTRIES // (x.shape[0] * x.shape[1] * x.shape[2]))
    if at_once >= models or not hasattr(network, "select"):
        return guarded_logits(network, weights, sample.graphs, x)
    parts = [list(range(first, min(first + at_once, models))) for first in range(0, models, at_once)]
    return torch.cat(
        [guarded_logits(network, network.select(weights, p), sample.graphs, x) for p in parts], dim=1
    )
