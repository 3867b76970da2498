"""An attention function for transformers' registry that looks at logits and changes their scale, and stores no map.

`transformers` calls the attention function that a model's configuration names. The one registered here
(`NAME`) hands each layer's queries and keys to whoever listens, asks for logit factors, and returns what scaled
dot-product attention returns. Logits are recomputed only for the rows that a listener wants, so that no attention
map is ever held.

Logits are at native scale: scaling, soft-capping, additive masks (ALiBi and the like) and T5's position bias
included; grouped key-value heads are expanded row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reproven.harness.errors import UserError

NAME = "critical_scaling"
ROWS_AT_A_TIME = 256  # of the softmax that rules by rows need


@dataclass(frozen=True)
class Call:
    """What one attention layer was called with.

    layer: number of the layer in the order of the pass. query: (batch, heads, q, d); key: (batch, kv heads, k, d).
    mask: None, boolean (True: attend) or additive, broadcastable to (batch, heads, q, k). causal: keys after the
    query's own position are masked although `mask` is None.
    """

    layer: int
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float
    causal: bool
    softcap: float | None = None
    bias: Tensor | None = None

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.query.shape[1]

    def reach_of(self, rows: Tensor) -> Tensor:
        """Return behind which key each query position of `rows` sees none, by its place; a mask may say more."""
        total, queries = self.key.shape[2], self.query.shape[2]
        return (rows + 1 + total - queries).clamp(max=total) if self.causal else torch.full_like(rows, total)

    def keys_of(self, rows: Tensor) -> Tensor:
        """Return how many keys each query position of `rows` has, the most in the batch where padding differs."""
        if self.mask is None:
            return self.reach_of(rows)
        part = self.mask if self.mask.shape[2] == 1 else self.mask[:, :, rows.to(self.mask.device)]
        seen = part if part.dtype == torch.bool else part > torch.finfo(part.dtype).min / 2
        return seen.sum(dim=-1).amax(dim=(0, 1)).expand(len(rows)).to(rows.device)

    def logits(self, rows: Tensor, keys: int | Tensor | None = None) -> Tensor:
        """Return native logits of query positions `rows`, (batch, heads, rows, keys), -inf where masked.

        In single precision where the model's is half: gaps near the top are smaller than bfloat16's steps.

        keys: the first so many (an integer) or these (positions); None for all.
        """
        chosen = slice(keys) if keys is None or isinstance(keys, int) else keys
        k = _at_least_single(self.key[:, :, chosen])
        groups = self.heads // k.shape[1]
        q = _at_least_single(self.query[:, :, rows]) * self.scaling
        batch, _, count, width = q.shape
        s = torch.matmul(q.reshape(batch, k.shape[1], groups * count, width), k.transpose(2, 3))
        s = s.reshape(batch, self.heads, count, k.shape[2])
        if self.softcap is not None:
            s = torch.tanh(s / self.softcap) * self.softcap
        if self.bias is not None:
            s = s + self._part(self.bias, rows, chosen)
        if self.mask is not None:
            part = self._part(self.mask, rows, chosen)
            return s.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else s + part
        if self.causal and len(rows):
            place = torch.arange(self.key.shape[2], device=s.device)[chosen]
            s = s.masked_fill(place[None, :] >= self.reach_of(rows)[:, None].to(s.device), -torch.inf)
        return s

    @staticmethod
    def _part(full: Tensor, rows: Tensor, keys: Any) -> Tensor:
        part = full if full.shape[2] == 1 else full[:, :, rows]
        return part if full.shape[3] == 1 else part[:, :, :, keys]


class Listener(Protocol):
    """Sees every call before attention is computed."""

    def see(self, call: Call) -> None:
        """Take what it wants from the call; tensors are the model's own and are not to be changed or kept."""


