"""Families of attention-score rows: exact quantile rows, random samples, and the law of B (dossier 3.2).

A quantile row is the deterministic row ``s_i = Q((i - 1/2) / n)`` of upper-tail quantiles, Q(u) being exceeded with
probability u: no sampling noise, so that n up to 10^7 shows the finite-n curve itself. With L = log n:

=============== ===================================== ==========================
family          upper tail                            B, leading order
=============== ===================================== ==========================
simplex         one score Delta = 1 - rho above all   L / Delta, exactly
almost_simplex  gaps spread over [1 - rho2, 1 - rho1] between L/(1-rho1) and L/(1-rho2)
gaussian        N(0, sigma^2)                         sqrt(2 L) / sigma
exponential     exp(-kappa x)                         kappa
weibull         exp(-x^alpha)                         max(1, alpha) L^(1 - 1/alpha)
flat_edge       P(s > s_max - t) = exp(-t^-q)         q L^(1 + 1/q)
regular_edge    P(s > s_max - t) = c t^gamma          order (c n)^(1/gamma)
sphere          uniform keys on S^(d-1)               order n^(2/(d-1))
pareto          x^-nu                                 L / n^(1/nu) -> 0
needle          Delta over Gaussian noise sigma       (Delta - sqrt(Delta^2 - 2 sigma^2 L)) / sigma^2
clusters        n^a_j competitors at gap Delta_j      max_j a_j L / Delta_j
alibi           bias -m distance                      log 2 / m
log_distance    bias -kappa log distance              1 / kappa
=============== ===================================== ==========================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

Rng = np.random.Generator


@dataclass(frozen=True)
class Simplex:
    """One key at score 1, all others at rho: gap Delta = 1 - rho, the simplex of Chen et al. rho < 1."""

    rho: float = 0.0

    def __post_init__(self) -> None:
        _check(self.rho < 1, f"rho={self.rho} must be below 1")

    def quantiles(self, n: int) -> np.ndarray:
        """Return the row, (n,), winner first."""
        row = np.full(_size(n), float(self.rho))
        row[0] = 1.0
        return row

    def sample(self, rows: int, n: int, rng: Rng) -> np.ndarray:
        """Return `rows` copies, (rows, n): this family has no randomness."""
        return np.tile(self.quantiles(n), (rows, 1))

    def law(self, n: int) -> float:
        """Return B = L / (1 - rho), exact at every n."""
        return float(np.log(n) / (1 - self.rho))


@dataclass(frozen=True)
class AlmostSimplex:
    """One key at score 1, the others between rho1 and rho2. rho1 <= rho2 < 1."""

    rho1: float = 0.0
    rho2: float = 0.5

    def __post_init__(self) -> None:
        _check(self.rho1 <= self.rho2 < 1, f"need rho1={self.rho1} <= rho2={self.rho2} < 1")

    def quantiles(self, n: int) -> np.ndarray:
        """Return the row with competitors evenly spread, (n,)."""
        return np.concatenate([[1.0], np.linspace(self.rho2, self.rho1, _size(n) - 1)])

    def sample(self, rows: int, n: int, rng: Rng) -> np.ndarray:
        """Return rows with competitors uniform on [rho1, rho2], (rows, n)."""
        others = rng.uniform(self.rho1, self.rho2, (rows, _size(n) - 1))
        return np.concatenate([np.ones((rows, 1)), others], axis=1)

    def bracket(self, n: int) -> tuple[float, float]:
        """Return the interval [L / (1 - rho1), L / (1 - rho2)] that holds B of every such row."""
        return float(np.log(n) / (1 - self.rho1)), float(np.log(n) / (1 - self.rho2))


@dataclass(frozen=True)
class _Tail:
    """A family given by its upper quantile function alone."""

    def upper(self, u: np.ndarray) -> np.ndarray:
        """Return the score exceeded with probability u in (0, 1)."""
        raise NotImplementedError

    def quantiles(self, n: int) -> np.ndarray:
        """Return the quantile row, (n,), descending."""
        return self.upper((np.arange(_size(n)) + 0.5) / n)

    def sample(self, rows: int, n: int, rng: Rng) -> np.ndarray:
        """Return independent scores, (rows, n)."""
        return self.upper(1 - rng.random((rows, _size(n))))


@dataclass(frozen=True)
class Gaussian(_Tail):
    """N(0, sigma^2): the Random Energy Model."""

    sigma: float = 1.0

    def upper(self, u: np.ndarray) -> np.ndarray:
        """Return sigma Phi^{-1}(1 - u)."""
        return -self.sigma * ndtri(u)

    def law(self, n: int) -> float:
        """Return sqrt(2 L) / sigma."""
        return float(np.sqrt(2 * np.log(n)) / self.sigma)


@dataclass(frozen=True)
class Exponential(_Tail):
    """P(s > x) = exp(-kappa x): no length law."""

    kappa: float = 1.0

    def upper(self, u: np.ndarray) -> np.ndarray:
        """Return -log(u) / kappa."""
        return -np.log(u) / self.kappa

    def law(self, n: int) -> float:
        """Return kappa."""
        return self.kappa


@dataclass(frozen=True)
class Weibull(_Tail):
    """P(s > x) = exp(-x^alpha); alpha > 0."""

    alpha: float = 2.0

    def __post_init__(self) -> None:
        _check(self.alpha > 0, f"alpha={self.alpha} must be positive")

    def upper(self, u: np.ndarray) -> np.ndarray:
        """Return (-log u)^{1/alpha}."""
        return (-np.log(u)) ** (1 / self.alpha)

    def law(self, n: int) -> float:
        """Return max(1, alpha) L^{1 - 1/alpha}."""
        return float(max(1.0, self.alpha) * np.log(n) ** (1 - 1 / self.alpha))


@dataclass(frozen=True)
class FlatEdge(_Tail):
    """Bounded above by 0 with P(s > -t) = exp(-t^{-q}): q = 1 gives (log n)^2. q > 0."""

    q: float = 1.0

    def __post_init__(self) -> None:
        _check(self.q > 0, f"q={self.q} must be positive")

    def upper(self, u: np.ndarray) -> np.ndarray:
        """Return -(-log u)^{-1/q}."""
        return -((-np.log(np.minimum(u, 1 - 1e-16))) ** (-1 / self.q))

    def law(self, n: int) -> float:
        """Return q L^{1 + 1/q}."""
        return float(self.q * np.log(n) ** (1 + 1 / self.q))


@dataclass(frozen=True)
class RegularEdge(_Tail):
    """Bounded above by 0 with P(s > -t) = t^gamma on [0, 1]. gamma > 0."""

    gamma: float = 2.0

    def __post_init__(self) -> None:
        _check(self.gamma > 0, f"gamma={self.gamma} must be positive")

    def upper(self, u: np.ndarray) -> np.ndarray:
        """Return -u^{1/gamma}."""
        return -(u ** (1 / self.gamma))

    def order(self, n: int) -> float:
        """Return n^{1/gamma}, the order of B."""
        return float(n ** (1 / self.gamma))


@dataclass(frozen=True)
class Pareto(_Tail):
    """P(s > x) = x^{-nu} for x > 1. nu > 0."""

    nu: float = 2.0

    def upper(self, u: np.ndarray) -> np.ndarray:
        """Return u^{-1/nu}."""
        return u ** (-1 / self.nu)

    def law(self, n: int) -> float:
        """Return L / n^{1/nu}."""
        return float(np.log(n) * n ** (-1 / self.nu))


@dataclass(frozen=True)
class Sphere:
    """Keys uniform on S^{d-1}, query fixed: scores are cosines. d >= 2."""

    d: int = 3

    def __post_init__(self) -> None:
        _check(self.d >= 2, f"d={self.d} must be at least 2")

    def sample(self, rows: int, n: int, rng: Rng) -> np.ndarray:
        """Return cosines with independent uniform keys, (rows, n): 2 Beta((d-1)/2, (d-1)/2) - 1 in law.

        Drawn as 1 - (gap), the gap being resolved near 0: ``gap = 2 x`` with x from the Beta's lower tail.
        """
        half = (self.d - 1) / 2
        return 1 - 2 * rng.beta(half, half, (rows, _size(n)))

    def order(self, n: int) -> float:
        """Return n^{2/(d-1)}, the order of B at fixed d."""
        return float(n ** (2 / (self.d - 1)))


@dataclass(frozen=True)
class Needle:
    """One planted key at Delta over Gaussian noise of deviation sigma."""

    delta: float = 5.0
    sigma: float = 1.0

    def quantiles(self, n: int) -> np.ndarray:
        """Return the row, (n,), the needle first."""
        return np.concatenate([[self.delta], Gaussian(self.sigma).quantiles(_size(n) - 1)])

    def sample(self, rows: int, n: int, rng: Rng) -> np.ndarray:
        """Return rows, (rows, n), the needle first."""
        noise = rng.normal(0.0, self.sigma, (rows, _size(n) - 1))
        return np.concatenate([np.full((rows, 1), self.delta), noise], axis=1)

    def law(self, n: int) -> float:
        """Return (Delta - sqrt(Delta^2 - 2 sigma^2 L)) / sigma^2 for Delta > sigma sqrt(2 L)."""
        inside = self.delta**2 - 2 * self.sigma**2 * np.log(n)
        _check(inside > 0, f"delta={self.delta} lies in the noise: it must exceed sigma sqrt(2 log n)")
        return float((self.delta - np.sqrt(inside)) / self.sigma**2)


@dataclass(frozen=True)
class Clusters:
    """Groups of round(n^a_j) competitors at gap Delta_j below the winner (generalised random energy model)."""

    gaps: Sequence[float] = (0.5, 1.0, 2.0)
    powers: Sequence[float] = (0.3, 0.8, 1.0)

    def quantiles(self, n: int) -> np.ndarray:
        """Return the row, winner first; its length is 1 + sum_j round(n^a_j)."""
        sizes = [round(_size(n) ** a) for a in self.powers]
        return np.concatenate([[0.0], np.repeat(-np.asarray(self.gaps, dtype=float), sizes)])

    def sample(self, rows: int, n: int, rng: Rng) -> np.ndarray:
        """Return `rows` copies: this family has no randomness."""
        return np.tile(self.quantiles(n), (rows, 1))

    def law(self, n: int) -> float:
        """Return max_j a_j L / Delta_j."""
        return float(max(a / d for a, d in zip(self.powers, self.gaps)) * np.log(n))


@dataclass(frozen=True)
class Alibi:
    """Positional bias -slope x distance alone, keys at distances 0, 1, ..., n - 1."""

    slope: float = 0.5

    def quantiles(self, n: int) -> np.ndarray:
        """Return the row, nearest key first."""
        return -self.slope * np.arange(_size(n), dtype=float)

    def law(self, n: int) -> float:
        """Return log 2 / slope, exact for n >= 2."""
        return float(np.log(2) / self.slope)


@dataclass(frozen=True)
class LogDistance:
    """Positional bias -kappa log(distance), distances 1, ..., n: length-free."""

    kappa: float = 0.7

    def quantiles(self, n: int) -> np.ndarray:
        """Return the row, nearest key first."""
        return -self.kappa * np.log(np.arange(1, _size(n) + 1, dtype=float))

    def law(self, n: int) -> float:
        """Return 1 / kappa, exact for n >= 2."""
        return 1 / self.kappa


def poisson_gaps(rows: int, points: int, rng: Rng) -> np.ndarray:
    """Return gaps ``log(Gamma_{k+1} / Gamma_1)`` below the maximum of a Gumbel-class row, (rows, points - 1).

    Gamma_k are the arrival times of a Poisson process of rate one: the limit of rows with unit tail rate.
    """
    arrivals = np.cumsum(rng.exponential(size=(rows, points)), axis=1)
    return np.log(arrivals[:, 1:] / arrivals[:, :1])


def quantile_scale(row: np.ndarray) -> tuple[float, int]:
    """Return (B, k*) of one descending row of any length: a plain maximum, in blocks of a million keys."""
    row = np.asarray(row, dtype=float)
    best, where = -np.inf, 0
    for start in range(1, len(row), 1 << 20):
        g = row[0] - row[start : start + (1 << 20)]
        slope = np.log1p(np.arange(start, start + len(g))) / np.maximum(g, 1e-300)
        if slope.max() > best:
            best, where = float(slope.max()), start + int(slope.argmax())
    return best, where


def _size(n: int) -> int:
    _check(n >= 2, f"n={n} must be at least 2: a row with one key has no competitor")
    return int(n)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
