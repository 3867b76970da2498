"""Panels on trained pairs: optimisers, starts, KKT certificates, transverse stability, condensation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.papers.embedding import kkt, nets, toys
from reproven.papers.embedding.condensation import ray_distance
from reproven.papers.embedding.experiments import (
    TOYS,
    Toy,
    ToyPair,
    binary_images,
    draw_toy,
    record_steps,
    toy_batches,
)
from reproven.papers.embedding.optimisers import GradientRule, Rule, norm
from reproven.papers.embedding.properties import FLOAT
from reproven.papers.embedding.splitting import Embedding, random_coefficients, split_layer
from reproven.papers.embedding.stacked import (
    Batch,
    Stack,
    StackedEmbedding,
    StackedNet,
    stack_embeddings,
    stack_models,
)
from reproven.papers.embedding.structure import find_path, module_named, units_of
from reproven.papers.embedding.trajectory import relative_error, train_pairs, train_stack, trajectory_error
from reproven.papers.embedding.transverse import (
    crossing_time,
    fitted_rate,
    growth_rates,
    predicted_crossing,
    transverse_hessian,
    transverse_matrix,
)


def _whole(ctx: Context, net: StackedNet, x: Tensor, y: Tensor) -> Batch:
    """Return the full batch, shared by all pairs."""
    weight = torch.full_like(y, 1 / len(y))
    return Batch(net.inputs(x).contiguous().to(ctx.device), y.to(ctx.device), weight.to(ctx.device))


def _constant(batch: Batch) -> Callable[[int], Batch]:
    return lambda step: batch


def _pixels(ctx: Context, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return flat images of two classes in [0, 1], (n, d), and labels."""
    (name,) = ctx.datasets
    x, y = binary_images(ctx, name, classes)
    return (x.flatten(1) + 1) / 2, y


def _split_all(model: nn.Module, layers: Sequence[str], g: torch.Generator) -> tuple[nn.Module, Embedding]:
    """Split every unit of the given layers in two with random coefficients."""
    wide, T = model, Embedding()
    for layer in layers:
        c = [random_coefficients(2, g) for _ in range(units_of(module_named(wide, layer)))]
        wide, step = split_layer(wide, layer, c)
        T = T.then(step)
    return wide, T


def _minibatches(batch: Batch, size: int, generator: torch.Generator) -> Callable[[int], Batch]:
    """Return fresh shuffles of a shared full batch, cut into `size` samples: the same for all pairs and sides."""
    order = toys.LoaderOrder(len(batch.y), generator)
    source = toys.batch_source([order.epoch], size, repeat=False)

    def at(step: int) -> Batch:
        index, weight = (v[0].to(batch.x.device) for v in source(step))
        return Batch(batch.x[:, index], batch.y[index], weight)

    return at


def _run_rule(
    ctx: Context, net: StackedNet, narrow: Stack, embedding: StackedEmbedding, batches: Callable[[int], Batch],
    rule: Rule, steps: int, where: list[dict[str, Any]], wide: Stack | None = None,
) -> None:  # fmt: skip
    """Train a stack of pairs on the same batches and record errors and final losses, one column a pair."""
    seen: list[Tensor] = []

    def watch(step: int, theta: Stack, eta: Stack) -> None:
        seen.append(relative_error(embedding, theta, eta))

    record = train_pairs(
        net, narrow, embedding, batches, rule, steps,
        records=record_steps(steps, 30), loss="logistic", wide=wide, watch=watch, every_step=False,
    )  # fmt: skip
    table = torch.stack(seen)
    for i, axes in enumerate(where):
        errors = table[:, i].tolist()
        ctx.record_many("relative_error", errors, unit="1", direction="lower", step=record.steps, **axes)
        ctx.record("max_relative_error", max(errors), unit="1", direction="lower", **axes)
        for side, losses in (("narrow", record.loss_narrow), ("wide", record.loss_wide)):
            ctx.record("final_loss", float(losses[-1, i]), unit="1", direction="lower", side=side, **axes)


