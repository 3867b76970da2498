"""Algorithm 1 against its plain transcription, in NumPy and torch, and its broken twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reproven.papers.sflcb.beds.lcqp import LCQP, draw, stack
from reproven.papers.sflcb.controls import CONTROLS
from reproven.papers.sflcb.sflcb import State, Steps, sflcb, start, step
from reproven.papers.sflcb.sflcb_reference import augmented_lagrangian, sflcb_reference
from reproven.papers.sflcb.variants import slack_eliminated_step

ETA = Steps(0.1, 0.05, 0.04, 0.3, 0.2)
NAMES = ("x", "y", "z", "alpha", "beta", "u", "v")


def problem_and_start(seed: int = 0) -> tuple[LCQP, State]:
    problem = draw(5, 8, 4, np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    state = start(problem, rng.standard_normal(5), rng.standard_normal(8), rng.standard_normal(8))
    u, v = rng.standard_normal((2, 4))
    return problem, State(state.x, state.y, state.z, state.alpha, state.beta, u, v)


def reference(problem: LCQP, state: State, steps: int) -> list[dict]:
    begin = {name: getattr(state, name) for name in NAMES}
    eta = {name: getattr(ETA, name) for name in "xyzuv"}
    return sflcb_reference(
        problem.grad_f, problem.grad_g, problem.a, problem.b_x, problem.rhs, begin,
        delta=0.1, rho_1=0.7, rho_2=0.5, eta=eta, T=steps,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fast_follows_reference(seed: int) -> None:
    problem, state = problem_and_start(seed)
    wanted = reference(problem, state, 200)
    result = sflcb(problem, state, iterations=200, delta=0.1, rho=0.7, rho2=0.5, steps=ETA, keep=range(201))
    assert result.kept == list(range(201))
    for ours, theirs in zip(result.states, wanted):
        for name in NAMES:
            # The same products in another order: rounding over 200 steps.
            np.testing.assert_allclose(getattr(ours, name), theirs[name], rtol=1e-9, atol=1e-11)


def test_torch_batch_follows_reference() -> None:
    drawn = [problem_and_start(seed) for seed in range(3)]
    batch = stack([p for p, _ in drawn]).to_torch(dtype=torch.float64)
    states = State(*(torch.as_tensor(np.stack([getattr(s, n) for _, s in drawn])[:, None]) for n in NAMES))
    result = sflcb(batch, states, iterations=100, delta=0.1, rho=0.7, rho2=0.5, steps=ETA)
    for i, (problem, state) in enumerate(drawn):
        wanted = reference(problem, state, 100)[-1]
        for name in NAMES:
            ours = getattr(result.state, name)[i, 0].numpy()
            np.testing.assert_allclose(ours, wanted[name], rtol=1e-9, atol=1e-11)


def test_reference_steps_along_the_gradient_of_k() -> None:
    problem, state = problem_and_start()
    point = {name: getattr(state, name) for name in NAMES}
    after = reference(problem, state, 1)[1]
    # The primal steps use the duals after their step.
    fresh = {**point, "u": after["u"], "v": after["v"]}

    def k(**changed: np.ndarray) -> float:
        return augmented_lagrangian(
            problem.f,
            problem.g,
            problem.a,
            problem.b_x,
            problem.rhs,
            {**fresh, **changed},
            delta=0.1,
            rho_1=0.7,
            rho_2=0.5,
        )

    for name, sign in (("x", -1), ("y", -1), ("z", 1)):
        moves = 1e-5 * np.eye(len(fresh[name]))
        numeric = [(k(**{name: fresh[name] + e}) - k(**{name: fresh[name] - e})) / 2e-5 for e in moves]
        moved = (after[name] - point[name]) / (sign * getattr(ETA, name))
        # Central differences of a quadratic with width 1e-5: rounding of K over the width.
        np.testing.assert_allclose(moved, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["control_v_sign", "control_delta_scaling"])
def test_broken_twins_leave_the_reference(name: str) -> None:
    problem, state = problem_and_start()
    wanted = reference(problem, state, 5)[-1]
    broken = sflcb(
        problem, state, iterations=5, delta=0.1, rho=0.7, rho2=0.5, steps=ETA, update=CONTROLS[name]
    ).state
    assert max(float(np.abs(getattr(broken, n) - wanted[n]).max()) for n in NAMES) > 1e-2


def test_old_duals_and_slack_elimination_differ_but_share_fixed_points() -> None:
    problem, state = problem_and_start()
    quiet = Steps(0.1, 0.05, 0.05, 0.05, 0.05)
    end = sflcb(problem, state, iterations=60000, delta=0.3, rho=10.0, steps=quiet).state
    for after in (
        step(problem, end, quiet, 0.3, 10.0, 10.0, fresh_duals=False),
        slack_eliminated_step(problem, end, quiet, 0.3, 10.0, 10.0),
    ):
        np.testing.assert_allclose(after.x, end.x, atol=1e-7)
        np.testing.assert_allclose(after.y, end.y, atol=1e-7)
    old = step(problem, state, quiet, 0.3, 10.0, 10.0, fresh_duals=False)
    assert np.abs(old.x - step(problem, state, quiet, 0.3, 10.0, 10.0).x).max() > 1e-6
