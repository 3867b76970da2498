"""What the theorems speak of, computed exactly on the LC-QP bed: Phi_delta, its gradient, moduli, the potential V."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reproven.papers.sflcb.beds.lcqp import LCQP
from reproven.papers.sflcb.sflcb import State, Steps


@dataclass(frozen=True)
class Penalised:
    """Phi_delta(x), its gradient (Lemma 4.4), and y*_delta, y* behind them."""

    value: float
    gradient: np.ndarray
    y_delta: np.ndarray
    y: np.ndarray


def penalised(problem: LCQP, x: np.ndarray, delta: float) -> Penalised:
    """Return ``Phi_delta(x) = min_{y in Y(x)} max_{z in Y(x)} f(x, y) + [g(x, y) - g(x, z)] / delta``.

    ``grad Phi_delta = f_x(x, y_d) + [g_x(x, y_d) + B^T lam_d - g_x(x, y*) - B^T lam*] / delta``.
    Source: equation (4) and Lemma 4.4.
    """
    lower, upper = problem.lower(x), problem.penalised(x, delta)
    value = problem.f(x, upper.y) + (problem.g(x, upper.y) - problem.g(x, lower.y)) / delta
    bracket = problem.grad_g(x, upper.y)[0] - problem.grad_g(x, lower.y)[0]
    bracket = bracket + problem.b_x.T @ (upper.multipliers - lower.multipliers)
    return Penalised(float(value), problem.grad_f(x, upper.y)[0] + bracket / delta, upper.y, lower.y)


def modulus(mu_g: float, l_f1: float, norm_a: float, delta: float, rho: float) -> float:
    """Return ``mu_y = min{mu_g - delta l_f1 - rho |A|^2, rho/2}`` of K in y' = (y, alpha). Source: Lemma A.4."""
    return min(mu_g - delta * l_f1 - rho * norm_a**2, rho / 2)


def hessian_y(hessian: np.ndarray, a: np.ndarray, rho: float) -> np.ndarray:
    """Return the Hessian of K in (y, alpha), ``[[H + rho A^T A, -rho A^T], [-rho A, rho I]]``, H of delta f + g."""
    return np.block([[hessian + rho * a.T @ a, -rho * a.T], [-rho * a, rho * np.eye(len(a))]])


def theory_steps(problem: LCQP, delta: float, rho: float) -> tuple[Steps, float]:
    """Return the proven step sizes of the coupled case and mu_y.

    ``eta_y = 1/(4 L_K)``, ``eta_z = 2/(L_K + 4 L_d)``, ``eta_u = eta_y mu_y^2 / (256 |A|^2)``, the same with z
    for eta_v, and eta_x the smallest of the terms whose constants survive: an upper bound, since the
    displays that define sigma_y, sigma_u1, sigma_u2 and sigma_yb are lost. Raises ValueError when rho is
    above the bound of Lemma A.4, where mu_y is not positive.
    Source: Lemma E.4.
    """
    norm_a = float(np.linalg.norm(problem.a, 2))
    mu_y = modulus(1.0, 1.0, norm_a, delta, rho)
    mu_z = modulus(1.0, 0.0, norm_a, delta, rho)
    if mu_y <= 0:
        bound = (1.0 - delta) / norm_a**2
        raise ValueError(
            f"rho = {rho:g} must be below (mu_g - delta l_f1) / |A|^2 = {bound:.3g} for the proven steps"
        )
    l_k = float(np.abs(np.linalg.eigvalsh(hessian_primal(problem, delta, rho))).max())
    l_d = l_k + l_k * l_k / mu_y
    l_q = l_k + l_k * l_k / mu_z
    eta_y, eta_z = 1 / (4 * l_k), 2 / (l_k + 4 * l_d)
    eta_u, eta_v = (eta * mu**2 / (256 * norm_a**2) for eta, mu in ((eta_y, mu_y), (eta_z, mu_z)))
    terms = (
        eta_y * mu_y**2 / (640 * l_k**2),
        eta_z * mu_z**2 / (640 * l_k**2),
        2 / (l_k + 4 * l_d + 8 * l_q),
    )
    return Steps(min(terms), eta_y, eta_z, eta_u, eta_v), mu_y


