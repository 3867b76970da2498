"""Soft editors of a last layer, which the provable one is compared with: losses, trained and tuned at equal budgets.

Every editor sees the same `MapTask` and returns a new head. A trained one runs its whole grid (learning rate times
weight of its auxiliary term) at once, as a stack of heads, and keeps the trial with the highest satisfaction, as the
paper does; ties go to the smallest change of the preserved outputs. The body is frozen, so that its features are
computed once: maps are ``L_i = W_c v_i`` and outputs ``W h + b``.

EWA, SWA, SSWA: Park et al., NeurIPS 2020 (maps normalised in L2, teacher: the original on the clean input, class:
the true one, after a last ReLU). RRR: Ross et al., 2017. SFT, DPO: cross-entropy and Rafailov et al., 2023.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproven.papers.prograd.certify import Certificate
from reproven.papers.prograd.constraints import Constraint, FrozenMaps, OutputMargin
from reproven.papers.prograd.edit import Keep, edit_gradients

DOUBLINGS = 11  # of the margin, from 1e-5 to 0.02: how much a whole network's own rounding may ask for


@dataclass(frozen=True)
class MapTask:
    """What an editor is given.

    weight, bias: (outputs, width), (outputs,) of the head. h: (n, width), its inputs at the edit points. v: (n,
    entries, width), features of the map, zero where not `valid` (n, entries). targets: (n, entries), normalised.
    labels: (n,), right answers; the maps are of their class. wrong: (n,), what the model says now.
    teacher: (n, entries, width), features of the map that is the target, with the original head (image tasks).
    activity: (n, entries, width), derivative of h in the value at each entry (image tasks).
    keep: (m, width), inputs of the head whose outputs should stay. epsilon: allowed difference.
    has_bias: whether the head has a bias that an edit may move; `bias` is zero where it has none.
    rows: which outputs of the whole head these are, where it was cut down to those concerned. others: (n,), the log of
    the summed exponentials of the outputs left out, which no editor touches.
    certify: of a head (weight, bias), what the maps of the whole network with it are in the network's own precision;
    None where `v` says it all.
    """

    weight: Tensor
    bias: Tensor
    h: Tensor
    v: Tensor
    valid: Tensor
    targets: Tensor
    labels: Tensor
    wrong: Tensor
    keep: Tensor
    epsilon: float
    teacher: Tensor | None = None
    activity: Tensor | None = None
    rows: Tensor | None = None
    others: Tensor | None = None
    has_bias: bool = True
    certify: Callable[[Tensor, Tensor], Certificate] | None = None

    def maps(self, weight: Tensor) -> Tensor:
        """Return ``W_c v_i`` of heads (..., outputs, width): (..., n, entries)."""
        return torch.einsum("...nk,nek->...ne", weight[..., self.labels, :], self.v)

    def normalised(self, maps: Tensor) -> Tensor:
        """Return min-max maps over valid entries; a flat map gives zeros."""
        low = maps.masked_fill(~self.valid, torch.inf).amin(-1, keepdim=True)
        high = maps.masked_fill(~self.valid, -torch.inf).amax(-1, keepdim=True)
        return (maps - low) / (high - low).clamp_min(1e-12)

    def satisfied(self, weight: Tensor) -> Tensor:
        """Return the share of valid entries within epsilon of the target, (...)."""
        close = (self.normalised(self.maps(weight)) - self.targets).abs() <= self.epsilon
        return (close & self.valid).sum((-1, -2)) / self.valid.sum()

    def drift(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the mean absolute change of the preserved outputs, (...)."""
        change = (
            torch.einsum("mk,...ck->...mc", self.keep, weight - self.weight)
            + (bias - self.bias)[..., None, :]
        )
        return change.abs().mean((-1, -2))


@dataclass(frozen=True)
class HeadEdit:
    """A new head. status: ``edited`` or why not. trials: heads that were trained."""

    weight: Tensor
    bias: Tensor
    status: str
    trials: int = 0
    rate: float = float("nan")
    factor: float = float("nan")


class Editor(ABC):
    """Anything that edits the head of a `MapTask`."""

    @abstractmethod
    def edit(self, task: MapTask, steps: int, generator: torch.Generator) -> HeadEdit:
        """Return the new head, after `steps` steps of each trial where it is trained."""


class Original(Editor):
    """No edit."""

    def edit(self, task: MapTask, steps: int, generator: torch.Generator) -> HeadEdit:
        return HeadEdit(task.weight, task.bias, "edited")


