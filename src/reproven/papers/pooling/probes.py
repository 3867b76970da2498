"""Frozen-backbone probing: many heads at once on cached features.

Arm P, the paper's: Adam 1e-3, 10 epochs, raw features. Arm C: standardised features, ridge to the optimum, strength by
validation, all strengths from one eigendecomposition. Seeds (and, for poolings that learn nothing, poolings) are
copies along one axis of the same matrix products. All copies see the batches in the same order; what a seed varies is
the start of the head and of the pooling, and which inputs of the pool are its own training part: the rest, its
validation part, has weight zero in its loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reproven.papers.pooling.base import Pooling
from reproven.papers.pooling.features import Tokens, length_groups

KINDS = ("classes", "values", "pixels")
STRENGTHS = tuple(10.0**e for e in range(-6, 3))


@dataclass(frozen=True)
class Task:
    """One probing task on cached tokens.

    kind: ``classes`` (targets int64 (inputs,), accuracy), ``values`` (float32 (inputs, k), MSE) or ``pixels`` (0/1
        float32 (inputs, k), share of right pixels).
    scope: ``global``, ``local`` or ``mixed``, as the paper sorts tasks. pool, test: indices; every seed trains
    on its own part of `pool`. top: a class counts as found among so many best ones.
    """

    name: str
    scope: str
    kind: str
    tokens: Tokens
    targets: Tensor
    pool: np.ndarray
    test: np.ndarray
    classes: int = 0
    top: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"task kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if len(self.targets) != len(self.tokens):
            raise ValueError(f"task {self.name}: {len(self.targets)} targets for {len(self.tokens)} inputs")
        if len(self.pool) < 10 or len(self.test) < 2:
            raise ValueError(f"task {self.name}: {len(self.pool)} + {len(self.test)} inputs are too few")

    @property
    def outputs(self) -> int:
        """Return the width of the head's output."""
        return self.classes if self.kind == "classes" else int(self.targets.shape[1])

    @property
    def metric(self) -> str:
        """Return the name of the metric."""
        if self.kind == "classes":
            return f"top{self.top}_accuracy" if self.top > 1 else "accuracy"
        return "mse" if self.kind == "values" else "pixel_accuracy"

    @property
    def equal_lengths(self) -> bool:
        """Tell whether every input has as many tokens."""
        return bool((self.tokens.lengths == self.tokens.lengths[0]).all())


@dataclass(frozen=True)
class Seeds:
    """What the copies of one probing differ in: their numbers and training parts, members (seeds, pool) bool."""

    numbers: tuple[int, ...]
    members: Tensor

    def first(self, count: int) -> Seeds:
        """Return the first `count` of them."""
        return Seeds(self.numbers[:count], self.members[:count])

    def only(self, place: int) -> Seeds:
        """Return one of them."""
        return Seeds((self.numbers[place],), self.members[place : place + 1])


def draw_seeds(task: Task, numbers: Sequence[int], validation: float = 0.2) -> Seeds:
    """Draw each seed's validation part, a share of the pool and at least one input."""
    size, rows = len(task.pool), []
    held = max(1, round(validation * size))
    for number in numbers:
        row = torch.ones(size, dtype=torch.bool)
        row[torch.randperm(size, generator=torch.Generator().manual_seed(number))[:held]] = False
        rows.append(row)
    return Seeds(tuple(numbers), torch.stack(rows))


def pooled(
    pooling: Pooling,
    tokens: Tokens,
    index: np.ndarray,
    parameters: Mapping[str, Tensor] | None = None,
    batch_tokens: int = 16384,
) -> Tensor:
    """Return pooled features (copies, len(index), d').

    Float32 for poolings that learn, float64 for the others: there rounding alone would tell Sum from n times Avg.
    """
    out: Tensor | None = None
    with torch.inference_mode():
        for group in length_groups(tokens.lengths[index], batch_tokens):
            x, mask = tokens.batch(index[group])
            part = pooling.ensemble(x if pooling.learns else x.double(), mask, parameters)
            if out is None:
                out = part.new_empty(part.shape[0], len(index), part.shape[2])
            out[:, group] = part
    assert out is not None
    return out.clone()  # out of inference mode


@dataclass
class Head:
    """Linear heads of many copies: x (p, batch, d') -> (p, batch, s, outputs), p times s copies."""

    weight: Tensor  # (p, d', s, outputs)
    bias: Tensor  # (p, 1, s, outputs)

    def __call__(self, x: Tensor) -> Tensor:
        p, d, s, c = self.weight.shape
        return (x @ self.weight.view(p, d, s * c)).view(p, x.shape[1], s, c) + self.bias


