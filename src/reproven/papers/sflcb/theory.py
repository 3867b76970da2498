"""What the theorems speak of, computed exactly: Phi_delta, its gradient, moduli, proven steps, the potential V."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reproven.papers.sflcb.beds.lcqp import LCQP
from reproven.papers.sflcb.problem import BilevelProblem, host
from reproven.papers.sflcb.sflcb import State, Steps


@dataclass(frozen=True)
class Penalised:
    """Phi_delta(x), its gradient (Lemma 4.4), and y*_delta, y* behind them."""

    value: float
    gradient: np.ndarray
    y_delta: np.ndarray
    y: np.ndarray


def penalised(problem: BilevelProblem, x: np.ndarray, delta: float) -> Penalised:
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


def theory_steps(
    problem: BilevelProblem, delta: float, rho: float, l_k: float | None = None
) -> tuple[Steps, float]:
    """Return the proven step sizes of the coupled case and mu_y.

    ``eta_y = 1/(4 L_K)``, ``eta_z = 2/(L_K + 4 L_d)``, ``eta_u = eta_y mu_y^2 / (256 |A|^2)``, the same with z
    for eta_v, and eta_x the smallest of the terms whose constants survive: an upper bound, since the
    displays that define sigma_y, sigma_u1, sigma_u2 and sigma_yb are lost.

    Args: l_k, smoothness of K; None takes `smoothness_bound`. Raises ValueError when mu_g or l_f1 of the
    problem is unknown, or rho is above the bound of Lemma A.4, where mu_y is not positive.
    Source: Lemma E.4.
    """
    if problem.mu_g is None or problem.l_f1 is None:
        raise ValueError("the proven steps need mu_g and l_f1 of the problem: pass them to BilevelProblem")
    norm_a = float(np.linalg.norm(host(problem.a), 2))
    mu_y = modulus(problem.mu_g, problem.l_f1, norm_a, delta, rho)
    mu_z = modulus(problem.mu_g, 0.0, norm_a, delta, rho)
    if mu_y <= 0:
        bound = (problem.mu_g - delta * problem.l_f1) / norm_a**2
        raise ValueError(
            f"rho = {rho:g} must be below (mu_g - delta l_f1) / |A|^2 = {bound:.3g} for the proven steps"
        )
    l_k = smoothness_bound(problem, delta, rho) if l_k is None else l_k
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


def smoothness_bound(problem: BilevelProblem, delta: float, rho: float) -> float:
    """Return ``delta l_f1 + 2 l_g1 + 2 rho |(B, A, -I)|^2``, an upper bound on L_K (triangle inequality).

    Raises ValueError when l_f1 or l_g1 of the problem is unknown.
    """
    if problem.l_f1 is None or problem.l_g1 is None:
        raise ValueError("a bound on L_K needs l_f1 and l_g1 of the problem: pass them to BilevelProblem")
    row = np.hstack([host(problem.b_x), host(problem.a), -np.eye(problem.dh)])
    return delta * problem.l_f1 + 2 * problem.l_g1 + 2 * rho * float(np.linalg.norm(row, 2)) ** 2


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


def potential(problem: BilevelProblem, s: State, delta: float, rho1: float, rho2: float) -> float:
    """Return ``V = K/4 + 2 q(x, v) - d(x, z', u, v)``, which decreases along proven runs.

    ``d = min_{y'} K`` and ``q = max_{z', u} d`` are solved exactly: the slacks in closed form, y and z by a
    semismooth Newton method, the constrained part of q by an exact solve.

    Args: problem and state of NumPy arrays, one run; raises ValueError for a lower level with a box.
    Source: potential function of section 5; K >= d and q >= d.
    """
    if problem.y_box is not None:
        raise ValueError("the potential is defined without a box on y: write its sides as rows of A")
    x = s.x
    r_y = problem.residual(x, s.y) - s.alpha
    r_z = problem.residual(x, s.z) - s.beta
    inner_z = problem.g(x, s.z) + s.v @ r_z + rho2 / 2 * r_z @ r_z
    k = delta * problem.f(x, s.y) + problem.g(x, s.y) + s.u @ r_y + rho1 / 2 * r_y @ r_y - inner_z
    d = augmented_minimum(problem, x, s.y, s.u, rho1, delta) - inner_z
    best = problem.penalised(x, delta).y
    constrained = delta * problem.f(x, best) + problem.g(x, best)
    q = constrained - augmented_minimum(problem, x, s.z, s.v, rho2, 0.0)
    return float(k / 4 + 2 * q - d)


def augmented_minimum(
    problem: BilevelProblem, x: np.ndarray, y: np.ndarray, u: np.ndarray, rho: float, delta: float
) -> float:
    """Return ``min_{y, slack} delta f + g + u^T (h - slack) + rho/2 |h - slack|^2`` at x, from the start y.

    With the slack at its minimum this is ``delta f + g + (|[u + rho h]_+|^2 - |u|^2) / (2 rho)`` for
    inequality rows; equality rows keep ``u h + rho h^2 / 2``.
    """

    def pushed_at(y: np.ndarray) -> np.ndarray:
        return problem.project_dual(u + rho * problem.residual(x, y))

    def value(y: np.ndarray) -> float:
        pushed = pushed_at(y)
        smooth = problem.g(x, y) + (delta * problem.f(x, y) if delta else 0.0)
        return float(smooth + (pushed @ pushed - u @ u) / (2 * rho))

    now = value(y)
    for _ in range(100):
        pushed = pushed_at(y)
        gradient, hessian = problem.grad_g(x, y)[1], problem.hessians_g(x, y)[0]
        if delta:
            gradient = gradient + delta * problem.grad_f(x, y)[1]
            hessian = hessian + delta * problem.hessian_f(x, y)
        gradient = gradient + problem.a.T @ pushed
        if np.abs(gradient).max() < 1e-13 * (1 + np.abs(hessian).max()):
            break
        rows = problem.a[pushed != 0]
        move = np.linalg.solve(hessian + rho * rows.T @ rows, -gradient)
        length, after = 1.0, value(y + move)
        while after > now + 1e-4 * length * (gradient @ move) and length > 1e-8:
            length /= 2
            after = value(y + length * move)
        if after >= now:
            break
        y, now = y + length * move, after
    return now
