"""Detectors against packages (scikit-learn, PyOD, SciPy) and closed forms."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, mahalanobis
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from reproven.papers.sac_bl import detectors
from reproven.papers.sac_bl.detectors import (
    EcodScores,
    IsolationForestScores,
    KnnDistance,
    PaDiM,
    PatchCore,
    PcaReconstruction,
    deep_features,
    image_scores,
    k_centres,
    upsampled,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_the_module_example_runs() -> None:
    assert doctest.testmod(detectors).failed == 0
    assert doctest.testmod(detectors.vectors, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("scale", [False, True])
def test_knn_agrees_with_scikit_learn_and_is_a_sum_over_blocks(rng, scale) -> None:
    train, items = rng.normal(size=(60, 4)) * [1, 5, 0.1, 2], rng.normal(size=(33, 4))
    unit = train.std(axis=0) if scale else 1.0
    near, _ = NearestNeighbors(n_neighbors=3).fit(train / unit).kneighbors(items / unit)
    ours = KnnDistance(neighbours=3, scale=scale, block=10).fit(train).score(items)
    np.testing.assert_allclose(ours, near.mean(axis=1), rtol=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_pca_agrees_with_scikit_learn(rng, share) -> None:
    train, items = rng.normal(size=(80, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(20, 6))
    theirs = PCA(n_components=share, svd_solver="full").fit(train)
    ours = PcaReconstruction(share=share).fit(train)
    assert len(ours.components) == theirs.n_components_
    error = np.sum((items - theirs.inverse_transform(theirs.transform(items))) ** 2, axis=1)
    np.testing.assert_allclose(ours.score(items), error, rtol=1e-8)


def test_pca_of_data_in_a_plane_is_zero_on_it_and_the_distance_off_it() -> None:
    plane = np.array([[x, y, 0.0] for x in range(4) for y in range(4)])
    detector = PcaReconstruction(share=0.999).fit(plane)
    np.testing.assert_allclose(detector.score([[5.0, -2.0, 0.0], [1.0, 1.0, 3.0]]), [0.0, 9.0], atol=1e-12)


def test_ecod_is_pyods_and_depends_on_what_is_scored_with_it(rng) -> None:
    from pyod.models.ecod import ECOD

    train, items = rng.normal(size=(50, 3)), rng.normal(size=(30, 3))
    ours = EcodScores().fit(train).score(items)
    np.testing.assert_allclose(ours, ECOD().fit(train).decision_function(items), rtol=1e-12)
    apart = np.concatenate([EcodScores().fit(train).score(part) for part in (items[:5], items[5:])])
    assert not np.allclose(ours, apart)  # hence one call for calibration and test items
    order = rng.permutation(len(items))
    np.testing.assert_allclose(EcodScores().fit(train).score(items[order]), ours[order], rtol=1e-12)


def test_ecod_leaves_out_constant_features(rng) -> None:
    train, items = rng.normal(size=(50, 2)), rng.normal(size=(9, 2))
    padded = [np.column_stack([x, np.full(len(x), 3.0)]) for x in (train, items)]
    np.testing.assert_allclose(
        EcodScores().fit(padded[0]).score(padded[1]), EcodScores().fit(train).score(items)
    )
    assert (EcodScores().fit(np.ones((4, 2))).score(np.ones((3, 2))) == 0).all()


def test_isolation_forest_is_pyods(rng) -> None:
    from pyod.models.iforest import IForest

    train, items = rng.normal(size=(64, 3)), rng.normal(size=(10, 3))
    theirs = IForest(n_estimators=20, random_state=5).fit(train).decision_function(items)
    np.testing.assert_allclose(IsolationForestScores(trees=20, seed=5).fit(train).score(items), theirs)


def test_padim_is_the_mahalanobis_distance_of_each_place(rng) -> None:
    train, items = rng.normal(size=(30, 5, 2, 3)), rng.normal(size=(4, 5, 2, 3))
    maps = PaDiM(channels=None, epsilon=0.01).fit(train).score_maps(items)
    for i in range(2):
        for j in range(3):
            inverse = np.linalg.inv(np.cov(train[:, :, i, j].T) + 0.01 * np.eye(5))
            mean = train[:, :, i, j].mean(axis=0)
            expected = [mahalanobis(x[:, i, j], mean, inverse) for x in items]
            np.testing.assert_allclose(maps[:, i, j], expected, rtol=1e-4)  # float32


def test_padim_works_with_fewer_images_than_channels(rng) -> None:
    train = rng.normal(size=(5, 60, 2, 2))
    detector = PaDiM(channels=40, seed=3).fit(train)
    assert detector.whiten.shape == (4, 40, 40)
    assert np.isfinite(detector.score_maps(train)).all()


def test_greedy_k_centres_against_brute_force(rng) -> None:
    points = rng.normal(size=(40, 3))
    chosen = [4]
    distances = cdist(points, points)
    while len(chosen) < 9:
        nearest = distances[:, chosen].min(axis=1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    np.testing.assert_array_equal(k_centres(points, 9, first=4), chosen)
    assert sorted(k_centres(np.zeros((5, 2)), 5, first=0)) == [0, 1, 2, 3, 4]  # ties: each once


def test_patchcore_with_the_whole_bank_is_nearest_neighbour_search(rng) -> None:
    train, items = rng.normal(size=(6, 4, 2, 2)), rng.normal(size=(3, 4, 2, 2))
    detector = PatchCore(share=1.0, projection=8).fit(train)
    flat = lambda x: x.transpose(0, 2, 3, 1).reshape(-1, 4)  # noqa: E731
    distances = cdist(flat(items), flat(train))
    np.testing.assert_allclose(detector.score_maps(items).ravel(), distances.min(axis=1), rtol=1e-3)
    assert np.allclose(detector.score_maps(train), 0.0, atol=2e-3)


def test_patchcores_reweighting_is_the_papers_formula(rng) -> None:
    train, items = rng.normal(size=(6, 4, 2, 2)), rng.normal(size=(5, 4, 2, 2))
    detector = PatchCore(share=0.5, projection=8).fit(train)
    bank = detector.bank.astype(float)
    expected = []
    for item in items:
        patches = item.transpose(1, 2, 0).reshape(-1, 4)
        distances = cdist(patches, bank)
        star = int(distances.min(axis=1).argmax())
        nearest = int(distances[star].argmin())
        around = np.argsort(cdist(bank[nearest][None], bank)[0])[:3]
        weight = 1 - np.exp(distances[star, nearest]) / np.exp(distances[star, around]).sum()
        expected.append(weight * distances[star, nearest])
    np.testing.assert_allclose(detector.image_scores(items, neighbours=3), expected, rtol=1e-4)  # float32


class _Tiny(torch.nn.Module):
    """Two stages of strides 2 and 4 in the shape of an EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv_stem = torch.nn.Conv2d(3, 4, 3, 1, 1)
        self.bn1 = torch.nn.Identity()
        self.blocks = torch.nn.Sequential(torch.nn.Conv2d(4, 5, 3, 2, 1), torch.nn.Conv2d(5, 6, 3, 2, 1))


