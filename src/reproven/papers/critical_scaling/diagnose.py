"""`diagnose(model, texts, lengths)`: the critical scale of every head of a Hugging Face model, with intervals.

Query rows are sampled at each length n, their logits recomputed inside the attention call, reduced to a few numbers
and dropped; attention maps are never stored. Two ways to come to n keys (dossier 3.3):

* ``prefix``: rows whose own context holds n keys (within one eighth). Causal models need one pass for all lengths.
* ``subsample``: rows of the longest context, each with n of its keys drawn uniformly: isolates the tail's law from
  position and topic.

Everything is reported with all keys and without the first one (the attention sink).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.harness.errors import UserError
from reproven.papers.critical_scaling.attention import Call, attending
from reproven.papers.critical_scaling.fast import fast_stats
from reproven.papers.critical_scaling.on_device import device_stats
from reproven.papers.critical_scaling.rows import REASONS, RowStats, row_stats
from reproven.papers.critical_scaling.rules import Calibration

MODES = ("prefix", "subsample")
SINKS = ("all", "no_first")  # which keys count
BAND = 8  # rows of length n have more than n - n / BAND keys, and at most n
TOGETHER = 32  # rows reduced at a time: all are as wide as the longest of them, so few waste little


@dataclass(frozen=True)
class Diagnosis:
    """Statistics by (document, length, layer, head, row), one `RowStats` with all keys and one without the first.

    lengths: the n that were read. stats: ``"all"`` and ``"no_first"``. skipped: documents shorter than the longest
    length, by their number. mode: how n was reached.
    """

    lengths: tuple[int, ...]
    stats: dict[str, RowStats]
    skipped: tuple[int, ...]
    mode: str

    def head_medians(self, field_name: str = "scale", keys: str = "all") -> np.ndarray:
        """Return the median over sampled rows, (documents, lengths, layers, heads); excluded rows left out.

        NaN where a head had no usable row. Medians because B has no mean when k* = 1.
        """
        values = np.array(getattr(self.stats[keys], field_name), dtype=float)
        values[~self.stats[keys].ok] = np.nan
        empty = np.isnan(values).all(axis=-1)
        values[empty] = 0.0
        return np.where(empty, np.nan, np.nanmedian(values, axis=-1))

    def excluded(self) -> dict[str, dict[str, int]]:
        """Return how many rows were left out, for which reason, with all keys and without the first."""
        return {name: stats.excluded() for name, stats in self.stats.items()}

    def summary(self) -> str:
        """Return a few lines: medians over heads by length, and what was left out."""
        lines = [f"{'n':>6} {'B, all keys':>12} {'B, no first':>12} {'share B < 1':>12}"]
        everything, rest = (self.head_medians(keys=k if k in self.stats else "all") for k in SINKS)
        for i, n in enumerate(self.lengths):
            b, r = (table[:, i][~np.isnan(table[:, i])] for table in (everything, rest))
            lines.append(f"{n:>6} {np.median(b):>12.3f} {np.median(r):>12.3f} {np.mean(b < 1):>12.2f}")
        lost = {k: v for k, v in self.excluded()["all"].items() if v}
        lines.append(f"rows left out: {lost or 'none'}; documents too short: {len(self.skipped)}")
        return "\n".join(lines)


@dataclass
class Recorder:
    """Listens to one pass and keeps row statistics of some query positions.

    positions: for each group (a length), the query positions to look at. subsets: for each group the keys that
    count (None: all up to the longest row). sinks: which variants of `SINKS` to compute.
    """

    positions: Sequence[Tensor]
    subsets: Sequence[Tensor | None] = ()
    sinks: Sequence[str] = SINKS
    found: dict[tuple[int, int, str], RowStats] = field(default_factory=dict)
    causal: bool = False

    def see(self, call: Call) -> None:
        """Reduce the rows of one layer."""
        if call.query.shape[2] != call.key.shape[2]:
            return  # cross-attention or a cached step: rows of another kind
        self.causal |= call.causal
        for group, rows in enumerate(self.positions):
            keys = self.subsets[group] if self.subsets else None
            parts = []
            for some in rows.split(TOGETHER):
                reach = int(call.reach_of(some).max()) if keys is None else keys
                parts.append(_reduce(call.logits(some, reach), self.sinks))
            for name in self.sinks:
                self.found[call.layer, group, name] = _joined([part[name] for part in parts], axis=1)

    def layers(self) -> int:
        """Return how many layers were heard."""
        return len({layer for layer, _, _ in self.found})


def _reduce(logits: Tensor, sinks: Sequence[str]) -> dict[str, RowStats]:
    """Return the statistics of (1, heads, rows, keys) logits as (heads, rows) arrays, for each of `sinks`."""
    _, heads, rows, n = logits.shape
    flat = logits.detach().reshape(-1, n).float()
    firsts = [1 if name == "no_first" else 0 for name in sinks]
    if flat.device.type == "cpu":
        found = [fast_stats(flat.numpy(), first) for first in firsts]
    elif n < 3:
        found = [row_stats(flat[:, first:]) for first in firsts]
    else:
        found = device_stats(flat, firsts)
    return {
        name: RowStats(*(np.asarray(v).reshape(heads, rows) for v in vars(stats).values()))
        for name, stats in zip(sinks, found)
    }


def diagnose(
    model: nn.Module,
    texts: Sequence[Any],
    lengths: Sequence[int],
    *,
    tokenizer: Any | None = None,
    rows: int = 16,
    mode: str = "prefix",
    seed: int = 0,
    sinks: Sequence[str] = SINKS,
    progress: Any | None = None,
) -> Diagnosis:
    """Measure B, k*, p_max, entropy and beta_{2/3} of every head at each length.

    model: a transformers model. texts: strings (with `tokenizer`) or sequences of token ids; those shorter than the
    longest length are skipped and counted. lengths: ascending, at least 2. rows: query rows a head, length and
    document. seed: of the sampled rows and keys, the same for all documents. Example::

        found = diagnose(model, texts, [128, 512, 2048], tokenizer=tokenizer)
        print(found.summary())
    """
    wanted = _checked(model, lengths, rows, mode, sinks)
    ids, skipped = _token_ids(texts, wanted[-1], tokenizer)
    if not ids:
        raise UserError(f"no text has {wanted[-1]} tokens: give longer texts or smaller lengths")
    rng = np.random.default_rng(seed)
    documents = []
    for number, document in enumerate(ids):
        documents.append(_document(model, document, wanted, rows, mode, sinks, rng))
        if progress is not None:
            progress((number + 1) / len(ids))
    stats = {
        name: RowStats(*(np.stack(column) for column in zip(*(vars(d[name]).values() for d in documents))))
        for name in sinks
    }
    return Diagnosis(tuple(wanted), stats, tuple(skipped), mode)


def _document(
    model: nn.Module,
    ids: Tensor,
    lengths: list[int],
    rows: int,
    mode: str,
    sinks: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, RowStats]:
    """Return statistics of one document, each field (lengths, layers, heads, rows)."""
    longest = lengths[-1]
    recorder = Recorder([], sinks=sinks)
    causal = _is_causal(model)
    if mode == "subsample":
        at = _band(longest, rows, rng) if causal else _anywhere(longest, rows, rng)
        room = int(at.min()) + 1 if causal else longest
        if lengths[0] < 2 or room < 2:
            raise UserError(f"length {lengths[0]} leaves no key to draw")
        subsets = [_key_subset(min(n, room), room, rng) for n in lengths]
        recorder = Recorder([at] * len(lengths), subsets, sinks)
        _pass(model, ids[:longest], recorder)
        return _gathered(recorder, len(lengths), sinks)
    if causal:
        recorder = Recorder([_band(n, rows, rng) for n in lengths], sinks=sinks)
        _pass(model, ids[:longest], recorder)
        return _gathered(recorder, len(lengths), sinks)
    parts = []
    for n in lengths:
        recorder = Recorder([_anywhere(n, rows, rng)], sinks=sinks)
        _pass(model, ids[:n], recorder)
        parts.append(_gathered(recorder, 1, sinks))
    return {name: _joined([part[name] for part in parts], axis=0) for name in sinks}


def _joined(parts: Sequence[RowStats], axis: int) -> RowStats:
    if len(parts) == 1:
        return parts[0]
    return RowStats(*(np.concatenate(column, axis) for column in zip(*(vars(p).values() for p in parts))))


def _pass(model: nn.Module, ids: Tensor, recorder: Recorder) -> None:
    """Run the model's body once; a language model's output layer is not needed."""
    body = getattr(model, "base_model", model)
    with torch.inference_mode(), attending(model, listener=recorder):
        body(input_ids=ids[None].to(next(model.parameters()).device))


def _gathered(recorder: Recorder, groups: int, sinks: Sequence[str]) -> dict[str, RowStats]:
    layers = sorted({layer for layer, _, _ in recorder.found})
    result = {}
    for name in sinks:
        columns = []
        for column in RowStats.__dataclass_fields__:
            table = [[getattr(recorder.found[i, g, name], column) for i in layers] for g in range(groups)]
            columns.append(np.array(table))
        result[name] = RowStats(*columns)
    return result


def _is_causal(model: nn.Module) -> bool:
    """Tell whether the model's self-attention looks back only: as its attention modules say."""
    flags = [m.is_causal for m in model.modules() if isinstance(getattr(m, "is_causal", None), bool)]
    return any(flags) if flags else True


