"""Variants of SFLCB, labelled as such: none is in the paper, each changes one thing of Algorithm 1."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reproven.papers.sflcb.problem import Array, BilevelProblem
from reproven.papers.sflcb.sflcb import Result, State, Steps, sflcb, step


def slack_eliminated_step(
    problem: BilevelProblem,
    s: State,
    steps: Steps,
    delta: Any,
    rho1: Any,
    rho2: Any,
    *,
    fresh_duals: bool = True,
    dual_map: Callable[[Array], Array] | None = None,
) -> State:
    """Variant: slacks at their exact minimum ``alpha = min(0, h(x, y) + u / rho1)`` before every step.

    K then depends on (x, y, z, u, v) alone and its y-gradient is ``... + A^T [u + rho1 h]_+``. Equality
    rows keep alpha = 0. rho must be positive. Source: reconstructed.
    """
    alpha = problem.project_slack(problem.residual(s.x, s.y) + s.u / rho1)
    beta = problem.project_slack(problem.residual(s.x, s.z) + s.v / rho2)
    exact = replace(s, alpha=alpha, beta=beta)
    return step(problem, exact, steps, delta, rho1, rho2, fresh_duals=fresh_duals, dual_map=dual_map)


UPDATES: dict[str, Callable[..., State]] = {"algorithm_1": step, "slack_eliminated": slack_eliminated_step}


def delta_continuation(
    problem: BilevelProblem,
    state: State,
    *,
    deltas: Sequence[float],
    iterations: int,
    rho: float,
    steps: Steps,
) -> Result:
    """Variant: run Algorithm 1 at each delta of a falling sequence, each from the last iterate of the one before.

    ``eta_x`` is scaled by ``deltas[0] / delta`` so that the x-step on the unscaled objective stays the same;
    u, which belongs to ``delta f + g``, is carried over. Source: reconstructed.
    """
    if any(b >= a for a, b in itertools.pairwise(deltas)):
        raise ValueError(f"deltas {list(deltas)} must fall strictly")
    result = None
    for delta in deltas:
        scaled = replace(steps, x=steps.x * deltas[0] / delta)
        result = sflcb(problem, state, iterations=iterations, delta=delta, rho=rho, steps=scaled)
        state = result.state
    assert result is not None
    return replace(result, gradient_evaluations=result.gradient_evaluations * len(deltas))


def adaptive_rho(
    problem: BilevelProblem,
    state: State,
    *,
    iterations: int,
    delta: float,
    rho: float,
    steps: Steps,
    every: int = 500,
    factor: float = 2.0,
    largest: float = 10.0,
) -> tuple[Result, list[float]]:
    """Variant: raise rho by `factor` (up to `largest`) when the violation has not halved over `every` steps.

    Small rho with equal steps can cycle for ever; this leaves the cycle. eta_y and eta_z are divided by the
    growth of ``1 + rho |A|^2`` to keep the step stable. Returns the result and the rho of each block.
    Source: reconstructed.
    """
    norm = float(np.linalg.norm(np.asarray(problem.a), 2))
    size, used = np.inf, []
    base = 1 + rho * norm**2
    result = None
    for _ in range(max(1, iterations // every)):
        shrink = base / (1 + rho * norm**2)
        scaled = replace(steps, y=steps.y * shrink, z=steps.z * shrink)
        result = sflcb(problem, state, iterations=every, delta=delta, rho=rho, steps=scaled)
        state = result.state
        used.append(rho)
        gap = problem.residual(state.x, state.y) - state.alpha
        now = float(np.sqrt((np.asarray(gap) ** 2).sum(-1)).max())
        if now > size / 2 and now > 1e-8:
            rho = min(rho * factor, largest)
        size = now
    assert result is not None
    return replace(result, gradient_evaluations=result.gradient_evaluations * len(used)), used


def scale_rows(problem: BilevelProblem) -> BilevelProblem:
    """Variant: divide every row of (B, A, b) by the norm of its row of A, which leaves Y(x) unchanged.

    Multipliers are scaled by the inverse. Raises ValueError on a zero row of A. Source: reconstructed.
    """
    norms = (problem.a * problem.a).sum(-1) ** 0.5
    if not bool((norms > 0).all()):
        raise ValueError(
            f"row {int(np.argmin(np.asarray(norms)))} of A is zero: it does not constrain y; drop it"
        )
    scale = norms[..., None]
    row = scale.swapaxes(-1, -2) if problem.a.ndim > 2 else norms
    return BilevelProblem(
        problem.f, problem.g, problem.a / scale, problem.b_x / scale, problem.rhs / row, grad_f=problem.grad_f,
        grad_g=problem.grad_g, equality=problem.equality, x_box=problem.x_box, y_box=problem.y_box,
        mu_g=problem.mu_g, l_f1=problem.l_f1, l_g1=problem.l_g1,
    )  # fmt: skip
