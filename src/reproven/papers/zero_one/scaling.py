"""Finite-size scaling: each curve predicted from the weights alone, in two ways.

*delta*: ``P(class 1) = Phi(m sqrt(n) / s)`` with the limit logit and its first derivative; all curves collapse on
one. *surrogate*: the graph is left out and only the mean of the features is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from reproven.harness.context import Context
from reproven.papers.zero_one.limits import (
    class_probability,
    decision_size,
    limit_logits,
    logit_scale,
    surrogate_probability,
)
from reproven.papers.zero_one.sampling import Sample, all_logits, draw, samples

DECIDED_BY = 0.01  # minority fraction at the decision size
INFORMATIVE = 20  # graphs in the minority, over all sizes, below which a fitted decision size says nothing
UNCERTAIN = 0.02  # a cell counts in the collapse where the predicted probability is this far from 0 and 1


def finite_size(
    ctx: Context,
    *,
    depth: list[int],
    n: list[int],
    graphs: int,
    models: int,
    draws: int,
    features: str = "uniform",
) -> None:
    """Compare each model's curve with the two predicted from its weights.

    Records per model and size: ``proportion``; per law (delta, surrogate) ``predicted_probability`` and
    ``squared_residual``, the squared difference of the two in standard deviations of its sampling error, where
    the prediction is not close to 0 or 1 (its mean is 1 if the law holds); ``scaled_size`` = m sqrt(n) / s;
    ``spread_ratio``, measured over predicted standard deviation of the logit (delta). Per model and law:
    ``decision_size`` n*, and ``log_size_ratio``, the logarithm of the fitted over the predicted decision size,
    where at least 20 graphs were in the minority.

    Args:
        depth: values of T (true depth). n: sizes. graphs: graphs a size. models: random networks a depth.
        draws: feature means behind a surrogate probability.
        features: a key of `features.LAWS`; its mean must not be zero.
    """
    columns = max(network.width for network in ctx.methods.values()) * models
    weights = {
        (name, t): draw(ctx, network, t, models) for name, network in ctx.methods.items() for t in depth
    }
    logits: dict[tuple[str, int, int], list[torch.Tensor]] = {}
    for done, size in enumerate(n):
        for sample in samples(ctx, "er_half", size, graphs, columns):
            for name, network in ctx.methods.items():
                x = sample.features(features, network.width)
                for t in depth:
                    found = _logits(network, weights[name, t], models, sample, x)
                    logits.setdefault((name, t, size), []).append(found)
        ctx.progress((done + 1) / len(n), f"n={size}")
    for name, network in ctx.methods.items():
        for t in depth:
            table = np.stack([torch.cat(logits[name, t, size]).cpu().numpy() for size in n])
            w, sizes = weights[name, t], np.array(n)
            where = {"method": name, "depth": t, "features": features}
            m = limit_logits(network, w, features).cpu().numpy()
            s = logit_scale(network, w, features).cpu().numpy()
            _record_spread(ctx, table, sizes, m, s, where)
            delta = class_probability(sizes[:, None], m, s)
            star = decision_size(network, w, features, DECIDED_BY)
            _record_law(ctx, table, sizes, delta, star, np.inf, {"law": "delta", **where})
            rngs = [ctx.torch_generator("means", n=size) for size in n]
            surrogate = np.stack(
                [
                    surrogate_probability(network, w, size, features, draws=draws, generator=rng)
                    for size, rng in zip(n, rngs, strict=True)
                ]
            )
            star = np.array([fitted_decision_size(sizes, draws * p, draws) for p in surrogate.T])
            _record_law(ctx, table, sizes, surrogate, star, draws, {"law": "surrogate", **where})


def _logits(network: Any, weights: Any, models: int, sample: Sample, x: torch.Tensor) -> torch.Tensor:
    """Return logits (graphs, models): by the short cut where it is certified for all of them."""
    if hasattr(network, "linear_logits"):
        found, certified = network.linear_logits(weights, sample.graphs, x)
        if certified.all():
            return found
    return all_logits(network, weights, models, sample, x)


def _record_spread(
    ctx: Context, logits: np.ndarray, n: np.ndarray, m: np.ndarray, s: np.ndarray, where: dict[str, Any]
) -> None:
    """Record what belongs to no law; logits (sizes, graphs, models)."""
    for i, size in enumerate(n.tolist()):
        at = {"model": range(len(m)), "n": size, **where}
        ctx.record_many("proportion", (logits[i] > 0).mean(0), unit="1", **at)
        ctx.record_many("scaled_size", m * np.sqrt(size) / s, unit="1", **at)
        ctx.record_many("spread_ratio", logits[i].std(0, ddof=1) * np.sqrt(size) / s, unit="1", **at)


def _record_law(
    ctx: Context,
    logits: np.ndarray,
    n: np.ndarray,
    predicted: np.ndarray,
    star: np.ndarray,
    draws: float,
    where: dict[str, Any],
) -> None:
    """Record how one law fares; logits (sizes, graphs, models), predicted (sizes, models) from `draws` draws."""
    graphs, models = logits.shape[1:]
    ones = (logits > 0).sum(1)
    for i, size in enumerate(n.tolist()):
        p = predicted[i]
        ctx.record_many("predicted_probability", p, unit="1", model=range(models), n=size, **where)
        cells = np.flatnonzero((p > UNCERTAIN) & (p < 1 - UNCERTAIN))
        variance = p * (1 - p) * (1 / graphs + 1 / draws)
        residual = (ones[i] / graphs - p)[cells] ** 2 / variance[cells]
        if len(cells):
            at = {"model": cells.tolist(), "n": size, **where}
            ctx.record_many("squared_residual", residual, unit="1", direction="lower", **at)
    ctx.record_many("decision_size", star, unit="nodes", model=range(models), **where)
    minority = np.minimum(ones, graphs - ones).sum(0)
    kept = [k for k in range(models) if minority[k] >= INFORMATIVE]
    ratio = [np.log(fitted_decision_size(n, ones[:, k], graphs) / star[k]) for k in kept]
    if kept:
        ctx.record_many("log_size_ratio", ratio, unit="1", model=kept, **where)


def fitted_decision_size(n: np.ndarray, ones: np.ndarray, graphs: int, error: float = DECIDED_BY) -> float:
    """Fit ``P(class 1) = Phi(c sqrt(n))`` to counts by maximum likelihood; return the size with minority `error`.

    Args:
        n: sizes (sizes,). ones: graphs in class 1 at each size. graphs: graphs a size.
        error: in (0, 1/2).
    """
    root = np.sqrt(n)
    sign = 1.0 if ones.sum() * 2 >= graphs * len(n) else -1.0
    major = ones if sign > 0 else graphs - ones

    def loss(log_c: float) -> float:
        z = np.exp(log_c) * root
        return -(major * norm.logcdf(z) + (graphs - major) * norm.logsf(z)).sum()

    best = minimize_scalar(loss, bounds=(-12.0, 4.0), method="bounded", options={"xatol": 1e-6})
    return float((norm.ppf(1 - error) / np.exp(best.x)) ** 2)
