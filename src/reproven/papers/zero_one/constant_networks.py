"""The networks of the follow-up study of asymptotically constant outputs: class probabilities, library weights.

Three layers, relu between them and none after the last, mean pooling, softmax over five classes. Weights are the
libraries' default initialisation. Layers: mean of neighbours beside the own state, GCN, GAT, and GPS (a graph
transformer), with or without random-walk positional encoding.

A *method* of the follow-up experiments offers

    width                                      feature dimension
    draw(generators) -> weights                ``len(generators)`` models
    probabilities(weights, graphs, features)   (graphs, models, classes) float64

Source: Adam-Day, Benedikt, Ceylan, Finkelshtein (2024), official code (MIT).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import scaled_dot_product_attention

from reproven.papers.zero_one.adjacency import Graphs
from reproven.papers.zero_one.attention import draw_attention, graph_attention, random_walk_encoding
from reproven.papers.zero_one.classifiers import transform
from reproven.papers.zero_one.models import GCN

Layer = dict[str, Tensor]
_gcn_average = GCN().aggregate


def neighbour_mean(graphs: Graphs, h: Tensor) -> Tensor:
    """Return the mean over neighbours, without the node itself; zero for an isolated node."""
    return graphs.multiply(h) / graphs.degree.clamp_min(1)[:, None, None]


class ConstantNetwork:
    """Stacked layers, mean pooling, softmax.

    Args:
        width: feature and hidden dimension. classes: outputs. depth: layers, >= 1.
    """

    def __init__(self, width: int = 128, classes: int = 5, depth: int = 3) -> None:
        for name, value in (("width", width), ("classes", classes), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self.width, self.classes, self.depth = width, classes, depth

    def draw(self, generators: Sequence[Generator]) -> tuple[Layer, ...]:
        """Draw one model a generator; every tensor gets a leading axis of models."""
        models = [self.draw_model(g) for g in generators]
        return tuple(
            {k: torch.stack([m[i][k] for m in models]) for k in models[0][i]} for i in range(len(models[0]))
        )

    def draw_model(self, generator: Generator) -> list[Layer]:
        widths = [self.width] * self.depth + [self.classes]
        return [self.draw_layer(a, b, generator) for a, b in itertools.pairwise(widths)]

    def draw_layer(self, rows: int, columns: int, generator: Generator) -> Layer:
        raise NotImplementedError

    def layer(self, weights: Layer, graphs: Graphs, h: Tensor) -> Tensor:
        """Return (graphs, models, d', n) for (graphs, models or 1, d, n)."""
        raise NotImplementedError

    def pooled(self, weights: tuple[Layer, ...], graphs: Graphs, features: Tensor) -> Tensor:
        """Return the mean over nodes of the last layer, (graphs, models, classes)."""
        h = features[:, None]
        for i, layer in enumerate(weights):
            h = self.layer(layer, graphs, h)
            if i < len(weights) - 1:
                h = h.relu_()
        return h.mean(-1, dtype=torch.float64)

    def probabilities(self, weights: tuple[Layer, ...], graphs: Graphs, features: Tensor) -> Tensor:
        """Return class probabilities of each graph under each model, (graphs, models, classes) float64."""
        with torch.no_grad():
            return self.pooled(weights, graphs, features).softmax(-1)


class ConstantMean(ConstantNetwork):
    """``x_v' = [x_v, mean_{u in N(v)} x_u] W + b`` (MeanGNN of the follow-up: no self-loop in the mean)."""

    def draw_layer(self, rows: int, columns: int, generator: Generator) -> Layer:
        return draw_linear(2 * rows, columns, generator)

    def layer(self, weights: Layer, graphs: Graphs, h: Tensor) -> Tensor:
        own, other = weights["w"].chunk(2, dim=1)
        out = transform(own, h).add_(transform(other, neighbour_mean(graphs, h)))
        return out.add_(weights["b"][..., None])


class ConstantGCN(ConstantNetwork):
    """``x_v' = sum_{u in N+(v)} x_u W / sqrt((d_u+1)(d_v+1))``, Glorot weights, zero bias."""

    def draw_layer(self, rows: int, columns: int, generator: Generator) -> Layer:
        limit = (6 / (rows + columns)) ** 0.5
        return {"w": (torch.rand(rows, columns, generator=generator) * 2 - 1) * limit}

    def layer(self, weights: Layer, graphs: Graphs, h: Tensor) -> Tensor:
        return transform(weights["w"], _gcn_average(graphs, h))


class ConstantGAT(ConstantNetwork):
    """Graph attention with one head, Glorot weights, zero bias."""

    def draw_layer(self, rows: int, columns: int, generator: Generator) -> Layer:
        return draw_attention(rows, columns, generator)

    def layer(self, weights: Layer, graphs: Graphs, h: Tensor) -> Tensor:
        return graph_attention(graphs, transform(weights["value"], h), weights["source"], weights["target"])


class GPS(ConstantNetwork):
    """Graph transformer: local mean aggregation plus softmax attention over all nodes, residual, perceptron.

        a = x + [x, mean_N x] W + b
        c = x + softmax(Q K' / sqrt(d)) V W_o
        x' = (a + c) + relu((a + c) W_1 + b_1) W_2 + b_2

    between a linear encoder and a linear decoder, one attention head, no normalisation.

    Args:
        width, classes, depth: see `ConstantNetwork`.
        walk: length of the random-walk positional encoding that is appended to the features; 0 for none. The
            official default is 0; the length behind the figures is not stated.
    Source: Rampasek et al. (2022); follow-up code.
    """

    def __init__(self, width: int = 128, classes: int = 5, depth: int = 3, walk: int = 0) -> None:
        super().__init__(width, classes, depth)
        if walk < 0:
            raise ValueError(f"walk={walk} must be 0 (no positional encoding) or more")
        self.walk = walk

    def draw_model(self, generator: Generator) -> list[Layer]:
        encoder = draw_linear(self.width + self.walk, self.width, generator)
        layers = [self.draw_layer(self.width, self.width, generator) for _ in range(self.depth)]
        return [encoder, *layers, draw_linear(self.width, self.classes, generator)]

    def draw_layer(self, rows: int, columns: int, generator: Generator) -> Layer:
        parts = {
            "local": draw_linear(2 * rows, rows, generator),
            "out": draw_linear(rows, rows, generator),
            "up": draw_linear(rows, 2 * rows, generator),
            "down": draw_linear(2 * rows, rows, generator),
        }
        layer = {f"{name}.{key}": t for name, part in parts.items() for key, t in part.items()}
        layer["out.b"].zero_()
        # Query, key and value are one (d, 3d) Glorot matrix with zero bias, as in the library's attention.
        layer["qkv"] = (torch.rand(rows, 3 * rows, generator=generator) * 2 - 1) * (6 / (4 * rows)) ** 0.5
        return layer

    def layer(self, weights: Layer, graphs: Graphs, h: Tensor) -> Tensor:
        own, other = weights["local.w"].chunk(2, dim=1)
        local = transform(own, h).add_(transform(other, neighbour_mean(graphs, h)))
        local.add_(weights["local.b"][..., None])
        query, key, value = transform(weights["qkv"], h).mT.chunk(3, dim=-1)
        attended = scaled_dot_product_attention(query, key, value).mT
        spread = transform(weights["out.w"], attended).add_(weights["out.b"][..., None])
        total = local.add_(spread).add_(h, alpha=2)
        hidden = transform(weights["up.w"], total).add_(weights["up.b"][..., None]).relu_()
        return total.add_(transform(weights["down.w"], hidden)).add_(weights["down.b"][..., None])

    def pooled(self, weights: tuple[Layer, ...], graphs: Graphs, features: Tensor) -> Tensor:
        if self.walk:
            encoding = random_walk_encoding(graphs, self.walk).to(features.dtype)
            features = torch.cat([features, encoding], dim=1)
        encoder, *layers, decoder = weights
        h = transform(encoder["w"], features[:, None]).add_(encoder["b"][..., None])
        for i, layer in enumerate(layers):
            h = self.layer(layer, graphs, h)
            if i < len(layers) - 1:
                h = h.relu_()
        mean = h.mean(-1, dtype=torch.float64)
        return torch.einsum("gmd,mde->gme", mean, decoder["w"].double()) + decoder["b"].double()


def draw_linear(rows: int, columns: int, generator: Generator) -> Layer:
    """Draw matrix (rows, columns) and bias by the default of linear layers, ``U(+-1/sqrt(rows))``."""
    limit = rows**-0.5
    w = (torch.rand(rows, columns, generator=generator) * 2 - 1) * limit
    return {"w": w, "b": (torch.rand(columns, generator=generator) * 2 - 1) * limit}
