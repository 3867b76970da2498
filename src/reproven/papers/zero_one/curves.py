"""Zero-one curves of any classifier: the fraction of random graphs in class 1 against their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.harness import seeds
from reproven.papers.zero_one.adjacency import Graphs
from reproven.papers.zero_one.families import batches, sample_graphs
from reproven.papers.zero_one.features import FeatureLaw, feature_law

# A decision is repeated in float32 where the faster format leaves a logit as small as this. Its own error is below
# 1e-5 for averages and below 1e-3 for sums, whose clip amplifies (tests/oracle/zero_one/test_networks.py).
GUARD = 1e-2


@dataclass(frozen=True)
class Curve:
    """Counts of graphs in class 1.

    n: sizes (sizes,). counts: (sizes, models). graphs: graphs behind each count.
    """

    n: np.ndarray
    counts: np.ndarray
    graphs: int

    @property
    def proportion(self) -> np.ndarray:
        """Fraction of graphs in class 1, (sizes, models)."""
        return self.counts / self.graphs

    @property
    def minority_fraction(self) -> np.ndarray:
        """``min(p, 1 - p)``, (sizes, models): 0 where all graphs agree, 1/2 where a coin decides."""
        return np.minimum(self.proportion, 1 - self.proportion)


def guarded_logits(network: Any, weights: Any, graphs: Graphs, features: Tensor) -> Tensor:
    """Return the logits, (graphs, models); those near the boundary come from float32 products.

    Models with a logit below `GUARD` are run again on the same graph in float32, if the graph multiplies in
    another format and the network can `select` models.
    """
    logits = network.logits(weights, graphs, features)
    if getattr(graphs, "precision", "float32") == "float32" or not hasattr(network, "select"):
        return logits
    near = (logits.abs() < GUARD).any(0).nonzero()[:, 0].tolist()
    if near:
        again = graphs.in_precision("float32")  # type: ignore[attr-defined]
        logits[:, near] = network.logits(network.select(weights, near), again, features)
    return logits


def zero_one_curve(
    network: Any,
    sizes: Sequence[int],
    *,
    graphs: int = 32,
    models: int = 10,
    depth: int = 3,
    family: str = "er_half",
    features: str | FeatureLaw = "uniform",
    seed: int = 0,
    weights: Any = None,
) -> Curve:
    """Classify `graphs` random graphs of each size by each of `models` random networks.

    Args:
        network: an architecture with ``width``, ``draw`` and ``logits`` (see `classifiers`), or your own classifier,
            a function ``f(adjacency (n, n), features (n, width)) -> logit`` with an attribute ``width``.
        sizes: numbers of nodes.
        graphs: graphs a size. models: random networks; ignored for a function.
        depth: layers. family: a key of `families.FAMILIES`. features: a law or its name.
        seed: of graphs, features and weights; a graph depends on (seed, family, n, its number) alone.
        weights: use these instead of drawing.

    Example:
        >>> zero_one_curve(GCN(width=16), [10, 100], graphs=4, models=2).counts.shape
        (2, 2)
    """
    if graphs < 1 or models < 1:
        raise ValueError(f"graphs={graphs} and models={models} must be at least 1")
    law = feature_law(features) if isinstance(features, str) else features
    if not hasattr(network, "logits"):
        network, weights, models = _FunctionNetwork(network), (), 1
    elif weights is None:
        weights = network.draw(
            depth, [seeds.torch_generator(seed, "weights", depth=depth, model=k) for k in range(models)]
        )
    counts = []
    for n in sizes:
        logits = []
        for batch in batches(graphs, n, network.width * models):
            keys = [seeds.derive(seed, "graphs", family=family, n=n, graph=g) for g in batch]
            sample = sample_graphs(family, n, keys)
            x = [
                law.sample(
                    network.width, sample.n, seeds.generator(seed, "features", family=family, n=n, graph=g)
                )
                for g in batch
            ]
            logits.append(network.logits(weights, sample, torch.stack(x)))
        counts.append((torch.cat(logits) > 0).sum(0).numpy(force=True))
    return Curve(np.array(sizes), np.array(counts), graphs)


class _FunctionNetwork:
    """A function of one graph as a network with a single model."""

    def __init__(self, function: Callable[[Tensor, Tensor], float]) -> None:
        if not callable(function) or not hasattr(function, "width"):
            raise ValueError(
                "the network must offer width, draw and logits, or be a function f(adjacency, features) -> logit "
                "with an attribute `width`"
            )
        self.function, self.width = function, function.width

    def logits(self, weights: Any, graphs: Graphs, features: Tensor) -> Tensor:
        pairs = zip(graphs.dense(), features, strict=True)
        return torch.tensor([[float(self.function(a, x.T))] for a, x in pairs], dtype=torch.float64)
