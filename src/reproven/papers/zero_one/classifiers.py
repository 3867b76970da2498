"""What every graph classifier of the paper shares: activations, the head, weights of many models at once.

A *method* of this paper's experiments is any object that offers

    width                                   feature dimension, an int
    draw(depth, generators) -> weights      random weights of ``len(generators)`` models with `depth` layers
    logits(weights, graphs, features)       (graphs, models) float64; class 1 where positive

with ``graphs`` a batch from `adjacency` and ``features (graphs, width, n)``, one column a node. It may also offer

    limit_logits(weights, mean)             (..., models): the logits in the limit, for feature means (..., width)
    linear_logits(weights, graphs, features)    a faster equal of `logits` and a mask of where it is certified
    select(weights, models)                 weights of some of the models
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor

from reproven.papers.zero_one.adjacency import Graphs

HEAD_WIDTH = 100

ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "clip": lambda x, bound: x.clamp_(-bound, bound),
    "relu": lambda x, bound: x.relu_(),
    "tanh": lambda x, bound: x.tanh_(),
    "sigmoid": lambda x, bound: x.sigmoid_(),
    "sine": lambda x, bound: x.sin_(),
}
# (value at minus infinity, value at plus infinity), in units of the bound where that applies
SATURATED: dict[str, tuple[float, float]] = {"clip": (-1.0, 1.0), "tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


@dataclass(frozen=True)
class Head:
    """The classifier after pooling: ``tanh(w2 tanh(W1 x + b1) + b2)``, class 1 where positive.

    Shapes: w1 (models, d, 100), b1 (models, 100), w2 (models, 100), b2 (models,); float64, because a decision is
    the sign of a number that may be small.
    """

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    @classmethod
    def draw(cls, width: int, generators: Sequence[Generator]) -> Head:
        """Draw with the default initialisation of linear layers, ``U(+-1/sqrt(fan_in))``."""
        parts = []
        for g in generators:
            a, b = width**-0.5, HEAD_WIDTH**-0.5
            sizes = ((width, HEAD_WIDTH, a), (1, HEAD_WIDTH, a), (1, HEAD_WIDTH, b), (1, 1, b))
            parts.append([_uniform(rows, columns, limit, g).double() for rows, columns, limit in sizes])
        w1, b1, w2, b2 = (torch.stack(part) for part in zip(*parts, strict=True))
        return cls(w1, b1[:, 0], w2[:, 0], b2[:, 0, 0])

    def logits(self, pooled: Tensor) -> Tensor:
        """Return the argument of the last tanh, (..., models), for pooled states (..., models, d)."""
        hidden = torch.einsum("...md,mdk->...mk", pooled.double(), self.w1) + self.b1
        return (hidden.tanh() * self.w2).sum(-1) + self.b2

    def logits_at_infinity(self, direction: Tensor) -> Tensor:
        """Return the limit of ``logits(c direction)`` as c tends to infinity."""
        hidden = torch.einsum("...md,mdk->...mk", direction.double(), self.w1)
        return (hidden.sign() * self.w2).sum(-1) + self.b2

    def select(self, models: list[int]) -> Head:
        return Head(self.w1[models], self.b1[models], self.w2[models], self.b2[models])


@dataclass(frozen=True)
class Weights:
    """Weights of several models of one architecture and depth.

    layers: one dict a layer, name -> (models, ...).
    """

    layers: tuple[dict[str, Tensor], ...]
    head: Head

    def select(self, models: list[int]) -> Weights:
        return Weights(
            tuple({name: w[models] for name, w in layer.items()} for layer in self.layers),
            self.head.select(models),
        )

    @cached_property
    def paths(self) -> list[Tensor]:
        """Products ``W_1 ... W_t`` of a network with one matrix a layer, for each t as (d, models d) float64."""
        products = [self.layers[0]["neighbour"].double()]
        for layer in self.layers[1:]:
            products.append(products[-1] @ layer["neighbour"].double())
        return [p.movedim(1, 0).reshape(p.shape[1], -1) for p in products]

    def to(self, device: str, dtype: torch.dtype) -> Weights:
        """Move the layers (the head stays in float64) and the head's device."""
        head = Head(*(t.to(device) for t in (self.head.w1, self.head.b1, self.head.w2, self.head.b2)))
        return Weights(
            tuple({k: w.to(device, dtype) for k, w in layer.items()} for layer in self.layers), head
        )


