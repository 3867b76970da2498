"""What the diagnostic costs: seconds and memory beside a plain forward pass and beside stored attention maps."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
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
    ctx: Context, *, network: str, length: int, share: int, repeats: int, full: bool, maps: bool
) -> None:
    """Time and peak memory of one pass: alone, with statistics on 1/share of the rows, on all, with stored maps.

    Ways take turns within each repeat, so that a slow moment hits all of them. Peak memory is resident memory above
    what it was before the pass; on a GPU, memory allocated there.
    """
    model, _ = ctx.dataset(network)
    model = model.to(ctx.device)
    rng = ctx.generator("tokens")
    ids = torch.as_tensor(rng.integers(100, 20000, size=(1, length))).to(ctx.device)
    rows = torch.as_tensor(np.sort(rng.choice(length, length // share, replace=False)))
    groups = [torch.arange(a, min(a + 128, length)) for a in range(0, length, 128)]
    body = getattr(model, "base_model", model)
    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: body(input_ids=ids),
        f"statistics on 1/{share} of rows": lambda: _recorded(model, body, ids, [rows]),
    }
    slow: dict[str, Callable[[], Any]] = {}
    if full:
        slow["statistics on all rows"] = lambda: _recorded(model, body, ids, groups)
    if maps:
        slow["stored eager maps"] = lambda: _stored(model, body, ids)
    with torch.inference_mode():
        body(input_ids=ids[:, :64])
        for repeat in range(repeats):
            found = {}
            for way, call in {**ways, **(slow if repeat < 2 else {})}.items():
                ctx.progress(repeat / repeats, way)
                seconds, peak = measured(call) if ids.device.type == "cpu" else measured_on_gpu(call)
                found[way] = (seconds, peak)
                ctx.record(
                    "seconds", seconds, unit="s", direction="lower", way=way, repeat=repeat, network=network
                )
                ctx.record(
                    "peak_memory_mib",
                    peak,
                    unit="MiB",
                    direction="lower",
                    way=way,
                    repeat=repeat,
                    network=network,
                )
            _ratios(ctx, found, f"statistics on 1/{share} of rows", repeat, network)


def _ratios(
    ctx: Context, found: dict[str, tuple[float, float]], ours: str, repeat: int, network: str
) -> None:
    for way, (seconds, _) in found.items():
        ratio = seconds / found["forward"][0]
        ctx.record(
            "time_over_forward", ratio, unit="x", direction="lower", way=way, repeat=repeat, network=network
        )
    if "stored eager maps" in found:
        saved = found["stored eager maps"][1] / max(found[ours][1], 1.0)
        ctx.record("memory_saved", saved, unit="x", direction="higher", repeat=repeat, network=network)


def _recorded(model: Any, body: Any, ids: torch.Tensor, positions: list[torch.Tensor]) -> None:
    with attending(model, listener=Recorder(positions)):
        body(input_ids=ids)


def _stored(model: Any, body: Any, ids: torch.Tensor) -> Any:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return body(input_ids=ids, output_attentions=True).attentions
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


def measured_on_gpu(call: Callable[[], Any]) -> tuple[float, float]:
    """Return (seconds, peak MiB allocated above the start) of one call on the current CUDA device."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start, began = torch.cuda.memory_allocated(), time.perf_counter()
    call()
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
