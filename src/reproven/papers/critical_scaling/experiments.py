"""Checks of the theory: Theorem A row by row, laws of score families, fluctuations, schedules (dossier T1 to T16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from reproven.harness.context import Context
from reproven.papers.critical_scaling import families, rows
from reproven.papers.critical_scaling.certificates import (
    entropy_ceiling,
    entropy_floor,
    half_bracket,
    p_max_ceiling,
    p_max_floor,
)
from reproven.papers.critical_scaling.exponents import local_exponents

SLACK = 1e-9

# Rows of Theorem A: six random families, and one built against the bounds.
ROW_FAMILIES: dict[str, Any] = {
    "gaussian": families.Gaussian(),
    "exponential": families.Exponential(),
    "weibull": families.Weibull(0.5),
    "regular_edge": families.RegularEdge(2.0),
    "pareto": families.Pareto(1.5),
    "needle": families.Needle(6.0),
}

# Families read as exact quantile rows.
QUANTILE_FAMILIES = {
    "gaussian": families.Gaussian(),
    "exponential": families.Exponential(),
    "weibull_half": families.Weibull(0.5),
    "weibull_4": families.Weibull(4.0),
    "edge_q1": families.FlatEdge(1.0),
    "edge_q2": families.FlatEdge(2.0),
    "edge_qhalf": families.FlatEdge(0.5),
    "regular_edge": families.RegularEdge(2.0),
    "pareto": families.Pareto(2.0),
}


def adversarial(count: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows against the bounds, (count, n): near-ties, integer clusters, fixed gaps, in turn."""
    scores = np.zeros((count, n))
    for i in range(count):
        kind = i % 4
        if kind == 0:  # two near-ties far above the rest
            scores[i, 0], scores[i, 1] = 5.0, 5.0 - 10.0 ** rng.uniform(-6, 0)
        elif kind == 1:  # one fixed gap
            scores[i, 0] = 10.0 ** rng.uniform(-2, 2)
        elif kind == 2:  # clusters on integers, one winner
            scores[i] = rng.integers(-6, 1, size=n)
            scores[i, 0] = 1.0
        else:  # gaps for which log(1 + k) / g_k is the same for every k
            scores[i] = -np.log1p(np.arange(n)) * 10.0 ** rng.uniform(-1, 1)
    return scores


