"""E4: a network that approximates f(x) = sin x - x cos x with hard bounds |N'(x)| <= x, at the paper's own scale."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.papers.prograd.constraints import OneHot, derivative
from reproven.papers.prograd.edit import prepare, written
from reproven.papers.prograd.nets import tanh_net
from reproven.papers.prograd.program import Preserve, Solution, solve_lazily
from reproven.papers.prograd.rows import Block, inset
from reproven.papers.prograd.tail import Space, Tail

END = 3 * np.pi
LAYER = "6"


def target(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return f(x) = sin x - x cos x and f'(x) = x sin x."""
    return torch.sin(x) - x * torch.cos(x), x * torch.sin(x)


def approximation(
    ctx: Context, *, nets: int, points: int, epochs: int, batch: int, rate: float, decay: float, dense: int,
    margin: float, box: float,
) -> None:  # fmt: skip
    """Train by gradient descent on values and slopes (GD), then edit the last layer under the bounds, then add cuts.

    Args:
        nets: trained at once, each on points and weights of its own. points: training points, uniform on [0, 3 pi].
        epochs, batch, rate, decay: of Adam, the rate multiplied by `decay` after each epoch. dense: points of the
            grid on (0, 3 pi] on which violations between the training points are looked for, and which stage
            ``prograd_cuts`` is bounded on too (at 0 the bound is an equality, which no float meets).
        margin, box: of the edit.
    Records a net and stage (``gd``, ``prograd``, ``prograd_cuts``): violation (%, of training points), gradient_mse,
    output_mse, dense_violation (%), violation_float32 (%), largest_weight, seconds, solved, rows_used.
    """
    x = torch.as_tensor(ctx.generator("points").uniform(0, END, (nets, points, 1)))
    models = train(
        x, ctx.torch_generator("weights"), ctx.torch_generator("batches"), epochs, batch, rate, decay
    )
    ctx.progress(0.5, "trained")
    grid = torch.linspace(0, END, dense + 1, dtype=torch.float64)[1:, None]
    for i, model in enumerate(models):
        _record(ctx, model, x[i], grid, net=i, stage="gd")
        begin = time.perf_counter()
        edited, found, used = bounded(model, x[i], x[i], margin, box)
        ctx.record("seconds", time.perf_counter() - begin, unit="s", net=i, stage="prograd")
        ctx.record("rows_used", used, unit="rows", net=i, stage="prograd")
        _outcome(ctx, edited, found, x[i], grid, net=i, stage="prograd")
        edited, found, used = bounded(model, torch.cat([x[i], grid]), x[i], margin, box)
        ctx.record("rows_used", used, unit="rows", net=i, stage="prograd_cuts")
        _outcome(ctx, edited, found, x[i], grid, net=i, stage="prograd_cuts")
        ctx.progress(0.5 + 0.5 * (i + 1) / nets, f"net {i}")
        if i == 0:
            _curves(ctx, {"gd": model, "prograd_cuts": edited})


def train(
    x: Tensor,
    weights: torch.Generator,
    batches: torch.Generator,
    epochs: int,
    batch: int,
    rate: float,
    decay: float,
) -> list[nn.Module]:
    """Return networks trained on the mean squared errors of value and slope, all at once, in float32.

    x: (nets, points, 1). The slope comes forward with the value: ``(tanh z)' = (1 - tanh(z)^2) z'``.
    """
    nets, points = x.shape[:2]
    template = [m for m in tanh_net() if isinstance(m, nn.Linear)]
    shapes = [tuple(m.weight.shape) for m in template]
    bound = [s[1] ** -0.5 for s in shapes]
    stack = [
        tuple(b * (2 * torch.rand(size, generator=weights) - 1) for size in ((nets, *s), (nets, 1, s[0])))
        for s, b in zip(shapes, bound)
    ]  # fmt: skip
    parameters = [p.requires_grad_() for pair in stack for p in pair]
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, decay)
    data = x.float()
    value, slope = target(data)
    for _ in range(epochs):
        for rows in torch.randperm(points, generator=batches).split(batch):
            h, d = data[:, rows], torch.ones_like(data[:, rows])
            for k in range(0, len(parameters), 2):
                w, b = parameters[k], parameters[k + 1]
                z, dz = torch.baddbmm(b, h, w.transpose(1, 2)), d @ w.transpose(1, 2)
                h, d = (z, dz) if k == len(parameters) - 2 else _tanh(z, dz)
            loss = ((h - value[:, rows]) ** 2).mean((1, 2)) + ((d - slope[:, rows]) ** 2).mean((1, 2))
            optimiser.zero_grad()
            loss.sum().backward()
            optimiser.step()
        schedule.step()
    return [_unstacked(parameters, i) for i in range(nets)]


