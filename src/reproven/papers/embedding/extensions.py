"""Splits that the paper leaves open: attention coordinates, and gated units with tau = m^(-1/3)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reproven.papers.embedding.splitting import AxisMap, Embedding, check_coefficients
from reproven.papers.embedding.structure import module_named


class SelfAttention(nn.Module):
    """Multi-head softmax attention whose scale is fixed at birth, so that widening a head keeps it.

    ``y = x + concat_h(softmax(scale Q_h K_h^T) V_h) O``; x has shape (batch, tokens, width).
    """

    def __init__(self, width: int, heads: int, qk: int, vo: int, dtype: torch.dtype = torch.float64) -> None:
        """Store the shapes: `heads` heads with `qk` query-key and `vo` value-output coordinates each."""
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(qk)
        self.q, self.k = (nn.Linear(width, heads * qk, bias=False, dtype=dtype) for _ in range(2))
        self.v = nn.Linear(width, heads * vo, bias=False, dtype=dtype)
        self.o = nn.Linear(heads * vo, width, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream after one attention layer, (batch, tokens, width)."""
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        weights = torch.softmax(self.scale * q @ k.transpose(-1, -2), dim=-1)
        return x + self.o((weights @ v).transpose(1, 2).flatten(2))


def split_attention(
    model: nn.Module, layer: str, pair: str, coordinate: int, coefficients: Sequence[float]
) -> tuple[nn.Module, Embedding]:
    """Split one q/k or v/o coordinate of every head (reconstructed; dossier C12).

    q/k: rows of W_q and W_k become ``c_i`` times the row, so scores are kept (``sum c_i^2 q_j k_j``); v/o:
    rows of W_v and columns of W_o. The softmax scale keeps its old value.

    layer: name of a `SelfAttention` in `model` (``""`` for the model itself). pair: ``"qk"`` or ``"vo"``.
    """
    attention = module_named(model, layer)
    if not isinstance(attention, SelfAttention):
        raise ValueError(f"layer {layer!r} is a {type(attention).__name__}, not a SelfAttention")
    if pair not in ("qk", "vo"):
        raise ValueError(f"pair {pair!r} is not 'qk' or 'vo'")
    check_coefficients(coefficients)
    size = (attention.q if pair == "qk" else attention.v).out_features // attention.heads
    if not 0 <= coordinate < size:
        raise ValueError(
            f"coordinate {coordinate} is out of range: a head has {pair} coordinates 0 to {size - 1}"
        )
    index, scale = [], []
    for head in range(attention.heads):
        for j in range(size):
            for c in coefficients if j == coordinate else [1.0]:
                index.append(head * size + j)
                scale.append(c)
    along = AxisMap(torch.tensor(index), torch.tensor(scale, dtype=torch.float64))
    prefix = f"{layer}." if layer else ""
    axes = {f"{prefix}{name}.weight": {1 if name == "o" else 0: along} for name in pair}
    return _widened(model, Embedding(axes))


class GatedUnits(nn.Module):
    """``sum_j o_j (a_j . x) relu(b_j . x)``: homogeneous of degree 3 (reconstructed example of tau != 1)."""

    def __init__(self, inputs: int, units: int, dtype: torch.dtype = torch.float64) -> None:
        """Store `units` gated units of `inputs` inputs and one output."""
        super().__init__()
        self.a, self.b = (nn.Linear(inputs, units, bias=False, dtype=dtype) for _ in range(2))
        self.o = nn.Linear(units, 1, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scalar output, (n, 1)."""
        return self.o(self.a(x) * torch.relu(self.b(x)))


def split_gated(model: GatedUnits, copies: int) -> tuple[nn.Module, Embedding]:
    """Split every gated unit into `copies` equal ones: ``c = m^(-1/3)`` on a, b and o (reconstructed).

    Output preserved; ``d Phi~(T theta) = tau T d Phi(theta)`` with ``tau = m^(-1/3)``; no isometry:
    ``||T theta||^2 = m^(1/3) ||theta||^2``. Gradient flow satisfies ``eta(t) = T theta(tau t)``.
    """
    if copies < 1:
        raise ValueError(f"copies={copies} must be at least 1")
    units, c = model.o.in_features, copies ** (-1 / 3)
    index = torch.arange(units).repeat_interleave(copies)
    along = AxisMap(index, torch.full((len(index),), c, dtype=torch.float64))
    axes = {"a.weight": {0: along}, "b.weight": {0: along}, "o.weight": {1: along}}
    return _widened(model, Embedding(axes, tau=c))


def _widened(model: nn.Module, embedding: Embedding) -> tuple[nn.Module, Embedding]:
    wide = copy.deepcopy(model)
    for name, value in embedding(dict(model.named_parameters())).items():
        owner, _, leaf = name.rpartition(".")
        layer = wide.get_submodule(owner)
        setattr(layer, leaf, nn.Parameter(value.detach()))
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = value.shape
    return wide, embedding