def start_heads(p: int, d: int, outputs: int, numbers: Sequence[int], shared: bool) -> Head:
    """Return torch.nn.Linear's default start for each seed.

    shared: all seeds belong to each of the p features (p, d', seeds, outputs); else feature i is of seed i.
    """
    weights, biases = [], []
    for number in numbers:
        g = torch.Generator().manual_seed(number)
        weights.append((torch.rand(d, outputs, generator=g) * 2 - 1) / math.sqrt(d))
        biases.append((torch.rand(1, outputs, generator=g) * 2 - 1) / math.sqrt(d))
    if shared:
        weight = torch.stack(weights, dim=1).expand(p, -1, -1, -1)
        bias = torch.stack(biases, dim=1).expand(p, -1, -1, -1)
    else:
        weight, bias = torch.stack(weights)[:, :, None], torch.stack(biases)[:, :, None]
    return Head(weight.clone().requires_grad_(), bias.clone().requires_grad_())


def start_parameters(pooling: Pooling, tokens: Tokens, numbers: Sequence[int]) -> dict[str, Tensor]:
    """Return fresh parameters of every seed, (copies, ...), with gradients."""
    made = [
        pooling.parameters(tokens.width, tokens.longest, torch.Generator().manual_seed(number))
        for number in numbers
    ]
    return {k: torch.stack([m[k] for m in made]).requires_grad_() for k in made[0]}


