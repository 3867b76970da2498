"""Broken twins of SFLCB: each breaks one thing that is easy to get wrong, and each must be told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reproven.papers.sflcb.problem import Array, BilevelProblem
from reproven.papers.sflcb.sflcb import State, Steps, step


def wrong_sign_of_v(
    problem: BilevelProblem, s: State, steps: Steps, *parameters: Any, **keywords: Any
) -> State:
    """Broken: v steps against ``h(x, z) - beta``, as if it were a maximised variable of K."""
    return step(problem, s, replace(steps, v=-steps.v), *parameters, **keywords)


def delta_scaling_forgotten(
    problem: BilevelProblem, s: State, steps: Steps, delta: Any, *parameters: Any, **keywords: Any
) -> State:
    """Broken: f enters the gradients without its factor delta, whatever delta is."""
    return step(problem, s, steps, 1.0, *parameters, **keywords)


def clipped_duals(problem: BilevelProblem, s: State, *parameters: Any, **keywords: Any) -> State:
    """Broken on equality rows: every multiplier is kept >= 0, though balances need both signs."""
    return step(problem, s, *parameters, **{**keywords, "dual_map": _clip})


def _clip(u: Array) -> Array:
    return u.clip(min=0.0)


CONTROLS: dict[str, Callable[..., State]] = {
    "control_v_sign": wrong_sign_of_v,
    "control_delta_scaling": delta_scaling_forgotten,
    "control_clipped_duals": clipped_duals,
}
