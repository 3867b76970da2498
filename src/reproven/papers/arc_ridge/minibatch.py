"""Minibatch descent of two-layer batches, watched in every way that a stopping rule could: raw and repaired."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reproven.papers.arc_ridge.flow import norms
from reproven.papers.arc_ridge.two_layer import TwoLayer

DECAY = 0.9  # of the running mean of the debiased squared norm


@dataclass(frozen=True)
class MinibatchPath:
    """One row every k steps, (points, R) each.

    distance: ``|phi - start|``. raw_arc: sum of single steps. coarse_arc: sum of chords between rows. raw_norm:
    ``|g|`` of the minibatch. debiased_norm: from products of two half batches, smoothed. full_norm, loss: on all data.
    """

    distance: Tensor
    raw_arc: Tensor
    coarse_arc: Tensor
    raw_norm: Tensor
    debiased_norm: Tensor
    full_norm: Tensor
    loss: Tensor

    def stop_loss(self, norm: Tensor, arc: Tensor, lam: float, first: int) -> Tensor:
        """Return the loss at the first row from `first` on with ``norm <= lam arc``, or at the end, (R,)."""
        hit = (norm <= lam * arc) & (torch.arange(len(arc))[:, None] >= first)
        index = torch.where(hit.any(0), hit.double().argmax(0), len(arc) - 1)
        return self.loss.gather(0, index[None]).squeeze(0)


def minibatch_path(
    net: TwoLayer, start: Tensor, x: Tensor, y: Tensor, *, eta: float, steps: int, every: int, noise: float,
    generator: torch.Generator,
) -> MinibatchPath:  # fmt: skip
    """Descend with batches of two data, half a batch each, for `steps` steps of rate eta.

    noise: standard deviation added to the target of each drawn datum. Gradients are scaled to the sum over all data.
    """
    networks, n = y.shape
    phi, point = start, start
    raw = torch.zeros(networks, dtype=y.dtype)
    coarse, square, seen = raw.clone(), raw.clone(), 0
    rows = []
    for step in range(steps):
        pick = torch.randint(n, (networks, 2), generator=generator)  # independent halves
        xs = x.gather(1, pick[..., None].expand(-1, -1, x.shape[-1]))
        noisy = y.gather(1, pick) + noise * torch.randn(networks, 2, generator=generator, dtype=y.dtype)
        residual = n * (net.forward(phi, xs) - noisy)
        halves = [net.pull(phi, xs, residual * torch.eye(2, dtype=y.dtype)[i]) for i in range(2)]
        gradient = 0.5 * (halves[0] + halves[1])
        if step % every == 0:
            seen += 1
            square = DECAY * square + (1 - DECAY) * (halves[0] * halves[1]).sum((1, 2))
            coarse = coarse + (phi - point).flatten(1).norm(dim=1)
            point = phi
            debiased = (square / (1 - DECAY**seen)).clamp(min=0).sqrt()
            distance = (phi - start).flatten(1).norm(dim=1)
            row = (distance, raw, coarse, gradient.flatten(1).norm(dim=1), debiased, *norms(net, phi, x, y))
            rows.append(row)
        phi = phi - eta * gradient
        raw = raw + eta * gradient.flatten(1).norm(dim=1)
    return MinibatchPath(*(torch.stack(column) for column in zip(*rows)))