def hessian_primal(problem: LCQP, delta: float, rho: float) -> np.ndarray:
    """Return the Hessian of K in (x, y, alpha, z, beta), constant on the bed; L_K is its largest |eigenvalue|."""
    p, dx, dy, dh = problem, problem.dx, problem.dy, problem.dh
    row_y = np.hstack([p.b_x, p.a, -np.eye(dh), np.zeros((dh, dy + dh))])
    row_z = np.hstack([p.b_x, np.zeros((dh, dy + dh)), p.a, -np.eye(dh)])
    k = rho * (row_y.T @ row_y - row_z.T @ row_z)
    x, y, z = slice(0, dx), slice(dx, dx + dy), slice(dx + dy + dh, dx + 2 * dy + dh)
    k[x, x] += delta * 0.1 * np.eye(dx)
    k[y, y] += delta * np.eye(dy) + p.Q
    k[z, z] -= p.Q
    k[x, y] -= p.C.T
    k[y, x] -= p.C
    k[x, z] += p.C.T
    k[z, x] += p.C
    return k


def potential(problem: LCQP, s: State, delta: float, rho1: float, rho2: float) -> float:
    """Return ``V = K/4 + 2 q(x, v) - d(x, z', u, v)``, which decreases along proven runs.

    ``d = min_{y'} K`` and ``q = max_{z', u} d`` are solved exactly: the slacks in closed form, y and z by a
    semismooth Newton method, the constrained part of q by the exact quadratic program.
    Source: potential function of section 5; K >= d and q >= d.
    """
    x, identity = s.x, np.eye(problem.dy)
    linear = problem._linear(x)
    shift = problem.b_x @ x - problem.rhs
    r_y = problem.residual(x, s.y) - s.alpha
    r_z = problem.residual(x, s.z) - s.beta
    inner_z = problem.g(x, s.z) + s.v @ r_z + rho2 / 2 * r_z @ r_z
    k = delta * problem.f(x, s.y) + problem.g(x, s.y) + s.u @ r_y + rho1 / 2 * r_y @ r_y - inner_z
    offset = delta * problem.f(x, np.zeros(problem.dy))
    c = linear + delta * problem.y_t
    hessian = problem.Q + delta * identity
    d = offset + _augmented_minimum(hessian, c, problem.a, shift, s.u, rho1) - inner_z
    best = problem.penalised(x, delta).y
    constrained = delta * problem.f(x, best) + problem.g(x, best)
    q = constrained - _augmented_minimum(problem.Q, linear, problem.a, shift, s.v, rho2)
    return float(k / 4 + 2 * q - d)


def _augmented_minimum(
    hessian: np.ndarray, c: np.ndarray, a: np.ndarray, shift: np.ndarray, u: np.ndarray, rho: float
) -> float:
    """Return ``min_y y^T H y/2 - c^T y + (|[u + rho (A y + shift)]_+|^2 - |u|^2) / (2 rho)``."""

    def value(y: np.ndarray) -> float:
        pushed = np.maximum(u + rho * (a @ y + shift), 0)
        return float(y @ hessian @ y / 2 - c @ y + (pushed @ pushed - u @ u) / (2 * rho))

    y = np.linalg.solve(hessian, c)
    now = value(y)
    for _ in range(100):
        pushed = np.maximum(u + rho * (a @ y + shift), 0)
        gradient = hessian @ y - c + a.T @ pushed
        if np.abs(gradient).max() < 1e-13 * (1 + np.abs(c).max()):
            break
        rows = a[pushed > 0]
        step = np.linalg.solve(hessian + rho * rows.T @ rows, -gradient)
        length, after = 1.0, value(y + step)
        while after > now + 1e-4 * length * (gradient @ step) and length > 1e-8:
            length /= 2
            after = value(y + length * step)
        if after >= now:
            break
        y, now = y + length * step, after
    return now
