"""Tables 1 and 2 and BTAD: a network of DRAEM's size for each category, decisions on images and on pixels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from reproven.data import inspection
from reproven.harness.context import Context
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.evidence import Evidence, decide
from reproven.papers.sac_bl.network import pooled_scores, sac_score_maps, train_sac
from reproven.papers.sac_bl.p_values import conformal_p
from reproven.papers.sac_bl.step_up import NoPowerWarning


def inspection_table(
    ctx: Context,
    *,
    benchmark: str,
    category: str,
    epochs: int,
    size: int = 256,
    batch: int = 8,
    rate: float = 1e-4,
    reconstructive_width: int = 128,
    discriminative_width: int = 64,
    reconstructive_blocks: int = 5,
    discriminative_blocks: int = 6,
    exponents: int = 6,
    window: int = 21,
    calibration_share: float = 0.3,
    hard_pairs: bool = True,
    alpha: float = 0.05,
) -> None:
    """Train on a category, calibrate on normal images held out of training, decide on the official test split.

    Rates are in percent, as printed. Pixels are ranked among all pixels of the calibration images. The paper does not
    say how it calibrates; a share of `calibration_share` of the training images is set aside here before training.
    """
    files = inspection.load(benchmark, category)
    textures = inspection.dtd_textures()
    order = ctx.generator("calibration", benchmark=benchmark, category=category).permutation(len(files.train))
    held_out = max(1, round(calibration_share * len(order)))
    images = inspection.read_images(files.train, size)
    calibration, training = images[order[:held_out]], images[order[held_out:]]
    network, _ = train_sac(
        training, inspection.read_images(textures, size), steps=max(1, epochs * len(training) // batch),
        generator=ctx.torch_generator("network", benchmark=benchmark, category=category), hard_pairs=hard_pairs,
        batch=batch, rate=rate, reconstructive_width=reconstructive_width, discriminative_width=discriminative_width,
        reconstructive_blocks=reconstructive_blocks, discriminative_blocks=discriminative_blocks,
        exponents=exponents, device=ctx.device, tell=lambda done: ctx.progress(0.9 * done, category),
    )  # fmt: skip
    ctx.progress(0.9, f"{category}: scores")
    maps = sac_score_maps(network, calibration, batch=batch)
    test = sac_score_maps(network, inspection.read_images(files.test, size), batch=batch)
    where = {"benchmark": benchmark, "category": category}
    _decide(
        ctx, pooled_scores(maps, window=window), pooled_scores(test, window=window), ~files.anomalous, alpha,
        level="image", **where,
    )  # fmt: skip
    masks = inspection.read_masks(files.masks, size)
    _decide(ctx, maps.ravel(), test.ravel(), ~masks.ravel(), alpha, level="pixel", **where)


def _decide(
    ctx: Context, calibration: np.ndarray, scores: np.ndarray, null: np.ndarray, alpha: float, **where: Any
) -> None:
    evidence = Evidence(conformal_p(calibration, scores), calibration, scores, null)
    for name, rule in ctx.methods.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoPowerWarning)
            reject = decide(rule, evidence, alpha=alpha, rng=ctx.generator("uniform", **where))
        coords = {"method": name, "k": len(calibration), **where}
        for metric, of in (
            ("tpr", metrics.tpr),
            ("fpr", metrics.fpr),
            ("f1", metrics.f1),
            ("fdp", metrics.fdp),
        ):
            direction = "higher" if metric in ("tpr", "f1") else "lower"
            ctx.record(metric, 100 * float(of(reject, null)), unit="%", direction=direction, **coords)
