"""Pairs of narrow and wide networks trained side by side, many at once (Section 5, Algorithm of dossier 3.4).

The wide network starts at T theta(0) and is never touched by T again: it has its own parameters, gradients
and optimiser state. After each step ``e_t = ||eta - T theta||_2`` is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reproven.papers.embedding.optimisers import Rule, State, norm
from reproven.papers.embedding.stacked import Batch, Stack, StackedEmbedding, StackedNet

Batches = Callable[[int], Batch]


@dataclass
class PairRecord:
    """What a run of pairs leaves; rows are records, columns are pairs.

    steps: number of updates done. error: e_t at the record; error_max: largest e_t since the last record.
    loss_narrow, loss_wide: loss of the step's batch, before its update. norm_narrow, norm_wide: after it.
    narrow, wide: final parameters.
    """

    steps: list[int] = field(default_factory=list)
    error: Tensor = field(default_factory=lambda: torch.empty(0))
    error_max: Tensor = field(default_factory=lambda: torch.empty(0))
    loss_narrow: Tensor = field(default_factory=lambda: torch.empty(0))
    loss_wide: Tensor = field(default_factory=lambda: torch.empty(0))
    norm_narrow: Tensor = field(default_factory=lambda: torch.empty(0))
    norm_wide: Tensor = field(default_factory=lambda: torch.empty(0))
    narrow: Stack = field(default_factory=dict)
    wide: Stack = field(default_factory=dict)

    @property
    def max_error(self) -> Tensor:
        """Return ``max_t e_t`` of each pair, (pairs,)."""
        return self.error_max.amax(0)


def trajectory_error(embedding: StackedEmbedding, narrow: Stack, wide: Stack) -> Tensor:
    """Return ``||eta - T theta||_2`` of each pair, (pairs,)."""
    image = embedding(narrow)
    return norm({name: wide[name] - image[name] for name in wide})


def relative_error(embedding: StackedEmbedding, narrow: Stack, wide: Stack) -> Tensor:
    """Return ``||eta - T theta|| / ||T theta||`` of each pair, (pairs,)."""
    return trajectory_error(embedding, narrow, wide) / norm(embedding(narrow))


def train_pairs(
    net: StackedNet,
    narrow: Stack,
    embedding: StackedEmbedding,
    batches: Batches,
    rule: Rule,
    steps: int,
    *,
    records: Iterable[int],
    loss: str = "exponential",
    wide: Stack | None = None,
    wide_batches: Batches | None = None,
    lr_at: Callable[[int], float] | None = None,
    watch: Callable[[int, Stack, Stack], None] | None = None,
    every_step: bool = True,
) -> PairRecord:
    """Train each pair for `steps` updates from ``eta(0) = T theta(0)`` and record its trajectory error.

    net: structure of both networks. narrow: (pairs, ...) parameters; not changed. embedding: T of the stack.
    batches: step -> `Batch`; wide_batches: other batches for the wide network (Exp. 4). rule: an update rule.
    records: steps (1-based) after which a row is kept; the last step always is. wide: another start of the
    wide network (controls). lr_at: factor of the step size at a step, e.g. a schedule; None: 1.
    watch: called as ``watch(step, narrow, wide)`` at each record. every_step: take e_t after each step, not
    only at records (then `error_max` is a maximum over records).
    Returns a `PairRecord`. Source: Section 5, Thm 5.2; discrete steps preserve T theta exactly for any
    step size.
    """
    first = next(iter(narrow.values()))
    embedding = embedding.to(first)
    scale = embedding.coefficients(narrow)
    theta = {name: value.clone() for name, value in narrow.items()}
    eta = {name: value.clone() for name, value in (wide or embedding(narrow)).items()}
    keep = sorted({s for s in records if 0 < s <= steps} | {steps})
    rows: dict[str, list[Tensor]] = {
        k: [] for k in ("error", "error_max", "loss_narrow", "loss_wide", "norm_narrow", "norm_wide")
    }
    worst, at = torch.zeros(len(first), dtype=first.dtype, device=first.device), 0
    with torch.no_grad():
        for step in range(1, steps + 1):
            batch = batches(step - 1)
            other = batch if wide_batches is None else wide_batches(step - 1)
            rate = 1.0 if lr_at is None else lr_at(step - 1)
            if step == 1:
                # Views of some pairs at a time: their hidden layers, and for the wide network the samples too,
                # are then still in the cache when they are read again.
                blocks = [
                    (b, _of(theta, b), _of(eta, b), _of(scale, b), State(), State())
                    for b in batch.blocks(len(first))
                ]
            losses, wide_losses = [], []
            for b, left, right, along, state, wide_state in blocks:
                mine = batch.of(b)
                value, gradient = net.loss_and_gradient(left, mine, loss)
                rule.step(left, gradient, value, state, None, rate)
                losses.append(value)
                theirs = mine if other is batch else other.of(b)
                value, gradient = net.loss_and_gradient(right, theirs, loss)
                rule.step(right, gradient, value, wide_state, along, rate)
                wide_losses.append(value)
            if every_step or step == keep[at]:
                error = trajectory_error(embedding, theta, eta)
                worst = torch.maximum(worst, error)
            if step == keep[at]:
                at += 1
                row = error, worst, torch.cat(losses), torch.cat(wide_losses), norm(theta), norm(eta)
                for key, entry in zip(rows, row, strict=True):
                    rows[key].append(entry)
                worst = torch.zeros_like(worst)
                if watch is not None:
                    watch(step, theta, eta)
    columns = {key: torch.stack(value) for key, value in rows.items()}
    return PairRecord(keep, **columns, narrow=theta, wide=eta)


def _of(stack: Stack, block: slice) -> Stack:
    return {name: value[block] for name, value in stack.items()}


def train_stack(
    net: StackedNet,
    start: Stack,
    batches: Batches,
    rule: Rule,
    steps: int,
    *,
    loss: str = "exponential",
    lr_at: Callable[[int], float] | None = None,
    records: Iterable[int] = (),
    watch: Callable[[int, Stack], None] | None = None,
) -> Stack:
    """Train a stack of networks without partners; arguments as in `train_pairs`, ``watch(step, stack)``.

    Returns the final parameters; `start` is not changed.
    """
    theta, state, keep = {name: value.clone() for name, value in start.items()}, State(), set(records)
    with torch.no_grad():
        for step in range(1, steps + 1):
            value, gradient = net.loss_and_gradient(theta, batches(step - 1), loss)
            rule.step(theta, gradient, value, state, None, 1.0 if lr_at is None else lr_at(step - 1))
            if watch is not None and step in keep:
                watch(step, theta)
    return theta