class Trained(Editor):
    """Adam on all trials of a grid at once.

    rates: learning rates. factors: weights of the auxiliary term. decay: weight decay.
    """

    def __init__(self, rates: Sequence[float], factors: Sequence[float], decay: float = 1e-4) -> None:
        if not rates or not factors or min(rates) <= 0 or min(factors) < 0:
            raise ValueError(
                f"rates {rates} must be positive and factors {factors} not negative, one each at least"
            )
        self.rates, self.factors, self.decay = list(rates), list(factors), decay

    @abstractmethod
    def loss(
        self, task: MapTask, weight: Tensor, bias: Tensor, factor: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the loss of every trial, (trials,)."""

    def after(self, task: MapTask, weight: Tensor, step: int) -> None:
        """Look at the heads after a step; for methods with multipliers."""

    def begin(self, task: MapTask, trials: int) -> None:
        """Start a run."""

    def edit(self, task: MapTask, steps: int, generator: torch.Generator) -> HeadEdit:
        grid = [(r, f) for r in self.rates for f in self.factors]
        factor = torch.tensor([f for _, f in grid], dtype=task.weight.dtype)
        rate = torch.tensor([r for r, _ in grid], dtype=task.weight.dtype)
        weight = task.weight.expand(len(grid), -1, -1).clone().requires_grad_()
        bias = task.bias.expand(len(grid), -1).clone().requires_grad_()
        self.begin(task, len(grid))
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in (weight, bias)]
        for step in range(1, steps + 1):
            loss = self.loss(task, weight, bias, factor, generator).sum()
            gradients = torch.autograd.grad(loss, (weight, bias), allow_unused=True)
            with torch.no_grad():
                for p, g, (m, s) in zip((weight, bias), gradients, moments):
                    if g is not None:
                        _adam(p, g + self.decay * p, m, s, rate, step)
                self.after(task, weight, step)
        with torch.no_grad():
            share, drift = task.satisfied(weight), task.drift(weight, bias)
            finite = torch.isfinite(drift)
            score = [(bool(finite[i]), round(float(share[i]), 6), -float(drift[i])) for i in range(len(grid))]
            best = max(range(len(grid)), key=lambda i: score[i])
        return HeadEdit(weight[best].detach(), bias[best].detach(), "edited", len(grid), *grid[best])


def _adam(p: Tensor, g: Tensor, m: Tensor, s: Tensor, rate: Tensor, step: int) -> None:
    m.mul_(0.9).add_(g, alpha=0.1)
    s.mul_(0.999).addcmul_(g, g, value=0.001)
    change = (m / (1 - 0.9**step)) / ((s / (1 - 0.999**step)).sqrt() + 1e-8)
    p.sub_(rate.reshape(-1, *[1] * (p.dim() - 1)) * change)


def _cross_entropy(task: MapTask, weight: Tensor, bias: Tensor) -> Tensor:
    y = torch.einsum("nk,gck->gnc", task.h, weight) + bias[:, None]
    return (
        F.cross_entropy(y.flatten(0, 1), task.labels.repeat(len(y)), reduction="none")
        .reshape(len(y), -1)
        .mean(1)
    )


def unit(maps: Tensor) -> Tensor:
    """Return maps over their L2 norm, (..., entries)."""
    return maps / maps.norm(dim=-1, keepdim=True).clamp_min(1e-12)


class EWA(Trained):
    """Cross-entropy and the mean squared difference of channel-mean squared features: it never sees the head."""

    def loss(
        self, task: MapTask, weight: Tensor, bias: Tensor, factor: Tensor, generator: torch.Generator
    ) -> Tensor:
        assert task.teacher is not None
        student, teacher = ((m**2).mean(-1) for m in (task.v, task.teacher))  # of features: no head in it
        aux = ((unit(student) - unit(teacher)) ** 2).mean()
        return _cross_entropy(task, weight, bias) + factor * aux


class SWA(Trained):
    """Cross-entropy and the mean squared difference of normalised, rectified maps of student and teacher."""

    def teacher(self, task: MapTask, generator: torch.Generator) -> Tensor:
        assert task.teacher is not None
        return torch.einsum("nk,nek->ne", task.weight[task.labels], task.teacher).relu()

    def loss(
        self, task: MapTask, weight: Tensor, bias: Tensor, factor: Tensor, generator: torch.Generator
    ) -> Tensor:
        difference = unit(task.maps(weight).relu()) - unit(self.teacher(task, generator))
        return _cross_entropy(task, weight, bias) + factor * (difference**2).mean((1, 2))


class SSWA(SWA):
    """SWA with a random share of the teacher's channels left out at every step. erase: that share."""

    def __init__(
        self, rates: Sequence[float], factors: Sequence[float], decay: float = 1e-4, erase: float = 0.3
    ) -> None:
        super().__init__(rates, factors, decay)
        if not 0 <= erase < 1:
            raise ValueError(f"erase {erase!r} must lie in [0, 1)")
        self.erase = erase

    def teacher(self, task: MapTask, generator: torch.Generator) -> Tensor:
        assert task.teacher is not None
        kept = torch.rand(task.weight.shape[1], generator=generator) >= self.erase
        return torch.einsum("nk,nek->ne", task.weight[task.labels] * kept, task.teacher).relu()


class RRR(Trained):
    """Cross-entropy and the squared gradient of the summed log-probabilities where the target map is low.

    ``d/dz sum_c log p_c`` reaches entry e of channel k as ``(sum_c W_ck - C sum_j p_j W_jk) activity_ek``.
    """

    def loss(
        self, task: MapTask, weight: Tensor, bias: Tensor, factor: Tensor, generator: torch.Generator
    ) -> Tensor:
        assert task.activity is not None
        if task.others is not None:
            raise ValueError("RRR sums over all classes: give it the whole head")
        y = torch.einsum("nk,gck->gnc", task.h, weight) + bias[:, None]
        expected = torch.einsum("gnc,gck->gnk", y.softmax(-1), weight)
        gradient = weight.sum(1)[:, None] - weight.shape[1] * expected
        wrong_place = (task.targets <= task.targets.median(1, keepdim=True).values).to(task.v)
        energy = torch.einsum("ne,nek->nk", wrong_place, task.activity**2)
        penalty = (gradient**2 * energy).sum(-1).mean(1)
        return _cross_entropy(task, weight, bias) + factor * penalty


class Hinge(Trained):
    """The requirement itself as a hinge, and the preserved outputs: the strong soft editor.

    Mean over entries of ``relu(|mm(L') - target| - inner epsilon) / epsilon``, plus factor times the drift.
    """

    def __init__(
        self, rates: Sequence[float], factors: Sequence[float], decay: float = 0.0, inner: float = 0.7
    ) -> None:
        super().__init__(rates, factors, decay)
        if not 0 <= inner <= 1:
            raise ValueError(f"inner {inner!r} must lie in [0, 1]")
        self.inner = inner

    def excess(self, task: MapTask, weight: Tensor) -> Tensor:
        off = (task.normalised(task.maps(weight)) - task.targets).abs() / task.epsilon - self.inner
        return off.masked_fill(~task.valid, -1.0)

    def loss(
        self, task: MapTask, weight: Tensor, bias: Tensor, factor: Tensor, generator: torch.Generator
    ) -> Tensor:
        hinge = self.excess(task, weight).relu().sum((1, 2)) / task.valid.sum()
        return hinge + factor * task.drift(weight, bias)


class AugmentedLagrangian(Hinge):
    """The same requirement by multipliers: ``sum max(0, lam + rho c)^2 / (2 rho)``, raised every `every` steps."""

    def __init__(
        self,
        rates: Sequence[float],
        factors: Sequence[float],
        decay: float = 0.0,
        inner: float = 0.9,
        rho: float = 1.0,
        every: int = 50,
    ) -> None:
        super().__init__(rates, factors, decay, inner)
        self.rho, self.every = rho, every

    def begin(self, task: MapTask, trials: int) -> None:
        self.multipliers = torch.zeros((trials, *task.targets.shape), dtype=task.weight.dtype)

    def loss(
        self, task: MapTask, weight: Tensor, bias: Tensor, factor: Tensor, generator: torch.Generator
    ) -> Tensor:
        raised = (
            (self.multipliers + self.rho * self.excess(task, weight)).relu().masked_fill(~task.valid, 0.0)
        )
        return (raised**2).sum((1, 2)) / (2 * self.rho * task.valid.sum()) + factor * task.drift(weight, bias)

    def after(self, task: MapTask, weight: Tensor, step: int) -> None:
        if step % self.every == 0:
            raised = (self.multipliers + self.rho * self.excess(task, weight)).relu()
            self.multipliers = raised.masked_fill(~task.valid, 0.0)


class SFT(Trained):
    """Cross-entropy on the right answer; one factor, which does nothing, keeps the grid's form."""

    def loss(
        self, task: MapTask, weight: Tensor, bias: Tensor, factor: Tensor, generator: torch.Generator
    ) -> Tensor:
        return _cross_entropy(task, weight, bias)


class DPO(Trained):
    """``-log sigmoid(beta (d - d_0))``, d the right answer's logit less the wrong one's, d_0 of the original head.

    The factors are beta. Two answers of one token: the normalising sum cancels, so that their two rows alone move.
    """

    def loss(
        self, task: MapTask, weight: Tensor, bias: Tensor, factor: Tensor, generator: torch.Generator
    ) -> Tensor:
        def lead(w: Tensor, b: Tensor) -> Tensor:
            gap = w[..., task.labels, :] - w[..., task.wrong, :]
            return torch.einsum("nk,...nk->...n", task.h, gap) + b[..., task.labels] - b[..., task.wrong]

        gain = lead(weight, bias) - lead(task.weight, task.bias)
        return -F.logsigmoid(factor[:, None] * gain).mean(1)


class MinimumNorm(Editor):
    """The smallest change in L2 with ``L'_i = low + range target_i`` exactly, low and range of today's map.

    ``dW_c = V_c^+ (wanted - V_c W_c)`` for every class c, V_c all its map features.
    """

    def edit(self, task: MapTask, steps: int, generator: torch.Generator) -> HeadEdit:
        weight = task.weight.double().clone()
        maps = task.maps(weight.to(task.v)).double()
        for c in task.labels.unique():
            rows, wanted = [], []
            for i in torch.nonzero(task.labels == c)[:, 0].tolist():
                own = maps[i][task.valid[i]]
                rows.append(task.v[i][task.valid[i]].double())
                wanted.append(
                    own.min() + (own.max() - own.min()) * task.targets[i][task.valid[i]].double() - own
                )
            weight[c] += torch.linalg.pinv(torch.cat(rows), rtol=1e-10) @ torch.cat(wanted)
        return HeadEdit(weight.to(task.weight.dtype), task.bias, "edited")


class ProGrad(Editor):
    """The provable edit of the head (`edit_gradients`).

    size, box, margin, floor: as there. keep: weight of the preserved outputs, 0 for none. answers: also require the
    right answer, by `answer_margin`. start: an editor that runs first (fine-tune, then edit), or None.
    """

    def __init__(
        self,
        size: str = "l1",
        box: float = 3.0,
        margin: float = 1e-5,
        floor: float = 0.1,
        keep: float = 0.0,
        answers: bool = False,
        answer_margin: float = 0.05,
        precision: str = "float32",
        start: Editor | None = None,
    ) -> None:
        self.size, self.box, self.margin, self.floor, self.keep = size, box, margin, floor, keep
        self.answers, self.answer_margin, self.precision, self.start = (
            answers,
            answer_margin,
            precision,
            start,
        )

    def edit(self, task: MapTask, steps: int, generator: torch.Generator) -> HeadEdit:
        first = HeadEdit(task.weight, task.bias, "edited")
        if self.start is not None:
            first = self.start.edit(task, steps, generator)
        head = head_module(first.weight, first.bias)
        masks = task.valid.numpy(force=True)
        features = [v[m].double().numpy(force=True) for v, m in zip(task.v, masks)]
        targets = [t[m].double().numpy(force=True) for t, m in zip(task.targets, masks)]
        asked: list[Constraint] = [
            FrozenMaps(features, task.labels.tolist(), targets, task.epsilon, floor=self.floor)
        ]
        rows = sorted(set(task.labels.tolist()))
        if self.answers:
            rows = sorted({*rows, *task.wrong.tolist()})
            asked.append(OutputMargin(task.labels.tolist(), self.answer_margin, against=rows))
        keep = Keep(task.keep, self.keep, rows) if self.keep else None
        found = edit_gradients(
            head, "0", task.h, asked, size=self.size, box=self.box, margin=self.margin, outputs=rows, keep=keep,
            precisions=("float64", self.precision), explain=False,
            bias=self.answers and task.has_bias, certifiers=_whole(task), doublings=DOUBLINGS,
        )  # fmt: skip
        layer = _layer(found.model)
        return HeadEdit(layer.weight.detach(), layer.bias.detach(), found.status)


def _whole(task: MapTask) -> list[Callable[[nn.Module], Certificate]]:
    check = task.certify
    if check is None:
        return []
    return [lambda head: check(_layer(head).weight.detach(), _layer(head).bias.detach())]


def _layer(head: nn.Module) -> nn.Linear:
    layer = head.get_submodule("0")
    assert isinstance(layer, nn.Linear)
    return layer


def head_module(weight: Tensor, bias: Tensor) -> nn.Sequential:
    """Return a head as a network of one layer, in evaluation mode."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
    return nn.Sequential(layer).eval()


def largest_change(task: MapTask, edit: HeadEdit) -> float:
    """Return the largest absolute change of a weight."""
    return float((edit.weight - task.weight).abs().max())


def padded(parts: Sequence[np.ndarray], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Stack arrays of different first length: (n, longest, ...), zero-padded, and which entries are real."""
    longest = max(len(p) for p in parts)
    whole = torch.zeros((len(parts), longest, *parts[0].shape[1:]), dtype=dtype)
    valid = torch.zeros((len(parts), longest), dtype=torch.bool)
    for i, p in enumerate(parts):
        whole[i, : len(p)] = torch.as_tensor(p).to(dtype)
        valid[i, : len(p)] = True
    return whole, valid
