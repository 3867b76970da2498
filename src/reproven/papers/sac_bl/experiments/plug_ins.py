"""All detectors and all rules on real scores: images, imbalanced tables, windows of time series."""

from __future__ import annotations

import numpy as np

from reproven.data import tables
from reproven.harness.context import Context
from reproven.papers.sac_bl.detectors import deep_features
from reproven.papers.sac_bl.experiments.study import Items, Sizes, auroc, decide_on_resamples
from reproven.papers.sac_bl.experiments.study import detector as by_name
from reproven.papers.sac_bl.p_values import conformal_p

NETWORK = "efficientnet_lite0"  # the data set that is the frozen network


def image_detectors(
    ctx: Context,
    *,
    detector: list[str],
    anomaly: list[int],
    prevalence: list[float],
    splits: int,
    resamples: int,
    train: int,
    calibration: int,
    test_normal: int,
    size: int = 64,
    alpha: float = 0.1,
) -> None:
    """Each class in turn the anomaly. The network's features of all images are computed once.

    splits: fresh draws of the training images, each with detectors of its own. resamples: divisions of the other
    images into calibration and test, for each.
    """
    (name,) = (name for name in ctx.datasets if name != NETWORK)
    data = ctx.dataset(name)
    images, labels = np.asarray(data.data) / data.peak, np.asarray(data.targets)
    features = None
    if {"padim", "patchcore"} & set(detector):
        ctx.progress(0.0, "features")
        features = deep_features(ctx.dataset(NETWORK), images, size=size, grid=1)
    items = Items(images.reshape(len(images), -1), features)
    sizes = Sizes(calibration, test_normal, resamples)
    for done, target in enumerate(anomaly):
        ctx.progress(done / len(anomaly), f"class {target}")
        _study(
            ctx, items, labels == target, detector, splits, train, sizes, prevalence, alpha,
            {"dataset": name, "anomaly": target},
        )  # fmt: skip


def table_detectors(
    ctx: Context,
    *,
    detector: list[str],
    prevalence: list[float],
    splits: int,
    resamples: int,
    train: float,
    calibration: int,
    test_normal: int,
    alpha: float = 0.1,
) -> None:
    """Imbalanced tables, the smaller class the anomaly. train: share of the normal rows that is trained on."""
    for done, name in enumerate(ctx.datasets):
        ctx.progress(done / len(ctx.datasets), name)
        x, y = tables.arrays(ctx.dataset(name))
        anomalous = y == np.argmin(np.bincount(y))
        normal = int(np.count_nonzero(~anomalous))
        held_out = normal - round(train * normal)
        sizes = Sizes(min(calibration, held_out - test_normal), test_normal, resamples)
        _study(
            ctx, Items(x, scale=True), anomalous, detector, splits, normal - held_out, sizes, prevalence, alpha,
            {"dataset": name},
        )  # fmt: skip


def window_detectors(
    ctx: Context,
    *,
    detector: list[str],
    prevalence: list[float],
    splits: int,
    resamples: int,
    width: int,
    stride: int,
    train: int,
    calibration: int,
    test_normal: int,
    in_time: list[float],
    alpha: float = 0.1,
) -> None:
    """Windows of series; a window is anomalous where it holds a marked point.

    protocol "shuffled": windows are divided at random, so that they are exchangeable however they overlap.
    protocol "in_time": training and calibration windows come first (they end at the shares `in_time` of the series),
    as on a line; then nothing makes later ones exchangeable with them. A series without marks gives clean batches
    alone, and no power; `anomalies_marked` says so.
    """
    sizes = Sizes(calibration, test_normal, resamples)
    for done, name in enumerate(ctx.datasets):
        ctx.progress(done / len(ctx.datasets), name)
        windows, anomalous, position = cut_windows(ctx.dataset(name), width, stride)
        ctx.record("anomalies_marked", int(anomalous.sum()), unit="windows", dataset=name)
        items = Items(windows, scale=True)
        where: dict[str, int | float | str] = {"dataset": name, "protocol": "shuffled"}
        _study(ctx, items, anomalous, detector, splits, train, sizes, prevalence, alpha, where)
        _in_order(ctx, items, anomalous, position, detector, alpha, in_time, name)


def cut_windows(series, width: int, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows of an `AnomalySeries`, flattened (n, channels width); whether each holds a marked point; where it ends.

    Ends are shares of the series' length. Windows with unobserved points are left out.
    """
    starts = np.arange(0, len(series) - width + 1, stride)
    inside = starts[:, None] + np.arange(width)
    observed = series.mask[inside].all(axis=1)
    starts, inside = starts[observed], inside[observed]
    if len(starts) == 0:
        raise ValueError(f"no whole window of width {width} in a series of {len(series)} points")
    values = series.values[:, inside].transpose(1, 0, 2).reshape(len(starts), -1)
    return values, series.anomaly[inside].any(axis=1), (starts + width) / len(series)


def _study(
    ctx: Context,
    items: Items,
    anomalous: np.ndarray,
    names: list[str],
    splits: int,
    train: int,
    sizes: Sizes,
    prevalence: list[float],
    alpha: float,
    where: dict[str, int | float | str],
) -> None:
    """Fit every detector on `splits` draws of training items; decide on resamples of the rest."""
    normal, anomalies = np.flatnonzero(~anomalous), np.flatnonzero(anomalous)
    for split in range(splits):
        axes = {**where, "split": split}
        order = ctx.generator("training", **axes).permutation(normal)
        training, held_out = order[:train], order[train:]
        scored = np.concatenate([held_out, anomalies])
        for name in names:
            scores = by_name(name)(items, training, scored, ctx.derive("detector", **axes) % 2**31)
            coords = {"detector": name, **axes}
            if len(anomalies):
                area = auroc(scores[: len(held_out)], scores[len(held_out) :])
                ctx.record("auroc", area, unit="1", direction="higher", method="", **coords)
            decide_on_resamples(
                ctx, scores[: len(held_out)], scores[len(held_out) :], sizes,
                prevalence=prevalence, alpha=alpha, axes=axes, coords=coords,
            )  # fmt: skip


def _in_order(
    ctx: Context,
    items: Items,
    anomalous: np.ndarray,
    position: np.ndarray,
    names: list[str],
    alpha: float,
    in_time: list[float],
    dataset: str,
) -> None:
    """Train on the past, calibrate on what follows; record P(p <= alpha) of later normal windows."""
    first, second = in_time
    training = np.flatnonzero((position <= first) & ~anomalous)
    calibration = np.flatnonzero((position > first) & (position <= second) & ~anomalous)
    later = np.flatnonzero((position > second) & ~anomalous)
    for name in names:
        seed = ctx.derive("detector", dataset=dataset) % 2**31
        scores = by_name(name)(items, training, np.concatenate([calibration, later]), seed)
        p = conformal_p(scores[: len(calibration)], scores[len(calibration) :])
        ctx.record(
            "null_p_below_alpha", float(np.mean(p <= alpha)), unit="1", direction="lower", method="",
            detector=name, dataset=dataset, protocol="in_time", k=len(calibration),
        )  # fmt: skip
