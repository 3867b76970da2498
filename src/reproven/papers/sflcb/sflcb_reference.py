"""SFLCB as listed in Algorithm 1: one run, float64, the paper's order and symbols, no batching."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Vector = np.ndarray


def sflcb_reference(
    grad_f: Callable[[Vector, Vector], tuple[Vector, Vector]],
    grad_g: Callable[[Vector, Vector], tuple[Vector, Vector]],
    A: np.ndarray,
    B: np.ndarray,
    b: Vector,
    start: dict[str, Vector],
    *,
    delta: float,
    rho_1: float,
    rho_2: float,
    eta: dict[str, float],
    T: int,
    project_X: Callable[[Vector], Vector] = lambda x: x,
) -> list[dict[str, Vector]]:
    """Return the T + 1 iterates of Algorithm 1, each with keys x, y, z, alpha, beta, u, v.

    Gradients of ``K = delta f(x,y) + g(x,y) - g(x,z) + u^T (h(x,y)-alpha) - v^T (h(x,z)-beta)
    + rho_1/2 |h(x,y)-alpha|^2 - rho_2/2 |h(x,z)-beta|^2`` with h(x,y) = B x + A y - b.

    Args: A (dh, dy), B (dh, dx), b (dh,); `eta` has keys x, y, z, u, v.
    Source: Algorithm 1 and equation of K in section 5; gradients written out from K.
    """
    s = {name: np.array(value, dtype=np.float64) for name, value in start.items()}
    iterates = [dict(s)]
    for _ in range(T):
        x, y, z, alpha, beta = s["x"], s["y"], s["z"], s["alpha"], s["beta"]
        h_y = B @ x + A @ y - b
        h_z = B @ x + A @ z - b
        # Dual variables first: u ascends on K; v descends on K, whose v-gradient is -(h_z - beta).
        u = s["u"] + eta["u"] * (h_y - alpha)
        v = s["v"] - eta["v"] * (-(h_z - beta))
        f_x, f_y = grad_f(x, y)
        g_x, g_y = grad_g(x, y)
        g_x_z, g_y_z = grad_g(x, z)
        K_x = delta * f_x + g_x - g_x_z + B.T @ u - B.T @ v
        K_x = K_x + rho_1 * B.T @ (h_y - alpha) - rho_2 * B.T @ (h_z - beta)
        K_y = delta * f_y + g_y + A.T @ u + rho_1 * A.T @ (h_y - alpha)
        K_alpha = -u - rho_1 * (h_y - alpha)
        K_z = -g_y_z - A.T @ v - rho_2 * A.T @ (h_z - beta)
        K_beta = v + rho_2 * (h_z - beta)
        s = {
            "x": project_X(x - eta["x"] * K_x),
            "y": y - eta["y"] * K_y,
            "alpha": np.minimum(alpha - eta["y"] * K_alpha, 0.0),
            "z": z + eta["z"] * K_z,
            "beta": np.minimum(beta + eta["z"] * K_beta, 0.0),
            "u": u,
            "v": v,
        }
        iterates.append(dict(s))
    return iterates


def augmented_lagrangian(
    f: Callable[[Vector, Vector], float],
    g: Callable[[Vector, Vector], float],
    A: np.ndarray,
    B: np.ndarray,
    b: Vector,
    s: dict[str, Vector],
    *,
    delta: float,
    rho_1: float,
    rho_2: float,
) -> float:
    """Return K(x, y', z', u, v) at the iterate `s` (keys x, y, z, alpha, beta, u, v). Source: section 5."""
    r_y = B @ s["x"] + A @ s["y"] - b - s["alpha"]
    r_z = B @ s["x"] + A @ s["z"] - b - s["beta"]
    value = delta * f(s["x"], s["y"]) + g(s["x"], s["y"]) - g(s["x"], s["z"])
    value += s["u"] @ r_y - s["v"] @ r_z + rho_1 / 2 * r_y @ r_y - rho_2 / 2 * r_z @ r_z
    return float(value)
