"""Phase diagram of the asymptotic claim (Theorem 3.2): null N(0, 1), alternative N(mu, 1).

mu = sqrt(2 r log n), n1 = n^(1-beta); this is the paper's family with tau = 2. The stated region of FPR -> 0 is
beta < r < 1. For fixed gamma < 1, BL's levels reach the bulk of the anomalies only for r > beta / gamma
(reconstructed, dossier section 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri_exp

from reproven.harness.context import Context
from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.evidence import Evidence, decide
from reproven.papers.sac_bl.p_values import known_null_p

EDGE = 0.02


def phase(
    ctx: Context, *, r: list[float], beta: list[float], n: int, repeats: int, alpha: float = 0.05
) -> None:
    """Monte Carlo FPR of every rule over (r, beta), p-values from the known null; one measurement a repeat."""
    cells = [(b, strength) for b in beta for strength in r]
    for done, (b, strength) in enumerate(cells):
        ctx.progress(done / len(cells), f"n={n} beta={b}")
        n1 = max(1, round(n ** (1 - b)))
        null = np.arange(n) >= n1
        for repeat in range(repeats):
            rng = ctx.generator("scores", n=n, repeat=repeat)  # shared by all cells: the diagram is smooth
            scores = rng.standard_normal(n)
            scores[:n1] += np.sqrt(2 * strength * np.log(n))
            p = known_null_p(scores, lambda s: ndtr(-s))
            evidence = Evidence(p, None, scores, null)
            coords = {"n": n, "beta": b, "r": strength, "repeat": repeat}
            for name, rule in ctx.methods.items():
                rng = ctx.generator("uniform", n=n, repeat=repeat)
                missed = metrics.fpr(decide(rule, evidence, alpha=alpha, rng=rng), null)
                ctx.record("fpr", float(missed), unit="1", direction="lower", method=name, **coords)


def boundary(
    ctx: Context,
    *,
    r: list[float],
    beta: list[float],
    log10_n: list[float],
    gamma: float = 0.8,
    alpha: float = 0.05,
    uniforms: int = 16,
) -> None:
    """Mean-field FPR at any n, in logarithms: counts replaced by their means; n = 10^10000 is no harder than 10^6.

    Rules: BL, SBL (mean over midpoints of Lambda), BL with gamma_n = 1 - 1/log n, BH.
    `stated` and `corrected` say where a point lies against r = beta and r = beta / gamma: "inside" the region by at
    least EDGE, "outside" by EDGE, or on the "edge", where no n is large enough.
    """
    for exponent in log10_n:
        log_n = exponent * np.log(10.0)
        drifting = 1 - 1 / log_n
        for b in beta:
            for strength in r:
                stake = np.log((1 - gamma) * alpha)
                fpr: dict[str, Any] = {
                    "bl": mean_field_fpr(log_n, strength, b, gamma, stake),
                    "sbl": np.mean(
                        [
                            mean_field_fpr(log_n, strength, b, gamma, stake - np.log((i + 0.5) / uniforms))
                            for i in range(uniforms)
                        ]
                    ),
                    "bl_gamma_n": mean_field_fpr(
                        log_n, strength, b, drifting, np.log((1 - drifting) * alpha)
                    ),
                    "bh": mean_field_fpr(log_n, strength, b, 1.0, np.log(alpha)),
                }
                coords: dict[str, Any] = {"log10_n": exponent, "beta": b, "r": strength, "gamma": gamma}
                coords |= {"stated": _side(strength - b), "corrected": _side(strength - b / gamma)}
                for rule, value in fpr.items():
                    ctx.record("fpr", float(value), unit="1", direction="lower", rule=rule, **coords)


def _side(distance: float) -> str:
    slack = EDGE - 1e-9
    return "inside" if distance >= slack else "outside" if distance <= -slack else "edge"


def mean_field_fpr(log_n: float, r: float, beta: float, gamma: float, log_budget: float) -> float:
    """FPR of the step-up rule p^gamma <= budget * (share rejected), with counts replaced by their means.

    Finds the largest threshold t with gamma log t <= log budget + log(pi0 t + pi1 P(p1 <= t)), pi1 = n^(-beta);
    the FPR is P(p1 > t). 1 where no threshold qualifies down to t = n^-3.

    Args: log_n: natural log of n. log_budget: log(delta alpha), less log(Lambda) for SBL; gamma = 1 gives BH.
    """
    log_t = -np.linspace(0.0, 3.0, 1001) * log_n
    span = 3.0 * log_n / 1000
    shift = np.sqrt(2 * r * log_n)
    for _ in range(3):  # coarse search from t = 1 down, then refinements around the first hit
        slack = _slack(log_t, shift, log_n, beta, gamma, log_budget)
        hits = np.flatnonzero(slack >= 0)
        if hits.size == 0:
            return 1.0
        best = log_t[hits[0]]
        log_t = np.minimum(0.0, best + np.linspace(span, 0.0, 101))
        span /= 100
    return float(ndtr(_quantile(best) - shift))


def _slack(
    log_t: np.ndarray, shift: float, log_n: float, beta: float, gamma: float, log_budget: float
) -> np.ndarray:
    log_pi1 = -beta * log_n
    log_pi0 = np.log1p(-np.exp(log_pi1))
    rejected = logsumexp(np.stack([log_pi0 + log_t, log_pi1 + log_ndtr(shift - _quantile(log_t))]), axis=0)
    return log_budget + rejected - gamma * log_t


def _quantile(log_t: np.ndarray) -> np.ndarray:
    """z with P(N(0, 1) > z) = t; log t is kept below 0, where z is finite."""
    return -ndtri_exp(np.minimum(log_t, -1e-12))
