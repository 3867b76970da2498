"""Theorem A: what B guarantees about a row, at every n and without probability (dossier 3.1, reconstructed).

With c = beta / B and k* the depth at which B is attained:

1. c > 1:       p_max >= 1 - 1/c
2. 0 <= c <= 1: p_max <= (1 + k*)^{-(1-c)}  and  H >= (1 - c) log(1 + k*)
3. c > 1:       H <= log(c/(c-1)) + 4c / (e (c-1)^2)
4. B <= beta_{2/3} <= 3 B;   B (1 - log 2 / log(1 + k*)) <= beta_{1/2} <= 2 B
"""

from __future__ import annotations

import numpy as np


def p_max_floor(scale: np.ndarray, beta: float | np.ndarray = 1.0) -> np.ndarray:
    """Return the guaranteed p_max >= max(0, 1 - B / beta): a certificate for each row.

    scale: B, any shape; beta: positive inverse temperature. For a retrieved needle this is a lower bound on the
    attention that it gets, from its row alone.
    """
    return np.maximum(0.0, 1 - np.asarray(scale, dtype=float) / _positive(beta))


def p_max_ceiling(scale: np.ndarray, depth: np.ndarray, beta: float | np.ndarray = 1.0) -> np.ndarray:
    """Return the guaranteed p_max <= (1 + k*)^{-(1-c)} for c <= 1, and 1 above."""
    c = _positive(beta) / np.asarray(scale, dtype=float)
    return np.exp(-np.maximum(0.0, 1 - c) * np.log1p(np.asarray(depth, dtype=float)))


def entropy_floor(scale: np.ndarray, depth: np.ndarray, beta: float | np.ndarray = 1.0) -> np.ndarray:
    """Return the guaranteed H >= (1 - c) log(1 + k*) in nats, 0 for c > 1."""
    return -np.log(p_max_ceiling(scale, depth, beta))


def entropy_ceiling(scale: np.ndarray, beta: float | np.ndarray = 1.0) -> np.ndarray:
    """Return the guaranteed H in nats for c > 1, +inf for c <= 1.

    The dossier's second bound for c > 2, with 2 / (e (c/2 - 1)), is never the smaller one: c (c - 2) < (c - 1)^2.
    """
    c = np.asarray(_positive(beta) / np.asarray(scale, dtype=float), dtype=float)
    above = np.where(c > 1, c, 2.0)
    bound = np.log(above / (above - 1)) + 4 * above / (np.e * (above - 1) ** 2)
    return np.where(c > 1, bound, np.inf)


def two_thirds_bracket(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval [B, 3 B] that holds beta_{2/3} of every row."""
    b = np.asarray(scale, dtype=float)
    return b, 3 * b


def half_bracket(scale: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval [B (1 - log 2 / log(1 + k*)), 2 B] that holds beta_{1/2}; void (from 0) for k* = 1."""
    b = np.asarray(scale, dtype=float)
    return b * (1 - np.log(2) / np.log1p(np.asarray(depth, dtype=float))), 2 * b


def _positive(beta: float | np.ndarray) -> np.ndarray:
    b = np.asarray(beta, dtype=float)
    if not (b > 0).all():
        raise ValueError(f"beta={beta} must be positive")
    return b
