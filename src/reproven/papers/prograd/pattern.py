"""Activation patterns: which linear piece of every piecewise-linear function a point lies on.

The part of a network behind the edited layer is piecewise linear. With the piece of each unit held fixed (the
reference pattern, Definition 3.3: ``x = diag(1[z_ref > 0]) z``) it is affine in the edited weights, and equals the
network wherever every pre-activation stays inside its piece (the condition phi). `Recorder` runs a network once and
notes the pieces of what depends on the edited layer; `Replay` runs it with these pieces.

Both are function modes of torch: they see every call, from modules or from functions, so that networks need not be
written in any particular way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Linear in their tensor argument (a product only with a constant, which `_check_linear` sees to).
LINEAR = frozenset(
    """add sub rsub neg linear conv1d conv2d conv3d batch_norm avg_pool1d avg_pool2d adaptive_avg_pool1d
    adaptive_avg_pool2d _adaptive_avg_pool2d mean sum flatten unflatten view reshape transpose permute contiguous cat
    stack squeeze unsqueeze chunk split getitem narrow pad dropout dropout1d dropout2d clone to type double float
    matmul mul div true_divide __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __neg__ __mul__ __rmul__
    __matmul__ __truediv__ __getitem__ add_ sub_ mul_ div_ select index_select expand roll flip t mv mm bmm addmm
    einsum movedim""".split()  # noqa: SIM905 - a table of words
)
PRODUCTS = frozenset(
    """linear conv1d conv2d conv3d matmul mul div true_divide __mul__ __rmul__ __matmul__ __truediv__ mul_ div_ mv mm
    bmm addmm einsum""".split()  # noqa: SIM905
)
CHANNELWISE = frozenset(
    """batch_norm relu relu6 hardtanh leaky_relu avg_pool2d adaptive_avg_pool2d dropout flatten mean clone contiguous
    silu hardswish add __add__ __iadd__ add_""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Piece:
    """One piece of a function applied entry by entry: ``slope z + offset`` while ``low <= z <= high``.

    slope, offset, low, high: as z, (points, ...).
    """

    slope: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor

    def apply(self, z: Tensor) -> Tensor:
        return self.slope * z + self.offset

    def quantity(self, z: Tensor) -> Tensor:
        """Return what must stay in [low, high], (points, units)."""
        return z.flatten(1)


@dataclass(frozen=True)
class MaxPiece:
    """Max pooling with the winner of every window fixed, while no other entry of the window exceeds it.

    index: (points, channels, windows), position of the winner in the flattened plane.
    members: (windows, k), positions of all entries of each window.
    size: height and width of the result.
    """

    index: Tensor
    members: Tensor
    size: tuple[int, int]

    def apply(self, z: Tensor) -> Tensor:
        flat = z.flatten(2)
        return flat.gather(2, self.index).reshape(*flat.shape[:2], *self.size)

    def quantity(self, z: Tensor) -> Tensor:
        """Return winner less member, (points, channels * windows * k), which must not be negative."""
        flat = z.flatten(2)
        return (flat.gather(2, self.index)[..., None] - flat[:, :, self.members]).flatten(1)


def clip_piece(z: Tensor, knots: tuple[float, ...], slopes: tuple[float, ...]) -> Piece:
    """Return the pieces that entries of z lie on, of a continuous function that is 0, or its first knot, below it.

    knots: where the slope changes, rising; slopes: one more than knots. An entry on a knot belongs to the piece
    below it, as autograd has it for ReLU.
    """
    edges = torch.tensor((-math.inf, *knots, math.inf), dtype=z.dtype, device=z.device)
    which = torch.bucketize(z.detach().contiguous(), edges[1:-1].contiguous())
    slope = torch.tensor(slopes, dtype=z.dtype, device=z.device)
    # offsets make the pieces meet at the knots; the value at the first knot is given by the slope below it
    offsets = [0.0 if slopes[0] else knots[0]]
    for knot, below, above in zip(knots, slopes, slopes[1:]):
        offsets.append(offsets[-1] + (below - above) * knot)
    offset = torch.tensor(offsets, dtype=z.dtype, device=z.device)
    return Piece(slope[which], offset[which], edges[which], edges[which + 1])


def _relu(z: Tensor, args: tuple, kwargs: dict) -> Piece:
    return clip_piece(z, (0.0,), (0.0, 1.0))


def _relu6(z: Tensor, args: tuple, kwargs: dict) -> Piece:
    return clip_piece(z, (0.0, 6.0), (0.0, 1.0, 0.0))


def _leaky(z: Tensor, args: tuple, kwargs: dict) -> Piece:
    slope = args[0] if args else kwargs.get("negative_slope", 0.01)
    return clip_piece(z, (0.0,), (float(slope), 1.0))


def _hardtanh(z: Tensor, args: tuple, kwargs: dict) -> Piece:
    low = float(args[0] if args else kwargs.get("min_val", -1.0))
    high = float(args[1] if len(args) > 1 else kwargs.get("max_val", 1.0))
    return clip_piece(z, (low, high), (0.0, 1.0, 0.0))


