"""Probing tasks, global against local, every pooling, both arms, paired seeds; and what W-Avg learned on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.harness.context import Context
from reproven.harness.errors import UserError
from reproven.papers.pooling import tasks
from reproven.papers.pooling.base import Pooling
from reproven.papers.pooling.learned import WAvg
from reproven.papers.pooling.pairs import (
    PairTask,
    fit_fixed_pairs,
    fit_learned_pairs,
    standardised_similarity,
)
from reproven.papers.pooling.probes import (
    Fitted,
    Task,
    draw_seeds,
    fit_fixed,
    fit_learned,
    fit_ridge,
    pooled,
)
from reproven.papers.pooling.tasks import Source

UNITS = {"mse": ("1/variance", "lower"), "spearman": ("correlation", "higher")}


def probe(
    ctx: Context,
    *,
    source: str,
    seed: list[int],
    epochs: int,
    batch: int,
    learned_seeds: int,
    copies: int = 10,
    precision: str = "bfloat16",
    max_tokens: int = 128,
    documents: Mapping[str, Sequence[int]] | None = None,
    pairs: int = 1500,
    char_steps: int = 700,
    char_examples: Sequence[int] = (4000, 2000),
    series_steps: int = 500,
    series_windows: int = 900,
    vit_steps: int = 400,
    images: Sequence[int] = (3000, 1500),
    archives: Sequence[str] = ("osu_leaf", "arrow_head", "gun_point", "italy_power_demand", "acsf1"),
) -> None:
    """Probe every pooling on the tasks of one source, with arms P and C, and record scores and learned weights.

    copies: so many of the seeds are used. learned_seeds: poolings that learn take so many of them, as a copy of
        theirs costs the most.
    source: a text data set (with MiniLM), ``characters``, ``series`` or ``vision``.
    documents: text data set -> (training, test) documents at most.
    Coordinates: task, scope, arm, method, seed (the probe's). ``score`` is in the task's own metric, oriented by
    ``direction``; ``utility`` is the same with higher better, for comparisons over tasks.
    """
    load = ctx.dataset
    tell = lambda share: ctx.progress(0.4 * share, f"features of {source}")  # noqa: E731 - one use a branch
    if source == "characters":
        made = tasks.next_character(
            load, "reuters_r8", steps=char_steps, examples=char_examples[0], test_examples=char_examples[1]
        )
    elif source == "series":
        long = {"daphnet": [1, 4, 7], "kdd_tsad_135": [0]}
        made = tasks.series_source(
            load, archives=archives, long=long, steps=series_steps, windows=series_windows
        )
    elif source == "vision":
        made = tasks.vision_source(load, "mnist_5k", steps=vit_steps, train=images[0], test=images[1])
    else:
        if documents is None or source not in documents:
            raise UserError(f"no number of documents for {source!r}; add it to documents in the budget")
        task, record = tasks.classification(
            load, source, documents=documents[source][0], test_documents=documents[source][1],
            max_tokens=max_tokens, precision=precision, tell=tell,
        )  # fmt: skip
        found: list[Task | PairTask] = [task]
        if source == "newsgroups_20":
            names = load(source)["train"].features["label"].names
            found.append(tasks.topical_similarity(task, names, pairs))
        made = Source(found, {}, record["seconds"], record["bytes"])
    _probe_all(ctx, made, seed[:copies], learned_seeds, epochs, batch)


def probe_llm(
    ctx: Context,
    *,
    source: str,
    seed: list[int],
    epochs: int,
    batch: int,
    learned_seeds: int,
    documents: Mapping[str, Sequence[int]],
    max_tokens: int = 64,
    window: int = 16,
    vocabulary: int = 256,
    precision: str = "bfloat16",
) -> None:
    """The same on SmolLM2-135M, a real language model: classification of every source, next token of newsgroups."""
    load = ctx.dataset
    train, test = documents[source]
    tell = lambda share: ctx.progress(0.5 * share, f"features of {source}")  # noqa: E731 - one use
    task, record = tasks.classification(
        load, source, model="smollm2_135m", documents=train, test_documents=test, max_tokens=max_tokens,
        precision=precision, tell=tell,
    )  # fmt: skip
    found: list[Task | PairTask] = [task]
    if source == "newsgroups_20":
        data, rng = load(source), np.random.default_rng(0)
        pool = tasks.stratified(data["train"]["label"], train, rng)
        held = tasks.stratified(data["test"]["label"], test, rng)
        texts = [*data["train"].select(pool)["text"], *data["test"].select(held)["text"]]
        found.append(
            tasks.next_token(
                task, load, source, "smollm2_135m", texts, window=window, vocabulary=vocabulary,
                max_tokens=max_tokens,
            )
        )  # fmt: skip
    _probe_all(ctx, Source(found, {}, record["seconds"], record["bytes"]), seed, learned_seeds, epochs, batch)


def _probe_all(
    ctx: Context, made: Source, seed: Sequence[int], learned: int, epochs: int, batch: int
) -> None:
    if made.seconds:
        ctx.record("extraction_seconds", made.seconds, unit="s", direction="lower", method="", dataset="")
        ctx.record("store_bytes", made.bytes, unit="B", direction="lower", method="", dataset="")
    for (task, name), value in made.references.items():
        metric = next(t.metric for t in made.tasks if t.name == task)
        unit, direction = UNITS.get(metric, ("1", "higher"))
        ctx.record(
            "reference", value, unit=unit, direction=direction, task=task, reference=name, method="", dataset=""
        )  # fmt: skip
    for i, one in enumerate(made.tasks):
        ctx.progress(0.4 + 0.6 * i / len(made.tasks), one.name)
        if isinstance(one, PairTask):
            _probe_pairs(ctx, one, seed, learned, epochs, batch)
        else:
            _probe_task(ctx, one, seed, learned, epochs, batch)


def _probe_task(ctx: Context, task: Task, seed: Sequence[int], learned: int, epochs: int, batch: int) -> None:
    numbers = [ctx.derive("probe", task=task.name, copy=s) % 2**31 for s in seed]
    seeds = draw_seeds(task, numbers)
    order = ctx.derive("order", task=task.name) % 2**31
    fixed = {name: p for name, p in ctx.methods.items() if not p.learns}
    features = {name: _both(p, task, None) for name, p in fixed.items()}
    by_width: dict[int, list[str]] = {}
    for name, (x, _) in features.items():
        by_width.setdefault(x.shape[2], []).append(name)
    for names in by_width.values():
        x, outer = (torch.cat([features[n][k] for n in names]) for k in (0, 1))
        fitted = fit_fixed(task, x, outer, seeds, epochs=epochs, batch=batch, order=order)
        for name, test in zip(names, fitted.test):
            _record(ctx, task, name, "P", seed, test)
    for name, (x, outer) in features.items():
        _record(ctx, task, name, "C", seed, fit_ridge(task, x[0], outer[0], seeds).test)
    some, seed = seeds.first(learned), seed[:learned]
    for name, pooling in ctx.methods.items():
        if not pooling.learns:
            continue
        fitted = fit_learned(task, pooling, some, epochs=epochs, batch=batch, order=order)
        _record(ctx, task, name, "P", seed, fitted.test)
        x, outer = _both(pooling, task, fitted.parameters)
        converged = [float(fit_ridge(task, x[i], outer[i], some.only(i)).test[0]) for i in range(len(seed))]
        _record(ctx, task, name, "C", seed, torch.tensor(converged))
        _parameters(ctx, task, name, fitted)
        if isinstance(pooling, WAvg):
            _inspect(ctx, task, name, pooling, fitted, seed, outer, {n: f[1][0] for n, f in features.items()})


def _both(pooling: Pooling, task: Task, parameters: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
    return (
        pooled(pooling, task.tokens, task.pool, parameters),
        pooled(pooling, task.tokens, task.test, parameters),
    )


def _probe_pairs(
    ctx: Context, task: PairTask, seed: Sequence[int], learned: int, epochs: int, batch: int
) -> None:
    numbers = [ctx.derive("probe", task=task.name, copy=s) % 2**31 for s in seed]
    order = ctx.derive("order", task=task.name) % 2**31
    everything = np.arange(len(task.tokens))
    features = {n: pooled(p, task.tokens, everything) for n, p in ctx.methods.items() if not p.learns}
    by_width: dict[int, list[str]] = {}
    for name, x in features.items():
        by_width.setdefault(x.shape[2], []).append(name)
        _record(ctx, task, name, "C", seed, [standardised_similarity(task, x[0])] * len(seed))
    for names in by_width.values():
        fitted = fit_fixed_pairs(
            task, torch.cat([features[n] for n in names]), numbers, epochs=epochs, batch=batch, order=order
        )
        for name, test in zip(names, fitted.test):
            _record(ctx, task, name, "P", seed, test)
    numbers, seed = numbers[:learned], seed[:learned]
    for name, pooling in ctx.methods.items():
        if pooling.learns:
            fitted = fit_learned_pairs(task, pooling, numbers, epochs=epochs, batch=batch, order=order)
            _record(ctx, task, name, "P", seed, fitted.test)
            x = pooled(pooling, task.tokens, everything, fitted.parameters)
            _record(ctx, task, name, "C", seed, [standardised_similarity(task, one) for one in x])
            _parameters(ctx, task, name, fitted)


def _record(
    ctx: Context, task: Task | PairTask, name: str, arm: str, seed: Sequence[int], values: Tensor | Sequence[float]
) -> None:  # fmt: skip
    unit, direction = UNITS.get(task.metric, ("1", "higher"))
    where: dict[str, Any] = {
        "task": task.name, "scope": task.scope, "arm": arm, "method": name, "seed": seed, "dataset": "",
    }  # fmt: skip
    values = [float(v) for v in values]
    ctx.record_many("score", values, unit=unit, direction=direction, **where)
    signed = [-v if direction == "lower" else v for v in values]
    ctx.record_many("utility", signed, unit="", direction="higher", **where)


def _parameters(ctx: Context, task: Task | PairTask, name: str, fitted: Fitted) -> None:
    count = sum(v[0].numel() for v in fitted.parameters.values())
    ctx.record(
        "pooling_parameters", count, unit="1/copy", direction="lower", task=task.name, method=name, dataset=""
    )  # fmt: skip


def _inspect(
    ctx: Context,
    task: Task,
    name: str,
    pooling: WAvg,
    fitted: Fitted,
    seed: Sequence[int],
    outer: Tensor,
    fixed: Mapping[str, Tensor],
) -> None:
    """Record W-Avg's weights by position from the end, |a|_2, and cosines of its vectors to fixed poolings'."""
    n = task.tokens.longest
    like = torch.zeros(1, n, task.tokens.width)
    weights = pooling.weights(like, None, fitted.parameters)[0]  # (copies, n)
    for place in range(min(n, 64)):
        ctx.record_many(
            "weight", weights[:, n - 1 - place], unit="share", task=task.name, scope=task.scope, method=name,
            from_end=place, seed=seed, dataset="",
        )  # fmt: skip
    where: dict[str, Any] = {
        "task": task.name,
        "scope": task.scope,
        "method": name,
        "seed": seed,
        "dataset": "",
    }
    ctx.record_many("weight_norm", weights.norm(dim=1), unit="norm", **where)
    ctx.record_many("sharpness", weights.norm(dim=1) * n**0.5, unit="of 1/sqrt(n)", **where)
    ctx.record_many("last_is_largest", (weights.argmax(dim=1) == n - 1).double(), unit="1", **where)
    for other, x in fixed.items():
        if x.shape[1] == outer.shape[2]:
            cosine = torch.nn.functional.cosine_similarity(outer, x[None].float(), dim=2).mean(dim=1)
            ctx.record_many("cosine", cosine, unit="cosine", fixed=other, **where)


def padding(
    ctx: Context,
    *,
    seed: list[int],
    documents: Sequence[int],
    max_tokens: int,
    copies: int = 10,
    precision: str = "bfloat16",
    batch: int = 64,
) -> None:
    """Negative control: what padding on the other side does to each pooling, with its mask and in unmasked twins.

    Tweets in random batches of unequal lengths. ``padding_gap``: largest change of a pooled vector from right to left
    padding, over the mean length of pooled vectors. ``score``: arm C trained under right, tested under left padding.
    """
    task, _ = tasks.classification(
        ctx.dataset, "election_tweets", documents=documents[0], test_documents=documents[1], max_tokens=max_tokens,
        precision=precision,
    )  # fmt: skip
    seed = seed[:copies]
    seeds = draw_seeds(task, [ctx.derive("padding", copy=s) % 2**31 for s in seed])
    order = ctx.generator("batches").permutation(len(task.tokens))
    for name, pooling in ctx.methods.items():
        sides = {}
        for left in (False, True):
            out: list[Tensor] = []
            for part in np.array_split(order, range(batch, len(order), batch)):
                out.append(pooling(*task.tokens.batch(part, left=left)))
            sides[left] = torch.cat(out)[np.argsort(order)]
        gap = (sides[True] - sides[False]).norm(dim=1) / sides[False].norm(dim=1).mean()
        ctx.record(
            "padding_gap", float(gap.max()), unit="of length", direction="lower", method=name, dataset=""
        )
        fitted = fit_ridge(task, sides[False][task.pool], sides[True][task.test], seeds)
        same = fit_ridge(task, sides[False][task.pool], sides[False][task.test], seeds)
        for test_side, found in (("left", fitted.test), ("right", same.test)):
            ctx.record_many(
                "score",
                found,
                unit="1",
                direction="higher",
                method=name,
                test_side=test_side,
                seed=seed,
                dataset="",
            )


__all__ = ["padding", "probe", "probe_llm"]
