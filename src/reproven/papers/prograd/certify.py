"""Certificates: what the edited network really does, and whether the rows hold without any rounding.

`certify` runs and differentiates the network with its new weights, in the precision asked for. `exact_slack` evaluates
the rows of the program on the written weights in rational arithmetic: floats are dyadic rationals, so that sums of
their products are whole numbers over a power of two, and no tolerance is left to argue about.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from reproven.papers.prograd.constraints import Constraint
from reproven.papers.prograd.rows import Block

PRECISIONS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Certificate:
    """What a network in one precision does with all constraints.

    satisfied: share of requirements (entries, pixels, tokens) met. points: share of points with all of theirs met.
    worst: largest violation, negative where everything holds.
    """

    precision: str
    satisfied: float
    points: float
    worst: float

    @property
    def holds(self) -> bool:
        return self.worst <= 0


def certify(
    model: nn.Module,
    points: Tensor,
    constraints: Sequence[Constraint],
    precision: str = "float64",
    *,
    cast: Sequence[str] | None = None,
) -> Certificate:
    """Return what `model` does in a precision of `PRECISIONS`.

    cast: names of parameters that alone are rounded to the precision, everything else being float64: what storing an
    edited layer in few bits costs. By default all parameters and the arithmetic are in that precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    dtype = PRECISIONS[precision]
    if cast is None:
        used, x = copy.deepcopy(model).to(dtype), points.to(dtype)
    else:
        used, x = copy.deepcopy(model).double(), points.double()
        for name in cast:
            value = used.get_parameter(name)
            value.data = value.data.to(dtype).double()
    used.requires_grad_(False)
    measured = [c.measure(used, x) for c in constraints]
    violation = np.concatenate([m.violation for m in measured])
    owner = np.concatenate([m.point for m in measured])
    bad = np.unique(owner[~(violation <= 0)])
    return Certificate(
        precision,
        float((violation <= 0).mean()),
        1 - len(bad) / len(np.unique(owner)),
        float(violation.max()),
    )


def exact_slack(blocks: Sequence[Block], delta: np.ndarray) -> Fraction:
    """Return the least slack of all rows at `delta`, exactly; negative where a row is violated.

    Rows are taken as the floats they are: ``T (value + A delta)`` is evaluated without rounding.
    """
    d, d_exponent = _integers(delta)
    worst: Fraction | None = None
    for block in blocks:
        a, a_exponent = _integers(block.a.data)
        s = []
        for i in range(block.a.shape[0]):
            row = slice(block.a.indptr[i], block.a.indptr[i + 1])
            total = sum(map(int.__mul__, a[row], [d[j] for j in block.a.indices[row].tolist()]))
            s.append(
                Fraction(total) * Fraction(2) ** (a_exponent + d_exponent) + Fraction(float(block.value[i]))
            )
        got = s if block.t is None else _times(block, s)
        for value, low, high in zip(got, block.low, block.high):
            for slack in _slacks(value, float(low), float(high)):
                worst = slack if worst is None else min(worst, slack)
    if worst is None:
        raise ValueError("no row has a finite bound")
    return worst


def _times(block: Block, s: list[Fraction]) -> list[Fraction]:
    t = block.t
    assert t is not None
    return [
        sum(
            (Fraction(float(t.data[k])) * s[t.indices[k]] for k in range(t.indptr[i], t.indptr[i + 1])),
            Fraction(0),
        )
        for i in range(t.shape[0])
    ]


def _slacks(value: Fraction, low: float, high: float) -> list[Fraction]:
    found = [value - Fraction(low)] if np.isfinite(low) else []
    return [*found, Fraction(high) - value] if np.isfinite(high) else found


def _integers(x: np.ndarray) -> tuple[list[int], int]:
    """Return whole numbers m and an exponent e with ``x = m 2^e`` exactly."""
    mantissa, exponent = np.frexp(np.asarray(x, dtype=float))
    whole = (mantissa * 2.0**53).astype(np.int64)
    exponent = exponent.astype(int) - 53
    live = whole != 0
    lowest = int(exponent[live].min()) if live.any() else 0
    shift = np.where(live, exponent - lowest, 0)
    return [int(w) << int(s) for w, s in zip(whole.tolist(), shift.tolist())], lowest
