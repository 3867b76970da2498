"""Poolings that learn, for many copies (seeds) at once.

All attention poolings here share one observation: a learned query meets a key ``W_K z`` only through the number
``q . W_K z = z . (W_K^T q)``, and the weights leave the value projection linear, ``sum_i a_i W_V z_i = W_V sum_i a_i
z_i``. So neither keys nor values of single tokens are ever made: tokens are read twice, O(n d) a head and copy, in
place of O(n d^2). `pooling_reference` does it literally; a test holds both together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reproven.papers.pooling.base import Parameters, Pooling, _norm, lengths, masked_softmax, ranks


def scores_of(tokens: Tensor, directions: Tensor) -> Tensor:
    """Return ``z_i . u``: tokens (batch, n, d), directions (copies, k, d) or (batch, copies, k, d).

    Result (batch, copies, k, n).
    """
    copies, k, d = directions.shape[-3:]
    flat = directions.reshape(*directions.shape[:-3], copies * k, d)
    return (flat @ tokens.mT).view(tokens.shape[0], copies, k, tokens.shape[1])


def weighted(weights: Tensor, tokens: Tensor) -> Tensor:
    """Return ``sum_i a_i z_i`` for weights (batch, copies, k, n): (batch, copies, k, d)."""
    batch, copies, k, n = weights.shape
    return (weights.reshape(batch, copies * k, n) @ tokens).view(batch, copies, k, -1)


def normalised(tokens: Tensor) -> Tensor:
    """Return LayerNorm without affine parameters."""
    return torch.nn.functional.layer_norm(tokens, tokens.shape[-1:])


def _uniform(generator: torch.Generator, *shape: int, fan: int) -> Tensor:
    """Return torch.nn.Linear's default start, uniform in ±1/sqrt(fan)."""
    return (torch.rand(*shape, generator=generator) * 2 - 1) / math.sqrt(fan)


def _heads(d: int, heads: int) -> int:
    if d % heads:
        raise ValueError(f"{heads} heads do not divide the width {d}")
    return d // heads


@dataclass(frozen=True)
class WAvg(Pooling):
    """The paper's W-Avg: one learned scalar a position, ``sum_i a_i z_i``.

    convex: ``a = softmax(w)`` over the real tokens; else the raw ``a = w`` (its start is 1/n). Which of the two the
        paper uses is not stated.
    align: positions count from the ``start``, from the ``end``, or are raw ``slot`` numbers; with variable lengths only
        the first two do not depend on the padding.
    Lipschitz constant: |a|_2 in both norms, in [1/sqrt(n), 1] when convex: between Avg and Last.
    """

    convex: bool = True
    align: str = "end"

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"w": torch.zeros(n) if self.convex else torch.full((n,), 1 / n)}

    def weights(self, tokens: Tensor, mask: Tensor | None, parameters: Parameters) -> Tensor:
        """Return the weights of the tokens, (batch, copies, n); 0 at padding."""
        w = parameters["w"]
        if w.shape[1] < tokens.shape[1]:
            raise ValueError(f"W-Avg has weights for {w.shape[1]} positions, not for {tokens.shape[1]}")
        place = ranks(tokens, mask, self.align)
        raw = w.T[place].movedim(2, 1)
        if self.convex:
            return masked_softmax(raw, mask)
        return raw if mask is None else raw * mask[:, None, :]

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        return (self.weights(tokens, mask, parameters) @ tokens).transpose(0, 1)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float | None:
        _norm(norm)
        if parameters is None:
            return 1.0 if self.convex else None
        w = parameters["w"][:n].double()
        return float((w.softmax(0) if self.convex else w).norm())


