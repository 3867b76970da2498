"""Neuron and channel splitting: the wide network and the linear map T (Defs 4.6 and 4.10)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from reproven.papers.embedding.structure import CONV, Path, find_path, module_named, units_of

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class AxisMap:
    """One axis of a parameter: wide entry ``i`` is ``scale[i]`` times narrow entry ``index[i]``.

    index: (wide,) int64. scale: (wide,), or (pairs, wide) in a stack of pairs.
    """

    index: Tensor
    scale: Tensor

    def then(self, other: AxisMap) -> AxisMap:
        """Return the map "first self, then other" of the same axis."""
        return AxisMap(self.index[other.index], self.scale[..., other.index] * other.scale)


@dataclass(frozen=True)
class Embedding:
    """The linear map ``T: R^m -> R^m~`` from narrow to wide parameters; gradients and moments map alike.

    ``T(theta)[name] = scale * theta[name][index]`` along each axis in ``axes[name]``; others are copied.
    tau: the factor in ``d Phi~(T theta) = tau T d Phi(theta)``; 1 for splits of 1-homogeneous units.
    """

    axes: Mapping[str, Mapping[int, AxisMap]] = field(default_factory=dict)
    tau: float = 1.0

    def __call__(self, tensors: Tensors) -> dict[str, Tensor]:
        """Return ``T`` of tensors keyed by parameter name (parameters, gradients or first moments)."""
        return {name: self._apply(name, value) for name, value in tensors.items()}

    def _apply(self, name: str, value: Tensor) -> Tensor:
        for axis, along in self.axes.get(name, {}).items():
            shape = [1] * value.ndim
            shape[axis] = -1
            scale = along.scale.to(value).view(shape)
            value = value.index_select(axis, along.index.to(value.device)) * scale
        return value.clone() if name not in self.axes else value

    def then(self, other: Embedding) -> Embedding:
        """Return the composition ``other o self`` (Prop. 4.4, Remark 4.9)."""
        axes = {name: dict(maps) for name, maps in self.axes.items()}
        for name, maps in other.axes.items():
            mine = axes.setdefault(name, {})
            for axis, along in maps.items():
                mine[axis] = mine[axis].then(along) if axis in mine else along
        return Embedding(axes, self.tau * other.tau)

    def power(self, exponent: float) -> Embedding:
        """Return the map with scales raised to `exponent`; 2 carries second moments (Adam, RMSprop)."""
        axes = {
            name: {axis: AxisMap(m.index, m.scale**exponent) for axis, m in maps.items()}
            for name, maps in self.axes.items()
        }
        return Embedding(axes, self.tau)

    def coefficients(self, narrow: Tensors) -> dict[str, Tensor]:
        """Return ``s = T(1)``: the product of the coefficients that scale each wide entry."""
        return self({name: torch.ones_like(value) for name, value in narrow.items()})


FIRST_MOMENTS = ("momentum_buffer", "exp_avg")
SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum")


def embed_optimiser_state(
    embedding: Embedding, narrow: nn.Module, wide: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[Tensor, dict]:
    """Return the state that the wide optimiser must start from: first moments by T, second moments by T^2.

    optimiser: of the narrow model. Use as ``wide_optimiser.state.update(...)``.
    """
    parameters = dict(narrow.named_parameters())
    squared, targets = embedding.power(2), dict(wide.named_parameters())
    state: dict[Tensor, dict] = {}
    for name, parameter in parameters.items():
        if parameter not in optimiser.state:
            continue
        entry = {}
        for key, value in optimiser.state[parameter].items():
            if key in FIRST_MOMENTS and value is not None:
                entry[key] = embedding({name: value})[name]
            elif key in SECOND_MOMENTS:
                entry[key] = squared({name: value})[name]
            else:
                entry[key] = value.clone() if isinstance(value, Tensor) else value
        state[targets[name]] = entry
    return state


def split(
    model: nn.Module,
    layer: str,
    unit: int | Sequence[int],
    coefficients: Sequence[float] | Sequence[Sequence[float]],
) -> tuple[nn.Module, Embedding]:
    """Split hidden unit(s) of `layer` into copies whose ingoing and outgoing weights are both scaled by c_i.

    ``W^(k)[j] -> (c_i W^(k)[j])_i``, ``b^(k)[j] -> (c_i b^(k)[j])_i``, ``W^(k+1)[:, j] -> (c_i W^(k+1)[:,
    j])_i``, with ``c_i >= 0`` and ``sum_i c_i^2 = 1``; nothing else changes. Copies stand next to each other.

    model: module that `torch.fx` can trace; the split layer must feed one Linear or Conv layer through
        positively 1-homogeneous activations, pooling and flatten only. It is not changed.
    layer: name of a Linear or Conv layer, as in ``model.named_modules()``.
    unit: index of the hidden unit (output feature or channel), or several distinct ones.
    coefficients: c_1..c_ms for one unit, or one such list a unit.
    Returns the wide model (own storage) and the map T. Compose with ``first.then(second)`` for iterated
    splits.
    Raises ValueError where the principle does not apply, saying why. Source: Def. 4.6 (fully connected),
    Def. 4.10 (channels), Thms 4.8 and 4.11; biases and pooling: reconstructed.

    >>> wide, T = split(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), "0", 1, [0.6, 0.8])
    >>> wide[0].out_features
    4
    """
    path = find_path(model, layer)
    units = [unit] if isinstance(unit, int) else _listed(unit, "unit", "an index or a list of indices")
    if any(isinstance(j, bool) or not isinstance(j, int) for j in units):
        raise ValueError(f"unit={unit!r} must be an index or a list of indices")
    given = _listed(coefficients, "coefficients", "a list of numbers, or one such list a unit")
    rows = [given] if isinstance(unit, int) else given
    if len(rows) != len(units):
        raise ValueError(f"{len(units)} units need {len(units)} lists of coefficients, not {len(rows)}")
    width = units_of(module_named(model, layer))
    if len(set(units)) != len(units):
        raise ValueError(f"units {units} are not distinct")
    chosen: dict[int, Sequence[float]] = {}
    for j, c in zip(units, rows, strict=True):
        if not 0 <= j < width:
            raise ValueError(f"unit {j} is out of range: layer {layer!r} has units 0 to {width - 1}")
        check_coefficients(c)
        chosen[j] = c
    index = [j for j in range(width) for _ in chosen.get(j, [1.0])]
    scale = [c for j in range(width) for c in chosen.get(j, [1.0])]
    return widen(model, path, index, scale, scale)


def _listed(value: Any, name: str, what: str) -> list[Any]:
    """Return `value` as a list; ValueError where it is none."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name}={value!r} must be {what}")
    return list(value)


