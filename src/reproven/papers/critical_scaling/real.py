"""Real transformers: the diagnostic on every head, over lengths, documents and text sources (dossier section 5)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from reproven.data.hub import revision
from reproven.data.reference_texts import python_reference
from reproven.harness.context import Context
from reproven.harness.errors import Blocked, UserError
from reproven.papers.critical_scaling.diagnose import Diagnosis, diagnose
from reproven.papers.critical_scaling.exponents import LAWS, bootstrap_exponents, choose_law, fit_exponent

SOURCES = ("newsgroups", "newsgroups_packed", "python_reference")


def documents(
    source: str, tokenizer: Any, length: int, count: int, *, newsgroups: Any = None, skip: int = 0
) -> list[torch.Tensor]:
    """Return `count` documents of `length` tokens each, after the first `skip`; UserError where there are fewer.

    newsgroups: the loaded data set; its posts that are long enough, in order; packed, its posts one behind the other
    until there is enough. The language reference is one text, cut in pieces that do not overlap.
    """
    if source == "newsgroups":
        # Posts of fewer characters than two a token cannot be long enough: most need no tokenising.
        texts = (t for t in newsgroups["train"]["text"] if len(t) > 2 * length)
        pieces = (torch.as_tensor(_ids(tokenizer, t)) for t in texts)
        found = list(itertools.islice((p[:length] for p in pieces if len(p) >= length), skip + count))[skip:]
    elif source == "newsgroups_packed":
        stream: list[int] = []
        for text in newsgroups["train"]["text"]:
            if len(stream) >= (skip + count) * length:
                break
            stream += _ids(tokenizer, text + "\n")
        ids = torch.as_tensor(stream)
        found = [ids[a : a + length] for a in range(0, len(ids) - length + 1, length)][skip : skip + count]
    elif source == "python_reference":
        ids = torch.as_tensor(_ids(tokenizer, python_reference()[0]))
        found = [ids[a : a + length] for a in range(0, len(ids) - length + 1, length)][skip : skip + count]
    else:
        raise UserError(f"source {source!r} is not one of {', '.join(SOURCES)}")
    if len(found) < count:
        raise UserError(
            f"{source} has {len(found)} documents of {length} tokens, not {count}: lower one of them"
        )
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def heads(
    ctx: Context, *, network: str, source: str, lengths: list[int], count: int, rows: int, mode: list[str]
) -> None:
    """Diagnose a bundled network on `count` documents of one source: maps, exponents, laws, what was left out.

    network: the data set that holds (model, tokenizer); the others hold texts. mode: prefix, subsample.
    """
    model, tokenizer = ctx.dataset(network)
    model = model.to(ctx.device)
    texts = documents(source, tokenizer, max(lengths), count, newsgroups=_newsgroups(ctx, source))
    ctx.record(
        "text_digest", int(python_reference()[1][:12], 16), unit="first 48 bits", source=source, dataset=""
    )
    for number, way in enumerate(mode):
        found = diagnose(
            model,
            texts,
            lengths,
            rows=rows,
            mode=way,
            seed=ctx.derive("rows") % (1 << 31),
            progress=lambda share, number=number: ctx.progress((number + share) / len(mode), network),
        )
        where = {"network": network, "source": source, "mode": way, "dataset": network}
        record_heads(ctx, found, where)
        record_exponents(ctx, found, where)


def record_heads(ctx: Context, found: Diagnosis, where: dict[str, str]) -> None:
    """Record medians of B by head, and by document what is read over all heads."""
    shape = found.head_medians().shape
    axes = np.indices(shape).reshape(4, -1)
    place = {
        "document": axes[0],
        "n": np.array(found.lengths)[axes[1]],
        "layer": axes[2],
        "head": axes[3],
    }
    medians = {}
    for keys in found.stats:
        medians[keys] = found.head_medians(keys=keys)
        good = ~np.isnan(medians[keys].ravel())
        columns = {k: v[good] for k, v in place.items()}
        values = medians[keys].ravel()[good]
        ctx.record_many("head_scale", values, unit="1/logit", keys=keys, **columns, **where)
    _record_documents(ctx, found, medians, where)
    for keys, stats in found.stats.items():
        ok = stats.ok
        broken = (stats.p_max[ok] < 1 - stats.scale[ok] - 1e-5).sum()
        outside = (stats.beta[ok] < stats.scale[ok] * 0.99) | (stats.beta[ok] > stats.scale[ok] * 3.03)
        ctx.record("certificate_violations", broken, unit="rows", direction="lower", keys=keys, **where)
        ctx.record("bracket_violations", outside.sum(), unit="rows", direction="lower", keys=keys, **where)
        ctx.record("rows", ok.size, unit="rows", keys=keys, **where)
        for reason, number in stats.excluded().items():
            ctx.record("rows_excluded", number, unit="rows", keys=keys, reason=reason, **where)


def _record_documents(
    ctx: Context, found: Diagnosis, medians: dict[str, np.ndarray], where: dict[str, str]
) -> None:
    logs = {keys: np.log(table) for keys, table in medians.items()}
    beta = {keys: found.head_medians("beta", keys) for keys in medians}
    entropy = found.head_medians("entropy")
    depth = {keys: found.head_medians("depth", keys) for keys in medians}
    for d, i in itertools.product(range(len(medians["all"])), range(len(found.lengths))):
        at: dict[str, Any] = {"document": d, "n": found.lengths[i], **where}
        for keys, table in medians.items():
            b = table[d, i]
            ctx.record("scale", np.nanmedian(b), unit="1/logit", keys=keys, **at)
            ctx.record("beta_two_thirds", np.nanmedian(beta[keys][d, i]), unit="1/logit", keys=keys, **at)
            ctx.record("depth", np.nanmedian(depth[keys][d, i]), unit="keys", keys=keys, **at)
            ctx.record("share_condensed", np.nanmean(b < 1), unit="1", keys=keys, **at)
        ctx.record("relative_entropy", np.nanmean(entropy[d, i]) / np.log(found.lengths[i]), unit="1", **at)
        ctx.record("log_sink_ratio", np.nanmean(logs["no_first"][d, i] - logs["all"][d, i]), unit="log", **at)
        layers = np.nanmedian(medians["all"][d, i], axis=-1)
        late = layers[len(layers) // 2 :]
        ctx.record("layer_scale", layers[0], unit="1/logit", layers="first", **at)
        ctx.record("layer_scale", float(np.median(late)), unit="1/logit", layers="later half", **at)


def record_exponents(ctx: Context, found: Diagnosis, where: dict[str, str]) -> None:
    """Record xi of every head with its document bootstrap, and the law that fits best."""
    table = found.head_medians()
    if len(table) < 2 or len(found.lengths) < 4:
        return
    fit = bootstrap_exponents(np.array(found.lengths), table, ctx.generator("bootstrap"))
    layer, head = (x.ravel() for x in np.indices(fit.value.shape))
    for name, values in (("value", fit.value), ("low", fit.low), ("high", fit.high)):
        ctx.record_many("head_exponent", values.ravel(), unit="1", end=name, layer=layer, head=head, **where)
    middle = np.moveaxis(np.nanmedian(table, axis=0), 0, -1)
    best, _ = choose_law(np.array(found.lengths), middle)
    for i, law in enumerate(LAWS):
        ctx.record("share_of_heads", float((best == i).mean()), unit="1", law=law, **where)
    for d, each in enumerate(table):
        xi = fit_exponent(np.array(found.lengths), np.moveaxis(each, 0, -1))
        ctx.record("exponent", float(np.nanmedian(xi)), unit="1", document=d, **where)


def _newsgroups(ctx: Context, source: str) -> Any:
    return ctx.dataset("newsgroups_20") if source == "newsgroups" else None


def hub_heads(
    ctx: Context, *, repository: str, corpus: str, lengths: list[int], count: int, rows: int, mode: list[str]
) -> None:
    """Diagnose a model of the Hugging Face hub from the local hub cache, on a corpus from there (paper tier)."""
    model, tokenizer = hub_model(repository, ctx.device)
    texts = hub_documents(corpus, tokenizer, max(lengths), count)
    for way in mode:
        found = diagnose(model, texts, lengths, rows=rows, mode=way, seed=ctx.derive("rows") % (1 << 31))
        where = {"network": repository, "source": corpus, "mode": way}
        record_heads(ctx, found, where)
        record_exponents(ctx, found, where)


def hub_model(repository: str, device: str) -> tuple[Any, Any]:
    """Return (model, tokenizer) from the local hub cache or a local folder; Blocked where it is not there."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        pin: dict[str, Any] = {"revision": revision(repository), "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(repository, **pin)
        model = AutoModelForCausalLM.from_pretrained(repository, dtype=torch.float32, **pin)
    except (OSError, ValueError) as error:
        at = f" --revision {revision(repository)}" if revision(repository) else ""
        remedy = f"huggingface-cli download {repository}{at}, then run again"
        raise Blocked(
            f"model {repository!r} is not in the local hub cache ({type(error).__name__}): {remedy}"
        ) from None
    return model.eval().to(device), tokenizer


def hub_documents(corpus: str, tokenizer: Any, length: int, count: int) -> list[torch.Tensor]:
    """Return documents of a corpus: a folder of .txt files, or a hub data set in the local cache with a text column."""
    from pathlib import Path

    folder = Path(corpus)
    if folder.is_dir():
        texts: Any = (p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.txt")))
    else:
        texts = _hub_texts(corpus)
    pieces = (torch.as_tensor(_ids(tokenizer, t)) for t in texts)
    found = list(itertools.islice((p[:length] for p in pieces if len(p) >= length), count))
    if len(found) < count:
        raise UserError(
            f"{corpus} has {len(found)} documents of {length} tokens, not {count}: lower one of them"
        )
    return found


def _hub_texts(corpus: str) -> Any:
    import datasets

    try:
        loaded = datasets.load_dataset(
            corpus, split="train", revision=revision(corpus), download_mode="reuse_cache_if_exists"
        )
    except Exception as error:  # the package raises what its loaders raise
        raise Blocked(
            f"corpus {corpus!r} is not in the local hub cache ({type(error).__name__}): load it once with "
            f"datasets.load_dataset(..., revision={revision(corpus)!r}), or name a folder of .txt files instead"
        ) from None
    return (row["text"] for row in loaded)
