"""Rules that rescale attention logits with the length: beta as a function of the row's number of keys n.

Each is a logit multiplier, relative to the model's native scale (dossier 3.4). `n0` is the training length.

================ ======================================================= =========== =======================
rule             factor                                                  asymptotic  source
================ ======================================================= =========== =======================
no_rescaling     1                                                       const
su_logn          log n / log n0 at every length                          log n       Su (entropy invariance)
qwen_logn        log n / log n0 beyond n0, else 1                        log n       Qwen-1
ssmax            s log n, s by head (learned; here s = 1 / mean log n)   log n       2501.19399
yarn             (0.1 log(n / n0) + 1)^2 beyond n0                       (log n)^2   YaRN's mscale, squared
llama4           1 + 0.1 log(1 + floor(n / n0))                          log n       Llama 4
power            (log n / log n0)^exponent beyond n0                     any         this paper's exponents
b_rule           median B_n / median B_{n0}, by head, from calibration   the row's   dossier 3.3
adaptive         max(1, poly(H)) where H > 0.5, by row                   feedback    2410.01104
entropy_target   beta at which H equals its value at n0, by row          oracle      dossier 6
================ ======================================================= =========== =======================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.papers.critical_scaling.attention import Call


@dataclass(frozen=True)
class Calibration:
    """What a rule may know of a model: measured once, on texts that are not the test's.

    train_length: n0. read_length: the longest row to come. lengths: (lengths,) ascending, from n0 on.
    scales: (lengths, layers, heads) medians of B. entropies: (layers, heads) median entropy in nats at n0.
    """

    train_length: int
    read_length: int
    lengths: np.ndarray = field(default_factory=lambda: np.array([]))
    scales: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0)))
    entropies: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))


class PlaceRule:
    """A rule whose factor depends on the row's number of keys (and on the head) alone."""

    by_rows = False

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return the factors, (heads or 1, rows), of rows with n keys (rows,)."""
        raise NotImplementedError


class RowRule:
    """A rule whose factor depends on the row's logits."""

    by_rows = True

    def factor(self, logits: Tensor, layer: int, known: Calibration) -> Tensor:
        """Return the factors, (batch, heads, rows), of native logits (batch, heads, rows, keys)."""
        raise NotImplementedError


@dataclass(frozen=True)
class NoRescaling(PlaceRule):
    """The native model: factor 1."""

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return ones."""
        return np.ones((1, len(n)))


@dataclass(frozen=True)
class SuLogN(PlaceRule):
    """log n / log n0 at every length, below the training length too (there n = 1 gives 0: uniform over one key)."""

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return log_{n0} n."""
        return (np.log(n) / np.log(known.train_length))[None]


@dataclass(frozen=True)
class QwenLogN(PlaceRule):
    """log n / log n0 beyond the training length, 1 before."""

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return max(1, log_{n0} n)."""
        return np.maximum(1.0, np.log(n) / np.log(known.train_length))[None]


@dataclass(frozen=True)
class SSMax(PlaceRule):
    """s log n. s: one number, one a head of each layer, or None for the constant that fits the native scale.

    The paper learns s while training. Applied to a finished model, s = 1 / mean over i <= n0 of log i leaves the
    logits at their native scale on average over the training length. A re-implementation that *subtracts* s log n
    does nothing: softmax ignores shifts.
    """

    s: float | None = None

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return s log n."""
        s = self.s
        if s is None:
            s = 1 / float(np.log(np.arange(1, known.train_length + 1)).mean())
        return (s * np.log(n))[None]


@dataclass(frozen=True)
class YaRN(PlaceRule):
    """(coefficient log(n / n0) + 1)^2: the factor goes on queries and on keys, so that logits get its square.

    whole: one factor for the whole sequence, from the length to be read, as YaRN's checkpoints do; else by place.
    """

    coefficient: float = 0.1
    whole: bool = True

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return the squared mscale at extension read_length / n0 (or n / n0 by place)."""
        length = np.full(len(n), known.read_length) if self.whole else n
        extension = np.maximum(1.0, np.asarray(length) / known.train_length)
        return ((self.coefficient * np.log(extension) + 1) ** 2)[None]


@dataclass(frozen=True)
class Llama4(PlaceRule):
    """1 + coefficient log(1 + floor(n / n0)): the published 8,192 is the length of one step."""

    coefficient: float = 0.1

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return the factor of each place."""
        return (1 + self.coefficient * np.log1p(np.floor(np.asarray(n) / known.train_length)))[None]


