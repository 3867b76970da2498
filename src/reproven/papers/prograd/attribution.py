"""Attributions by plain differentiation, and the metrics that compare them: what edits are measured with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from reproven.papers.prograd.rows import min_max


@cache
def gauss_legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of the Gauss-Legendre rule on [0, 1]."""
    if nodes < 1:
        raise ValueError(f"a quadrature needs at least one node, not {nodes}")
    x, w = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, w / 2


def input_gradients(model: nn.Module, x: Tensor, outputs: Tensor | None = None) -> Tensor:
    """Return dN/dx by reverse mode: (n, outputs, inputs), or for one output a point (n, ...)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = model(x)
        if outputs is not None:
            return torch.autograd.grad(y.gather(1, outputs.to(y.device)[:, None]).sum(), x)[0]
        rows = [torch.autograd.grad(y[:, o].sum(), x, retain_graph=True)[0] for o in range(y.shape[1])]
    return torch.stack([r.flatten(1) for r in rows], 1)


def grad_cam(model: nn.Module, x: Tensor, classes: Tensor, at: str) -> Tensor:
    """Return ``L_c = sum_k alpha_k z_k``, alpha_k the mean of dy_c/dz_k: (n, height, width), without a last ReLU.

    at: as `Tail`'s: ``"name"`` or ``"name:input"``.
    """
    name, _, side = at.partition(":")
    module = dict(model.named_modules())[name]
    held: list[Tensor] = []

    def keep(value: Tensor) -> Tensor:
        held.append(value.detach().requires_grad_())
        return held[-1].clone()  # a later in-place function must not change what we keep

    if side == "input":
        handle = module.register_forward_pre_hook(lambda m, a: (keep(a[0]), *a[1:]))
    else:
        handle = module.register_forward_hook(lambda m, a, out: keep(out))
    with contextlib.ExitStack() as stack, torch.enable_grad():
        stack.callback(handle.remove)
        y = model(x)
        (gradient,) = torch.autograd.grad(y.gather(1, classes.to(y.device)[:, None]).sum(), held[0])
    return (gradient.mean((2, 3), keepdim=True) * held[0].detach()).sum(1)


def integrated_gradients(
    model: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, output: int, nodes: int = 25
) -> Tensor:
    """Return the Integrated Gradients of one point by reverse mode, summed over all but its first axis.

    x, baseline: (tokens, width) or (entries,). Completeness: they sum to N_o(x) - N_o(baseline).
    """
    alpha, weights = gauss_legendre(nodes)
    step = x - baseline
    shape = (-1, *[1] * x.dim())
    path = baseline[None] + torch.as_tensor(alpha).to(x).reshape(shape) * step[None]
    gradient = input_gradients(model, path, torch.full((nodes,), output))  # type: ignore[arg-type]
    mean = (torch.as_tensor(weights).to(x).reshape(shape) * gradient).sum(0)
    return (step * mean).reshape(len(x), -1).sum(1)


def token_features(
    hidden: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, tokens: Sequence[int], nodes: int = 25
) -> Tensor:
    """Return v, (tokens, width of hidden), with ``IG_j = W_t v_j`` for the target row W_t of a head on hidden.

    ``v_j = sum_k w_k JVP[hidden](path_k; x - baseline restricted to token j)``: forward mode, all tokens batched over
    one primal. hidden: (n, positions, width) -> (n, width).
    """
    alpha, weights = gauss_legendre(nodes)
    step = x - baseline
    path = baseline[None] + torch.as_tensor(alpha).to(x).reshape(-1, 1, 1) * step[None]
    one = torch.nn.functional.one_hot(torch.as_tensor(list(tokens)), len(x)).to(x)  # (tokens, positions)
    directions = (one[..., None] * step)[:, None].expand(-1, nodes, -1, -1)
    with torch.no_grad():
        along = torch.func.vmap(lambda d: torch.func.jvp(hidden, (path,), (d,))[1])(directions)
    return torch.einsum("n,tnk->tk", torch.as_tensor(weights).to(along), along)


def satisfaction(maps: np.ndarray, targets: np.ndarray, epsilon: float) -> np.ndarray:
    """Return the share of entries of each map within epsilon of its target after min-max, (n,); flat maps: 0."""
    flat = ~(np.ptp(maps, axis=-1) > 0)
    share = np.zeros(len(maps))
    if (~flat).any():
        share[~flat] = (np.abs(min_max(maps[~flat]) - targets[~flat]) <= epsilon).mean(-1)
    return share


def cosine(maps: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle between each min-max map and its target, (n,); flat maps: 0."""
    flat = ~(np.ptp(maps, axis=-1) > 0)
    found = np.zeros(len(maps))
    if (~flat).any():
        a, b = min_max(maps[~flat]), targets[~flat]
        found[~flat] = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return found


def iou(maps: np.ndarray, targets: np.ndarray, percentile: float) -> np.ndarray:
    """Return the intersection over union of the entries above each map's own percentile, (n,).

    Strictly above, so that 12 of 49 entries are selected at 75 %.
    """
    a = maps > np.percentile(maps, percentile, axis=-1, keepdims=True)
    b = targets > np.percentile(targets, percentile, axis=-1, keepdims=True)
    union = (a | b).sum(-1)
    return np.where(union > 0, (a & b).sum(-1) / np.maximum(union, 1), 1.0)
