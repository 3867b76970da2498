"""Broken twins: what goes wrong in practice, to be told apart by the checks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from reproven.papers.pooling.base import check
from reproven.papers.pooling.fixed import Avg, Last, Max


@dataclass(frozen=True)
class UnmaskedAvg(Avg):
    """Avg that takes padding for tokens: the mean is diluted by the padded places."""

    def ensemble(self, tokens, mask=None, parameters=None) -> Tensor:
        """Pool without the mask."""
        check(tokens, mask)
        return super().ensemble(tokens)


@dataclass(frozen=True)
class UnmaskedMax(Max):
    """Max that takes padding for tokens: zeros win wherever a channel is negative."""

    def ensemble(self, tokens, mask=None, parameters=None) -> Tensor:
        """Pool without the mask."""
        check(tokens, mask)
        return super().ensemble(tokens)


@dataclass(frozen=True)
class UnmaskedLast(Last):
    """Last that takes the raw last slot, which is padding under right padding."""

    def ensemble(self, tokens, mask=None, parameters=None) -> Tensor:
        """Pool without the mask."""
        check(tokens, mask)
        return super().ensemble(tokens)