def loss_of(kind: str, outputs: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Return the sum over copies of each copy's mean loss: outputs (p, batch, s, k), weight broadcast to (p, batch, s).

    Adam looks at each coordinate alone, so that the sum trains every copy as if it were by itself.
    """
    if kind == "classes":
        p, batch, s, c = outputs.shape
        flat = targets[None, :, None].expand(p, batch, s).reshape(-1)
        each = torch.nn.functional.cross_entropy(outputs.reshape(-1, c), flat, reduction="none")
        each = each.view(p, batch, s)
    else:
        wanted = targets[None, :, None, :].expand_as(outputs)
        if kind == "values":
            each = (outputs - wanted).square().mean(dim=3)
        else:
            each = torch.nn.functional.binary_cross_entropy_with_logits(
                outputs, wanted, reduction="none"
            ).mean(dim=3)
    return ((each * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).sum()


def score(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the task's metric over the axis before the last: outputs (..., inputs, k) -> (...)."""
    if task.kind == "classes":
        if task.top == 1:
            return (outputs.argmax(dim=-1) == targets).double().mean(dim=-1)
        best = outputs.topk(min(task.top, outputs.shape[-1]), dim=-1).indices
        return (best == targets[:, None]).any(dim=-1).double().mean(dim=-1)
    if task.kind == "values":
        return (outputs - targets).double().square().mean(dim=(-2, -1))
    return ((outputs > 0) == (targets > 0.5)).double().mean(dim=(-2, -1))


def batches(task: Task, epochs: int, batch: int, number: int) -> list[np.ndarray]:
    """Return the places in ``task.pool`` of every step; batches hold inputs of like length and come in random order."""
    g = torch.Generator().manual_seed(number)
    size = len(task.pool)
    lengths = task.tokens.lengths[task.pool]
    steps = []
    for _ in range(epochs):
        order = torch.randperm(size, generator=g).numpy()
        if not task.equal_lengths:
            order = order[np.argsort(lengths[order], kind="stable")]
        cut = np.array_split(order, range(batch, size, batch))
        steps += [cut[i] for i in torch.randperm(len(cut), generator=g)]
    return steps


@dataclass(frozen=True)
class Fitted:
    """Scores of one arm: test and validation, (p, s) or (s,), and what was learned on the way."""

    test: Tensor
    validation: Tensor
    parameters: Mapping[str, Tensor]
    head: Head | None = None


def fit_fixed(
    task: Task,
    features: Tensor,
    held_out: Tensor,
    seeds: Seeds,
    *,
    epochs: int = 10,
    batch: int = 32,
    lr: float = 1e-3,
    order: int = 0,
) -> Fitted:
    """Arm P for features (p, pool, d') of p poolings: all p times seeds heads at once; held_out (p, test, d')."""
    p, _, d = features.shape
    features, held_out = features.float(), held_out.float()
    head = start_heads(p, d, task.outputs, seeds.numbers, shared=True)
    weight = seeds.members.T.float()[None]  # (1, pool, s)
    targets = task.targets[task.pool]
    adam = torch.optim.Adam([head.weight, head.bias], lr=lr, fused=True)
    for step in batches(task, epochs, batch, order):
        adam.zero_grad(set_to_none=True)
        loss_of(task.kind, head(features[:, step]), targets[step], weight[:, step]).backward()
        adam.step()
    with torch.no_grad():
        inner = head(features).movedim(2, 1)
        outer = head(held_out).movedim(2, 1)
        validation = torch.stack(
            [
                score(task, inner[:, i, ~members], targets[~members])
                for i, members in enumerate(seeds.members)
            ],
            dim=1,
        )
        test = score(task, outer, task.targets[task.test])
    frozen = Head(head.weight.detach(), head.bias.detach())
    return Fitted(test, validation, {}, frozen)


def fit_learned(
    task: Task,
    pooling: Pooling,
    seeds: Seeds,
    *,
    epochs: int = 10,
    batch: int = 32,
    lr: float = 1e-3,
    order: int = 0,
) -> Fitted:
    """Arm P for a pooling that learns: pooling and head of every seed trained together, all seeds at once."""
    parameters = start_parameters(pooling, task.tokens, seeds.numbers)
    width = pooling.width(task.tokens.width)
    head = start_heads(len(seeds.numbers), width, task.outputs, seeds.numbers, shared=False)
    weight = seeds.members.float()[..., None]  # (s, pool, 1)
    targets = task.targets[task.pool]
    adam = torch.optim.Adam([*parameters.values(), head.weight, head.bias], lr=lr, fused=True)
    for step in batches(task, epochs, batch, order):
        x, mask = task.tokens.batch(task.pool[step])
        adam.zero_grad(set_to_none=True)
        outputs = head(pooling.ensemble(x, mask, parameters))
        loss_of(task.kind, outputs, targets[step], weight[:, step]).backward()
        adam.step()
    frozen = {k: v.detach() for k, v in parameters.items()}
    with torch.no_grad():
        inner = head(pooled(pooling, task.tokens, task.pool, frozen))[:, :, 0]
        outer = head(pooled(pooling, task.tokens, task.test, frozen))[:, :, 0]
        validation = torch.stack(
            [score(task, one[~members], targets[~members]) for one, members in zip(inner, seeds.members)]
        )
        test = score(task, outer, task.targets[task.test])
    return Fitted(test, validation, frozen, Head(head.weight.detach(), head.bias.detach()))


def fit_ridge(
    task: Task,
    features: Tensor,
    held_out: Tensor,
    seeds: Seeds,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> Fitted:
    """Arm C for the features (pool, d') of one pooling: ridge for every seed and strength; strength by validation.

    ``min_W sum_i |y_i - W z_i - b|^2 + lambda N |W|^2`` on features standardised over the pool, N its training
    size; classes and pixels as targets in {0, 1} and {-1, 1}. One eigendecomposition a seed serves all
    strengths.
    """
    x, outer = standardise(features.double(), held_out.double())
    y = _codes(task, task.targets[task.pool])
    targets, wanted = task.targets[task.pool], task.targets[task.test]
    whole, cross = x.T @ x, x.T @ y
    lower = task.kind == "values"
    tests, validations = [], []
    for members in seeds.members:
        held, count = ~members, int(members.sum())
        mean_x, mean_y = x[members].mean(dim=0), y[members].mean(dim=0)
        gram = whole - x[held].T @ x[held] - count * torch.outer(mean_x, mean_x)
        right = cross - x[held].T @ y[held] - count * torch.outer(mean_x, mean_y)
        values, vectors = torch.linalg.eigh(gram)
        values = values.clamp(min=0)
        right = vectors.T @ right
        inner, far = (x[held] - mean_x) @ vectors, (outer - mean_x) @ vectors
        best: tuple[float, float] | None = None
        for strength in strengths:
            solved = right / (values + strength * count)[:, None]
            there = float(score(task, inner @ solved + mean_y, targets[held]))
            if best is None or (there < best[0] if lower else there > best[0]):
                best = (there, float(score(task, far @ solved + mean_y, wanted)))
        assert best is not None
        validations.append(best[0])
        tests.append(best[1])
    return Fitted(torch.tensor(tests), torch.tensor(validations), {})


def standardise(features: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return both with the mean and deviation of `features` taken out; constant channels become 0."""
    mean, deviation = features.mean(dim=0), features.std(dim=0)
    flat = deviation <= 1e-9 * features.abs().amax(dim=0).clamp(min=1e-30)
    deviation = deviation.masked_fill(flat, torch.inf)
    return (features - mean) / deviation, (held_out - mean) / deviation


def _codes(task: Task, targets: Tensor) -> Tensor:
    if task.kind == "classes":
        return torch.nn.functional.one_hot(targets, task.classes).double()
    return targets.double() if task.kind == "values" else 2 * targets.double() - 1
