"""The paper's experiment: classify random graphs of growing size with random networks, count class 1."""

from __future__ import annotations

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
    depth: list[int],
    n: list[int],
    graphs: int,
    models: int,
    full_models: int | None = None,
    family: list[str] | None = None,
    features: list[str] | None = None,
    official_depth: bool = False,
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
    """
    family, features = family or ["er_half"], features or ["uniform"]
    full = models if full_models is None else min(full_models, models)
    layers = {t: max(t, OFFICIAL_LEAST_LAYERS) if official_depth else t for t in depth}
    weights = {
        (name, t): draw(ctx, network, t, models, layers[t])
        for name, network in ctx.methods.items()
        for t in depth
    }
    columns = max(network.width for network in ctx.methods.values()) * models
    work = sum(k**2 + 1e5 for k in n) * len(family)
    done = 0.0
    for graph_family in family:
        for size in n:
            table = _Table()
            for sample in samples(ctx, graph_family, size, graphs, columns):
                for law in features:
                    for name, network in ctx.methods.items():
                        x = sample.features(law, network.width)
                        for t in depth:
                            table.add(
                                (law, name, t), *_evaluate(network, weights[name, t], models, full, sample, x)
                            )
                done += (size**2 + 1e5) * len(sample.numbers) / graphs
                ctx.progress(done / work, f"{graph_family} n={size}")
            for (law, name, t), columns_of in table.items():
                where = {"method": name, "depth": t, "n": size, "family": graph_family, "features": law}
                limit = getattr(ctx.methods[name], "limit_logits", None)
                _record(ctx, columns_of, weights[name, t], limit, law, ctx.methods[name].width, where)


class _Table(dict[Any, dict[str, list[Tensor]]]):
    """(law, method, depth) -> column -> one tensor a batch of graphs."""

    def add(self, key: Any, columns: dict[str, Tensor]) -> None:
        for name, column in columns.items():
            self.setdefault(key, {}).setdefault(name, []).append(column)


def _evaluate(
    network: Any, weights: Any, models: int, full: int, sample: Sample, x: Tensor
) -> tuple[dict[str, Tensor]]:
    """Return logits (graphs, models), and what else can be said about these graphs."""
    columns = {}
    if hasattr(network, "linear_logits"):
        logits, certified = network.linear_logits(weights, sample.graphs, x)
        certified = certified.expand_as(logits)
        run = sorted({*range(full), *(~certified).any(0).nonzero()[:, 0].tolist()})
        if run:
            exact = all_logits(network, network.select(weights, run), len(run), sample, x)
            # Compared on the graphs where the short cut is certified.
            columns["error"] = (exact - logits[:, run]).abs().masked_fill(~certified[:, run], 0).amax(1)
            differ = (exact > 0) != (logits[:, run] > 0)
            columns["differ"] = (differ & certified[:, run]).sum(1)
            logits[:, run] = exact
    else:
        logits = all_logits(network, weights, models, sample, x)
    columns["logits"] = logits
    if getattr(network, "limit_logits", None) is not None:
        columns["surrogate"] = network.limit_logits(weights, x.mean(-1, dtype=torch.float64))
    return (columns,)


def _record(
    ctx: Context,
    columns: dict[str, list[Tensor]],
    weights: Any,
    limit: Any,
    law: str,
    width: int,
    where: dict[str, Any],
) -> None:
    logits = torch.cat(columns["logits"])
    if not torch.isfinite(logits).all():
        raise FloatingPointError(
            f"non-finite logits of {where['method']} at n={where['n']}, depth {where['depth']}"
        )
    ones = logits > 0
    p = ones.double().mean(0)
    models = range(logits.shape[1])
    minority = torch.minimum(p, 1 - p)
    ctx.record_many("proportion", p, unit="1", model=models, **where)
    ctx.record_many("minority_fraction", minority, unit="1", direction="lower", model=models, **where)
    ctx.record_many(
        "unanimous", (minority == 0).double(), unit="1", direction="higher", model=models, **where
    )
    if limit is not None:
        surrogate = torch.cat(columns["surrogate"])
        agree = ((surrogate > 0) == ones).double().mean(0)
        ctx.record_many("surrogate_agreement", agree, unit="1", direction="higher", model=models, **where)
        mean = torch.full((width,), feature_law(law).mean, dtype=torch.float64, device=logits.device)
        end = limit(weights, mean)
        clear = (end.abs() > MARGIN * logits.std(0)).nonzero()[:, 0].tolist() if len(logits) > 1 else []
        same = ((p > 0.5) == (end > 0)).double()
        if clear:
            ctx.record_many(
                "limit_agreement", same[clear], unit="1", direction="higher", model=clear, **where
            )
    if "error" in columns:
        ctx.record(
            "shortcut_error", torch.cat(columns["error"]).max().item(), unit="1", direction="lower", **where
        )
        count = torch.cat(columns["differ"]).sum().item()
        ctx.record("shortcut_disagreements", count, unit="graphs", direction="lower", **where)
