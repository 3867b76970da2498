"""Speed: batched constraint assembly, forward-mode Integrated Gradients, and the linear programs; each in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import nn

from reproven.harness.context import Context
from reproven.papers.prograd import prograd_reference
from reproven.papers.prograd.attribution import gauss_legendre, token_features
from reproven.papers.prograd.constraints import grad_cam_rows
from reproven.papers.prograd.language import VOCABULARY, AnswerLogits, body, small_llama
from reproven.papers.prograd.program import solve
from reproven.papers.prograd.rows import Block, min_max, min_max_block
from reproven.papers.prograd.tail import Tail, edit_space, float64_copy


def _best(call: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        value = call()
        times.append(time.perf_counter() - begin)
    return min(times), value


def assembly(
    ctx: Context, *, images: int, channels: int, side: int, classes: int, loop_images: int, repeats: int
) -> None:
    """Time the rows of Grad-CAM maps (an EfficientNet-Lite0 head: normalisation, ReLU6, mean, fully connected).

    Ours: one forward-mode pass for all pixels. The loop: one autograd call a pixel through the same head, the feature
    maps cached for it too; it is timed on `loop_images` images and scaled (its cost is linear in them). Records
    seconds, speedup, row_gap (largest relative difference of the rows).
    """
    g = ctx.torch_generator("features")
    head = nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    ).double().eval()  # fmt: skip
    z = torch.randn((images, channels, side, side), generator=g, dtype=torch.float64)
    labels = torch.randint(classes, (images,), generator=g)
    work = float64_copy(head)

    def ours() -> np.ndarray:
        space = edit_space(work, ["4"], outputs=sorted(set(labels.tolist())), bias=False)
        return grad_cam_rows(Tail(work, space, z, at="1:input"), labels)[0].data.reshape(-1, channels)

    def loop() -> np.ndarray:
        tail = nn.Sequential(*list(head)[1:])
        at = head[0](z[:loop_images]).detach()
        return prograd_reference.grad_cam_rows_by_autograd(
            tail, at, labels[:loop_images].tolist(), head.get_parameter("4.weight")
        )

    fast, rows = _best(ours, repeats)
    slow, plain = _best(loop, 1)
    slow *= images / loop_images
    gap = float(np.abs(rows[: len(plain)] - plain).max() / np.abs(plain).max())
    ctx.record("seconds", fast, unit="s", direction="lower", way="batched")
    ctx.record("seconds", slow, unit="s", direction="lower", way="loop")
    ctx.record("speedup", slow / fast, unit="x", direction="higher", images=images)
    ctx.record("row_gap", gap, unit="1", direction="lower", images=images)


def integrated(ctx: Context, *, tokens: int, nodes: int, width: int, repeats: int) -> None:
    """Time the features of Integrated Gradients: all tokens over one primal, against one product a token and node.

    ``token_loop`` runs all nodes of a token at once, but a primal a token. Records seconds, speedup, row_gap.
    """
    torch.manual_seed(ctx.derive("weights"))
    model = AnswerLogits(small_llama(VOCABULARY, width, 2, 4)).eval().requires_grad_(False)
    g = ctx.torch_generator("tokens")
    x, base = model.embed(
        torch.stack(
            [torch.randint(VOCABULARY, (tokens,), generator=g), torch.zeros(tokens, dtype=torch.long)]
        )
    )
    alpha, weights = gauss_legendre(nodes)
    step = x - base
    path = base[None] + torch.as_tensor(alpha).to(x).reshape(-1, 1, 1) * step

    def hidden(e: torch.Tensor) -> torch.Tensor:
        return body(model, e)

    def token_loop() -> np.ndarray:
        found = []
        for j in range(tokens):
            direction = torch.zeros_like(path)
            direction[:, j] = step[j]
            along = torch.func.jvp(hidden, (path,), (direction,))[1]
            found.append(torch.as_tensor(weights).to(along) @ along)
        return torch.stack(found).numpy(force=True)

    ways: dict[str, Callable[[], np.ndarray]] = {
        "batched": lambda: token_features(hidden, x, base, range(tokens), nodes).numpy(force=True),
        "token_loop": token_loop,
        "single_products": lambda: prograd_reference.integrated_rows_by_token(
            hidden, x, base, alpha, weights
        ),
    }
    with torch.no_grad():
        seconds = dict.fromkeys(ways, float("inf"))
        values = {}
        for turn in range(repeats):  # the ways in turn, so that all of them meet the machine's quiet moments
            for name, call in ways.items():
                if turn and name == "single_products":
                    continue  # once: it takes as long as all others
                took, values[name] = _best(call, 1)
                seconds[name] = min(seconds[name], took)
    for name in ways:
        ctx.record("seconds", seconds[name], unit="s", direction="lower", way=name)
        if name != "batched":
            gap = np.abs(values[name] - values["batched"]).max() / np.abs(values[name]).max()
            ctx.record("speedup", seconds[name] / seconds["batched"], unit="x", direction="higher", way=name)
            ctx.record("row_gap", float(gap), unit="1", direction="lower", way=name)


def programs(
    ctx: Context, *, width: int, pixels: int, classes: int, per_class: int, epsilon: float, whole_classes: list[int],
    limit: float,
) -> None:  # fmt: skip
    """Time the programs of a ResNet-like edit: decoupled by class row, and as one.

    Features are ReLU-like with a few shared patterns, targets the maps of features nearby. whole_classes: sizes at
    which the undecoupled program is timed (with L1, so that both have one optimum), up to `limit` seconds each.
    Records seconds by way and classes, solved, objective_gap, rows, nonzeros.
    """
    blocks = synthetic(ctx.generator("features"), width, pixels, classes, per_class, epsilon)
    at: dict[str, Any] = {"classes": classes}
    begin = time.perf_counter()
    found = solve(blocks, classes * width, size="l1", box=3.0)
    ctx.record("seconds", time.perf_counter() - begin, unit="s", direction="lower", way="decoupled", **at)
    ctx.record("solved", found.status == "optimal", unit="1", direction="higher", way="decoupled", **at)
    ctx.record("nonzeros", found.nonzeros, unit="entries", way="decoupled", **at)
    for count in whole_classes:
        some = synthetic(ctx.generator("features"), width, pixels, count, per_class, epsilon)
        apart = _timed(ctx, some, count * width, True, limit, {"way": "decoupled_small", "classes": count})
        whole = _timed(ctx, some, count * width, False, limit, {"way": "whole", "classes": count})
        if whole is not None and apart is not None:
            gap = abs(whole - apart) / max(abs(apart), 1e-12)
            ctx.record("objective_gap", gap, unit="1", direction="lower", classes=count)


def _timed(ctx: Context, blocks: list[Block], n: int, decouple: bool, limit: float, at: dict) -> float | None:
    begin = time.perf_counter()
    found = solve(blocks, n, size="l1", box=3.0, decouple=decouple, time_limit=limit)
    ctx.record("seconds", time.perf_counter() - begin, unit="s", direction="lower", **at)
    ctx.record("solved", found.status == "optimal", unit="1", direction="higher", **at)
    return found.objective if found.status == "optimal" else None


def synthetic(
    rng: np.random.Generator, width: int, pixels: int, classes: int, per_class: int, epsilon: float
) -> list[Block]:
    """Return min-max blocks of images with non-negative smooth features, each class in columns of its own."""
    blocks = []
    for c in range(classes):
        weight = rng.normal(size=width) * 0.03
        for i in range(per_class):
            pattern = np.abs(rng.normal(size=(pixels, 12)) @ rng.normal(size=(12, width)))
            v = np.maximum(pattern + 0.5 * rng.normal(size=(pixels, width)), 0) / pixels
            clean = np.maximum(pattern + 0.5 * rng.normal(size=(pixels, width)), 0) / pixels
            value = v @ weight
            starts = np.arange(pixels + 1) * width
            columns = np.tile(np.arange(width) + c * width, pixels)
            a = sparse.csr_array((v.ravel(), columns, starts), shape=(pixels, classes * width))
            target = min_max(clean @ weight)
            blocks.append(
                min_max_block(
                    a,
                    value,
                    target,
                    epsilon=epsilon,
                    margin=1e-5,
                    floor=0.1 * float(np.ptp(value)),
                    label=f"class {c} image {i}",
                )
            )
    return blocks
