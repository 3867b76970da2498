"""Experiments with detectors and networks, on toys: what they record, what they refuse, and their controls."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from reproven.data.series import AnomalySeries
from reproven.harness.context import Context
from reproven.harness.errors import Blocked, UserError
from reproven.papers.sac_bl import bh, bl, by, figures, sbl, sbl_inclusion
from reproven.papers.sac_bl.defects import KINDS, add_defects
from reproven.papers.sac_bl.experiments import (
    image_detectors,
    inspection_table,
    table_detectors,
    texture_defects,
    window_detectors,
)
from reproven.papers.sac_bl.experiments.plug_ins import cut_windows
from reproven.papers.sac_bl.experiments.study import Items, Sizes, auroc, decide_on_resamples, detector
from reproven.papers.sac_bl.experiments.textures import crops

RULES = {"bl": bl, "sbl": sbl, "sbl_expectation": sbl_inclusion, "by": by, "bh": bh}
WHERE = {"axes": {"split": 0}, "coords": {"split": 0}}


def frame(ctx: Context) -> pd.DataFrame:
    parts = [pd.DataFrame({**s.coords, "metric": s.metric, "value": s.values}) for s in ctx.series]
    return pd.concat([part.assign(seed=0, run="r") for part in parts], ignore_index=True)


class Network(torch.nn.Module):
    """An EfficientNet's shape, two stages."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv_stem, self.bn1 = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Identity()
        self.blocks = torch.nn.Sequential(
            torch.nn.Identity(), torch.nn.Conv2d(4, 6, 3, 2, 1), torch.nn.Conv2d(6, 8, 3, 2, 1)
        )


def test_resampled_fdr_is_controlled_and_its_spread_recorded() -> None:
    rng = np.random.default_rng(0)
    ctx = Context(methods=RULES)
    sizes = Sizes(calibration=400, test_normal=100, resamples=300)
    decide_on_resamples(
        ctx, rng.normal(size=600), 3 + rng.normal(size=60), sizes, prevalence=[0.0, 0.2], alpha=0.1, **WHERE
    )  # fmt: skip
    data = frame(ctx)
    found = data.pivot_table(index=["method", "prevalence"], columns="metric", values="value")
    assert found.loc[("bh", 0.2), "fdp"] == pytest.approx(0.08, abs=0.02)  # alpha n0 / n
    assert found.loc[("bh", 0.2), "fdp_q90"] > 0.12
    assert found.loc[("by", 0.2), "fdp"] < found.loc[("bh", 0.2), "fdp"]
    for a, b in (("bh", "by"), ("by", "bl"), ("sbl", "bl"), ("sbl_expectation", "bl")):
        assert found.loc[(a, 0.2), "fpr"] <= found.loc[(b, 0.2), "fpr"] + 1e-12
    assert np.isnan(found.loc[("bh", 0.0), "fpr"])  # undefined without anomalies
    with pytest.raises(ValueError, match="needs 100 anomalies"):
        decide_on_resamples(ctx, np.zeros(600), np.zeros(3), sizes, prevalence=[0.5], alpha=0.1, **WHERE)
    with pytest.raises(ValueError, match="lower one of them"):
        decide_on_resamples(ctx, np.zeros(60), np.zeros(3), sizes, prevalence=[0.0], alpha=0.1, **WHERE)


def test_the_divisions_do_not_depend_on_the_rules_or_the_detector() -> None:
    scores = np.random.default_rng(1).normal(size=200)
    values = []
    for methods in (RULES, {"bh": bh}):
        ctx = Context(methods=methods)
        decide_on_resamples(
            ctx, scores, scores[:50] + 3, Sizes(100, 50, 5), prevalence=[0.2], alpha=0.1, **WHERE
        )
        values.append(frame(ctx).query("method == 'bh'")["value"].to_numpy())
    np.testing.assert_array_equal(*values)


def test_auroc_by_hand() -> None:
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1
    assert auroc(np.array([0.0, 1.0]), np.array([1.0])) == 0.75
    assert auroc(np.array([2.0]), np.array([1.0])) == 0


def test_unknown_detectors_and_missing_features_are_one_clear_line() -> None:
    with pytest.raises(UserError, match="did you mean 'iforest'"):
        detector("iforrest")
    with pytest.raises(UserError, match="needs images"):
        detector("padim")(Items(np.zeros((4, 2))), np.arange(2), np.arange(2, 4), 0)


