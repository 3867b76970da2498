"""Texts as Hugging Face data sets: columns ``text`` and ``label``, split as published."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa

from reproven.data import provider

Encode = Callable[[list[str]], dict[str, list]]


def newsgroups_20() -> datasets.DatasetDict:
    """20 newsgroups, by date; letters only, lower case (A. Cardoso-Cachopo's all-terms version)."""
    return _train_test("newsgroups_20")


def reuters_r8() -> datasets.DatasetDict:
    """Reuters-21578, documents of one topic, the 8 most frequent topics; letters only, lower case."""
    return _train_test("reuters_r8")


def reuters_r52() -> datasets.DatasetDict:
    """Reuters-21578, documents of one topic, all 52 such topics; letters only, lower case."""
    return _train_test("reuters_r52")


def election_tweets() -> datasets.DatasetDict:
    """Tweets of the two candidates of 2016, label = account; no official split, so all is ``train``.

    Further columns: ``is_retweet`` (bool) and ``time`` (as printed).
    """
    table = _tab_file(provider.locate("election_tweets"))
    more = {"is_retweet": table["Is retweet"] == "True", "time": table["Time"]}
    classes = sorted(set(table["Author"]))
    train = _dataset("election_tweets", "train", table["Content"], table["Author"], classes, more)
    return datasets.DatasetDict(train=train)


def sst2() -> datasets.DatasetDict:
    """Stanford sentiment treebank, two classes, sentences: train, validation, test (label -1: hidden)."""
    splits = {}
    classes = ["negative", "positive"]
    for split, path in zip(("train", "validation", "test"), provider.locate_all("sst2"), strict=True):
        table = pd.read_parquet(path)
        labels = table["label"].map({-1: None, 0: "negative", 1: "positive"})
        splits[split] = _dataset("sst2", split, table["sentence"], labels, classes)
    return datasets.DatasetDict(splits)


def tokenised(texts: datasets.Dataset, encode: Encode, key: str, batch_size: int = 1000) -> datasets.Dataset:
    """Add the columns of ``encode(list of texts)``; computed once and kept in the cache.

    key: names the tokeniser and its settings, whatever changes what `encode` returns (for a pretrained
        tokeniser its digest, and the greatest length). The data are known by their own fingerprint, which
        follows the digest of the files and every selection made since.
    """
    fingerprint = hashlib.sha256(f"{texts._fingerprint}\n{key}".encode()).hexdigest()[:40]
    folder = provider.cache_folder() / "tokenised"
    folder.mkdir(parents=True, exist_ok=True)
    return texts.map(
        encode,
        input_columns="text",
        batched=True,
        batch_size=batch_size,
        cache_file_name=str(folder / f"{fingerprint}.arrow"),
        load_from_cache_file=True,
        new_fingerprint=fingerprint,
    )


def _train_test(name: str) -> datasets.DatasetDict:
    tables = (_tab_file(path) for path in provider.locate_all(name))
    train, test = (table[table["Category"] != ""] for table in tables)  # R52 has one line without anything
    classes = sorted(set(train["Category"]))
    return datasets.DatasetDict(
        {
            split: _dataset(name, split, table["Text"], table["Category"], classes)
            for split, table in (("train", train), ("test", test))
        }
    )


def _tab_file(path: Path) -> pd.DataFrame:
    """Tab-separated, quoted, with three header lines: names, types, roles."""
    return pd.read_csv(path, sep="\t", skiprows=[1, 2], dtype=str, keep_default_na=False, encoding="utf-8")


def _dataset(
    name: str,
    split: str,
    text: pd.Series,
    labels: pd.Series,
    classes: list[str],
    more: Mapping[str, pd.Series] | None = None,
) -> datasets.Dataset:
    """One split; a label that is no class (hidden) becomes -1, an unknown one is an error."""
    strange = set(labels.dropna()) - set(classes)
    if strange:
        raise ValueError(f"{name} {split}: labels {sorted(strange)} are not among the classes {classes}")
    codes = pd.Categorical(labels, categories=classes).codes.astype("int64")
    columns = {"text": pa.array(text, pa.string()), "label": pa.array(codes)}
    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=classes)}
    for column, values in (more or {}).items():
        columns[column] = pa.array(values)
        kinds[column] = datasets.Value("bool" if values.dtype == bool else "string")
    features = datasets.Features(kinds)
    table = pa.table(columns).cast(features.arrow_schema)
    fingerprint = f"{name}-{split}-{provider.digest(name)[:16]}"
    info = datasets.DatasetInfo(features=features)
    return datasets.Dataset(table, info=info, split=datasets.NamedSplit(split), fingerprint=fingerprint)
