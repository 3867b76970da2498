"""Poolings without parameters, and their Lipschitz constants (dossier 3.3 and 3.4; the paper's are Theorem 4.2)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from reproven.papers.pooling.base import Parameters, Pooling, _norm, lengths, ranks

FLOOR = 1e-6  # GeM clamps powers here, as its authors do
CACHE = 1 << 22  # numbers; more do not stay in a processor's cache, and memory is what takes the time

# Said once a process about a type that never leaves this module.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


@dataclass(frozen=True)
class Fixed(Pooling):
    """A pooling that learns nothing: subclasses define `one`, (batch, n, d), mask -> (batch, d')."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return the pooled vectors of one copy."""
        raise NotImplementedError

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        return self.one(tokens, mask)[None]


def total(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return the sum over real tokens, (batch, d)."""
    if _plain(tokens) and tokens.numel() >= CACHE:
        return _one_pass(tokens, mask, "sum")
    if mask is None:
        return tokens.sum(dim=1)
    return (mask.to(tokens.dtype)[:, None, :] @ tokens)[:, 0]


def extreme(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return the largest value of each channel over real tokens, (batch, d)."""
    if _plain(tokens) and (mask is not None or tokens.numel() >= CACHE):
        return _one_pass(tokens, mask, "amax")
    if mask is None:
        return tokens.amax(dim=1)
    return tokens.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)


def _plain(tokens: Tensor) -> bool:
    """Tell whether `_one_pass` may take these: on a processor, no gradient wanted."""
    return tokens.device.type == "cpu" and not (tokens.requires_grad and torch.is_grad_enabled())


def _one_pass(tokens: Tensor, mask: Tensor | None, reduce: str) -> Tensor:
    """Reduce over real tokens as they lie in memory, (batch, d): each is read once, padding is not read.

    A sparse matrix of ones, a row for each input, times all tokens as (batch n, d). torch's own reduction over the
    middle axis reads narrow columns instead, at a third of the memory's speed for ``amax``.
    """
    batch, n, d = tokens.shape
    if mask is None:
        ends, chosen = torch.arange(0, batch * n + 1, n), torch.arange(batch * n)
    else:
        ends = torch.nn.functional.pad(mask.sum(dim=1).cumsum(dim=0), (1, 0))
        chosen = mask.reshape(-1).nonzero()[:, 0]
    ones = torch.ones(len(chosen), dtype=tokens.dtype)
    rows = torch.sparse_csr_tensor(ends, chosen, ones, (batch, batch * n), check_invariants=False)
    return torch.sparse.mm(rows, tokens.reshape(batch * n, d), reduce)


def _selection(n: int, d: int, norm: str) -> float:
    """Return the constant of a pooling that picks one token in each channel: 1, or sqrt(min(n, d)) (Theorem 4.2)."""
    return 1.0 if _norm(norm) == "frobenius" else math.sqrt(min(n, d))


@dataclass(frozen=True)
class Avg(Fixed):
    """Mean over tokens, ``(1/n) sum_i z_i``. Lipschitz constant 1/sqrt(n) in both norms: contractive."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return total(tokens, mask) / lengths(tokens, mask)[:, None]

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        _norm(norm)
        return 1 / math.sqrt(n)


@dataclass(frozen=True)
class Sum(Fixed):
    """Sum over tokens, ``sum_i z_i``; n times Avg. Lipschitz constant sqrt(n) in both norms: expansive."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return total(tokens, mask)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        _norm(norm)
        return math.sqrt(n)


@dataclass(frozen=True)
class SqrtMean(Fixed):
    """``sum_i z_i / sqrt(n)``, half-way between Avg and Sum. Lipschitz constant 1 in both norms."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return total(tokens, mask) / lengths(tokens, mask).sqrt()[:, None]

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        _norm(norm)
        return 1.0


@dataclass(frozen=True)
class Max(Fixed):
    """Largest value of each channel. Lipschitz: sqrt(min(n, d)) in the operator norm (Theorem 4.2), 1 in Frobenius'."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return extreme(tokens, mask)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        return _selection(n, d, norm)


@dataclass(frozen=True)
class Min(Fixed):
    """Smallest value of each channel; constants as for Max."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return -extreme(-tokens, mask)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        return _selection(n, d, norm)


@dataclass(frozen=True)
class Median(Fixed):
    """Median of each channel (mean of the middle two where n is even); constants as for Max, as upper bounds."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        ordered = _ascending(tokens, mask)
        count = lengths(tokens, mask).long()
        low, high = (count - 1) // 2, count // 2
        return (_at(ordered, low) + _at(ordered, high)) / 2

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        return _selection(n, d, norm)


@dataclass(frozen=True)
class Last(Fixed):
    """The last real token. Lipschitz constant 1 in both norms: non-expansive."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return tokens[:, -1]
        return _at(tokens, mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1))

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        _norm(norm)
        return 1.0


@dataclass(frozen=True)
class First(Fixed):
    """The first real token: CLS where the backbone puts one there. Lipschitz constant 1 in both norms."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        return tokens[:, 0] if mask is None else _at(tokens, mask.int().argmax(dim=1))

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        _norm(norm)
        return 1.0


@dataclass(frozen=True)
class TopK(Fixed):
    """Mean of the k largest values of each channel (all, where a row has fewer). Max at k = 1, Avg at k = n.

    Lipschitz constant 1/sqrt(k) in Frobenius' norm; in the operator norm at most sqrt(min(n, d)/k).
    """

    k: int = 4

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k = {self.k} of top-k pooling must be at least 1")

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        k = min(self.k, tokens.shape[1])
        filled = tokens if mask is None else tokens.masked_fill(~mask[..., None], -torch.inf)
        best = filled.topk(k, dim=1).values
        count = lengths(tokens, mask).clamp(max=k)
        there = torch.arange(k, device=tokens.device) < count[:, None]
        return best.masked_fill(~there[..., None], 0).sum(dim=1) / count[:, None]

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        return _selection(n, d, norm) / math.sqrt(min(self.k, n))


@dataclass(frozen=True)
class GeM(Fixed):
    """Generalised mean of positive and negative parts, ``(mean z_+^p)^(1/p) - (mean z_-^p)^(1/p)``.

    For z >= 0 this is GeM itself. Signs are kept by parts: a signed power under one root has an infinite slope at 0.
    p: at least 1; 1 is Avg. Lipschitz constant n^(-1/p) for p >= 2 and n^(-1/2) below, on z >= 0; for z of
    any sign sqrt(2) n^(-1/p), or 2^(1-1/p) n^(-1/2) below 2 (supports of the parts are disjoint). Operator norm: times
    sqrt(min(n, d)), an upper bound.
    """

    p: float = 3.0
    signed: bool = True

    def __post_init__(self) -> None:
        if not self.p >= 1:
            raise ValueError(f"p = {self.p} of GeM must be at least 1")

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        positive = self._mean(tokens.clamp(min=0), mask)
        return positive - self._mean((-tokens).clamp(min=0), mask) if self.signed else positive

    def _mean(self, parts: Tensor, mask: Tensor | None) -> Tensor:
        # Scaled by the channel's largest value, so that no power under- or overflows.
        peak = extreme(parts, mask).clamp(min=FLOOR)
        mean = total((parts / peak[:, None]) ** self.p, mask) / lengths(parts, mask)[:, None]
        return torch.where(mean > 0, peak * mean.clamp(min=torch.finfo(mean.dtype).tiny) ** (1 / self.p), 0.0)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        p = self.p
        one_sign = n ** (-1 / p) if p >= 2 else n**-0.5
        both = math.sqrt(2) if p >= 2 else 2 ** (1 - 1 / p)
        return one_sign * (both if self.signed else 1.0) * _selection(n, d, norm)


@dataclass(frozen=True)
class LSE(Fixed):
    """``(1/r) log mean_i exp(r z_i)``: Avg as r -> 0, Max as r -> infinity. Lipschitz constant at most 1."""

    r: float = 10.0

    def __post_init__(self) -> None:
        if not self.r > 0:
            raise ValueError(f"r = {self.r} of LSE must be positive")

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        scaled = self.r * tokens
        if mask is not None:
            scaled = scaled.masked_fill(~mask[..., None], -torch.inf)
        return (scaled.logsumexp(dim=1) - lengths(tokens, mask).log()[:, None]) / self.r

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        return _selection(n, d, norm)


@dataclass(frozen=True)
class PositionMean(Fixed):
    """SGPT's position-weighted mean, ``sum_i i z_i / sum_i i``; a convex W-Avg, so the constant is |a|_2."""

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        weights = (ranks(tokens, mask, "start") + 1).to(tokens.dtype)
        if mask is not None:
            weights = weights * mask
        return ((weights / weights.sum(dim=1, keepdim=True))[:, None, :] @ tokens)[:, 0]

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        _norm(norm)
        return math.sqrt((2 * n + 1) * 2 / (3 * n * (n + 1)))


@dataclass(frozen=True)
class AvgMax(Fixed):
    """Avg and Max side by side, 2d features.

    Lipschitz constant in Frobenius' norm: ``sigma^2 = (1 + 1/n + sqrt((1 - 1/n)^2 + 4/n^2)) / 2``, with
    ``sqrt(1/n + min(n, d))`` as an upper bound in the operator norm.
    """

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        mean = total(tokens, mask) / lengths(tokens, mask)[:, None]
        return torch.cat([mean, extreme(tokens, mask)], dim=1)

    def width(self, d: int) -> int:
        return 2 * d

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float:
        if _norm(norm) == "operator":
            return math.sqrt(1 / n + min(n, d))
        return math.sqrt((1 + 1 / n + math.sqrt((1 - 1 / n) ** 2 + 4 / n**2)) / 2)


@dataclass(frozen=True)
class Covariance(Fixed):
    """Upper triangle of the channels' covariance ``Z^T J Z / n``, with its square root by Newton-Schulz (iSQRT-COV).

    channels: tokens are first projected to so many channels by a fixed orthonormal matrix (0: none); d' grows with its
        square. iterations: of the square root, with the trace scaled out before and back after; 0 gives the plain
        covariance. Off-diagonal entries are multiplied by sqrt(2), so that lengths are those of the matrix.
    Lipschitz constant 2R/sqrt(n) without the root; the root is only Hoelder-1/2 near singular matrices (None).
    """

    channels: int = 16
    iterations: int = 5

    def one(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        z = tokens @ self._basis(tokens) if self._reduces(tokens.shape[2]) else tokens
        count = lengths(tokens, mask)[:, None, None]
        weight = z.new_ones(z.shape[:2]) if mask is None else mask.to(z.dtype)
        centred = (z - (weight[:, None, :] @ z) / count) * weight[..., None]
        matrix = centred.mT @ centred / count
        if self.iterations:
            matrix = _newton_schulz_root(matrix, self.iterations)
        rows, columns = torch.triu_indices(matrix.shape[1], matrix.shape[1], device=z.device)
        scale = z.new_full((len(rows),), math.sqrt(2)).masked_fill(rows == columns, 1.0)
        return matrix[:, rows, columns] * scale

    def width(self, d: int) -> int:
        c = self.channels if self._reduces(d) else d
        return c * (c + 1) // 2

    def _reduces(self, d: int) -> bool:
        return 0 < self.channels < d

    def _basis(self, tokens: Tensor) -> Tensor:
        # Type-II cosines: orthonormal columns, the same on every machine and at every width.
        d = tokens.shape[2]
        place = torch.arange(d, dtype=torch.float64)[:, None] + 0.5
        order = torch.arange(1, self.channels + 1, dtype=torch.float64)
        basis = math.sqrt(2 / d) * torch.cos(math.pi / d * place * order)
        return basis.to(tokens.device, tokens.dtype)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float | None:
        _norm(norm)
        if self.iterations or radius is None:
            return None
        return 2 * radius / math.sqrt(n)


def _newton_schulz_root(matrix: Tensor, iterations: int) -> Tensor:
    """Return the approximate square root of (batch, c, c) covariances; zero matrices stay zero."""
    trace = (
        matrix.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None].clamp(min=torch.finfo(matrix.dtype).tiny)
    )
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
    y, z = matrix / trace, eye
    for _ in range(iterations):
        step = (3 * eye - z @ y) / 2
        y, z = y @ step, step @ z
    return y * trace.sqrt()


def _ascending(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Return each channel sorted over tokens, padding last."""
    filled = tokens if mask is None else tokens.masked_fill(~mask[..., None], torch.inf)
    return filled.sort(dim=1).values


def _at(tokens: Tensor, place: Tensor) -> Tensor:
    """Return the token at `place` (batch,) of every row."""
    return tokens[torch.arange(len(tokens), device=tokens.device), place]


__all__ = [
    "LSE",
    "Avg",
    "AvgMax",
    "Covariance",
    "First",
    "GeM",
    "Last",
    "Max",
    "Median",
    "Min",
    "Parameters",
    "PositionMean",
    "SqrtMean",
    "Sum",
    "TopK",
]  # fmt: skip
