"""Publishers' own files: the real download code against a folder or a server of this machine."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_package import make_card

from reproven.data import images, provider
from reproven.harness.errors import Blocked, UserError

CONTENT = b"what the publisher serves\n"


@pytest.fixture
def archive(cache, tmp_path, monkeypatch) -> Path:
    """A publisher's folder, and a card whose file lies in it."""
    folder = tmp_path / "publisher"
    folder.mkdir()
    card = make_card(
        "tiny", {"tiny.bin": CONTENT}, provider="archive", source="A. Nobody", extras={"url": folder.as_uri()}
    )
    monkeypatch.setattr(provider, "CARDS", {"tiny": card})
    return folder


def test_archive_is_downloaded_and_verified(archive):
    (archive / "tiny.bin").write_bytes(CONTENT)
    told = []
    path = provider.fetch("tiny", lambda fraction, label: told.append(fraction))
    assert path.read_bytes() == CONTENT
    assert told[-1] == 1.0


def test_archive_of_another_content_is_refused(archive, cache):
    (archive / "tiny.bin").write_bytes(CONTENT + b"!")
    with pytest.raises(UserError, match=r"tiny\.bin"):
        provider.fetch("tiny")
    assert not list(cache.rglob("tiny.bin"))


def test_offline_says_what_to_place_where(archive, cache):
    with pytest.raises(Blocked) as error:
        provider.fetch("tiny")
    text = str(error.value)
    assert "\n" not in text
    digest = hashlib.sha256(CONTENT).hexdigest()
    folder = cache / f"tiny-{digest[:12]}"
    assert f"place tiny.bin (sha256 {digest}) of A. Nobody in {folder}" in text
    folder.mkdir()  # what the line asks for
    (folder / "tiny.bin").write_bytes(CONTENT)
    assert provider.fetch("tiny") == provider.locate("tiny") == folder / "tiny.bin"


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def served() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The address of a server on this machine, and what it serves: path -> content."""
    files: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)  # what a hub adds
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if content is not None and self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


def idx(values: np.ndarray) -> bytes:
    shape = struct.pack(f">{values.ndim}i", *values.shape)
    return gzip.compress(bytes([0, 0, 8, values.ndim]) + shape + values.astype(np.uint8).tobytes())


def test_torchvision_downloads_and_mnist_is_read(cache, served, monkeypatch):
    import torchvision.datasets

    rng = np.random.default_rng(0)
    parts = {
        "train-images-idx3-ubyte.gz": rng.integers(0, 256, (5, 28, 28)),
        "train-labels-idx1-ubyte.gz": np.array([3, 1, 4, 1, 5]),
        "t10k-images-idx3-ubyte.gz": rng.integers(0, 256, (2, 28, 28)),
        "t10k-labels-idx1-ubyte.gz": np.array([9, 2]),
    }
    files = {name: idx(values) for name, values in parts.items()}
    address, paths = served
    paths.update({f"/mnist/{name}": content for name, content in files.items()})
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"{address}/mnist/"])
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    card = make_card("mnist", files, provider="torchvision", extras={"dataset": "MNIST"})
    monkeypatch.setattr(provider, "CARDS", {"mnist": card})
    provider.fetch("mnist")
    data = images.mnist()
    assert np.array_equal(data.train.data, parts["train-images-idx3-ubyte.gz"])
    assert data.train.targets.tolist() == [3, 1, 4, 1, 5]
    assert np.array_equal(data.test.data, parts["t10k-images-idx3-ubyte.gz"])
    assert data.test.targets.tolist() == [9, 2]


@pytest.fixture
def hub(cache, served, monkeypatch) -> None:
    """A hub with one file of one revision, and its card."""
    address, files = served
    files[f"/datasets/nobody/tiny/resolve/{REVISION}/data/tiny.bin"] = CONTENT
    card = make_card(
        "tiny",
        {"data/tiny.bin": CONTENT},
        provider="huggingface",
        package="nobody/tiny",
        version=REVISION,
        extras={"repo_type": "dataset"},
    )
    monkeypatch.setattr(provider, "CARDS", {"tiny": card})
    monkeypatch.setenv("HF_ENDPOINT", address)


def test_hub_file_of_the_pinned_revision(hub, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert provider.fetch("tiny").read_bytes() == CONTENT


def test_hub_offline_is_respected(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Blocked, match="HF_HUB_OFFLINE is set"):
        provider.fetch("tiny")