@dataclass(frozen=True)
class Power(PlaceRule):
    """(log n / log n0)^exponent beyond n0: one law for all heads (1/2 Gaussian, 1 fixed gap, 2 flat edge)."""

    exponent: float = 0.5

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return the factor of each place."""
        return (np.maximum(1.0, np.log(n) / np.log(known.train_length)) ** self.exponent)[None]


@dataclass(frozen=True)
class BRule(PlaceRule):
    """beta_n = median B_n / median B_{n0} of each head: the length law that the head itself shows.

    Between calibrated lengths log beta is linear in log n; beyond the last it stays; below n0 it is 1.
    shrink: 1 takes each head's own curve, 0 one curve for all (the median over heads), between both on log scale.
    """

    shrink: float = 1.0

    def factor(self, n: np.ndarray, layer: int, known: Calibration) -> np.ndarray:
        """Return the factors, (heads, rows)."""
        if known.scales.size == 0:
            raise ValueError("b_rule needs calibrated scales; run `calibrate` on some texts first")
        logs = np.log(known.scales) - np.log(known.scales[0])
        common = np.median(logs.reshape(len(logs), -1), axis=1)
        own = self.shrink * logs[:, layer] + (1 - self.shrink) * common[:, None]
        x = np.log(known.lengths)
        return np.exp(np.stack([np.interp(np.log(n), x, curve) for curve in own.T]))


@dataclass(frozen=True)
class AdaptiveTemperature(RowRule):
    """max(1, poly(H)) where the row's entropy exceeds 0.5 nats, else 1 (Velickovic et al., 2410.01104)."""

    coefficients: tuple[float, ...] = (-0.037, 0.481, -2.3, 4.917, -1.791)
    threshold: float = 0.5

    def factor(self, logits: Tensor, layer: int, known: Calibration) -> Tensor:
        """Return the factors from the entropy at native scale."""
        h = entropy(logits)
        value = torch.zeros_like(h)
        for c in self.coefficients:
            value = value * h + c
        return torch.where(h > self.threshold, value.clamp(min=1.0), 1.0)


@dataclass(frozen=True)
class EntropyTarget(RowRule):
    """beta at which the row's entropy equals the head's median at the training length: the natural oracle.

    Only rows beyond n0 with a higher entropy are changed. beta is sought in [1, most], by bisection.
    """

    most: float = 4.0
    steps: int = 8

    def factor(self, logits: Tensor, layer: int, known: Calibration) -> Tensor:
        """Return the factors."""
        if known.entropies.size == 0:
            raise ValueError("entropy_target needs calibrated entropies; run `calibrate` on some texts first")
        if logits.shape[-1] <= known.train_length:
            return torch.ones(logits.shape[:-1], dtype=logits.dtype, device=logits.device)
        goal = torch.as_tensor(known.entropies[layer], dtype=logits.dtype, device=logits.device)[
            None, :, None
        ]
        low = torch.ones(logits.shape[:-1], dtype=logits.dtype, device=logits.device)
        keys = torch.isfinite(logits).sum(dim=-1)
        change = (entropy(logits) > goal) & (keys > known.train_length)
        high = torch.full_like(low, self.most)
        for _ in range(self.steps):
            middle = (low + high) / 2
            above = entropy(logits * middle[..., None]) > goal
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return torch.where(change, (low + high) / 2, 1.0)


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy of softmax in nats, (...,), of logits (..., n); -inf is no key."""
    p = torch.softmax(logits, dim=-1)
    mean = (p * logits.masked_fill(p == 0, 0.0)).sum(dim=-1)  # minus infinity times zero is none
    return torch.logsumexp(logits, dim=-1) - mean


@dataclass
class Rescaled:
    """A rule bound to a calibration: what `attention.attending` takes as its scaler."""

    rule: Any
    known: Calibration

    @property
    def by_rows(self) -> bool:
        """Whether factors depend on the logits."""
        return bool(self.rule.by_rows)

    def factors(self, call: Call) -> Tensor | None:
        """Return the factors of all places, (heads or 1, q)."""
        n = call.keys_of(torch.arange(call.query.shape[2])).clamp(min=1).numpy()
        return torch.as_tensor(self.rule.factor(n, call.layer, self.known))

    def row_factors(self, call: Call, logits: Tensor) -> Tensor:
        """Return the factors of rows of native logits, (batch, heads, rows)."""
        return self.rule.factor(logits, call.layer, self.known)
