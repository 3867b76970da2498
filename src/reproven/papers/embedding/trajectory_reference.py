"""One pair as the paper trains it: two modules, two optimisers, two autograd passes a step; slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from reproven.papers.embedding.splitting import Embedding

OptimiserOf = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def exponential_loss(output: Tensor, y: Tensor) -> Tensor:
    """Return the mean of ``exp(-y Phi)`` (released code; the paper writes the sum)."""
    return torch.mean(torch.exp(-y * output.squeeze(-1)))


def train_pair(
    narrow: nn.Module,
    wide: nn.Module,
    T: Embedding,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimiser: OptimiserOf,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = exponential_loss,
    clip: float = 0.0,
) -> tuple[list[float], list[float]]:
    """Train `narrow` and `wide` in place on the same batches; return ``e_t`` and the narrow loss by step.

    batches: pairs (x, y). optimiser: parameters -> optimiser. clip: global norm bound, or 0.
    """
    opt_theta, opt_eta = optimiser(narrow.parameters()), optimiser(wide.parameters())
    errors, losses = [], []
    for x, y in batches:
        value = _step(narrow, opt_theta, loss, x, y, clip)
        _step(wide, opt_eta, loss, x, y, clip)
        with torch.no_grad():
            image = T(dict(narrow.named_parameters()))
            actual = dict(wide.named_parameters())
            difference = torch.cat([(actual[name] - image[name]).flatten() for name in image])
            errors.append(float(torch.linalg.vector_norm(difference)))
            losses.append(value)
    return errors, losses


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    clip: float,
) -> float:
    optimiser.zero_grad()
    value = loss(model(x), y)
    value.backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    return float(value.detach())
