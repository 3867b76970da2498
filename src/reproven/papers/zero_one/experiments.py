"""The paper's experiment: classify random graphs of growing size with random networks, count class 1."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from reproven.harness.context import Context
from reproven.papers.zero_one.features import feature_law
from reproven.papers.zero_one.sampling import Sample, all_logits, draw, samples

OFFICIAL_LEAST_LAYERS = 2
MARGIN = (
    3.0  # standard deviations between the limit logit and the boundary from which a limit class is claimed
)


def proportions(
    ctx: Context,
    *,
    depth: int | list[int],
    n: list[int],
    graphs: int,
    models: int,
    full_models: int | None = None,
    family: str | list[str] = "er_half",
    features: str | list[str] = "uniform",
    official_depth: bool = False,
    surrogate: bool = True,
) -> None:
    """Count the graphs that each random network puts into class 1. Section 3.4 of the dossier.

    Records, per model: ``proportion``, ``minority_fraction`` = min(p, 1-p), ``unanimous``; where the network knows
    its limit also ``surrogate_agreement`` (graphs whose class the feature mean alone would give) and
    ``limit_agreement`` (majority class against limit class; only models whose limit logit is more than
    3 standard deviations from the boundary). Where a network offers `linear_logits`, the first `full_models`
    models run through the full pass too: ``shortcut_error``, ``shortcut_disagreements``.

    Args:
        depth: values of T. n: sizes. graphs: graphs a size. models: random networks a depth.
        full_models: of these, networks that run the full pass although a certified short cut exists; None: all.
        family: keys of `families.FAMILIES`. features: keys of `features.LAWS`.
        official_depth: give T = 1 two layers, as the released code does.
        surrogate: compute the class that the feature mean alone would give.
    """
    depth = [depth] if isinstance(depth, int) else depth
    family = [family] if isinstance(family, str) else family
    features = [features] if isinstance(features, str) else features
    full = models if full_models is None else min(full_models, models)
    layers = {t: max(t, OFFICIAL_LEAST_LAYERS) if official_depth else t for t in depth}
    weights = {
        (name, t): draw(ctx, network, t, models, layers[t])
        for name, network in ctx.methods.items()
        for t in depth
    }
    width = max(network.width for network in ctx.methods.values())
    cost = [size**2 + 1e5 for size in n]
    for step, (graph_family, size) in enumerate(itertools.product(family, n)):
        found: dict[tuple[str, str, int], list[dict[str, Tensor]]] = defaultdict(list)
        for sample in samples(ctx, graph_family, size, graphs, width * models):
            for law, (name, network) in itertools.product(features, ctx.methods.items()):
                x = sample.features(law, network.width)
                for t in depth:
                    columns = _evaluate(network, weights[name, t], models, full, sample, x, surrogate)
                    found[law, name, t].append(columns)
            part = step % len(n)
            here = sum(cost[:part]) + cost[part] * (sample.numbers[-1] + 1) / graphs
            done = (step // len(n) + here / sum(cost)) / len(family)
            ctx.progress(done, f"{graph_family} n={size}")
        for (law, name, t), batches in found.items():
            columns = {k: torch.cat([batch[k] for batch in batches]) for k in batches[0]}
            where = {"method": name, "depth": t, "n": size, "family": graph_family, "features": law}
            _record(ctx, ctx.methods[name], weights[name, t], columns, law, where)


def _evaluate(
    network: Any, weights: Any, models: int, full: int, sample: Sample, x: Tensor, surrogate: bool
) -> dict[str, Tensor]:
    """Return columns with one row a graph: logits (graphs, models), and what else can be said."""
    columns: dict[str, Tensor] = {}
    if hasattr(network, "linear_logits"):
        logits, certified = network.linear_logits(weights, sample.graphs, x)
        certified = certified.expand_as(logits)
        run = sorted({*range(full), *(~certified).any(0).nonzero()[:, 0].tolist()})
        error, differ = logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
        if run:
            exact = all_logits(network, network.select(weights, run), len(run), sample, x)
            # Compared where the short cut is certified; what it does not certify is always run in full.
            error = (exact - logits[:, run]).abs().masked_fill(~certified[:, run], 0).amax(1)
            differ = (((exact > 0) != (logits[:, run] > 0)) & certified[:, run]).sum(1)
            logits[:, run] = exact
        columns |= {"shortcut_error": error, "shortcut_disagreements": differ}
    else:
        logits = all_logits(network, weights, models, sample, x)
    if surrogate and getattr(network, "limit_logits", None) is not None:
        columns["surrogate"] = network.limit_logits(weights, x.mean(-1, dtype=torch.float64))
    return {"logits": logits, **columns}


def _record(
    ctx: Context, network: Any, weights: Any, columns: dict[str, Tensor], law: str, where: dict[str, Any]
) -> None:
    logits = columns["logits"]
    if not torch.isfinite(logits).all():
        raise FloatingPointError(f"logits of {where['method']} are not finite at n={where['n']}, {where}")
    ones = logits > 0
    p = ones.double().mean(0)
    minority = torch.minimum(p, 1 - p)
    models = range(logits.shape[1])

    def record(metric: str, values: Tensor, direction: str, models: Any = models) -> None:
        ctx.record_many(metric, values.double().cpu(), unit="1", direction=direction, model=models, **where)

    record("proportion", p, "")
    record("minority_fraction", minority, "lower")
    record("unanimous", minority == 0, "higher")
    if "surrogate" in columns:
        record("surrogate_agreement", ((columns["surrogate"] > 0) == ones).double().mean(0), "higher")
    if getattr(network, "limit_logits", None) is not None and len(logits) > 1:
        mean = torch.full((network.width,), feature_law(law).mean, dtype=torch.float64, device=logits.device)
        limit = network.limit_logits(weights, mean)
        clear = (limit.abs() > MARGIN * logits.std(0)).nonzero()[:, 0].tolist()
        if clear:
            record("limit_agreement", ((p > 0.5) == (limit > 0))[clear], "higher", clear)
    if "shortcut_error" in columns:
        error, differ = columns["shortcut_error"].max(), columns["shortcut_disagreements"].sum()
        ctx.record("shortcut_error", error.item(), unit="1", direction="lower", **where)
        ctx.record("shortcut_disagreements", differ.item(), unit="graphs", direction="lower", **where)
