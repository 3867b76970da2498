"""Checks of the theorems' ingredients: generators, products, concentration, saturation, first-order properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.harness.context import Context
from reproven.papers.zero_one import gnn_reference as reference
from reproven.papers.zero_one.adjacency import Graphs, PackedGraph, StreamedGraph, erdos_renyi
from reproven.papers.zero_one.experiments import OFFICIAL_LEAST_LAYERS
from reproven.papers.zero_one.families import sample_graphs
from reproven.papers.zero_one.features import feature_law
from reproven.papers.zero_one.first_order import PROPERTIES
from reproven.papers.zero_one.graphs import erdos_renyi_bits
from reproven.papers.zero_one.products import PRECISIONS
from reproven.papers.zero_one.sampling import draw, samples


def generators(ctx: Context, *, n: list[int], graphs: int, family: list[str]) -> None:
    """Measure what makes a graph a draw from G(n, 1/2) (Z1).

    Records per graph: ``asymmetric_entries``, ``diagonal_weight``, ``non_binary_entries``; ``density_z``, the edge
    count less its mean in standard deviations; ``degree_variance_ratio``, the sample variance of degrees over
    ``n r (1-r)``; ``edge_fraction``, the share of node pairs with a nonzero entry.

    Args:
        n: sizes. graphs: graphs a size. family: keys of `families.FAMILIES`.
    """
    r = 0.5
    for done, (name, size) in enumerate((f, k) for f in family for k in n):
        for g in range(graphs):
            key = ctx.derive("graphs", family=name, n=size, graph=g)
            A = sample_graphs(name, size, [key]).dense()[0]
            pairs = size * (size - 1) / 2
            off = A.sum().item() - A.diagonal().sum().item()
            degree = A.sum(1, dtype=torch.float64)
            values = {
                "asymmetric_entries": (A != A.T).sum().item(),
                "diagonal_weight": A.diagonal().abs().sum().item(),
                "non_binary_entries": ((A != 0) & (A != 1)).sum().item(),
                "density_z": (off / 2 - r * pairs) / math.sqrt(r * (1 - r) * pairs),
                "degree_variance_ratio": degree.var().item() / (size * r * (1 - r)),
                "edge_fraction": ((A != 0).sum().item() - (A.diagonal() != 0).sum().item()) / (2 * pairs),
            }
            for metric, value in values.items():
                ctx.record(metric, value, unit="1", n=size, graph=g, family=name)
        ctx.progress((done + 1) / (len(family) * len(n)), f"{name} n={size}")


def twins(ctx: Context, *, n: int, depth: list[int], graphs: int, models: int) -> None:
    """Compare each network with its plain twin, node by node in float64, on graphs of n nodes.

    Records ``reference_gap`` = ``|logit - reference| / max(1, |reference|)`` per method, depth, graph and model.
    """
    for done, (layers, g) in enumerate((t, g) for t in depth for g in range(graphs)):
        key = ctx.derive("graphs", family="er_half", n=n, graph=g)
        graph = erdos_renyi(n, 0.5, [key], dtype=getattr(torch, ctx.dtype), device=ctx.device)
        for name, network in ctx.methods.items():
            weights = draw(ctx, network, layers, models)
            rng = ctx.generator("features", family="er_half", law="uniform", n=n, graph=g)
            x = feature_law("uniform").sample(network.width, n, rng)[None]
            fast = network.logits(weights, graph, x.to(ctx.device, getattr(torch, ctx.dtype)))[0]
            A, X = graph.dense()[0].double().numpy(force=True), x[0].double().numpy().T
            plain = [reference.logit(network, weights, m, A, X) for m in range(models)]
            gaps = [abs(f.item() - p) / max(1.0, abs(p)) for f, p in zip(fast, plain, strict=True)]
            where: dict[str, Any] = {"method": name, "depth": layers, "graph": g, "n": n}
            ctx.record_many("reference_gap", gaps, unit="1", direction="lower", model=range(models), **where)
        ctx.progress((done + 1) / (len(depth) * graphs), f"depth={layers}")


def products(ctx: Context, *, n: list[int], columns: int, graphs: int) -> None:
    """Compare each way to multiply with the adjacency against float64 (Z10).

    Records per graph, form (packed, streamed) and precision: ``product_error``, the largest absolute error over n
    (the sums are of order n/4), and ``product_error_over_spread``, the largest error of a neighbour sum against
    the standard deviation of that sum over nodes.
    """
    for done, (size, g) in enumerate((k, g) for k in n for g in range(graphs)):
        key = ctx.derive("graphs", family="er_half", n=size, graph=g)
        bits = erdos_renyi_bits(size, 0.5, key)
        rng = ctx.generator("features", family="er_half", law="uniform", n=size, graph=g)
        h = feature_law("uniform").sample(columns, size, rng)[None]
        exact = h.double() @ torch.from_numpy(np.unpackbits(bits, axis=1, count=size)).double()
        spread = exact.std(-1, keepdim=True)
        for precision in PRECISIONS:
            for form, graph in (
                ("packed", PackedGraph(bits, size, precision=precision)),
                ("streamed", StreamedGraph(size, 0.5, key, precision=precision)),
            ):
                error = (graph.multiply(h).double() - exact).abs()
                where: dict[str, Any] = {"n": size, "graph": g, "form": form, "precision": precision}
                ctx.record("product_error", error.max().item() / size, unit="1", direction="lower", **where)
                relative = (error / spread).max().item()
                ctx.record("product_error_over_spread", relative, unit="1", direction="lower", **where)
        ctx.progress((done + 1) / (len(n) * graphs), f"n={size}")


def concentration(
    ctx: Context, *, depth: list[int], n: list[int], graphs: int, models: int, features: str = "uniform"
) -> None:
    """Measure how fast all nodes, and the pooled state, reach the limit ``z_T`` (Z3, Z4, Z6).

    Records per graph, averaged over models (which share the graph): ``node_deviation``, the largest
    ``|x_v - z_T|`` over the largest ``|z_T|``, and the same over ``sqrt(log n)`` as ``node_deviation_scaled``;
    ``pooled_deviation``, ``|mean x - z_T| / |z_T|``; ``at_limit``, the share of (node, coordinate) entries equal
    to ``z_T``; ``clipped``, the share of entries of all layers at the activation's bound; ``largest_state``, the
    maximum over models.

    Args:
        depth: values of T (true depth). n: sizes. graphs: graphs a size. models: random networks a depth.
        features: a key of `features.LAWS`.
    """
    for name, network in ctx.methods.items():
        if not hasattr(network, "states") or getattr(network, "limit_logits", None) is None:
            raise ValueError(
                f"method {name!r} offers no node states and limit; concentration cannot be measured"
            )
    columns = max(network.width for network in ctx.methods.values()) * models
    weights = {
        (name, t): draw(ctx, network, t, models) for name, network in ctx.methods.items() for t in depth
    }
    for done, size in enumerate(n):
        for sample in samples(ctx, "er_half", size, graphs, columns, fast=False):
            for (name, t), w in weights.items():
                network = ctx.methods[name]
                x = sample.features(features, network.width)
                mean = torch.full((network.width,), feature_law(features).mean, dtype=torch.float64)
                found = _deviations(network, w, sample.graphs, x, mean.to(x.device))
                found["node_deviation_scaled"] = found["node_deviation"] / math.sqrt(math.log(size))
                where: dict[str, Any] = {"method": name, "depth": t, "n": size, "features": features}
                for metric, values in found.items():
                    ctx.record_many(metric, values.double().cpu(), unit="1", graph=sample.numbers, **where)
        ctx.progress((done + 1) / len(n), f"n={size}")


def _deviations(network: Any, weights: Any, graphs: Graphs, x: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """Return columns (graphs,)."""
    bounded = getattr(network, "activation", "") == "clip"
    clipped, largest = [], []
    with torch.no_grad():
        for h in network.states(weights, graphs, x):
            size = h.abs()
            largest.append(size.amax((1, 2, 3)))
            clipped.append((size >= network.bound).double().mean((1, 2, 3)) if bounded else largest[-1])
        for z in network.limit_states(weights, mean):
            limit = z
    pooled = h.mean(-1, dtype=torch.float64)
    gap = (h.double() - limit[..., None]).abs()
    columns = {
        "node_deviation": (gap.amax((2, 3)) / limit.abs().amax(-1)).mean(1),
        "pooled_deviation": ((pooled - limit).norm(dim=-1) / limit.norm(dim=-1)).mean(1),
        "at_limit": (gap < 1e-6).double().mean((1, 2, 3)),
        "largest_state": torch.stack(largest).amax(0),
    }
    return columns | {"clipped": torch.stack(clipped).mean(0)} if bounded else columns


def first_order(ctx: Context, *, n: list[int], graphs: int) -> None:
    """Sample properties of G(n, 1/2) with and without a zero-one law; records ``holds`` per graph and property.

    First-order properties obey the law (an isolated node: 0; a triangle, diameter at most 2: 1), connectedness
    obeys it too; parity of the number of edges and having more than half of all edges do not.
    """
    for done, size in enumerate(n):
        for sample in samples(ctx, "er_half", size, graphs, 1, fast=False):
            A = sample.graphs.dense()
            for name, holds in PROPERTIES.items():
                values = holds(A).double().cpu()
                ctx.record_many("holds", values, unit="1", n=size, property=name, graph=sample.numbers)
        ctx.progress((done + 1) / len(n), f"n={size}")


def layer_count(ctx: Context, *, depth: list[int]) -> None:
    """Record how many layers a network called T has: with the released code's rule and without."""
    for name, network in ctx.methods.items():
        for t in depth:
            for rule, layers in (("official", max(t, OFFICIAL_LEAST_LAYERS)), ("true", t)):
                weights = draw(ctx, network, t, 1, layers)
                ctx.record("layers", len(weights.layers), unit="layers", method=name, depth=t, rule=rule)