def optimisers(
    ctx: Context, *, seed: list[int], batches: list[str], steps: int, widths: Sequence[int],
    classes: Sequence[int], size: int = 64,
) -> None:  # fmt: skip
    """Train pairs under each update rule (C9): all hidden units split in two with random coefficients.

    widths: of the hidden layers. batches: ``full``, or ``mini``: fresh shuffles in batches of `size`, the same for
    both networks (SGD). Methods are update rules; all see the same starts, data and batches.
    """
    unknown = set(batches) - {"full", "mini"}
    if unknown:
        raise ValueError(f"batches={sorted(unknown)} must be 'full' or 'mini'")
    x, y = _pixels(ctx, classes)
    models, maps = [], []
    for s in seed:
        model = nets.mlp([x.shape[1], *widths, 1])
        nets.he_normal(model, ctx.torch_generator("start", seed=s))
        models.append(model)
        layers = [str(2 * i) for i in range(len(widths))]
        maps.append(_split_all(model, layers, ctx.torch_generator("coefficients", seed=s))[1])
    net = StackedNet.of(models[0])
    batch = _whole(ctx, net, x, y)
    narrow, embedding = stack_models(models, ctx.device), stack_embeddings(maps)
    for done, (method, rule) in enumerate(ctx.methods.items()):
        for kind in batches:
            source = (
                _constant(batch)
                if kind == "full"
                else _minibatches(batch, size, ctx.torch_generator("order"))
            )
            where = [{"method": method, "batches": kind, "seed": s} for s in seed]
            _run_rule(ctx, net, narrow, embedding, source, rule, steps, where)
        ctx.progress((done + 1) / len(ctx.methods), method)


def starts(
    ctx: Context, *, seed: list[int], steps: int, width: int, lr: float, classes: Sequence[int]
) -> None:
    """Train a wide network from each widening's start by gradient descent and compare it with the image (C6).

    Methods are widenings, applied to every unit of one hidden layer in turn; the error is relative to the
    map of the widening itself, so that a widening is judged by its own promise.
    """
    x, y = _pixels(ctx, classes)
    for done, (method, widening) in enumerate(ctx.methods.items()):
        models, wides, maps = [], [], []
        for s in seed:
            model = nets.mlp([x.shape[1], width, 1])
            nets.he_normal(model, ctx.torch_generator("start", seed=s))
            g = ctx.torch_generator("coefficients", seed=s)
            wide, T = model, Embedding()
            for unit in range(width):
                wide, step = widening(wide, "0", 2 * unit, 2, generator=g)
                T = T.then(step)
            models.append(model)
            wides.append(wide)
            maps.append(T)
        net = StackedNet.of(models[0])
        where = [{"method": method, "seed": s} for s in seed]
        _run_rule(
            ctx, net, stack_models(models, ctx.device), stack_embeddings(maps), _constant(_whole(ctx, net, x, y)),
            GradientRule(lr), steps, where, wide=stack_models(wides, ctx.device),
        )  # fmt: skip
        ctx.progress((done + 1) / len(ctx.methods), method)


def _decay(base: float) -> Callable[[int], float]:
    return lambda step: 1 / (1 + step / base)


