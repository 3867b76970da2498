"""Update rules on stacks of networks, and which of them commute with the splitting map (reconstructed).

A rule that uses the gradient history through linear operations and global norms commutes with every
isometry; one
that divides by coordinatewise moments does not, unless step and eps of each block carry its coefficient.
Every rule follows `torch.optim` symbol by symbol; norms are taken over one network of the stack at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reproven.papers.embedding.stacked import Stack


def norm(stack: Stack) -> Tensor:
    """Return the Euclidean norm of each network of a stack, (pairs,)."""
    return torch.stack([v.flatten(1).square().sum(1) for v in stack.values()]).sum(0).sqrt()


def _per_pair(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *[1] * (like.ndim - 1))


@dataclass
class State:
    """What a rule remembers: steps taken and moments by name."""

    t: int = 0
    first: Stack = field(default_factory=dict)
    second: Stack = field(default_factory=dict)


@dataclass(frozen=True)
class GradientRule:
    """``d = clip(g) + wd theta``; ``b = momentum b + d``; ``theta -= lr (d + momentum b | b)``.

    lr: step, > 0. momentum, nesterov, weight_decay: as `torch.optim.SGD`. clip: largest global norm of g,
    or 0. normalised: ``g / ||g||``; relative: times ``||theta||``. loss_scaled: step ``lr / loss`` (a
    loss-based schedule). All of it commutes with an isometry.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float = 0.0
    normalised: bool = False
    relative: bool = False
    loss_scaled: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr} must be positive")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true needs momentum > 0")

    @property
    def invariant(self) -> bool:
        """Return whether the rule commutes with every isometry."""
        return True

    def step(
        self,
        stack: Stack,
        gradient: Stack,
        loss: Tensor,
        state: State,
        scale: Stack | None = None,
        rate: float = 1.0,
    ) -> None:
        """Update `stack` and `state` in place. loss: (pairs,); scale: unused; rate: factor of lr."""
        factor = self._factor(stack, gradient, loss)
        for name, theta in stack.items():
            d = gradient[name]
            if factor is not None:
                d = d * _per_pair(factor, d)
            if self.weight_decay:
                d = d + self.weight_decay * theta
            if self.momentum:
                b = state.first[name] = d.clone() if state.t == 0 else self.momentum * state.first[name] + d
                d = d + self.momentum * b if self.nesterov else b
            theta.sub_(d, alpha=self.lr * rate)
        state.t += 1

    def _factor(self, stack: Stack, gradient: Stack, loss: Tensor) -> Tensor | None:
        factor = None
        if self.normalised:
            factor = norm(stack) / norm(gradient) if self.relative else 1 / norm(gradient)
        elif self.clip:
            factor = (self.clip / (norm(gradient) + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_
        if self.loss_scaled:
            factor = 1 / loss if factor is None else factor / loss
        return factor


@dataclass(frozen=True)
class AdaptiveRule:
    """Adam, AdamW, RMSprop, Adagrad: ``theta -= lr s m / (sqrt(v) + eps s)``; s = T(1) if repaired, else 1.

    kind: ``adam`` (`torch.optim.Adam`), ``rmsprop`` or ``adagrad``. decoupled: weight decay as in AdamW.
    repaired: give each block the product s of the splitting coefficients that scale it, in step and eps
    (reconstructed, dossier 3.5); the narrow network has s = 1. Only then does the rule commute with the
    split.
    """

    lr: float
    kind: str = "adam"
    betas: tuple[float, float] | list[float] = (0.9, 0.999)
    eps: float = 1e-8
    alpha: float = 0.99
    weight_decay: float = 0.0
    decoupled: bool = False
    repaired: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("adam", "rmsprop", "adagrad"):
            raise ValueError(f"kind={self.kind!r} is not one of adam, rmsprop, adagrad")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr} must be positive")

    @property
    def invariant(self) -> bool:
        """Return whether the rule commutes with the splitting map."""
        return self.repaired

    def step(
        self,
        stack: Stack,
        gradient: Stack,
        loss: Tensor,
        state: State,
        scale: Stack | None = None,
        rate: float = 1.0,
    ) -> None:
        """Update `stack` and `state` in place. scale: T(1) of a wide stack or None; rate: factor of lr."""
        state.t += 1
        for name, theta in stack.items():
            g = gradient[name]
            if self.weight_decay and self.decoupled:
                theta.mul_(1 - self.lr * rate * self.weight_decay)
            elif self.weight_decay:
                g = g + self.weight_decay * theta
            m, root, lr = self._moments(name, g, state)
            if self.repaired and scale is not None:
                s = scale[name]
                update = m / (root + self.eps * s) * s
                update = torch.where(
                    s > 0, update, 0.0
                )  # a dead copy (c = 0) has 0/0 and must stay at T theta
            else:
                update = m / (root + self.eps)
            theta.sub_(update, alpha=lr * rate)

    def _moments(self, name: str, g: Tensor, state: State) -> tuple[Tensor, Tensor, float]:
        zero = torch.zeros_like(g)
        v = state.second.get(name, zero)
        if self.kind == "adagrad":
            v = state.second[name] = v + g * g
            return g, v.sqrt(), self.lr
        if self.kind == "rmsprop":
            v = state.second[name] = self.alpha * v + (1 - self.alpha) * g * g
            return g, v.sqrt(), self.lr
        b1, b2 = self.betas
        m = state.first[name] = b1 * state.first.get(name, zero) + (1 - b1) * g
        v = state.second[name] = b2 * v + (1 - b2) * g * g
        return m, (v / (1 - b2**state.t)).sqrt(), self.lr / (1 - b1**state.t)


Rule = GradientRule | AdaptiveRule
