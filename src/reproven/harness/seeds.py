"""Seeds by axis: a seed is a hash of a base seed, a purpose and the axes that must vary.

All methods of a comparison that name the same purpose and axes see the same data and noise, so that
comparisons are paired. An axis left out is an axis shared.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Axis = int | float | str | bool


def derive(base: int, purpose: str, **axes: Axis) -> int:
    """Return a seed in ``[0, 2**63)`` from the base seed, the purpose and the axes that must vary.

    >>> derive(0, "graphs", n=10) == derive(0, "graphs", n=10)
    True
    >>> derive(0, "graphs", n=10) == derive(0, "weights", n=10)
    False
    """
    text = json.dumps([int(base), purpose, sorted(axes.items())], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(base: int, purpose: str, **axes: Axis) -> np.random.Generator:
    """Return a NumPy generator seeded by `derive`."""
    return np.random.default_rng(derive(base, purpose, **axes))


def torch_generator(base: int, purpose: str, device: str = "cpu", /, **axes: Axis) -> torch.Generator:
    """Return a torch generator on `device`, seeded by `derive`."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(base, purpose, **axes))