def kkt_panel(
    ctx: Context, *, seed: list[int], steps: int, control_steps: int, checkpoints: list[int], width: int,
    lr: float, decay: float, classes: Sequence[int],
) -> None:  # fmt: skip
    """Late-phase training of pairs and the KKT certificate of both networks at checkpoints (C7, C8).

    Minimises ``log mean exp(-q)`` by normalised steps ``a_t ||theta|| g / ||g||``, ``a_t = lr / (1 + t /
    decay)``. An independent wide network (own random start) is trained beside each pair as a control.
    """
    x, y = _pixels(ctx, classes)
    models, maps, others = [], [], []
    for s in seed:
        model = nets.mlp([x.shape[1], width, 1])
        nets.he_normal(model, ctx.torch_generator("start", seed=s))
        models.append(model)
        maps.append(_split_all(model, ["0"], ctx.torch_generator("coefficients", seed=s))[1])
        other = nets.mlp([x.shape[1], 2 * width, 1])
        nets.he_normal(other, ctx.torch_generator("independent", seed=s))
        others.append(other)
    net, embedding = StackedNet.of(models[0]), stack_embeddings(maps)
    batch = _whole(ctx, net, x, y)
    rule = GradientRule(lr, normalised=True, relative=True)
    narrow_model, wide_model = models[0], others[0]

    keep = [c for c in checkpoints if c <= steps]

    def certify(step: int, stack: Stack, model: nn.Sequential, side: str) -> list[np.ndarray]:
        multipliers = []
        for i, s in enumerate(seed):
            own = {n: v[i].cpu() for n, v in stack.items()}
            model.load_state_dict(own)
            where: dict[str, Any] = {"step": step, "side": side, "seed": s}
            separated = bool((y * model(x).detach().squeeze(-1)).min() > 0)
            ctx.record("separated", float(separated), unit="1", **where)
            if not separated:
                multipliers.append(np.full(len(y), np.nan))
                continue
            plain, found = kkt.certificate(model, x, y, net.order), kkt.clarke_certificate(model, x, y)
            for metric in CERTIFICATE:
                ctx.record(metric, getattr(found, metric), unit="1", **where)
            euler = abs(found.sum_lambda / found.euler_sum - 1)
            ctx.record("euler_gap", euler, unit="1", direction="lower", **where)
            ctx.record("single_gradient_residual", plain.residual, unit="1", direction="lower", **where)
            multipliers.append(found.multipliers)
        return multipliers

    def watch(step: int, theta: Stack, eta: Stack) -> None:
        ctx.progress(0.8 * step / steps, f"step {step}")
        left, right = certify(step, theta, narrow_model, "narrow"), certify(step, eta, wide_model, "wide")
        image = embedding(theta)
        direction, error = _direction_gap(image, eta), relative_error(embedding, theta, eta)
        for i, (s, a, b) in enumerate(zip(seed, left, right, strict=True)):
            ctx.record("direction_error", float(direction[i]), unit="1", direction="lower", step=step, seed=s)
            ctx.record("relative_error", float(error[i]), unit="1", direction="lower", step=step, seed=s)
            if np.isfinite(a).all():
                gap = float(np.abs(a - b).max() / np.abs(a).max())
                ctx.record("multiplier_gap", gap, unit="1", direction="lower", step=step, seed=s)

    schedule = _decay(decay)
    record = train_pairs(
        net, stack_models(models, ctx.device), embedding, lambda step: batch, rule, steps,
        records=keep, loss="logsumexp", lr_at=schedule, watch=watch, every_step=False,
    )  # fmt: skip
    for i, s in enumerate(seed):
        ctx.record("final_log_loss", float(record.loss_narrow[-1, i]), unit="1", direction="lower", seed=s)

    def independent(step: int, stack: Stack) -> None:
        ctx.progress(0.8 + 0.2 * step / control_steps, "independent")
        certify(step, stack, wide_model, "independent")

    final = train_stack(
        net, stack_models(others, ctx.device), lambda step: batch, rule, control_steps,
        loss="logsumexp", lr_at=schedule, records=keep, watch=independent,
    )  # fmt: skip
    for s, gap in zip(seed, _direction_gap(embedding(record.narrow), final).tolist(), strict=True):
        ctx.record("independent_direction_error", gap, unit="1", seed=s)


CERTIFICATE = (
    "normalised_margin", "smoothed_margin", "residual", "sum_lambda", "euler_sum", "support", "slackness",
    "alignment",
)  # fmt: skip


def _direction_gap(left: Stack, right: Stack) -> Tensor:
    """Return ``|| left / ||left|| - right / ||right|| ||`` of each network, (pairs,)."""
    sizes = norm(left), norm(right)

    def unit(value: Tensor, size: Tensor) -> Tensor:
        return value / size.view(-1, *[1] * (value.ndim - 1))

    return norm({n: unit(left[n], sizes[0]) - unit(right[n], sizes[1]) for n in left})


def transverse_panel(ctx: Context, *, trials: int) -> None:
    """Eigenvalues of the restricted Hessian against the singular values of V (C10), random nets and splits.

    Cases: three-class cross-entropy network, deep scalar network, conv to conv, conv to linear.
    """
    for trial in range(trials):
        for case in ("three_class", "deep", "conv_conv", "conv_linear"):
            g = ctx.torch_generator("transverse", case=case, trial=trial)
            model, layer, x = _transverse_case(case, g)
            labels = torch.randint(3, (len(x),), generator=g)
            y = torch.where(labels > 0, 1.0, -1.0).to(FLOAT)

            def loss(out: Tensor, labels: Tensor = labels, y: Tensor = y, case: str = case) -> Tensor:
                if case == "three_class":
                    return nn.functional.cross_entropy(out, labels)
                return nn.functional.softplus(-y * out.squeeze(-1)).mean()

            copies = int(torch.randint(2, 4, (), generator=g))
            c = random_coefficients(copies, g)
            consumer = find_path(model, layer).consumer
            rows = [[1.0]] * units_of(module_named(model, layer))
            rows[1] = c
            wide, T = split_layer(model, layer, rows)
            v = transverse_matrix(model, layer, 1, x, loss)
            hessian = transverse_hessian(wide, T, layer, consumer, list(range(1, 1 + copies)), x, loss)
            found = torch.linalg.eigvalsh(hessian)
            singular = torch.linalg.svdvals(v).repeat(copies - 1)
            rest = torch.zeros(len(found) - 2 * len(singular), dtype=FLOAT)
            expected = torch.cat([-singular, singular, rest]).sort().values
            gap = float((found - expected).abs().max() / singular.max())
            ctx.record("hessian_gap", gap, unit="1", direction="lower", case=case, trial=trial, copies=copies)
        ctx.progress((trial + 1) / trials)


