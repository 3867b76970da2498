"""What the diagnostic costs: seconds and memory beside a plain forward pass and beside stored attention maps."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch

from reproven.harness.context import Context
from reproven.papers.critical_scaling import kernels
from reproven.papers.critical_scaling.attention import attending
from reproven.papers.critical_scaling.diagnose import Recorder
from reproven.papers.critical_scaling.experiments import bracket_violations, part_violations, row_blocks
from reproven.papers.critical_scaling.rows import gaps, row_stats
from reproven.papers.critical_scaling.streaming import streaming_scale


def attention_cost(
    ctx: Context,
    *,
    network: str,
    lengths: list[int],
    share: int,
    repeats: int,
    full: bool,
    maps: bool,
    precisions: Sequence[str] = ("float32",),
) -> None:
    """Time and peak memory of one pass: alone, with statistics on 1/share of the rows, on all, with stored maps.

    Ways take turns within each repeat, so that a slow moment hits all of them; the slow ones (all rows, maps) take
    part in the first two. Peak memory is resident memory above what it was before the pass; on a GPU, memory allocated
    there, after one pass that is not counted. A way that does not fit the GPU is recorded as ``out_of_memory``.
    """
    model, _ = ctx.dataset(network)
    rng = ctx.generator("tokens")
    tokens = torch.as_tensor(rng.integers(100, 20000, size=(1, max(lengths)))).to(ctx.device)
    for number, (precision, length) in enumerate(itertools.product(precisions, lengths)):
        model = model.to(ctx.device, getattr(torch, precision))
        chosen = ctx.generator("rows", n=length).choice(length, length // share, replace=False)
        rows = torch.as_tensor(np.sort(chosen))
        fast, slow = _ways(model, tokens[:, :length], rows, share, full, maps)
        where: dict[str, Any] = {"network": network, "n": length, "precision": precision}
        with torch.inference_mode():
            for call in fast.values() if ctx.device != "cpu" else ():
                call()
            for repeat in range(repeats):
                ctx.progress((number + repeat / repeats) / len(lengths) / len(precisions), f"{length} tokens")
                found = {}
                for way, call in {**fast, **(slow if repeat < 2 else {})}.items():
                    cost = measured(call) if ctx.device == "cpu" else measured_on_gpu(call)
                    if cost is None:
                        ctx.record("out_of_memory", 1.0, unit="passes", way=way, repeat=repeat, **where)
                    else:
                        found[way] = cost
                _record_costs(ctx, found, f"statistics on 1/{share} of rows", {"repeat": repeat, **where})


Ways = dict[str, Callable[[], Any]]


def _ways(
    model: Any, ids: torch.Tensor, rows: torch.Tensor, share: int, full: bool, maps: bool
) -> tuple[Ways, Ways]:
    """Return the passes to compare by their names: the fast ones, and the slow ones."""
    body, length = getattr(model, "base_model", model), ids.shape[1]
    groups = [torch.arange(a, min(a + 128, length)) for a in range(0, length, 128)]
    fast: Ways = {
        "forward": lambda: body(input_ids=ids, use_cache=False),
        f"statistics on 1/{share} of rows": lambda: _recorded(model, body, ids, [rows]),
    }
    slow: Ways = {}
    if full:
        slow["statistics on all rows"] = lambda: _recorded(model, body, ids, groups)
    if maps:
        slow["stored eager maps"] = lambda: _stored(model, body, ids)
    return fast, slow


def _record_costs(
    ctx: Context, found: dict[str, tuple[float, float]], ours: str, where: dict[str, Any]
) -> None:
    """Record what each way of one repeat cost, and its ratios to the forward pass and to stored maps."""
    for way, (seconds, peak) in found.items():
        at: dict[str, Any] = {"way": way, "direction": "lower", **where}
        ctx.record("seconds", seconds, unit="s", **at)
        ctx.record("peak_memory_mib", peak, unit="MiB", **at)
        if "forward" in found:
            ctx.record("time_over_forward", seconds / found["forward"][0], unit="x", **at)
    if {ours, "stored eager maps"} <= set(found):
        saved = found["stored eager maps"][1] / max(found[ours][1], 1.0)
        ctx.record("memory_saved", saved, unit="x", direction="higher", **where)


def _recorded(model: Any, body: Any, ids: torch.Tensor, positions: list[torch.Tensor]) -> None:
    with attending(model, listener=Recorder(positions)):
        body(input_ids=ids, use_cache=False)


def _stored(model: Any, body: Any, ids: torch.Tensor) -> Any:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return body(input_ids=ids, output_attentions=True, use_cache=False).attentions
    finally:
        model.set_attn_implementation(before)


def measured(call: Callable[[], Any]) -> tuple[float, float]:
    """Return (seconds, peak resident MiB above the start) of one call; memory is sampled every 5 ms."""
    gc.collect()
    process, done = psutil.Process(), threading.Event()
    start = process.memory_info().rss
    peaks = [start]

    def watch() -> None:
        while not done.wait(0.005):
            peaks[0] = max(peaks[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    peaks[0] = max(peaks[0], process.memory_info().rss)
    done.set()
    watcher.join()
    del result
    return seconds, (peaks[0] - start) / 2**20


def measured_on_gpu(call: Callable[[], Any]) -> tuple[float, float] | None:
    """Return (seconds, peak MiB allocated above the start) of one call on the current CUDA device; None: no room."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start, began = torch.cuda.memory_allocated(), time.perf_counter()
    try:
        call()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    torch.cuda.synchronize()
    return time.perf_counter() - began, (torch.cuda.max_memory_allocated() - start) / 2**20


def rows_cost(ctx: Context, *, n: int, rows_total: int, repeats: int) -> None:
    """Streaming B of n scores against passes over the array, and T1 on `rows_total` rows of six families."""
    x = ctx.generator("stream").standard_normal(n)
    passes: dict[str, Callable[[], Any]] = {
        "compiled pass (running maximum)": lambda: kernels.running_maximum(x),
        "numpy max": lambda: np.max(x),
        "numpy softmax denominator": lambda: np.exp(x - x.max()).sum(),
        "streaming B": lambda: streaming_scale(x),
    }
    for call in passes.values():
        call()
    for repeat in range(repeats):
        found = {}
        for name, call in passes.items():
            found[name] = min(_timed(call) for _ in range(5))
            ctx.record(
                "milliseconds", 1e3 * found[name], unit="ms", direction="lower", way=name, repeat=repeat
            )
        for name, seconds in found.items():
            if name != "streaming B":
                ratio = found["streaming B"] / seconds
                ctx.record("stream_over", ratio, unit="x", direction="lower", over=name, repeat=repeat)
    for repeat in range(repeats):
        rng = ctx.generator("rows", repeat=repeat)
        seconds = _timed(partial(_theorem_rows, rows_total, rng))
        ctx.record("theorem_seconds", seconds, unit="s", direction="lower", repeat=repeat)


def _theorem_rows(rows_total: int, rng: np.random.Generator) -> None:
    """T1 to T3 on rows of six families, drawing them included."""
    for blocks in row_blocks(-(-rows_total // 6), [16, 64, 256, 1024], rng, against=False).values():
        for scores in blocks:
            gap, stats = gaps(scores), row_stats(scores)
            part_violations(gap, stats, rng, 1)
            bracket_violations(gap, stats)


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
