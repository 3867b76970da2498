"""Speed: stacked pairs with hand-derived gradients against a loop of two autograd passes a pair; time of Table 1."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from reproven.harness.context import Context
from reproven.papers.embedding import nets
from reproven.papers.embedding.experiments import table_1
from reproven.papers.embedding.optimisers import GradientRule, norm
from reproven.papers.embedding.properties import FLOAT
from reproven.papers.embedding.splitting import random_coefficients, split_layer
from reproven.papers.embedding.stacked import Batch, StackedNet, stack_embeddings, stack_models
from reproven.papers.embedding.trajectory import train_pairs
from reproven.papers.embedding.trajectory_reference import train_pair

CASES = {
    "toy_mlp": (lambda: nets.mlp([2, 1, 1]), (2,), 0, 100),  # Exps 1 to 4
    "toy_cnn": (lambda: nets.cnn(5, 2, 3), (1, 5, 5), 5, 200),  # Exp. 5
}


def pairs(ctx: Context, *, case: list[str], count: int, steps: int, loop_pairs: int, repeats: int) -> None:
    """Time pair-steps per second, stacked and in a loop, in turns, and compare gradients and parameters.

    count: pairs in the stack. loop_pairs: pairs that the loop trains (its cost is linear in pairs).
    """
    for done, name in enumerate(case):
        make, shape, side, n = CASES[name]
        models, maps, wides, data = [], [], [], []
        for i in range(count):
            g = ctx.torch_generator("pair", case=name, pair=i)
            model = nets.he_normal(make(), g, scale=0.5)
            c = [random_coefficients(2, g) for _ in range(model[0].weight.shape[0])]  # type: ignore[index]
            wide, T = split_layer(model, "0", c)
            x = torch.randn(n, *shape, generator=g, dtype=FLOAT)
            models.append(model)
            wides.append(wide)
            maps.append(T)
            data.append((x, torch.sign(x.flatten(1)[:, 0])))
        net = StackedNet.of(models[0], side)  # type: ignore[arg-type]
        batch = Batch(
            torch.stack([net.inputs(x) for x, _ in data]).contiguous(),
            torch.stack([y for _, y in data]),
            torch.full((count, n), 1 / n, dtype=FLOAT),
        )
        narrow, embedding = stack_models(models), stack_embeddings(maps)
        rule = GradientRule(0.01)
        for repeat in range(-1, repeats):  # the first turn, which imports and allocates, is not recorded
            length = steps if repeat >= 0 else 1
            begin = time.perf_counter()
            record = train_pairs(net, narrow, embedding, lambda step, b=batch: b, rule, length, records=[])  # type: ignore[misc]
            stacked = count * steps / (time.perf_counter() - begin)
            trained = [(copy.deepcopy(models[i]), copy.deepcopy(wides[i])) for i in range(loop_pairs)]
            begin = time.perf_counter()
            for (left, right), T, (x, y) in zip(trained, maps, data, strict=False):
                train_pair(left, right, T, [(x, y)] * length, lambda p: torch.optim.SGD(p, lr=0.01))
            loop = loop_pairs * steps / (time.perf_counter() - begin)
            if repeat < 0:
                continue
            where: dict[str, Any] = {"case": name, "repeat": repeat}
            ctx.record(
                "pair_steps_per_second", stacked, unit="1/s", direction="higher", way="stacked", **where
            )
            ctx.record("pair_steps_per_second", loop, unit="1/s", direction="higher", way="loop", **where)
            ctx.record("speedup", stacked / loop, unit="x", direction="higher", **where)
        theirs = stack_models([right for _, right in trained])
        ours = {k: v[:loop_pairs] for k, v in record.wide.items()}
        gap = norm({k: ours[k] - theirs[k] for k in ours}) / norm(theirs)
        ctx.record_many(
            "trajectory_gap", gap.tolist(), unit="1", direction="lower", case=name, pair=range(loop_pairs)
        )
        _, gradient = net.loss_and_gradient(narrow, batch)
        for i in range(loop_pairs):
            x, y = data[i]
            torch.exp(-y * models[i](x).squeeze(-1)).mean().backward()
            exact = {k: p.grad for k, p in models[i].named_parameters() if p.grad is not None}
            mine = {k: gradient[k][i : i + 1] - v[None] for k, v in exact.items()}
            apart = float(norm(mine) / norm({k: v[None] for k, v in exact.items()}))
            ctx.record("gradient_gap", apart, unit="1", direction="lower", case=name, pair=i)
        ctx.progress((done + 1) / len(case), name)


def table_1_time(ctx: Context, *, exp: list[str], seeds: int, steps: int, full: int, repeats: int) -> None:
    """Time the rows of Table 1, `seeds` pairs each, over `steps` steps and carry it to `full` steps on two cores.

    Rows run as they do in the experiment, one process and one core a row; the longest is started first.
    """
    for repeat in range(repeats):
        seconds = {}
        for name in exp:
            begin = time.perf_counter()
            table_1(Context(), exp=name, seed=list(range(seeds)), coefficients=["uniform"], steps=steps)
            seconds[name] = (time.perf_counter() - begin) * full / steps
            ctx.record("row_seconds", seconds[name], unit="s", direction="lower", exp=name, repeat=repeat)
        cores = [0.0, 0.0]
        for value in sorted(seconds.values(), reverse=True):
            cores[cores.index(min(cores))] += value
        ctx.record("table_seconds", max(cores), unit="s", direction="lower", repeat=repeat)
        ctx.progress((repeat + 1) / repeats)
