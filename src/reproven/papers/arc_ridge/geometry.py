"""Fibres of a network: horizontal and vertical parts, drift along a fibre, its nearest point, the ridge solution.

V = ker J(theta) is the direction of the fibre, H = row J(theta) its complement (dossier 2, 3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from reproven.papers.arc_ridge.two_layer import TwoLayer

NEWTON_ROUNDS = 8
BLOCK = 25  # steps of descent before finished networks leave the batch
MEMORY = 8  # points that a step of descent is compared with
OFF_FIBRE = 1e-4  # share of |y| that a step of descent may leave unexplained; the next correction removes it


def horizontal(jacobian: Tensor, v: Tensor) -> Tensor:
    """Return ``P_H v = J^T (J J^T)^{-1} J v`` for J (..., m, P), v (..., P); for m < P and J of full rank."""
    w = jacobian @ v[..., None]
    return (jacobian.mT @ torch.linalg.solve(jacobian @ jacobian.mT, w)).squeeze(-1)


def rho_v(jacobian: Tensor, v: Tensor) -> Tensor:
    """Return ``|P_V v| / |v|`` in [0, 1]: with ``v = theta - theta0``, zero iff ridge is harmless at theta.

    J: (..., m, P), v: (..., P). ValueError for another shape of v, or where m >= P: then V is trivial.
    """
    if v.shape[-1] != jacobian.shape[-1]:
        raise ValueError(
            f"theta - theta0 has {v.shape[-1]} entries, J {jacobian.shape[-1]} columns: other anchor?"
        )
    if jacobian.shape[-2] >= jacobian.shape[-1]:
        raise ValueError(
            f"{jacobian.shape[-2]} outputs for {jacobian.shape[-1]} parameters leave no fibre: use fewer inputs"
        )
    return (v - horizontal(jacobian, v)).norm(dim=-1) / v.norm(dim=-1)


@dataclass(frozen=True)
class RhoInfo:
    """What conjugate gradients needed: iterations, relative residual, and Lanczos' condition number of J J^T."""

    iterations: int
    residual: float
    condition: float


def rho_v_matrix_free(
    outputs: Callable[[Tensor], Tensor],
    theta: Tensor,
    theta0: Tensor,
    *,
    tol: float = 1e-8,
    iterations: int = 500,
) -> tuple[float, RhoInfo]:
    """Return rho_V of a network too large for its Jacobian, by conjugate gradients on J J^T.

    outputs: theta (P,) -> m outputs on the probe batch. theta, theta0: (P,). tol: of the residual.
    The coefficients of conjugate gradients are those of Lanczos' process, whose tridiagonal matrix gives the
    condition number. ValueError where theta0 has another shape than theta.
    """
    if theta.shape != theta0.shape:
        raise ValueError(f"the anchor has shape {tuple(theta0.shape)}, the parameters {tuple(theta.shape)}")
    v = theta - theta0
    pull = torch.func.vjp(outputs, theta)[1]

    def push(direction: Tensor) -> Tensor:
        return torch.func.jvp(outputs, (theta,), (direction,))[1]

    right = push(v)
    solution, residual = torch.zeros_like(right), right.clone()
    direction, alphas, betas = residual.clone(), [], []
    square = residual @ residual
    start = square.clone()
    for _ in range(iterations):
        if square <= tol**2 * start:
            break
        image = push(pull(direction)[0])
        alpha = square / (direction @ image)
        solution, residual = solution + alpha * direction, residual - alpha * image
        new = residual @ residual
        alphas.append(float(alpha))
        betas.append(float(new / square))
        direction, square = residual + new / square * direction, new
    rest = v - pull(solution)[0]
    info = RhoInfo(len(alphas), float((square / start).sqrt()), _condition(alphas, betas))
    return float(rest.norm() / v.norm()), info


def _condition(alphas: list[float], betas: list[float]) -> float:
    if not alphas:
        return 1.0
    size = len(alphas)
    tri = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        tri[i, i] = 1 / alphas[i] + (betas[i - 1] / alphas[i - 1] if i else 0.0)
        if i:
            tri[i, i - 1] = tri[i - 1, i] = betas[i - 1] ** 0.5 / alphas[i - 1]
    mu = torch.linalg.eigvalsh(tri)
    return float(mu[-1] / mu[0])


# --- two-layer networks, many at once ----------------------------------------------------------------------


