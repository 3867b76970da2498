"""The kernel regime in closed form: gradient flow, ridge and arc ridge of linear models in the eigenbasis.

``L(theta) = 1/2 |X theta - y|^2``, mu: eigenvalues of X^T X with mu > 0, c: negative gradient at the start in the
eigenbasis. Flow ``x_i = c_i (1 - exp(-mu_i t)) / mu_i``, ridge ``x_i = c_i / (mu_i + lambda)`` (dossier 3.6).
Arrays may carry leading axes, one problem each: mu and c (..., k).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PANELS, NODES = 48, 10  # of the composite Gauss-Legendre rule for the length of the path
HALVINGS = 100


@dataclass(frozen=True)
class Linear:
    """A linear model in its eigenbasis. mu, c: (..., k); basis: (..., P, k); start: (..., P)."""

    mu: np.ndarray
    c: np.ndarray
    basis: np.ndarray
    start: np.ndarray

    @staticmethod
    def of(X: np.ndarray, y: np.ndarray, start: np.ndarray) -> Linear:
        """X: (..., N, P) of full rank N <= P, y: (..., N), start: (..., P)."""
        left, root, right = np.linalg.svd(X, full_matrices=False)
        residual = y - (X @ start[..., None])[..., 0]
        return Linear(root**2, root * (left.swapaxes(-1, -2) @ residual[..., None])[..., 0],
                      right.swapaxes(-1, -2), start)  # fmt: skip

    def theta(self, x: np.ndarray) -> np.ndarray:
        """Return parameters for coordinates x (..., k)."""
        return self.start + (self.basis @ x[..., None])[..., 0]


def flow(mu: np.ndarray, c: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return gradient flow at time t (...,): (..., k)."""
    return -c / mu * np.expm1(-mu * t[..., None])


def ridge(mu: np.ndarray, c: np.ndarray, lam: float | np.ndarray) -> np.ndarray:
    """Return ``argmin L + lam/2 |theta - theta0|^2``, lam > 0 a number or (...,)."""
    return c / (mu + np.asarray(lam)[..., None])


def gradient_norm(mu: np.ndarray, c: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return ``|grad L|`` at time t: ``sqrt(sum c_i^2 exp(-2 mu_i t))``."""
    return np.sqrt((c * c * np.exp(-2 * mu * t[..., None])).sum(-1))


def arc_length(mu: np.ndarray, c: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return ``A(t) = int_0^t |grad L| ds``, by Gauss-Legendre on panels that grow geometrically; t: (...,) > 0."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    edges = np.concatenate([[0.0], np.logspace(-6, 0, PANELS)])
    half = 0.5 * np.diff(edges)
    at = (0.5 * (edges[1:] + edges[:-1])[:, None] + half[:, None] * nodes).ravel()
    by = (half[:, None] * weights).ravel()
    times = np.asarray(t)[..., None] * at
    speed = np.sqrt(((c * c)[..., None, :] * np.exp(-2 * mu[..., None, :] * times[..., None])).sum(-1))
    return np.asarray(t) * (speed @ by)


def arc_stop(mu: np.ndarray, c: np.ndarray, lam: float) -> np.ndarray:
    """Return the time t* at which ``|grad L| = lam A``, (...,): unique, L being convex. lam > 0.

    Bisection between the bounds ``|grad L(t)|/|grad L(0)| <= lam t* <= 1`` (dossier 3.6).
    """
    if lam <= 0:
        raise ValueError(f"lam = {lam} must be positive: without regularisation the flow never stops")
    shape = mu.shape[:-1]
    low, high = np.full(shape, -40.0), np.full(shape, np.log(1 / lam))
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        t = np.exp(middle)
        before = gradient_norm(mu, c, t) > lam * arc_length(mu, c, t)
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    return np.exp(0.5 * (low + high))


def descent_limit(X: np.ndarray, y: np.ndarray, start: np.ndarray, steps: int) -> np.ndarray:
    """Return gradient descent after `steps` steps of 1/mu_max: the flow's limit, without any closed form."""
    theta, rate = start.copy(), 1 / np.linalg.norm(X, 2) ** 2
    for _ in range(steps):
        theta -= rate * (X.T @ (X @ theta - y))
    return theta


def risk(theta: np.ndarray, truth: np.ndarray, spectrum: np.ndarray) -> np.ndarray:
    """Return the excess prediction risk ``(theta - truth)^T Sigma (theta - truth)``, Sigma = diag(spectrum)."""
    return ((theta - truth) ** 2 * spectrum).sum(-1)
