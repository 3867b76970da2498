"""A small causal language model trained here on short texts with needles, to be read at lengths it never saw.

Text: byte-pair tokens of newsgroup posts. Needles: a token that carries (key, value), dropped into the text; later a
query token of the same key, to be answered with the value's token. Answering takes one look back over all keys, so
that what length does to it is the dilution of softmax and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rng = np.random.Generator

POSITIONS = ("none", "rotary")


@dataclass(frozen=True)
class Alphabet:
    """Token numbers: `text` byte-pair tokens, then needles (key, value), queries (key), answers (value)."""

    text: int = 512
    keys: int = 8
    values: int = 8

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.text + self.keys * self.values + self.keys + self.values

    def needle(self, key: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Return the token that plants `value` under `key`."""
        return self.text + self.values * np.asarray(key) + value

    def query(self, key: np.ndarray) -> np.ndarray:
        """Return the token that asks for `key`."""
        return self.text + self.keys * self.values + np.asarray(key)

    def answer(self, value: np.ndarray) -> np.ndarray:
        """Return the token that says `value`."""
        return self.text + self.keys * self.values + self.keys + np.asarray(value)


def train_tokenizer(texts: Sequence[str], size: int) -> Any:
    """Return a byte-pair tokenizer with `size` tokens, trained on `texts`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the token numbers of each text."""
    return [np.array(e.ids, dtype=np.int64) for e in tokenizer.encode_batch(list(texts))]


def build_model(
    alphabet: Alphabet, positions: str, seed: int, *, width: int, layers: int, heads: int
) -> nn.Module:
    """Return a Llama-style model, untrained. positions: ``rotary``, or ``none`` (nothing is rotated)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if positions not in POSITIONS:
        raise ValueError(f"positions {positions!r} is not one of {', '.join(POSITIONS)}")
    config = LlamaConfig(
        vocab_size=alphabet.size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=1 << 14,
        initializer_range=width**-0.5,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    if positions == "none":
        model.model.rotary_emb = Unrotated(width // heads)
    return model


class Unrotated(nn.Module):
    """Takes the place of rotary embeddings and rotates by nothing: a model without positions.

    Passing zeros as positions instead would not do: transformers takes repeated positions for packed sequences and
    lets no token see another.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor, position_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (cosines, sines), (batch, n, width): ones and zeros."""
        shape = (x.shape[0], x.shape[1], self.width)
        return x.new_ones(shape), x.new_zeros(shape)


class Reader(nn.Module):
    """A causal model that reads needles: one is embedded as the sum of its key's and its value's tokens."""

    def __init__(self, model: nn.Module, alphabet: Alphabet) -> None:
        super().__init__()
        self.model = model
        self.alphabet = alphabet

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.parameters()).device

    def embedded(self, ids: Tensor) -> Tensor:
        """Return the embeddings of tokens, (..., width)."""
        model: Any = self.model
        a, table = self.alphabet, model.get_input_embeddings().weight
        first, last = a.text, a.text + a.keys * a.values
        needles = table[last : last + a.keys, None] + table[None, last + a.keys :]
        return F.embedding(ids, torch.cat([table[:first], needles.flatten(0, 1), table[last:]]))

    def forward(self, input_ids: Tensor, body: bool = False) -> Tensor:
        """Return logits (batch, n, tokens); with `body`, the last layer's states instead."""
        inside: Any = self.model.base_model if body else self.model
        out = inside(inputs_embeds=self.embedded(input_ids), use_cache=False)
        return out.last_hidden_state if body else out.logits


