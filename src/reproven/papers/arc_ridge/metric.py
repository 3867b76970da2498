"""The metric G in which an optimiser is steepest descent, and squared lengths and norms in it.

A step ``v = -lr G^{-1} m`` is steepest descent in ``|v|_G``; its length is ``|v|_G`` and the gradient's norm is
``|g|_{G^{-1}}`` (dossier 3.7, item 3). With any other pair, arc ridge stops elsewhere: it is another regulariser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

METRICS = ("own", "euclidean")


def check(optimizer: torch.optim.Optimizer, metric: str) -> None:
    """Raise ValueError unless the optimiser's step is linear in its rate and its metric is known."""
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {METRICS}")
    if metric == "own" and not isinstance(optimizer, torch.optim.SGD | torch.optim.Adam | torch.optim.AdamW):
        raise ValueError(
            f"the metric of {type(optimizer).__name__} is not known: use SGD, Adam or AdamW, or metric='euclidean'"
        )
    for i, group in enumerate(optimizer.param_groups):
        if group.get("weight_decay", 0.0) != 0.0:
            raise ValueError(
                f"parameter group {i} has weight_decay = {group['weight_decay']}: set it to 0, arc ridge replaces it"
            )
        if not group.get("metric_scale", 1.0) > 0:
            raise ValueError(f"metric_scale = {group['metric_scale']} of group {i} must be positive")
        if group.get("maximize", False):
            raise ValueError(f"parameter group {i} maximises: arc ridge needs a loss to minimise")


def diagonal(group: dict[str, Any], state: dict[str, Any], gradient: Tensor | None) -> Tensor | None:
    """Return G of Adam's next step (of its last one, without `gradient`), or None for the identity.

    ``G = sqrt(v_t / (1 - b2^t)) + eps``, with ``v_t = b2 v_{t-1} + (1 - b2) g^2``.
    """
    if "betas" not in group:
        return None
    second = group["betas"][1]
    count = float(state["step"]) if "step" in state else 0.0
    v = state.get("exp_avg_sq")
    if gradient is not None:
        square = (1 - second) * gradient * gradient
        v, count = square if v is None else second * v + square, count + 1
    if v is None:
        return None
    if group.get("amsgrad") and "max_exp_avg_sq" in state:
        v = torch.maximum(v, state["max_exp_avg_sq"])
    return (v / (1 - second**count)).sqrt_().add_(group["eps"])


def squared(
    optimizer: torch.optim.Optimizer,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    metric: str,
    *,
    dual: bool,
    independent: bool = False,
) -> float:
    """Return ``<a, b>`` in the optimiser's metric: ``sum a G b`` for displacements, ``sum a b / G`` for gradients.

    a, b: one tensor for each parameter that requires a gradient, in the optimiser's order.
    dual: whether they are gradients; G then is that of the next step, with `a` as its gradient.
    independent: for gradients that G must not depend on: that of the last step, or at the first one of all, `a` and
        `b` apart. With G from their mean, coordinates in which two halves disagree would count most.
    """
    total, i = 0.0, 0
    for group in optimizer.param_groups:
        scale = group.get("metric_scale", 1.0)
        parameters = [p for p in group["params"] if p.requires_grad]
        size = len(parameters)
        part_a, part_b = a[i : i + size], b[i : i + size]
        if metric == "euclidean" or "betas" not in group:
            part = _inner(part_a, part_b)
        else:
            part = sum(
                _weighted(x, y, _diagonal(group, optimizer.state[p], x, y, dual, independent), dual)
                for p, x, y in zip(parameters, part_a, part_b)
            )
        total += part * scale**2 if dual else part / scale**2
        i += size
    return total


def _diagonal(
    group: dict[str, Any], state: dict[str, Any], a: Tensor, b: Tensor, dual: bool, independent: bool
) -> Tensor | None:
    if not dual:
        return diagonal(group, state, None)
    if not independent:
        return diagonal(group, state, a)
    known = diagonal(group, state, None)
    # v = 0 so far: the root mean square of both halves stands in for the first step's |g|.
    return ((a * a + b * b) / 2).sqrt().add_(group["eps"]) if known is None else known


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    if not a:
        return 0.0
    if a is b or all(x is y for x, y in zip(a, b)):
        return float(torch.stack(torch._foreach_norm(list(a))).double().square().sum())
    return float(torch.stack([torch.sum(x * y) for x, y in zip(a, b)]).double().sum())


def _weighted(a: Tensor, b: Tensor, g: Tensor | None, dual: bool) -> float:
    if g is None:
        return float(torch.sum(a * b))
    return float(torch.sum(a * b / g if dual else a * b * g))
