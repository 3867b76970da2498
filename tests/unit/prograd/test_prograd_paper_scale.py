"""The paper tier's loading code on small files of the same layout, and its cut through a ResNet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from reproven.harness.errors import Blocked
from reproven.papers.prograd.attribution import grad_cam
from reproven.papers.prograd.constraints import channel_features
from reproven.papers.prograd.experiments import paper_scale, printed
from reproven.papers.prograd.tail import Tail, edit_space


def small_resnet() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=4
    )
    return model.eval()


def test_a_resnet_is_cut_behind_its_last_convolution():
    model = small_resnet()
    subject = paper_scale.resnet_subject(model)
    x = torch.randn(2, 3, 64, 64)
    whole = torch.nn.Sequential(subject.body, subject.head)
    with torch.no_grad():
        torch.testing.assert_close(whole(x), model(x))
        z = subject.body(x).double()
    head = subject.head.double().requires_grad_(False)
    view = Tail(head, edit_space(head, ["fc"]), z, at="map")
    said = torch.einsum("nkp,k->np", channel_features(view), head.fc.weight[1])
    own = grad_cam(head, z, torch.tensor([1, 1]), "map").flatten(1)
    torch.testing.assert_close(said, own, rtol=1e-9, atol=1e-12)


def test_images_are_read_from_class_folders(tmp_path):
    for name in ("n02", "n01"):
        (tmp_path / name).mkdir()
        for k in (2, 1):
            pixels = np.random.default_rng(k).integers(255, size=(300, 280, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{k}.JPEG")
    files = paper_scale.image_files(tmp_path)
    assert [(f.parent.name, f.name, c) for f, c in files] == [
        ("n01", "1.JPEG", 0), ("n01", "2.JPEG", 0), ("n02", "1.JPEG", 1), ("n02", "2.JPEG", 1)
    ]  # fmt: skip
    (x, y), (_, last) = paper_scale.chunks(files, 3)
    assert x.shape == (3, 3, 224, 224)
    assert y.tolist() == [0, 0, 1]
    assert last.tolist() == [1]


def test_what_is_absent_is_blocked_with_its_place(tmp_path):
    with pytest.raises(Blocked, match="place it there"):
        paper_scale.needed(tmp_path / "imagenet" / "val", "the validation set")


def test_possible_ious():
    found = printed.possible_ious(49, 75)
    assert len(found) == 13
    for value in (84.62, 71.43, 50.0, 41.18, 20.0, 4.35, 0.0):
        assert np.abs(found - value).min() < 0.005