def test_deep_features_do_not_depend_on_the_batch_and_stack_the_stages(rng) -> None:
    images = rng.random((7, 12, 12))
    whole = deep_features(_Tiny().eval(), images, size=16, stages=(0, 1), batch=7)
    parts = deep_features(_Tiny().eval(), images, size=16, stages=(0, 1), batch=2)
    assert whole.shape == (7, 11, 8, 8)
    np.testing.assert_allclose(whole, parts, atol=1e-6)
    coarse = deep_features(
        _Tiny().eval(), np.repeat(images[..., None], 3, -1), size=16, stages=(0, 1), grid=1
    )
    assert coarse.shape == (7, 11, 4, 4)
    network, x = _Tiny().eval(), torch.full((1, 3, 4, 4), 0.2)
    plain = deep_features(network, np.full((1, 4, 4), 0.6), size=4, stages=(0,), smooth=False)
    np.testing.assert_allclose(plain, network.blocks[0](network.conv_stem(x)).detach(), atol=1e-6)


def test_maps_become_scores_and_pixels() -> None:
    maps = np.zeros((2, 4, 4))
    maps[1, 2, 3] = 5.0
    np.testing.assert_array_equal(image_scores(maps), [0.0, 5.0])
    full = upsampled(maps, 8)
    assert full.shape == (2, 8, 8)
    assert full[0].max() == 0
    assert full[1].argmax() == 4 * 8 + 7
    assert upsampled(maps, 8, smoothing=1.0)[1].max() < full[1].max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: KnnDistance(neighbours=0), "neighbours=0"),
        (lambda: KnnDistance(neighbours=3).fit(np.ones((2, 1))), "2 training items"),
        (lambda: KnnDistance().fit(np.full((4, 1), np.nan)), "NaN"),
        (lambda: KnnDistance().fit(np.ones((4, 1))).score(np.ones((1, 2))), "2 features"),
        (lambda: PcaReconstruction(share=1.5), "share=1.5"),
        (lambda: PcaReconstruction().fit(np.ones((1, 3))), "at least 2"),
        (lambda: EcodScores().fit(np.ones(3)), "shape"),
        (lambda: PaDiM(epsilon=0.0), "epsilon=0.0"),
        (lambda: PaDiM().fit(np.ones((1, 2, 2, 2))), "at least 2"),
        (lambda: PatchCore(share=0.0), "share=0.0"),
        (lambda: PatchCore().fit(np.ones((3, 2))), "channels"),
        (lambda: k_centres(np.ones((2, 1)), 3, first=0), "size=3"),
        (lambda: deep_features(_Tiny(), np.ones((1, 2, 2, 5))), "need"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(call, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
