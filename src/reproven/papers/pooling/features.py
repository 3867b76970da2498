"""Token features of a frozen backbone, computed once: a compact store in the cache folder.

A store is a folder ``<cache>/pooling_features/<key>`` with the real tokens of all inputs one after the other
(``values.npy``, read through a memory map), where each input begins (``offsets.npy``), and what it is
(``meta.json``: the specification whose hash is the key, the seconds it took). The specification names model,
data, their digests and every setting of the extraction, so that no store can be taken for another.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor, nn

from reproven.data import provider
from reproven.harness.errors import UserError, did_you_mean

VERSION = 1  # raised whenever the extraction code changes what it returns


@dataclass(frozen=True)
class Tokens:
    """Tokens of many inputs without padding: input i is ``values[offsets[i]:offsets[i + 1]]``, (n_i, d)."""

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Return n_i, (inputs,)."""
        return np.diff(self.offsets)

    @property
    def width(self) -> int:
        """Return d."""
        return int(self.values.shape[1])

    @property
    def longest(self) -> int:
        """Return the largest n_i."""
        return int(self.lengths.max())

    def batch(self, index: np.ndarray, left: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return (tokens (batch, n, d) float32, mask (batch, n)), padded with zeros; mask None where all are as long.

        left: padding in front of the tokens instead of behind.
        """
        index = np.asarray(index)
        starts, counts = self.offsets[index], self.lengths[index]
        n = int(counts.max())
        if (counts == n).all():
            rows = self.values[(starts[:, None] + np.arange(n)).ravel()]
            return torch.from_numpy(rows.astype(np.float32)).view(len(index), n, -1), None
        out = np.zeros((len(index), n, self.width), dtype=np.float32)
        mask = np.zeros((len(index), n), dtype=bool)
        for i, (start, count) in enumerate(zip(starts, counts)):
            place = slice(n - count, n) if left else slice(0, count)
            out[i, place], mask[i, place] = self.values[start : start + count], True
        return torch.from_numpy(out), torch.from_numpy(mask)

    def select(self, index: np.ndarray) -> Tokens:
        """Return these inputs alone, copied into memory."""
        rows = [self.values[self.offsets[i] : self.offsets[i + 1]] for i in index]
        return ragged(rows)

    def permuted(self, rng: np.random.Generator) -> Tokens:
        """Return the same tokens in random order within each input: what a local task cannot survive."""
        order = np.lexsort((rng.random(len(self.values)), np.repeat(np.arange(len(self)), self.lengths)))
        return Tokens(np.asarray(self.values)[order], self.offsets)


def ragged(rows: Sequence[np.ndarray]) -> Tokens:
    """Return Tokens of a list of (n_i, d) arrays."""
    if not rows or min(len(r) for r in rows) == 0:
        raise ValueError("every input needs at least one token")
    return Tokens(np.concatenate(rows), np.cumsum([0, *(len(r) for r in rows)]))


def dense(values: np.ndarray) -> Tokens:
    """Return Tokens of an (inputs, n, d) array."""
    inputs, n, d = values.shape
    return Tokens(values.reshape(inputs * n, d), np.arange(inputs + 1) * n)


def stored(
    specification: Mapping[str, Any], make: Callable[[], Tokens], folder: Path | None = None
) -> tuple[Tokens, dict[str, Any]]:
    """Return the tokens of a specification and their record, made by `make` unless they are in the store.

    specification: JSON values alone; its hash is the key. folder: the store, by default in the cache. Only one process
    makes an entry; others wait. The record has ``seconds`` of making it, ``bytes`` and the specification.
    """
    described = {**specification, "version": VERSION}
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:24]
    root = folder or provider.cache_folder() / "pooling_features"
    root.mkdir(parents=True, exist_ok=True)
    home = root / key
    with filelock.FileLock(root / f".{key}.lock"):
        record = _record(home)
        if record is None:
            start = time.perf_counter()
            tokens = make()
            _keep(home, tokens, {"specification": described, "seconds": time.perf_counter() - start})
            record = _record(home)
            assert record is not None
    values = np.load(home / "values.npy", mmap_mode="r")
    return Tokens(values, np.load(home / "offsets.npy")), record


def _record(home: Path) -> dict[str, Any] | None:
    """Return the record of a whole entry, else None."""
    try:
        record = json.loads((home / "meta.json").read_text(encoding="utf-8"))
        whole = (home / "values.npy").stat().st_size == record["bytes"]
    except (OSError, ValueError, KeyError):
        return None
    return record if whole else None


def _keep(home: Path, tokens: Tokens, record: dict[str, Any]) -> None:
    partial = home.with_name(f".partial-{home.name}")
    for left in (partial, home):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / "values.npy", tokens.values)
    np.save(partial / "offsets.npy", tokens.offsets)
    record["bytes"] = (partial / "values.npy").stat().st_size
    (partial / "meta.json").write_text(json.dumps(record), encoding="utf-8")
    os.replace(partial, home)


def encode_texts(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_tokens: int,
    precision: str = "float32",
    layer: str | None = None,
    batch_tokens: int = 4096,
    progress: Callable[[float], None] | None = None,
) -> Tokens:
    """Return the last hidden states of a transformers model, float16, for every text cut to `max_tokens` tokens.

    precision: of the model while it runs, ``float32`` or ``bfloat16``. layer: name of another module whose output is
    taken instead. Texts of like length share a batch of at most `batch_tokens` tokens, padded on the right.
    UserError: a text without tokens, a layer that the model lacks.
    """
    rows = token_ids(tokenizer, texts, max_tokens)
    model = model.to(getattr(torch, precision)).eval()
    hidden: list[np.ndarray] = [np.empty(0)] * len(rows)
    done = 0
    with torch.inference_mode(), _tap(model, layer) as tapped:
        for group in length_groups(np.array([len(r) for r in rows]), batch_tokens):
            n = max(len(rows[i]) for i in group)
            ids = torch.zeros(len(group), n, dtype=torch.long)
            mask = torch.zeros(len(group), n, dtype=torch.long)
            for place, i in enumerate(group):
                ids[place, : len(rows[i])], mask[place, : len(rows[i])] = torch.tensor(rows[i]), 1
            out = model(input_ids=ids, attention_mask=mask)
            states = tapped[-1] if layer is not None else out.last_hidden_state
            kept = states.half().numpy()
            for place, i in enumerate(group):
                hidden[i] = kept[place, : len(rows[i])]
            tapped.clear()
            done += len(group)
            if progress is not None:
                progress(done / len(rows))
    return ragged(hidden)


def token_ids(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Return the tokens of every text, cut; UserError where a text has none but those that the tokeniser adds."""
    if not texts:
        raise UserError("there is no text to encode; give at least one")
    bare = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    for i, ids in enumerate(bare):
        if not ids:
            raise UserError(f"text {i} ({texts[i]!r}) has no tokens; drop empty texts first")
    return tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]


def length_groups(lengths: np.ndarray, batch_tokens: int) -> list[list[int]]:
    """Return groups of inputs of like length whose padded size stays within `batch_tokens` (one input at least)."""
    groups: list[list[int]] = []
    for i in np.argsort(-lengths, kind="stable"):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= batch_tokens:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    return groups


class _tap:
    """While entered, collect what a named layer returns."""

    def __init__(self, model: nn.Module, layer: str | None) -> None:
        self.handle: Any = None
        self.seen: list[Tensor] = []
        if layer is None:
            return
        modules = dict(model.named_modules())
        if layer not in modules:
            raise UserError(
                f"the model has no layer {layer!r}{did_you_mean(layer, [m for m in modules if m])}"
            )
        self.handle = modules[layer].register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen.append(output[0] if isinstance(output, tuple) else output)

    def __enter__(self) -> list[Tensor]:
        return self.seen

    def __exit__(self, *problem: object) -> None:
        if self.handle is not None:
            self.handle.remove()