@dataclass(frozen=True)
class QueryAttention(Pooling):
    """Attention with one learned query, ``a = softmax(Z q / tau)``, ``sum_i a_i z_i``.

    Lipschitz constant at most ``|a|_2 (1 + 2 R |q| / tau)`` with |a|_2 <= 1, R the radius.
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        if not self.tau > 0:
            raise ValueError(f"tau = {self.tau} must be positive")

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"q": _uniform(generator, d, fan=d)}

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        scores = scores_of(tokens, parameters["q"][:, None] / self.tau)
        return weighted(masked_softmax(scores, mask), tokens)[:, :, 0].transpose(0, 1)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float | None:
        if parameters is None or radius is None:
            return None
        local = 1 + 2 * radius * float(parameters["q"].norm()) / self.tau
        return local if _norm(norm) == "frobenius" else local * math.sqrt(min(n, d))


@dataclass(frozen=True)
class GatedABMIL(Pooling):
    """Gated attention of multiple-instance learning: ``a = softmax(w^T (tanh(V z) * sigmoid(U z)))``.

    Lipschitz constant at most ``1 + 2 R L_s``, ``L_s = |w| (|V| + |U| / 4)``.
    """

    hidden: int = 128

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        h = self.hidden
        return {
            "v": _uniform(generator, h, d, fan=d),
            "v_bias": _uniform(generator, h, fan=d),
            "u": _uniform(generator, h, d, fan=d),
            "u_bias": _uniform(generator, h, fan=d),
            "w": _uniform(generator, h, fan=h),
        }

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        p = parameters
        shown = (scores_of(tokens, p["v"]) + p["v_bias"][..., None]).tanh()
        gate = (scores_of(tokens, p["u"]) + p["u_bias"][..., None]).sigmoid()
        scores = (p["w"][:, :, None] * shown * gate).sum(dim=2)
        return (masked_softmax(scores, mask) @ tokens).transpose(0, 1)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float | None:
        if parameters is None or radius is None:
            return None
        v, u = (float(torch.linalg.matrix_norm(parameters[k], 2)) for k in ("v", "u"))
        local = 1 + 2 * radius * float(parameters["w"].norm()) * (v + u / 4)
        return local if _norm(norm) == "frobenius" else local * math.sqrt(min(n, d))


@dataclass(frozen=True)
class PMA(Pooling):
    """Pooling by multi-head attention (Set Transformer), one seed: ``O = q + A V``, then ``O + relu(W O)``.

    q = W_Q s with the learned seed s; scores are scaled by sqrt(d), the whole width, as in the authors' code.
    """

    heads: int = 4

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        _heads(d, self.heads)
        made = {"seed": torch.randn(d, generator=generator) / math.sqrt(d)}
        for name in ("q", "k", "v", "o"):
            made[name] = _uniform(generator, d, d, fan=d)
        for name in ("v_bias", "o_bias"):
            made[name] = _uniform(generator, d, fan=d)
        return made

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        p, h = parameters, self.heads
        query = (p["q"] @ p["seed"][..., None])[..., 0]  # (copies, d)
        copies, d = query.shape
        per_head = query.view(copies, h, 1, -1)
        directions = (per_head @ p["k"].view(copies, h, -1, d))[:, :, 0] / math.sqrt(d)
        pooled = weighted(masked_softmax(scores_of(tokens, directions), mask), tokens)
        values = torch.einsum("bshd,shed->sbhe", pooled, p["v"].view(copies, h, -1, d))
        out = query[:, None] + values.reshape(copies, -1, d) + p["v_bias"][:, None]
        return out + (out @ p["o"].mT + p["o_bias"][:, None]).relu()


@dataclass(frozen=True)
class LatentDictionary(Pooling):
    """Latent-dictionary attention after NV-Embed, the paper's Attn: tokens are queries, a learned dictionary is keys
    and values; then the mean over tokens.

    ``z_i + W_O sum_r a_ir W_V l_r``, ``a_i = softmax_r(<W_Q LN(z_i), W_K l_r> / sqrt(d/heads))``. NV-Embed has 512
    latents, 8 heads and a feed-forward layer after; how many the paper has is not stated, and the layer is left out.
    """

    latents: int = 16
    heads: int = 4

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        _heads(d, self.heads)
        made = {"latents": torch.randn(self.latents, d, generator=generator)}
        for name in ("q", "k", "v", "o"):
            made[name] = _uniform(generator, d, d, fan=d)
        return made

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        p, h = parameters, self.heads
        copies, r, d = p["latents"].shape
        keys = (p["latents"] @ p["k"].mT).view(copies, r, h, -1)
        values = (p["latents"] @ p["v"].mT).view(copies, r, h, -1)
        queries = p["q"].view(copies, h, -1, d)
        directions = torch.einsum("srhe,shed->shrd", keys, queries) / math.sqrt(d / h)
        scores = scores_of(normalised(tokens), directions.reshape(copies, h * r, d))
        chosen = scores.view(len(tokens), copies, h, r, -1).softmax(dim=3)
        weight = tokens.new_ones(tokens.shape[:2]) if mask is None else mask.to(tokens.dtype)
        share = weight / lengths(tokens, mask)[:, None]
        histogram = torch.einsum("bshrn,bn->bshr", chosen, share)
        drawn = torch.einsum("bshr,srhe->sbhe", histogram, values).reshape(copies, len(tokens), d)
        return drawn @ p["o"].mT + (share[:, None, :] @ tokens)[:, 0]


@dataclass(frozen=True)
class AdaPool(Pooling):
    """AdaPool: multi-head attention whose query is a token of the input.

    query: ``last`` or ``first`` token, which adds the skip connection ``+ z_q``, or the ``mean`` of all.
    """

    heads: int = 4
    query: str = "mean"

    def __post_init__(self) -> None:
        if self.query not in ("first", "last", "mean"):
            raise ValueError(f"query {self.query!r} of AdaPool is not one of first, last, mean")

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        _heads(d, self.heads)
        return {name: _uniform(generator, d, d, fan=d) for name in ("q", "k", "v", "o")}

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        p, h = parameters, self.heads
        start = _query(tokens, mask, self.query)
        copies, d = p["q"].shape[:2]
        query = (start @ p["q"].mT).view(copies, -1, h, d // h)
        directions = torch.einsum("sbhe,shed->bshd", query, p["k"].view(copies, h, -1, d)) / math.sqrt(d / h)
        pooled = weighted(masked_softmax(scores_of(tokens, directions), mask), tokens)
        values = torch.einsum("bshd,shed->sbhe", pooled, p["v"].view(copies, h, -1, d))
        out = values.reshape(copies, -1, d) @ p["o"].mT
        return out if self.query == "mean" else out + start


@dataclass(frozen=True)
class SimPool(Pooling):
    """SimPool: ``q = W_Q mean(z)``, ``k = W_K LN(z)``, ``v = LN(z)``, one head, no output projection."""

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {name: _uniform(generator, d, d, fan=d) for name in ("q", "k")}

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        p = parameters
        plain = normalised(tokens)
        query = _query(tokens, mask, "mean") @ p["q"].mT  # (copies, batch, d)
        directions = (query @ p["k"]).transpose(0, 1)[:, :, None] / math.sqrt(tokens.shape[2])
        return weighted(masked_softmax(scores_of(plain, directions), mask), plain)[:, :, 0].transpose(0, 1)


@dataclass(frozen=True)
class EfficientProbing(Pooling):
    """Efficient probing: M learned queries meet tokens directly (no key projection); query m pools chunk m of W_V z."""

    queries: int = 4

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        _heads(d, self.queries)
        return {
            "q": _uniform(generator, self.queries, d, fan=d),
            "v": _uniform(generator, d, d, fan=d),
        }

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        q, v = parameters["q"], parameters["v"]
        copies, m, d = q.shape
        pooled = weighted(masked_softmax(scores_of(tokens, q), mask), tokens)
        return torch.einsum("bsmd,smed->sbme", pooled, v.view(copies, m, -1, d)).reshape(copies, -1, d)


@dataclass(frozen=True)
class SlicedWasserstein(Pooling):
    """Pooling by sliced-Wasserstein embedding (PSWE): sort each slice, read it at M quantiles, weigh the distances to
    the reference.

    Feature l: ``sum_m w_lm (Q_l(t_m) - r_lm)``, Q_l the quantiles of ``z . theta_l``, by linear interpolation at
    ``t_m = (m + 1/2) / M``. Lipschitz constant ``(sum_l |w_l|^2 |theta_l|^2)^(1/2)`` where n = M (no
    interpolation); None elsewhere.
    """

    slices: int = 64
    references: int = 16

    def parameters(self, d: int, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        theta = torch.randn(self.slices, d, generator=generator)
        return {
            "theta": theta / theta.norm(dim=1, keepdim=True),
            "w": _uniform(generator, self.slices, self.references, fan=self.references),
            "r": torch.linspace(-1, 1, self.references).repeat(self.slices, 1),
        }

    def width(self, d: int) -> int:
        return self.slices

    def _pool(self, tokens: Tensor, mask: Tensor | None, parameters: dict[str, Tensor]) -> Tensor:
        p = parameters
        projected = scores_of(tokens, p["theta"])
        if mask is not None:
            projected = projected.masked_fill(~mask[:, None, None, :], torch.inf)
        ordered = projected.sort(dim=-1).values
        count = lengths(tokens[:, :, :1].double(), mask)[:, None]
        t = (torch.arange(self.references, device=tokens.device, dtype=count.dtype) + 0.5) / self.references
        place = (t * count - 0.5).clamp(min=0).minimum(count - 1)
        low = place.floor()
        share = (place - low)[:, None, None].to(tokens.dtype)
        near, far = (
            i.long()[:, None, None].expand(*ordered.shape[:3], -1)
            for i in (low, (low + 1).minimum(count - 1))
        )
        quantiles = ordered.gather(3, near) * (1 - share) + ordered.gather(3, far) * share
        return (p["w"] * (quantiles - p["r"])).sum(dim=3).transpose(0, 1)

    def lipschitz(self, n, d, norm="frobenius", parameters=None, radius=None) -> float | None:
        _norm(norm)
        if parameters is None or n != self.references:
            return None
        lengths_of = parameters["w"].norm(dim=1) * parameters["theta"].norm(dim=1)
        local = float(lengths_of.norm())
        return local if norm == "frobenius" else local * math.sqrt(min(n, d))


def _query(tokens: Tensor, mask: Tensor | None, which: str) -> Tensor:
    """Return the token that asks, (batch, d)."""
    if which == "mean":
        weight = tokens.new_ones(tokens.shape[:2]) if mask is None else mask.to(tokens.dtype)
        return (weight[:, None, :] @ tokens)[:, 0] / lengths(tokens, mask)[:, None]
    if mask is None:
        return tokens[:, 0 if which == "first" else -1]
    n = mask.shape[1]
    place = mask.int().argmax(dim=1) if which == "first" else n - 1 - mask.flip(1).int().argmax(dim=1)
    return tokens[torch.arange(len(tokens), device=tokens.device), place]