def test_all_detectors_on_images() -> None:
    raw = load_digits()
    data = SimpleNamespace(data=raw.images.astype(np.uint8), targets=raw.target, peak=16)
    ctx = Context(
        methods=RULES, datasets={"digits": lambda: data, "efficientnet_lite0": lambda: Network().eval()}
    )
    names = ["knn", "pca", "ecod", "iforest", "padim", "patchcore"]
    image_detectors(
        ctx, detector=names, anomaly=[0], prevalence=[0.0, 0.2], splits=1, resamples=4, train=300, calibration=400,
        test_normal=100, size=16,
    )  # fmt: skip
    found = frame(ctx)
    area = found[found["metric"] == "auroc"].set_index("detector")["value"]
    assert set(area.index) == set(names)
    assert area["knn"] > 0.97
    assert area["pca"] > 0.7  # the maps are those of a random network, whose ranking means nothing
    assert set(found["dataset"].dropna()) == {"digits"}
    assert np.isfinite(found["value"]).all()
    for figure in (figures.detectors_by_rules, figures.fdp_spread):
        assert any(axis.has_data() for axis in figure(found.fillna({"method": ""})).axes)


def test_the_smaller_class_of_a_table_is_the_anomaly() -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(300, 3)), 6 + rng.normal(size=(40, 3))]) * [1, 100, 0.01]
    table = datasets.Dataset.from_dict({"x": x.tolist(), "y": [1] * 300 + [0] * 40})
    ctx = Context(methods=RULES, datasets={"toy": lambda: table})
    table_detectors(
        ctx, detector=["knn", "pca"], prevalence=[0.2], splits=2, resamples=3, train=0.4, calibration=9999,
        test_normal=50,
    )  # fmt: skip
    found = frame(ctx)
    assert found[found["metric"] == "auroc"].query("detector == 'knn'")["value"].min() > 0.99
    assert set(found["k"].dropna()) == {130}  # what is left of 300 - 120 - 50


def series(marked: bool) -> AnomalySeries:
    rng = np.random.default_rng(3)
    values = np.sin(np.arange(3000) / 5)[None] + 0.1 * rng.normal(size=(1, 3000))
    values[:, 2200:] += 1.5  # the level moves: later windows are not exchangeable with earlier ones
    anomaly = np.zeros(3000, bool)
    if marked:
        values[:, 1000:1040] = rng.normal(size=(1, 40))
        anomaly[1000:1040] = True
    return AnomalySeries(values, np.ones(3000, bool), anomaly, ["c"], 0)


def test_windows_with_and_without_marks_and_the_control_in_time() -> None:
    sizes = {
        "width": 20,
        "stride": 5,
        "train": 150,
        "calibration": 250,
        "test_normal": 60,
        "in_time": [0.2, 0.7],
    }
    ctx = Context(methods=RULES, datasets={"toy": lambda: series(True)})
    window_detectors(ctx, detector=["knn"], prevalence=[0.0, 0.1], splits=2, resamples=5, **sizes)
    found = frame(ctx)
    assert found.query("metric == 'anomalies_marked'")["value"].item() == 11
    assert found.query("metric == 'null_p_below_alpha'")["value"].item() > 0.5
    assert found.query("metric == 'fpr' and method == 'bh'")["value"].mean() < 1
    clean = Context(methods=RULES, datasets={"toy": lambda: series(False)})
    window_detectors(clean, detector=["knn"], prevalence=[0.0, 0.1], splits=1, resamples=5, **sizes)
    nothing = frame(clean)
    assert nothing.query("metric == 'anomalies_marked'")["value"].item() == 0
    assert not nothing["metric"].isin(["fpr", "auroc"]).any()
    both = pd.concat([found.assign(dataset="a"), nothing.assign(dataset="b")])
    figures.detectors_by_rules(both.fillna({"method": ""}))


def test_windows_by_hand() -> None:
    one = AnomalySeries(np.arange(6.0)[None], np.array([1, 1, 1, 1, 0, 1], bool), np.arange(6) == 3, ["c"], 0)
    values, anomalous, end = cut_windows(one, 2, 1)
    np.testing.assert_array_equal(values, [[0, 1], [1, 2], [2, 3]])
    np.testing.assert_array_equal(anomalous, [False, False, True])
    np.testing.assert_allclose(end, [2 / 6, 3 / 6, 4 / 6])
    with pytest.raises(ValueError, match="no whole window"):
        cut_windows(one, 7, 1)


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_each_defect_changes_its_mask_alone(kind, monkeypatch) -> None:
    monkeypatch.setattr("reproven.papers.sac_bl.defects.KINDS", (KINDS[kind],))
    tiles = np.random.default_rng(4).integers(60, 180, (30, 32, 32)).astype(np.uint8)
    change = {}
    for strength in ("weak", "strong"):
        found = add_defects(tiles, strength=strength, rng=np.random.default_rng(5))
        again = add_defects(tiles, strength=strength, rng=np.random.default_rng(5))
        np.testing.assert_array_equal(found.tiles, again.tiles)
        np.testing.assert_array_equal(found.tiles[~found.masks], tiles[~found.masks])
        area = found.masks.mean(axis=(1, 2))
        assert area.min() > 0
        assert area.max() < 0.4
        change[strength] = abs(found.tiles.astype(float) - tiles)[found.masks].mean()
    assert change["strong"] > 2 * change["weak"]


