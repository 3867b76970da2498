"""A decision rule from outside: Bonferroni's, for the tables of SAC-BL."""

from __future__ import annotations

import numpy as np


def bonferroni(p: np.ndarray, *, alpha: float = 0.05) -> tuple[np.ndarray, None]:
    """Reject every p-value of at most alpha / n; p of shape (..., n), independent batches along the leading axes."""
    return p <= alpha / p.shape[-1], None