def check_coefficients(coefficients: Sequence[float]) -> None:
    """Raise ValueError unless every c_i >= 0 and sum c_i^2 = 1 (to 1e-12)."""
    coefficients = _listed(coefficients, "coefficients", "a list of numbers, one list a unit")
    if not all(isinstance(c, Real) for c in coefficients):
        raise ValueError(f"coefficients {coefficients} must be numbers")
    if not len(coefficients):
        raise ValueError("no coefficients given: a unit must be split into at least one copy")
    if not all(math.isfinite(c) and c >= 0 for c in coefficients):
        raise ValueError(
            f"coefficients {list(coefficients)} must be finite and >= 0: a negative scale does not pass "
            "through a positively 1-homogeneous activation"
        )
    squares = math.fsum(c * c for c in coefficients)
    if squares == 0:
        raise ValueError(f"coefficients {list(coefficients)} are all zero: their squares must sum to 1")
    if abs(squares - 1) > 1e-12:
        raise ValueError(
            f"squares of the coefficients {list(coefficients)} sum to {squares:.6g}, not to 1: "
            f"divide each by {math.sqrt(squares):.6g}"
        )


def widen(
    model: nn.Module, path: Path, index: Sequence[int], incoming: Sequence[float], outgoing: Sequence[float]
) -> tuple[nn.Module, Embedding]:
    """Return the wide model whose unit i is unit ``index[i]`` scaled by ``incoming[i]``, ``outgoing[i]``.

    The one primitive behind `split` and its comparators; it checks nothing about the scales.
    """
    weight = next(model.parameters())
    rows = AxisMap(torch.as_tensor(index), torch.as_tensor(incoming, dtype=torch.float64))
    out = torch.as_tensor(outgoing, dtype=torch.float64)
    group = torch.arange(path.group)
    columns = AxisMap(
        (rows.index[:, None] * path.group + group).reshape(-1),
        out[:, None].expand(-1, path.group).reshape(-1),
    )
    axes = {f"{path.producer}.weight": {0: rows}, f"{path.consumer}.weight": {1: columns}}
    if module_named(model, path.producer).bias is not None:
        axes[f"{path.producer}.bias"] = {0: rows}
    embedding = Embedding(axes)
    wide = copy.deepcopy(model)
    _resize(module_named(wide, path.producer), outputs=len(rows.index))
    _resize(module_named(wide, path.consumer), inputs=len(columns.index))
    with torch.no_grad():
        for name, value in embedding(dict(model.named_parameters())).items():
            _replace(wide, name, value.detach().to(weight.device))
    return wide, embedding


def random_coefficients(copies: int, generator: torch.Generator) -> list[float]:
    """Return ``copies`` coefficients, uniform on the positive part of the unit sphere."""
    c = torch.randn(copies, generator=generator, dtype=torch.float64).abs()
    return (c / c.norm()).tolist()


def split_layer(
    model: nn.Module, layer: str, coefficients: Sequence[Sequence[float]]
) -> tuple[nn.Module, Embedding]:
    """Split every unit of `layer`, unit j by ``coefficients[j]``."""
    return split(model, layer, range(units_of(module_named(model, layer))), coefficients)


def _resize(layer: nn.Module, *, outputs: int | None = None, inputs: int | None = None) -> None:
    kind = "channels" if isinstance(layer, CONV) else "features"
    if outputs is not None:
        setattr(layer, f"out_{kind}", outputs)
    if inputs is not None:
        setattr(layer, f"in_{kind}", inputs)


def _replace(model: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    old = model.get_submodule(owner).get_parameter(leaf)
    setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=old.requires_grad))