def onto_fibre(net: TwoLayer, phi: Tensor, x: Tensor, y: Tensor, rounds: int = 3) -> Tensor:
    """Return phi after Newton corrections ``phi += J^T Theta^{-1} (y - F)`` onto the fibre F = y."""
    for _ in range(rounds):
        jacobian = net.jacobian(phi, x)
        control = torch.linalg.solve(jacobian @ jacobian.mT, y - net.forward(phi, x))
        phi = phi + net.pull(phi, x, control)
    return phi


def vertical_part(net: TwoLayer, phi: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """Return P_V(phi) v, of the shape of phi."""
    jacobian = net.jacobian(phi, x)
    flat = v.flatten(1)
    return (flat - horizontal(jacobian, flat)).reshape(phi.shape)


def fibre_flow(
    net: TwoLayer, phi: Tensor, anchor: Tensor, x: Tensor, y: Tensor, *, h: float, steps: int
) -> tuple[list[Tensor], Tensor]:
    """Slow drift of vanishing ridge, ``dphi/dtau = -P_V (phi - anchor)`` along the fibre F = y (Proposition 2).

    anchor: of the shape of phi; the start for anchored ridge, zero for weight decay. h: step in tau = lambda t
        (midpoint steps, Newton corrections after each). Returns phi after each step, the start included, and
        ``|P_V (phi - anchor)| / |phi - anchor|`` at the end, (R,).
    """
    if anchor.shape != phi.shape:
        raise ValueError(f"the anchor has shape {tuple(anchor.shape)}, the parameters {tuple(phi.shape)}")
    points = [phi]
    for _ in range(steps):
        middle = phi - 0.5 * h * vertical_part(net, phi, x, phi - anchor)
        phi = onto_fibre(net, phi - h * vertical_part(net, middle, x, middle - anchor), x, y, rounds=2)
        points.append(phi)
    rest = vertical_part(net, phi, x, phi - anchor).flatten(1).norm(dim=1)
    return points, rest / (phi - anchor).flatten(1).norm(dim=1)


def descend_on_fibre(
    net: TwoLayer, phi: Tensor, anchor: Tensor, x: Tensor, y: Tensor, *, tol: float = 0.02, rounds: int = 2000
) -> Tensor:
    """Return phi after descent of ``|phi - anchor|`` on the fibre F = y until rho_V <= tol for every network.

    Barzilai-Borwein steps, each network its own; a step to more than the farthest of the last `MEMORY` points is
    shortened instead. In the mean-field scaling the Hessian ``I + nu . grad^2 F`` is ill conditioned, and plain
    steepest descent zigzags.
    """
    phi, h, open_ = phi.clone(), torch.full((len(phi),), 0.1, dtype=phi.dtype), torch.arange(len(phi))
    for _ in range(-(-rounds // BLOCK)):
        width = int((net.weight[open_] > 0).sum(-1).max())
        part = net.take(open_, width)
        home, xs, ys = anchor[open_, :width], x[open_], y[open_]
        new, h[open_], rest = _descend(part, phi[open_, :width], h[open_], home, xs, ys, tol)
        phi[open_, :width] = new
        open_ = open_[rest > tol]
        if not len(open_):
            break
    return phi


def _descend(
    net: TwoLayer, phi: Tensor, h: Tensor, anchor: Tensor, x: Tensor, y: Tensor, tol: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Take up to `BLOCK` steps; returns points, step lengths and rho_V of each network."""
    norm = lambda p: (p - anchor).flatten(1).norm(dim=1)  # noqa: E731 - of the distance, used below
    down = vertical_part(net, phi, x, phi - anchor)
    recent = [norm(phi)]
    for _ in range(BLOCK):
        if bool((down.flatten(1).norm(dim=1) <= tol * norm(phi)).all()):
            break
        new = onto_fibre(net, phi - h[:, None, None] * down, x, y, rounds=2)
        # A long step may leave Newton's correction off the fibre, where the distance says nothing: shorten it too.
        off = (net.forward(new, x) - y).norm(dim=1) > OFF_FIBRE * y.norm(dim=1)
        good = (norm(new) <= torch.stack(recent).amax(0)) & new.isfinite().all(-1).all(-1) & ~off
        new = torch.where(good[:, None, None], new, phi)
        new_down = vertical_part(net, new, x, new - anchor)
        moved, bent = (new - phi).flatten(1), (new_down - down).flatten(1)
        along = (moved * bent).sum(1)
        guess = torch.where(along > 0, moved.square().sum(1) / along.clamp(min=1e-30), 2 * h)
        h = torch.where(good, guess.clamp(1e-4, 2.0), 0.3 * h)
        phi, down = new, new_down
        recent = [*recent[1 - MEMORY :], norm(phi)]
    return phi, h, down.flatten(1).norm(dim=1) / norm(phi)


def nearest_on_fibre(
    net: TwoLayer, phi: Tensor, anchor: Tensor, x: Tensor, y: Tensor, *, tol: float = 1e-9
) -> tuple[Tensor, Tensor]:
    """Return the point of the fibre F = y nearest to `anchor` downhill from phi, and its distance, (R,).

    Descent on the fibre, then Newton. It is the end of the drift and the limit of `ridge` for lambda -> 0; a local
    minimum, so that the distance is an upper bound of the true one. phi, anchor: (R, M, 1 + d), phi on the fibre.
    """
    if anchor.shape != phi.shape:
        raise ValueError(f"the anchor has shape {tuple(anchor.shape)}, the parameters {tuple(phi.shape)}")
    best, distance, left = (
        phi.clone(),
        torch.zeros(len(phi), dtype=phi.dtype),
        phi.new_full((len(phi),), torch.inf),
    )
    near, open_ = phi.clone(), torch.arange(len(phi))
    for rest in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        width = int((net.weight[open_] > 0).sum(-1).max())
        part = net.take(open_, width)
        home, xs, ys = anchor[open_, :width], x[open_], y[open_]
        here = descend_on_fibre(part, near[open_, :width], home, xs, ys, tol=rest)
        there, error = _newton(part, here, home, xs, ys, torch.zeros(len(open_), dtype=phi.dtype))
        before, after = ((p - home).flatten(1).norm(dim=1) for p in (here, there))
        # Newton may leave for another stationary point while it is far from this one: then descend further.
        fine = (error < tol) & ((before - after).abs() <= rest * before) & (after <= before * (1 + 1e-12))
        near[open_, :width], left[open_] = here, error
        best[open_[fine], :width], distance[open_[fine]] = there[fine], after[fine]
        open_ = open_[~fine]
        if not len(open_):
            return best, distance
    raise ValueError(f"network {int(open_[0])}: no nearest point found, {float(left[open_[0]]):.2g} is left")


def ridge(
    net: TwoLayer, phi: Tensor, anchor: Tensor, x: Tensor, y: Tensor, lam: Tensor, *, tol: float = 1e-9
) -> Tensor:
    """Return the stationary point of ``1/2 |F - y|^2 + lam/2 |phi - anchor|^2`` near phi, by Newton's method.

    lam: (R,), >= 0. phi: (R, M, 1 + d), close by: the solution of the next smaller lambda, say.
    """
    best, left = _newton(net, phi, anchor, x, y, lam)
    if not bool((left < tol).all()):
        raise ValueError(f"network {int(left.argmax())}: Newton leaves {float(left.max()):.2g}; start nearer")
    return best


def _newton(
    net: TwoLayer, phi: Tensor, anchor: Tensor, x: Tensor, y: Tensor, lam: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve ``phi - anchor + J^T nu = 0, F - y - lam nu = 0``; the Hessian is a block for each neuron.

    Returns phi and the norm of what is left of both equations, (R,).
    """
    if anchor.shape != phi.shape:
        raise ValueError(f"the anchor has shape {tuple(anchor.shape)}, the parameters {tuple(phi.shape)}")
    jacobian = net.jacobian(phi, x)
    gram = jacobian @ jacobian.mT
    nu = -torch.linalg.solve(gram, (jacobian @ (phi - anchor).flatten(1)[..., None]).squeeze(-1))
    eye = torch.eye(x.shape[1], dtype=phi.dtype)
    for _ in range(NEWTON_ROUNDS):
        slope = phi - anchor + net.pull(phi, x, nu)
        error = net.forward(phi, x) - y - lam[:, None] * nu
        blocks = net.curvature(phi, x, nu) + torch.eye(phi.shape[-1], dtype=phi.dtype)
        rows = net.jacobian(phi, x).unflatten(-1, phi.shape[1:])
        solved = torch.linalg.solve(blocks[:, None], rows[..., None]).squeeze(-1)
        free = torch.linalg.solve(blocks, slope[..., None]).squeeze(-1)
        left = rows.flatten(2) @ solved.flatten(2).mT + lam[:, None, None] * eye
        step = torch.linalg.solve(left, error - (rows.flatten(2) @ free.flatten(1)[..., None]).squeeze(-1))
        phi, nu = phi - free - (solved * step[..., None, None]).sum(1), nu + step
    slope = phi - anchor + net.pull(phi, x, nu)
    error = net.forward(phi, x) - y - lam[:, None] * nu
    return phi, slope.flatten(1).norm(dim=1) + error.norm(dim=1)
