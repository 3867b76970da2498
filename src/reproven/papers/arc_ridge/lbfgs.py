"""L-BFGS on many unrelated problems at once; each has its own history, step length and end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


def minimise(
    objective: Objective, start: Tensor, *, rounds: int = 200, memory: int = 15, tol: float = 1e-8
) -> tuple[Tensor, Tensor]:
    """Return minimisers (R, n) and the norms of their gradients (R,), by L-BFGS with backtracking (Armijo).

    objective: points (R, n) -> values (R,) and gradients (R, n), row by row. start: (R, n).
    tol: rows rest where ``|gradient| <= tol max(1, |value|)``. Rows without descent rest as well.
    """
    x = start
    value, gradient = objective(x)
    steps: list[Tensor] = []
    bends: list[Tensor] = []
    resting = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(rounds):
        resting = resting | (gradient.norm(dim=1) <= tol * value.abs().clamp(min=1.0))
        if bool(resting.all()):
            break
        direction = -_two_loops(gradient, steps, bends)
        slope = (direction * gradient).sum(1)
        direction = torch.where((slope < 0)[:, None], direction, -gradient)
        slope = (direction * gradient).sum(1)
        size = torch.ones_like(value)
        if not steps:
            size = (1 / gradient.norm(dim=1).clamp(min=1.0)) * size
        taken = resting.clone()
        new_x, new_value, new_gradient = x, value, gradient
        for _ in range(30):
            trial = x + torch.where(taken, 0.0, size)[:, None] * direction
            trial_value, trial_gradient = objective(trial)
            good = ~taken & (trial_value <= value + 1e-4 * size * slope)
            new_x = torch.where(good[:, None], trial, new_x)
            new_value = torch.where(good, trial_value, new_value)
            new_gradient = torch.where(good[:, None], trial_gradient, new_gradient)
            taken = taken | good
            if bool(taken.all()):
                break
            size = torch.where(taken, size, 0.4 * size)
        resting = resting | ~taken
        steps = [*steps[1 - memory :], new_x - x]
        bends = [*bends[1 - memory :], new_gradient - gradient]
        x, value, gradient = new_x, new_value, new_gradient
    return x, gradient.norm(dim=1)


def _two_loops(gradient: Tensor, steps: list[Tensor], bends: list[Tensor]) -> Tensor:
    """Return the inverse Hessian times the gradient; pairs without positive curvature count as absent."""
    curvature = [(s * b).sum(1) for s, b in zip(steps, bends)]
    fit = [c > 1e-12 * s.norm(dim=1) * b.norm(dim=1) for c, s, b in zip(curvature, steps, bends)]
    inverse = [torch.where(f, 1 / torch.where(f, c, 1.0), 0.0) for f, c in zip(fit, curvature)]
    q, shares = gradient, []
    for s, b, i in zip(reversed(steps), reversed(bends), reversed(inverse)):
        share = i * (s * q).sum(1)
        shares.append(share)
        q = q - share[:, None] * b
    scale = torch.ones_like(gradient[:, 0])
    for b, c, f in zip(bends, curvature, fit):
        scale = torch.where(f, c / b.square().sum(1).clamp(min=1e-300), scale)
    q = scale[:, None] * q
    for s, b, i, share in zip(steps, bends, inverse, reversed(shares)):
        q = q + (share - i * (b * q).sum(1))[:, None] * s
    return q