def planted(text: np.ndarray, alphabet: Alphabet, pairs: int, rng: Rng) -> np.ndarray:
    """Return (batch, n) texts in which `pairs` needles and, later, their queries with answers replace tokens.

    The text is cut in slots of two tokens; 2 `pairs` random slots are paired, the earlier one of a pair gets the
    needle, the later one query and answer. Keys of one text are distinct.
    """
    batch, n = text.shape
    slots = rng.random((batch, n // 2)).argsort(axis=1)[:, : 2 * pairs].reshape(batch, pairs, 2)
    slots.sort(axis=2)
    key = rng.random((batch, alphabet.keys)).argsort(axis=1)[:, :pairs]
    value = rng.integers(alphabet.values, size=(batch, pairs))
    out, line = text.copy(), np.arange(batch)[:, None]
    out[line, 2 * slots[:, :, 0]] = alphabet.needle(key, value)
    out[line, 2 * slots[:, :, 1]] = alphabet.query(key)
    out[line, 2 * slots[:, :, 1] + 1] = alphabet.answer(value)
    return out


def haystack(text: np.ndarray, alphabet: Alphabet, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one text (n,) with every key planted once and asked for at the end, the query places, the depths.

    depths: (keys,) where the needle asked for lies, from 0 (start) to 1 (just before the questions).
    """
    n, count = len(text), alphabet.keys
    room = n - 2 * count
    if room < count:
        raise ValueError(f"{n} tokens have no room for {count} needles and their questions")
    where = np.sort(rng.choice(room, count, replace=False))
    key, value = rng.permutation(count), rng.integers(alphabet.values, size=count)
    out = text.copy()
    out[where] = alphabet.needle(key, value)
    asked = rng.permutation(count)
    places = room + 2 * np.arange(count)
    out[places] = alphabet.query(key[asked])
    out[places + 1] = alphabet.answer(value[asked])
    return out, places, where[asked] / room


def batches(
    stream: np.ndarray, alphabet: Alphabet, *, batch: int, length: int, pairs: int, rng: Rng
) -> Iterator[Tensor]:
    """Yield endless training batches (batch, length) cut at random from one stream of text tokens."""
    reach = len(stream) - length
    if reach < 1:
        raise ValueError(f"{len(stream)} tokens are fewer than one sequence of {length}: give more text")
    while True:
        start = rng.integers(reach, size=batch)
        yield torch.as_tensor(planted(stream[start[:, None] + np.arange(length)], alphabet, pairs, rng))


def train(
    model: Reader,
    source: Iterator[Tensor],
    alphabet: Alphabet,
    *,
    steps: int,
    lr: float,
    warmup: int = 50,
    answer_weight: float = 10.0,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train in place: AdamW, linear warm-up, cosine to a tenth. Needles and queries come at random: no loss."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    for step in range(steps):
        rise = min(1.0, (step + 1) / warmup)
        fall = 0.55 + 0.45 * np.cos(np.pi * step / steps)
        for group in optimiser.param_groups:
            group["lr"] = lr * rise * fall
        ids = next(source).to(model.device)
        logits, target = model(ids[:, :-1]), ids[:, 1:]
        random = (target >= alphabet.text) & (target < alphabet.text + alphabet.keys * (alphabet.values + 1))
        each = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        weight = torch.where(target >= int(alphabet.answer(np.array(0))), answer_weight, 1.0).masked_fill(
            random, 0.0
        )
        loss = (each * weight.flatten()).sum() / weight.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if on_step is not None:
            on_step(step, float(loss.detach()))
    model.eval()


@torch.inference_mode()
def token_losses(model: Reader, ids: np.ndarray) -> np.ndarray:
    """Return the loss in nats of each next token of one text, (n - 1,)."""
    tokens = torch.as_tensor(ids, device=model.device)[None]
    logits = model(tokens[:, :-1])[0]
    return F.cross_entropy(logits, tokens[0, 1:], reduction="none").numpy(force=True)


@torch.inference_mode()
def retrieval(model: Reader, ids: np.ndarray, places: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Return whether the answer at each query place is the likeliest of all answers, (places,) zeros and ones."""
    logits = model(torch.as_tensor(ids, device=model.device)[None])[0, places]
    first = int(alphabet.answer(np.array(0)))
    said = logits[:, first : first + alphabet.values].argmax(dim=1).numpy(force=True)
    return (alphabet.answer(said) == ids[places + 1]).astype(float)
