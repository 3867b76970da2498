"""Speed: what arc ridge adds to a training step, and what a path of all lambdas costs, in processor time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.papers.arc_ridge.arc import ArcRidge
from reproven.papers.arc_ridge.path import arc_path

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-4, weight_decay=0.0),
}


def _mlp(generator: torch.Generator) -> nn.Module:
    net = nn.Sequential(nn.Linear(784, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / max(p.shape[-1], 1) ** 0.5 * (p.ndim > 1))
    return net


def arc_step(
    ctx: Context, *, optimiser: list[str], every: list[int], blocks: int, images: int, mlp_batch: int
) -> None:
    """Time a training step with and without arc ridge on EfficientNet-Lite0 and on a 3-layer perceptron.

    Both steps see the same gradients: forward and backward pass are timed once, the bare step and the step with arc
    ridge on twins after it. A block is as many steps as lie between two measurements of arc ridge.
    ``ratio = (passes + arc step) / (passes + bare step)``. images, mlp_batch: sizes of the batches.
    """
    lite = ctx.dataset("efficientnet_lite0")
    photos = ctx.dataset("imagenet_20")
    x = torch.as_tensor(photos.data[:images]).permute(0, 3, 1, 2).float() / 127.5 - 1
    y = torch.as_tensor(photos.targets[:images])
    g = ctx.torch_generator("mlp")
    cases: dict[str, tuple[nn.Module, Tensor, Tensor]] = {
        "efficientnet_lite0": (lite, x, y),
        "mlp": (
            _mlp(g),
            torch.randn(mlp_batch, 784, generator=g),
            torch.randint(10, (mlp_batch,), generator=g),
        ),
    }
    for case, (model, inputs, labels) in cases.items():
        for name in optimiser:
            for k in every:
                count = blocks if case == "mlp" or k > 1 else 1
                _time_case(ctx, case, name, k, count, copy.deepcopy(model), inputs, labels)
                ctx.progress(0.5, f"{case} {name} k={k}")


def _time_case(
    ctx: Context, case: str, name: str, k: int, blocks: int, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    twin = copy.deepcopy(model)
    bare = OPTIMISERS[name](model.parameters())
    arc = ArcRidge(OPTIMISERS[name](twin.parameters()), 1e-6, every=k)
    size = k if case == "efficientnet_lite0" else 10 * k
    for block in range(-1, blocks):  # the first block warms up
        passes, with_arc, without = 0.0, 0.0, 0.0
        for _ in range(size):
            begin = time.process_time()
            bare.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            passes += time.process_time() - begin
            for p, q in zip(model.parameters(), twin.parameters()):
                q.grad = None if p.grad is None else p.grad.clone()
            begin = time.process_time()
            bare.step()
            without += time.process_time() - begin
            begin = time.process_time()
            arc.step()
            with_arc += time.process_time() - begin
        if block >= 0:
            where: dict[str, Any] = {"case": case, "optimiser": name, "every": k, "block": block}
            ctx.record(
                "ratio", (passes + with_arc) / (passes + without), unit="x", direction="lower", **where
            )
            ctx.record("step_seconds", (passes + without) / size, unit="s", direction="lower", **where)


def path_cost(ctx: Context, *, steps: int, every: int, lams: int, batch: int, repeats: int) -> None:
    """Time a path of `lams` lambdas against one bare run and against as many runs of weight decay.

    The path takes length and norm every `every` steps. It must stop where a run of `ArcRidge` of its own stops.
    """
    g = ctx.torch_generator("data")
    x, y = torch.randn(2000, 784, generator=g), torch.randint(10, (2000,), generator=g)
    grid = np.logspace(-2, 1.5, lams)

    def one(decay: float) -> float:
        model = _mlp(ctx.torch_generator("start"))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=decay)
        begin = time.process_time()
        for step in range(steps):
            _backward(model, optimiser, x, y, step, batch)
            optimiser.step()
        return time.process_time() - begin

    one(0.0)  # warms up
    for repeat in range(repeats):
        bare = one(0.0)
        model = _mlp(ctx.torch_generator("start"))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        begin = time.process_time()
        path = arc_path(
            optimiser,
            lambda arc, m=model, o=optimiser: _backward(m, o, x, y, arc.steps, batch),  # type: ignore[misc]
            steps, every=every, lams=grid.tolist(),
        )  # fmt: skip
        spent = time.process_time() - begin
        ctx.record("path_over_run", spent / bare, unit="x", direction="lower", repeat=repeat)
        if repeat == 0:
            total = sum(one(float(lam)) for lam in grid)
            ctx.record("decay_over_run", total / bare, unit="x", direction="lower", repeat=repeat)
            for lam in grid[:: max(1, lams // 4)]:
                ctx.record("stop_mismatch", _mismatch(ctx, path.stop(float(lam)).step, float(lam), steps, every,
                           x, y, batch), unit="steps", direction="lower", lam=float(lam))  # fmt: skip
        ctx.progress((repeat + 1) / repeats, "paths")


def _backward(
    model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, step: int, batch: int
) -> float:
    rows = torch.arange(step * batch, (step + 1) * batch) % len(x)
    optimiser.zero_grad()
    loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    return loss.item()


def _mismatch(
    ctx: Context, step: int, lam: float, steps: int, every: int, x: Tensor, y: Tensor, batch: int
) -> float:
    """Return by how many steps a look-up differs from the run that stops with this lambda."""
    model = _mlp(ctx.torch_generator("start"))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    arc = ArcRidge(optimiser, lam, every=every, rule="stop")
    for _ in range(steps):
        _backward(model, optimiser, x, y, arc.steps, batch)
        if arc.step().stopped:
            break
    return float(abs(arc.steps - step))
