"""Theory experiments: kernel regime, widths, drift, truncated flow, minibatches, geodesics, toy, uniqueness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.harness.context import Context
from reproven.papers.arc_ridge import kernel, toy
from reproven.papers.arc_ridge.flow import arc_descent, gradient_flow, norms, truncated_flow
from reproven.papers.arc_ridge.geodesic import geodesic
from reproven.papers.arc_ridge.geometry import fibre_flow, nearest_on_fibre, rho_v, ridge
from reproven.papers.arc_ridge.linear_descent import prox_end
from reproven.papers.arc_ridge.minibatch import minibatch_path
from reproven.papers.arc_ridge.two_layer import TwoLayer, circle_inputs, regression_data

ALPHAS = {"ntk": 0.5, "mean_field": 1.0}
GRID = 60  # test directions
STOP_EVERY = 10  # minibatch steps between looks at the stopping rule


def draw(
    ctx: Context, scalings: Sequence[str], widths: Sequence[int], models: int, inputs: int
) -> tuple[TwoLayer, Tensor, Tensor, Tensor, list[dict[str, Any]]]:
    """Return every (scaling, width, model) in one batch: networks, starts, inputs, targets, coordinates.

    A model has the same data at every width and scaling.
    """
    rows: list[dict[str, Any]] = [
        {"scaling": scaling, "width": width, "model": model}
        for scaling in scalings for width in widths for model in range(models)
    ]  # fmt: skip
    net = TwoLayer.of([r["width"] for r in rows], [ALPHAS[r["scaling"]] for r in rows])
    x, y = regression_data(inputs, 2, [ctx.torch_generator("data", model=r["model"]) for r in rows])
    start = net.start(2, [ctx.torch_generator("start", model=r["model"], width=r["width"]) for r in rows])
    return net, start, x, y, rows


def function_gap(net: TwoLayer, a: Tensor, b: Tensor) -> Tensor:
    """Return the root mean square difference of two functions on the test grid, (R,)."""
    x = circle_inputs(GRID).expand(len(a), -1, -1)
    return (net.forward(a, x) - net.forward(b, x)).square().mean(1).sqrt()


def put(ctx: Context, metric: str, values: Tensor, rows: list[dict[str, Any]], **more: Any) -> None:
    """Record one value a row of coordinates."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    ctx.record_many(metric, values.tolist(), unit="1", direction="lower", **columns, **more)


# --- kernel regime -----------------------------------------------------------------------------------------


def kernel_suite(
    ctx: Context, *, seeds: int, n: int, p: int, lams: Sequence[float], sigmas: Sequence[float]
) -> None:
    """C1 to C5: linear models with n data and p parameters; `seeds` independent problems each."""
    for seed in range(seeds):
        rng = ctx.generator("linear", problem=seed)
        X, y, start = rng.normal(size=(n, p)), rng.normal(size=n), rng.normal(size=p)
        model = kernel.Linear.of(X, y, start)
        limit = kernel.descent_limit(X, y, start, 4000)
        for anchor, name in ((start, "start"), (np.zeros(p), "zero")):
            centred = kernel.Linear.of(X, y, anchor)
            vanishing = centred.theta(kernel.ridge(centred.mu, centred.c, 1e-12))
            gap = float(np.linalg.norm(limit - vanishing) / np.linalg.norm(vanishing))
            ctx.record("limit_gap", gap, unit="1", direction="lower", anchor=name, problem=seed)
        _isotropic(ctx, model, seed, lams)
        times = np.logspace(-4, 2, 200)
        A = kernel.arc_length(model.mu[None], model.c[None], times)
        D = np.linalg.norm(kernel.flow(model.mu[None], model.c[None], times), axis=1)
        ctx.record("arc_over_distance_min", (A / D).min(), unit="ratio", problem=seed)
        ctx.record("arc_over_distance_max", (A / D).max(), unit="ratio", problem=seed)
        ctx.record(
            "arc_over_bound", (A / D).max() / np.sqrt(n), unit="ratio", direction="lower", problem=seed
        )
        for row in (0, 50, 100, 150, 199):
            ctx.record("arc_over_distance", A[row] / D[row], unit="ratio", time=times[row], problem=seed)
    for sigma in sigmas:
        _risks(ctx, seeds, n, p, sigma)


