"""Arc ridge around any torch optimiser: friction proportional to the length of the path travelled.

Reconstructed (dossier 3.6): the paper's own listing was not to be had.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reproven.papers.arc_ridge import metric as metrics

RULES = ("prox", "stop")
GRADIENTS = ("full", "halves")


class Diverged(ValueError):
    """Loss or gradient is not finite; the parameters are back at the last good checkpoint, `last_good`."""

    def __init__(self, what: str, step: int, last_good: int) -> None:
        self.step, self.last_good = step, last_good
        super().__init__(
            f"{what} at step {step}: the parameters are back at step {last_good}, the last good one; "
            "lower the learning rate or look at the data of that step"
        )


@dataclass(frozen=True)
class ArcInfo:
    """What one call of `ArcRidge.step` saw and did.

    step: its number, from 0. measured: whether length and norm were taken in it; between measurements the last
    ones stand. arc: length A of the path up to the last measurement. grad_norm: ``|grad L|`` there. shrink: factor
    ``(1 - lam A / |grad L|)_+`` of the step. stopped: whether the run has ended; no step was taken then.
    """

    step: int
    measured: bool
    arc: float
    grad_norm: float
    shrink: float
    stopped: bool


class ArcRidge:
    """Arc ridge ``1/2 lam A^2`` around SGD, momentum, Adam or AdamW.

    The step v of the optimiser becomes ``v (1 - lam A/|grad L|)_+ / (1 + eta lam)``, the minimiser of

        <grad L, v> + lam/2 [(A + |v|)^2 - A^2] + |v|^2 / (2 eta),

    so that the path is the optimiser's own, slower, and ends at the first point with ``|grad L| = lam A``. Lengths
    are ``|dtheta|_G`` and gradient norms ``|grad|_{G^-1}``, with G the optimiser's metric (`metric.diagonal`):
    the identity for SGD, ``sqrt(v) + eps`` for Adam. A parameter group may carry ``metric_scale: s`` (mean-field
    scaling: lengths over s, gradient norms times s, with ``lr = eta s^2``).

    optimizer: its step must be linear in the learning rate, hence without weight decay.
    lam: lambda >= 0; for a mean loss it is 1/n of that for the sum.
    every: take length and norm every so many steps: >= 1. Lengths then are those of the chords between (coarse
        arc), which is what minibatches need: single noisy steps add length without getting anywhere.
    rule: ``"prox"`` as above, ``"stop"`` leaves steps alone and stops where prox would end.
    gradient: ``"full"`` takes the norm of ``.grad``; ``"halves"`` the inner product of the gradients of two half
        batches, whose mean is ``|E g|^2`` without the noise's part, smoothed by an exponential average. Draw the halves
        independently of each other: disjoint halves of n data have a mean too small by the variance over n. Call
        `half` between the two backward passes wherever `wants_half`. The rule waits for 1/(1 - decay) measurements.
    decay: of that average, in [0, 1).
    metric: ``"own"``, or ``"euclidean"`` for the identity whatever the optimiser (an ablation: another regulariser).

    Source: dossier sections 3.6 and 3.7. Example::

        arc = ArcRidge(torch.optim.SGD(model.parameters(), lr=0.1), lam=0.01)
        while not arc.stopped:
            arc.optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            arc.step(loss)
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        lam: float,
        *,
        every: int = 1,
        rule: str = "prox",
        gradient: str = "full",
        decay: float = 0.9,
        metric: str = "own",
    ) -> None:
        if not (math.isfinite(lam) and lam >= 0):
            raise ValueError(f"lam = {lam} must be a finite number of 0 or more (0: no regularisation)")
        if every < 1:
            raise ValueError(f"every = {every} must be at least 1 step")
        if rule not in RULES:
            raise ValueError(f"rule {rule!r} is not one of {RULES}")
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient {gradient!r} is not one of {GRADIENTS}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay = {decay} must lie in [0, 1)")
        metrics.check(optimizer, metric)
        self.optimizer = optimizer
        self.lam = float(lam)
        self.every = int(every)
        self.rule, self.gradient, self.decay, self.metric = rule, gradient, decay, metric
        self.steps = 0
        self.stopped = False
        self._measured = 0
        self._arc = 0.0
        self._squared = 0.0  # running mean of the squared gradient norm, before its bias correction
        self._norm = math.inf
        self._shrink = 1.0
        self._point: list[Tensor] = []  # parameters at the last measurement: the last good checkpoint
        self._point_step = 0
        self._half: list[Tensor] | None = None

    @property
    def wants_half(self) -> bool:
        """Whether the next step takes a norm from half batches, so that `half` must be called before it."""
        return self.gradient == "halves" and self._due()

    @property
    def arc(self) -> float:
        """Length A up to now: measured chords and the chord from the last measurement to the present point."""
        return self._arc + (self._chord() if self._point else 0.0)

    @property
    def point(self) -> list[Tensor]:
        """Parameters at the last measurement, the last good checkpoint; empty before the first."""
        return self._point

    @property
    def settled(self) -> bool:
        """Whether the gradient norm averages over enough measurements for the rule to act on it."""
        return self.gradient == "full" or self._measured * (1 - self.decay) >= 1

    @torch.no_grad()
    def half(self) -> None:
        """Remember the gradients of the first half batch; the second is added to ``.grad`` by its backward pass.

        Each half's loss carries the weight 1/2, so that ``.grad`` ends as the mean of both.
        """
        if self.wants_half:
            self._half = [torch.clone(g) for g in self._gradients()]

    @torch.no_grad()
    def step(self, loss: float | Tensor | None = None) -> ArcInfo:
        """Take one step after ``backward()``. loss: checked to be finite, if given; raises `Diverged`."""
        if self.stopped:
            return self._info(False)
        value = 0.0 if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)
        if not math.isfinite(value):
            raise self._diverged(f"loss is {value}")
        self._check_gradients()
        due = self._due()
        if due:
            self._measure()
        if self._shrink > 0:
            self._scaled_step()
            self.steps += 1
        else:
            self.stopped = True
        return self._info(due)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs to go on bit by bit, the optimiser's state included."""
        names = ("steps", "stopped", "_measured", "_arc", "_squared", "_norm", "_shrink", "_point_step")
        return {
            "optimizer": self.optimizer.state_dict(),
            "arc": {name: getattr(self, name) for name in names},
            "point": [p.clone() for p in self._point],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`; ValueError where its checkpoint has another shape than the parameters."""
        for i, (p, saved) in enumerate(zip(self._parameters(), state["point"])):
            if p.shape != saved.shape:
                raise ValueError(
                    f"parameter {i} has shape {tuple(p.shape)}, the saved path {tuple(saved.shape)}: other model?"
                )
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["arc"].items():
            setattr(self, name, value)
        self._point = [saved.to(p).clone() for p, saved in zip(self._parameters(), state["point"])]
        self._half = None

    # --- measuring -----------------------------------------------------------------------------------------

    def _due(self) -> bool:
        return not self.stopped and self.steps % self.every == 0

    def _measure(self) -> None:
        squared = self._squared_norm()
        if not math.isfinite(squared):
            raise self._diverged(f"the squared gradient norm is {squared}")
        self._measured += 1
        if self.gradient == "halves":
            self._squared = self.decay * self._squared + (1 - self.decay) * squared
            squared = self._squared / (1 - self.decay**self._measured)
        self._norm = math.sqrt(max(squared, 0.0))
        if self._point:
            self._arc += self._chord()
            torch._foreach_copy_(self._point, self._parameters())
        else:
            self._point = [p.detach().clone() for p in self._parameters()]
        self._point_step = self.steps
        self._shrink = self._friction()

    def _friction(self) -> float:
        pull = self.lam * self._arc
        if pull == 0 or not self.settled:
            return 1.0
        if self._norm <= pull:
            return 0.0
        return 1.0 if self.rule == "stop" else 1.0 - pull / self._norm

    def _squared_norm(self) -> float:
        gradients = self._gradients()
        if self.gradient == "full":
            return metrics.squared(self.optimizer, gradients, gradients, self.metric, dual=True)
        if self._half is None:
            raise ValueError(
                f"no half batch at step {self.steps}: call half() after the first backward pass wherever wants_half"
            )
        first, self._half = self._half, None
        # Both carry the weight 1/2 of their loss.
        a = torch._foreach_mul(first, 2.0)
        b = torch._foreach_mul(torch._foreach_sub(gradients, first), 2.0)
        return metrics.squared(self.optimizer, a, b, self.metric, dual=True, independent=True)

    def _chord(self) -> float:
        if self.steps == self._point_step:
            return 0.0
        moved = torch._foreach_sub(self._parameters(), self._point)
        return math.sqrt(metrics.squared(self.optimizer, moved, moved, self.metric, dual=False))

    # --- moving --------------------------------------------------------------------------------------------

    def _scaled_step(self) -> None:
        """Take the optimiser's step at ``lr * shrink / (1 + eta lam)``: exact, its step being linear in lr."""
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, rates):
            if self.rule == "prox":
                eta = float(rate) / group.get("metric_scale", 1.0) ** 2
                group["lr"] = rate * (self._shrink / (1 + eta * self.lam))
        try:
            self.optimizer.step()
        finally:
            for group, rate in zip(groups, rates):
                group["lr"] = rate

    # --- parameters ----------------------------------------------------------------------------------------

    def _with_gradient(self) -> Iterator[Tensor]:
        for group in self.optimizer.param_groups:
            yield from (p for p in group["params"] if p.requires_grad)

    def _parameters(self) -> list[Tensor]:
        return [p.detach() for p in self._with_gradient()]

    def _gradients(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self._with_gradient()]

    def _check_gradients(self) -> None:
        for i, group in enumerate(self.optimizer.param_groups):
            if all(p.grad is None for p in group["params"]):
                raise ValueError(
                    f"parameter group {i} has no gradient at step {self.steps}: call backward() first, "
                    "or leave frozen parameters out of the optimiser"
                )

    def _diverged(self, what: str) -> Diverged:
        if self._point:
            torch._foreach_copy_(self._parameters(), self._point)
        step, self.steps = self.steps, self._point_step
        return Diverged(what, step, self._point_step)

    def _info(self, measured: bool) -> ArcInfo:
        taken = self.steps if self.stopped else self.steps - 1
        return ArcInfo(taken, measured, self._arc, self._norm, self._shrink, self.stopped)
