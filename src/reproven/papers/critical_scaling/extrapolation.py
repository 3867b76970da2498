"""Length extrapolation under each rescaling rule, paired over documents: perplexity and needle retrieval."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reproven.data.reference_texts import python_reference
from reproven.harness.context import Context
from reproven.papers.critical_scaling import small_lm
from reproven.papers.critical_scaling.attention import attending
from reproven.papers.critical_scaling.diagnose import Recorder, diagnose
from reproven.papers.critical_scaling.real import documents as real_documents
from reproven.papers.critical_scaling.rules import Calibration, Rescaled

TAIL = 256  # tokens at the end of a text over which its loss is read


def extrapolation(
    ctx: Context,
    *,
    positions: str,
    train_length: int,
    lengths: list[int],
    steps: int,
    batch: int,
    documents: int,
    calibration_documents: int,
    haystacks: int,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    lr: float = 3e-3,
    train_texts: int = 2000,
) -> None:
    """Train a small model at `train_length`, read held-out texts at `lengths` under each rule of ``ctx.methods``.

    Measured by (method, document, n): mean loss in nats over the last tokens, and the share of needles found among
    8 needles in each of `haystacks` versions of the text. Rules that need a calibration get it from texts that
    are in neither set.
    """
    alphabet = small_lm.Alphabet()
    news = ctx.dataset("newsgroups_20")
    train_texts_ = news["train"]["text"][:train_texts]
    tokenizer = small_lm.train_tokenizer(train_texts_[:1000], alphabet.text)
    stream = np.concatenate(small_lm.token_ids(tokenizer, train_texts_))
    held_out = _held_out(tokenizer, news, max(lengths) + 1, documents + calibration_documents)
    seed = ctx.derive("model", positions=positions) % (1 << 31)
    model = small_lm.build_model(alphabet, positions, seed, width=width, layers=layers, heads=heads)
    reader = small_lm.Reader(model, alphabet).to(ctx.device)
    source = small_lm.batches(
        stream,
        alphabet,
        batch=batch,
        length=train_length,
        pairs=8,
        rng=ctx.generator("batches", positions=positions),
    )
    small_lm.train(
        reader,
        source,
        alphabet,
        steps=steps,
        lr=lr,
        on_step=lambda step, loss: ctx.progress(0.6 * step / steps, f"{positions}: loss {loss:.2f}"),
    )
    known = small_calibration(reader, held_out[documents:], train_length, lengths, ctx.generator("rows"))
    _read(ctx, reader, held_out[:documents], lengths, known, haystacks, positions)


def _held_out(tokenizer: Any, news: Any, length: int, count: int) -> list[np.ndarray]:
    """Return held-out texts, every second one from the language reference as long as there are any."""
    posts = [t for t in news["test"]["text"] if len(t) > 2 * length][: 3 * count]
    long = [ids for ids in small_lm.token_ids(tokenizer, posts) if len(ids) >= length]
    (reference,) = small_lm.token_ids(tokenizer, [python_reference()[0].lower()])
    pieces = [reference[a : a + length] for a in range(0, len(reference) - length, length)]
    mixed = [x for pair in zip(long, pieces) for x in pair]
    if len(mixed) < count:
        raise ValueError(f"{len(mixed)} held-out texts of {length} tokens, not {count}: lower one of them")
    return [x[:length] for x in mixed[:count]]


def small_calibration(
    reader: small_lm.Reader,
    texts: list[np.ndarray],
    train_length: int,
    lengths: list[int],
    rng: np.random.Generator,
) -> Calibration:
    """Return the medians of B and of the entropy at n0 and beyond, from haystacks like those to be read."""
    wanted = sorted({train_length, *lengths})
    layers, heads = reader.config.num_hidden_layers, reader.config.num_attention_heads
    scales: list[list[list[np.ndarray]]] = [[[] for _ in range(layers)] for _ in wanted]
    entropies: list[list[np.ndarray]] = [[] for _ in range(layers)]
    for text in texts:
        for i, n in enumerate(wanted):
            ids, places, _ = small_lm.haystack(text[:n], reader.alphabet, rng)
            rows = np.unique(np.concatenate([places, n - 1 - rng.integers(n // 8, size=32)]))
            recorder = Recorder([torch.as_tensor(rows)], sinks=("all",))
            with torch.inference_mode(), attending(reader.model, listener=recorder):
                reader(torch.as_tensor(ids, device=reader.device)[None], body=True)
            for layer in range(layers):
                stats = recorder.found[layer, 0, "all"]
                scales[i][layer].append(stats.scale)
                if i == 0:
                    entropies[layer].append(stats.entropy)
    table = np.array([[np.nanmedian(np.concatenate(c, axis=1), axis=1) for c in row] for row in scales])
    assert table.shape == (len(wanted), layers, heads)
    middle = np.array([np.nanmedian(np.concatenate(c, axis=1), axis=1) for c in entropies])
    return Calibration(train_length, wanted[-1], np.array(wanted), table, middle)


def _read(
    ctx: Context,
    reader: small_lm.Reader,
    texts: list[np.ndarray],
    lengths: list[int],
    known: Calibration,
    haystacks: int,
    positions: str,
) -> None:
    for layer, head in np.ndindex(*known.scales.shape[1:]):
        for n, b in zip(known.lengths, known.scales[:, layer, head]):
            ctx.record(
                "calibrated_scale",
                b,
                unit="1/logit",
                n=n,
                layer=layer,
                head=head,
                positions=positions,
                method="",
            )
    for d, text in enumerate(texts):
        ctx.progress(0.6 + 0.4 * d / len(texts), f"{positions}: text {d}")
        for n in lengths:
            rng = ctx.generator("haystacks", document=d, n=n)
            planted = [small_lm.haystack(text[:n], reader.alphabet, rng) for _ in range(haystacks)]
            at: dict[str, Any] = {"document": d, "n": n, "positions": positions}
            here = Calibration(known.train_length, n, known.lengths, known.scales, known.entropies)
            for name, rule in ctx.methods.items():
                with attending(reader.model, scaler=Rescaled(rule, here)):
                    loss = float(small_lm.token_losses(reader, text[: n + 1])[-TAIL:].mean())
                    hits = [
                        small_lm.retrieval(reader, ids, places, reader.alphabet) for ids, places, _ in planted
                    ]
                ctx.record("loss", loss, unit="nats", direction="lower", method=name, **at)
                ctx.record(
                    "retrieved", float(np.mean(hits)), unit="share", direction="higher", method=name, **at
                )


def pretrained_extrapolation(
    ctx: Context,
    *,
    network: str,
    source: str,
    train_length: int,
    lengths: list[int],
    count: int,
    calibration_documents: int,
) -> None:
    """Loss of a bundled language model beyond its trained positions under each rule, paired over documents.

    source: ``newsgroups_packed`` or ``python_reference`` (see `real.documents`). Calibration has its own documents.
    """
    model, tokenizer = ctx.dataset(network)
    model = model.to(ctx.device)
    model.config.max_position_embeddings = max(model.config.max_position_embeddings, *lengths)
    every = real_documents(
        source,
        tokenizer,
        max(lengths),
        count + calibration_documents,
        newsgroups=ctx.dataset("newsgroups_20") if source == "newsgroups_packed" else None,
    )
    found = diagnose(model, every[count:], [train_length, *lengths], rows=32, sinks=("all",))
    scales = np.nanmedian(found.head_medians(), axis=0)
    entropies = np.nanmedian(found.head_medians("entropy"), axis=0)[0]
    for n, table in zip(found.lengths, scales):
        ratio = float(np.median(table / scales[0]))
        ctx.record("calibrated_growth", ratio, unit="1", n=n, source=source, method="", dataset=network)
    for d, ids in enumerate(every[:count]):
        ctx.progress(d / count, network)
        for n in lengths:
            here = Calibration(train_length, n, np.array(found.lengths), scales, entropies)
            for name, rule in ctx.methods.items():
                with torch.inference_mode(), attending(model, scaler=Rescaled(rule, here)):
                    logits = model(
                        input_ids=ids[None, :n].to(ctx.device), logits_to_keep=TAIL + 1, use_cache=False
                    ).logits[0]
                loss = torch.nn.functional.cross_entropy(
                    logits[:-1].float(), ids[n - TAIL : n].to(ctx.device)
                )
                at: dict[str, Any] = {"document": d, "n": n, "source": source, "dataset": network}
                ctx.record("loss", float(loss), unit="nats", direction="lower", method=name, **at)
