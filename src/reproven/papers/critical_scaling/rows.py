"""What one attention row says about its critical inverse temperature, for many rows at once.

One row: scores ``s in R^n`` (logits at the model's native scale, masked keys removed), softmax
``p_i ~ exp(beta s_i)``. Gaps of the competitors to the winner, ``g_k = s_(1) - s_(k+1)``, ascending; gap-counting
function ``N(t) = #{k : g_k <= t}``. Then (dossier 3.1, our reconstruction of the paper's accumulation scale)

    B = sup_{t>0} log(1 + N(t)) / t = max_k log(1 + k) / g_k,      attained at k*, t* = g_{k*}
    Z(beta) = sum_i exp(-beta (s_(1) - s_i)),  p_max = 1 / Z,  H = log Z + beta <g>
    beta_{2/3}: the beta at which p_max = 2/3; it lies in [B, 3 B] for every row (Theorem A.4).

Rows are (..., n) arrays or tensors; computations run in torch on the input's device, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

OK, ONE_KEY, ALL_TIES, NOT_FINITE = 0, 1, 2, 3
REASONS = {ONE_KEY: "one key", ALL_TIES: "all keys tie", NOT_FINITE: "NaN or infinite logits"}

TARGET = 2 / 3  # p_max at the reference point of the bracket [B, 3 B]


@dataclass(frozen=True)
class RowStats:
    """Statistics of rows, each (...,): NaN (and depth 0) where `status` says that a row was excluded.

    scale: B. depth: k*. gap: t*. p_max, entropy: at the beta asked for (nats). beta: beta_{2/3}.
    keys: n of the row. ties: competitors closer to the winner than float resolution. status: OK or why excluded.
    """

    scale: np.ndarray
    depth: np.ndarray
    gap: np.ndarray
    p_max: np.ndarray
    entropy: np.ndarray
    beta: np.ndarray
    keys: np.ndarray
    ties: np.ndarray
    status: np.ndarray

    @property
    def ok(self) -> np.ndarray:
        """Rows that have all statistics."""
        return self.status == OK

    def excluded(self) -> dict[str, int]:
        """Return how many rows were left out for which reason; none is dropped silently."""
        return {reason: int((self.status == code).sum()) for code, reason in REASONS.items()}


@dataclass(frozen=True)
class Gaps:
    """Sorted gaps of rows: (rows, n - 1) ascending, +inf where a row has fewer keys; double precision.

    keys: (rows,) valid keys; status: (rows,); resolution: (rows,) smallest gap that the scores resolve.
    """

    values: Tensor
    keys: Tensor
    status: Tensor
    resolution: Tensor

    def counts(self, t: Tensor) -> Tensor:
        """Return N(t), (rows, points), for gaps `t` (points,) or (rows, points); NaN rows count nothing."""
        grid = torch.as_tensor(t, dtype=self.values.dtype, device=self.values.device)
        grid = grid.expand(len(self.values), -1).contiguous()
        return torch.searchsorted(self.values, grid, right=True)


def gaps(scores: Any, valid: Any | None = None) -> Gaps:
    """Sort the gaps of every row.

    scores: (..., n) array or tensor of logits. valid: (..., n) mask of the keys that the row really has; a masked
    key is not a key with a large gap, it is no key. A score of -inf, or of less than half the type's lowest number
    (how additive masks are written), counts as masked. Rows without two finite keys get a status and no numbers.
    """
    s = torch.as_tensor(scores)
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ValueError(f"scores of shape {tuple(s.shape)} hold no key; pass rows of shape (..., n)")
    if not s.is_floating_point():
        s = s.double()
    floor = torch.finfo(s.dtype).min / 2
    step = torch.finfo(s.dtype).eps
    s = s.reshape(-1, s.shape[-1])
    keep = ~(s < floor)  # NaN stays in, so that it is noticed
    if valid is not None:
        keep &= torch.as_tensor(valid, dtype=torch.bool, device=s.device).expand(s.shape)
    x = torch.where(keep, s.double(), -torch.inf)
    broken = (keep & ~torch.isfinite(x)).any(dim=1)
    x = torch.where(broken[:, None], 0.0, x)
    ordered = _descending(x)
    top = ordered[:, :1]
    keys = keep.sum(dim=1)
    values = torch.where(torch.isfinite(top), top - ordered[:, 1:], torch.inf)
    resolution = step * top[:, 0].abs().clamp(min=1.0)
    tied = (values > resolution[:, None]) & torch.isfinite(values)
    status = torch.zeros(len(x), dtype=torch.int8, device=x.device)
    status[~tied.any(dim=1)] = ALL_TIES
    status[keys < 2] = ONE_KEY
    status[broken] = NOT_FINITE
    return Gaps(values, keys, status, resolution)


def accumulation_scale(gap: Gaps, *, log_n: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return (B, k*, t*) of every row, (rows,); gaps below float resolution count as that resolution.

    log_n: the broken twin, ``max_k log(k) / g_k``, in which the first competitor contributes nothing.
    """
    n = gap.values.shape[1]
    k = torch.arange(1, n + 1, dtype=gap.values.dtype, device=gap.values.device)
    height = k.log() if log_n else k.log1p()
    clipped = torch.maximum(gap.values, gap.resolution[:, None])
    slope = height / clipped  # zero where the gap is infinite
    if n == 0:
        nothing = torch.full((len(gap.keys),), torch.nan, dtype=clipped.dtype, device=clipped.device)
        return nothing, torch.zeros_like(gap.keys), nothing
    best, where = slope.max(dim=1)
    good = gap.status == OK
    return (
        torch.where(good, best, torch.nan),
        torch.where(good, where + 1, 0),
        torch.where(good, clipped.gather(1, where[:, None])[:, 0], torch.nan),
    )


