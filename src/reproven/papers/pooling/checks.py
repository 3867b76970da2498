"""The theorems as measurements: constants of poolings and blocks, E_epsilon against gamma, equalities, scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.harness.context import Context
from reproven.papers.pooling import theory
from reproven.papers.pooling.base import Pooling
from reproven.papers.pooling.fixed import Avg, GeM, Last, Max, Sum
from reproven.papers.pooling.learned import WAvg
from reproven.papers.pooling.sensitivity import distances, exceedance, neighbours
from reproven.papers.pooling.theory import Block

DOUBLE = torch.float64

# ---------------------------------------------------------------- constants of poolings


def constants(ctx: Context, *, shapes: Sequence[Sequence[int]], draws: int, points: int) -> None:
    """Every pooling's Lipschitz constants against perturbations of many kinds, and where they are attained.

    ``over_constant``: largest ``|g(Z + E) - g(Z)| / (L |E|)`` over `draws` perturbations a kind, in each norm;
    must be at most 1. ``jacobian_over_constant``: operator norm of the Jacobian over the Frobenius constant at
    `points` points.
    """
    for n, d in shapes:
        for name, pooling in ctx.methods.items():
            g = ctx.torch_generator("constants", n=n, d=d)
            _perturbed(ctx, name, pooling, n, d, draws, g)
            _jacobians(ctx, name, pooling, n, d, points, g)
    _special(ctx)


def perturbations(kind: str, n: int, d: int, count: int, g: torch.Generator) -> Tensor:
    """Return `count` perturbations (count, n, d): Gaussian, rank_one, one_hot (one entry), constant (all
    tokens alike)."""
    if kind == "gaussian":
        return torch.randn(count, n, d, generator=g, dtype=DOUBLE)
    if kind == "rank_one":
        u = torch.randn(count, n, 1, generator=g, dtype=DOUBLE)
        return u @ torch.randn(count, 1, d, generator=g, dtype=DOUBLE)
    if kind == "constant":
        return torch.randn(count, 1, d, generator=g, dtype=DOUBLE).expand(count, n, d)
    out = torch.zeros(count, n * d, dtype=DOUBLE)
    rows = torch.randint(n * d, (count,), generator=g)
    out[torch.arange(count), rows] = torch.randn(count, generator=g, dtype=DOUBLE)
    out = out.view(count, n, d)
    out[0], out[1 % count] = 0.0, 0.0  # the last and the first token are always among them
    out[0, -1, 0], out[1 % count, 0, 0] = 1.0, 1.0
    return out


def spread_argmax(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Return (Z, E), (1, n, d): channel j has its largest value in row j mod n, and E raises exactly these entries.

    The extremal case of Max in the operator norm: |E| = sqrt(max(d/n, 1)) where n divides d or d <= n.
    """
    z, e = torch.zeros(1, n, d, dtype=DOUBLE), torch.zeros(1, n, d, dtype=DOUBLE)
    for j in range(d):
        z[0, j % n, j], e[0, j % n, j] = 1.0, 1.0
    return z, e


def _perturbed(
    ctx: Context, name: str, pooling: Pooling, n: int, d: int, draws: int, g: torch.Generator
) -> None:
    p = {k: v.double() for k, v in pooling.parameters(d, n, g).items()}
    size = 1e-4
    cases: dict[str, tuple[Tensor, Tensor]] = {}
    for kind in ("gaussian", "rank_one", "one_hot", "constant"):
        e = perturbations(kind, n, d, draws, g)
        cases[kind] = (
            torch.randn(draws, n, d, generator=g, dtype=DOUBLE),
            e / e.flatten(1).norm(dim=1)[:, None, None],
        )
    # Extremal changes start from Z with distinct largest entries, so that the rise stays with them.
    z, e = spread_argmax(n, d)
    cases["spread_argmax"] = (3 * z, e)
    z0 = torch.zeros(1, n, d, dtype=DOUBLE)
    z0[0, 0], z1 = 100.0, torch.zeros(1, n, d, dtype=DOUBLE)
    z1[0, 0] = 1.0
    cases["large_token"] = (z0, z1)
    for norm in ("frobenius", "operator"):
        best = 0.0
        for kind, (z, e) in cases.items():
            radius = float(z.norm(dim=2).max() + size * e.norm(dim=2).max())
            constant = pooling.lipschitz(n, d, norm, p, radius)
            if constant is None:
                continue
            moved = distances(pooling(z + size * e, None, p), pooling(z, None, p))
            length = size * (
                e.flatten(1).norm(dim=1) if norm == "frobenius" else torch.linalg.matrix_norm(e, 2)
            )
            ratio = float((moved / length).max()) / constant
            best = max(best, ratio)
            ctx.record(
                "over_constant",
                ratio,
                unit="of L",
                direction="lower",
                method=name,
                n=n,
                d=d,
                norm=norm,
                kind=kind,
            )
        if best:
            ctx.record("attained", best, unit="of L", direction="higher", method=name, n=n, d=d, norm=norm)


