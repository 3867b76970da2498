"""Theorems 4.1 and 4.9, Lemmas 4.4, A.4 and E.4, and the complexity, checked on the LC-QP bed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.optimize as so

from reproven.harness.context import Context
from reproven.papers.sflcb.baselines.implicit import hypergradient
from reproven.papers.sflcb.beds.lcqp import LCQP, draw, stack
from reproven.papers.sflcb.methods import UPDATES
from reproven.papers.sflcb.sflcb import Steps, sflcb, start, step
from reproven.papers.sflcb.theory import hessian_y, modulus, penalised, potential

SIZE = (5, 8, 4)
MU_G = 1.0  # the smallest eigenvalue of Q on the bed


def theorems(
    ctx: Context, *, problems: int, points: int, deltas: Sequence[float], moduli: int, margin: float = 1e-2
) -> None:
    """Check the value, distance and gradient statements at random points, and the modulus on random cases.

    Records value_ratio ``(Phi - Phi_delta) / (delta l^2 / 2 mu_g)``, l the larger |grad_y f| on the segment from
    y*_delta to y*; distance_ratio ``|y*_delta - y*| / (2 delta l / mu_g)``; gradient_error of Lemma 4.4 against
    central differences; gradient_bias ``|grad Phi - grad Phi_delta|`` at points with strict complementarity above
    `margin` for every delta; modulus_excess ``(lambda_min - mu_y) / mu``; modulus_above ``lambda_min / mu`` at 100
    times the bound on rho, where the formula is empty but K stays strongly convex.
    """
    for i in range(problems):
        problem = draw(*SIZE, ctx.generator("theory", problem=i))
        generator = ctx.generator("theory points", problem=i)
        for j in range(points):
            ctx.progress((i + j / points) / (problems + 1), f"problem {i}")
            x = generator.standard_normal(SIZE[0])
            lower = problem.lower(x)
            exact = hypergradient(problem, x, lower)
            where: dict[str, Any] = {"problem": i, "point": j}
            found = {delta: penalised(problem, x, delta) for delta in deltas}
            # grad_y f is affine in y, so its norm on a segment is largest at an end.
            for delta, answer in found.items():
                slope = max(float(np.linalg.norm(problem.grad_f(x, y)[1])) for y in (answer.y_delta, lower.y))
                bound = delta * slope**2 / (2 * MU_G)
                loss = problem.phi(x) - answer.value
                # 1e-9 in absolute terms is rounding of the bracket over delta.
                ctx.record("value_ratio", loss / bound, unit="1", **where, delta=delta)
                moved = float(np.linalg.norm(answer.y_delta - lower.y))
                ctx.record(
                    "distance_ratio",
                    moved / (2 * delta * slope / MU_G),
                    unit="1",
                    **where,
                    delta=delta,
                )
            smooth = (
                all(problem.penalised(x, delta).margin > margin for delta in deltas) and lower.margin > margin
            )
            same = all(
                set(problem.penalised(x, d).active().tolist()) == set(lower.active().tolist()) for d in deltas
            )
            if smooth and same:
                for delta, answer in found.items():
                    bias = float(np.linalg.norm(exact - answer.gradient))
                    ctx.record("gradient_bias", bias, unit="1", direction="lower", **where, delta=delta)
                ctx.record("gradient_error", _difference_error(problem, x, max(deltas)), unit="1", **where)
    _moduli(ctx, moduli)


def _difference_error(problem: LCQP, x: np.ndarray, delta: float, width: float = 1e-5) -> float:
    gradient = penalised(problem, x, delta).gradient
    numeric = [
        (penalised(problem, x + e, delta).value - penalised(problem, x - e, delta).value) / (2 * width)
        for e in width * np.eye(len(x))
    ]
    return float(np.abs(gradient - numeric).max())


def _moduli(ctx: Context, cases: int) -> None:
    """Record how far the smallest eigenvalue of K in y' lies above mu_y, on random curvatures, delta and rho."""
    generator = ctx.generator("moduli")
    excess, above = np.empty(cases), np.empty(cases)
    for k in range(cases):
        dy, dh = int(generator.integers(1, 9)), int(generator.integers(1, 6))
        spread = generator.standard_normal((dy, dy))
        basis, _ = np.linalg.qr(spread)
        mu, l_f1 = generator.uniform(0.1, 2.0), generator.uniform(0.1, 2.0)
        delta = generator.uniform(0.0, 1.0) * mu / (2 * l_f1)
        a = generator.standard_normal((dh, dy)) * generator.uniform(0.1, 3.0)
        norm = float(np.linalg.norm(a, 2))
        rho = generator.uniform(1e-3, 1.0) * (mu - delta * l_f1) / norm**2
        # The worst curvature allowed: g at its modulus in one direction, f concave at l_f1 in the same.
        eigenvalues = np.r_[mu - delta * l_f1, generator.uniform(mu, 5 * mu, dy - 1)]
        hessian = (basis * eigenvalues) @ basis.T
        smallest = np.linalg.eigvalsh(hessian_y(hessian, a, rho))[0]
        beyond = 100 * (mu - delta * l_f1) / norm**2
        above[k] = np.linalg.eigvalsh(hessian_y(hessian, a, beyond))[0] / mu
        bound = modulus(mu, l_f1, norm, delta, rho)
        excess[k] = (smallest - bound) / max(mu, 1e-12)
    ctx.record_many("modulus_excess", excess, unit="1", case=range(cases))
    ctx.record_many("modulus_above", above, unit="1", case=range(cases))


