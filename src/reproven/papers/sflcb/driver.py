"""Running and tuning a method: equal grids, equal budgets, costs counted in evaluations, solves and seconds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from reproven.papers.sflcb.problem import Array, BilevelProblem

Settings = Mapping[str, Any]


class Method(Protocol):
    """A bilevel method: a start, a step, and what one step costs.

    `gradients` counts gradients of f or g in one step, `solves` calls of an exact solver or projection.
    `grid` names the tuned settings and their values. States have fields `x` and `y`.
    """

    grid: Mapping[str, Sequence[float]]

    def cost(self, settings: Settings) -> tuple[int, int]:
        """Return (gradient evaluations, exact solves) of one step."""

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> Any:
        """Return the state at (x, y)."""

    def step(self, problem: BilevelProblem, state: Any, k: int, settings: Settings) -> Any:
        """Return the state after step k = 0, 1, ..."""


@dataclass(frozen=True)
class Trace:
    """Iterates at the checkpoints, and what was spent until then (for one run of the batch).

    x, y: lists of (..., dx) and (..., dy); gradients, solves, seconds: cumulative. Seconds are those of the
    whole batch and leave out every evaluation of the iterates.
    """

    x: list[Array]
    y: list[Array]
    gradients: list[int]
    solves: list[int]
    seconds: list[float]
    state: Any


def run(
    method: Method,
    problem: BilevelProblem,
    x: Array,
    y: Array,
    settings: Settings,
    *,
    gradients: int,
    solves: int | None = None,
    checkpoints: int = 40,
    first: int = 4,
) -> Trace:
    """Run `method` until `gradients` evaluations or `solves` exact solves are spent.

    Args:
        gradients, solves: the budget; whichever is spent first ends the run. solves = None means no limit.
        checkpoints: number of kept iterates, spaced geometrically from iteration `first`.
    """
    per_gradient, per_solve = method.cost(settings)
    limits = [gradients // per_gradient] if per_gradient else []
    if per_solve and solves is not None:
        limits.append(solves // per_solve)
    total = max(1, min(limits))
    marks = {0, total} | set(np.unique(np.geomspace(min(first, total), total, checkpoints).astype(int)).tolist())
    trace = Trace([], [], [], [], [], None)
    state = method.init(problem, x, y, settings)
    spent = 0.0
    with np.errstate(all="ignore"):
        for k in range(total + 1):
            if k in marks:
                trace.x.append(state.x)
                trace.y.append(state.y)
                trace.gradients.append(k * per_gradient)
                trace.solves.append(k * per_solve)
                trace.seconds.append(spent)
            if k == total:
                break
            begin = time.perf_counter()
            state = method.step(problem, state, k, settings)
            spent += time.perf_counter() - begin
    return Trace(trace.x, trace.y, trace.gradients, trace.solves, trace.seconds, state)


def candidates(grid: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Return every combination of the grid as columns (P, 1), one entry a candidate."""
    rows = list(itertools.product(*grid.values()))
    return {name: np.array([row[i] for row in rows], float)[:, None] for i, name in enumerate(grid)}


def tune(
    method: Method,
    problem: BilevelProblem,
    x: Array,
    y: Array,
    score: Callable[[Array], np.ndarray],
    *,
    gradients: int,
    solves: int | None = None,
) -> dict[str, float]:
    """Return the grid's setting with the smallest median final score over the tuning problems.

    Args: x, y (S, 1, d) starts on tuning problems, which no reported run uses; score (S, P, dx) -> (S, P),
    lower is better, non-finite counts as worst. Every method is given the same budget and number of
    candidates. Source: reconstructed.
    """
    settings = candidates(method.grid)
    width = len(next(iter(settings.values())))
    x, y = np.repeat(x, width, axis=-2), np.repeat(y, width, axis=-2)
    trace = run(method, problem, x, y, settings, gradients=gradients, solves=solves, checkpoints=2)
    final = np.asarray(score(trace.x[-1]))
    final = np.where(np.isfinite(final), final, np.inf)
    best = int(np.argmin(np.median(final, axis=0)))
    return {name: float(column[best, 0]) for name, column in settings.items()}
