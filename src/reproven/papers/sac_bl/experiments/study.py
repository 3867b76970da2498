"""One detector fitted once, all rules on many divisions of the held-out items; shared by experiments on real scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.harness.errors import UserError, did_you_mean
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.detectors import (
    EcodScores,
    IsolationForestScores,
    KnnDistance,
    PaDiM,
    PatchCore,
    PcaReconstruction,
    image_scores,
)
from reproven.papers.sac_bl.evidence import Evidence, decide
from reproven.papers.sac_bl.p_values import conformal_p
from reproven.papers.sac_bl.step_up import NoPowerWarning


@dataclass(frozen=True)
class Items:
    """What detectors work on. vectors: (n, d). features: maps (n, c, h, w) of a frozen network, None without one.

    scale: whether the features have units of their own, so that distances need them divided by their spread.
    """

    vectors: np.ndarray
    features: np.ndarray | None = None
    scale: bool = False

    def maps(self, name: str) -> np.ndarray:
        """The feature maps; `UserError` where there are none."""
        if self.features is None:
            raise UserError(f"detector {name!r} needs images and a frozen network; these items are vectors")
        return self.features


Fitted = Callable[[Items, np.ndarray, np.ndarray, int], np.ndarray]


def _vectors(make: Callable[[Items, int], Any]) -> Fitted:
    def scores(items: Items, training: np.ndarray, scored: np.ndarray, seed: int) -> np.ndarray:
        return make(items, seed).fit(items.vectors[training]).score(items.vectors[scored])

    return scores


def _padim(items: Items, training: np.ndarray, scored: np.ndarray, seed: int) -> np.ndarray:
    maps = items.maps("padim")
    return image_scores(PaDiM(seed=seed).fit(maps[training]).score_maps(maps[scored]))


def _patchcore(items: Items, training: np.ndarray, scored: np.ndarray, seed: int) -> np.ndarray:
    maps = items.maps("patchcore")
    return PatchCore(limit=300, seed=seed).fit(maps[training]).image_scores(maps[scored])


# name -> scores of the items `scored`, the detector being fitted on the items `training`. One call scores
# calibration and test items alike.
DETECTORS: Mapping[str, Fitted] = {
    "knn": _vectors(lambda items, _: KnnDistance(scale=items.scale)),
    "pca": _vectors(lambda items, _: PcaReconstruction(scale=items.scale)),
    "ecod": _vectors(lambda *_: EcodScores()),
    "iforest": _vectors(lambda _, seed: IsolationForestScores(seed=seed)),
    "padim": _padim,
    "patchcore": _patchcore,
}


def detector(name: str) -> Fitted:
    """The detector of that name; `UserError` with the nearest name when unknown."""
    if name not in DETECTORS:
        raise UserError(f"no detector {name!r}{did_you_mean(name, DETECTORS)}")
    return DETECTORS[name]


@dataclass(frozen=True)
class Sizes:
    """How the held-out items are divided, again and again: k for calibration, n0 normal ones for each test batch."""

    calibration: int
    test_normal: int
    resamples: int


def auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """P(an anomaly scores above a normal item), ties half."""
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, anomalous, side="left")
    below = below + np.searchsorted(ordered, anomalous, side="right")
    return float(below.mean() / (2 * len(normal)))


def decide_on_resamples(
    ctx: Context,
    normal: np.ndarray,
    anomalous: np.ndarray,
    sizes: Sizes,
    *,
    prevalence: list[float],
    alpha: float,
    axes: Mapping[str, int | float | str],
    coords: Mapping[str, int | float | str],
) -> None:
    """All rules on `resamples` random divisions of scores that were computed once; means over them are recorded.

    Every division is exchangeable given the fitted detector, so that the mean FDP estimates the FDR, and the rows
    `fdp_q90` and `fdp_exceeds_twice_alpha` say how the FDP spreads around it.

    Args:
        normal: scores of held-out normal items, at least calibration + test_normal of them.
        anomalous: scores of anomalies; with none, only the prevalence 0 is measured.
        axes: what the random divisions depend on (never the detector or the rule).
        coords: coordinates of the measurements.
    """
    k, n0 = sizes.calibration, sizes.test_normal
    if len(normal) < k + n0:
        raise ValueError(
            f"{len(normal)} held-out normal items, calibration + test_normal ask for {k + n0}: lower one of them"
        )
    rng = ctx.generator("resamples", **axes)
    order = rng.random((sizes.resamples, len(normal))).argsort(axis=1)
    calibration, test = normal[order[:, :k]], normal[order[:, k : k + n0]]
    picks = rng.random((sizes.resamples, max(len(anomalous), 1))).argsort(axis=1)
    for share in prevalence if len(anomalous) else [s for s in prevalence if s == 0]:
        n1 = round(n0 * share / (1 - share))
        if n1 > len(anomalous):
            raise ValueError(
                f"prevalence {share} with {n0} normal items needs {n1} anomalies, there are {len(anomalous)}"
            )
        scores = np.concatenate([test, anomalous[picks[:, :n1]]], axis=1) if n1 else test
        # Items stand in random order: neither online rules nor broken ties may profit from it.
        place = ctx.generator("places", prevalence=share, **axes).random(scores.shape).argsort(axis=1)
        scores, null = np.take_along_axis(scores, place, axis=1), place < n0
        evidence = Evidence(conformal_p(calibration, scores), calibration, scores, null)
        for name, rule in ctx.methods.items():
            uniform = ctx.generator("uniform", prevalence=share, **axes)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoPowerWarning)  # no power is what is being measured
                reject = decide(rule, evidence, alpha=alpha, rng=uniform)
            record_decisions(ctx, reject, null, alpha, method=name, prevalence=share, k=k, **coords)


def record_decisions(ctx: Context, reject: np.ndarray, null: np.ndarray, alpha: float, **coords: Any) -> None:
    """Record the means over batches (first axis) of FDP, TPR, FPR and F1, and the spread of the FDP."""
    false = metrics.fdp(reject, null)
    found = {
        "fdp": (false.mean(), "lower"),
        "fdp_q90": (np.quantile(false, 0.9), "lower"),
        "fdp_exceeds_twice_alpha": (metrics.fdp_exceeds(reject, null, 2 * alpha).mean(), "lower"),
        "tpr": (metrics.tpr(reject, null).mean(), "higher"),
        "f1": (metrics.f1(reject, null).mean(), "higher"),
    }
    if not null.all():
        found["fpr"] = (metrics.fpr(reject, null).mean(), "lower")
    for metric, (value, direction) in found.items():
        ctx.record(metric, float(value), unit="1", direction=direction, **coords)
