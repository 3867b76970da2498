"""Figure 2 and its true scoring: SVM hyper-parameters, one cap on the slack of each training point."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from reproven.data.tables import arrays
from reproven.harness.context import Context
from reproven.papers.sflcb.beds.svm import SVM, Split, quadratic_features, split_rows, stack
from reproven.papers.sflcb.driver import Settings, preset, run, tune
from reproven.papers.sflcb.exact import Infeasible, smallest_violation


def svm(
    ctx: Context,
    *,
    protocol: list[str],
    splits: int,
    tuning: int,
    sizes: Sequence[int],
    loss: str,
    features: str,
    first_c: Sequence[float],
    gradients: int,
    solves: int,
    mu: float = 0.01,
    flipped: float = 0.0,
    checkpoints: int = 14,
    name: str = "svm",
    scale: float = 1.0,
) -> None:
    """Run every method on random splits; report what the paper plots beside the true value of c.

    Args:
        protocol: any of ``published`` (preset ``<name>_published``, its own iterations; skipped where absent) and
            ``tuned`` (preset ``<name>``, tuned on `tuning` other splits; budget of `gradients` and `solves`).
        sizes: training and validation rows; the rest is the test set.
        features: ``quadratic`` (published) or ``standardised`` (zero mean, unit variance, over sqrt(d)).
        first_c: low and high of the uniform start of every c_i.
        flipped: share of training labels that are flipped.
        scale: multiplies the published numbers of iterations.
    Records, per split and protocol: accuracy (at the reported lower iterate, the paper's metric), true_accuracy
    (at the exact response), phi (exact, after repair), ratio and excess over the bound or best known value,
    violation, repaired, empty (Y(c) empty before repair), smallest_violation, response_error, seconds; per
    checkpoint accuracy_path, true_accuracy_path, phi_path; per split bound, bound_tight and start_phi.
    """
    x_all, labels = arrays(ctx.dataset())
    rows = quadratic_features(x_all) if features == "quadratic" else standardised(x_all)
    signs = np.where(labels == 0, 1, -1)
    bed = [_split(ctx, rows, signs, sizes, flipped, "svm split", i) for i in range(splits)]
    batch = stack(bed, mu=mu, loss=loss)
    x = np.stack(
        [
            ctx.generator("svm c0", split=i).uniform(first_c[0], first_c[1], (1, sizes[0]))
            for i in range(splits)
        ]
    )
    y = responses(batch, x)
    bounds = np.empty(splits)
    for i, problem in enumerate(batch.members or []):
        bounds[i], c = problem.relaxation()
        ctx.record("bound", bounds[i], unit="1", split=i)
        tight = (problem.phi(problem.repair(c, problem.lower(c + 1e-12).y)) - bounds[i]) / max(
            abs(bounds[i]), 1e-12
        )
        ctx.record("bound_gap", tight, unit="1", split=i)
        ctx.record("start_phi", problem.phi(x[i, 0]), unit="1", split=i)
    others = [_split(ctx, rows, signs, sizes, flipped, "svm tuning split", i) for i in range(tuning)]
    tuning_bed = stack(others, mu=mu, loss=loss) if others else None
    x_tune = np.stack(
        [
            ctx.generator("svm tuning c0", split=i).uniform(first_c[0], first_c[1], (1, sizes[0]))
            for i in range(tuning)
        ]
    )
    y_tune = responses(tuning_bed, x_tune) if tuning_bed is not None else None

    plans = [(p, m) for p in protocol for m in ctx.methods]
    finals: dict[tuple[str, str], np.ndarray] = {}
    for done, (plan, key) in enumerate(plans):
        method = ctx.methods[key]
        ctx.progress(done / len(plans), f"{plan} {key}")
        limits: dict[str, Any] = {"gradients": gradients, "solves": solves}
        settings: Settings
        if plan == "published":
            if f"{name}_published" not in method.presets:
                continue
            settings = preset(method, f"{name}_published")
            limits = {"iterations": max(1, round(scale * settings["iterations"]))}
        else:
            assert tuning_bed is not None
            settings = tune(method, tuning_bed, x_tune, y_tune, preset(method, name),
                            partial(scores, tuning_bed), **limits)  # fmt: skip
            for setting, value in settings.items():
                ctx.record("setting", float(value), method=key, protocol=plan, setting=setting)
        trace = run(method, batch, x, y, settings, **limits, checkpoints=checkpoints)
        where: dict[str, Any] = {"method": key, "protocol": plan, "split": range(splits)}
        for k, (c, z) in enumerate(zip(trace.x, trace.y)):
            at: dict[str, Any] = {**where, "step": k, "gradients": trace.gradients[k], "solves": trace.solves[k],
                  "seconds": trace.seconds[k]}  # fmt: skip
            ctx.record_many("accuracy_path", batch.accuracy(z)[:, 0], unit="1", direction="higher", **at)
            phi, true = scored(batch, c, z)
            ctx.record_many("phi_path", phi[:, 0], unit="1", direction="lower", **at)
            ctx.record_many("true_accuracy_path", true[:, 0], unit="1", direction="higher", **at)
        finals[plan, key] = _final(ctx, batch, trace.x[-1], trace.y[-1], where)
        ctx.record("seconds", trace.seconds[-1], unit="s", method=key, protocol=plan)
        ctx.record("gradients", trace.gradients[-1], unit="evaluations", method=key, protocol=plan)
        ctx.record("solves", trace.solves[-1], unit="solves", method=key, protocol=plan)
    best = np.min([*finals.values(), np.full(splits, np.inf)], axis=0)
    for (plan, key), phi in finals.items():
        where = {"method": key, "protocol": plan, "split": range(splits)}
        ctx.record_many("ratio", phi / bounds, unit="1", direction="lower", **where)
        ctx.record_many("excess", phi - best, unit="1", direction="lower", **where)


def responses(batch: SVM, x: np.ndarray) -> np.ndarray:
    """Return the exact lower-level responses (S, P, dy)."""
    y = np.empty((*x.shape[:-1], batch.dy))
    for index, member, (c,) in batch.each(x):
        y[index] = member.lower(c).y
    return y


def scores(batch: SVM, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Phi of every c (S, P) after repair by its own y; inf where the run is not finite."""
    return scored(batch, x, y)[0]


def scored(batch: SVM, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Phi of every repaired c and the test accuracy at its exact response, (S, P); inf, NaN if not finite."""
    phi, right = np.full(x.shape[:-1], np.inf), np.full(x.shape[:-1], np.nan)
    for index, member, (c, z) in batch.each(x, y):
        if np.abs(c).max() < 1e8 and np.abs(z).max() < 1e8:
            fixed = member.repair(c, z) + 1e-12
            exact = member.lower(fixed).y
            phi[index], right[index] = member._f(fixed, exact), member.accuracy(exact)
    return phi, right


def standardised(rows: np.ndarray) -> np.ndarray:
    """Return features (n, d) with zero mean and unit variance, over sqrt(d), so that rows have norm about one."""
    return (rows - rows.mean(0)) / rows.std(0) / np.sqrt(rows.shape[1])


def _split(
    ctx: Context,
    rows: np.ndarray,
    signs: np.ndarray,
    sizes: Sequence[int],
    flipped: float,
    purpose: str,
    index: int,
) -> Split:
    generator = ctx.generator(purpose, split=index)
    split = split_rows(rows, signs, (sizes[0], sizes[1]), generator)
    if not flipped:
        return split
    wrong = generator.permutation(sizes[0])[: round(flipped * sizes[0])]
    train = split.train.copy()
    train[wrong] *= -1
    return Split(train, split.valid, split.test)


def _final(ctx: Context, batch: SVM, x: np.ndarray, y: np.ndarray, where: dict) -> np.ndarray:
    """Record what the last iterates are worth; return Phi per split."""
    columns: dict[str, list[float]] = {
        key: []
        for key in (
            "accuracy",
            "true_accuracy",
            "phi",
            "violation",
            "repaired",
            "empty",
            "smallest_violation",
            "response_error",
        )
    }
    for _, member, (c, z) in batch.each(x, y):
        if not (np.abs(c).max() < 1e8 and np.abs(z).max() < 1e8):
            for column in columns.values():
                column.append(np.inf)
            continue
        fixed = member.repair(c, z) + 1e-12
        exact = member.lower(fixed).y
        columns["accuracy"].append(float(member.accuracy(z)))
        columns["true_accuracy"].append(float(member.accuracy(exact)))
        columns["phi"].append(member.phi(fixed))
        columns["violation"].append(float(member.violation(c, z)))
        columns["repaired"].append(float(np.abs(fixed - c).max()))
        try:
            honest = member.lower(c).y
            columns["empty"].append(0.0)
            columns["smallest_violation"].append(0.0)
            columns["response_error"].append(_relative(z - honest, honest))
            columns["true_accuracy"][-1] = float(member.accuracy(honest))
        except Infeasible:
            columns["empty"].append(1.0)
            columns["smallest_violation"].append(smallest_violation(member.a, member.rhs + c)[0])
            columns["response_error"].append(_relative(z - exact, exact))
    better = {"accuracy": "higher", "true_accuracy": "higher"}
    for key, column in columns.items():
        ctx.record_many(key, column, unit="1", direction=better.get(key, "lower"), **where)
    return np.array(columns["phi"])


def _relative(error: np.ndarray, size: np.ndarray) -> float:
    """Return |error| / |size|: 0 where both are zero (caps of 1 and more allow w = 0), inf where only size is."""
    above, below = float(np.linalg.norm(error)), float(np.linalg.norm(size))
    return above / below if below else (np.inf if above else 0.0)
