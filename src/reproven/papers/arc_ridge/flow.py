"""Gradient flow on ``1/2 |F(phi) - y|^2`` of many networks at once, by exponential midpoint steps.

With J frozen, residuals obey ``r' = -Theta r`` and ``phi(t + h) = phi - J^T c(h)``, ``c(h) = Theta^{-1} (1 -
exp(-Theta h)) r``: exact for linear models, stiff or not. J is taken at the midpoint, so that the error is of second
order in the length of a step, and each network takes steps of a length of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reproven.papers.arc_ridge.two_layer import TwoLayer

HALVINGS = 60  # of an interval in log h, until the length of a step is met to rounding


@dataclass(frozen=True)
class Flow:
    """Recorded flow of R networks: A, ``|grad L|`` and loss at each point, (points, R), and where it ended."""

    phi: Tensor
    arc: Tensor
    grad_norm: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Local:
    """Eigenbasis of Theta at one point: mu (R, N) > 0, basis (R, N, N), J (R, N, P)."""

    mu: Tensor
    basis: Tensor
    jacobian: Tensor

    @staticmethod
    def at(net: TwoLayer, phi: Tensor, x: Tensor) -> Local:
        """Return the eigenbasis at phi; ValueError where Theta is singular to working precision."""
        jacobian = net.jacobian(phi, x)
        mu, basis = torch.linalg.eigh(jacobian @ jacobian.mT)
        if not bool((mu[:, 0] > 1e-13 * mu[:, -1]).all()):
            worst = int((mu[:, 0] / mu[:, -1]).argmin())
            raise ValueError(f"Theta of network {worst} is singular: take more neurons or fewer inputs")
        return Local(mu, basis, jacobian)

    def coordinates(self, r: Tensor) -> Tensor:
        """Return residuals in the eigenbasis, (R, N)."""
        return (self.basis.mT @ r[..., None]).squeeze(-1)

    def length(self, c: Tensor, h: Tensor) -> Tensor:
        """Return the length of the step of time h from residuals c (eigenbasis), (R,)."""
        return (((1 - torch.exp(-self.mu * h[:, None])) * c) ** 2 / self.mu).sum(-1).sqrt()

    def step(self, c: Tensor, h: Tensor, shape: torch.Size) -> Tensor:
        """Return the displacement of the step of time h, of `shape`."""
        control = (self.basis @ ((1 - torch.exp(-self.mu * h[:, None])) / self.mu * c)[..., None]).squeeze(-1)
        return -(self.jacobian.mT @ control[..., None]).reshape(shape)


def advance(
    net: TwoLayer, phi: Tensor, x: Tensor, y: Tensor, length: Tensor, here: Local | None = None
) -> Tensor:
    """Return phi moved along the flow by about `length`, (R,), each less than what is left to the fit.

    here: `Local.at(net, phi, x)`, where it is known already.
    """
    r = net.forward(phi, x) - y
    here = Local.at(net, phi, x) if here is None else here
    c = here.coordinates(r)
    low, high = torch.full_like(length, -40.0), torch.full_like(length, 40.0)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        short = here.length(c, torch.exp(middle)) < length
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    h = torch.exp(0.5 * (low + high))
    middle_point = phi + here.step(c, h / 2, phi.shape)
    there = Local.at(net, middle_point, x)
    return phi + there.step(there.coordinates(r), h, phi.shape)


def left_to_fit(net: TwoLayer, phi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return ``sqrt(r^T Theta^{-1} r)``, (R,): the length of the rest of the flow if J stayed as it is."""
    local = Local.at(net, phi, x)
    return (local.coordinates(net.forward(phi, x) - y) ** 2 / local.mu).sum(-1).sqrt()


