"""Texts: the tab files, the labels, and tokens computed once."""

from __future__ import annotations

import io

import datasets
import pandas as pd
import pytest

from reproven.data import text

HEADER = b"Category\tText\nd\tstring\nclass\t\n"


def test_train_and_test_share_the_classes_of_train(place):
    train = HEADER + b"\t\nb\tsome words\na\tother  words\n"  # the empty line is one of R52's
    place("reuters_r52", {"t-train.tab": train, "t-test.tab": HEADER + b"\nb\tnew words\n"})
    data = text.reuters_r52()
    assert data["train"].features["label"].names == ["a", "b"]
    assert data["train"]["text"][:] == ["some words", "other  words"]
    assert data["train"]["label"][:] == [1, 0]
    assert data["test"]["label"][:] == [1]
    assert data["test"].split == "test"


def test_class_that_train_does_not_know_is_refused(place):
    place("reuters_r8", {"t-train.tab": HEADER + b"a\tx\n", "t-test.tab": HEADER + b"z\ty\n"})
    with pytest.raises(ValueError, match="'z'"):
        text.reuters_r8()


def test_tweets_keep_quotes_and_words_that_look_like_missing_values(place):
    columns = ["Is retweet", "Time", "Author", "Content"]
    rows = [
        ["False", "t1", "realDonaldTrump", '"He said ""no"", then\tleft"'],
        ["True", "t2", "HillaryClinton", "NA"],
    ]
    content = "\n".join("\t".join(row) for row in [columns, ["d"] * 4, [""] * 4, *rows])
    place("election_tweets", {"election.tab": content.encode()})
    data = text.election_tweets()["train"]
    assert data["text"][:] == ['He said "no", then\tleft', "NA"]
    assert data["is_retweet"][:] == [False, True]
    assert data.features["label"].names == ["HillaryClinton", "realDonaldTrump"]
    assert data["label"][:] == [1, 0]


def parquet(sentences: list[str], labels: list[int]) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({"idx": range(len(labels)), "sentence": sentences, "label": labels}).to_parquet(buffer)
    return buffer.getvalue()


def test_sst2_hides_the_labels_of_its_test_part(place):
    place(
        "sst2",
        {
            "data/train-0.parquet": parquet(["good", "bad"], [1, 0]),
            "data/validation-0.parquet": parquet(["fine"], [1]),
            "data/test-0.parquet": parquet(["unknown"], [-1]),
        },
    )
    data = text.sst2()
    assert data["train"]["label"][:] == [1, 0]
    assert data["validation"].features["label"].int2str(1) == "positive"
    assert data["test"]["label"][:] == [-1]


def test_tokens_are_computed_once_and_follow_the_data(place, cache):
    place(
        "reuters_r8", {"t-train.tab": HEADER + b"a\tone two\na\tthree\n", "t-test.tab": HEADER + b"a\tfour\n"}
    )
    calls = []

    def lengths(texts: list[str]) -> dict[str, list]:
        calls.append(list(texts))
        return {"tokens": [[len(word) for word in one.split()] for one in texts]}

    datasets.disable_progress_bars()
    train = text.reuters_r8()["train"]
    first = text.tokenised(train, lengths, key="lengths")
    again = text.tokenised(text.reuters_r8()["train"], lengths, key="lengths")
    assert first["tokens"][:] == again["tokens"][:] == [[3, 3], [5]]
    assert again["label"][:] == [0, 0]
    assert calls == [["one two", "three"]]
    text.tokenised(train, lengths, key="another tokeniser")
    text.tokenised(text.reuters_r8()["test"], lengths, key="lengths")
    text.tokenised(train.select([1]), lengths, key="lengths")
    assert calls[1:] == [["one two", "three"], ["four"], ["three"]]
    assert {path.suffix for path in (cache / "tokenised").iterdir()} == {".arrow"}
