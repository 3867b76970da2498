"""The prox rule itself, by `ArcRidge` on SGD, on a quadratic in its eigenbasis."""

from __future__ import annotations

import numpy as np
import torch

from reproven.papers.arc_ridge.arc import ArcRidge


def prox_end(mu: np.ndarray, c: np.ndarray, lam: float, eta: float, steps: int) -> np.ndarray:
    """Return where `ArcRidge` on SGD ends on ``1/2 sum mu_i x_i^2 - c_i x_i`` from 0; mu, c: (k,)."""
    x = torch.nn.Parameter(torch.zeros(len(c), dtype=torch.float64))
    slope, pull = torch.tensor(mu), torch.tensor(c)
    arc = ArcRidge(torch.optim.SGD([x], lr=eta), lam)
    for _ in range(steps):
        x.grad = slope * x.detach() - pull
        before = x.detach().clone()
        arc.step()
        if arc.stopped or torch.equal(before, x.detach()):
            break
    return x.detach().numpy()
