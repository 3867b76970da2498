"""The toy problem of section 6.1: one upper and one lower variable, y*(x) = x, multiplier 2x."""

from __future__ import annotations

import numpy as np

from reproven.papers.sflcb.problem import Array, BilevelProblem

# Local minima of Phi(x) = f(x, x) on [0, 3], by Newton's method on Phi' to 1e-6.
MINIMA = (0.148891, 0.986225, 2.019726, 2.990774)


class Toy(BilevelProblem):
    """``min_{x in [0, 3]} exp(2-y)/(2+cos 6x) + ln((4x-2)^2+1)/2``, ``y*(x) = argmin {(y-2x)^2: y <= x}``.

    Source: section 6.1 and Appendix F of the paper.
    """

    def __init__(self) -> None:
        super().__init__(
            _f,
            lambda x, y: ((y - 2 * x) ** 2)[..., 0],
            np.array([[1.0]]),
            np.array([[-1.0]]),
            np.array([0.0]),
            grad_f=_grad_f,
            grad_g=lambda x, y: (-4 * (y - 2 * x), 2 * (y - 2 * x)),
            x_box=(0.0, 3.0),
            mu_g=2.0,
            l_g1=10.0,
        )

    @staticmethod
    def phi(x: Array) -> Array:
        """Return Phi(x) = f(x, x), shape (...): the exact value."""
        return _f(x, x)


def _f(x: Array, y: Array) -> Array:
    return (np.exp(2 - y) / (2 + np.cos(6 * x)) + 0.5 * np.log((4 * x - 2) ** 2 + 1))[..., 0]


def _grad_f(x: Array, y: Array) -> tuple[Array, Array]:
    weight = np.exp(2 - y) / (2 + np.cos(6 * x))
    slope = 4 * (4 * x - 2) / ((4 * x - 2) ** 2 + 1)
    return weight * 6 * np.sin(6 * x) / (2 + np.cos(6 * x)) + slope, -weight
