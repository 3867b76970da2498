"""Speed: probing on cached features against re-running the backbone, poolings against the memory's own speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from reproven.harness.context import Context
from reproven.harness.errors import require
from reproven.papers.pooling import tasks
from reproven.papers.pooling.features import Tokens, encode_texts
from reproven.papers.pooling.fixed import Avg, Max, Sum
from reproven.papers.pooling.probes import Task, draw_seeds, fit_fixed, fit_learned, pooled


def probing(
    ctx: Context, *, seed: list[int], documents: int, test_documents: int, max_tokens: int, rerun_probes: int,
    epochs: int = 10, batch: int = 64, precision: str = "bfloat16",
) -> None:  # fmt: skip
    """All poolings and seeds on one data set: features computed once and seeds as one batch, against one backbone pass
    over all documents for every probe (a pooling and a seed), features then kept in memory for its epochs.

    The second way is measured on `rerun_probes` probes, spread over the poolings, and multiplied; a backbone pass for
    every epoch, as without any cache, would be `epochs` times that. Extraction counts in the first way.
    """
    task, _ = tasks.classification(
        ctx.dataset, "election_tweets", documents=documents, test_documents=test_documents, max_tokens=max_tokens,
        precision=precision,
    )  # fmt: skip
    data = ctx.dataset("election_tweets")["train"]
    texts = list(data["text"])[: documents + test_documents]
    model, tokenizer = ctx.dataset("minilm_l6")

    def extract() -> Tokens:
        return encode_texts(model, tokenizer, texts, max_tokens=max_tokens, precision=precision)

    numbers = [ctx.derive("probe", copy=s) % 2**31 for s in seed]
    start = time.perf_counter()
    extract()
    _probe(ctx, task, numbers, epochs, batch, list(ctx.methods))
    cached = time.perf_counter() - start
    ctx.progress(0.5, "re-running the backbone")
    names = list(ctx.methods)
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, rerun_probes).astype(int)]
    start = time.perf_counter()
    for i, name in enumerate(chosen):
        extract()
        _probe(ctx, task, [numbers[i % len(numbers)]], epochs, batch, [name])
    probes = len(names) * len(seed)
    rerun = (time.perf_counter() - start) / rerun_probes * probes
    for way, seconds in (("cached", cached), ("rerun", rerun)):
        ctx.record(
            "seconds", seconds, unit="s", direction="lower", way=way, probes=probes, method="", dataset=""
        )
    ctx.record("speedup", rerun / cached, unit="x", direction="higher", probes=probes, method="", dataset="")


def _probe(ctx: Context, task: Task, numbers: list[int], epochs: int, batch: int, names: list[str]) -> None:
    seeds = draw_seeds(task, numbers)
    groups: dict[int, list[Any]] = {}
    for name in names:
        pooling = ctx.methods[name]
        if pooling.learns:
            fit_learned(task, pooling, seeds, epochs=epochs, batch=batch)
        else:
            groups.setdefault(pooling.width(task.tokens.width), []).append(pooling)
    for members in groups.values():
        x, outer = (torch.cat([pooled(p, task.tokens, i) for p in members]) for i in (task.pool, task.test))
        fit_fixed(task, x, outer, seeds, epochs=epochs, batch=batch)


def bandwidth(ctx: Context, *, batch: int, n: int, d: int, repeats: int) -> None:
    """Avg, Sum and Max without padding against one plain pass over the same memory, and masked Avg against
    sentence-transformers' Pooling on ragged lengths, its mask ready made. Medians; all in turn in one loop."""
    require("sentence_transformers", "peers")
    from sentence_transformers.sentence_transformer.modules import Pooling as Theirs

    g = ctx.torch_generator("tokens")
    tokens = torch.randn(batch, n, d, generator=g)
    mask = torch.arange(n) < torch.randint(n // 4, n + 1, (batch, 1), generator=g)
    features = {"token_embeddings": tokens, "attention_mask": mask.long()}
    theirs = Theirs(d, pooling_mode="mean")
    flat = tokens.view(-1)
    calls: dict[str, Callable[[], Any]] = {
        "floor": lambda: flat.sum(),
        "avg": lambda: Avg()(tokens),
        "sum": lambda: Sum()(tokens),
        "max": lambda: Max()(tokens),
        "masked_avg": lambda: Avg()(tokens, mask),
        "sentence_transformers_mean": lambda: theirs(dict(features))["sentence_embedding"],
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for _ in range(repeats + 1):  # the first round warms up
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
        gap = float((calls["masked_avg"]() - calls["sentence_transformers_mean"]()).abs().max())
    seconds = {name: float(np.median(values[1:])) for name, values in taken.items()}
    for name, value in seconds.items():
        ctx.record("seconds", value, unit="s", direction="lower", call=name)
    for name in ("avg", "sum", "max"):
        ctx.record("over_floor", seconds[name] / seconds["floor"], unit="x", direction="lower", call=name)
    ratio = seconds["sentence_transformers_mean"] / seconds["masked_avg"]
    ctx.record("speedup", ratio, unit="x", direction="higher", call="masked_avg")
    ctx.record("largest_gap", gap, unit="1", direction="lower", call="masked_avg")
