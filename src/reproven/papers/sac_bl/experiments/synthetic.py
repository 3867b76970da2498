"""Gaussian scores with a known truth: N(0, 1) for normal items, N(shift, 1) for anomalies, one shared calibration."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.evidence import Evidence, decide
from reproven.papers.sac_bl.p_values import conformal_p
from reproven.papers.sac_bl.sbl import sbl_inclusion
from reproven.papers.sac_bl.step_up import NoPowerWarning

CHUNK = 500  # replicates drawn at a time: bounds the memory of the calibration scores


def simulation(
    ctx: Context,
    *,
    k: int,
    prevalence: list[float],
    replicates: int,
    n: int = 150,
    shift: float = 4.0,
    alpha: float = 0.05,
    block: int = 200,
    fine: int = 8,
    plus_one: bool = True,
) -> None:
    """FDR and power of every rule over calibration size k and share of anomalies.

    All items of a replicate share its k calibration scores. Measurements are means over blocks of replicates, which
    are independent: FDPs over `fine` replicates, so that an FDR of 0 rests on many samples, the rest over `block`.

    plus_one: False is the negative control (p = #/k).
    """
    if replicates % block or block % fine:
        raise ValueError(
            f"replicates={replicates}, block={block}, fine={fine}: each must be a multiple of the next"
        )
    chunk = min(max(CHUNK // block, 1) * block, replicates)
    for start in range(0, replicates, chunk):
        ctx.progress(start / replicates, f"k={k}")
        rows = min(chunk, replicates - start)
        rng = ctx.generator("scores", k=k, start=start)
        calibration = np.sort(rng.standard_normal((rows, k)), axis=-1)
        noise = rng.standard_normal((rows, n))
        place = rng.random((rows, n)).argsort(
            axis=-1
        )  # where anomalies stand: online rules and ties must not know
        for share in prevalence:
            null = place >= round(share * n)
            scores = noise + shift * ~null
            evidence = Evidence(
                conformal_p(calibration, scores, plus_one=plus_one), calibration, scores, null
            )
            coords = {"k": k, "prevalence": share}
            for name, rule in ctx.methods.items():
                rng = ctx.generator("uniform", k=k, start=start, prevalence=share)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NoPowerWarning)  # no power is what is being measured
                    reject = decide(rule, evidence, alpha=alpha, rng=rng)
                _record(ctx, reject, null, alpha, start, block, fine, method=name, **coords)


def _record(
    ctx: Context,
    reject: np.ndarray,
    null: np.ndarray,
    alpha: float,
    start: int,
    block: int,
    fine: int,
    **coords: Any,
) -> None:
    def record(metric: str, values: np.ndarray, direction: str, size: int = block) -> None:
        means = values.reshape(-1, size).mean(axis=1)
        blocks = start // size + np.arange(len(means))
        ctx.record_many(metric, means, unit="1", direction=direction, block=blocks, **coords)

    false = metrics.fdp(reject, null)
    n, n0 = null.shape[-1], np.count_nonzero(null[0])
    record("fdp", false, "lower", fine)
    record("fdp_over_bound", false * n / (alpha * n0), "lower")  # the theorems' bound is alpha n0 / n
    record("fdp_exceeds_twice_alpha", metrics.fdp_exceeds(reject, null, 2 * alpha), "lower")
    record("everything_rejected", reject.min(axis=-1).astype(float), "lower")
    if n0 < n:
        record("power", metrics.power(reject, null), "higher")


def lambda_draws(
    ctx: Context,
    *,
    k: list[int],
    points: int,
    replicates: int,
    n: int = 150,
    prevalence: float = 0.2,
    shift: float = 4.0,
    alpha: float = 0.05,
    gamma: float = 0.8,
) -> None:
    """What one SBL draw may do to a batch: rejections and FDP as functions of Lambda, instead of their mean alone.

    At `points` values of Lambda in geometric steps from alpha (1 - gamma) / 10 to 1, one measurement a (replicate,
    Lambda); exact, no sampling of Lambda. Beside them the exact probability that everything is rejected.
    """
    lam = np.geomspace(alpha * (1 - gamma) / 10, 1.0, points)
    for size in k:
        rng = ctx.generator("scores", k=size)
        scores = rng.standard_normal((replicates, n))
        null = rng.random((replicates, n)).argsort(axis=-1) >= round(prevalence * n)
        p = conformal_p(rng.standard_normal((replicates, size)), scores + shift * ~null)
        inclusion = sbl_inclusion(p, alpha=alpha, gamma=gamma)
        for replicate in range(replicates):
            reject = inclusion[replicate] >= lam[:, None]  # j is rejected for Lambda <= min(1, alpha / q_j)
            coords: dict[str, Any] = {"k": size, "replicate": replicate, "uniform": lam}
            rejected = reject.mean(axis=-1)
            ctx.record_many("rejected_share", rejected, unit="1", **coords)
            ctx.record_many(
                "fdp", metrics.fdp(reject, null[replicate]), unit="1", direction="lower", **coords
            )
        # Rejections only grow as Lambda falls, so that the extreme draws span the range.
        share = (inclusion[:, None, :] >= lam[[0, -1], None]).mean(axis=-1)
        each: dict[str, Any] = {"k": size, "replicate": np.arange(replicates)}
        ctx.record_many("rejected_range", share[:, 0] - share[:, 1], unit="1", direction="lower", **each)
        ctx.record_many("everything_probability", inclusion.min(axis=-1), unit="1", direction="lower", **each)