def _tanh(z: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
    h = torch.tanh(z)
    return h, (1 - h**2) * dz


def _unstacked(parameters: list[Tensor], i: int) -> nn.Module:
    model = tanh_net().double()
    layers = [m for m in model if isinstance(m, nn.Linear)]
    for layer, w, b in zip(layers, parameters[::2], parameters[1::2]):
        layer.weight.data, layer.bias.data = w[i].detach().double(), b[i, 0].detach().double()
    return model.eval()


def bounded(
    model: nn.Module, x: Tensor, fit: Tensor, margin: float, box: float
) -> tuple[nn.Module, Solution, int]:
    """Return the network whose last layer fits value and slope best (squares) under ``-x <= N'(x) <= x``.

    x: (points, 1), where the bounds must hold, most of which never bind: rows come in when they are missed. fit:
    where the errors are taken. The norm is not named in the paper; squares are what it reports.
    """
    work, points, space = prepare(model, [LAYER], x)
    view = Tail(work, space, points)
    one = OneHot(torch.zeros(len(x), dtype=torch.long))
    slope = derivative(1)(lambda v: view.run(v).inputs[LAYER], points)
    a = view.coefficients(one, {LAYER: slope[..., None]}, biases=False)
    now = derivative(1)(work, points)[:, 0].detach().numpy()
    edge = points[:, 0].numpy()
    block = Block(a, now, *inset(-edge, edge, margin, "slope"), "slope")
    start = np.argsort(edge - np.abs(now))[:100]
    found, used = solve_lazily(
        block,
        space.size,
        start=start,
        slack=margin / 2,
        box=box,
        preserve=errors(work, space, fit),
        size_weight=1e-9,
    )
    if found.status != "optimal":
        return model, found, used
    return written(model, space, found.delta)[0], found, used


def errors(work: nn.Module, space: Space, x: Tensor) -> Preserve:
    """Return the residuals of value and slope as rows: ``A delta = (f - N, f' - N')`` would be a perfect fit."""
    view = Tail(work, space, x)
    (site,) = view.space.sites
    h = view.features()[site.name]
    slope = derivative(1)(lambda v: view.run(v).inputs[site.name], x)[..., None]
    one = OneHot(torch.zeros(len(x), dtype=torch.long))
    a = view.coefficients(one, {site.name: h}, biases=True)
    b = view.coefficients(one, {site.name: slope}, biases=False)
    f, df = target(x)
    missing = torch.cat([f - work(x), df - derivative(1)(work, x)])[:, 0]
    return Preserve(sparse.csr_array(sparse.vstack([a, b])), 1.0, missing.detach().numpy())


def _outcome(
    ctx: Context, model: nn.Module, found: Solution, x: Tensor, grid: Tensor, *, net: int, stage: str
) -> None:
    ctx.record("solved", found.status == "optimal", unit="1", direction="higher", net=net, stage=stage)
    _record(ctx, model, x, grid, net=net, stage=stage)


def _record(ctx: Context, model: nn.Module, x: Tensor, grid: Tensor, **at: Any) -> None:
    f, df = target(x)
    with torch.no_grad():
        value, slope = model(x), derivative(1)(model, x)
        between = derivative(1)(model, grid)
        low = copy.deepcopy(model).float()
        rough = derivative(1)(low, x.float())
    for name, share in (
        ("violation", (slope.abs() > x).double().mean()), ("dense_violation", (between.abs() > grid).double().mean()),
        ("violation_float32", (rough.abs() > x.float()).double().mean()),
    ):  # fmt: skip
        ctx.record(name, 100 * float(share), unit="%", direction="lower", **at)
    ctx.record("gradient_mse", float(((slope - df) ** 2).mean()), unit="1", direction="lower", **at)
    ctx.record("output_mse", float(((value - f) ** 2).mean()), unit="1", direction="lower", **at)
    worst = max(float(p.abs().max()) for p in model.get_submodule(LAYER).parameters())
    ctx.record("largest_weight", worst, unit="weight", **at)


def _curves(ctx: Context, models: dict[str, nn.Module]) -> None:
    x = torch.linspace(0, END, 241, dtype=torch.float64)[:, None]
    for stage, model in models.items():
        with torch.no_grad():
            slope = derivative(1)(model, x)
        ctx.record_many("slope", slope[:, 0].tolist(), unit="1", x=x[:, 0].tolist(), stage=stage, net=0)
    ctx.record_many("slope", target(x)[1][:, 0].tolist(), unit="1", x=x[:, 0].tolist(), stage="f'", net=0)