def descent(
    ctx: Context,
    *,
    problems: int,
    iterations: int,
    deltas: Sequence[float],
    rhos: Sequence[float],
    eta: float,
) -> None:
    """Follow the potential V along runs in the proven regime (eta_x = eta/10) and with equal steps.

    Records potential_increases, the steps on which V grows by more than 1e-10, and largest_increase; and
    initial_potential, V_0 from a cold start (y = z = 0, no multipliers) and a warm one (exact lower-level
    solution and multipliers) at the same x.
    """
    regimes = {"proven": Steps(eta / 10, eta, eta, eta, eta), "equal": Steps.common(eta)}
    for i in range(problems):
        problem = draw(*SIZE, ctx.generator("descent", problem=i))
        ctx.progress(i / problems, f"problem {i}")
        _initial(ctx, problem, i, deltas)
        for regime, steps in regimes.items():
            for delta in deltas:
                for rho in rhos:
                    state = start(problem, np.zeros(SIZE[0]), np.zeros(SIZE[1]))
                    values = np.empty(iterations + 1)
                    for k in range(iterations + 1):
                        values[k] = potential(problem, state, delta, rho, rho)
                        state = step(problem, state, steps, delta, rho, rho)
                    change = np.diff(values)
                    where: dict[str, Any] = {"problem": i, "regime": regime, "delta": delta, "rho": rho}
                    grown = int((change > 1e-10).sum())
                    ctx.record("potential_increases", grown, unit="steps", direction="lower", **where)
                    ctx.record("largest_increase", float(change.max()), unit="1", direction="lower", **where)
                    if i == 0:
                        kept = range(0, iterations + 1, max(1, iterations // 40))
                        ctx.record_many("potential", values[list(kept)], unit="1", **where, step=kept)


def _initial(ctx: Context, problem: LCQP, index: int, deltas: Sequence[float]) -> None:
    x = np.zeros(problem.dx)
    lower = problem.lower(x)
    cold = start(problem, x, np.zeros(problem.dy))
    warm = replace(start(problem, x, lower.y), u=lower.multipliers, v=lower.multipliers)
    for name, state in (("cold", cold), ("warm", warm)):
        for delta in (*deltas, 0.03, 0.003):
            value = potential(problem, state, delta, 1.0, 1.0)
            where: dict[str, Any] = {"problem": index, "delta": delta, "start": name}
            ctx.record("initial_potential", value, unit="1", direction="lower", **where)


def complexity(
    ctx: Context,
    *,
    problems: int,
    epsilons: Sequence[float],
    iterations: int,
    eta: float,
    rhos: Sequence[float],
) -> None:
    """Count iterations to ``|grad Phi_delta(x)| <= epsilon = delta`` with equal steps from a cold start.

    Records iterations_to (the ceiling where it is not reached) and reached; and for every broken twin in
    `controls` and for the algorithm itself the stationarity left after all iterations at the largest epsilon.
    """
    bed = [draw(*SIZE, ctx.generator("complexity", problem=i)) for i in range(problems)]
    batch, width = stack(bed), len(epsilons)
    delta = np.array(epsilons)[:, None]
    marks = sorted({0, *np.unique(np.geomspace(50, iterations, 160).astype(int)).tolist()})
    initial = start(batch, np.zeros((problems, width, SIZE[0])), np.zeros((problems, width, SIZE[1])))
    for r, rho in enumerate(rhos):
        ctx.progress(r / (len(rhos) + 1), f"rho {rho}")
        result = sflcb(
            batch, initial, iterations=iterations, delta=delta, rho=rho, steps=Steps.common(eta), keep=marks
        )
        for i, problem in enumerate(bed):
            for e, epsilon in enumerate(epsilons):
                sizes = (
                    float(np.linalg.norm(penalised(problem, s.x[i, e], epsilon).gradient))
                    for s in result.states
                )
                hit = next((k for k, size in zip(result.kept, sizes) if size <= epsilon), None)
                where: dict[str, Any] = {
                    "problem": i,
                    "epsilon": epsilon,
                    "rho": rho,
                    "inverse_epsilon": 1 / epsilon,
                }
                taken = iterations if hit is None else max(hit, 1)
                ctx.record("iterations_to", taken, unit="iterations", direction="lower", **where)
                ctx.record("reached", hit is not None, unit="1", direction="higher", **where)


def controls(ctx: Context, *, problems: int, iterations: int, delta: float, rho: float) -> None:
    """Run Algorithm 1 and its broken twins alike; record stationarity ``|grad Phi_delta|`` of the best kept x.

    Clipped multipliers of equality rows are told apart on BiC-GAFFA's toy (experiment gaffa).
    """
    bed = [draw(*SIZE, ctx.generator("controls", problem=i)) for i in range(problems)]
    batch = stack(bed)
    initial = start(batch, np.zeros((problems, 1, SIZE[0])), np.zeros((problems, 1, SIZE[1])))
    steps = Steps(0.15, 0.05, 0.05, 0.05, 0.05)
    for name in ("algorithm_1", "slack_eliminated", "control_v_sign", "control_delta_scaling"):
        result = sflcb(
            batch, initial, iterations=iterations, delta=delta, rho=rho, steps=steps, update=UPDATES[name],
            keep=range(0, iterations + 1, max(1, iterations // 20)),
        )  # fmt: skip
        for i, problem in enumerate(bed):
            last = [s.x[i, 0] for s in result.states[-5:]]
            left = min(float(np.linalg.norm(penalised(problem, x, delta).gradient)) for x in last)
            ctx.record("stationarity", left, unit="1", direction="lower", update=name, problem=i)
            broke = int(result.diverged[i, 0])
            ctx.record("diverged_at", broke, unit="iterations", update=name, problem=i)


def bias(ctx: Context, *, problems: int, deltas: Sequence[float]) -> None:
    """Follow the minimiser x_delta of Phi_delta from the certified x*: distance and Phi gap against delta.

    Phi_delta is minimised from x* by a quasi-Newton method with its exact gradient. Records distance,
    phi_gap, and at_kink (1 where the strict-complementarity margin of x* is below 1e-4).
    """
    for i in range(problems):
        problem = draw(*SIZE, ctx.generator("bias", problem=i))
        ctx.progress(i / problems, f"problem {i}")
        certificate = problem.certificate()
        kink = problem.lower(certificate.x).margin < 1e-4
        for delta in deltas:

            def both(
                x: np.ndarray, problem: LCQP = problem, delta: float = delta
            ) -> tuple[float, np.ndarray]:
                answer = penalised(problem, x, delta)
                return answer.value, answer.gradient

            found = so.minimize(
                both, certificate.x, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 500}
            )
            where: dict[str, Any] = {"problem": i, "delta": delta, "at_kink": bool(kink)}
            distance = float(np.linalg.norm(found.x - certificate.x))
            ctx.record("distance", max(distance, 1e-12), unit="1", direction="lower", **where)
            ctx.record(
                "phi_gap", problem.phi(found.x) - certificate.upper, unit="1", direction="lower", **where
            )


def decoupled(ctx: Context, *, cases: int) -> None:
    """Case B = 0: the x-step must not see the multipliers. Records multiplier_effect on x+."""
    for i in range(cases):
        problem = draw(*SIZE, ctx.generator("decoupled", problem=i), coupled=False)
        generator = ctx.generator("decoupled points", problem=i)
        state = start(problem, generator.standard_normal(SIZE[0]), generator.standard_normal(SIZE[1]))
        u, v = generator.standard_normal((2, SIZE[2]))
        plain = step(problem, state, Steps.common(0.05), 0.1, 0.5, 0.5)
        other = step(problem, replace(state, u=u, v=v), Steps.common(0.05), 0.1, 0.5, 0.5)
        ctx.record("multiplier_effect", float(np.abs(plain.x - other.x).max()), unit="1", case=i)
