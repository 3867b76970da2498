"""Text transfer: the last feed-forward block of a sentence encoder and a head, on few labels, some of them wrong.

Everything below the trained block is frozen and computed once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class LastBlock(nn.Module):
    """Feed-forward block with residual and layer norm, mean over tokens, linear head: the trained part of BERT.

    ``logits = head(mean_tokens LN(h + W2 gelu(W1 h)))``. dense_in, dense_out, norm: those of the encoder's last layer.
    """

    def __init__(self, dense_in: nn.Linear, dense_out: nn.Linear, norm: nn.LayerNorm, classes: int) -> None:
        super().__init__()
        self.dense_in, self.dense_out, self.norm = dense_in, dense_out, norm
        self.head = nn.Linear(dense_in.in_features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, h: Tensor, mask: Tensor) -> Tensor:
        """h: (n, tokens, d), mask: (n, tokens) -> (n, d)."""
        z = self.norm(h + self.dense_out(nn.functional.gelu(self.dense_in(h))))
        return (z * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.head(self.features(h, mask))


def frozen_part(encoder: Any, tokenizer: Any, texts: list[str], tokens: int) -> tuple[Tensor, Tensor]:
    """Return what enters the last feed-forward block of a BERT encoder, (n, tokens, d), and the mask, (n, tokens)."""
    coded = tokenizer(texts, truncation=True, max_length=tokens, padding="max_length", return_tensors="pt")
    kept: list[Tensor] = []
    hook = encoder.encoder.layer[-1].attention.register_forward_hook(
        lambda module, inputs, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        with torch.no_grad():
            for at in range(0, len(texts), 64):
                encoder(**{name: column[at : at + 64] for name, column in coded.items()})
    finally:
        hook.remove()
    return torch.cat(kept), coded["attention_mask"].float()


def flip_labels(labels: np.ndarray, share: float, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return labels of which `share` (rounded), drawn at random, are moved to another class, uniformly."""
    if not 0 <= share < 1:
        raise ValueError(f"share of wrong labels = {share} must lie in [0, 1)")
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    moved = labels.copy()
    moved[wrong] = (labels[wrong] + rng.integers(1, classes, size=len(wrong))) % classes
    return moved


def noise_entropy(share: float, classes: int) -> float:
    """Return the cross-entropy of the truth on labels of which `share` are wrong, in nats."""
    if share == 0:
        return 0.0
    return float(-(1 - share) * np.log(1 - share) - share * np.log(share / (classes - 1)))