def _isotropic(ctx: Context, model: kernel.Linear, seed: int, lams: Sequence[float]) -> None:
    """Equal eigenvalues: the stop in closed form, and the end of the prox rule itself, against ridge (C2)."""
    mu = np.full_like(model.mu, 3.0)
    for lam in lams:
        exact = kernel.ridge(mu, model.c, lam)
        stops = {
            "closed form": kernel.flow(mu, model.c, kernel.arc_stop(mu, model.c, lam)),
            "prox descent": prox_end(mu, model.c, lam, 0.2, 4000),
        }
        for how, x in stops.items():
            gap = float(np.linalg.norm(x - exact) / np.linalg.norm(exact))
            ctx.record("ridge_gap", gap, unit="1", direction="lower", how=how, lam=lam, problem=seed)
        spread = kernel.flow(model.mu, model.c, kernel.arc_stop(model.mu, model.c, lam))
        other = kernel.ridge(model.mu, model.c, lam)
        gap = float(np.linalg.norm(spread - other) / np.linalg.norm(other))
        ctx.record("anisotropic_gap", gap, unit="1", lam=lam, problem=seed)


def _risks(ctx: Context, seeds: int, n: int, p: int, sigma: float) -> None:
    """Random design with spectrum 1/j, truth N(0, I), noise sigma: risks at lambda = sigma^2 (C4, C5)."""
    spectrum = 1 / np.arange(1.0, p + 1)
    X, y, truth = [], [], []
    for seed in range(seeds):
        rng = ctx.generator("power law", problem=seed)
        X.append(rng.normal(size=(n, p)) * np.sqrt(spectrum))
        truth.append(rng.normal(size=p))
        y.append(X[-1] @ truth[-1] + sigma * rng.normal(size=n))
    model = kernel.Linear.of(np.array(X), np.array(y), np.zeros((seeds, p)))
    real = np.array(truth)
    forever = np.full(seeds, np.inf)
    ends = {
        "arc": kernel.flow(model.mu, model.c, kernel.arc_stop(model.mu, model.c, sigma**2)),
        "ridge": kernel.ridge(model.mu, model.c, sigma**2),
        "no_stop": kernel.flow(model.mu, model.c, forever),
    }
    risks = {name: kernel.risk(model.theta(x), real, spectrum) for name, x in ends.items()}
    curve = [
        kernel.risk(model.theta(kernel.flow(model.mu, model.c, np.full(seeds, t))), real, spectrum)
        for t in np.logspace(-3, 4, 200)
    ]
    risks["oracle_stop"] = np.min(curve, axis=0)
    for rule, values in risks.items():
        ctx.record_many(
            "risk", values, unit="y^2", direction="lower", rule=rule, sigma=sigma, problem=range(seeds)
        )


# --- widths ------------------------------------------------------------------------------------------------


def widths(
    ctx: Context, *, width: Sequence[int], models: int, control_width: Sequence[int], inputs: int
) -> None:
    """C6, C7: rho_V and the gap between vanishing ridge and gradient flow, all (scaling, width, model) in one batch.

    The broken twin forgets M^{alpha - 1/2}: same functions, but its lengths grow with width.
    """
    net, start, x, y, rows = draw(ctx, list(ALPHAS), width, models, inputs)
    flow = gradient_flow(net, start, x, y, pieces=60)
    ctx.progress(0.4, "flow")
    put(ctx, "rho_v", rho_v(net.jacobian(flow.phi, x), (flow.phi - start).flatten(1)), rows)
    put(ctx, "arc", flow.arc[-1], rows)
    near, distance = nearest_on_fibre(net, flow.phi, start, x, y)
    put(ctx, "ridge_gap", function_gap(net, near, flow.phi), rows)
    put(ctx, "distance_to_fibre", distance, rows)
    ctx.progress(0.9, "nearest points of fibres")
    twins = [r for r in rows if r["scaling"] == "mean_field" and r["width"] in control_width]
    picked = torch.tensor([rows.index(r) for r in twins])
    live = max(control_width)
    broken = TwoLayer.of([r["width"] for r in twins], [1.0] * len(twins), missing_factor=True)
    theta = start[picked, :live] * net.scale[picked]
    path = gradient_flow(broken, theta, x[picked], y[picked], pieces=60)
    named = [{**r, "scaling": "missing_factor"} for r in twins]
    put(ctx, "arc", path.arc[-1], named)


