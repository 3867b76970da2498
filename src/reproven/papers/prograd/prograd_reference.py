"""ProGrad as the paper writes it, for fully connected ReLU networks: one input, one unit, one row at a time.

The twin of `edit` and `tail`. Symbols as in the paper: W^(l), b^(l) the weights, z^(l) pre-activations, x^(l) layer
inputs, hats for variables. Coefficients come from the definitions by loops (`conditional_output`,
`conditional_gradient`) or from one autograd call a row (`rows_by_autograd`, any network); the program is dense and
goes to SciPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor, nn


def conditional_output(
    W: Sequence[np.ndarray], b: Sequence[np.ndarray], x: np.ndarray, masks: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Return the coefficients of z~^(0), ..., z~^(L-1) in (W^(0), b^(0), ..., b^(L-1)) (Definition 3.3).

    Each is (n_{l+1}, variables): ``z~^(0) = W^(0) x + b^(0)``, ``x~^(l+1) = diag(mask^(l)) z~^(l)``,
    ``z~^(l) = W^(l) x~^(l) + b^(l)``.
    """
    p, q = W[0].shape
    n = p * q + sum(len(v) for v in b)
    z = np.zeros((p, n))
    for i in range(p):
        for j in range(q):
            z[i, i * q + j] = x[j]
        z[i, p * q + i] = 1.0
    found, start = [z], p * q + p
    for layer in range(1, len(W)):
        inner = np.diag(masks[layer - 1].astype(float)) @ found[-1]
        z = W[layer] @ inner
        for i in range(len(b[layer])):
            z[i, start + i] += 1.0
        start += len(b[layer])
        found.append(z)
    return found


def conditional_gradient(
    W: Sequence[np.ndarray], b: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the coefficients of dN~/dx = W^(L-1) D ... D W^(0), (outputs, inputs, variables) (Definition 4.4)."""
    D = np.eye(W[0].shape[0])
    for layer in range(1, len(W)):
        D = W[layer] @ np.diag(masks[layer - 1].astype(float)) @ D
    p, q = W[0].shape
    n = p * q + sum(len(v) for v in b)
    gradient = np.zeros((D.shape[0], q, n))
    for o in range(D.shape[0]):
        for j in range(q):
            for i in range(p):
                gradient[o, j, i * q + j] = D[o, i]
    return gradient


def reference_edit(
    W: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    points: Sequence[np.ndarray],
    boxes: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    box: float,
    margin: float,
) -> tuple[np.ndarray, float] | None:
    """Return (change of all variables, mean absolute change) with every Jacobian in its box, or None if infeasible."""
    theta = np.concatenate([W[0].ravel(), *b])
    rows, bounds = [], []
    for x, (low, high) in zip(points, boxes):
        masks, h = [], x
        for layer in range(len(W)):
            z = W[layer] @ h + b[layer]
            masks.append(z > 0)
            h = masks[-1] * z
        for layer, z_rows in enumerate(conditional_output(W, b, x, masks)[:-1]):
            for i, on in enumerate(masks[layer]):
                sign = 1.0 if on else -1.0  # sign * z~ >= margin
                rows.append(-sign * z_rows[i])
                bounds.append(-margin + sign * z_rows[i] @ theta)
        gradient = conditional_gradient(W, b, masks)
        for o in range(gradient.shape[0]):
            for j in range(gradient.shape[1]):
                now = gradient[o, j] @ theta
                rows += [gradient[o, j], -gradient[o, j]]
                bounds += [high[o, j] - margin - now, -(low[o, j] + margin) + now]
    n = len(theta)
    A = np.array(rows)
    found = linprog(
        np.full(2 * n, 1 / n),
        A_ub=np.hstack([A, -A]),
        b_ub=np.array(bounds),
        bounds=[(0, box)] * (2 * n),
        method="highs",
    )
    if found.status == 2:
        return None
    return found.x[:n] - found.x[n:], float(found.fun)


def rows_by_autograd(value: Callable[[], Tensor], parameters: Sequence[nn.Parameter | Tensor]) -> np.ndarray:
    """Return (rows, variables): the derivative of every entry of ``value()`` in the parameters, one call a row."""
    entries = value().flatten()
    rows = []
    for i in range(len(entries)):
        parts = torch.autograd.grad(entries[i], list(parameters), retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(parts, parameters)]
            )
        )
    return torch.stack(rows).double().numpy(force=True)


def grad_cam_rows_by_autograd(
    head: Callable[[Tensor], Tensor], z: Tensor, classes: Sequence[int], weight: Tensor
) -> np.ndarray:
    """Return (n * pixels, rows of weight * columns): the derivative of every map pixel, one call a pixel.

    head: feature maps (n, channels, height, width) -> outputs, through `weight`.
    """
    found = []
    for i, c in enumerate(classes):
        one = z[i : i + 1].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(head(one)[0, c], one, create_graph=True)
        map_ = (gradient.mean((2, 3), keepdim=True) * one.detach()).sum(1).flatten()
        for pixel in range(len(map_)):
            (row,) = torch.autograd.grad(map_[pixel], weight, retain_graph=True)
            found.append(row[c])
    return torch.stack(found).double().numpy(force=True)


def integrated_rows_by_token(
    hidden: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, alpha: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return (tokens, width of hidden): v_j = sum_k w_k JVP[h](path_k; step restricted to token j), token by token."""
    step = x - baseline
    found = []
    for token in range(len(x)):
        direction = torch.zeros_like(step)
        direction[token] = step[token]
        total: Tensor | float = 0.0
        for a, w in zip(alpha, weights):
            at = (baseline + float(a) * step)[None]
            total = total + float(w) * torch.func.jvp(hidden, (at,), (direction[None],))[1][0]
        found.append(total)
    return torch.stack(found).double().numpy(force=True)  # type: ignore[arg-type]


def exact_slack_by_fractions(a: np.ndarray, low: np.ndarray, high: np.ndarray, delta: np.ndarray) -> Fraction:
    """Return the least slack of ``low <= a delta <= high`` in fractions, entry by entry."""
    d = [Fraction(float(v)) for v in delta]
    slacks: list[Fraction] = []
    for row, floor, ceiling in zip(a, low, high):
        value = sum((Fraction(float(c)) * v for c, v in zip(row, d)), Fraction(0))
        if np.isfinite(floor):
            slacks.append(value - Fraction(float(floor)))
        if np.isfinite(ceiling):
            slacks.append(Fraction(float(ceiling)) - value)
    return min(slacks)
