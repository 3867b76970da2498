"""Texture tiles with defects of kinds unseen in training: SAC network and plug-in detectors, images and pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from reproven.data.images import ImageSet
from reproven.harness.context import Context
from reproven.harness.errors import UserError, did_you_mean
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.defects import KIND_NAMES, STRENGTHS, add_defects
from reproven.papers.sac_bl.detectors import PaDiM, PatchCore, deep_features, image_scores, upsampled
from reproven.papers.sac_bl.evidence import Evidence, decide
from reproven.papers.sac_bl.experiments.study import Items, Sizes, auroc, decide_on_resamples
from reproven.papers.sac_bl.experiments.study import detector as by_name
from reproven.papers.sac_bl.network import pooled_scores, sac_score_maps, train_sac
from reproven.papers.sac_bl.p_values import conformal_p, conformal_p_per_location
from reproven.papers.sac_bl.step_up import NoPowerWarning

NETWORK = "efficientnet_lite0"
LEARNED = ("draem", "sac")  # without and with hard pairs
HALO = 3  # pixels around a defect
DIVISIONS, TEST_TILES = 5, 200  # behind the share of clean pixels with a small p-value

Axes = dict[str, int | float | str]


@dataclass(frozen=True)
class Training:
    """How the network is trained (`train_sac`) and its image scores are pooled (`pooled_scores`)."""

    steps: int
    width: int
    blocks: int
    batch: int
    rate: float
    exponents: int
    window: int


@dataclass(frozen=True)
class Tiles:
    """uint8 tiles (n, size, size): to train on, normal ones held out, defective ones by strength, with their masks.

    sources: tiles of the other textures, which the SAC network's training anomalies are made of.
    """

    training: np.ndarray
    normal: np.ndarray
    defective: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    kinds: dict[str, np.ndarray]
    sources: np.ndarray


def texture_defects(
    ctx: Context,
    *,
    texture: list[str],
    detector: list[str],
    k: list[int],
    prevalence: list[float],
    train: int,
    held_out: int,
    defective: int,
    test_normal: int,
    resamples: int,
    pixel_rules: list[str],
    pixel_resamples: int,
    pixel_tiles: int,
    steps: int,
    fits: int = 1,
    size: int = 32,
    width: int = 8,
    blocks: int = 3,
    batch: int = 8,
    rate: float = 1e-3,
    exponents: int = 4,
    window: int = 3,
    feature_size: int = 48,
    alpha: float = 0.05,
) -> None:
    """Train on the left half of a texture, calibrate and test on tiles at random places of its right half.

    Tiles at independent random places of one half are exchangeable, however they overlap. Each detector is fitted
    once and scores all tiles once; batches are resampled from those scores.

    k: calibration sizes. fits: independent draws of tiles and networks.
    pixel_rules: methods that also decide on all pixels of `pixel_tiles` tiles, half of them
    defective (a method that runs alone does too). steps, width, blocks, batch, rate, exponents: `train_sac`; window:
    `pooled_scores`. A network of DRAEM's own size is the paper tier's.
    """
    data = ctx.dataset("textures")
    for name in texture:
        if name not in data.classes:
            raise UserError(f"no texture {name!r}{did_you_mean(name, data.classes)}")
    trained = Training(steps, width, blocks, batch, rate, exponents, window)
    pairs = [(name, fit) for name in texture for fit in range(fits)]
    for done, (place, fit) in enumerate(pairs):
        where: Axes = {"texture": place, "fit": fit}
        ctx.progress(done / len(pairs), f"{place} {fit}")
        tiles = cut_tiles(ctx, data, where, train, held_out, defective, size)
        for name, scores, maps in _all_scores(ctx, detector, tiles, trained, feature_size, where):
            coords: Axes = {"detector": name, **where}
            _image_level(ctx, scores, tiles, k, prevalence, test_normal, resamples, alpha, where, coords)
            if maps is not None:
                chosen = [m for m in ctx.methods if m in pixel_rules or len(ctx.methods) == 1]
                _pixel_level(ctx, maps, tiles, k, chosen, pixel_resamples, pixel_tiles, alpha, where, coords)


def _all_scores(
    ctx: Context, names: list[str], tiles: Tiles, trained: Training, feature_size: int, where: Axes
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Yield (detector, image scores, score maps or None) of the held-out tiles, defective ones last."""
    train, size = len(tiles.training), tiles.training.shape[1]
    scored = np.concatenate([tiles.normal, *tiles.defective.values()])
    everything = np.concatenate([tiles.training, scored])
    vectors = Items(everything.reshape(len(everything), -1) / 255)
    features = None
    if {"padim", "patchcore"} & set(names):
        features = deep_features(ctx.dataset(NETWORK), everything / 255, size=feature_size)
    seed = ctx.derive("detector", **where) % 2**31
    for name in names:
        if name in LEARNED:
            maps = _of_network(ctx, name, tiles, scored, trained, where)
            yield name, pooled_scores(maps, window=trained.window), maps
        elif name == "padim" and features is not None:
            maps = PaDiM(seed=seed).fit(features[:train]).score_maps(features[train:])
            yield name, image_scores(maps), upsampled(maps, size)
        elif name == "patchcore" and features is not None:
            bank = PatchCore(limit=300, seed=seed).fit(features[:train])
            yield (
                name,
                bank.image_scores(features[train:]),
                upsampled(bank.score_maps(features[train:]), size),
            )
        else:
            order = np.arange(len(everything))
            yield name, by_name(name)(vectors, order[:train], order[train:], seed), None


