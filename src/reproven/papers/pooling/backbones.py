"""Small backbones trained here, then frozen: a character language model, a masked-patch encoder of series, a ViT.

Layers are those of transformers (Llama, BERT, ViT) at small sizes. None is trained with a pooling of any kind: the
language model by the next character, the other two by reconstructing masked patches from tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor, nn

from reproven.data import provider
from reproven.harness.errors import require

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
VERSION = 1  # raised whenever training or architecture change


class CharLM(nn.Module):
    """A causal character model with Llama's layers: ids (batch, n) -> states (batch, n, d)."""

    def __init__(self, d: int = 96, layers: int = 3, heads: int = 4, context: int = 32) -> None:
        require("transformers", "pooling")
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        config = LlamaConfig(
            vocab_size=len(ALPHABET), hidden_size=d, intermediate_size=2 * d, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=context, use_cache=False,
        )  # fmt: skip
        self.net = LlamaForCausalLM(config)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the last hidden states."""
        return self.net.model(input_ids=ids).last_hidden_state

    def loss(self, ids: Tensor) -> Tensor:
        """Return the mean cross-entropy of the next character."""
        logits = self.net(input_ids=ids).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


class SeriesEncoder(nn.Module):
    """A masked-patch encoder with BERT's layers: series (batch, length) -> states (batch, length / patch, d)."""

    def __init__(
        self, patch: int = 8, d: int = 64, layers: int = 2, heads: int = 4, longest: int = 64
    ) -> None:
        require("transformers", "pooling")
        from transformers import BertConfig, BertModel

        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(patch, d)
        self.mask_token = nn.Parameter(torch.zeros(d))
        self.decode = nn.Linear(d, patch)
        config = BertConfig(
            vocab_size=1, hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=2 * d,
            max_position_embeddings=longest, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.net = BertModel(config, add_pooling_layer=False)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return the states; `masked` (batch, n) patches are replaced by the mask token."""
        tokens = self.embed(x.unflatten(1, (-1, self.patch)))
        if masked is not None:
            tokens = torch.where(masked[..., None], self.mask_token, tokens)
        return self.net(inputs_embeds=tokens).last_hidden_state

    def loss(self, x: Tensor, masked: Tensor) -> Tensor:
        """Return the mean squared error on masked patches."""
        gap = self.decode(self(x, masked)) - x.unflatten(1, (-1, self.patch))
        return gap[masked].square().mean()


class SmallViT(nn.Module):
    """A ViT for 28x28 images in 4x4 patches, one CLS token in front: (batch, 28, 28) -> (batch, 50, d)."""

    def __init__(self, d: int = 64, layers: int = 3, heads: int = 4, patch: int = 4) -> None:
        require("transformers", "pooling")
        from transformers import ViTConfig, ViTModel

        super().__init__()
        self.patch = patch
        config = ViTConfig(
            hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=2 * d, image_size=28,
            patch_size=patch, num_channels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        self.net = ViTModel(config, add_pooling_layer=False, use_mask_token=True)
        self.decode = nn.Linear(d, patch * patch)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Tensor:
        """Return the states, CLS first; `masked` (batch, 49) patches are replaced by the mask token."""
        return self.net(pixel_values=x[:, None], bool_masked_pos=masked).last_hidden_state

    def patches(self, x: Tensor) -> Tensor:
        """Return (batch, 49, 16) pixels of the patches in the order of the tokens."""
        p = self.patch
        cut = x.unflatten(2, (-1, p)).unflatten(1, (-1, p))  # batch, row, p, column, p
        return cut.transpose(2, 3).flatten(3).flatten(1, 2)

    def loss(self, x: Tensor, masked: Tensor) -> Tensor:
        """Return the mean squared error on masked patches."""
        gap = self.decode(self(x, masked)[:, 1:]) - self.patches(x)
        return gap[masked].square().mean()


def characters(texts: Sequence[str]) -> np.ndarray:
    """Return texts of letters and blanks as one line of character ids; anything else becomes a blank."""
    table = np.zeros(256, dtype=np.int64)
    for i, c in enumerate(ALPHABET):
        table[ord(c)] = i
    line = " ".join(texts).lower().encode("latin-1", "replace")
    return table[np.frombuffer(line, dtype=np.uint8)]


def windows(line: np.ndarray, length: int, count: int, generator: torch.Generator) -> np.ndarray:
    """Return `count` windows (count, length) at random places of a line."""
    if len(line) <= length:
        raise ValueError(f"a line of {len(line)} holds no window of {length}")
    starts = torch.randint(len(line) - length, (count,), generator=generator).numpy()
    return line[starts[:, None] + np.arange(length)]


def train_char_lm(model: CharLM, line: np.ndarray, *, steps: int, batch: int, length: int, seed: int) -> None:
    """Train by the next character; Adam with a warm-up and a cosine decay from 3e-3."""
    g = torch.Generator().manual_seed(seed)
    _descend(
        model, steps, lambda: model.loss(torch.from_numpy(windows(line, length, batch, g).astype(np.int64)))
    )


def train_series_encoder(
    model: SeriesEncoder, sets: Sequence[np.ndarray], *, steps: int, batch: int, seed: int, share: float = 0.3
) -> None:
    """Train by masked patches on several sets of series (count, length), one set a step in turn."""
    g = torch.Generator().manual_seed(seed)
    turn = iter(range(10**9))

    def loss() -> Tensor:
        values = sets[next(turn) % len(sets)]
        rows = torch.randint(len(values), (batch,), generator=g)
        x = torch.from_numpy(values[rows.numpy()].astype(np.float32))
        masked = torch.rand(batch, x.shape[1] // model.patch, generator=g) < share
        masked[:, 0] |= ~masked.any(dim=1)
        return model.loss(x, masked)

    _descend(model, steps, loss)


def train_vit(
    model: SmallViT, images: np.ndarray, *, steps: int, batch: int, seed: int, share: float = 0.5
) -> None:
    """Train by masked patches on images (count, 28, 28) in [0, 1]."""
    g = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        rows = torch.randint(len(images), (batch,), generator=g).numpy()
        masked = torch.rand(batch, 49, generator=g) < share
        return model.loss(torch.from_numpy(images[rows]), masked)

    _descend(model, steps, loss)


def _descend(model: nn.Module, steps: int, loss: Callable[[], Tensor], lr: float = 3e-3) -> None:
    adam = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    warm = max(1, steps // 10)
    rate = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda s: min((s + 1) / warm, 0.5 * (1 + np.cos(np.pi * min(1.0, s / steps))))
    )
    model.train()
    for _ in range(steps):
        adam.zero_grad(set_to_none=True)
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        rate.step()
    model.eval()


def trained(
    specification: Mapping[str, Any],
    build: Callable[[], nn.Module],
    train: Callable[[Any], None],
    folder: Path | None = None,
) -> Any:
    """Return a trained model, from the cache where its specification was trained before.

    specification: JSON values that say everything of the training; its ``seed`` also starts the weights.
    """
    described = {**specification, "version": VERSION, "torch": torch.__version__}
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]
    root = folder or provider.cache_folder() / "pooling_backbones"
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"{key}.pt"
    with filelock.FileLock(root / f".{key}.lock"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(specification["seed"]))
            model = build()
        if path.is_file():
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        else:
            train(model)
            partial = path.with_suffix(".partial")
            torch.save(model.state_dict(), partial)
            os.replace(partial, path)
    return model.eval().requires_grad_(False)


def states(model: nn.Module, inputs: Tensor, masked: Tensor | None = None, batch: int = 256) -> np.ndarray:
    """Return the frozen model's states of all inputs, (inputs, n, d) float32."""
    out = []
    with torch.inference_mode():
        for i in range(0, len(inputs), batch):
            more = () if masked is None else (masked[i : i + batch],)
            out.append(model(inputs[i : i + batch], *more).numpy())
    return np.concatenate(out)
