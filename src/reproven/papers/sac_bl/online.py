"""Online rules, which decide on items one by one in their order: the package online-fdr, on batches of streams."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from reproven.harness.errors import require
from reproven.papers.sac_bl.e_values import check_e
from reproven.papers.sac_bl.step_up import Info, check_open_unit, check_p


def lond(p: np.ndarray, *, alpha: float = 0.05) -> tuple[np.ndarray, Info]:
    """LOND: level proportional to (rejections so far + 1). p: shape (..., n), last axis in order of arrival."""
    return _stream(check_p(p), alpha, lambda m: m.Lond(alpha))


def lord_plus_plus(p: np.ndarray, *, alpha: float = 0.05) -> tuple[np.ndarray, Info]:
    """LORD++: alpha-wealth earned back by rejections; initial wealth alpha / 2. p: as `lond`."""
    return _stream(check_p(p), alpha, lambda m: m.LordPlusPlus(alpha, alpha / 2))


def saffron(p: np.ndarray, *, alpha: float = 0.05, candidate: float = 0.5) -> tuple[np.ndarray, Info]:
    """SAFFRON: adapts to the share of normal items through p-values above `candidate`. p: as `lond`."""
    return _stream(check_p(p), alpha, lambda m: m.Saffron(alpha, alpha / 2, candidate))


def addis(
    p: np.ndarray, *, alpha: float = 0.05, candidate: float = 0.25, discard: float = 0.5
) -> tuple[np.ndarray, Info]:
    """ADDIS: SAFFRON that also discards p-values above `discard`. p: as `lond`."""
    return _stream(check_p(p), alpha, lambda m: m.Addis(alpha, alpha / 2, candidate, discard))


def e_lond(e: np.ndarray, *, alpha: float = 0.05) -> tuple[np.ndarray, Info]:
    """e-LOND: LOND on e-values, valid under any dependence. e: e-values, shape (..., n), in order of arrival."""
    return _stream(check_e(e), alpha, lambda m: m.ELond(alpha))


def _stream(values: np.ndarray, alpha: float, make: Callable[[Any], Any]) -> tuple[np.ndarray, Info]:
    check_open_unit(alpha=alpha)
    require("online_fdr", "sac_bl")
    from online_fdr import e_values, p_values

    methods = SimpleNamespace(**vars(p_values), ELond=e_values.ELond)
    # The weights gamma_j do not depend on the stream; computing each once makes a batch several times faster.
    weights = SimpleNamespace(calc_gamma=lru_cache(maxsize=None)(make(methods).seq.calc_gamma))
    rows = values.reshape(-1, values.shape[-1])
    mask = np.empty(rows.shape, dtype=bool)
    for out, row in zip(mask, rows.tolist()):
        test = make(methods)
        test.seq = weights
        out[:] = [test.test_one(value) for value in row]
    shaped = mask.reshape(values.shape)
    return shaped, Info(shaped.sum(axis=-1), np.where(shaped, values, 0.0).max(axis=-1))