def _max_pool(z: Tensor, args: tuple, kwargs: dict) -> MaxPiece:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given = {**dict(zip(names, args)), **{k: v for k, v in kwargs.items() if k in names}}
    kernel, stride = _pair(given["kernel_size"]), _pair(given.get("stride") or given["kernel_size"])
    if _pair(given.get("padding", 0)) != (0, 0) or _pair(given.get("dilation", 1)) != (1, 1):
        raise ValueError("max pooling with padding or dilation behind the edited layer: edit a later layer")
    value, index = F.max_pool2d(z.detach(), kernel, stride, return_indices=True)
    positions = torch.arange(z.shape[2] * z.shape[3], dtype=torch.float64).reshape(1, 1, *z.shape[2:])
    members = F.unfold(positions, kernel, stride=stride)[0].T.round().long()
    return MaxPiece(index.flatten(2), members.to(z.device), (value.shape[2], value.shape[3]))


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


PIECES: dict[str, Callable[[Tensor, tuple, dict], Piece | MaxPiece]] = {
    "relu": _relu,
    "relu_": _relu,
    "relu6": _relu6,
    "leaky_relu": _leaky,
    "leaky_relu_": _leaky,
    "hardtanh": _hardtanh,
    "hardtanh_": _hardtanh,
    "max_pool2d": _max_pool,
    "max_pool2d_with_indices": _max_pool,
    "_max_pool2d": _max_pool,
}


class Recorder(TorchFunctionMode):
    """Notes the piece of every piecewise-linear call whose argument requires a gradient, in order.

    pieces: one entry a call; None where the argument depends on no edited weight.
    smooth: let other functions of edited weights pass (pinned edits need no linear tail).
    constants: addresses of the network's parameters and buffers, which may be factors.
    calls: names of all calls, for those who ask what lies between two layers.
    """

    def __init__(self, layer: str, smooth: bool = False, constants: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.layer, self.smooth, self.constants = layer, smooth, constants
        self.pieces: list[Piece | MaxPiece | None] = []
        self.calls: list[str] = []
        self.marks: dict[str, int] = {}

    def mark(self, name: str) -> None:
        """Note how many calls there were when a place was passed."""
        self.marks[name] = len(self.calls)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if name in PIECES:
            return self._piecewise(func, name, args, kwargs)
        result = func(*args, **kwargs)
        if _dependent(result):
            self._check_linear(name, args, kwargs)
        if isinstance(result, Tensor) and name != "__get__":
            self.calls.append(name)
        return result

    def _piecewise(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        z = args[0] if args else kwargs["input"]
        self.calls.append(name)
        if self.smooth or not z.requires_grad:
            self.pieces.append(None)
            return func(*args, **_out_of_place(kwargs))
        piece = PIECES[name](z, args[1:], kwargs)
        self.pieces.append(piece)
        return piece.apply(z)

    def _check_linear(self, name: str, args: tuple, kwargs: dict) -> None:
        if self.smooth:
            return
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        if name not in LINEAR or (name == "batch_norm" and kwargs.get("training", False)):
            raise ValueError(
                f"{name} behind layer {self.layer!r} is neither linear nor piecewise linear: "
                "edit a layer behind it, or pin the layer's values (pin=True)"
            )
        factors = tensors[:2] if name in PRODUCTS else []
        if len(factors) < 2:
            return
        if factors[0].requires_grad and factors[1].requires_grad:
            raise ValueError(
                f"{name} multiplies two values that depend on layer {self.layer!r}: edit one at a time"
            )
        other = factors[1] if factors[0].requires_grad else factors[0]
        if factors[0].requires_grad or factors[1].requires_grad:
            self._check_constant(name, other)

    def _check_constant(self, name: str, factor: Tensor) -> None:
        if factor.dim() and factor.data_ptr() not in self.constants:
            raise ValueError(
                f"{name} behind layer {self.layer!r} multiplies by a value computed from the input (a gate): "
                "edit a layer behind it, or pin the layer's values (pin=True)"
            )


class Replay(TorchFunctionMode):
    """Runs a network on recorded pieces and keeps the quantities that the condition speaks of."""

    def __init__(self, pieces: list[Piece | MaxPiece | None]) -> None:
        super().__init__()
        self.pieces, self.next = pieces, 0
        self.quantities: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") not in PIECES:
            return func(*args, **kwargs)
        piece = self.pieces[self.next]
        self.next += 1
        if piece is None:
            return func(*args, **_out_of_place(kwargs))
        z = args[0] if args else kwargs["input"]
        self.quantities.append(piece.quantity(z))
        return piece.apply(z)


def bounds(pieces: list[Piece | MaxPiece | None]) -> tuple[Tensor, Tensor]:
    """Return what the quantities must lie between, each (points, quantities)."""
    low, high = [], []
    for piece in pieces:
        if isinstance(piece, Piece):
            low.append(piece.low.flatten(1))
            high.append(piece.high.flatten(1))
        elif isinstance(piece, MaxPiece):
            shape = (piece.index.shape[0], piece.index[0].numel() * piece.members.shape[1])
            low.append(torch.zeros(shape, dtype=torch.float64, device=piece.index.device))
            high.append(torch.full(shape, math.inf, dtype=torch.float64, device=piece.index.device))
    if not low:
        return torch.zeros(0), torch.zeros(0)
    return torch.cat(low, 1), torch.cat(high, 1)


def _dependent(result: Any) -> bool:
    if isinstance(result, Tensor):
        return result.requires_grad
    return isinstance(result, tuple | list) and any(_dependent(r) for r in result)


def _out_of_place(kwargs: dict) -> dict:
    return {**kwargs, "inplace": False} if kwargs.get("inplace") else kwargs
