"""What a rule may ask for, and how a rule of any signature is given what it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Evidence:
    """One batch of decisions; leading axes (...) are replicates.

    p: p-values, shape (..., n).
    calibration: scores of held-out normal items, shape (..., k); None where the null is known.
    scores: scores of the items to decide on, shape (..., n).
    k: size of the calibration set, None where there is none.
    null: which items are normal, shape (..., n). Only oracle-like rules ask for it.
    splits: further (calibration, scores) pairs from other splits of the normal data, for averaging rules.
    """

    p: np.ndarray
    calibration: np.ndarray | None
    scores: np.ndarray
    null: np.ndarray
    splits: Sequence[tuple[np.ndarray, np.ndarray]] = ()

    @property
    def k(self) -> int | None:
        return None if self.calibration is None else self.calibration.shape[-1]


def decide(
    rule: Callable[..., Any], evidence: Evidence, *, alpha: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the rule's mask (or inclusion probabilities) on `evidence`, shape (..., n).

    A rule names what it needs as parameters: any of p, calibration, scores, k, null, splits, alpha, rng.
    """
    fields = ("p", "calibration", "scores", "k", "null", "splits")
    given = {name: getattr(evidence, name) for name in fields}
    out = call_with(rule, {**given, "alpha": alpha, "rng": rng})
    return out[0] if isinstance(out, tuple) else out


def call_with(function: Callable[..., Any], offered: Mapping[str, Any], *args: Any) -> Any:
    """Call `function(*args)` with those of the `offered` keywords that it names; None is not offered."""
    names = inspect.signature(function).parameters
    return function(
        *args, **{name: value for name, value in offered.items() if name in names and value is not None}
    )
