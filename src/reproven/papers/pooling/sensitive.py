"""Expressivity curves, sentence variants, attacks, and the sweep over the share of signal tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.harness.errors import UserError
from reproven.papers.pooling import tasks
from reproven.papers.pooling.base import Pooling, PoolingLayer
from reproven.papers.pooling.features import dense, token_ids
from reproven.papers.pooling.probes import Fitted, Head, Task, draw_seeds, fit_fixed, fit_learned, pooled
from reproven.papers.pooling.sensitivity import auc, distances, exceedance, neighbours, spread
from reproven.papers.pooling.sentences import SENTENCES

# ---------------------------------------------------------------- expressivity


def expressivity(
    ctx: Context,
    *,
    source: str,
    inputs: int,
    noises: int,
    share: list[float],
    blocks: int = 10,
    n: int = 32,
    vit_steps: int = 400,
    images: int = 3000,
    series_steps: int = 500,
    series_windows: int = 900,
) -> None:
    """gamma(epsilon) of every pooling on real inputs: mean distance of pooled outputs to those of an epsilon-neighbour.

    epsilon is a `share` of the mean length of the inputs (token embeddings of MiniLM, pixels, normalised
    series). Metrics:
    ``gamma``, and ``scale_free``, gamma over the mean distance of different inputs; ``exceedance`` of the
    median distance that Avg has at the largest share. One value a block of inputs.
    """
    x, function = _frozen(ctx, source, inputs, n, vit_steps, images, series_steps, series_windows)
    length = float(x.flatten(1).norm(dim=1).mean())
    with torch.inference_mode():
        clean = function(x)
        outputs = {name: p(clean) for name, p in ctx.methods.items()}
        scale = {name: spread(v) for name, v in outputs.items()}
        sigma = None
        for level in sorted(share, reverse=True):
            g = ctx.torch_generator("noise", source=source, share=level)
            moved: dict[str, Tensor] = {name: torch.zeros(noises, len(x)) for name in outputs}
            for k in range(noises):
                states = function(neighbours(x, level * length, g))
                for name, pooling in ctx.methods.items():
                    moved[name][k] = distances(pooling(states), outputs[name])
            if sigma is None:
                sigma = float(next(iter(moved.values())).median())
            _record_moved(ctx, moved, scale, sigma, level, source, blocks, clean.shape[1])


def _record_moved(
    ctx: Context,
    moved: Mapping[str, Tensor],
    scale: Mapping[str, float],
    sigma: float,
    level: float,
    source: str,
    blocks: int,
    n: int,
) -> None:
    for name, found in moved.items():
        values = np.array([float(b.mean()) for b in found.mean(dim=0).tensor_split(blocks)])
        where: dict[str, Any] = {
            "source": source,
            "share": level,
            "method": name,
            "block": range(blocks),
            "dataset": "",
        }
        ctx.record_many("gamma", values, unit="distance", **where)
        ctx.record_many("scale_free", values / scale[name], unit="of spread", **where)
        rate = exceedance(found.flatten(), sigma)
        for metric, value in (
            ("exceedance", rate.share),
            ("exceedance_low", rate.low),
            ("exceedance_high", rate.high),
        ):
            ctx.record(metric, value, unit="1", source=source, share=level, method=name, dataset="")
        if name in ("pool_sum",) and "pool_avg" in moved:
            ratio = found / moved["pool_avg"] / n
            ctx.record_many(
                "sum_over_n_avg", [float(ratio.min()), float(ratio.max())], unit="ratio", source=source, share=level,
                end=["least", "most"], method=name, dataset="",
            )  # fmt: skip
            gap = float(found.mean()) / scale[name] / (float(moved["pool_avg"].mean()) / scale["pool_avg"])
            ctx.record(
                "sum_over_avg_scale_free",
                gap,
                unit="ratio",
                source=source,
                share=level,
                method=name,
                dataset="",
            )


def _frozen(
    ctx: Context,
    source: str,
    inputs: int,
    n: int,
    vit_steps: int,
    images: int,
    series_steps: int,
    windows: int,
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return inputs (count, ...) and the frozen backbone from them to states (count, n, d)."""
    if source == "text":
        model, tokenizer = ctx.dataset("minilm_l6")
        texts = list(ctx.dataset("reuters_r8")["test"]["text"])[: 4 * inputs]
        rows = [r for r in token_ids(tokenizer, texts, n) if len(r) == n][:inputs]
        if len(rows) < inputs:
            raise UserError(f"only {len(rows)} texts have {n} tokens; ask for fewer than {inputs} inputs")
        embedded = model.get_input_embeddings()(torch.tensor(rows)).detach()
        return embedded, lambda x: torch.cat(
            [model(inputs_embeds=part).last_hidden_state for part in x.split(128)]
        )
    if source == "vision":
        vit, x, _ = tasks.small_vit(ctx.dataset, "mnist_5k", steps=vit_steps, train=images)
        return torch.from_numpy(x[images : images + inputs]), vit
    if source == "series":
        encoder, values = series_encoder(ctx, series_steps, windows)
        return torch.from_numpy(values[:inputs]), encoder
    raise UserError(f"expressivity has no source {source!r}; take text, vision or series")


