"""Speed of the rules against the packages that have them, on the same arrays in one run."""

from __future__ import annotations

import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from reproven.harness.context import Context
from reproven.harness.errors import require
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.e_values import power_calibrator
from reproven.papers.sac_bl.evidence import Evidence, decide
from reproven.papers.sac_bl.p_values import conformal_p
from reproven.papers.sac_bl.rules import bh
from reproven.papers.sac_bl.sbl import sbl
from reproven.papers.sac_bl.step_up import NoPowerWarning


def fdr_pixels(
    ctx: Context, *, n: int, k: int, repeats: int, alpha: float = 0.05, gamma: float = 0.8
) -> None:
    """SBL and BH on n pixels with k calibration scores, against statsmodels' BH and online-fdr's e-BH.

    Ours is the median of `repeats` calls, each peer its fastest; the peers get their inputs ready made (the e-values
    as a list). Peak memory is input plus what a call allocates, over the input.
    """
    require("statsmodels", "sac_bl")
    require("online_fdr", "sac_bl")
    from online_fdr.e_values import e_bh as package_e_bh
    from statsmodels.stats.multitest import multipletests

    rng = ctx.generator("scores")
    scores = rng.standard_normal(n)
    scores[: n // 100] += 4.0
    start = time.perf_counter()
    p = conformal_p(rng.standard_normal(k), scores)
    ctx.record("seconds", time.perf_counter() - start, unit="s", direction="lower", rule="conformal_p", n=n)
    del scores
    lam = ctx.generator("uniform").random()
    ours: dict[str, Callable[[], Any]] = {
        "bh": lambda: bh(p, alpha=alpha, k=k),
        "sbl": lambda: sbl(p, alpha=alpha, gamma=gamma, uniform=lam, k=k),
    }
    seconds = {}
    for done, (name, call) in enumerate(ours.items()):
        ctx.progress(done / 4, name)
        seconds[name] = float(np.median([_timed(call)[0] for _ in range(repeats)]))
        ctx.record("seconds", seconds[name], unit="s", direction="lower", rule=name, n=n)
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        ctx.record(
            "peak_memory_over_input", (p.nbytes + peak) / p.nbytes, unit="1", direction="lower", rule=name
        )
    ctx.progress(0.5, "statsmodels")
    times = [_timed(lambda: multipletests(p, alpha, method="fdr_bh")[0]) for _ in range(2)]
    _compare(ctx, seconds, "statsmodels multipletests", min(t for t, _ in times))
    ctx.record("mismatches", int(np.count_nonzero(times[0][1] != ours["bh"]()[0])), unit="pixels", rule="bh")
    ctx.progress(0.75, "online-fdr")
    # e-BH on e / Lambda is SBL, so that the two decide the same.
    e = (power_calibrator(p, gamma=gamma) / lam).tolist()
    elapsed, theirs = _timed(lambda: package_e_bh(e, alpha))
    _compare(ctx, seconds, "online-fdr e_bh", elapsed)
    ctx.record(
        "mismatches", int(np.count_nonzero(np.asarray(theirs) != ours["sbl"]()[0])), unit="pixels", rule="sbl"
    )


def fdr_replicates(
    ctx: Context, *, replicates: int, k: int = 1000, n: int = 150, alpha: float = 0.05
) -> None:
    """Every rule on all replicates at once, from scores to FDP and power: seconds of each and in total."""
    rng = ctx.generator("scores")
    start = time.perf_counter()
    calibration = rng.standard_normal((replicates, k))
    null = rng.random((replicates, n)).argsort(axis=-1) >= n // 2
    scores = rng.standard_normal((replicates, n)) + 4.0 * ~null
    evidence = Evidence(conformal_p(calibration, scores), calibration, scores, null)
    total = time.perf_counter() - start
    for done, (name, rule) in enumerate(ctx.methods.items()):
        ctx.progress(done / len(ctx.methods), name)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoPowerWarning)
            reject = decide(rule, evidence, alpha=alpha, rng=ctx.generator("uniform"))
        metrics.fdp(reject, null)
        metrics.power(reject, null)
        elapsed = time.perf_counter() - start
        total += elapsed
        ctx.record("seconds", elapsed, unit="s", direction="lower", method=name, replicates=replicates)
    ctx.record("total_seconds", total, unit="s", direction="lower", method="", replicates=replicates)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def _compare(ctx: Context, seconds: dict[str, float], peer: str, elapsed: float) -> None:
    ctx.record("seconds", elapsed, unit="s", direction="lower", rule=peer)
    for name, value in seconds.items():
        ctx.record("speedup", elapsed / value, unit="x", direction="higher", rule=name, peer=peer)
