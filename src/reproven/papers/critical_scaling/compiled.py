"""Numba's `njit` where it is installed, else the plain Python function: same numbers, slower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import numba
except ImportError:  # the extra `critical_scaling` is not installed
    numba = None  # type: ignore[assignment]

COMPILED = numba is not None


def njit(function: Callable[..., Any]) -> Any:
    """Return `function` compiled with NumPy's division rules and a cache on disk; itself without Numba."""
    if numba is None:
        return function
    return numba.njit(cache=True, error_model="numpy", nogil=True)(function)
