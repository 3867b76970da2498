"""Numba's `njit` where it is installed, else the plain Python function: same numbers, slower.

Compiled code is kept on disk, so that short-lived processes load it in milliseconds instead of compiling for seconds:
under `compiled_folder`, in a folder for each state of the sources. Numba's own cache looks at the file of a function
alone, and would go on running old code of what the function calls in another file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from reproven.data.provider import cache_folder

try:
    import numba
except ImportError:  # no extra that needs Numba is installed
    numba = None  # type: ignore[assignment]

COMPILED = numba is not None


def njit(function: Callable[..., Any]) -> Any:
    """Return `function` compiled with NumPy's division rules and a cache on disk; itself without Numba."""
    return _compiled(function)


def inlined(function: Callable[..., Any]) -> Any:
    """As `njit`, and copied into each compiled caller: for the small steps of a round.

    A call of its own costs some nanoseconds of reference counting for every array, a third of a round in all.
    """
    return _compiled(function, inline="always")


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    if numba is None:
        return function
    folder = compiled_folder(Path(function.__code__.co_filename).parent)
    with contextlib.suppress(OSError):  # where nothing can be written, every process compiles for itself
        folder.mkdir(parents=True, exist_ok=True)
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder)
    try:
        return numba.njit(cache=os.access(folder, os.W_OK), error_model="numpy", nogil=True, **options)(
            function
        )
    finally:
        settings.CACHE_DIR = before


@lru_cache
def compiled_folder(package: Path) -> Path:
    """Return where compiled code of a folder's sources is kept: another for every state of any file in it.

    Below ``NUMBA_CACHE_DIR`` where that is set, else in the cache folder of the data.
    """
    seen = hashlib.sha256()
    for path in sorted(package.glob("*.py")):
        seen.update(path.read_bytes())
    root = os.environ.get("NUMBA_CACHE_DIR")
    return (Path(root) if root else cache_folder() / "numba") / seen.hexdigest()[:16]
