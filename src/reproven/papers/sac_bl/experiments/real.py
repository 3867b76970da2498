"""Real images, one class against the rest: scores are distances to the nearest training images."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.evidence import Evidence, decide
from reproven.papers.sac_bl.experiments.study import auroc
from reproven.papers.sac_bl.p_values import conformal_p
from reproven.papers.sac_bl.step_up import NoPowerWarning

NEIGHBOURS = 2
LISTED = 128  # nearest normal images kept for each image; beyond them the distances are computed afresh


def squared_distances(images: np.ndarray) -> np.ndarray:
    """Squared distances of float64 images, (n, d) -> (n, n); exact for whole pixel values, by one product."""
    squared = images @ images.T
    squared *= -2
    norms = np.sum(images**2, axis=1)
    squared += norms[:, None]
    squared += norms
    return squared


class NearestNormals:
    """Mean distance to the nearest training images, for any subset of the normal images as training set.

    Each image's nearest normal images are listed once, so that a new split costs a look-up, not a product.
    """

    def __init__(self, images: np.ndarray, squared: np.ndarray, normal: np.ndarray) -> None:
        """images: pixels, shape (n, d). squared: their squared distances, shape (n, n).

        normal: indices of the images that a training set may hold.
        """
        self.images = images
        listed = min(LISTED, len(normal))
        squared = squared[:, normal]
        near = np.argpartition(squared, listed - 1, axis=1)[:, :listed]
        distance = np.take_along_axis(squared, near, axis=1)
        order = np.argsort(distance, axis=1, kind="stable")
        self.near = normal[np.take_along_axis(near, order, axis=1)]
        self.distance = np.sqrt(np.maximum(np.take_along_axis(distance, order, axis=1), 0.0))

    def scores(self, items: np.ndarray, training: np.ndarray) -> np.ndarray:
        """Mean distance of `items` to their two nearest images in `training`; a training image is 0 from itself."""
        member = np.zeros(len(self.images), dtype=bool)
        member[training] = True
        inside = member[self.near[items]]
        rank = np.cumsum(inside, axis=1)
        chosen = inside & (rank <= NEIGHBOURS)
        score = np.sum(self.distance[items] * chosen, axis=1) / NEIGHBOURS
        short = np.flatnonzero(rank[:, -1] < NEIGHBOURS)
        if short.size:
            difference = self.images[items[short], None] - self.images[training]
            distance = np.sort(np.sqrt(np.sum(difference**2, axis=2)), axis=1)
            score[short] = distance[:, :NEIGHBOURS].mean(axis=1)
        return score


def one_versus_rest(
    ctx: Context,
    *,
    anomaly: list[int],
    prevalence: list[float],
    splits: int,
    train: int,
    calibration: int,
    test_normal: int,
    alpha: float = 0.1,
    resplits: int = 4,
    calibrate_on: str = "held_out",
) -> None:
    """FDR, FPR, TPR and F1 of every rule with one class as the anomaly, on freshly drawn splits.

    A split draws training, calibration and test images anew, so that the FDR is a mean over calibration sets too;
    all rules and all prevalences see the same split.

    prevalence: shares of anomalies in the test batch; 0 is a clean batch.
    resplits: further divisions of the same training and calibration images, for rules that average over splits.
    calibrate_on: "held_out", or "training" as a negative control: the training images score themselves.
    """
    if calibrate_on not in ("held_out", "training"):
        raise ValueError(f"calibrate_on={calibrate_on!r} must be 'held_out' or 'training'")
    data = ctx.dataset()
    images, labels = np.asarray(data.data), np.asarray(data.targets)
    images = images.reshape(len(images), -1).astype(float)
    squared = squared_distances(images)
    wants_splits = any("splits" in inspect.signature(rule).parameters for rule in ctx.methods.values())
    for done, target in enumerate(anomaly):
        ctx.progress(done / len(anomaly), f"class {target}")
        normal, anomalous = np.flatnonzero(labels != target), np.flatnonzero(labels == target)
        if len(normal) < train + calibration + test_normal:
            raise ValueError(
                f"class {target} leaves {len(normal)} normal images; train + calibration + test_normal ask for "
                f"{train + calibration + test_normal}"
            )
        detector = NearestNormals(images, squared, normal)
        draws: list[dict[str, Any]] = []
        for split in range(splits):
            rng = ctx.generator("split", anomaly=target, split=split)
            order = rng.permutation(normal)
            reference, test = order[: train + calibration], order[train + calibration :][:test_normal]
            items = np.concatenate([test, rng.permutation(anomalous)])
            draw: dict[str, Any] = {"items": items, "rank": rng.random(len(items)), "further": []}
            draw["cal"], draw["test"] = _score(detector, reference, train, items, calibrate_on)
            for _ in range(resplits if wants_splits else 0):
                draw["further"].append(
                    _score(detector, rng.permutation(reference), train, items, calibrate_on)
                )
            draws.append(draw)
            area = auroc(draw["test"][:test_normal], draw["test"][test_normal:])
            ctx.record("auroc", area, unit="1", direction="higher", method="", anomaly=target, split=split)
        for share in prevalence:
            _decide_all(ctx, draws, target, share, test_normal, len(anomalous), alpha)


def _score(detector: NearestNormals, reference: np.ndarray, train: int, items: np.ndarray, calibrate_on: str):
    training, held_out = reference[:train], reference[train:]
    calibration = held_out if calibrate_on == "held_out" else training
    return detector.scores(calibration, training), detector.scores(items, training)


def _decide_all(
    ctx: Context,
    draws: list[dict[str, Any]],
    target: int,
    share: float,
    n0: int,
    available: int,
    alpha: float,
) -> None:
    """All rules on all splits of one class at one prevalence, splits as the batch axis."""
    n1 = round(n0 * share / (1 - share))
    if n1 > available:
        raise ValueError(
            f"prevalence {share} with {n0} normal images needs {n1} anomalies; class {target} has {available}"
        )
    # Items stand in random order: neither online rules nor broken ties may profit from it.
    order = np.stack([np.argsort(d["rank"][: n0 + n1]) for d in draws])
    null = order < n0
    pick = lambda rows: np.stack([row[: n0 + n1][o] for row, o in zip(rows, order)])  # noqa: E731
    calibration, scores = np.stack([d["cal"] for d in draws]), pick([d["test"] for d in draws])
    further = [
        (np.stack([d["further"][i][0] for d in draws]), pick([d["further"][i][1] for d in draws]))
        for i in range(len(draws[0]["further"]))
    ]
    evidence = Evidence(conformal_p(calibration, scores), calibration, scores, null, further)
    for name, rule in ctx.methods.items():
        rng = ctx.generator("uniform", anomaly=target, prevalence=share)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoPowerWarning)  # no power is what is being measured
            reject = decide(rule, evidence, alpha=alpha, rng=rng)
        coords: dict[str, Any] = {
            "method": name,
            "anomaly": target,
            "prevalence": share,
            "split": np.arange(len(draws)),
        }
        named = {"fdp": (metrics.fdp, "lower"), "tpr": (metrics.tpr, "higher"), "f1": (metrics.f1, "higher")}
        if n1:
            named["fpr"] = (metrics.fpr, "lower")
        for metric, (of, direction) in named.items():
            ctx.record_many(metric, of(reject, null), unit="1", direction=direction, **coords)