def series_encoder(ctx: Context, steps: int, windows: int) -> tuple[Any, np.ndarray]:
    """Return the encoder of the series tasks, trained on Daphnet alone, and held-out windows of it."""
    gap = np.arange(8)
    parts = [
        tasks.long_windows(
            ctx.dataset("daphnet").values[c], length=128, horizon=24, count=windows // 3, gap=gap
        )
        for c in (1, 4, 7)
    ]
    from reproven.data import provider
    from reproven.papers.pooling import backbones

    train = np.concatenate([p.inputs[p.train] for p in parts])
    model = backbones.trained(
        {
            "kind": "series_daphnet",
            "steps": steps,
            "windows": windows,
            "seed": 0,
            "digest": provider.digest("daphnet"),
        },
        backbones.SeriesEncoder,
        lambda m: backbones.train_series_encoder(m, [train], steps=steps, batch=32, seed=0),
    )
    return model, np.concatenate([p.inputs[~p.train] for p in parts])


def sentence_variants(ctx: Context, *, sentences: int) -> None:
    """Distances of a sentence to variants with a near-synonym and with an unrelated word, MiniLM (Figs. 2 and 4).

    ``auc``: a sentence's share of (synonym, unrelated) pairs in the right order; no scale is in it.
    """
    model, tokenizer = ctx.dataset("minilm_l6")
    chosen = SENTENCES[:sentences]
    texts = [t.format(w) for t, word, near, far in chosen for w in (word, *near, *far)]
    rows = token_ids(tokenizer, texts, 64)
    n = max(len(r) for r in rows)
    ids = torch.tensor([r + [0] * (n - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (n - len(r)) for r in rows])
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        for name, pooling in ctx.methods.items():
            out = pooling(states, mask).view(len(chosen), 5, -1)
            gap = distances(out[:, 1:], out[:, :1]).numpy()
            where: dict[str, Any] = {"method": name, "sentence": range(len(chosen)), "dataset": ""}
            ctx.record_many(
                "auc", [auc(row[:2], row[2:]) for row in gap], unit="1", direction="higher", **where
            )
            for kind, columns in (("synonym", gap[:, :2]), ("unrelated", gap[:, 2:])):
                ctx.record_many("variant_distance", columns.mean(axis=1), unit="distance", kind=kind, **where)


# ---------------------------------------------------------------- attacks


def normalised_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return minus the margin of the right class, logits centred and divided by their deviation: no scale
    saturates it."""
    z = (logits - logits.mean(dim=1, keepdim=True)) / logits.std(dim=1, keepdim=True).clamp(min=1e-12)
    right = z.gather(1, y[:, None])[:, 0]
    other = z.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return other - right


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda z, y: nn.functional.cross_entropy(z, y, reduction="none"),
    "normalised": normalised_margin,
}


def attack(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    epsilon: float,
    loss: str,
    steps: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (attacked images, share of zero gradient entries a image), within epsilon in the largest entry.

    steps = 1: FGSM. More: PGD with steps of epsilon/3 from a random start, and each image keeps its first success.
    """
    start = x.clone()
    if steps > 1:
        start = start + epsilon * (2 * torch.rand(x.shape, generator=generator) - 1)
    at = start.clamp(0, 1)
    best = at.clone()
    flat = torch.zeros(len(x))
    size = epsilon if steps == 1 else epsilon / 3
    won = torch.zeros(len(x), dtype=torch.bool)
    for step in range(steps):
        at = at.detach().requires_grad_()
        gradient = torch.autograd.grad(LOSSES[loss](function(at), y).sum(), at)[0]
        if step == 0:
            flat = (gradient == 0).flatten(1).double().mean(dim=1)
        at = (at.detach() + size * gradient.sign()).clamp(x - epsilon, x + epsilon).clamp(0, 1)
        with torch.no_grad():
            now = function(at).argmax(dim=1) != y
        best = torch.where((won | ~now)[:, None, None], best, at)
        won |= now
    return torch.where(won[:, None, None], best, at), flat


def robustness(
    ctx: Context,
    *,
    seed: list[int],
    epsilon: list[float],
    attacked: int,
    pgd_steps: int,
    copies: int = 5,
    epochs: int = 10,
    vit_steps: int = 400,
    images: Sequence[int] = (3000, 1000),
) -> None:
    """Success of FGSM and PGD on initially correct digits for every pooling's probe on the frozen ViT (Table
    10's check)."""
    model, x, labels = tasks.small_vit(ctx.dataset, "mnist_5k", steps=vit_steps, train=images[0])
    x, labels = x[: sum(images)], labels[: sum(images)]
    from reproven.papers.pooling import backbones

    everything = torch.from_numpy(x)
    states = dense(backbones.states(model, everything))
    task = Task(
        "digit", "global", "classes", states, torch.from_numpy(labels), np.arange(images[0]),
        np.arange(images[0], len(x)), classes=10,
    )  # fmt: skip
    seed = seed[:copies]
    numbers = [ctx.derive("robustness", copy=s) % 2**31 for s in seed]
    seeds = draw_seeds(task, numbers)
    for done, (name, pooling) in enumerate(ctx.methods.items()):
        ctx.progress(done / len(ctx.methods), name)
        fitted = _fit(task, pooling, seeds, epochs)
        for i, copy in enumerate(seed):
            function = _classifier(model, pooling, fitted, i)
            _attacks(
                ctx,
                name,
                copy,
                function,
                everything[task.test],
                task.targets[task.test],
                epsilon,
                attacked,
                pgd_steps,
            )


def _fit(task: Task, pooling: Pooling, seeds: Any, epochs: int) -> Fitted:
    if pooling.learns:
        return fit_learned(task, pooling, seeds, epochs=epochs)
    pool, test = (pooled(pooling, task.tokens, i) for i in (task.pool, task.test))
    return fit_fixed(task, pool, test, seeds, epochs=epochs)


def _classifier(model: Any, pooling: Pooling, fitted: Fitted, copy: int) -> Callable[[Tensor], Tensor]:
    head: Head | None = fitted.head
    assert head is not None
    w, b = (
        (head.weight[copy, :, 0], head.bias[copy, 0, 0]) if pooling.learns else (head.weight[0, :, copy],
        head.bias[0, 0, copy])
    )  # fmt: skip
    p = {k: v[copy] for k, v in fitted.parameters.items()}
    return lambda x: pooling(model(x), None, p) @ w + b


def _attacks(
    ctx: Context, name: str, copy: int, function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor,
    epsilon: Sequence[float], attacked: int, pgd_steps: int,
) -> None:  # fmt: skip
    with torch.no_grad():
        right = function(x).argmax(dim=1) == y
    ctx.record(
        "clean_accuracy",
        float(right.double().mean()),
        unit="1",
        direction="higher",
        method=name,
        seed=copy,
        dataset="",
    )
    x, y = x[right][:attacked], y[right][:attacked]
    for level in epsilon:
        for kind, steps in (("fgsm", 1), ("pgd", pgd_steps)):
            for loss in LOSSES:
                g = ctx.torch_generator("start", copy=copy, epsilon=level)
                moved, flat = attack(function, x, y, level / 255, loss, steps, g)
                with torch.no_grad():
                    won = float((function(moved).argmax(dim=1) != y).double().mean())
                where: dict[str, Any] = {
                    "method": name,
                    "seed": copy,
                    "epsilon": level,
                    "attack": kind,
                    "loss": loss,
                    "dataset": "",
                }
                ctx.record("success", won, unit="1", direction="lower", **where)
                if kind == "fgsm":
                    ctx.record("zero_gradient", float(flat.mean()), unit="1", direction="lower", **where)


# ---------------------------------------------------------------- signal and noise


@dataclass(frozen=True)
class Sets:
    """A batch of the KNN-centroid task: points (batch, n, d), target (batch, d) the mean of the k nearest to
    the first."""

    points: Tensor
    target: Tensor


def knn_centroid(batch: int, k: int, generator: torch.Generator, n: int = 128, d: int = 16) -> Sets:
    """Draw Gaussian points; k of n are signal (the first itself among them), the others noise."""
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} nearest of {n} points: take 1 to {n}")
    x = torch.randn(batch, n, d, generator=generator)
    gaps = torch.cdist(x[:, :1], x)[:, 0]
    nearest = gaps.topk(k, dim=1, largest=False).indices
    return Sets(x, torch.gather(x, 1, nearest[..., None].expand(-1, -1, d)).mean(dim=1))


