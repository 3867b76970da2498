"""MVTec AD, VisA, BTAD and DTD from small folders in the publishers' layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reproven.data import inspection
from reproven.harness.errors import Blocked, UserError


def picture(path: Path, value: int = 100, size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), 8)).save(path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPROVEN_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("benchmark", "category"), [("mvtec_ad", "bottle"), ("visa", "candle"), ("btad", "01")]
)
def test_absent_data_are_blocked_with_what_to_place_where(cache, benchmark, category) -> None:
    with pytest.raises(Blocked, match=rf"{benchmark}.*place .*{category}.* in .*{benchmark}") as error:
        inspection.load(benchmark, category)
    assert "\n" not in str(error.value)
    with pytest.raises(Blocked, match="Describable Textures"):
        inspection.dtd_textures()


def test_misspelt_names_are_one_clear_line(cache) -> None:
    with pytest.raises(UserError, match="did you mean 'mvtec_ad'"):
        inspection.load("mvtec_a", "bottle")
    with pytest.raises(UserError, match="did you mean 'bottle'"):
        inspection.load("mvtec_ad", "botle")


def test_mvtec_ad(cache) -> None:
    home = cache / "mvtec_ad" / "bottle"
    for i in range(3):
        picture(home / "train" / "good" / f"00{i}.png")
    picture(home / "test" / "good" / "000.png")
    picture(home / "test" / "broken" / "000.png")
    picture(home / "test" / "broken" / "001.png")
    for i in range(2):
        mask(home / "ground_truth" / "broken" / f"00{i}_mask.png")
    found = inspection.load("mvtec_ad", "bottle")
    assert len(found.train) == 3
    assert found.anomalous.tolist() == [True, True, False]
    assert [m is None for m in found.masks] == [False, False, True]
    (home / "ground_truth" / "broken" / "001_mask.png").unlink()
    with pytest.raises(ValueError, match="001_mask.png is missing"):
        inspection.load("mvtec_ad", "bottle")


def test_visa(cache) -> None:
    root = cache / "visa"
    rows = ["object,split,label,image,mask"]
    for i in range(4):
        name = f"candle/Data/Images/Normal/000{i}.JPG"
        picture(root / name)
        rows.append(f"candle,{'train' if i < 3 else 'test'},normal,{name},")
    picture(root / "candle/Data/Images/Anomaly/000.JPG")
    mask(root / "candle/Data/Masks/Anomaly/000.png")
    rows.append("candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png")
    rows.append("cashew,train,normal,cashew/Data/Images/Normal/0000.JPG,")
    with pytest.raises(Blocked, match="1cls.csv"):
        inspection.load("visa", "candle")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows))
    found = inspection.load("visa", "candle")
    assert len(found.train) == 3
    assert found.anomalous.tolist() == [False, True]


def test_btad(cache) -> None:
    home = cache / "btad" / "03"
    picture(home / "train" / "ok" / "0000.bmp")
    picture(home / "test" / "ok" / "0001.bmp")
    picture(home / "test" / "ko" / "0000.bmp")
    (home / "ground_truth" / "ko").mkdir(parents=True)
    with pytest.raises(ValueError, match="no mask for 0000.bmp"):
        inspection.load("btad", "03")
    mask(home / "ground_truth" / "ko" / "0000.png")
    found = inspection.load("btad", "03")
    assert found.anomalous.tolist() == [False, True]
    (home / "train" / "ok" / "0000.bmp").unlink()
    with pytest.raises(ValueError, match="0 training"):
        inspection.load("btad", "03")


def test_images_and_masks_are_resized(cache) -> None:
    picture(cache / "a.jpg", 77)
    mask(cache / "m.png")
    images = inspection.read_images([cache / "a.jpg"], 8)
    assert images.shape == (1, 8, 8, 3)
    assert abs(images.astype(int) - 77).max() <= 2  # JPEG
    masks = inspection.read_masks([None, cache / "m.png"], 12)
    assert not masks[0].any()
    assert masks[1].sum() == 16
    assert masks[1, 4:8, 4:8].all()


def test_dtd(cache) -> None:
    for name in ("banded", "woven"):
        picture(cache / "dtd" / "images" / name / f"{name}_0001.jpg")
    assert [p.parent.name for p in inspection.dtd_textures()] == ["banded", "woven"]