class Scaler(Protocol):
    """Returns logit factors of a layer. `by_rows`: they depend on the logits themselves."""

    @property
    def by_rows(self) -> bool:
        """Whether factors depend on the logits."""

    def factors(self, call: Call) -> Tensor | None:
        """Return factors by place, (heads or 1, q), or None for all ones; asked when `by_rows` is False."""

    def row_factors(self, call: Call, logits: Tensor) -> Tensor:
        """Return factors, (batch, heads, rows), of rows of native logits; asked when `by_rows` is True."""


@dataclass
class _Session:
    """What listens to the pass that runs now."""

    listener: Listener | None
    scaler: Scaler | None
    layers: dict[int, int] = field(default_factory=dict)

    def layer_of(self, module: nn.Module) -> int:
        return self.layers.setdefault(id(module), len(self.layers))


_sessions: list[_Session] = []


@contextmanager
def attending(
    model: nn.Module, *, listener: Listener | None = None, scaler: Scaler | None = None
) -> Iterator[None]:
    """Route a Hugging Face model's attention through this module while the block runs; restored afterwards.

    UserError where the model does not go through transformers' attention registry.
    """
    setter = getattr(model, "set_attn_implementation", None)
    can = getattr(model, "_can_set_attn_implementation", lambda: False)
    if setter is None or not can():
        raise UserError(
            f"{type(model).__name__} has no attention hook: it must be a transformers model that uses "
            "AttentionInterface (T5, BLOOM and other older classes do not)"
        )
    _register()
    config: Any = model.config
    before = config._attn_implementation
    setter(NAME)
    session = _Session(listener, scaler)
    _sessions.append(session)
    try:
        yield
        if not session.layers:
            raise UserError(
                f"{type(model).__name__} never called the registered attention: nothing was measured"
            )
    finally:
        _sessions.remove(session)
        setter(before)


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **passed_on: Any,  # transformers hands every attention function what its models know
) -> tuple[Tensor, None]:
    session = _sessions[-1] if _sessions else _Session(None, None)
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    call = Call(
        session.layer_of(module),
        query,
        key,
        attention_mask,
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal and attention_mask is None and query.shape[2] > 1,
        softcap,
        position_bias,
    )
    if session.listener is not None:
        session.listener.see(call)
    scaler = session.scaler
    if softcap is not None or (scaler is not None and scaler.by_rows):
        return _by_rows(call, value, scaler).transpose(1, 2).contiguous(), None
    factor = None if scaler is None else scaler.factors(call)
    mask, bias = attention_mask, position_bias
    if factor is not None:
        factor = factor.to(query)[None, :, :, None]
        query, mask, bias = query * factor, _scaled(mask, factor), None if bias is None else bias * factor
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(
        module,
        query,
        key,
        value,
        mask,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        position_bias=bias,
    )


def _at_least_single(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _scaled(mask: Tensor | None, factor: Tensor) -> Tensor | None:
    """Scale the finite biases of an additive mask; what masks a key stays as it is."""
    if mask is None or mask.dtype == torch.bool:
        return mask
    return torch.where(mask > torch.finfo(mask.dtype).min / 2, mask * factor, mask)


def _by_rows(call: Call, value: Tensor, scaler: Scaler | None) -> Tensor:
    """Attention from explicit logits, some rows at a time: (batch, heads, q, d)."""
    groups = call.heads // value.shape[1]
    v = value.repeat_interleave(groups, dim=1) if groups > 1 else value
    parts = []
    for rows in torch.arange(call.query.shape[2], device=call.query.device).split(ROWS_AT_A_TIME):
        reach = int(call.reach_of(rows).max())
        s = call.logits(rows, reach)
        if scaler is not None and scaler.by_rows:
            s = s * scaler.row_factors(call, s)[..., None].to(s)
        elif scaler is not None and (factor := scaler.factors(call)) is not None:
            s = s * factor.to(s)[None, :, rows, None]
        parts.append(torch.softmax(s, dim=-1).to(v) @ v[:, :, :reach])
    return torch.cat(parts, dim=2)
