"""Numba's `njit` where it is installed, else the plain Python function: same numbers, slower.

Compiled code is cached beside the sources (``__pycache__``), or where ``NUMBA_CACHE_DIR`` says, so that
short-lived processes load it in milliseconds instead of compiling for seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import numba
except ImportError:  # no extra that needs Numba is installed
    numba = None  # type: ignore[assignment]

COMPILED = numba is not None


def njit(function: Callable[..., Any]) -> Any:
    """Return `function` compiled with NumPy's division rules and a cache on disk; itself without Numba."""
    if numba is None:
        return function
    return numba.njit(cache=True, error_model="numpy", nogil=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """As `njit`, and copied into each compiled caller: for the small steps of a round.

    A call of its own costs some nanoseconds of reference counting for every array, a third of a round in all.
    """
    if numba is None:
        return function
    return numba.njit(cache=True, error_model="numpy", nogil=True, inline="always")(function)