def _band(n: int, rows: int, rng: np.random.Generator) -> Tensor:
    """Return sorted positions of rows with (n - n / BAND, n] keys, distinct where there are enough."""
    width = max(1, n // BAND)
    return torch.as_tensor(np.sort(n - width + rng.choice(width, rows, replace=rows > width)))


def _anywhere(n: int, rows: int, rng: np.random.Generator) -> Tensor:
    return torch.as_tensor(np.sort(rng.choice(n, rows, replace=rows > n)))


def _key_subset(n: int, room: int, rng: np.random.Generator) -> Tensor:
    """Return the first key and n - 1 others of the first `room`, sorted: the sink is there to be left out."""
    return torch.as_tensor(np.sort(np.append(0, 1 + rng.choice(room - 1, n - 1, replace=False))))


def _checked(
    model: nn.Module, lengths: Sequence[int], rows: int, mode: str, sinks: Sequence[str]
) -> list[int]:
    wanted = sorted({int(n) for n in lengths})
    if not wanted or wanted[0] < 2:
        raise UserError(f"lengths {list(lengths)}: a row needs at least two keys")
    if rows < 1:
        raise UserError(f"rows={rows} must be at least 1")
    if mode not in MODES:
        raise UserError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    for name in sinks:
        if name not in SINKS:
            raise UserError(f"sink variant {name!r} is not one of {', '.join(SINKS)}")
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if most is not None and wanted[-1] > most:
        raise UserError(
            f"length {wanted[-1]} is beyond the model's {most} positions: "
            "shorten it, or raise max_position_embeddings on purpose"
        )
    return wanted


def _token_ids(texts: Sequence[Any], longest: int, tokenizer: Any | None) -> tuple[list[Tensor], list[int]]:
    """Return the ids of texts that are long enough, and the numbers of those that are not."""
    ids, skipped = [], []
    for number, text in enumerate(texts):
        if isinstance(text, str):
            if tokenizer is None:
                raise UserError("texts are strings: pass tokenizer=, or token ids")
            text = tokenizer(text, truncation=True, max_length=longest, verbose=False)["input_ids"]
        one = torch.as_tensor(text, dtype=torch.long)
        if len(one) < longest:
            skipped.append(number)
        else:
            ids.append(one[:longest])
    return ids, skipped


def calibrate(
    model: nn.Module,
    documents: Sequence[Tensor],
    train_length: int,
    lengths: Sequence[int],
    *,
    rows: int = 32,
    seed: int = 0,
    keys: str = "all",
) -> Calibration:
    """Measure what the B-rule and the entropy target need: per-head medians of B at n0 and beyond, entropy at n0.

    documents: token ids of texts that no test uses. lengths: beyond `train_length`; it is added in front.
    """
    wanted = sorted({train_length, *lengths})
    if wanted[0] < train_length:
        raise UserError(
            f"length {wanted[0]} is below the training length {train_length}: the rule starts there"
        )
    found = diagnose(model, documents, wanted, rows=rows, seed=seed, sinks=(keys,))
    scales = _over_documents(found, "scale", keys)
    return Calibration(
        train_length=train_length,
        read_length=wanted[-1],
        lengths=np.array(wanted),
        scales=scales,
        entropies=_over_documents(found, "entropy", keys)[0],
    )


def _over_documents(found: Diagnosis, name: str, keys: str) -> np.ndarray:
    """Return the median over all rows of all documents, (lengths, layers, heads); UserError without any row."""
    stats = found.stats[keys]
    values = np.where(stats.ok, getattr(stats, name), np.nan)
    values = np.moveaxis(values, 0, -1).reshape(*values.shape[1:4], -1)
    if np.isnan(values).all(axis=-1).any():
        raise UserError(f"a head has no usable row ({', '.join(REASONS.values())}): nothing to calibrate on")
    return np.nanmedian(values, axis=-1)
