"""The follow-up's protocol: how constant the class probabilities of a network become as graphs grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reproven.data.provider import cache_folder
from reproven.harness.context import Context
from reproven.harness.errors import Blocked
from reproven.papers.zero_one.adjacency import SparseGraphs
from reproven.papers.zero_one.sampling import Sample, samples

GROUP = 5  # graphs behind one standard deviation
TIGER_SCALE = 30.0  # features of the road networks are 30 U(0,1)


def constant_outputs(
    ctx: Context, *, family: str, n: list[int], graphs: int, models: int, features: str = "uniform"
) -> None:
    """Measure mean and spread of the class probabilities over graphs. [follow-up code]

    Records per model: ``class_mean`` and ``class_sd`` per class, and ``distance_sd``, the standard deviation of the
    Euclidean distance between an output vector and their mean. For intervals also ``group_sd``, the standard
    deviation over the five graphs of a group, averaged over classes and models: groups are independent.

    Args:
        family: a key of `families.FAMILIES`. n: sizes. graphs: graphs a size. models: random networks.
        features: a key of `features.LAWS`.
    """
    weights = {name: _draw(ctx, network, models) for name, network in ctx.methods.items()}
    columns = max(network.width for network in ctx.methods.values()) * models
    for done, size in enumerate(n):
        outputs: dict[str, list[torch.Tensor]] = {name: [] for name in ctx.methods}
        for sample in samples(ctx, family, size, graphs, columns, fast=False):
            for name, network in ctx.methods.items():
                x = sample.features(features, network.width)
                outputs[name].append(network.probabilities(weights[name], sample.graphs, x))
        for name, parts in outputs.items():
            _record(ctx, torch.cat(parts).cpu(), {"method": name, "n": size, "family": family})
        ctx.progress((done + 1) / len(n), f"{family} n={size}")


def road_networks(ctx: Context, *, thousands: list[int], draws: int, models: int) -> None:
    """The same on TIGER-Alaska road networks with random features; one graph a size, `draws` draws of features.

    Args:
        thousands: sizes among 1, 5, 10, 25, 90. draws: feature draws a size. models: random networks.
    Raises: Blocked where the edge lists are absent; the message says what to place where.
    """
    graphs = {
        size: road_network(cache_folder() / "tiger_alaska" / f"tiger_alaska_{size}k.npz", ctx.device)
        for size in thousands
    }
    weights = {name: _draw(ctx, network, models) for name, network in ctx.methods.items()}
    for done, size in enumerate(thousands):
        graph = graphs[size]
        outputs: dict[str, list[torch.Tensor]] = {name: [] for name in ctx.methods}
        for k in range(draws):
            sample = Sample(ctx, "tiger_alaska", graph.n, range(k, k + 1), graph)
            for name, network in ctx.methods.items():
                x = sample.features("uniform", network.width) * TIGER_SCALE
                outputs[name].append(network.probabilities(weights[name], graph, x))
        for name, parts in outputs.items():
            _record(ctx, torch.cat(parts).cpu(), {"method": name, "n": graph.n, "family": "tiger_alaska"})
        ctx.progress((done + 1) / len(thousands), f"TIGER-Alaska {size}k")


def road_network(path: Path, device: str = "cpu") -> SparseGraphs:
    """Read one graph from an ``.npz`` with ``n`` (nodes) and ``edges`` ((2, m) integers, each edge once).

    Raises: Blocked when the file is absent; ValueError when it is no such file.
    """
    if not path.is_file():
        raise Blocked(
            f"no road network at {path}: convert the follow-up repository's TIGER-Alaska graphs to .npz files with "
            "`n` and `edges` of shape (2, m)"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            n, edges = int(stored["n"]), np.asarray(stored["edges"], dtype=np.int64)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{path} is no road network with `n` and `edges`: {error}") from None
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.min(initial=0) < 0 or edges.max(initial=-1) >= n:
        raise ValueError(f"{path}: edges must be (2, m) node numbers below n={n}")
    return SparseGraphs(n, [edges], device=device)


def _draw(ctx: Context, network: Any, models: int) -> Any:
    weights = network.draw([ctx.torch_generator("weights", model=k) for k in range(models)])
    return tuple(
        {k: t.to(ctx.device, getattr(torch, ctx.dtype)) for k, t in layer.items()} for layer in weights
    )


def _record(ctx: Context, outputs: torch.Tensor, where: dict[str, Any]) -> None:
    """Record one method, family and size from outputs (graphs, models, classes)."""
    mean, sd = outputs.mean(0), outputs.std(0)
    models, classes = mean.shape
    model, label = np.repeat(np.arange(models), classes), np.tile(np.arange(classes), models)
    for metric, values in (("class_mean", mean), ("class_sd", sd)):
        ctx.record_many(metric, values.flatten(), unit="1", model=model, label=label, **where)
    groups = outputs[: len(outputs) // GROUP * GROUP].unflatten(0, (-1, GROUP)).std(1).mean((1, 2))
    ctx.record_many("group_sd", groups, unit="1", direction="lower", group=range(len(groups)), **where)
    distance = (outputs - mean).norm(dim=-1)
    ctx.record_many("distance_sd", distance.std(0), unit="1", direction="lower", model=range(models), **where)