def _of_network(
    ctx: Context, name: str, tiles: Tiles, scored: np.ndarray, trained: Training, where: Axes
) -> np.ndarray:
    """Train the network, with hard pairs for "sac", and return its score maps."""
    network, info = train_sac(
        tiles.training, tiles.sources, steps=trained.steps, hard_pairs=name == "sac",
        generator=ctx.torch_generator("network", **where), batch=trained.batch, rate=trained.rate,
        reconstructive_width=trained.width, discriminative_width=trained.width,
        reconstructive_blocks=trained.blocks, discriminative_blocks=trained.blocks, exponents=trained.exponents,
        device=ctx.device,
    )  # fmt: skip
    last = float(info.losses[-20:, 1:4].sum(axis=1).mean())
    ctx.record("final_loss", last, unit="1", direction="lower", method="", detector=name, **where)
    return sac_score_maps(network, scored)


def cut_tiles(
    ctx: Context, data: ImageSet, where: Axes, train: int, held_out: int, defective: int, size: int
) -> Tiles:
    """Training tiles from the left half of the texture, all others from its right half, sources from elsewhere."""
    images, index = data.data, data.classes.index(str(where["texture"]))
    rng = ctx.generator("tiles", **where)
    half = images.shape[2] // 2
    left, right = images[index][:, :half], images[index][:, half:]
    found = {
        name: add_defects(crops(right, defective, size, rng), strength=name, rng=rng) for name in STRENGTHS
    }
    others = [crops(image, 200, size, rng) for i, image in enumerate(images) if i != index]
    return Tiles(
        training=crops(left, train, size, rng),
        normal=crops(right, held_out, size, rng),
        defective={name: d.tiles for name, d in found.items()},
        masks={name: d.masks for name, d in found.items()},
        kinds={name: d.kinds for name, d in found.items()},
        sources=np.concatenate(others),
    )