class Network:
    """Layers, mean pooling, head. Sub-classes say what a layer computes and which weights it has.

    Args:
        width: feature and hidden dimension d, >= 1.
        activation: a key of `ACTIVATIONS`.
        bound: where ``"clip"`` cuts, > 0; other activations ignore it.
        bias: add a bias ``U(-1, 1)`` in each layer (the theorems allow it, the released code has none).
    """

    matrices: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, width: int = 128, activation: str = "clip", bound: float = 10_000.0, bias: bool = False
    ) -> None:
        if width < 1:
            raise ValueError(f"width={width} must be at least 1")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
        if not bound > 0:
            raise ValueError(f"bound={bound} must be positive")
        self.width, self.activation, self.bound, self.bias = width, activation, bound, bias

    def draw(self, depth: int, generators: Sequence[Generator]) -> Weights:
        """Draw ``len(generators)`` models: matrices ``U(-1, 1)``, head by default initialisation. [released code]"""
        if depth < 1:
            raise ValueError(f"depth={depth} must be at least 1")
        # The head comes first, so that architectures with as many matrices share their weights.
        head = Head.draw(self.width, generators)
        layers = []
        for _ in range(depth):
            draws = [self.draw_layer(g) for g in generators]
            layers.append({name: torch.stack([d[name] for d in draws]) for name in draws[0]})
        return Weights(tuple(layers), head)

    def draw_layer(self, generator: Generator) -> dict[str, Tensor]:
        layer = {name: _uniform(self.width, self.width, 1.0, generator) for name in self.matrices}
        if self.bias:
            layer["bias"] = _uniform(1, self.width, 1.0, generator)[0]
        return layer

    def layer(self, weights: dict[str, Tensor], graphs: Graphs, h: Tensor) -> Tensor:
        """Return pre-activations (graphs, models, d, n) for states (graphs, models or 1, d, n)."""
        raise NotImplementedError

    def limit_layer(self, weights: dict[str, Tensor], z: Tensor) -> Tensor:
        """Return the pre-activation (..., models, d) that all nodes share in the limit, for states z."""
        raise NotImplementedError

    def states(self, weights: Weights, graphs: Graphs, features: Tensor) -> Iterator[Tensor]:
        """Yield the node states after each layer, (graphs, models, d, n)."""
        h = features[:, None]
        for layer in weights.layers:
            h = self._activate(layer, self.layer(layer, graphs, h), dim=-2)
            yield h

    def pooled(self, weights: Weights, graphs: Graphs, features: Tensor) -> Tensor:
        """Return the mean over nodes of the last states, (graphs, models, d) float64."""
        with torch.no_grad():
            for h in self.states(weights, graphs, features):
                last = h
            return last.mean(-1, dtype=torch.float64)

    def logits(self, weights: Weights, graphs: Graphs, features: Tensor) -> Tensor:
        """Return (graphs, models) float64; class 1 where positive."""
        return weights.head.logits(self.pooled(weights, graphs, features))

    def limit_states(self, weights: Weights, mean: Tensor) -> Iterator[Tensor]:
        """Yield ``z_t`` after each layer, (..., models, d) float64, from feature means (..., d)."""
        z = mean.double()[..., None, :].expand(*mean.shape[:-1], len(weights.head.b2), self.width)
        for layer in weights.layers:
            z = self._activate(layer, self.limit_layer(layer, z), dim=-1)
            yield z

    def limit_logits(self, weights: Weights, mean: Tensor) -> Tensor:
        """Return the logits of the limit state ``z_T``, (..., models) float64.

        With a sample mean in place of the law's mean this is the graph-free surrogate.
        """
        for z in self.limit_states(weights, mean):
            last = z
        return weights.head.logits(last)

    def select(self, weights: Weights, models: list[int]) -> Weights:
        return weights.select(models)

    def _activate(self, layer: dict[str, Tensor], pre: Tensor, dim: int) -> Tensor:
        if "bias" in layer:
            pre = pre + (layer["bias"][..., None] if dim == -2 else layer["bias"].double())
        return ACTIVATIONS[self.activation](pre, self.bound)


def transform(w: Tensor, h: Tensor) -> Tensor:
    """Return ``x W`` for node columns: (models, d, e) and (graphs, models or 1, d, n) -> (graphs, models, e, n)."""
    models, d, e = w.shape
    if h.shape[1] == 1:  # shared input: one product for all models
        flat = w.mT.reshape(models * e, d) @ h[:, 0]
        return flat.view(len(h), models, e, h.shape[-1])
    return torch.matmul(w.mT, h)


def limit_transform(w: Tensor, z: Tensor) -> Tensor:
    """Return ``z W`` for (models, d, e) and (..., models, d) in float64."""
    return torch.einsum("...md,mde->...me", z, w.double())


def _uniform(rows: int, columns: int, limit: float, generator: Generator) -> Tensor:
    return (torch.rand(rows, columns, generator=generator) * 2 - 1).mul_(limit)