def _jacobians(
    ctx: Context, name: str, pooling: Pooling, n: int, d: int, points: int, g: torch.Generator
) -> None:
    p = {k: v.double() for k, v in pooling.parameters(d, n, g).items()}
    for point in range(points):
        z = torch.randn(1, n, d, generator=g, dtype=DOUBLE)
        constant = pooling.lipschitz(n, d, "frobenius", p, float(z.norm(dim=2).max()))
        if constant is None:
            return
        local = theory.local_lipschitz(lambda x: pooling(x, None, p), z, g)
        ctx.record(
            "jacobian_over_constant", local / constant, unit="of L", direction="lower", method=name, n=n, d=d,
            point=point,
        )  # fmt: skip


def _special(ctx: Context) -> None:
    """Rows 2, 3, 10, 11 and 13 of the dossier's list, to rounding."""
    for n, d in ((4, 16), (16, 16), (64, 16)):
        z, e = spread_argmax(n, d)
        ratio = float(distances(Max()(z + e), Max()(z)) / torch.linalg.matrix_norm(e, 2)[0])
        _plain(ctx, "max_extremal", ratio / math.sqrt(min(n, d)), n=n, d=d)
    for d in (2, 8, 64, 512):
        matrix = theory.center_norm(torch.eye(d, dtype=DOUBLE))
        _plain(ctx, "center_norm", float(theory.spectral(matrix)) / theory.center_norm_lipschitz(d), d=d)
    for d in (8, 64):  # the control: LayerNorm has no such constant, it explodes near constant rows
        small = 1e-3 * torch.randn(1, d, generator=ctx.torch_generator("layer_norm", d=d), dtype=DOUBLE)
        norm = torch.func.jacrev(lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]))(small)
        _plain(
            ctx,
            "layer_norm",
            float(theory.spectral(norm.reshape(d, d))) / theory.center_norm_lipschitz(d),
            d=d,
        )
    for p in (3.0, 6.0):
        z, e = torch.zeros(1, 16, 1, dtype=DOUBLE), torch.zeros(1, 16, 1, dtype=DOUBLE)
        z[0, 0], e[0, 0] = 5.0, 1.0
        gem = GeM(p, signed=False)
        _plain(ctx, "gem_single_token", float(distances(gem(z + e), gem(z))), p=p)
        _plain(ctx, "gem_over_constant", float(distances(gem(z + e), gem(z))) / gem.lipschitz(16, 1), p=p)
    g = ctx.torch_generator("w_avg")
    for convex in (True, False):
        pooling = WAvg(convex=convex)
        w = {"w": torch.randn(24, generator=g, dtype=DOUBLE)}
        z = torch.randn(1, 24, 5, generator=g, dtype=DOUBLE)
        local = theory.local_lipschitz(lambda x: pooling(x, None, w), z, g, steps=50)  # noqa: B023 - called now
        _plain(
            ctx, "w_avg_factor", local / (pooling.lipschitz(24, 5, "frobenius", w) or math.nan), convex=convex
        )
    worst = 0.0
    for scale in (0.1, 1.0, 3.0, 10.0):
        probabilities = (scale * torch.randn(200, 12, generator=g, dtype=DOUBLE)).softmax(dim=1)
        worst = max(worst, float(theory.softmax_jacobian_norm(probabilities).max()))
    half = torch.zeros(12, dtype=DOUBLE)
    half[:2] = 0.5
    _plain(ctx, "softmax_jacobian", worst, kind="random")
    _plain(ctx, "softmax_jacobian", float(theory.softmax_jacobian_norm(half)), kind="two_halves")