def vanishing(ctx: Context, *, width: int, models: int, lams: Sequence[float], inputs: int) -> None:
    """C8: anchored ridge for smaller and smaller lambda goes to the nearest point of the fibre, not to the flow's."""
    net, start, x, y, rows = draw(ctx, ["mean_field"], [width], models, inputs)
    flow = gradient_flow(net, start, x, y)
    near, _ = nearest_on_fibre(net, flow.phi, start, x, y)
    solution = near
    grid = np.logspace(np.log10(min(lams)), np.log10(max(lams)), 8 * len(lams) - 7)
    for lam in sorted({*grid.tolist(), *lams}):
        solution = ridge(net, solution, start, x, y, torch.full((len(rows),), lam, dtype=start.dtype))
        if lam in lams:
            put(ctx, "gap_to_flow", function_gap(net, solution, flow.phi), rows, lam=lam)
            put(ctx, "gap_to_fibre_point", function_gap(net, solution, near), rows, lam=lam)


def drift(
    ctx: Context,
    *,
    width: int,
    models: int,
    lams: Sequence[float],
    taus: Sequence[float],
    inputs: int,
    h: float,
) -> None:
    """C9: after the fit, ridge drifts along the fibre on the time scale 1/lambda, whatever lambda.

    h: step of the fibre flow in tau. The flow with a real lambda is gradient descent with rate 0.1.
    """
    net, start, x, y, rows = draw(ctx, ["mean_field"], [width], models, inputs)
    fit = gradient_flow(net, start, x, y).phi
    for penalty, anchor in (("anchored", start), ("weight_decay", torch.zeros_like(start))):
        points, _ = fibre_flow(net, fit, anchor, x, y, h=h, steps=round(max(taus) / h))
        limits = {tau: points[round(tau / h)] for tau in taus}
        _record_drift(ctx, net, limits, fit, start, x, rows, penalty=penalty, lam=0.0)
        for lam in lams:
            phi, rate, real = fit, 0.1, {}
            for step in range(1, round(max(taus) / (lam * rate)) + 1):
                gradient = net.pull(phi, x, net.forward(phi, x) - y) + lam * (phi - anchor)
                phi = phi - rate * gradient
                hit = [tau for tau in taus if round(tau / (lam * rate)) == step]
                real.update(dict.fromkeys(hit, phi))
            _record_drift(ctx, net, real, fit, start, x, rows, penalty=penalty, lam=lam)
            for tau in taus:
                put(
                    ctx,
                    "collapse",
                    function_gap(net, real[tau], limits[tau]),
                    rows,
                    penalty=penalty,
                    lam=lam,
                    tau=tau,
                )


def _record_drift(
    ctx: Context, net: TwoLayer, points: dict[float, Tensor], fit: Tensor, start: Tensor, x: Tensor,
    rows: list[dict[str, Any]], **where: Any,
) -> None:  # fmt: skip
    for tau, phi in points.items():
        put(ctx, "test_drift", function_gap(net, phi, fit), rows, tau=tau, **where)
        put(ctx, "rho_v", rho_v(net.jacobian(phi, x), (phi - start).flatten(1)), rows, tau=tau, **where)


# --- arc ridge against the truncated flow, minibatches -------------------------------------------------------


