"""An empty cache, a local index and cards: what `fetch` meets, without a network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_package import FILES, make_card

from reproven.data import provider
from reproven.data.cards import Card


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in a folder whose name has a blank and letters outside ASCII."""
    folder = tmp_path / "Zwischenspeicher für Daten" / "ü"
    monkeypatch.setenv("REPROVEN_CACHE", str(folder))
    monkeypatch.setattr(provider, "_digests", {})
    return folder


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks, by the user's own settings."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, Card]:
    """Two cards of the package ``tiny-data``: one file, and a train and a test file."""
    a, train, test = FILES
    made = {
        "tiny_a": make_card("tiny_a", {a: FILES[a]}),
        "tiny_b": make_card("tiny_b", {train: FILES[train], test: FILES[test]}),
    }
    monkeypatch.setattr(provider, "CARDS", made)
    return made


@pytest.fixture
def filled(cache: Path, index: Path, cards: dict[str, Card]) -> Path:
    """The cache with both cards in it, and nothing on the index."""
    for card in cards.values():
        for path, member in zip(provider._paths(card), card.members, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(FILES[member.path])
    return cache


@pytest.fixture
def pip_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """How often pip was started, in this process and its forks."""
    log = tmp_path / "pip.log"
    run = provider.subprocess.run

    def counted(command, **kwargs):
        with log.open("a") as file:
            file.write("x")
        return run(command, **kwargs)

    monkeypatch.setattr(provider.subprocess, "run", counted)
    return lambda: len(log.read_text()) if log.exists() else 0


@pytest.fixture
def place(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, bytes]], None]:
    """Put files into the cache under a card that is made for them."""
    made: dict[str, Card] = {}
    monkeypatch.setattr(provider, "CARDS", made)

    def put(name: str, files: dict[str, bytes]) -> None:
        made[name] = make_card(name, files)
        for path, file in zip(provider._paths(made[name]), files.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)

    return put