def log_partition(gap: Gaps, beta: Any) -> Tensor:
    """Return log Z(beta) relative to the winner, (rows,); beta: a number or (rows,)."""
    b = _column(gap, beta)
    return _boltzmann(gap, b).sum(dim=1).log1p()


def partition_by_parts(gap: Gaps, beta: Any) -> Tensor:
    """Return Z(beta) from the gap-counting function: ``1 + int_0^inf beta exp(-beta t) N(t) dt``, (rows,).

    N is a step function, so that the integral is ``sum_k N(g_k) (exp(-beta g_k) - exp(-beta g_{k+1}))``.
    """
    weight = _boltzmann(gap, _column(gap, beta))
    later = torch.cat([weight[:, 1:], torch.zeros_like(weight[:, :1])], dim=1)
    k = torch.arange(1, weight.shape[1] + 1, dtype=weight.dtype, device=weight.device)
    return 1 + ((weight - later) * k).sum(dim=1)


def concentration(gap: Gaps, beta: Any) -> tuple[Tensor, Tensor]:
    """Return (p_max, entropy in nats) of softmax at inverse temperature `beta`, each (rows,)."""
    b = _column(gap, beta)
    weight = _boltzmann(gap, b)
    finite = torch.where(torch.isfinite(gap.values), gap.values, 0.0)
    total = 1 + weight.sum(dim=1)
    mean_gap = (finite * weight).sum(dim=1) / total
    p, h = 1 / total, total.log() + b[:, 0] * mean_gap
    bad = (gap.status == NOT_FINITE) | (gap.keys < 1)
    return torch.where(bad, torch.nan, p), torch.where(bad, torch.nan, h)


def beta_at(gap: Gaps, target: float = TARGET, *, scale: Tensor | None = None, steps: int = 60) -> Tensor:
    """Return the beta at which p_max = `target`, (rows,), by bisection on [B, 3 B] (grown where that is too narrow).

    target: in (1/2, 1) for the bracket of Theorem A.4; any value in (1/n, 1) is found as long as the winner is
    unique. NaN for excluded rows and where ties keep p_max below `target` at every beta.
    """
    if not 0 < target < 1:
        raise ValueError(f"target={target} must lie in (0, 1)")
    b = accumulation_scale(gap)[0] if scale is None else scale
    low, high = b.clone(), 3 * b
    goal = -np.log(target)
    for _ in range(60):  # other targets than 2/3 may lie outside [B, 3 B]
        short = log_partition(gap, high) > goal
        over = log_partition(gap, low) < goal
        if not (short | over).any():
            break
        high = torch.where(short, 2 * high, high)
        low = torch.where(over, low / 2, low)
    unreachable = log_partition(gap, high) > goal
    for _ in range(steps):
        middle = (low + high) / 2
        above = log_partition(gap, middle) > goal
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where((gap.status == OK) & ~unreachable, (low + high) / 2, torch.nan)


def row_stats(scores: Any, valid: Any | None = None, *, beta: float = 1.0) -> RowStats:
    """Return all statistics of rows of logits, by sorting; `beta`: where p_max and the entropy are read.

    scores, valid: (..., n), see `gaps`. Example::

        stats = row_stats(np.random.default_rng(0).normal(size=(8, 1024)))
        stats.scale, stats.depth, stats.beta       # B, k*, beta_{2/3}
    """
    shape = tuple(torch.as_tensor(scores).shape)[:-1]
    gap = gaps(scores, valid)
    scale, depth, at = accumulation_scale(gap)
    p, h = concentration(gap, beta)
    good = gap.status == OK
    p, h = torch.where(good, p, torch.nan), torch.where(good, h, torch.nan)
    ties = (gap.values <= gap.resolution[:, None]).sum(dim=1)
    columns = (scale, depth, at, p, h, beta_at(gap, scale=scale), gap.keys, ties, gap.status)
    return RowStats(*(c.cpu().numpy().reshape(shape) for c in columns))


def annealed_profile(gap: Gaps, t: np.ndarray) -> np.ndarray:
    """Return ``log(1 + mean over rows of N(t)) / t`` at gaps `t` (points,): a plateau is the tail's rate.

    A rise to the right means that the bulk controls the scale (fixed-gap type). Excluded rows are left out.
    """
    t = np.asarray(t, dtype=float)
    if (t <= 0).any():
        raise ValueError("the profile divides by t; give gaps above zero")
    rows = gap.counts(torch.as_tensor(t))[gap.status == OK]
    if len(rows) == 0:
        raise ValueError("no row without a fault; nothing to average")
    return np.log1p(rows.double().mean(dim=0).cpu().numpy()) / t


def regime(scale: np.ndarray, *, beta: float = 1.0) -> np.ndarray:
    """Return c = beta / B: above 1 condensed (p_max >= 1 - 1/c guaranteed), below 1 diffuse."""
    return beta / np.asarray(scale, dtype=float)


def _descending(x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return torch.sort(x, dim=1, descending=True).values
    return torch.from_numpy(-np.sort(-x.numpy(), axis=1))  # many times as fast as torch's on processors


def _column(gap: Gaps, beta: Any) -> Tensor:
    b = torch.as_tensor(beta, dtype=gap.values.dtype, device=gap.values.device)
    return b.expand(len(gap.values))[:, None]


def _boltzmann(gap: Gaps, beta: Tensor) -> Tensor:
    return torch.where(torch.isfinite(gap.values), torch.exp(-beta * gap.values), 0.0)