def crops(image: np.ndarray, n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """n square tiles at independent, uniformly random places of a grey image, shape (n, size, size)."""
    if min(image.shape) < size:
        raise ValueError(f"tiles of {size} pixels do not fit an image of shape {image.shape}")
    rows = rng.integers(image.shape[0] - size + 1, size=n)
    columns = rng.integers(image.shape[1] - size + 1, size=n)
    return np.lib.stride_tricks.sliding_window_view(image, (size, size))[rows, columns].copy()


def _parts(values: np.ndarray, tiles: Tiles) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Scores in the order of `texture_defects`: of normal tiles, and of defective ones by strength."""
    ends = np.cumsum([len(tiles.normal), *(len(d) for d in tiles.defective.values())])
    normal, *rest = np.split(values, ends[:-1])
    return normal, dict(zip(tiles.defective, rest))


def _image_level(
    ctx: Context,
    scores: np.ndarray,
    tiles: Tiles,
    k: list[int],
    prevalence: list[float],
    test_normal: int,
    resamples: int,
    alpha: float,
    where: Axes,
    coords: Axes,
) -> None:
    normal, defective = _parts(scores, tiles)
    for strength, found in defective.items():
        here: Axes = {**coords, "strength": strength, "level": "image"}
        ctx.record("auroc", auroc(normal, found), unit="1", direction="higher", method="", **here)
        for index, kind in enumerate(KIND_NAMES):
            of_kind = found[tiles.kinds[strength] == index]
            if len(of_kind):
                area = auroc(normal, of_kind)
                ctx.record("auroc_of_kind", area, unit="1", direction="higher", method="", kind=kind, **here)
        for size in k:
            decide_on_resamples(
                ctx, normal, found, Sizes(size, test_normal, resamples), prevalence=prevalence, alpha=alpha,
                axes={**where, "strength": strength, "k": size}, coords=here,
            )  # fmt: skip


def _pixel_level(
    ctx: Context,
    maps: np.ndarray,
    tiles: Tiles,
    k: list[int],
    rules: list[str],
    resamples: int,
    count: int,
    alpha: float,
    where: Axes,
    coords: Axes,
) -> None:
    """All pixels of a batch as hypotheses; per-location p-values (k tiles), and p-values pooled over places.

    Pooled p-values rank a pixel among all pixels of the k tiles: they reach 1/(k h w + 1), and are valid for a pixel at
    a random place up to 1/(k + 1). Neither covers normal pixels of a defective tile; the halo is measured apart.
    """
    normal, defective = _parts(maps, tiles)
    clean = count // 2
    for size in k:
        _record_clean(ctx, normal, size, alpha, where, coords)
    for strength, found in defective.items():
        for size in k:
            axes: Axes = {**where, "strength": strength, "k": size}
            for resample in range(resamples):
                rng = ctx.generator("pixels", resample=resample, **axes)
                order, pick = rng.permutation(len(normal)), rng.permutation(len(found))[: count - clean]
                calibration = normal[order[:size]]
                test = np.concatenate([normal[order[size : size + clean]], found[pick]])
                masks = np.concatenate(
                    [np.zeros((clean, *maps.shape[1:]), bool), tiles.masks[strength][pick]]
                )
                per_location = conformal_p_per_location(calibration, test)
                pooled = conformal_p(calibration.ravel(), test.ravel()).reshape(test.shape)
                for unit, p, grid in (
                    ("per_location", per_location, size),
                    ("pooled", pooled, calibration.size),
                ):
                    here: Axes = {**coords, **axes, "level": "pixel", "ranked": unit, "resample": resample}
                    _record_nulls(ctx, p, masks, clean, alpha, here)
                    for rule in rules:
                        # Rules for pixels decide on p and on k, the length of the calibration, alone.
                        evidence = Evidence(p.ravel(), np.zeros(grid), test.ravel(), ~masks.ravel())
                        uniform = ctx.generator("pixel_uniform", resample=resample, **axes)
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore", NoPowerWarning)
                            reject = decide(ctx.methods[rule], evidence, alpha=alpha, rng=uniform)
                        _record_pixels(ctx, reject, evidence.null, method=rule, **here)


def _record_clean(
    ctx: Context, normal: np.ndarray, size: int, alpha: float, where: Axes, coords: Axes
) -> None:
    """P(p <= alpha) of pixels of clean tiles, over `DIVISIONS` divisions into calibration and test tiles."""
    for division in range(DIVISIONS):
        order = ctx.generator("clean", k=size, division=division, **where).permutation(len(normal))
        calibration, test = normal[order[:size]], normal[order[size : size + TEST_TILES]]
        found = {
            "per_location": conformal_p_per_location(calibration, test),
            "pooled": conformal_p(calibration.ravel(), test.ravel()),
        }
        for ranked, p in found.items():
            share = float(np.mean(p <= alpha * (1 + 1e-12)))
            ctx.record(
                "null_p_below_alpha", share, unit="1", direction="lower", method="", pixels="clean", level="pixel",
                ranked=ranked, k=size, division=division, **coords,
            )  # fmt: skip


def _record_nulls(
    ctx: Context, p: np.ndarray, masks: np.ndarray, clean: int, alpha: float, coords: Axes
) -> None:
    """P(p <= alpha) of normal pixels of defective tiles: within `HALO` pixels of the defect, and farther off."""
    distance = np.stack([distance_transform_edt(~m) for m in masks[clean:]])
    near = (distance > 0) & (distance <= HALO)
    below = p[clean:] <= alpha * (1 + 1e-12)
    for group, values in (("halo", below[near]), ("far", below[distance > HALO])):
        share = float(np.mean(values))
        ctx.record(
            "null_p_below_alpha", share, unit="1", direction="lower", method="", pixels=group, **coords
        )


def _record_pixels(ctx: Context, reject: np.ndarray, null: np.ndarray, **coords: Any) -> None:
    found = {"fdp": metrics.fdp, "tpr": metrics.tpr, "fpr": metrics.fpr, "f1": metrics.f1}
    for metric, of in found.items():
        direction = "higher" if metric in ("tpr", "f1") else "lower"
        ctx.record(metric, float(of(reject, null)), unit="1", direction=direction, **coords)
