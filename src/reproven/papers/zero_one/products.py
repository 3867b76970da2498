"""Products with a 0/1 matrix in three number formats: float32, two int8 digits, centred bfloat16.

A graph's adjacency is exact in every one of them, so only the other factor is rounded. An operand is made once
from that factor ``h`` and then multiplied by any number of blocks; `finish` returns to plain numbers::

    operand = FixedPoint(h)                       # h (D, n)
    total = operand.times(block)                  # block (n, m) of zeros and ones, of dtype `operand.block_dtype`
    product = operand.finish(total, block.sum(0)) # h @ block

`FixedPoint` and `CentredBfloat16` split off the mean of each row first: ``h A = mean deg + (h - mean) A``.
After that the relative error of a sum of ``n/2`` terms against its own spread is about 2e-5 for two int8 digits
(15 bits, summed exactly in int32) and 2e-3 for bfloat16 (8 bits), at the same number of machine operations.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Protocol

import torch
from torch import Tensor


class Operand(Protocol):
    """The rounded left factor of a product with 0/1 blocks."""

    block_dtype: torch.dtype

    def __init__(self, h: Tensor) -> None: ...

    def times(self, block: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return ``h[:, rows] @ block`` before `finish`, (D, m)."""

    def finish(self, total: Tensor, degree: Tensor) -> Tensor:
        """Return the product, given the column sums (m,) of the whole block column."""


class Float32:
    """The plain product, in the dtype of `h`."""

    def __init__(self, h: Tensor) -> None:
        self.h = h
        self.block_dtype = h.dtype

    def times(self, block: Tensor, rows: slice = slice(None)) -> Tensor:
        return self.h[:, rows] @ block

    def finish(self, total: Tensor, degree: Tensor) -> Tensor:
        return total


class FixedPoint:
    """Two signed base-128 digits an entry, multiplied exactly in integers.

    ``h - mean = step (128 high + low)`` with ``|128 high + low| <= 16256`` and one `step` a row.
    """

    block_dtype = torch.int8
    LARGEST = 127 * 128

    def __init__(self, h: Tensor) -> None:
        self.dtype = h.dtype
        self.mean = h.mean(-1, keepdim=True)
        deviation = h - self.mean
        self.step = deviation.abs().amax(-1, keepdim=True).clamp_min_(1e-30) / self.LARGEST
        digits = deviation.div_(self.step).round_().to(torch.int16)
        high = (digits + 64) >> 7
        self.low = digits.sub_(high << 7).to(torch.int8)
        self.high = high.to(torch.int8)

    def times(self, block: Tensor, rows: slice = slice(None)) -> Tensor:
        high = torch._int_mm(self.high[:, rows].contiguous(), block).to(self.dtype)
        return high.mul_(128).add_(torch._int_mm(self.low[:, rows].contiguous(), block))

    def finish(self, total: Tensor, degree: Tensor) -> Tensor:
        return torch.addcmul(self.mean * degree, total, self.step)


class CentredBfloat16:
    """One bfloat16 product of the centred factor."""

    block_dtype = torch.bfloat16

    def __init__(self, h: Tensor) -> None:
        self.dtype = h.dtype
        self.mean = h.mean(-1, keepdim=True)
        self.deviation = (h - self.mean).to(torch.bfloat16)

    def times(self, block: Tensor, rows: slice = slice(None)) -> Tensor:
        return (self.deviation[:, rows] @ block).to(self.dtype)

    def finish(self, total: Tensor, degree: Tensor) -> Tensor:
        return torch.addcmul(total, self.mean, degree)


PRECISIONS: dict[str, type[Operand]] = {
    "float32": Float32,
    "int8": FixedPoint,
    "bfloat16": CentredBfloat16,
}


def seconds(precision: str, *, size: int = 2048, columns: int = 512, repeats: int = 4) -> float:
    """Return the least time of one product ``(columns, size) @ (size, size)`` in `precision`, rounding included.

    The time is that of this thread alone, so that other programs disturb it little.
    """
    h = torch.linspace(-1, 1, columns * size).reshape(columns, size)
    bits = (torch.arange(size * size).reshape(size, size) * 2654435761 >> 16) & 1
    degree = bits.sum(0).to(h.dtype)
    kind = PRECISIONS[precision]
    block = bits.to(kind(h[:1]).block_dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        start = time.thread_time()
        operand = kind(h)
        operand.finish(operand.times(block), degree)
        best = min(best, time.thread_time() - start)
    return best


@cache
def fastest_precision(device: str = "cpu") -> str:
    """Return ``"int8"`` where the processor multiplies it at least 1.25 times as fast as float32, else ``"float32"``.

    bfloat16 is never chosen: with vector or matrix units it costs what the two int8 digits cost and is a hundred
    times less accurate. Off the CPU, and where torch lacks the integer product, the answer is float32.
    """
    if torch.device(device).type != "cpu" or not hasattr(torch, "_int_mm"):
        return "float32"
    return "int8" if 1.25 * seconds("int8") < seconds("float32") else "float32"
