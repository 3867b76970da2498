"""The one interface of all poolings: ``(tokens (batch, n, d), mask (batch, n)) -> (batch, d')``.

A pooling is a frozen record of its settings. Learned ones keep their parameters outside, in a dictionary, so that many
copies (seeds, learning rates) are trained as one batch: with ``copies`` in front of every parameter, `ensemble` pools
the same tokens once for all of them. The mask says which tokens are real; where they lie (left or right padding, or
holes) must not change the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Parameters = Mapping[str, Tensor]
NORMS = ("frobenius", "operator")


@dataclass(frozen=True)
class Pooling:
    """Base of all poolings. Subclasses say `_pool`, and where they have them `parameters`, `width`, `lipschitz`."""

    def __call__(
        self, tokens: Tensor, mask: Tensor | None = None, parameters: Parameters | None = None
    ) -> Tensor:
        """Return the pooled vectors (batch, d').

        tokens: (batch, n, d), floating, n >= 1; values at padded places must be finite and are ignored.
        mask: (batch, n), True where a token is real; None means all are.
        parameters: what `parameters` made; None for poolings that learn nothing.
        ValueError: n = 0, no real token in a row, or a mask of another shape.
        """
        return self.ensemble(tokens, mask, {k: v[None] for k, v in (parameters or {}).items()})[0]

    def ensemble(
        self, tokens: Tensor, mask: Tensor | None = None, parameters: Parameters | None = None
    ) -> Tensor:
        """Return (copies, batch, d') for parameters with a leading axis ``copies``; one copy without any."""
        mask = check(tokens, mask)
        given = dict(parameters or {})
        if self.learns and not given:
            raise ValueError(
                f"{type(self).__name__} learns; give parameters, e.g. from .parameters(d, n, generator)"
            )
        return self._pool(tokens, mask, given)

    @property
    def learns(self) -> bool:
        """Tell whether this pooling has parameters."""
        return type(self).parameters is not Pooling.parameters

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return fresh parameters for tokens of width `d`, at most `n` of them; none by default."""
        return {}

    def width(self, d: int) -> int:
        """Return d', the width of the pooled vector."""
        return d

    def lipschitz(
        self,
        n: int,
        d: int,
        norm: str = "frobenius",
        parameters: Parameters | None = None,
        radius: float | None = None,
    ) -> float | None:
        """Return L with ``|g(Z) - g(Z')|_2 <= L |Z - Z'|``, in the Frobenius or the operator norm of the (n, d) change.

        parameters: of learned poolings; radius: bound on the row norms of Z and Z', where L depends on them.
        None where no constant is known.
        """
        _norm(norm)
        return None

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        raise NotImplementedError


class PoolingLayer(nn.Module):
    """A pooling as a torch module with its parameters registered: ``layer(tokens, mask) -> (batch, d')``."""

    def __init__(self, pooling: Pooling, d: int, n: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.pooling = pooling
        made = pooling.parameters(d, n, generator or torch.Generator().manual_seed(0))
        self.values = nn.ParameterDict({k: nn.Parameter(v) for k, v in made.items()})

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool; see `Pooling.__call__`."""
        return self.pooling(tokens, mask, dict(self.values.items()))


def check(tokens: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask as bool, or None where every token is real; ValueError with the remedy on bad input."""
    if tokens.ndim != 3 or not tokens.is_floating_point():
        raise ValueError(
            f"tokens must be floating (batch, n, d), not {tokens.dtype} {tuple(tokens.shape)}; add a batch axis?"
        )
    if tokens.shape[1] == 0:
        raise ValueError("n = 0: there is no token to pool; drop empty inputs first")
    if mask is None:
        return None
    if mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"mask {tuple(mask.shape)} does not fit tokens {tuple(tokens.shape)}; it must be (batch, n)"
        )
    mask = mask.bool()
    counts = mask.sum(dim=1)
    if bool((counts == 0).any()):
        row = int((counts == 0).nonzero()[0])
        raise ValueError(f"row {row} has no real token (its mask is all False); drop it before pooling")
    return None if bool((counts == mask.shape[1]).all()) else mask


def lengths(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return how many real tokens each row has, (batch,), in the dtype of `tokens`."""
    if mask is None:
        return tokens.new_full((tokens.shape[0],), tokens.shape[1])
    return mask.sum(dim=1).to(tokens.dtype)


def ranks(tokens: Tensor, mask: Tensor | None, align: str) -> Tensor:
    """Return the place of every real token, (batch, n), int64, padded places 0.

    align: ``start`` counts from the first real token, ``end`` from the last one backwards, ``slot`` is the raw index
    in the padded array (which left and right padding change).
    """
    n = tokens.shape[1]
    slots = torch.arange(n, device=tokens.device)
    if align not in ("start", "end", "slot"):
        raise ValueError(f"align {align!r} is not one of start, end, slot")
    if mask is None or align == "slot":
        return (slots.flip(0) if align == "end" else slots).expand(tokens.shape[:2])
    counted = mask.long().cumsum(dim=1)
    place = counted - 1 if align == "start" else counted[:, -1:] - counted
    return place.masked_fill(~mask, 0)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax over the last axis; scores (batch, ..., n), padded places get weight 0."""
    if mask is not None:
        shape = (mask.shape[0], *([1] * (scores.ndim - 2)), mask.shape[1])
        scores = scores.masked_fill(~mask.view(shape), -torch.inf)
    return scores.softmax(dim=-1)


def _norm(norm: str) -> str:
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is not one of {', '.join(NORMS)}")
    return norm