def truncation(
    ctx: Context, *, width: int, models: int, lam: float, etas: Sequence[float], time: float, inputs: int
) -> None:
    """C10: prox descent ends where gradient flow meets ``|grad L| = lam A``, up to O(eta)."""
    net, start, x, y, rows = draw(ctx, ["mean_field"], [width], models, inputs)
    exact, length = truncated_flow(net, start, x, y, lam)
    for eta in etas:
        phi, arc = arc_descent(net, start, x, y, lam, eta, round(time / eta))
        put(ctx, "error", (phi - exact).flatten(1).norm(dim=1), rows, eta=eta)
        put(ctx, "arc_error", (arc - length).abs(), rows, eta=eta)
        put(ctx, "friction_gap", (norms(net, phi, x, y)[0] / (lam * arc) - 1).abs(), rows, eta=eta)


def minibatches(
    ctx: Context, *, width: int, models: int, steps: int, eta: float, every: int, lam: float, noise: float,
    inputs: int,
) -> None:  # fmt: skip
    """C16: single minibatch steps inflate the length; chords between every k-th step and half batches do not.

    noise: standard deviation added to every target anew each time it is seen: without it, minibatch noise dies
        out as the network fits.
    """
    net, start, x, y, rows = draw(ctx, ["mean_field"], [width], models, inputs)
    gen = ctx.torch_generator("batches")
    path = minibatch_path(net, start, x, y, eta=eta, steps=steps, every=every, noise=noise, generator=gen)
    put(ctx, "length", path.distance[-1], rows, how="distance")
    put(ctx, "length", path.raw_arc[-1], rows, how="every step")
    put(ctx, "length", path.coarse_arc[-1], rows, how=f"every {every}")
    put(ctx, "inflation", path.raw_arc[-1] / path.distance[-1], rows, how="every step")
    put(ctx, "inflation", path.coarse_arc[-1] / path.distance[-1], rows, how="chords")
    gen = ctx.torch_generator("batches")
    path = minibatch_path(
        net, start, x, y, eta=eta, steps=steps, every=STOP_EVERY, noise=noise, generator=gen
    )
    exact, _ = truncated_flow(net, start, x, y, lam)
    aim = norms(net, exact, x, y)[1]
    for how, norm, arc, first in (
        ("raw", path.raw_norm, path.raw_arc, 1),
        ("debiased", path.debiased_norm, path.coarse_arc, 10),  # the memory of its running mean
        ("full", path.full_norm, path.coarse_arc, 1),
    ):
        losses = path.stop_loss(norm, arc, lam, first=first)
        put(ctx, "stop_log_ratio", (losses / aim).log().abs(), rows, how=how)


# --- geodesics -----------------------------------------------------------------------------------------------


def chain(ctx: Context, *, case: str, models: int, inputs: int, pieces: int, rounds: int) -> None:
    """C11, C12: ``D_fib <= d_geo <= A``, and how far the ends are from that of the flow.

    case: ``scaling-width``. pieces: of the geodesic. rounds: of L-BFGS for each penalty.
    """
    scaling, width = case.rsplit("-", 1)
    net, start, x, y, rows = draw(ctx, [scaling], [int(width)], models, inputs)
    rows = [{**row, "case": case} for row in rows]
    flow = gradient_flow(net, start, x, y)
    near, distance = nearest_on_fibre(net, flow.phi, start, x, y)
    ctx.progress(0.2, "flow and fibre")
    found = geodesic(net, start, x, y, pieces=pieces, rounds=rounds)
    put(ctx, "fibre_over_geodesic", distance / found.length, rows)
    put(ctx, "geodesic_over_arc", found.length / flow.arc[-1], rows)
    put(ctx, "arc_over_geodesic", flow.arc[-1] / found.length, rows)
    put(ctx, "residual", found.residual, rows)
    put(ctx, "speed_spread", (2 * found.cost).sqrt() / found.length - 1, rows)
    put(ctx, "end_gap", function_gap(net, found.phi, flow.phi), rows, end="geodesic")
    put(ctx, "end_gap", function_gap(net, near, flow.phi), rows, end="ridge")


