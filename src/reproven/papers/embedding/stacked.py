"""Many small networks at once: parameters stacked over pairs, gradients derived by hand.

A stack evaluates ``sum_k w_k ell(y_k Phi(theta_p; x_k))`` and its gradient for every pair p in one pass of
batched
matrix products. Samples stand last (features, n), so that channels, positions and features need no copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reproven.papers.embedding.splitting import AxisMap, Embedding

Stack = dict[str, Tensor]
leaky_backward = torch.ops.aten.leaky_relu_backward.grad_input
LOSSES = ("exponential", "logistic", "logsumexp")
# Numbers in the samples of a block of pairs: 2 MB in double precision, about what a core keeps in cache. With
# 64 toy CNNs at once, allocating and filling hidden layers of 4 MB took most of the time.
BLOCK = 2**18


@dataclass(frozen=True)
class Batch:
    """Samples of one step. x: (d, n) shared or (pairs, d, n); y, weight: (n,) or (pairs, n).

    y in {-1, +1}; weights of the mean loss sum to one (a padded batch gives weight 0 to the padding).
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    signed: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signed", -self.y * self.weight)

    def blocks(self, pairs: int) -> list[slice]:
        """Return runs of pairs whose samples together have at most `BLOCK` numbers (at least one pair each).

        Pairs that share their samples, or have few, make one run.
        """
        size = pairs if self.x.ndim == 2 else max(1, BLOCK // self.x[0].numel())
        if size >= pairs:
            return [slice(None)]
        return [slice(first, first + size) for first in range(0, pairs, size)]

    def of(self, block: slice) -> Batch:
        """Return the samples of some pairs, as views."""
        if block == slice(None):
            return self
        return Batch(
            self.x if self.x.ndim == 2 else self.x[block],
            self.y if self.y.ndim == 1 else self.y[block],
            self.weight if self.weight.ndim == 1 else self.weight[block],
        )


@dataclass(frozen=True)
class StackedNet:
    """A bias-free scalar network ``[conv] - (activation - linear)*`` in a form that stacks.

    names: parameters in order. slopes: one leaky slope per hidden layer (0: ReLU, 1: linear).
    conv: None, or (channels in, kernel, side of the image, pool) of a first conv layer.
    """

    names: tuple[str, ...]
    slopes: tuple[float, ...]
    conv: tuple[int, int, int, int] | None = None

    @classmethod
    def of(cls, model: nn.Sequential, side: int = 0) -> StackedNet:
        """Read the structure off an `nn.Sequential`; side: height and width of the images of a conv net."""
        names, slopes, conv, pool = [], [], None, 1
        for name, layer in model.named_children():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                if layer.bias is not None:
                    raise ValueError(
                        f"layer {name!r} has a bias: stacks are bias-free, train it with `train_pair`"
                    )
                names.append(f"{name}.weight")
            if isinstance(layer, nn.Conv2d):
                if len(names) > 1 or layer.padding != (0, 0) or layer.stride != (1, 1):
                    raise ValueError(f"conv layer {name!r} must come first, with stride 1 and no padding")
                conv = (layer.in_channels, layer.kernel_size[0])
            elif isinstance(layer, nn.LeakyReLU | nn.ReLU | nn.Identity):
                slopes.append(
                    {nn.ReLU: 0.0, nn.Identity: 1.0}.get(type(layer), getattr(layer, "negative_slope", 0))
                )
            elif isinstance(layer, nn.AvgPool2d):
                pool = int(layer.kernel_size)  # type: ignore[arg-type]
            elif not isinstance(layer, nn.Linear | nn.Flatten):
                raise ValueError(
                    f"{type(layer).__name__} {name!r} does not stack: train it with `train_pair`"
                )
        if min(slopes, default=0) < 0:
            raise ValueError("a stack needs leaky slopes >= 0: train other networks with `train_pair`")
        if len(slopes) != len(names) - 1:
            raise ValueError("a stack needs one activation between any two weight layers")
        return cls(tuple(names), tuple(slopes), None if conv is None else (*conv, side, pool))

    @property
    def order(self) -> int:
        """Return the homogeneity order L: the number of weight layers."""
        return len(self.names)

    def inputs(self, x: Tensor) -> Tensor:
        """Return samples (n, ...) as a `Batch` takes them: (d, n), or conv patches (c k k, positions n)."""
        return self.inputs_of_pairs(x[None])[0]

    def inputs_of_pairs(self, x: Tensor) -> Tensor:
        """Return samples (pairs, n, ...) as (pairs, d, n) or (pairs, c k k, positions n)."""
        if self.conv is None:
            return x.flatten(2).mT
        kernel = self.conv[1]
        last = x.permute(0, 2, 3, 4, 1).contiguous()  # samples last: patches are then copied in long runs
        patches = last.unfold(2, kernel, 1).unfold(3, kernel, 1).permute(0, 1, 5, 6, 2, 3, 4)
        return patches.flatten(4).flatten(1, 3)

    def _matrix(self, i: int, weight: Tensor) -> Tensor:
        """Return weight i as (pairs, out, in); average pooling is folded into the layer that reads it."""
        if self.conv is None:
            return weight
        if i == 0:
            return weight.flatten(2)
        if i > 1 or self.conv[3] == 1:
            return weight
        pool = self._pooling(weight)
        return (weight.unflatten(2, (-1, len(pool))) @ pool).flatten(2)

    def _fold(self, i: int, gradient: Tensor, like: Tensor) -> Tensor:
        """Return the gradient of weight i from that of its matrix: the adjoint of `_matrix`."""
        if self.conv is None or i > 1 or (i == 1 and self.conv[3] == 1):
            return gradient
        if i == 0:
            return gradient.view_as(like)
        pool = self._pooling(gradient)
        return (gradient.unflatten(2, (-1, pool.shape[1])) @ pool.T).flatten(2)

    def _pooling(self, like: Tensor) -> Tensor:
        """Return average pooling as a matrix (pooled positions, positions)."""
        assert self.conv is not None
        _, kernel, side, pool = self.conv
        return _pooling_matrix(side - kernel + 1, pool, like.dtype, like.device)

    def outputs(self, stack: Stack, x: Tensor) -> Tensor:
        """Return ``Phi(theta_p; x_k)``, (pairs, n)."""
        return self._forward(stack, x)[0]

    def _forward(self, stack: Stack, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return outputs, weight matrices and the input of each layer."""
        matrices = [self._matrix(i, stack[name]) for i, name in enumerate(self.names)]
        inputs = [x]
        a = matrices[0] @ x
        for i, slope in enumerate(self.slopes):
            if slope != 1:
                F.leaky_relu_(a, slope)
            if i == 0 and self.conv is not None:
                _, kernel, side, _ = self.conv
                a = a.view(a.shape[0], a.shape[1] * (side - kernel + 1) ** 2, -1)
            inputs.append(a)
            a = matrices[i + 1] @ a
        return a.squeeze(1), matrices, inputs

    def loss_and_gradient(
        self, stack: Stack, batch: Batch, loss: str = "exponential"
    ) -> tuple[Tensor, Stack]:
        """Return the loss of each pair (pairs,) and its gradient, a stack like the parameters."""
        out, matrices, inputs = self._forward(stack, batch.x)
        value, delta = loss_and_slope(out, batch, loss)
        gradient, last = {}, len(self.names) - 1
        delta = delta.unsqueeze(1)
        for i in range(last, -1, -1):
            if i == 0 and self.conv is not None:
                delta = delta.view(delta.shape[0], matrices[0].shape[1], -1)  # positions leave the rows
            gradient[self.names[i]] = self._fold(i, delta @ inputs[i].mT, stack[self.names[i]])
            if i:
                weight, slope = matrices[i], self.slopes[i - 1]
                delta = weight.mT * delta if weight.shape[1] == 1 else weight.mT @ delta
                if slope != 1:  # slopes >= 0 keep signs, so activations tell where the slope applies
                    leaky_backward(delta, inputs[i], slope, True, grad_input=delta)
        return value, gradient


@lru_cache(maxsize=16)
def _pooling_matrix(full: int, pool: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    unit = torch.eye(full * full, dtype=dtype, device=device).view(1, full * full, full, full)
    return F.avg_pool2d(unit, pool)[0].flatten(1).T.contiguous()


def loss_and_slope(out: Tensor, batch: Batch, loss: str) -> tuple[Tensor, Tensor]:
    """Return the loss of each pair and its derivative with respect to the outputs (pairs, n).

    exponential: ``sum w exp(-q)``; logistic: ``sum w log(1 + exp(-q))``; logsumexp: ``log sum w exp(-q)``,
    which neither under- nor overflows and has the direction of the exponential loss.
    """
    if loss == "exponential":
        e = torch.exp(-batch.y * out)
        return (batch.weight * e).sum(-1), batch.signed * e
    q = batch.y * out
    if loss == "logistic":
        return (batch.weight * F.softplus(-q)).sum(-1), batch.signed * torch.sigmoid(-q)
    if loss == "logsumexp":
        p = torch.log(batch.weight) - q
        value = torch.logsumexp(p, -1, keepdim=True)
        return value.squeeze(-1), -batch.y * torch.exp(p - value)
    raise ValueError(f"loss {loss!r} is not one of {', '.join(LOSSES)}")


def stack_models(models: Sequence[nn.Module], device: str | torch.device = "cpu") -> Stack:
    """Return the parameters of equal models stacked over a new first axis (pairs), on `device`."""
    states = [dict(m.named_parameters()) for m in models]
    return {
        name: torch.stack([s[name].detach() for s in states]).contiguous().to(device) for name in states[0]
    }


def stack_embeddings(embeddings: Sequence[Embedding]) -> StackedEmbedding:
    """Return one map for a stack of pairs whose splits differ in coefficients only."""
    first = embeddings[0]
    axes: dict[str, dict[int, AxisMap]] = {}
    for name, maps in first.axes.items():
        axes[name] = {}
        for axis, along in maps.items():
            others = [e.axes[name][axis] for e in embeddings]
            if any(not torch.equal(o.index, along.index) for o in others):
                raise ValueError(
                    f"embeddings split different units of {name!r}: train them in separate stacks"
                )
            axes[name][axis] = AxisMap(along.index, torch.stack([o.scale for o in others]))
    return StackedEmbedding(axes, first.tau)


@dataclass(frozen=True)
class StackedEmbedding(Embedding):
    """`Embedding` of a stack: axis a of a parameter is axis a + 1 of the stack, scales are (pairs, wide)."""

    def _apply(self, name: str, value: Tensor) -> Tensor:
        for axis, along in self.axes.get(name, {}).items():
            shape = [value.shape[0]] + [1] * (value.ndim - 1)
            shape[axis + 1] = -1
            value = value.index_select(axis + 1, along.index.to(value.device)) * along.scale.to(
                value.device
            ).view(shape)
        return value

    def to(self, like: Tensor) -> StackedEmbedding:
        """Return the map with its tensors on the device and in the precision of `like`, ready for a loop."""
        axes = {
            name: {a: AxisMap(m.index.to(like.device), m.scale.to(like)) for a, m in maps.items()}
            for name, maps in self.axes.items()
        }
        return StackedEmbedding(axes, self.tau)
