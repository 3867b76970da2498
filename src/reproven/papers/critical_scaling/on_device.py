"""Row statistics in single precision for logits that lie on an accelerator: `fast.fast_stats`, written for it.

Rows are sorted once; the row without its first key (the attention sink) is the sorted row with one entry taken out.
One transfer brings all statistics of a block to the host. beta_{2/3} is solved on the same summary as in `fast`:
means over runs of gaps, here one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reproven.papers.critical_scaling.fast import run_starts
from reproven.papers.critical_scaling.rows import ALL_TIES, NOT_FINITE, OK, ONE_KEY, TARGET, RowStats

BLOCK = 1 << 24  # keys at a time: a few hundred MiB of workspace
STEPS = 6  # Newton's steps on log Z


def device_stats(scores: Tensor, firsts: Sequence[int] = (0,)) -> list[RowStats]:
    """Return the statistics of float32 rows at native scale (beta = 1), for each number of leading keys left out.

    scores: (rows, n) on any device; -inf, or less than half of float32's lowest number, is no key. firsts: each 0
    or 1 (without the attention sink).
    """
    if scores.ndim != 2 or scores.dtype != torch.float32 or scores.shape[1] < 3:
        raise ValueError(
            f"rows of shape {tuple(scores.shape)}, {scores.dtype}: pass float32 of shape (rows, n >= 3)"
        )
    if not set(firsts) <= {0, 1}:
        raise ValueError(f"firsts={list(firsts)}: only 0 or 1 leading key can be left out")
    blocks = scores.split(max(1, BLOCK // scores.shape[1]))
    table = np.concatenate([_block(x, firsts).numpy(force=True) for x in blocks], axis=2)
    kinds = (float, np.int64, float, float, float, float, np.int64, np.int64, np.int8)
    return [RowStats(*(c.astype(k) for c, k in zip(table[:, i], kinds))) for i in range(len(firsts))]


def _block(x: Tensor, firsts: Sequence[int]) -> Tensor:
    """Return the nine columns of `RowStats`, (9, variants, rows), in double precision."""
    rows, n = x.shape
    ordered = torch.sort(x, dim=1, descending=True).values  # NaN first
    y = torch.cat([ordered if first == 0 else _without(ordered, x[:, :1]) for first in firsts])
    limits = torch.finfo(torch.float32)
    top = y[:, :1]
    broken = ~torch.isfinite(top)
    small = limits.eps * torch.where(broken, 1.0, top.abs()).clamp(min=1.0)
    g = top - y[:, 1:]
    keys = n - (y < limits.min / 2).sum(dim=1)
    ties = (g <= small).sum(dim=1)
    g = torch.maximum(g, small)
    k = torch.arange(1, n, dtype=torch.float32, device=x.device).log1p()
    scale, depth = (k / g).max(dim=1)
    at = g.gather(1, depth[:, None])[:, 0]
    weight = torch.exp(-g)
    total = 1.0 + weight.sum(dim=1)
    h = (
        total.log() + (weight * g.clamp(max=1e4)).sum(dim=1) / total
    )  # no key: weight zero, not times infinity
    parts = zip(firsts, g.split(rows), scale.double().split(rows))
    beta = torch.cat([_two_thirds(part[:, : n - 1 - first], b) for first, part, b in parts])
    masked = torch.isneginf(top[:, 0])
    status = torch.full_like(keys, OK)
    status[ties >= keys - 1] = ALL_TIES
    status[(keys < 2) | masked] = ONE_KEY
    status[broken[:, 0] & ~masked] = NOT_FINITE
    bad = status != OK
    real = [torch.where(bad, torch.nan, c.double()) for c in (scale, at, 1 / total, h, beta)]
    whole = [c.double() for c in (torch.where(bad, 0, depth + 1), keys, ties, status)]
    columns = [real[0], whole[0], *real[1:], *whole[1:]]
    return torch.stack(columns).reshape(len(columns), len(firsts), rows)


def _without(ordered: Tensor, value: Tensor) -> Tensor:
    """Return descending rows with the entry `value` (rows, 1) taken out and -inf put behind."""
    place = (~(ordered <= value)).sum(dim=1, keepdim=True)  # NaN stand in front of every number
    place = torch.where(value.isnan(), 0, place)
    column = torch.arange(ordered.shape[1] - 1, device=ordered.device)
    rest = torch.where(column < place, ordered[:, :-1], ordered[:, 1:])
    return torch.cat([rest, torch.full_like(value, -torch.inf)], dim=1)


def _two_thirds(g: Tensor, scale: Tensor) -> Tensor:
    """Return beta_{2/3} by Newton's steps on log Z from beta = B: convex and falling, so that none overshoots."""
    starts = torch.as_tensor(run_starts(g.shape[1]), device=g.device)
    run = torch.searchsorted(starts, torch.arange(g.shape[1], device=g.device), right=True) - 1
    size = torch.bincount(run, minlength=len(starts)).double()
    mean = torch.zeros(g.shape[1], len(starts), device=g.device)
    mean.scatter_(1, run[:, None], 1.0)
    point = (g.clamp(max=1e30) @ mean).double() / size
    beta = torch.where(torch.isfinite(scale), scale, 1.0)
    excess = beta
    for _ in range(STEPS):
        w = size * torch.exp(-beta[:, None] * point)
        z = 1.0 + w.sum(dim=1)
        excess = (z * TARGET).log()
        step = excess * z / (w * point).sum(dim=1)
        beta = beta + torch.where(torch.isfinite(step), step, 0.0)
    return torch.where(excess.abs() < 1e-2, beta, torch.nan)