def refinement(ctx: Context, *, width: int, models: int, inputs: int, pieces: list[int], rounds: int) -> None:
    """The geodesic's length against the number of pieces: how much of it is discretisation."""
    net, start, x, y, rows = draw(ctx, ["mean_field"], [width], models, inputs)
    lengths = {k: geodesic(net, start, x, y, pieces=k, rounds=rounds).length for k in pieces}
    finest = lengths[max(pieces)]
    for k in pieces:
        put(ctx, "length_change", (lengths[k] / finest - 1).abs(), rows, pieces=k)


# --- toy and Gibbs process -----------------------------------------------------------------------------------


def scalar_toy(
    ctx: Context, *, lams: Sequence[float], temperatures: Sequence[float], blocks: int, draws: int, chains: int,
    langevin_steps: int,
) -> None:  # fmt: skip
    """C13, C14: on ``F = a b`` arc ridge is geodesic ridge and anchored ridge is not; the Gibbs process' tails."""
    for lam in lams:
        arc, geo = toy.arc_ridge(1.0, lam), toy.geodesic_ridge(1.0, lam)
        anchored = toy.anchored_ridge(1.0, lam)
        ctx.record("arc_minus_geodesic", np.abs(arc - geo).max(), unit="1", direction="lower", lam=lam)
        ctx.record("anchored_minus_arc", abs(float(anchored.prod() - arc.prod())), unit="1", lam=lam)
        for rule, point in (("arc", arc), ("geodesic", geo), ("anchored", anchored)):
            ctx.record("f", float(point.prod()), unit="1", rule=rule, lam=lam)
    for rule, point in (("flow", toy.arc_ridge(1.0, 0.0)), ("ridge", toy.anchored_ridge(1.0, 0.0))):
        for name, value in zip("ab", point):
            ctx.record("end", float(value), unit="theta", rule=rule, entry=name)
        ctx.record("ntk", float((point**2).sum()), unit="Theta", rule=rule)
    for temperature in temperatures:
        variance, kurtosis = toy.moments(temperature)
        ctx.record("variance_over_t", variance / temperature, unit="ratio", temperature=temperature)
        ctx.record("excess_kurtosis", kurtosis, unit="kurtosis", temperature=temperature)
        for block in range(blocks):
            rng = ctx.generator("gibbs", temperature=temperature, block=block)
            f = toy.gibbs(temperature, draws, rng)
            where: dict[str, Any] = {"temperature": temperature, "block": block}
            ctx.record("sampled_variance_ratio", f.var() / variance, unit="ratio", sampler="exact", **where)
            f = toy.langevin(temperature, chains, langevin_steps, 0.005, rng)
            ctx.record(
                "sampled_variance_ratio", f.var() / variance, unit="ratio", sampler="langevin", **where
            )


# --- uniqueness ------------------------------------------------------------------------------------------------


def uniqueness(ctx: Context, *, nets: int, width: int, lams: int, inputs: int) -> None:
    """C15: roots of ``|grad L| - lam A`` along gradient flow, for `lams` lambdas on each of `nets` networks."""
    net, start, x, y, rows = draw(ctx, ["mean_field"], [width], nets, inputs)
    flow = gradient_flow(net, start, x, y, pieces=300)
    grid = torch.logspace(-3, 1, lams, dtype=start.dtype)
    sign = flow.grad_norm[1:, :, None] > flow.arc[1:, :, None] * grid
    first = torch.ones(1, *sign.shape[1:], dtype=torch.bool)  # at A = 0 the gradient always wins
    roots = (torch.cat([first, sign])[1:] != torch.cat([first, sign])[:-1]).sum(0)
    put(ctx, "one_root", (roots == 1).all(1).double(), rows)
    put(ctx, "most_roots", roots.amax(1).double(), rows)
    rises = (flow.grad_norm[1:] > flow.grad_norm[:-1] * (1 + 1e-9)).any(0)
    put(ctx, "norm_rises", rises.double(), rows)
