"""The SAC network against its plain twin, packages and closed forms; training on tiny images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchvision.ops import sigmoid_focal_loss

from reproven.papers.sac_bl.network import (
    Mixed,
    SacNetwork,
    focal_loss,
    perlin_masks,
    perlin_noise,
    pooled_scores,
    sac_loss,
    sac_score_maps,
    ssim,
    synthesise,
    train_sac,
)
from reproven.papers.sac_bl.network.losses import half_repaired
from reproven.papers.sac_bl.network.nets import initialise
from reproven.papers.sac_bl.network.perlin import rotate
from reproven.papers.sac_bl.network.sac_reference import (
    focal_reference,
    perlin_noise_reference,
    sac_loss_reference,
    ssim_reference,
)
from reproven.papers.sac_bl.network.synthesis import AUGMENTATIONS, augmented


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_batched_perlin_noise_is_the_pixelwise_one() -> None:
    angles = 2 * np.pi * torch.rand(3, 5, 5, generator=seeded(), dtype=torch.float64)
    cells = torch.tensor([[1, 4], [2, 1], [4, 4]])
    noise = perlin_noise(angles, cells, 12)
    for one, angle, cell in zip(noise, angles, cells):
        expected = perlin_noise_reference(angle.numpy(), tuple(cell.tolist()), 12)
        np.testing.assert_allclose(one, expected, atol=1e-12)


def test_perlin_noise_vanishes_at_the_corners_and_stays_bounded() -> None:
    angles = 2 * np.pi * torch.rand(20, 9, 9, generator=seeded(1))
    noise = perlin_noise(angles, torch.full((20, 2), 8), 64)
    assert noise[:, ::8, ::8].abs().max() == 0
    assert noise.abs().max() <= 1 + 1e-6
    with pytest.raises(ValueError, match="1 to 8"):
        perlin_noise(angles, torch.full((20, 2), 9), 64)


def test_masks_are_blobs_of_zero_and_one_from_their_generator_alone() -> None:
    masks = perlin_masks(50, 32, generator=seeded(2), exponents=4)
    assert masks.shape == (50, 1, 32, 32)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert 0.01 < masks.mean() < 0.2
    assert torch.equal(masks, perlin_masks(50, 32, generator=seeded(2), exponents=4))
    # Neighbours agree far more often than independent pixels would.
    assert (masks[..., 1:] == masks[..., :-1]).float().mean() > 0.95
    with pytest.raises(ValueError, match="exponents=7"):
        perlin_masks(1, 32, generator=seeded(), exponents=7)


def test_a_quarter_turn_is_exact() -> None:
    x = torch.rand(2, 1, 6, 6, generator=seeded(3))
    turned = rotate(x, torch.full((2,), np.pi / 2))
    assert any(torch.allclose(turned, torch.rot90(x, k, (2, 3)), atol=1e-5) for k in (1, 3))
    assert torch.allclose(rotate(x, torch.zeros(2)), x, atol=1e-6)


def test_synthesis_changes_only_what_its_mask_says() -> None:
    clean = torch.rand(12, 1, 16, 16, generator=seeded(4))
    sources = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8, generator=seeded(5))
    mixed = synthesise(clean, sources, generator=seeded(6), exponents=3, anomalous=1.0, turned=0.0)
    assert torch.allclose(mixed.clean, clean, atol=1e-5)
    outside = mixed.mask == 0
    assert torch.equal(mixed.image[outside], mixed.clean[outside])
    assert (mixed.image[~outside] != mixed.clean[~outside]).float().mean() > 0.9
    assert mixed.image.min() >= 0
    assert mixed.image.max() <= 1
    none = synthesise(clean, sources, generator=seeded(6), exponents=3, anomalous=0.0)
    assert none.mask.sum() == 0
    assert torch.equal(none.image, none.clean)
    assert not torch.allclose(none.clean, clean, atol=0.05)  # some were turned
    with pytest.raises(ValueError, match="uint8 textures"):
        synthesise(clean, sources.float(), generator=seeded())


@pytest.mark.parametrize("channels", [1, 3])
def test_every_change_of_a_texture_gives_a_texture(channels) -> None:
    texture = torch.randint(0, 256, (channels, 12, 12), dtype=torch.uint8, generator=seeded(7))
    for change in AUGMENTATIONS:
        for u in (0.0, 0.5, 0.999):
            changed = change(texture, u)
            assert changed.shape == texture.shape
            assert changed.dtype == torch.uint8
    assert not torch.equal(augmented(texture, 3, seeded(8)), texture)


def test_ssim_agrees_with_scikit_image_and_with_its_twin() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((20, 24))
    b = np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1)
    ours = ssim(torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(ours, ssim_reference(a, b), atol=1e-12)
    _, theirs = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True
    )
    np.testing.assert_allclose(ours[5:-5, 5:-5], theirs[5:-5, 5:-5], atol=1e-12)  # they reflect at the edge
    x = torch.from_numpy(a)[None, None]
    assert torch.allclose(ssim(x, x), torch.ones_like(x))
    with pytest.raises(ValueError, match="odd"):
        ssim(x, x, window=10)


def test_focal_loss_agrees_with_its_twin_torchvision_and_cross_entropy() -> None:
    logits = torch.randn(2, 2, 3, 4, generator=seeded(9), dtype=torch.float64)
    mask = (torch.rand(2, 1, 3, 4, generator=seeded(10)) > 0.5).double()
    twin = np.mean([focal_reference(a.numpy(), m.numpy()) for a, m in zip(logits, mask)])
    assert float(focal_loss(logits, mask)) == pytest.approx(twin, rel=1e-12)
    difference = logits[:, 1:] - logits[:, :1]
    theirs = sigmoid_focal_loss(difference, mask, alpha=-1, gamma=2, reduction="mean")
    assert float(focal_loss(logits, mask)) == pytest.approx(float(theirs), rel=1e-9)
    plain = torch.nn.functional.cross_entropy(logits, mask[:, 0].long())
    assert float(focal_loss(logits, mask, gamma=0.0)) == pytest.approx(float(plain), rel=1e-12)


def tiny() -> SacNetwork:
    network = SacNetwork(
        channels=1, reconstructive_width=2, discriminative_width=2, reconstructive_blocks=2, discriminative_blocks=3
    )  # fmt: skip
    initialise(network, seeded(11))
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data *= 10  # far enough from zero for the terms to differ
    return network.double().eval()


@pytest.mark.parametrize("hard_pairs", [False, True])
def test_the_loss_is_that_of_its_twin(hard_pairs) -> None:
    network = tiny()
    clean = torch.rand(3, 1, 12, 12, generator=seeded(12), dtype=torch.float64)
    mask = (torch.rand(3, 1, 12, 12, generator=seeded(13)) > 0.7).double()
    batch = Mixed(clean * (1 - mask) + mask * (1 - clean), clean, mask)
    ours, parts = sac_loss(network, batch, hard_pairs=hard_pairs, generator=seeded(14), weight=0.7)
    share = (0.2 + 0.6 * torch.rand(3, 1, 1, 1, generator=seeded(14))).double().numpy()

    def net(part):
        def call(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return part(torch.from_numpy(x)[None])[0].numpy()

        return call

    expected = sac_loss_reference(
        net(network.reconstruct), net(network.discriminate), clean.numpy(), batch.image.numpy(), mask.numpy(),
        share if hard_pairs else None, weight=0.7,
    )  # fmt: skip
    assert ours.item() == pytest.approx(expected, rel=1e-7)  # the share is drawn in float32
    assert (parts.hard.item() > 0) == hard_pairs


def test_a_half_repaired_anomaly_lies_between_the_anomaly_and_its_repair() -> None:
    clean, image = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    mask = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    weak = half_repaired(
        Mixed(image * mask, clean, mask), torch.full_like(clean, 0.5), torch.full((1, 1, 1, 1), 0.4)
    )
    assert torch.allclose(weak, 0.8 * mask)


def test_networks_keep_shapes_and_say_which_sizes_they_take() -> None:
    network = SacNetwork(
        reconstructive_width=2, discriminative_width=3, reconstructive_blocks=3, discriminative_blocks=4
    )
    reconstruction, logits = network(torch.rand(2, 3, 16, 24))
    assert reconstruction.shape == (2, 3, 16, 24)
    assert logits.shape == (2, 2, 16, 24)
    with pytest.raises(ValueError, match="multiples of 8"):
        network(torch.rand(1, 3, 20, 16))


def test_the_default_widths_are_draems() -> None:
    network = SacNetwork()
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert (
        max(m.out_channels for m in network.reconstruct.modules() if isinstance(m, torch.nn.Conv2d)) == 1024
    )
    assert (
        max(m.out_channels for m in network.discriminate.modules() if isinstance(m, torch.nn.Conv2d)) == 512
    )
    assert len(network.reconstruct.encoder) == 5
    assert len(network.discriminate.encoder) == 6
    assert convolutions[0].out_channels == 128


@pytest.mark.parametrize("hard_pairs", [False, True])
def test_training_learns_to_find_a_foreign_patch(hard_pairs) -> None:
    """Stripes are normal; after a minute's fraction of training a noisy square stands out."""
    rng = np.random.default_rng(1)
    phase = rng.integers(0, 4, 40)
    stripes = ((np.arange(16)[None, None, :] + phase[:, None, None]) // 2 % 2 * 120 + 60) * np.ones(
        (1, 16, 1)
    )
    sources = rng.integers(0, 256, (30, 16, 16)).astype(np.uint8)
    given = {
        "steps": 200, "hard_pairs": hard_pairs, "batch": 8, "rate": 3e-3,
        "reconstructive_width": 4, "discriminative_width": 4,
        "reconstructive_blocks": 2, "discriminative_blocks": 3, "exponents": 3,
    }  # fmt: skip
    images = stripes.astype(np.uint8)
    network, info = train_sac(images, sources, generator=seeded(15), **given)
    assert info.losses.shape == (200, 5)
    assert info.losses[-10:, 0].mean() < 0.7 * info.losses[:10, 0].mean()
    assert (info.losses[:, 4] > 0).all() == hard_pairs
    broken = images.copy()
    broken[:, 5:11, 5:11] = sources[:1, 5:11, 5:11]
    normal, defect = (pooled_scores(sac_score_maps(network, x), window=3) for x in (images, broken))
    assert np.mean(defect[:, None] > normal) > 0.9
    two = [train_sac(images, sources, generator=seeded(16), **{**given, "steps": 2})[0] for _ in range(2)]
    np.testing.assert_array_equal(*(sac_score_maps(network, broken) for network in two))


def test_pooling_is_a_mean_over_the_window() -> None:
    maps = np.zeros((1, 5, 5))
    maps[0, 2, 2] = 9.0
    assert pooled_scores(maps, window=3)[0] == pytest.approx(1.0)
    assert pooled_scores(maps, window=1)[0] == pytest.approx(9.0)
    with pytest.raises(ValueError, match="odd"):
        pooled_scores(maps, window=2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8)), "uint8"),
        (np.zeros((0, 8, 8), np.uint8), "uint8"),
        (np.zeros(3, np.uint8), "uint8"),
    ],
)
def test_bad_images_are_one_clear_line(images, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        train_sac(images, images, steps=1, generator=seeded())
    assert "\n" not in str(error.value)
