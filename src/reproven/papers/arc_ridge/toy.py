"""The scalar toy ``F(a, b) = a b`` from (1, 0), where arc ridge is geodesic ridge, and its Riemannian Gibbs process.

One horizontal curve only (dossier 3.5): ``a = cosh u, b = sinh u``, ``f = sinh(2u)/2``, with arc length
``A(u) = int_0^u sqrt(cosh 2s) ds`` and ``Theta = cosh 2u``. The process is ``s ~ N(0, T)`` pushed through f(s).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq, minimize_scalar

NODES = 40


def arc(u: np.ndarray) -> np.ndarray:
    """Return the signed arc length A(u), by Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    u = np.asarray(u, float)
    return 0.5 * u * (np.sqrt(np.cosh(u[..., None] * (nodes + 1))) @ weights)


def position(s: np.ndarray) -> np.ndarray:
    """Return u at signed arc length s, by Newton's method from the asymptote ``A ~ exp(u)/sqrt 2``."""
    s = np.asarray(s, float)
    size = np.abs(s)
    u = np.where(size < 1, size, np.log1p(np.sqrt(2) * size))
    for _ in range(60):
        u = u - (arc(u) - size) / np.sqrt(np.cosh(2 * u))
    return np.sign(s) * u


def function(s: np.ndarray) -> np.ndarray:
    """Return f at signed arc length s."""
    return 0.5 * np.sinh(2 * position(s))


def arc_ridge(target: float, lam: float) -> np.ndarray:
    """Return (a, b) at the first point of the flow with ``|grad L| = lam A``, for ``L = (f - target)^2/2``."""
    if lam == 0:
        u = 0.5 * np.arcsinh(2 * target)
    else:
        u = brentq(
            lambda u: (target - 0.5 * np.sinh(2 * u)) * np.sqrt(np.cosh(2 * u)) - lam * float(arc(np.array(u))),
            0.0, 0.5 * np.arcsinh(2 * target), xtol=1e-15,
        )  # fmt: skip
    return np.array([np.cosh(u), np.sinh(u)])


def geodesic_ridge(target: float, lam: float) -> np.ndarray:
    """Return (a, b) that minimises ``L + lam/2 d^2`` with d the length of the only horizontal curve."""
    value = lambda s: 0.5 * (float(function(np.array(s))) - target) ** 2 + 0.5 * lam * s * s  # noqa: E731
    s = minimize_scalar(value, bounds=(0.0, 5.0 + target), method="bounded", options={"xatol": 1e-12}).x
    u = float(position(np.array(s)))
    return np.array([np.cosh(u), np.sinh(u)])


def anchored_ridge(target: float, lam: float) -> np.ndarray:
    """Return (a, b) that minimises ``L + lam/2 |(a, b) - (1, 0)|^2``; lam = 0: the limit, nearest on the fibre."""
    if lam == 0:
        a = minimize_scalar(
            lambda a: (a - 1) ** 2 + (target / a) ** 2, bounds=(1.0, 2.0 + target), method="bounded",
            options={"xatol": 1e-12},
        ).x  # fmt: skip
        return np.array([a, target / a])
    best = lambda b: (target * b + lam) / (b * b + lam)  # noqa: E731 - a for given b
    b = minimize_scalar(
        lambda b: 0.5 * (best(b) * b - target) ** 2 + 0.5 * lam * ((best(b) - 1) ** 2 + b * b),
        bounds=(0.0, 2.0 + target), method="bounded", options={"xatol": 1e-12},
    ).x  # fmt: skip
    return np.array([best(b), b])


def gibbs(temperature: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return independent draws of f from the Riemannian Gibbs process, ``exp(-d^2/(2T)) Theta^{-1/2} df``."""
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature} must be positive")
    return function(rng.normal(0.0, np.sqrt(temperature), size))


def langevin(temperature: float, chains: int, steps: int, h: float, rng: np.random.Generator) -> np.ndarray:
    """Return f of `chains` after horizontal Langevin steps in (a, b): the sampler that needs no closed form.

    ``ds = -s/2 dt + sqrt(T) dW`` along the horizontal unit vector ``grad F / |grad F|``, by midpoint steps (the
    Stratonovich rule, under which a curve's arc length obeys the ordinary calculus). It knows s as the length that
    the chain has travelled. h: time step; its stationary law in s is N(0, T) up to O(h).
    """
    state, s = np.tile([1.0, 0.0], (chains, 1)), np.zeros(chains)
    for _ in range(steps):
        ds = -0.5 * s * h + np.sqrt(temperature * h) * rng.normal(size=chains)
        unit = state[:, ::-1] / np.linalg.norm(state, axis=1, keepdims=True)
        middle = state + 0.5 * ds[:, None] * unit
        state = state + ds[:, None] * middle[:, ::-1] / np.linalg.norm(middle, axis=1, keepdims=True)
        s = s + ds
    return state.prod(axis=1)


def moments(temperature: float) -> tuple[float, float]:
    """Return the process's variance and excess kurtosis, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    f, p = function(np.sqrt(temperature) * nodes), weights / weights.sum()
    second, fourth = float(p @ f**2), float(p @ f**4)
    return second, fourth / second**2 - 3
