"""Geodesic ridge of small networks: the shortest horizontal curve from the start to a fibre (dossier 3.4).

    d(f0, y)^2 = inf int_0^1 |theta'|^2 ds  over  theta' = J(theta)^T u(s), theta(0) = theta0, F(theta(1)) = y

Reconstructed. Controls u_k, k < K, are constant on K pieces; each piece is one midpoint step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reproven.papers.arc_ridge.lbfgs import minimise
from reproven.papers.arc_ridge.two_layer import TwoLayer


@dataclass(frozen=True)
class Geodesic:
    """phi: end points (R, M, 1 + d). length: d_geo, upper bounds (local minima), (R,). residual: ``|F - y|``, (R,).

    cost: ``1/2 int |theta'|^2``, which is ``1/2 length^2`` at constant speed. gradient: its norm at the end.
    """

    phi: Tensor
    length: Tensor
    residual: Tensor
    cost: Tensor
    gradient: Tensor


def shoot(net: TwoLayer, phi: Tensor, x: Tensor, controls: Tensor) -> tuple[Tensor, Tensor]:
    """Return end points and squared speeds, (R, K), of the horizontal curves with controls (R, K, N)."""
    pieces = controls.shape[1]
    speeds = []
    for k in range(pieces):
        middle = phi + net.pull(phi, x, controls[:, k]) * (0.5 / pieces)
        velocity = net.pull(middle, x, controls[:, k])
        speeds.append(velocity.square().sum((1, 2)))
        phi = phi + velocity / pieces
    return phi, torch.stack(speeds, 1)


def geodesic(
    net: TwoLayer, start: Tensor, x: Tensor, y: Tensor, *, pieces: int = 24, rounds: int = 60,
    weights: tuple[float, ...] = (10.0, 100.0, 1000.0, 1000.0),
) -> Geodesic:  # fmt: skip
    """Return the shortest horizontal curves from `start` to the fibres F = y, by an augmented Lagrangian.

    Minimises ``C + nu . (F - y) + rho/2 |F - y|^2`` by L-BFGS, in controls ``w = L^T u`` with ``Theta(start) = L L^T``:
    in the kernel regime the cost is then ``1/2 |w|^2``. Starts from the straight line of the linearised network.

    start: (R, M, 1 + d), x: (R, N, d), y: (R, N). pieces: K. rounds: of L-BFGS for each rho in `weights`.
    """
    jacobian = net.jacobian(start, x)
    factor = torch.linalg.cholesky(jacobian @ jacobian.mT)
    first = torch.linalg.solve_triangular(factor, (y - net.forward(start, x))[..., None], upper=False)
    w = first.mT.expand(-1, pieces, -1).clone()
    shape = w.shape

    def controls(flat: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(factor.mT, flat.reshape(shape).mT, upper=True).mT

    nu = torch.zeros_like(y)
    flat, size = w.flatten(1), torch.zeros(len(y))
    for rho in weights:

        def lagrangian(flat: Tensor, nu: Tensor = nu, rho: float = rho) -> tuple[Tensor, Tensor]:
            flat = flat.detach().requires_grad_()
            end, speeds = shoot(net, start, x, controls(flat))
            off = net.forward(end, x) - y
            value = 0.5 * speeds.mean(1) + (nu * off).sum(1) + 0.5 * rho * off.square().sum(1)
            (gradient,) = torch.autograd.grad(value.sum(), flat)
            return value.detach(), gradient

        flat, size = minimise(lagrangian, flat, rounds=rounds, tol=1e-7)
        with torch.no_grad():
            end, speeds = shoot(net, start, x, controls(flat))
            off = net.forward(end, x) - y
        nu = nu + rho * off
    return Geodesic(end, speeds.sqrt().mean(1), off.norm(dim=1), 0.5 * speeds.mean(1), size)
