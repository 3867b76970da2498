"""Transverse stability: curvature of the loss in the directions that leave the image of T (reconstructed).

Copies ``w_i = c_i w + p_i``, ``u_i = c_i u + r_i`` with ``sum c_i p_i = sum c_i r_i = 0`` change the loss,
for a fixed
activation pattern, only through ``sum_i r_i p_i^T``. The Hessian there is m_s - 1 copies of ``[[0, V^T],
[V, 0]]``
with ``V = sum_k (dL/dz_k^(k+1)) (sigma'(z_kj) h_k)^T``: eigenvalues are plus and minus the singular values
of V, whatever the coefficients. Rounding noise off the image grows like ``exp(int sigma_max(V) dt)``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reproven.papers.embedding.splitting import Embedding
from reproven.papers.embedding.stacked import Batch, Stack, StackedNet, loss_and_slope
from reproven.papers.embedding.structure import CONV, find_path, module_named

LossOf = Callable[[Tensor], Tensor]


def transverse_matrix(model: nn.Module, layer: str, unit: int, x: Tensor, loss: LossOf) -> Tensor:
    """Return V of hidden unit `unit`: (outgoing weights of the unit, ingoing weights of the unit).

    model: traceable, as for `split`. x: inputs. loss: outputs -> scalar. Fully connected and convolutional
    layers; a conv layer sums over pairs of positions that share the weights.
    """
    path = find_path(model, layer)
    producer, consumer = module_named(model, path.producer), module_named(model, path.consumer)
    seen: dict[str, Tensor] = {}
    hooks = [
        producer.register_forward_hook(lambda m, i, o: seen.update(h=i[0].detach())),
        consumer.register_forward_hook(lambda m, i, o: seen.update(z=o)),
    ]
    try:
        value = loss(model(x))
    finally:
        for hook in hooks:
            hook.remove()
    delta = torch.autograd.grad(value, seen["z"])[0].detach()
    own, read = dict(producer.named_parameters()), dict(consumer.named_parameters())
    w = own["weight"].detach()[unit : unit + 1]
    group = slice(unit * path.group, (unit + 1) * path.group)
    u = read["weight"].detach()[:, group]
    bias = own["bias"].detach()[unit : unit + 1] if "bias" in own else None

    def influence(w: Tensor, u: Tensor) -> Tensor:
        a = _apply(producer, seen["h"], w, bias)
        for step in path.steps:
            a = step(a)
        return (delta * _apply(consumer, a, u, None)).sum()

    mixed = torch.func.jacrev(torch.func.grad(influence, argnums=1), argnums=0)(w, u)
    return mixed.reshape(u.numel(), w.numel()).detach()


def _apply(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not isinstance(layer, CONV):
        return F.linear(x, weight, bias)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[weight.ndim - 2]
    return convolve(x, weight, bias, layer.stride, layer.padding, layer.dilation)


def transverse_hessian(
    wide: nn.Module,
    embedding: Embedding,
    layer: str,
    consumer: str,
    copies: list[int],
    x: Tensor,
    loss: LossOf,
) -> Tensor:
    """Return the wide Hessian at T theta restricted to transverse directions, by automatic differentiation.

    copies: indices of the copies in `layer`; layer, consumer: names of the split layer and of its reader.
    Directions are orthonormal; the order is ((m_s - 1) ingoing blocks, (m_s - 1) outgoing blocks).
    """
    names = (f"{layer}.weight", f"{consumer}.weight")
    parameters = {n: p.detach() for n, p in wide.named_parameters()}
    c = embedding.axes[names[0]][0].scale[copies].to(x.dtype)
    basis = torch.linalg.svd(c[None], full_matrices=True)[2][1:]  # (m_s - 1, m_s), orthogonal to c
    rows = parameters[names[0]][copies]
    group = parameters[names[1]].shape[1] // len(parameters[names[0]])
    columns = torch.tensor([j * group + g for j in copies for g in range(group)])
    outgoing = parameters[names[1]][:, columns].unflatten(1, (len(copies), group))

    def at(p: Tensor, r: Tensor) -> Tensor:
        w = parameters[names[0]].clone()
        w[copies] = rows + torch.einsum("ai,a...->i...", basis, p)
        u = parameters[names[1]].clone()
        u[:, columns] = (outgoing + torch.einsum("ai,a...->i...", basis, r).movedim(0, 1)).flatten(1, 2)
        return loss(torch.func.functional_call(wide, {**parameters, names[0]: w, names[1]: u}, (x,)))

    p = torch.zeros(len(basis), *rows.shape[1:], dtype=x.dtype)
    r = torch.zeros(len(basis), outgoing.shape[0], *outgoing.shape[2:], dtype=x.dtype)
    sizes = (p.numel(), r.numel())
    flat = torch.zeros(sum(sizes), dtype=x.dtype)

    def flat_loss(v: Tensor) -> Tensor:
        return at(v[: sizes[0]].view_as(p), v[sizes[0] :].view_as(r))

    return torch.autograd.functional.hessian(flat_loss, flat)


def growth_rates(net: StackedNet, stack: Stack, batch: Batch, loss: str = "exponential") -> Tensor:
    """Return sigma_max(V) of each unit of the first layer of a stack of two-layer networks, (pairs, units).

    The fast form of `transverse_matrix` for scalar outputs: V has one row per position of the unit.
    """
    if len(net.names) != 2 or (net.conv is not None and net.conv[3] != 1):
        raise ValueError("growth rates of stacks need two layers and no pooling: use transverse_matrix")
    w = stack[net.names[0]].flatten(2)
    z = w @ batch.x  # (pairs, units, positions n)
    out = net.outputs(stack, batch.x)
    _, delta = loss_and_slope(out, batch, loss)
    n = delta.shape[-1]
    x = batch.x if batch.x.ndim == 3 else batch.x.expand(len(z), *batch.x.shape)
    slope = torch.where(z > 0, torch.ones_like(z), net.slopes[0])
    weighted = slope.unflatten(-1, (-1, n)) * delta[:, None, None, :]
    v = torch.einsum("pcqn,pdqn->pcqd", weighted, x.unflatten(-1, (-1, n)))
    return torch.linalg.matrix_norm(v.double(), ord=2)


def fitted_rate(
    times: np.ndarray, errors: np.ndarray, low: float = 1e-12, high: float = 1e-4
) -> tuple[float, int]:
    """Return the slope of ``log e`` against t where ``low < e < high``, and the number of points.

    NaN with fewer than five points.
    """
    times, errors = np.asarray(times, float), np.asarray(errors, float)
    use = (errors > low) & (errors < high)
    if use.sum() < 5:
        return float("nan"), int(use.sum())
    return float(np.polyfit(times[use], np.log(errors[use]), 1)[0]), int(use.sum())


def crossing_time(times: np.ndarray, errors: np.ndarray, level: float) -> float:
    """Return the first time at which the error exceeds `level`, log-linearly interpolated; inf if never."""
    errors = np.maximum(np.asarray(errors, float), 1e-300)
    above = np.nonzero(errors > level)[0]
    if not len(above):
        return float("inf")
    i = int(above[0])
    if i == 0:
        return float(times[0])
    a, b = np.log(errors[i - 1]), np.log(errors[i])
    return float(times[i - 1] + (np.log(level) - a) / (b - a) * (times[i] - times[i - 1]))


def predicted_crossing(times: np.ndarray, rates: np.ndarray, start: float, growth: float) -> float:
    """Return the time t with ``int_start^t sigma_max(V) ds = log(growth)``; inf if never."""
    times, rates = np.asarray(times, float), np.asarray(rates, float)
    if not np.isfinite(start):
        return float("inf")
    grid = np.concatenate([[start], times[times > start]])
    along = np.interp(grid, times, rates)
    total = np.concatenate([[0.0], np.cumsum(np.diff(grid) * (along[1:] + along[:-1]) / 2)])
    if total[-1] < np.log(growth):
        return float("inf")
    return float(np.interp(np.log(growth), total, grid))
