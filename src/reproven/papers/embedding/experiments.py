"""Tables 1 and 2: pairs trained with the released seeds and data, and as the paper describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.harness.errors import did_you_mean
from reproven.papers.embedding import nets, toys
from reproven.papers.embedding.optimisers import GradientRule
from reproven.papers.embedding.splitting import Embedding, random_coefficients, split_layer
from reproven.papers.embedding.stacked import Batch, Stack, StackedNet, stack_embeddings, stack_models
from reproven.papers.embedding.structure import module_named, units_of
from reproven.papers.embedding.trajectory import PairRecord, train_pairs
from reproven.papers.embedding.trajectory_reference import train_pair
from reproven.papers.embedding.transverse import fitted_rate, growth_rates

# ---------------------------------------------------------------- Table 1


@dataclass(frozen=True)
class Toy:
    """One row of Table 1. centre: of the Gaussians (0: images). batch: 0 is full batch.

    repeat: first epoch's batches for ever (released code). apart: the wide network draws its own batches.
    total: the loss is the sum over samples (paper), not the mean (code). pool: average pooling (paper,
    Exp. 5).
    """

    released_seed: int
    lr: float
    centre: float = 0.0
    std: float = 0.8
    batch: int = 0
    repeat: bool = True
    apart: bool = False
    total: bool = False
    pool: int = 1
    separable_images: bool = False


TOYS = {
    "exp1": Toy(123, 0.1, 2.0),
    "exp2": Toy(123, 0.1, 1.0),
    "exp3": Toy(123, 0.1, 2.0, batch=16),
    "exp4": Toy(123, 0.1, 2.0, batch=16, apart=True),
    "exp5": Toy(42, 0.001),
    # The paper's description where the released code departs from it.
    "exp1_sum": Toy(123, 0.1, 2.0, total=True),
    "exp1_std1": Toy(123, 0.1, 2.0, std=1.0),
    "exp3_fresh": Toy(123, 0.1, 2.0, batch=16, repeat=False),
    "exp4_fresh": Toy(123, 0.1, 2.0, batch=16, repeat=False, apart=True),
    "exp5_paper": Toy(42, 0.001, pool=2, separable_images=True),
}


def toy_named(name: str) -> Toy:
    """Return a row of Table 1; a ValueError names near misses."""
    if name not in TOYS:
        raise ValueError(f"no row {name!r} of Table 1{did_you_mean(name, list(TOYS))}")
    return TOYS[name]


@dataclass
class ToyPair:
    """One drawn pair: narrow model, data, map, and the generator as the released code leaves it."""

    model: nn.Sequential
    x: Tensor
    y: Tensor
    embedding: Embedding
    generator: torch.Generator


def draw_toy(toy: Toy, seed: int, coefficients: str | Sequence[float]) -> ToyPair:
    """Draw data and start of a row of Table 1; seed 0 is the released one, others add to it.

    coefficients: ``uniform`` (the paper's 1/sqrt 2), ``random``, or the numbers themselves.
    """
    g = torch.Generator().manual_seed(toy.released_seed + seed)
    if toy.centre:
        x, y = toys.two_gaussians(toy.centre, g, toy.std)
        model = nets.mlp([2, 1, 1])
        nets.kaiming_uniform(model, g)
    else:
        x, y = (
            toys.separable_images(g) if toy.separable_images else toys.five_by_five(toy.released_seed + seed)
        )
        for shape in (
            (2, 9),
            (1, 18),
            (4, 9),
            (1, 36),
        ):  # default starts that the released code draws and discards
            torch.empty(shape).uniform_(generator=g)
        model = nets.cnn(5, 2, 3, pool=toy.pool)
        nets.kaiming_normal(model, g)
    units = units_of(module_named(model, "0"))
    if coefficients == "uniform":
        c = [[2**-0.5] * 2] * units
    elif coefficients == "random":
        own = torch.Generator().manual_seed(seed)
        c = [random_coefficients(2, own) for _ in range(units)]
    else:
        c = [[float(v) for v in coefficients]] * units
    return ToyPair(model, x, y, split_layer(model, "0", c)[1], g)


def toy_batches(
    toy: Toy, net: StackedNet, pairs: Sequence[ToyPair], device: str = "cpu"
) -> tuple[Callable[[int], Batch], ...]:
    """Return the batches of the narrow networks and, where they differ, of the wide ones, on `device`."""
    x = net.inputs_of_pairs(torch.stack([p.x for p in pairs])).contiguous().to(device)
    y = torch.stack([p.y for p in pairs]).to(device)
    n = y.shape[1]
    if not toy.batch:
        whole = Batch(x, y, torch.full_like(y, 1.0 if toy.total else 1 / n))
        return (lambda step: whole,)
    loaders = [[toys.LoaderOrder(n, p.generator) for p in pairs] for _ in range(2 if toy.apart else 1)]
    sources = [toys.batch_source([order.epoch for order in side], toy.batch, toy.repeat) for side in loaders]

    per_epoch = -(-n // toy.batch)

    def of(source: Callable[[int], tuple[Tensor, Tensor]]) -> Callable[[int], Batch]:
        cycle: list[Batch] = []

        def at(step: int) -> Batch:
            if toy.repeat and len(cycle) == per_epoch:
                return cycle[step % per_epoch]
            index, weight = (v.to(device) for v in source(step))
            batch = Batch(x.gather(2, index[:, None].expand(-1, x.shape[1], -1)), y.gather(1, index), weight)
            if toy.repeat:
                cycle.append(batch)
            return batch

        return at

    return tuple(of(source) for source in sources)


def table_1(ctx: Context, *, exp: str, seed: list[int], coefficients: list[str], steps: int) -> None:
    """Train the pairs of one row of Table 1, seeds and coefficients stacked, and record errors and losses.

    exp: a key of TOYS. seed: added to the released one. Same-seed pairs share data, start and batches.
    """
    toy = toy_named(exp)
    pairs = [draw_toy(toy, s, c) for c in coefficients for s in seed]
    for p, q in zip(pairs, pairs[len(seed) :], strict=False):  # coefficients share the batches of their seed
        q.generator.set_state(p.generator.get_state())
    net = StackedNet.of(pairs[0].model, side=5)
    sources = toy_batches(toy, net, pairs, ctx.device)
    rates: list[Tensor] = []

    def watch(step: int, narrow: Stack, wide: Stack) -> None:
        ctx.progress(step / steps, exp)
        if net.conv is not None and toy.pool == 1:
            rates.append(growth_rates(net, narrow, sources[0](step - 1)).amax(1))

    record = train_pairs(
        net,
        stack_models([p.model for p in pairs], ctx.device),
        stack_embeddings([p.embedding for p in pairs]),
        sources[0],
        GradientRule(toy.lr),
        steps,
        records=record_steps(steps),
        wide_batches=sources[1] if toy.apart else None,
        watch=watch,
    )
    for i, p in enumerate(pairs):
        where: dict[str, Any] = {
            "exp": exp,
            "seed": seed[i % len(seed)],
            "coefficients": coefficients[i // len(seed)],
        }
        record_pair(ctx, record, i, where)
        if rates:
            values = [float(r[i]) for r in rates]
            ctx.record_many(
                "sigma_max", values, unit="1/time", step=record.steps, time=_times(record, toy), **where
            )
        if exp in ("exp1", "exp2") and coefficients[i // len(seed)] == "uniform":
            _record_boundary(ctx, net, p, record, i, where)


def autograd_pairs(
    ctx: Context, *, exp: str, seed: list[int], steps: int, low: float = 1e-12, high: float = 1e-9
) -> None:
    """Train pairs of a full-batch row of Table 1 as the released code does: two autograd passes a step.

    The arithmetic of stacks rounds equal copies alike, and the errors of Exp. 5 are growing rounding: its logged
    errors can be compared only with the released arithmetic. low, high: window of the fitted rate of growth.
    """
    toy = toy_named(exp)
    if toy.batch or toy.total:
        raise ValueError(f"exp={exp!r} is no full-batch row with the mean loss: use table_1")
    for done, s in enumerate(seed):
        pair = draw_toy(toy, s, "uniform")
        units = units_of(module_named(pair.model, "0"))
        wide, T = split_layer(pair.model, "0", [[2**-0.5] * 2] * units)

        def batches(pair: ToyPair = pair, done: int = done) -> Iterator[tuple[Tensor, Tensor]]:
            for step in range(steps):
                if step % 1000 == 0:
                    ctx.progress((done + step / steps) / len(seed), exp)
                yield pair.x, pair.y

        errors, losses = train_pair(pair.model, wide, T, batches(), partial(torch.optim.SGD, lr=toy.lr))
        where: dict[str, Any] = {"exp": exp, "seed": s, "coefficients": "uniform"}
        _record_curve(ctx, errors, losses, where)
        sizes = [torch.nn.utils.get_total_norm(list(m.parameters())) for m in (pair.model, wide)]
        for side, size in zip(("narrow", "wide"), sizes, strict=True):
            ctx.record("final_norm", float(size), unit="1", side=side, **where)
        times = toy.lr * np.arange(1, steps + 1)
        rate, points = fitted_rate(times, np.asarray(errors), low, high)
        if points >= 5:
            ctx.record("growth_rate", rate, unit="1/time", **where)


def _record_curve(ctx: Context, errors: list[float], losses: list[float], where: dict[str, Any]) -> None:
    """Record error and loss of one pair at the usual steps, and the largest error of all steps."""
    kept, worst = record_steps(len(errors)), max(errors)
    for metric, values in (
        ("error", errors),
        ("loss_narrow", losses),
        ("log10_error", np.log10(np.maximum(errors, 1e-300)).tolist()),
    ):
        ctx.record_many(metric, [values[k - 1] for k in kept], unit="1", step=kept, **where)
    ctx.record("max_error", worst, unit="1", direction="lower", **where)
    ctx.record("log10_max_error", float(np.log10(max(worst, 1e-300))), unit="1", direction="lower", **where)


def _times(record: PairRecord, toy: Toy) -> list[float]:
    return [toy.lr * s for s in record.steps]


def _record_boundary(
    ctx: Context, net: StackedNet, pair: ToyPair, record: PairRecord, i: int, where: dict[str, Any]
) -> None:
    """Record both networks on the unit circle, where their sign gives the boundary, and the data."""
    angles = np.linspace(0, 2 * np.pi, 721)
    points = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)]))
    for side, stack in (("narrow", record.narrow), ("wide", record.wide)):
        out = net.outputs({n: v[i : i + 1].cpu() for n, v in stack.items()}, points)[0].numpy()
        ctx.record_many("output_on_circle", out, unit="1", side=side, angle=angles, **where)
    ctx.record_many(
        "label", pair.y.tolist(), unit="1", x0=pair.x[:, 0].tolist(), x1=pair.x[:, 1].tolist(), **where
    )


def record_steps(steps: int, count: int = 60) -> list[int]:
    """Return every fiftieth of the run and `count` log-spaced steps."""
    spaced = np.unique(np.geomspace(1, steps, count).round().astype(int)).tolist()
    even = range(max(steps // 50, 1), steps + 1, max(steps // 50, 1))
    return sorted({*spaced, *even})


def record_pair(ctx: Context, record: PairRecord, i: int, where: dict[str, Any]) -> None:
    """Record column i of a pair record: curves by step, and maxima and finals."""
    norm = float(record.norm_wide[-1, i])
    ctx.record("diverged", float(not np.isfinite(norm)), unit="1", direction="lower", **where)
    if not np.isfinite(norm):
        return  # a step size beyond stability: overflow of both networks, counted above
    for metric, table in (
        ("error", record.error),
        ("error_window", record.error_max),
        ("loss_narrow", record.loss_narrow),
        ("loss_wide", record.loss_wide),
    ):
        ctx.record_many(metric, table[:, i].tolist(), unit="1", direction="lower", step=record.steps, **where)
    worst, final = float(record.max_error[i]), float(record.error[-1, i])
    finals = {
        "max_error": worst,
        "final_error": final,
        "relative_max_error": worst / norm,
        "log10_max_error": float(np.log10(max(worst, 1e-300))),
        "loss_gap": float((record.loss_narrow[:, i] - record.loss_wide[:, i]).abs().max()),
    }
    ctx.record("final_norm", float(record.norm_narrow[-1, i]), unit="1", side="narrow", **where)
    ctx.record("final_norm", norm, unit="1", side="wide", **where)
    ctx.record_many(
        "log10_error",
        record.error[:, i].clamp(min=1e-300).log10().tolist(),
        unit="1",
        step=record.steps,
        **where,
    )
    for metric, value in finals.items():
        ctx.record(metric, value, unit="1", direction="lower" if "error" in metric else "", **where)


# ---------------------------------------------------------------- Table 2


def binary_images(ctx: Context, name: str, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return images of two classes in [-1, 1], (n, 1, side, side), and labels -1 / +1 in that order."""
    images = ctx.dataset(name)
    data, targets = np.asarray(images.data), np.asarray(images.targets)
    use = np.isin(targets, classes)
    if len(set(targets[use].tolist())) != 2:
        raise ValueError(f"data set {name!r} does not hold both classes {list(classes)}")
    x = torch.from_numpy(data[use].astype(np.float64)) / getattr(images, "peak", 255)
    y = torch.from_numpy(np.where(targets[use] == classes[0], -1.0, 1.0))
    return (x[:, None] - 0.5) / 0.5, y


def table_2(
    ctx: Context, *, model: str, seed: list[int], epochs: int, lr: float = 0.001, batch: int = 64,
    classes: Sequence[int] = (3, 5),
) -> None:  # fmt: skip
    """Train the pairs of Table 2 on two digits: SGD, the same fresh shuffles for both networks, float64.

    model: ``mlp`` (784-128-1 to 256) or ``cnn`` (conv 5x5, 10 to 20 channels, average pool 2, linear).
    Every unit is split in two with 1/sqrt 2. Metrics are taken on the whole training set after each epoch.
    """
    (name,) = ctx.datasets
    x, y = binary_images(ctx, name, classes)
    pairs = [_table_2_pair(model, x.shape[-1], ctx.torch_generator("start", seed=s)) for s in seed]
    net = StackedNet.of(pairs[0][0], side=x.shape[-1])
    orders = [toys.LoaderOrder(len(x), ctx.torch_generator("order", seed=s)) for s in seed]
    source = toys.batch_source([o.epoch for o in orders], batch, repeat=False)
    x, y = x.to(ctx.device), y.to(ctx.device)
    per_epoch = -(-len(x) // batch)
    steps = epochs * per_epoch

    def batches(step: int) -> Batch:
        index, weight = (v.to(ctx.device) for v in source(step))
        return Batch(net.inputs_of_pairs(x[index]), y[index], weight)

    watched: list[dict[str, Tensor]] = []

    def watch(step: int, narrow: Stack, wide: Stack) -> None:
        ctx.progress(step / steps, f"epoch {step // per_epoch}")
        watched.append(_evaluate(net, narrow, wide, x, y))

    kept = sorted(
        {e for e in (1, 2, 5, 10, 20, 30, 50, 100, 200, 300, 500, 700, 1000) if e <= epochs} | {epochs}
    )
    record = train_pairs(
        net,
        stack_models([p[0] for p in pairs], ctx.device),
        stack_embeddings([p[1] for p in pairs]),
        batches,
        GradientRule(lr),
        steps,
        records=[e * per_epoch for e in kept],
        watch=watch,
    )
    for i, s in enumerate(seed):
        where: dict[str, Any] = {"model": model, "seed": s}
        record_pair(ctx, record, i, where)
        for metric in watched[0]:
            values = [float(w[metric][i]) for w in watched]
            ctx.record_many(metric, values, unit=UNITS[metric], epoch=kept, step=record.steps, **where)
        for side in ("narrow", "wide"):
            final = float(watched[-1][f"accuracy_{side}"][i])
            ctx.record("final_accuracy", final, unit="%", direction="higher", side=side, **where)


UNITS = {"accuracy_narrow": "%", "accuracy_wide": "%", "full_loss_narrow": "1", "full_loss_wide": "1",
         "predictions_differing": "1"}  # fmt: skip


def _table_2_pair(model: str, side: int, g: torch.Generator) -> tuple[nn.Sequential, Embedding]:
    if model not in ("mlp", "cnn"):
        raise ValueError(f"model {model!r} is not 'mlp' or 'cnn'")
    narrow = nets.mlp([side * side, 128, 1]) if model == "mlp" else nets.cnn(side, 10, 5, pool=2)
    nets.kaiming_normal(narrow, g)
    units = units_of(module_named(narrow, "0"))
    return narrow, split_layer(narrow, "0", [[2**-0.5] * 2] * units)[1]


def _evaluate(net: StackedNet, narrow: Stack, wide: Stack, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return accuracy (%), full-batch loss of both networks, and on how many samples their signs differ."""
    outs = [
        torch.cat([net.outputs(stack, net.inputs(part)) for part in x.split(512)], 1)
        for stack in (narrow, wide)
    ]
    found = {}
    for side, out in zip(("narrow", "wide"), outs, strict=True):
        found[f"accuracy_{side}"] = 100 * (torch.sign(out) == y).double().mean(1)
        found[f"full_loss_{side}"] = torch.exp(-y * out).mean(1)
    found["predictions_differing"] = (torch.sign(outs[0]) != torch.sign(outs[1])).sum(1)
    return found


# ---------------------------------------------------------------- audit

# entry: (printed in the table, in the saved output of the released notebook, unit of the last printed digit)
PRINTED = {
    "exp1": (4.46e-13, 4.4602e-13, 1e-15),
    "exp2": (5.57e-13, 5.5697e-13, 1e-15),
    "exp3": (4.35e-13, 4.3516e-13, 1e-15),
    "exp5": (2.36e-10, 2.3636e-10, 1e-12),
    "mlp": (2.19e-13, 2.1868e-13, 1e-15),
    "cnn": (1.28e-13, 1.2839e-13, 1e-15),
    "mlp_accuracy": (99.99, 99.99, 0.01),
    "cnn_accuracy": (99.82, 99.79, 0.01),
}


def printed_audit(ctx: Context) -> None:
    """Record how far each printed number is from the paper's own released log, in units of its last digit."""
    for entry, (printed, logged, digit) in PRINTED.items():
        ctx.record(
            "rounding_gap", abs(printed - logged) / digit, unit="last digit", direction="lower", entry=entry
        )