def row_blocks(
    counts: int, sizes: Sequence[int], rng: np.random.Generator, *, against: bool
) -> dict[str, list[np.ndarray]]:
    """Return rows by family, one block a size, `counts` rows a family in all."""
    each = -(-counts // len(sizes))
    blocks = {name: [family.sample(each, n, rng) for n in sizes] for name, family in ROW_FAMILIES.items()}
    if against:
        blocks["adversarial"] = [adversarial(each, n, rng) for n in sizes]
    return blocks


def theorem_a(ctx: Context, *, rows_per_family: int, sizes: list[int], draws: int) -> None:
    """Count violations of every part of Theorem A on random and adversarial rows (T1 to T4), and of broken twins.

    draws: values of c = beta / B a row, log-uniform on [0.1, 50].
    """
    rng = ctx.generator("rows")
    for family, blocks in row_blocks(rows_per_family, sizes, rng, against=True).items():
        ctx.progress(list(ROW_FAMILIES).index(family) / 7 if family in ROW_FAMILIES else 6 / 7, family)
        broken: dict[str, int] = {}
        spread, parts, checked = [], 0.0, 0
        for scores in blocks:
            gap = rows.gaps(scores)
            stats = rows.row_stats(scores)
            checked += int(stats.ok.sum())
            for key, count in part_violations(gap, stats, rng, draws).items():
                broken[key] = broken.get(key, 0) + count
            parts = max(parts, partition_error(gap, stats))
            spread.append((stats.beta / stats.scale)[stats.ok])
            for key, count in bracket_violations(gap, stats).items():
                broken[key] = broken.get(key, 0) + count
        for part, count in broken.items():
            ctx.record("violations", count, unit="rows", direction="lower", family=family, part=part)
        ratio = np.concatenate(spread)
        ctx.record("identity_error", parts, unit="1", direction="lower", family=family)
        ctx.record("rows_checked", checked, unit="rows", family=family)
        ctx.record("bracket_ratio_median", float(np.median(ratio)), unit="1", family=family)
        ctx.record("bracket_ratio_max", float(ratio.max()), unit="1", family=family)


def part_violations(
    gap: rows.Gaps, stats: rows.RowStats, rng: np.random.Generator, draws: int
) -> dict[str, int]:
    """Return how many (row, beta) break parts 1, 2, 3 of Theorem A, with slack 1e-9; excluded rows do not count."""
    ok = stats.ok
    broken = {"p_max_floor": 0, "p_max_ceiling": 0, "entropy_floor": 0, "entropy_ceiling": 0}
    for _ in range(draws):
        c = np.exp(rng.uniform(np.log(0.1), np.log(50.0), size=len(ok)))
        beta = np.where(ok, c * np.where(ok, stats.scale, 1.0), 1.0)
        p, h = (v.numpy() for v in rows.concentration(gap, torch.as_tensor(beta)))
        scale, depth = stats.scale[ok], stats.depth[ok]
        b, p, h = beta[ok], p[ok], h[ok]
        broken["p_max_floor"] += int((p < p_max_floor(scale, b) - SLACK).sum())
        broken["p_max_ceiling"] += int((p > p_max_ceiling(scale, depth, b) + SLACK).sum())
        broken["entropy_floor"] += int((h < entropy_floor(scale, depth, b) - SLACK).sum())
        broken["entropy_ceiling"] += int((h > entropy_ceiling(scale, b) + SLACK).sum())
    return broken


def bracket_violations(gap: rows.Gaps, stats: rows.RowStats) -> dict[str, int]:
    """Return how many rows have beta_{2/3} outside [B, 3 B] or beta_{1/2} outside its bracket, and of broken twins.

    The twin takes log N in place of log(1 + N).
    """
    ok = stats.ok
    tiny = 1e-9 * stats.scale[ok]
    beta, scale = stats.beta[ok], stats.scale[ok]
    half = rows.beta_at(gap, 0.5).numpy()[ok]
    low, high = half_bracket(scale, stats.depth[ok])
    twin = rows.accumulation_scale(gap, log_n=True)[0].numpy()[ok]
    return {
        "two_thirds": int(((beta < scale - tiny) | (beta > 3 * scale + tiny)).sum()),
        "half": int(((half < low - tiny) | (half > high + tiny)).sum()),
        "control_log_n": int(((beta < twin - tiny) | (beta > 3 * twin + tiny)).sum()),
    }


def partition_error(gap: rows.Gaps, stats: rows.RowStats) -> float:
    """Return the largest relative error of Z by parts against the sum, at beta = 0.3, 1 and 3 times B."""
    ok = torch.as_tensor(stats.ok)
    worst = 0.0
    for c in (0.3, 1.0, 3.0):
        beta = torch.as_tensor(np.where(stats.ok, c * np.where(stats.ok, stats.scale, 1.0), 1.0))
        z = rows.log_partition(gap, beta).exp()
        error = (rows.partition_by_parts(gap, beta) / z - 1).abs()[ok]
        worst = max(worst, float(error.max()))
    return worst


def laws(
    ctx: Context, *, log10_n: list[int], sphere_n: list[int], sphere_rows: int, sphere_parts: int
) -> None:
    """Measure B of score families against its law at every n (T5 to T14): no randomness but the sphere's."""
    sizes = [10**k for k in log10_n]
    for done, (name, family) in enumerate(QUANTILE_FAMILIES.items()):
        ctx.progress(0.8 * done / len(QUANTILE_FAMILIES), name)
        found = [families.quantile_scale(family.quantiles(n)) for n in sizes]
        scale = np.array([b for b, _ in found])
        for n, (b, k) in zip(log10_n, found):
            ctx.record("scale", b, unit="1/score", family=name, log10_n=n)
            ctx.record("depth", k, unit="keys", family=name, log10_n=n)
        for n, xi in zip(log10_n[1:], local_exponents(sizes, scale)):
            ctx.record("local_exponent", xi, unit="1", family=name, log10_n=n)
        slopes = np.diff(np.log(scale)) / np.diff(np.log(sizes))
        for n, slope in zip(log10_n[1:], slopes):
            ctx.record("local_slope", slope, unit="1", family=name, log10_n=n)
    _exponential_half(ctx, [k for k in log10_n if k <= 6])
    _closed_forms(ctx)
    _sphere(ctx, sphere_n, sphere_rows, sphere_parts)


def _exponential_half(ctx: Context, log10_n: Sequence[int]) -> None:
    """beta_{1/2} of exponential rows: its exponent goes to zero (T9)."""
    sizes = [10**k for k in log10_n]
    half = [float(rows.beta_at(rows.gaps(families.Exponential().quantiles(n)[None]), 0.5)) for n in sizes]
    for n, xi in zip(log10_n[1:], local_exponents(sizes, np.array(half))):
        ctx.record("half_exponent", xi, unit="1", family="exponential", log10_n=n)


def _closed_forms(ctx: Context) -> None:
    """T5, T12, T13, T14 and their neighbours: rows whose B is known."""
    for rho in (0.0, 0.3, 0.9):
        for n in (256, 16384):
            family = families.Simplex(rho)
            ratio = families.quantile_scale(family.quantiles(n))[0] / family.law(n)
            ctx.record("simplex_ratio", ratio, unit="1", rho=rho, n=n)
    n = 16384
    gap = rows.gaps(families.Simplex(0.0).quantiles(n)[None])
    for c in (0.8, 1.0, 1.2):
        p = float(rows.concentration(gap, c * np.log(n))[0])
        ctx.record("simplex_p_max_error", abs(p - 1 / (1 + (n - 1) * n**-c)), unit="1", c=c)
        ctx.record("simplex_p_max", p, unit="1", c=c)
    spread = families.AlmostSimplex(0.1, 0.6)
    low, high = spread.bracket(n)
    b = families.quantile_scale(spread.quantiles(n))[0]
    ctx.record("almost_simplex_inside", float(low <= b <= high), unit="1")
    noise = np.sqrt(2 * np.log(1e5))
    for factor in (1.3, 2.0, 4.0):
        needle = families.Needle(factor * noise)
        b = families.quantile_scale(needle.quantiles(10**5))[0]
        ctx.record("needle_scale", b, unit="1/score", factor=factor)
        ctx.record("needle_ratio", needle.law(10**5) / b, unit="1", factor=factor)
    for n in (10**3, 10**5):
        clusters = families.Clusters()
        ratio = families.quantile_scale(clusters.quantiles(n))[0] / clusters.law(n)
        ctx.record("clusters_ratio", ratio, unit="1", n=n)
    for n in (256, 4096, 65536):
        biases: dict[str, Any] = {"log_distance": families.LogDistance(0.7), "alibi": families.Alibi(0.25)}
        for name, bias in biases.items():
            error = families.quantile_scale(bias.quantiles(n))[0] / bias.law(n) - 1
            ctx.record("bias_error", abs(error), unit="1", bias=name, n=n)


def _sphere(ctx: Context, sizes: Sequence[int], count: int, parts: int) -> None:
    """T6: median B of uniform keys on a sphere; each part's rows are an independent sample."""
    for d in (3, 5, 9):
        for part in range(parts):
            rng = ctx.generator("sphere", d=d, part=part)
            for n in sizes:
                gap = rows.gaps(families.Sphere(d).sample(count, n, rng))
                b = float(rows.accumulation_scale(gap)[0].median())
                ctx.record("sphere_median", b, unit="1/score", d=d, n=n, part=part)
    ctx.progress(1.0, "sphere")


def fluctuations(
    ctx: Context, *, rem_log2_n: list[int], rem_rows: int, poisson_rows: int, blocks: int
) -> None:
    """REM and Gumbel-class rows (T15 and dossier 3.2): E sum p^2, the law of B, the annealed profile, means."""
    for done, k in enumerate(rem_log2_n):
        ctx.progress(0.6 * done / len(rem_log2_n), f"REM 2^{k}")
        n = 2**k
        for block in range(blocks):
            rng = ctx.generator("rem", n=n, block=block)
            totals = np.zeros(3)
            for _ in range(rem_rows):
                s = rng.standard_normal(n, dtype=np.float32)
                for i, c in enumerate((1.5, 2.0, 4.0)):
                    w = np.exp((s - s.max()) * np.float32(c * np.sqrt(2 * np.log(n))))
                    totals[i] += float((w.astype(float) ** 2).sum() / w.sum(dtype=float) ** 2)
            for c, total in zip((1.5, 2.0, 4.0), totals):
                excess = total / rem_rows - (1 - 1 / c)
                ctx.record("rem_excess", excess, unit="difference", c=c, log2_n=k, block=block)
    ctx.progress(0.6, "Poisson rows")
    _poisson(ctx, poisson_rows, blocks)
    _annealed(ctx, blocks)
    _means(ctx, blocks)


def _poisson(ctx: Context, count: int, blocks: int) -> None:
    """The law of B / scale of Gumbel-class rows, truncated at 3,000 points: quantiles by block."""
    height = np.log1p(np.arange(1, 3000))
    for block in range(blocks):
        gaps = families.poisson_gaps(count, 3000, ctx.generator("poisson", block=block))
        found = np.quantile((height / gaps).max(axis=1), [0.05, 0.25, 0.5, 0.75, 0.95])
        for q, value in zip((5, 25, 50, 75, 95), found):
            ctx.record("poisson_quantile", value, unit="ratio", quantile=q, block=block)


def _annealed(ctx: Context, blocks: int) -> None:
    """Annealed profile of exponential rows, n = 4096: flat at the tail's rate."""
    for block in range(blocks):
        gap = rows.gaps(families.Exponential().sample(1500, 4096, ctx.generator("annealed", block=block)))
        for t, value in zip((0.5, 1.0, 2.0, 3.0), rows.annealed_profile(gap, np.array([0.5, 1.0, 2.0, 3.0]))):
            ctx.record("annealed_rate", value, unit="1/score", t=t, block=block)


def _means(ctx: Context, blocks: int) -> None:
    """Control: over Gumbel-class rows the mean of B has no limit; its spread dwarfs the median's."""
    for statistic in ("median", "mean"):
        values = []
        for block in range(4 * blocks):
            gap = rows.gaps(families.Exponential().sample(200, 256, ctx.generator("means", block=block)))
            b = rows.accumulation_scale(gap)[0].numpy()
            values.append(np.median(b) if statistic == "median" else b.mean())
        spread = float(np.std(values) / np.mean(values))
        ctx.record("relative_spread", spread, unit="ratio", statistic=statistic)


SCHEDULE_FAMILIES: dict[str, Any] = {
    "exponential": families.Exponential(),
    "gaussian": families.Gaussian(),
    "fixed_gap": families.Simplex(0.0),
    "edge_q1": families.FlatEdge(1.0),
}
SCHEDULES = {"power_0": 0.0, "power_half": 0.5, "power_1": 1.0, "power_2": 2.0}


def schedules(ctx: Context, *, start: int, log2_n: list[int]) -> None:
    """T16: calibrate beta at n = `start` so that p_max = 1/2 on quantile rows, rescale, read p_max at larger n."""
    for done, (name, family) in enumerate(SCHEDULE_FAMILIES.items()):
        first = family.quantiles(start)
        beta0 = float(rows.beta_at(rows.gaps(first[None]), 0.5))
        scale0 = families.quantile_scale(first)[0]
        for k in log2_n:
            ctx.progress(done / len(SCHEDULE_FAMILIES), f"{name} 2^{k}")
            row = family.quantiles(2**k)
            growth = np.log(2.0**k) / np.log(start)
            betas = {rule: beta0 * growth**p for rule, p in SCHEDULES.items()}
            betas["b_rule"] = beta0 * families.quantile_scale(row)[0] / scale0
            gap = row[0] - row[1:]
            for rule, beta in betas.items():
                p, h = _one_row(gap, beta)
                ctx.record("p_max", p, unit="1", family=name, rule=rule, log2_n=k)
                ctx.record("entropy", h, unit="nats", family=name, rule=rule, log2_n=k)


def _one_row(gap: np.ndarray, beta: float) -> tuple[float, float]:
    """Return (p_max, entropy) of one row of gaps."""
    w = np.exp(-beta * gap)
    z = 1.0 + w.sum()
    return 1.0 / z, float(np.log(z) + beta * (gap * w).sum() / z)


def controls(ctx: Context, *, count: int) -> None:
    """Broken twins that must be told apart: masked keys, small k left out, a subtracted SSMax."""
    rng = ctx.generator("controls")
    half, n = 512, 1024
    scores = families.Simplex(0.0).sample(count, n, rng) + 0.01 * rng.standard_normal((count, n))
    valid = np.arange(n)[None] < half
    truth = rows.row_stats(scores[:, :half]).scale
    masked = rows.row_stats(scores, valid).scale
    counted = rows.row_stats(np.where(valid, scores, scores.min() - 0.05)).scale
    ctx.record("mask_error", float(np.abs(masked / truth - 1).max()), unit="ratio", twin="masked out")
    ctx.record(
        "mask_error", float(np.abs(counted / truth - 1).min()), unit="ratio", twin="counted as far keys"
    )
    _small_k(ctx)
    _ssmax(ctx)


def _small_k(ctx: Context) -> None:
    """Leaving out k < 16 steepens the exponent of Weibull rows with alpha = 4 at small n (dossier section 8)."""
    sizes = [128, 512, 2048]
    for first in (1, 16):
        b = []
        for n in sizes:
            row = families.Weibull(4.0).quantiles(n)
            slope = np.log1p(np.arange(1, n)) / (row[0] - row[1:])
            b.append(slope[first - 1 :].max())
        x = np.log(np.log(sizes))
        xi = float(np.polyfit(x, np.log(b), 1)[0])
        ctx.record("small_n_exponent", xi, unit="1", first_k=first)


def _ssmax(ctx: Context) -> None:
    """One score 5 above the rest, s = 0.43: multiplied, c = 2.15 at every n; subtracted, softmax sees nothing."""
    s = 0.43
    for k in (6, 10, 14, 18):
        n = 2**k
        row = np.full((1, n), -2.0)
        row[0, 0] = 3.0
        native = float(rows.row_stats(row).p_max[0])
        multiplied = float(rows.row_stats(row * s * np.log(n)).p_max[0])
        subtracted = float(rows.row_stats(row - s * np.log(n)).p_max[0])
        c = s * np.log(n) / float(rows.row_stats(row).scale[0])
        ctx.record("ssmax_p_max", multiplied, unit="1", log2_n=k)
        ctx.record("ssmax_c", c, unit="ratio", log2_n=k)
        ctx.record("subtracted_change", abs(subtracted - native), unit="1", log2_n=k)