def _transverse_case(case: str, g: torch.Generator) -> tuple[nn.Sequential, str, Tensor]:
    shape: tuple[int, ...]
    if case == "three_class":
        model, layer, shape = nets.mlp([5, 4, 3]), "0", (5,)
    elif case == "deep":
        model, layer, shape = nets.mlp([4, 5, 4, 1]), "2", (4,)
    elif case == "conv_linear":
        model, layer, shape = nets.cnn(6, 3, 3, pool=2), "0", (1, 6, 6)
    else:
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, bias=False, dtype=FLOAT),
            nn.LeakyReLU(nets.SLOPE),
            nn.Conv2d(2, 2, 3, bias=False, dtype=FLOAT),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8, 1, bias=False, dtype=FLOAT),
        )
        layer, shape = "0", (1, 6, 6)
    nets.he_normal(model, g)
    return model, layer, torch.randn(20, *shape, generator=g, dtype=FLOAT)


PRECISIONS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def instability(
    ctx: Context, *, seed: list[int], split: list[str], steps: int, lr: float, precision: list[str],
    low: float = 1e-12, high: float = 1e-4, every: int = 50,
) -> None:  # fmt: skip
    """Exp. 5 as an instability: growth of the error against sigma_max(V), and escape from the image of T.

    split: ``"0.6,0.8"`` and the like, or ``uniform``, which hides the antisymmetric mode. precision:
    arithmetic of
    both networks; the error is always taken in double precision. low, high: window of the float64 fit; other
    precisions start at their own rounding level. An escape is an error above 1 % of the norm.
    """
    unknown = [p for p in precision if p not in PRECISIONS]
    if unknown:
        raise ValueError(f"precision {unknown[0]!r} is not one of {', '.join(PRECISIONS)}")
    toy = Toy(TOYS["exp5"].released_seed, lr)
    pairs = [
        draw_toy(toy, s, c if c == "uniform" else [float(v) for v in c.split(",")])
        for c in split
        for s in seed
    ]
    for done, name in enumerate(precision):
        times, table = _run_precision(
            toy, pairs, PRECISIONS[name], range(every, steps + 1, every), steps, ctx.device
        )
        for i in range(len(pairs)):
            where: dict[str, Any] = {
                "precision": name,
                "split": split[i // len(seed)],
                "seed": seed[i % len(seed)],
            }
            column = {key: value[:, i] for key, value in table.items()}
            _record_escape(ctx, times, column, name, low, high, where)
        ctx.progress((done + 1) / len(precision), name)


def _run_precision(
    toy: Toy, pairs: Sequence[ToyPair], dtype: torch.dtype, kept: range, steps: int, device: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Train pairs in `dtype`; return times and, in double precision, errors, norms, rates and losses."""
    net = StackedNet.of(pairs[0].model, side=5)
    exact = toy_batches(toy, net, pairs, device)[0](0)
    batch = Batch(exact.x.to(dtype), exact.y.to(dtype), exact.weight.to(dtype))
    embedding = stack_embeddings([p.embedding for p in pairs])
    precise = embedding.to(exact.x)
    narrow = {n: v.to(device, dtype) for n, v in stack_models([p.model for p in pairs]).items()}
    rows: dict[str, list[Tensor]] = {
        "error": [],
        "sigma": [],
        "norm": [],
        "narrow": [],
        "wide": [],
        "moved": [],
    }
    before: Stack = {}

    def watch(step: int, theta: Stack, eta: Stack) -> None:
        left, right = ({n: v.to(FLOAT) for n, v in side.items()} for side in (theta, eta))
        rows["error"].append(trajectory_error(precise, left, right))
        rows["norm"].append(norm(left))
        rows["sigma"].append(growth_rates(net, left, exact).amax(1))
        rows["narrow"].append(net.loss_and_gradient(left, exact)[0])
        rows["wide"].append(net.loss_and_gradient(right, exact)[0])
        rows["moved"].append(norm({n: left[n] - before.get(n, left[n]) for n in left}) / rows["norm"][-1])
        if step <= steps // 2:
            before.update({n: v.clone() for n, v in left.items()})

    rule = GradientRule(toy.lr)
    record = train_pairs(
        net, narrow, embedding, lambda step: batch, rule, steps,
        records=kept, watch=watch, every_step=False,
    )  # fmt: skip
    times = toy.lr * np.asarray(record.steps, dtype=float)
    return times, {key: torch.stack(value).cpu().numpy() for key, value in rows.items()}


def _record_escape(
    ctx: Context, times: np.ndarray, column: dict[str, np.ndarray], precision: str, low: float, high: float,
    where: dict[str, Any],
) -> None:  # fmt: skip
    error, sigma = column["error"], column["sigma"]
    thin = slice(None, None, max(len(times) // 200, 1))
    for metric, key in (
        ("error", "error"),
        ("sigma_max", "sigma"),
        ("loss_narrow", "narrow"),
        ("loss_wide", "wide"),
    ):
        unit = "1/time" if key == "sigma" else "1"
        ctx.record_many(metric, column[key][thin], unit=unit, time=times[thin].tolist(), **where)
    epsilon = float(torch.finfo(PRECISIONS[precision]).eps)
    level = 0.01 * column["norm"]
    escape = crossing_time(times, error / level, 1.0)
    ctx.record("escaped", float(np.isfinite(escape)), unit="1", **where)
    ctx.record("late_movement", float(column["moved"][-1]), unit="1", **where)
    ctx.record("final_sigma_max", float(sigma[-1]), unit="1/time", **where)
    if np.isfinite(escape):
        until = np.concatenate([times[times < escape], [escape]])
        growth = float(np.trapezoid(np.interp(until, times, sigma), until))
        ctx.record("escape_time", escape, unit="time", **where)
        ctx.record("escape_growth", growth, unit="1", log_inverse_epsilon=-float(np.log(epsilon)), **where)
    start = max(low, 1e4 * epsilon)
    rate, points = fitted_rate(times, error, start, high)
    if points >= 5:
        use = (error > start) & (error < high)
        ctx.record("growth_rate", rate, unit="1/time", **where)
        ctx.record("growth_ratio", rate / float(sigma[use].mean()), unit="1", **where)
        begin = crossing_time(times, error, start)
        predicted = predicted_crossing(times, sigma, begin, float(level[-1] / start))
        if np.isfinite(predicted) and np.isfinite(escape):
            ctx.record("escape_time_predicted", predicted, unit="time", **where)
            miss = max(escape / predicted, predicted / escape)
            ctx.record("escape_misprediction", miss, unit="x", direction="lower", **where)


def condensation(
    ctx: Context, *, seed: list[int], width: list[int], scale: list[float], rays: list[int], steps: int,
    lr: float, decay: float, classes: Sequence[int],
) -> None:  # fmt: skip
    """Distance of freely trained wide networks from the images of all k-unit networks (extension).

    Two-layer networks on two digits, He-normal start times `scale`, normalised steps on ``log mean exp(-q)``.
    Records ``dist / ||eta||`` for each number of rays k, before and after training.
    """
    x, y = _pixels(ctx, classes)
    for done, h in enumerate(width):
        models: list[nn.Sequential] = []
        where: list[dict[str, Any]] = []
        for s in seed:
            for sigma in scale:
                model = nets.mlp([x.shape[1], h, 1])
                nets.he_normal(model, ctx.torch_generator("start", seed=s, width=h), sigma)
                models.append(model)
                where.append({"seed": s, "scale": sigma, "width": h})
        net = StackedNet.of(models[0])
        batch = _whole(ctx, net, x, y)
        start = stack_models(models, ctx.device)
        rule = GradientRule(lr, normalised=True, relative=True)
        end = train_stack(net, start, _constant(batch), rule, steps, loss="logsumexp", lr_at=_decay(decay))
        for phase, stack in (("start", start), ("end", end)):
            margins = (batch.y * net.outputs(stack, batch.x)).amin(1) / norm(stack) ** net.order
            for i, axes in enumerate(where):
                neurons = torch.cat([stack["0.weight"][i], stack["2.weight"][i].T], 1).cpu().numpy()
                ctx.record("normalised_margin", float(margins[i]), unit="1", phase=phase, **axes)
                for k in rays:
                    if k <= h:
                        g = ctx.generator("rays", k=k, phase=phase, **axes)
                        distance, _ = ray_distance(neurons, k, g)
                        ctx.record(
                            "ray_distance", distance, unit="1", direction="lower", phase=phase, rays=k, **axes
                        )
        ctx.progress((done + 1) / len(width), f"width {h}")