def _plain(ctx: Context, metric: str, value: float, **where: Any) -> None:
    ctx.record(metric, value, unit="ratio", method="", **where)


def sum_is_n_avg(ctx: Context, *, dataset_size: int, n: int, neighbours_k: int = 5) -> None:
    """Row 7: at one length, Sum and n times Avg are the same vectors for kNN, cosine and standardised logistic
    regression.

    On patches of real digits: rows of an image are its tokens.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler

    images = ctx.dataset("mnist_5k")
    rows = ctx.generator("rows").permutation(len(images))[:dataset_size]
    x = torch.from_numpy(images.data[rows] / 255.0)[:, :n]
    y = images.targets[rows]
    a, s = Avg()(x).numpy(), Sum()(x).numpy()
    half = dataset_size // 2
    _plain(ctx, "sum_minus_n_avg", float(np.abs(s - n * a).max() / np.abs(s).max()), n=n)
    norm = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, s)]
    _plain(ctx, "cosine_gap", float(np.abs(norm[0] @ norm[0].T - norm[1] @ norm[1].T).max()), n=n)
    knn = [KNeighborsClassifier(neighbours_k).fit(v[:half], y[:half]).predict(v[half:]) for v in (a, s)]
    _plain(ctx, "knn_disagreements", float((knn[0] != knn[1]).sum()), n=n)
    fits = []
    for v in (a, s):
        z = StandardScaler().fit(v[:half]).transform(v)
        fits.append(LogisticRegression(max_iter=2000).fit(z[:half], y[:half]).predict_proba(z[half:]))
    _plain(ctx, "logistic_gap", float(np.abs(fits[0] - fits[1]).max()), n=n)


# ---------------------------------------------------------------- blocks


def blocks(
    ctx: Context,
    *,
    n: list[int],
    models: int,
    points: int,
    directions: int,
    exceedances: int,
    iterations: int = 15,
    d: int = 16,
    heads: int = 4,
    radius: float = 1.0,
) -> None:
    """Rows 4 to 6, 8, 9 and 12: empirical constants of blocks, alone and stacked, against their bounds.

    ``over_bound``: the largest of local constants by power iteration and of `directions` finite differences, over the
    bound. Every input and perturbed input has rows of norm up to `radius`.
    """
    for model in range(models):
        for length in n:
            ctx.progress((model + length / max(n)) / models / 2, f"blocks n={length}")
            _block_bounds(ctx, model, length, points, directions, iterations, d, heads, radius)
    ctx.progress(0.5, "E_epsilon")
    for trained in (False, True):
        _gammas(ctx, trained, exceedances, d, heads, radius)
    ctx.progress(0.7, "growth")
    for model in range(models):
        _growth(ctx, model, n, iterations, d, heads, radius)
        _scales(ctx, model, d, heads)


def _block_bounds(
    ctx: Context, model: int, n: int, points: int, directions: int, iterations: int, d: int, heads: int,
    radius: float,
) -> None:  # fmt: skip
    g = ctx.torch_generator("blocks", model=model, n=n)
    kinds: dict[str, Sequence[Block]] = {
        "dot": [theory.random_block("dot", d, heads, g)],
        "dot_causal": [theory.random_block("dot", d, heads, g, causal=True)],
        "l2": [theory.random_block("l2", d, heads, g)],
        "scsa": [theory.random_block("scsa", d, heads, g)],
        "dot_stack": [theory.random_block("dot", d, heads, g) for _ in range(3)],
        "l2_stack": [theory.random_block("l2", d, heads, g) for _ in range(3)],
        "scsa_stack": [theory.random_block("scsa", d, heads, g) for _ in range(3)],
    }
    for kind, stack in kinds.items():
        function = _composed(stack)
        bound = theory.stack_lipschitz(stack, n, radius)
        x = theory.rows_within(torch.randn(points, n, d, generator=g, dtype=DOUBLE), radius)
        local = max(theory.local_lipschitz(function, one, g, steps=iterations) for one in x)
        moved = theory.rows_within(
            x.repeat_interleave(directions, 0)
            + 0.3 * torch.randn(points * directions, n, d, generator=g, dtype=DOUBLE),
            radius,
        )
        far = (function(moved) - function(x).repeat_interleave(directions, 0)).flatten(1).norm(dim=1)
        secant = float((far / (moved - x.repeat_interleave(directions, 0)).flatten(1).norm(dim=1)).max())
        where: dict[str, Any] = {"model": model, "n": n, "kind": kind, "method": ""}
        ctx.record("over_bound", max(local, secant) / bound, unit="of K", direction="lower", **where)
        ctx.record("empirical", max(local, secant), unit="1", **where)
        ctx.record("bound", bound, unit="1", **where)
        if kind == "dot":
            _row_bounds(ctx, stack[0], x, g, iterations, radius, where)


def _row_bounds(
    ctx: Context,
    block: Block,
    x: Tensor,
    g: torch.Generator,
    iterations: int,
    radius: float,
    where: dict[str, Any],
) -> None:
    """Record the last row's and the mean row's local constants over T2 and over the smaller of T1/sqrt(n) and T2."""
    n = x.shape[1]
    cases: tuple[tuple[str, Callable[[Tensor], Tensor], float], ...] = (
        ("row_over_bound", lambda v: block(v)[-1], theory.block_lipschitz(block, n, radius, row=True)),
        ("average_over_bound", lambda v: block(v).mean(dim=0), theory.average_lipschitz(block, n, radius)),
    )
    for metric, function, bound in cases:
        local = max(theory.local_lipschitz(function, one, g, steps=iterations) for one in x)
        ctx.record(metric, local / bound, unit="of K", direction="lower", **where)


def _composed(stack: Sequence[Block]) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        for block in stack:
            x = block(x)
        return x

    return function


def _gammas(ctx: Context, trained: bool, count: int, d: int, heads: int, radius: float, n: int = 16) -> None:
    """Row 5: E_epsilon on a grid of sigma against gamma; sigma is chosen so that gamma runs from 0.05 to 5,
    and one that the outputs themselves reach (where gamma is far above 1)."""
    g = ctx.torch_generator("gammas", trained=trained)
    block = theory.random_block("dot", d, heads, g)
    if trained:
        block = _trained(block, n, d, radius, g)
    epsilon = 0.1
    x = theory.rows_within(torch.randn(count, n, d, generator=g, dtype=DOUBLE), radius - epsilon)
    near = neighbours(x, epsilon, g)
    for pooling in (Avg(), Sum(), Last(), Max()):
        moved = distances(pooling(block(near)), pooling(block(x)))
        constant = theory.pooled_lipschitz(block, pooling, n, radius, "operator")
        assert constant is not None
        sigmas = [epsilon * constant / level for level in (0.05, 0.2, 0.5, 0.9, 5.0)] + [
            float(moved.median())
        ]
        for place, sigma in enumerate(sigmas):
            found = exceedance(moved, sigma, 0.99)
            level = theory.gamma(epsilon, sigma, constant)
            where: dict[str, Any] = {
                "method": type(pooling).__name__.lower(),
                "trained": trained,
                "place": place,
            }
            ctx.record("excess", found.high - min(1.0, level), unit="probability", direction="lower", **where)
            ctx.record("vacuous", float(level >= 1), unit="share", **where)
            ctx.record("exceedance", found.share, unit="1", **where)
            ctx.record("gamma", level, unit="1", **where)


def _trained(block: Block, n: int, d: int, radius: float, g: torch.Generator) -> Block:
    """Return the block after 60 steps on a task (the sign of a product of two tokens), weights free."""
    names = ("query", "key", "value", "output", "ffn")
    weights = {k: getattr(block, k).clone().requires_grad_() for k in names}
    head = torch.zeros(d, dtype=DOUBLE, requires_grad=True)
    adam = torch.optim.Adam([*weights.values(), head], lr=0.01)
    for _ in range(60):
        x = theory.rows_within(torch.randn(64, n, d, generator=g, dtype=DOUBLE), radius)
        y = (x[:, 0, 0] * x[:, 1, 1] > 0).double()
        logits = Block("dot", **weights)(x).mean(dim=1) @ head
        adam.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
        adam.step()
    return Block("dot", **{k: v.detach() for k, v in weights.items()})


def _growth(
    ctx: Context, model: int, lengths: Sequence[int], iterations: int, d: int, heads: int, radius: float
) -> None:
    """Row 6: Last's local constant over n; |change of Avg| / |change of Last| for incoherent and for
    sink-token noise."""
    g = ctx.torch_generator("growth", model=model)
    block = theory.random_block("dot", d, heads, g)
    sink = _sink_block(d, heads, g)
    for n in lengths:
        x = theory.rows_within(torch.randn(8, n, d, generator=g, dtype=DOUBLE), radius)
        where: dict[str, Any] = {"model": model, "n": n, "method": ""}
        last = [theory.local_lipschitz(lambda v: block(v)[-1], one, g, steps=iterations) for one in x]
        ctx.record("last_constant", float(np.mean(last)), unit="1", **where)
        noise = 1e-4 * torch.randn(64, n, d, generator=g, dtype=DOUBLE)
        ctx.record(
            "avg_over_last",
            _avg_over_last(block, x[:1].expand(64, n, d), noise),
            unit="ratio",
            noise="incoherent",
            **where,
        )
        x = x.clone()
        x[:, :, 0], x[:, :, 1] = 1.0, 0.0  # coordinate 0 asks, coordinate 1 of the first token answers
        x[:, 0, 1] = 1.0
        noise = torch.zeros(64, n, d, dtype=DOUBLE)
        noise[:, 0, 2:] = 1e-4 * torch.randn(64, d - 2, generator=g, dtype=DOUBLE)
        ctx.record(
            "avg_over_last",
            _avg_over_last(sink, x[:1].expand(64, n, d), noise),
            unit="ratio",
            noise="sink",
            **where,
        )


def _avg_over_last(block: Block, x: Tensor, noise: Tensor) -> float:
    change = block(x + noise) - block(x)
    return float(change.mean(dim=1).norm(dim=1).mean() / change[:, -1].norm(dim=1).mean())


def _sink_block(d: int, heads: int, g: torch.Generator) -> Block:
    """A block all of whose tokens attend to the one that has coordinate 1 set."""
    block = theory.random_block("dot", d, heads, g)
    query, key = torch.zeros_like(block.query), torch.zeros_like(block.key)
    query[:, 0, 0], key[:, 1, 0] = 30.0, 1.0
    return Block("dot", query, key, block.value, block.output, block.ffn)


def _scales(ctx: Context, model: int, d: int, heads: int, n: int = 16) -> None:
    """Rows 8 and 9: local constants of attention alone while the input grows."""
    g = ctx.torch_generator("scales", model=model)
    made = {kind: theory.random_block(kind, d, heads, g) for kind in theory.KINDS}
    x = theory.rows_within(torch.randn(n, d, generator=g, dtype=DOUBLE), 1.0)
    x[0] = 0.0  # a token that attends to all alike: where dot products are steepest
    for scale in (0.1, 1.0, 10.0, 100.0):
        for kind, block in made.items():
            local = theory.local_lipschitz(lambda v: theory.attention(block, v), scale * x, g, steps=30)  # noqa: B023
            where: dict[str, Any] = {"model": model, "scale": scale, "kind": kind, "method": ""}
            ctx.record("attention_constant", local, unit="1", **where)
            if kind != "dot":
                bound = theory.l2_lipschitz(block, n) if kind == "l2" else theory.scsa_lipschitz(block, n)
                ctx.record("attention_over_bound", local / bound, unit="of bound", direction="lower", **where)
