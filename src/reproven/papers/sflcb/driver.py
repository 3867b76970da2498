"""Running and tuning a method: equal grids, equal budgets, costs counted in evaluations, solves and seconds."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reproven.papers.sflcb.problem import Array, BilevelProblem

Settings = Mapping[str, Any]
# Preset name -> setting -> a number (held) or a list of numbers (tuned over). ``iterations`` is a number of steps.
Presets = Mapping[str, Mapping[str, Any]]


class Method:
    """A bilevel method: a start, a step, and what one step costs.

    defaults: value of every setting. presets: settings for each problem and protocol, see `Presets`.
    States have fields `x` and `y`.
    """

    def __init__(self, defaults: Settings, presets: Presets | None = None) -> None:
        self.defaults, self.presets = dict(defaults), dict(presets or {})

    def cost(self, settings: Settings) -> tuple[int, int]:
        """Return (gradient evaluations of f or g, exact solves or projections) of one step."""
        raise NotImplementedError

    def init(self, problem: BilevelProblem, x: Array, y: Array, settings: Settings) -> Any:
        """Return the state at (x, y)."""
        raise NotImplementedError

    def step(self, problem: BilevelProblem, state: Any, k: int, settings: Settings) -> Any:
        """Return the state after step k = 0, 1, ..."""
        raise NotImplementedError

    def report(self, state: Any) -> Array:
        """Return the lower iterate that the method reports."""
        return state.y


@dataclass(frozen=True)
class Trace:
    """Iterates at the checkpoints, and what was spent until then (for one run of the batch).

    x, y: lists of (..., dx) and (..., dy); gradients, solves, seconds: cumulative. Seconds are those of the
    whole batch and leave out every evaluation of the iterates. fraction: share of the budget.
    """

    x: list[Array]
    y: list[Array]
    gradients: list[int]
    solves: list[int]
    seconds: list[float]
    state: Any
    fraction: list[float] = field(default_factory=list)


def run(
    method: Method,
    problem: BilevelProblem,
    x: Array,
    y: Array,
    settings: Settings,
    *,
    gradients: int | None = None,
    solves: int | None = None,
    iterations: int | None = None,
    seconds: float | None = None,
    checkpoints: int = 40,
    first: int = 4,
) -> Trace:
    """Run `method` until `gradients` evaluations, `solves`, `iterations` steps or `seconds` are spent.

    Args:
        settings: numbers, or columns (P, 1) for runs (..., P, d) side by side; ``iterations`` is ignored here.
        gradients, solves, iterations, seconds: the budget; whichever is spent first ends the run, None means no
            limit. Seconds come on top of one of the others.
        checkpoints: number of kept iterates, spaced geometrically from iteration `first`.
    """
    per_gradient, per_solve = method.cost(settings)
    limits = [] if iterations is None else [iterations]
    if per_gradient and gradients is not None:
        limits.append(gradients // per_gradient)
    if per_solve and solves is not None:
        limits.append(solves // per_solve)
    if not limits:
        raise ValueError("no budget: give gradients, solves or iterations")
    total = max(1, min(limits))
    marks = {0, total} | set(
        np.unique(np.geomspace(min(first, total), total, checkpoints).astype(int)).tolist()
    )
    trace = Trace([], [], [], [], [], None)
    state = method.init(problem, x, y, settings)
    spent = 0.0
    with np.errstate(all="ignore"):
        for k in range(total + 1):
            over = k == total or (seconds is not None and spent > seconds)
            if k in marks or over:
                trace.x.append(state.x)
                trace.y.append(method.report(state))
                trace.gradients.append(k * per_gradient)
                trace.solves.append(k * per_solve)
                trace.seconds.append(spent)
                trace.fraction.append(k / total)
            if over:
                break
            begin = time.perf_counter()
            state = method.step(problem, state, k, settings)
            spent += time.perf_counter() - begin
    return replace(trace, state=state)


def preset(method: Method, name: str) -> Settings:
    """Return the method's settings called `name`, its ``default`` ones, or none (its own defaults)."""
    return method.presets.get(name, method.presets.get("default", {}))


def candidates(settings: Settings) -> dict[str, Any]:
    """Return every combination of the listed values as columns (P, 1), and the held values as they are."""
    tuned = {name: value for name, value in settings.items() if isinstance(value, Sequence)}
    rows = list(itertools.product(*tuned.values()))
    columns = {name: np.array([row[i] for row in rows], float)[:, None] for i, name in enumerate(tuned)}
    return {name: columns.get(name, value) for name, value in settings.items()}


def tune(
    method: Method,
    problem: BilevelProblem,
    x: Array,
    y: Array,
    settings: Settings,
    score: Callable[[Array, Array], np.ndarray],
    *,
    gradients: int | None = None,
    solves: int | None = None,
    reach: float | None = None,
) -> dict[str, float]:
    """Return the combination of `settings` with the smallest median score over the tuning problems.

    Every method is given the same budget; the configurations list the same number of candidates for each.

    Args:
        x, y: (S, 1, d) starts on tuning problems, which no reported run uses.
        score: takes x (S, P, dx) and y (S, P, dy) to (S, P), lower is better, non-finite counts as worst.
        reach: None ranks by the score at the end of the budget; a number ranks by the share of the budget spent
            until the score first falls to it, and candidates that never do behind all others, by their best score.
    Source: reconstructed.
    """
    columns = candidates(settings)
    arrays = [value for value in columns.values() if isinstance(value, np.ndarray)]
    if not arrays:
        return dict(columns)
    width = len(arrays[0])
    x, y = np.repeat(x, width, axis=-2), np.repeat(y, width, axis=-2)
    checkpoints = 2 if reach is None else 30
    trace = run(method, problem, x, y, columns, gradients=gradients, solves=solves, checkpoints=checkpoints)
    points = list(zip(trace.x, trace.y))[-1:] if reach is None else list(zip(trace.x, trace.y))
    path = np.stack([np.asarray(score(*point)) for point in points])
    path = np.where(np.isfinite(path), path, np.inf)
    rank = path[-1] if reach is None else share_spent(path, np.array(trace.fraction), reach)
    best = int(np.argmin(np.median(rank, axis=0)))
    return {k: float(v[best, 0]) if isinstance(v, np.ndarray) else v for k, v in columns.items()}


def share_spent(path: np.ndarray, fraction: np.ndarray, reach: float) -> np.ndarray:
    """Return the `fraction` (K,) at which `path` (K, ...) first is <= reach; 1 + its lowest value where it never is."""
    hit = path <= reach
    return np.where(hit.any(0), fraction[hit.argmax(0)], 1 + path.min(0))
