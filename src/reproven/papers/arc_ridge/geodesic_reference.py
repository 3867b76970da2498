"""Geodesic ridge of one tiny network: the control problem as written, by SciPy's SLSQP with plain loops."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize


def outputs(phi: np.ndarray, x: np.ndarray, weight: float, s: float) -> np.ndarray:
    """F: phi (M, 1 + d), x (N, d) -> (N,)."""
    return np.array([sum(weight * p[0] * np.tanh(s * p[1:] @ xi) for p in phi) for xi in x])


def jacobian(phi: np.ndarray, x: np.ndarray, weight: float, s: float) -> np.ndarray:
    """J: (N, M (1 + d))."""
    rows = []
    for xi in x:
        row: list[float] = []
        for p in phi:
            t = np.tanh(s * p[1:] @ xi)
            row += [weight * t, *(weight * p[0] * s * (1 - t**2) * xi)]
        rows.append(row)
    return np.array(rows)


def geodesic_length(
    phi0: np.ndarray, x: np.ndarray, y: np.ndarray, weight: float, s: float, K: int
) -> tuple[float, np.ndarray]:
    """Return d and the end point for ``min 1/2 h sum |v_k|^2`` subject to ``F(theta_K) = y``, h = 1/K."""
    N, h = len(y), 1 / K

    def curve(u: np.ndarray) -> tuple[np.ndarray, float, float]:
        theta, C, length = phi0.copy(), 0.0, 0.0
        for uk in u.reshape(K, N):
            v = (jacobian(theta, x, weight, s).T @ uk).reshape(phi0.shape)
            v = (jacobian(theta + 0.5 * h * v, x, weight, s).T @ uk).reshape(phi0.shape)
            theta, C, length = (
                theta + h * v,
                C + 0.5 * h * float(np.sum(v**2)),
                length + h * float(np.linalg.norm(v)),
            )
        return theta, C, length

    J = jacobian(phi0, x, weight, s)
    u0 = np.tile(np.linalg.solve(J @ J.T, y - outputs(phi0, x, weight, s)), K)
    fit = {"type": "eq", "fun": lambda u: outputs(curve(u)[0], x, weight, s) - y}
    found = minimize(
        lambda u: curve(u)[1], u0, method="SLSQP", constraints=fit, options={"maxiter": 500, "ftol": 1e-13}
    )
    theta, _, length = curve(found.x)
    return length, theta