class SetModel(nn.Module):
    """Points -> encoder layers of torch -> pooling -> linear read-out; the first token is marked as the one
    that asks."""

    def __init__(
        self, pooling: Pooling, d: int, n: int, width: int, layers: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(d, width)
        self.mark = nn.Parameter(torch.randn(width) / width**0.5)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.pool = PoolingLayer(pooling, width, n, generator)
        self.out = nn.Linear(pooling.width(width), d)

    def forward(self, x: Tensor) -> Tensor:
        """Return the predicted centroid, (batch, d)."""
        z = self.embed(x)
        first = torch.zeros(x.shape[1], 1)
        first[0] = 1.0
        return self.out(self.pool(self.encoder(z + first * self.mark)))


def signal_to_noise(
    ctx: Context, *, k: list[int], seed: list[int], steps: int, batch: int, width: int = 32, layers: int = 2,
    test: int = 1000
) -> None:  # fmt: skip
    """Train encoder and pooling together on KNN-centroid sets of 128 points; k signal points among them.

    ``relative_error``: squared error over that of always saying 0, on fresh sets.
    """
    total, done = len(k) * len(seed) * len(ctx.methods), 0
    for signal in k:
        for copy in seed:
            held = knn_centroid(test, signal, ctx.torch_generator("test sets", k=signal, copy=copy))
            for name, pooling in ctx.methods.items():
                ctx.progress(done / total, f"k={signal} {name}")
                done += 1
                g = ctx.torch_generator("sets", k=signal, copy=copy)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(ctx.derive("set model", copy=copy) % 2**31)
                    model = SetModel(pooling, 16, 128, width, layers, ctx.torch_generator("pool", copy=copy))
                adam = torch.optim.Adam(model.parameters(), lr=3e-3)
                rate = torch.optim.lr_scheduler.OneCycleLR(adam, 5e-3, total_steps=steps)
                for _ in range(steps):
                    sets = knn_centroid(batch, signal, g)
                    adam.zero_grad(set_to_none=True)
                    (model(sets.points) - sets.target).square().mean().backward()
                    adam.step()
                    rate.step()
                with torch.inference_mode():
                    gap = torch.cat([model(part) for part in held.points.split(250)]) - held.target
                error = float(gap.square().mean() / held.target.square().mean())
                ctx.record(
                    "relative_error",
                    error,
                    unit="of variance",
                    direction="lower",
                    method=name,
                    k=signal,
                    seed=copy,
                )
