"""Step sizes as published: every experiment of the paper uses one common step for all five updates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """delta, rho1 = rho2 = rho, the common step eta and the number of iterations of one published run."""

    delta: float
    rho: float
    eta: float
    iterations: int


# Source: Appendix F of the paper and the configuration of its published code.
PUBLISHED = {
    "toy": Published(0.1, 1.0, 0.01, 10_000),
    "svm": Published(0.01, 0.01, 0.001, 10_000),
    "transport_three": Published(0.1, 1000.0, 3e-4, 30_000),
    "transport_nine": Published(0.25, 50.0, 3e-5, 300_000),
}
DELTA_STUDY = (0.01, 0.05, 0.1, 0.5, 1.0)
DELTA_STUDY_ITERATIONS = 20_000
