"""Arc ridge in the order and symbols of the derivation: float64 vectors, one step at a time, no torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Gradient = Callable[[np.ndarray], np.ndarray]


def prox_descent(
    gradient: Gradient, theta0: np.ndarray, lam: float, eta: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Steepest descent on the arc-ridge objective (dossier 3.6); returns iterates (steps + 1, p) and A (steps + 1,).

    ``v = -eta/(1 + eta lam) (1 - lam A/|g|)_+ g``, ``A <- A + |v|``.
    """
    theta, A = theta0.astype(float), 0.0
    thetas, lengths = [theta], [A]
    for _ in range(steps):
        g = gradient(theta)
        norm = np.sqrt(g @ g)
        pull = 1 - lam * A / norm if norm > 0 else 0.0
        v = -eta / (1 + eta * lam) * max(pull, 0.0) * g
        theta, A = theta + v, A + float(np.linalg.norm(v))
        thetas.append(theta)
        lengths.append(A)
    return np.array(thetas), np.array(lengths)


def adam_descent(
    gradient: Gradient,
    theta0: np.ndarray,
    lam: float,
    eta: float,
    b1: float,
    b2: float,
    eps: float,
    steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The same under Adam (Kingma and Ba 2015), with ``G = sqrt(v_hat) + eps`` as metric (dossier 3.7, item 3)."""
    theta, A = theta0.astype(float), 0.0
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    thetas, lengths = [theta], [A]
    for t in range(1, steps + 1):
        g = gradient(theta)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        G = np.sqrt(v / (1 - b2**t)) + eps
        norm = np.sqrt(np.sum(g**2 / G))
        pull = max(1 - lam * A / norm, 0.0) if norm > 0 else 0.0
        step = -eta / (1 + eta * lam) * pull * (m / (1 - b1**t)) / G
        theta, A = theta + step, A + float(np.sqrt(np.sum(G * step**2)))
        thetas.append(theta)
        lengths.append(A)
    return np.array(thetas), np.array(lengths)


def debiased_norm(halves: np.ndarray, decay: float) -> np.ndarray:
    """Return the norm estimates after each pair of half-batch gradients (steps, 2, p), by the plain definition."""
    estimates = []
    for t in range(1, len(halves) + 1):
        weights = decay ** np.arange(t - 1, -1, -1.0)
        products = np.array([first @ second for first, second in halves[:t]])
        estimates.append(np.sqrt(max(float(weights @ products / weights.sum()), 0.0)))
    return np.array(estimates)