def test_bad_defects_are_one_clear_line() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="strength='odd'"):
        add_defects(np.zeros((1, 8, 8), np.uint8), strength="odd", rng=rng)
    with pytest.raises(ValueError, match="uint8"):
        add_defects(np.zeros((1, 8, 8)), strength="weak", rng=rng)
    with pytest.raises(ValueError, match="do not fit"):
        crops(np.zeros((8, 8)), 1, 9, rng)


def test_textures_at_both_levels() -> None:
    rng = np.random.default_rng(6)
    images = np.stack(
        [np.kron(rng.integers(0, 2, (32, 32)), np.ones((2, 2))) * 120 + s for s in (20, 60, 100)]
    )
    data = SimpleNamespace(data=images.astype(np.uint8), classes=["a", "b", "c"])
    ctx = Context(
        methods=RULES, datasets={"textures": lambda: data, "efficientnet_lite0": lambda: Network().eval()}
    )
    sizes = {"train": 20, "held_out": 60, "defective": 20, "test_normal": 15, "resamples": 3, "steps": 40}
    names = ["draem", "sac", "padim", "patchcore", "knn"]
    texture_defects(
        ctx, texture=["b"], detector=names, k=[30], prevalence=[0.0, 0.2], pixel_rules=["by", "bh", "bl"],
        pixel_resamples=1, pixel_tiles=8, size=16, width=4, exponents=3, feature_size=16, **sizes,
    )  # fmt: skip
    found = frame(ctx)
    assert np.isfinite(found["value"]).all()
    image, pixel = (found[found["level"] == level] for level in ("image", "pixel"))
    assert set(image["detector"]) == set(names)
    assert set(pixel["detector"]) == set(names) - {"knn"}
    assert set(pixel["method"]) == {"", "by", "bh", "bl"}
    assert set(pixel["ranked"]) == {"per_location", "pooled"}
    clean = pixel.query("metric == 'null_p_below_alpha' and pixels == 'clean'")["value"]
    assert clean.mean() < 0.2
    found = found.fillna({"method": ""})
    for figure in (figures.texture_detectors, figures.texture_rules, figures.pixel_nulls):
        assert any(axis.has_data() for axis in figure(found).axes)
    with pytest.raises(UserError, match="no texture 'd'"):
        texture_defects(
            ctx, texture=["d"], detector=names, k=[3], prevalence=[0.0], pixel_rules=[], pixel_resamples=0,
            pixel_tiles=0, **sizes,
        )  # fmt: skip


def test_the_paper_tier_on_a_folder_in_the_official_layout(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("REPROVEN_CACHE", str(tmp_path))
    small = {
        "epochs": 1, "size": 16, "reconstructive_width": 2, "discriminative_width": 2, "reconstructive_blocks": 2,
        "discriminative_blocks": 2, "exponents": 3, "window": 3, "batch": 4,
    }  # fmt: skip
    ctx = Context(methods={"sac_bl": bl, "sac_sbl": sbl, "bh": bh})
    with pytest.raises(Blocked, match="bottle"):
        inspection_table(ctx, benchmark="mvtec_ad", category="bottle", **small)
    rng = np.random.default_rng(7)

    def picture(path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)

    home = tmp_path / "mvtec_ad" / "bottle"
    for folder, count in (("train/good", 10), ("test/good", 3), ("test/hole", 4)):
        for i in range(count):
            picture(home / folder / f"{i:03}.png", rng.integers(0, 255, (20, 20, 3)))
    for i in range(4):
        picture(home / "ground_truth" / "hole" / f"{i:03}_mask.png", np.eye(20) * 255)
    picture(tmp_path / "dtd" / "images" / "woven" / "woven_0.jpg", rng.integers(0, 255, (30, 30, 3)))
    inspection_table(ctx, benchmark="mvtec_ad", category="bottle", **small)
    found = frame(ctx)
    assert set(found["level"]) == {"image", "pixel"}
    assert set(found.query("level == 'image'")["k"]) == {3}  # 30 % of 10
    assert set(found.query("level == 'pixel'")["k"]) == {3 * 256}
    cells = found.pivot_table(index=["level", "method"], columns="metric", values="value")
    assert cells.to_numpy().min() >= 0
    assert cells.to_numpy().max() <= 100
    assert cells.loc[("image", "sac_bl"), "fpr"] == 100  # 3 calibration images: BL cannot reject
    assert cells.loc[("pixel", "sac_sbl"), "fpr"] <= cells.loc[("pixel", "sac_bl"), "fpr"]