def norms(net: TwoLayer, phi: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``|grad L|`` and L, (R,) each."""
    r = net.forward(phi, x) - y
    return net.pull(phi, x, r).flatten(1).norm(dim=1), 0.5 * (r * r).sum(-1)


def gradient_flow(
    net: TwoLayer, phi: Tensor, x: Tensor, y: Tensor, *, pieces: int = 100, tol: float = 1e-10
) -> Flow:
    """Follow gradient flow from phi (R, M, 1 + d) to the fit ``|r| <= tol |y|``.

    pieces: steps are 1/pieces of the initial `left_to_fit`, towards the end half of what is left.
    x: (R, N, d), y: (R, N). ValueError where some network does not get there in 40 pieces + 200 steps.
    """
    size = left_to_fit(net, phi, x, y) / pieces
    rows = [(torch.zeros_like(size), *norms(net, phi, x, y))]
    for _ in range(40 * pieces + 200):
        if bool(((2 * rows[-1][2]).sqrt() <= tol * y.norm(dim=1)).all()):
            return Flow(phi, *(torch.stack(column) for column in zip(*rows)))
        here = Local.at(net, phi, x)
        left = (here.coordinates(net.forward(phi, x) - y) ** 2 / here.mu).sum(-1).sqrt()
        new = advance(net, phi, x, y, torch.minimum(size, 0.5 * left), here)
        rows.append((rows[-1][0] + (new - phi).flatten(1).norm(dim=1), *norms(net, new, x, y)))
        phi = new
    worst = int(rows[-1][2].argmax())
    raise ValueError(f"network {worst} does not fit its data: loss {float(rows[-1][2][worst]):.3g} remains")


def truncated_flow(
    net: TwoLayer, phi: Tensor, x: Tensor, y: Tensor, lam: float, *, pieces: int = 400
) -> tuple[Tensor, Tensor]:
    """Return gradient flow at its first point with ``|grad L| = lam A``, and A there, (R,).

    The last step is shortened by bisection until the root is met to rounding.
    """
    size = left_to_fit(net, phi, x, y) / pieces
    arc, done = torch.zeros_like(size), torch.zeros_like(size, dtype=torch.bool)
    for _ in range(40 * pieces):
        length = torch.minimum(size, 0.5 * left_to_fit(net, phi, x, y))
        new = advance(net, phi, x, y, length)
        new_arc = arc + (new - phi).flatten(1).norm(dim=1)
        past = norms(net, new, x, y)[0] <= lam * new_arc
        step = ~done
        if bool((past & step).any()):
            root, root_arc = _root(net, phi, x, y, lam, arc, length)
            new = torch.where(past[:, None, None], root, new)
            new_arc = torch.where(past, root_arc, new_arc)
        phi, arc = torch.where(step[:, None, None], new, phi), torch.where(step, new_arc, arc)
        done = done | past
        if bool(done.all()):
            return phi, arc
    raise ValueError(f"no point with |grad L| <= {lam} A on the flow: take more pieces")


def _root(
    net: TwoLayer, phi: Tensor, x: Tensor, y: Tensor, lam: float, arc: Tensor, length: Tensor
) -> tuple[Tensor, Tensor]:
    low, high = torch.zeros_like(length), length.clone()
    for _ in range(50):
        middle = 0.5 * (low + high)
        new = advance(net, phi, x, y, middle)
        past = norms(net, new, x, y)[0] <= lam * (arc + (new - phi).flatten(1).norm(dim=1))
        low, high = torch.where(past, low, middle), torch.where(past, middle, high)
    new = advance(net, phi, x, y, high)
    return new, arc + (new - phi).flatten(1).norm(dim=1)


def arc_descent(
    net: TwoLayer, phi: Tensor, x: Tensor, y: Tensor, lam: float, eta: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Prox descent of arc ridge (`arc.ArcRidge` on SGD) of many networks; returns phi and A, (R,)."""
    arc = torch.zeros(len(phi), dtype=phi.dtype)
    for _ in range(steps):
        g = net.pull(phi, x, net.forward(phi, x) - y)
        norm = g.flatten(1).norm(dim=1)
        factor = eta / (1 + eta * lam) * (1 - lam * arc / norm).clamp(min=0)
        phi, arc = phi - factor[:, None, None] * g, arc + factor * norm
    return phi, arc
