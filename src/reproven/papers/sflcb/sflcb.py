"""SFLCB, Algorithm 1: a single loop of first-order steps on the augmented Lagrangian of the penalty problem.

Everything is batched: states carry leading axes, step sizes, delta and rho may be arrays that broadcast
against them, and NumPy arrays and torch tensors both work.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reproven.papers.sflcb.problem import Array, BilevelProblem, check_finite, host

GRADIENTS_PER_ITERATION = 3  # one of f and two of g


@dataclass(frozen=True)
class State:
    """Iterate of Algorithm 1: x, y' = (y, alpha), z' = (z, beta), multipliers u, v."""

    x: Array
    y: Array
    z: Array
    alpha: Array
    beta: Array
    u: Array
    v: Array


@dataclass(frozen=True)
class Steps:
    """Step sizes eta_x, eta_y, eta_z, eta_u, eta_v: positive floats, or arrays (..., 1), one a run."""

    x: Any
    y: Any
    z: Any
    u: Any
    v: Any

    @classmethod
    def common(cls, eta: Any) -> Steps:
        """Return one step for all five, as in every published experiment."""
        return cls(eta, eta, eta, eta, eta)


@dataclass(frozen=True)
class Result:
    """What `sflcb` returns.

    state: the last iterate; of a diverged run its best, or last finite, kept one.
    kept: iterations at which `states` were kept.
    diverged: per run, the iteration at which divergence was seen, -1 where it was not; shape (...).
    gradient_evaluations: of one run; one evaluation is one gradient of f or of g.
    """

    state: State
    kept: list[int]
    states: list[State]
    diverged: np.ndarray
    gradient_evaluations: int
    notes: list[str] = field(default_factory=list)


def start(problem: BilevelProblem, x: Array, y: Array, z: Array | None = None) -> State:
    """Return a start with zero multipliers and slacks alpha = h(x, y), beta = h(x, z), clipped to <= 0."""
    z = y if z is None else z
    check_shapes(problem, x, y)
    alpha = problem.project_slack(problem.residual(x, y))
    beta = problem.project_slack(problem.residual(x, z))
    return State(x, y, z, alpha, beta, alpha * 0, beta * 0)


def step(
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
    """Return the next iterate of Algorithm 1.

    ``u+ = u + eta_u (h(x, y) - alpha)``, ``v+ = v + eta_v (h(x, z) - beta)``, then from the same old point,
    with ``pi_y = u + rho1 (h(x, y) - alpha)``, ``pi_z = v + rho2 (h(x, z) - beta)``:
    ``x -= eta_x [delta f_x(x, y) + g_x(x, y) - g_x(x, z) + B^T (pi_y - pi_z)]``,
    ``y -= eta_y [delta f_y(x, y) + g_y(x, y) + A^T pi_y]``, ``alpha = min(0, alpha + eta_y pi_y)``,
    ``z -= eta_z [g_y(x, z) + A^T pi_z]``, ``beta = min(0, beta + eta_z pi_z)``.

    Args:
        fresh_duals: primal steps see u+, v+ (the paper); False sees u, v (the published SVM and transport code).
        dual_map: applied to u and v after their step; None, as in the paper, leaves them free in sign.
    """
    r_y = problem.residual(s.x, s.y) - s.alpha
    r_z = problem.residual(s.x, s.z) - s.beta
    u, v = s.u + steps.u * r_y, s.v + steps.v * r_z
    if dual_map is not None:
        u, v = dual_map(u), dual_map(v)
    pi_y = (u if fresh_duals else s.u) + rho1 * r_y
    pi_z = (v if fresh_duals else s.v) + rho2 * r_z
    d_x, d_y, d_z = problem.gradients(s.x, s.y, s.z, delta)
    return State(
        x=problem.project_x(s.x - steps.x * (d_x + problem.adjoint_x(pi_y - pi_z))),
        y=problem.project_y(s.y - steps.y * (d_y + problem.adjoint_y(pi_y))),
        z=problem.project_y(s.z - steps.z * (d_z + problem.adjoint_y(pi_z))),
        alpha=problem.project_slack(s.alpha + steps.y * pi_y),
        beta=problem.project_slack(s.beta + steps.z * pi_z),
        u=u,
        v=v,
    )


def sflcb(
    problem: BilevelProblem,
    state: State,
    *,
    iterations: int,
    delta: Any,
    rho: Any,
    steps: Steps,
    rho2: Any = None,
    fresh_duals: bool = True,
    dual_map: Callable[[Array], Array] | None = None,
    keep: Sequence[int] = (),
    score: Callable[[State], np.ndarray] | None = None,
    check_every: int = 100,
    limit: float = 1e8,
    update: Callable[..., State] = step,
) -> Result:
    """Run Algorithm 1 for `iterations` steps from `state` (see `start`, `warm_start`).

    Args:
        delta: penalty parameter, 0 < delta <= mu_g / (2 l_f1) in the theory; one value or one a run (..., 1).
        rho, rho2: rho1 and rho2 >= 0 (equal when rho2 is None); below ``(mu_g - delta l_f1) / |A|^2`` in the theory.
        steps: see `reproven.papers.sflcb.steps` for the paper's theory, its tables and a tuner.
        keep: iterations whose states are returned.
        score: lower is better, State -> (...); a diverged run ends at its best kept state by it.
        check_every: iterations between two looks for divergence (a non-finite entry, or a norm above `limit`).
        update: the step; variants hand in their own.

    Raises:
        ValueError: on mismatched shapes, non-positive delta or steps, negative rho.

    Source: Algorithm 1; the divergence guard is reconstructed.

    >>> from reproven.papers.sflcb.beds.toy import Toy
    >>> s = start(Toy(), np.array([1.0]), np.array([1.0]))
    >>> r = sflcb(Toy(), s, iterations=2000, delta=0.1, rho=1.0, steps=Steps.common(0.1))
    >>> abs(float(r.state.x[0]) - 1.721879) < 1e-4
    True
    """
    rho2 = rho if rho2 is None else rho2
    check_state(problem, state)
    if iterations < 1:
        raise ValueError(f"iterations = {iterations} must be at least 1")
    notes = _check_parameters(problem, delta, rho, rho2, steps)
    wanted = set(keep)
    kept, states = [], []
    diverged = np.full(tuple(state.x.shape[:-1]), -1, dtype=int)
    safe, safe_score = state, host(0.0 if score is None else score(state))
    if 0 in wanted:
        kept.append(0)
        states.append(state)
    s = state
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(1, iterations + 1):
            s = update(problem, s, steps, delta, rho, rho2, fresh_duals=fresh_duals, dual_map=dual_map)
            if t % check_every and t != iterations and t not in wanted:
                continue
            bad = _runaway(s, limit)
            if bad.any():
                # A diverged run stays where it was last good; the others of the batch go on.
                diverged = np.where(bad & (diverged < 0), t, diverged)
                s = _merge(bad, safe, s)
                if bool((diverged >= 0).all()):
                    kept += [k for k in sorted(wanted) if k >= t]
                    states += [s] * (len(kept) - len(states))
                    break
            if score is None:
                safe = s
            else:
                now = host(score(s))
                worse = now >= safe_score
                safe, safe_score = _merge(worse, safe, s), np.where(worse, safe_score, now)
            if t in wanted:
                kept.append(t)
                states.append(s)
    frozen = diverged >= 0
    if frozen.any():
        s = _merge(frozen, safe, s)
        first = int(diverged[frozen].min())
        notes.append(
            f"{int(frozen.sum())} of {frozen.size} runs diverged, the first by step {first}: "
            "shrink the steps until eta (L_g + rho |A|^2) <= 1"
        )
    return Result(s, kept, states, diverged, GRADIENTS_PER_ITERATION * iterations, notes)


def warm_start(
    problem: BilevelProblem, x: Array, y: Array, *, iterations: int, eta: Any, eta_dual: Any
) -> tuple[State, int]:
    """Return a start near the lower solution at x, and its gradient evaluations.

    Projected primal-dual gradient on ``min_z max_{v >= 0} g(x, z) + v^T h(x, z)`` at fixed x, then
    ``y = z, u = v, alpha = beta = min(h(x, z), 0)``. With `iterations` of order log(1/delta) the start is
    within O(delta), which takes the complexity from O(eps^-4) to O(eps^-3). The recipe needs A of full row
    rank; without it run `sflcb` with ``steps.x = 0`` for O(eps^-2) iterations instead (Corollary 5.5).

    Source: Theorem 5.2, Corollary 5.3 and the recipe after them.
    """
    check_shapes(problem, x, y)
    z, v = y, problem.residual(x, y) * 0
    for _ in range(iterations):
        v = problem.project_dual(v + eta_dual * problem.residual(x, z))
        z = problem.project_y(z - eta * (problem.grad_g(x, z)[1] + problem.adjoint_y(v)))
    return replace(start(problem, x, z), u=v, v=v), iterations


def check_shapes(problem: BilevelProblem, x: Array, y: Array, name: str = "y") -> None:
    """Raise ValueError unless x ends in dx entries and y in dy with the same leading axes, in one library."""
    for label, value in (("x", x), (name, y)):
        if type(value) is not type(problem.a):
            raise ValueError(
                f"{label} is a {type(value).__name__} and A a {type(problem.a).__name__}: use one library for both"
            )
    if x.shape[-1] != problem.dx:
        raise ValueError(f"x has {x.shape[-1]} entries, B has {problem.dx} columns")
    if y.shape[-1] != problem.dy:
        raise ValueError(f"{name} has {y.shape[-1]} entries, A has {problem.dy} columns")
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            f"x and {name} have batch shapes {tuple(x.shape[:-1])} and {tuple(y.shape[:-1])}: make them equal"
        )


def check_state(problem: BilevelProblem, s: State) -> None:
    """Raise ValueError unless every part of the state has its shape and only finite entries."""
    check_shapes(problem, s.x, s.y)
    check_shapes(problem, s.x, s.z, "z")
    shape = (*s.x.shape[:-1], problem.dh)
    for name in ("alpha", "beta", "u", "v"):
        found = tuple(getattr(s, name).shape)
        if found != shape:
            raise ValueError(f"{name} has shape {found}, needs {shape}: one entry a constraint row")
    for name in ("x", "y", "z", "alpha", "beta", "u", "v"):
        check_finite(name, getattr(s, name))


def rho_bound(problem: BilevelProblem, delta: Any) -> float | None:
    """Return ``(mu_g - delta l_f1) / sigma_max(A)^2``, smallest over the batch; None with unknown constants."""
    if problem.mu_g is None or problem.l_f1 is None:
        return None
    a = host(problem.a)
    norm = np.linalg.norm(a, ord=2, axis=(-2, -1)).max()
    return float((problem.mu_g - float(np.max(host(delta))) * problem.l_f1) / norm**2)


def _check_parameters(problem: BilevelProblem, delta: Any, rho1: Any, rho2: Any, steps: Steps) -> list[str]:
    for name, value in {"delta": delta, **{f"eta_{k}": getattr(steps, k) for k in "xyzuv"}}.items():
        smallest = float(np.min(host(value)))
        # eta_x = 0 freezes x, as the start of Corollary 5.5 does.
        if not (smallest > 0 or (name == "eta_x" and smallest == 0)):
            raise ValueError(f"{name} = {smallest:g} must be positive")
    for name, value in (("rho1", rho1), ("rho2", rho2)):
        if not float(np.min(host(value))) >= 0:
            raise ValueError(f"{name} = {float(np.min(host(value)))} must not be negative")
    bound = rho_bound(problem, delta)
    largest = max(float(np.max(host(rho1))), float(np.max(host(rho2))))
    if bound is None or largest < bound:
        return []
    note = f"rho = {largest:g} is not below the bound {bound:.3g} of the theory: the modulus of Lemma A.4 is lost"
    warnings.warn(note, stacklevel=3)
    return [note]


def _runaway(s: State, limit: float) -> np.ndarray:
    size = (s.x * s.x).sum(-1) + (s.y * s.y).sum(-1) + (s.z * s.z).sum(-1) + (s.u * s.u).sum(-1)
    # Comparing with "not <=" catches a NaN too.
    return ~host(size + (s.v * s.v).sum(-1) <= limit**2)


def _merge(mask: np.ndarray, yes: State, no: State) -> State:
    from reproven.papers.sflcb.problem import where

    if not mask.any():
        return no
    chosen = mask[..., None]
    names = ("x", "y", "z", "alpha", "beta", "u", "v")
    return State(*(where(chosen, getattr(yes, k), getattr(no, k)) for k in names))
