"""Batches of two-layer tanh networks between NTK and mean-field scaling, with gradients in closed form.

Network r has M_r neurons, ``f(x) = M^{-alpha} sum_j a_j tanh(w_j . x)``. Everything here is in the variables
``phi = theta / M^{alpha - 1/2}``, in which the flow ``theta' = -M^{2 alpha - 1} grad L`` is ``phi' = -grad_phi L``
and lengths are Euclidean (dossier 2). With ``s = M^{alpha - 1/2}``

    f(x) = M^{-1/2} sum_j phi_a tanh(s phi_w . x).

Networks of different widths share one array (R, M_max, 1 + d), dead neurons masked: phi[..., 0] is a, the rest w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT = torch.float64


@dataclass(frozen=True)
class TwoLayer:
    """weight: M^{-1/2} on live neurons, 0 on dead ones, (R, 1, M_max); scale: s of each network, (R, 1, 1)."""

    weight: Tensor
    scale: Tensor

    @staticmethod
    def of(widths: Sequence[int], alphas: Sequence[float], missing_factor: bool = False) -> TwoLayer:
        """Return networks of these widths and scalings, alpha in [1/2, 1] (NTK, mean field).

        missing_factor: the broken twin that forgets M^{alpha - 1/2} in flow and metric (dossier 8).
        """
        for width, alpha in zip(widths, alphas, strict=True):
            if width < 1 or not 0.5 <= alpha <= 1:
                raise ValueError(f"width {width} must be at least 1 and alpha {alpha} lie in [1/2, 1]")
        m = torch.tensor(widths, dtype=FLOAT)[:, None, None]
        power = torch.tensor(alphas, dtype=FLOAT)[:, None, None]
        live = torch.arange(max(widths))[None, None, :] < m
        if missing_factor:
            return TwoLayer(live * m**-power, torch.ones_like(m))
        return TwoLayer(live * m**-0.5, m ** (power - 0.5))

    def take(self, rows: Tensor, width: int | None = None) -> TwoLayer:
        """Return some of the networks; width: of the longest of them, where the others are dropped."""
        return TwoLayer(self.weight[rows][..., :width], self.scale[rows])

    def start(self, d: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Return starts with standard normal theta in antithetic pairs (a, w), (-a, w), hence f = 0 everywhere."""
        networks, _, width = self.weight.shape
        phi = torch.zeros(networks, width, 1 + d, dtype=FLOAT)
        for r, g in enumerate(generators):
            half = int((self.weight[r] > 0).sum()) // 2
            theta = torch.randn(half, 1 + d, generator=g, dtype=FLOAT) / self.scale[r]
            phi[r, :half] = theta
            phi[r, half : 2 * half, 0], phi[r, half : 2 * half, 1:] = -theta[:, 0], theta[:, 1:]
        return phi

    def _hidden(self, phi: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(self.scale * (x @ phi[..., 1:].mT))
        return h, self.weight * self.scale * phi[:, None, :, 0] * (1 - h * h)

    def forward(self, phi: Tensor, x: Tensor) -> Tensor:
        """phi: (R, M, 1 + d), x: (R, N, d). Returns f, (R, N)."""
        h = torch.tanh(self.scale * (x @ phi[..., 1:].mT))
        return ((self.weight * h) @ phi[..., :1]).squeeze(-1)

    def jacobian(self, phi: Tensor, x: Tensor) -> Tensor:
        """Return J, (R, N, M (1 + d))."""
        h, slope = self._hidden(phi, x)
        parts = torch.cat([(self.weight * h)[..., None], slope[..., None] * x[:, :, None, :]], -1)
        return parts.flatten(2)

    def pull(self, phi: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Return J^T u, (R, M, 1 + d), for u (R, N), without forming J."""
        h, slope = self._hidden(phi, x)
        first = (self.weight * h).mT @ u[..., None]
        return torch.cat([first, (slope * u[..., None]).mT @ x], -1)

    def curvature(self, phi: Tensor, x: Tensor, u: Tensor) -> Tensor:
        """Return the Hessian of ``u . F``, one block a neuron: (R, M, 1 + d, 1 + d)."""
        h = torch.tanh(self.scale * (x @ phi[..., 1:].mT))
        slope = u[..., None] * self.weight * self.scale * (1 - h * h)
        mixed = slope.mT @ x
        second = torch.einsum("rnm,rni,rnj->rmij", -2 * h * slope, x, x)
        blocks = torch.zeros(*phi.shape, phi.shape[-1], dtype=phi.dtype)
        blocks[..., 0, 1:], blocks[..., 1:, 0] = mixed, mixed
        blocks[..., 1:, 1:] = self.scale[..., None] * phi[..., :1, None] * second
        return blocks


def regression_data(n: int, d: int, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Return inputs (R, n, d) of norm 1 to 2 and targets (R, n), one data set a generator.

    The networks are odd, so directions are spread evenly over half the circle in the first two coordinates, with
    a random turn: no two inputs are nearly parallel and the Gram matrix stays well conditioned. Targets are the odd
    trigonometric polynomial ``sum_{k=1,3} (p_k cos k angle + q_k sin k angle) / k``, p and q standard normal.
    """
    xs, ys = [], []
    for g in generators:
        turn = torch.rand(1, generator=g, dtype=FLOAT) * torch.pi
        angle = turn + torch.arange(n, dtype=FLOAT) * torch.pi / n
        x = torch.zeros(n, d, dtype=FLOAT)
        x[:, 0], x[:, 1] = torch.cos(angle), torch.sin(angle)
        xs.append(x * (1 + torch.rand(n, 1, generator=g, dtype=FLOAT)))
        order = torch.tensor([1.0, 3.0], dtype=FLOAT)
        p, q = torch.randn(2, 2, generator=g, dtype=FLOAT)
        ys.append(
            (p * torch.cos(order * angle[:, None]) + q * torch.sin(order * angle[:, None])) @ (1 / order)
        )
    return torch.stack(xs), torch.stack(ys)


def circle_inputs(count: int, d: int = 2) -> Tensor:
    """Return inputs on half-circles of radius 1 and 2, (2 count, d), where functions are compared."""
    angle = torch.arange(count, dtype=FLOAT) * torch.pi / count
    x = torch.zeros(count, d, dtype=FLOAT)
    x[:, 0], x[:, 1] = torch.cos(angle), torch.sin(angle)
    return torch.cat([x, 2 * x])
