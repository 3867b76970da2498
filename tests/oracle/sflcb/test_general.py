"""Evaluators of any problem given as f, g and B x + A y <= b, against closed forms, cvxpy and the LC-QP bed's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import reproven.papers.sflcb as library
from reproven.papers.sflcb import (
    BLOCC,
    LVHBA,
    SFLCB,
    AiPODToy,
    BiCGAFFA,
    BilevelProblem,
    ImplicitGradient,
    Infeasible,
    check_feasible,
    draw,
    high_point,
    hypergradient,
    lower_level,
    nearest_feasible,
    penalised,
    potential,
    run,
    start,
    theory_steps,
)
from reproven.papers.sflcb.beds.lcqp import LCQP
from reproven.papers.sflcb.exact import conic_qp
from reproven.papers.sflcb.theory import hessian_primal, smoothness_bound


def plain(problem: LCQP) -> BilevelProblem:
    """The same problem without anything that the bed knows about itself."""
    return BilevelProblem(
        problem.f, problem.g, problem.a, problem.b_x, problem.rhs, grad_f=problem.grad_f, grad_g=problem.grad_g,
        mu_g=problem.mu_g, l_f1=problem.l_f1, l_g1=problem.l_g1,
    )  # fmt: skip


@pytest.fixture
def bed() -> LCQP:
    return draw(5, 8, 4, np.random.default_rng(3))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(4).standard_normal(5)


@pytest.mark.parametrize("delta", [0.0, 0.1])
def test_lower_level_of_a_quadratic(bed: LCQP, x: np.ndarray, delta: float) -> None:
    ours = lower_level(plain(bed), x, delta=delta)
    exact = bed.penalised(x, delta) if delta else bed.lower(x)
    np.testing.assert_allclose(ours.y, exact.y, atol=1e-9)
    np.testing.assert_allclose(ours.multipliers, exact.multipliers, atol=1e-8)


def test_lower_level_beyond_quadratics_agrees_with_cvxpy() -> None:
    cp = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(0)
    rows, a, rhs = rng.standard_normal((30, 4)), rng.standard_normal((3, 4)), 0.2 * rng.standard_normal(3)
    rhs[2] = a[2] @ np.full(4, 0.1)
    equality, box = np.array([False, False, True]), (-0.4, 0.3)
    problem = BilevelProblem(
        lambda x, y: (y * y).sum(-1),
        lambda x, y: np.logaddexp(0, -y @ rows.T).sum(-1) + 0.5 * (y * y).sum(-1) - (x * y).sum(-1),
        a, np.zeros((3, 4)), rhs, equality=equality, y_box=box, grad_f=lambda x, y: (0 * x, 2 * y),
        grad_g=lambda x, y: (-y, -(rows.T @ (1 / (1 + np.exp(y @ rows.T))).T).T + y - x),
    )  # fmt: skip
    x = rng.standard_normal(4)
    ours = lower_level(problem, x)
    y = cp.Variable(4)
    loss = cp.sum(cp.logistic(-rows @ y)) + 0.5 * cp.sum_squares(y) - x @ y
    limits = [a[:2] @ y <= rhs[:2], a[2] @ y == rhs[2], y >= box[0], y <= box[1]]
    cp.Problem(cp.Minimize(loss), limits).solve(solver="CLARABEL")
    # Clarabel stops at 1e-8 of its own gap, which leaves 1e-5 in y; its value is not below ours.
    np.testing.assert_allclose(ours.y, y.value, atol=3e-5)
    assert problem.g(x, ours.y) <= problem.g(x, y.value) + 1e-7
    assert problem.violation(x, ours.y) < 1e-9
    assert ours.multipliers[:2].min() >= 0


def test_equality_rows_have_free_multipliers() -> None:
    toy = AiPODToy.draw(3, 5, np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal(5)
    answer = lower_level(toy, x)
    np.testing.assert_allclose(answer.y, toy.response @ x, atol=1e-9)
    # Stationarity of the lower level: y - x + A^T multipliers = 0.
    np.testing.assert_allclose(answer.y - x + toy.a.T @ answer.multipliers, 0.0, atol=1e-8)
    assert answer.multipliers.min() < 0


def test_torch_functions_and_numpy_bed_score_alike(bed: LCQP, x: np.ndarray) -> None:
    t = bed.to_torch(dtype=torch.float64)
    problem = BilevelProblem(t.f, t.g, t.a, t.b_x, t.rhs).numpy()
    assert problem.phi(x) == pytest.approx(bed.phi(x), abs=1e-9)
    ours, exact = hypergradient(problem, x, problem.lower(x)), hypergradient(bed, x, bed.lower(x))
    np.testing.assert_allclose(ours, exact, atol=1e-6)  # Hessians by differences
    assert problem.numpy() is problem


@pytest.mark.parametrize("method", [ImplicitGradient(eta_x=0.1), LVHBA(), BiCGAFFA(), BLOCC(), SFLCB()])
def test_methods_run_alike_on_a_torch_problem(bed: LCQP, method: library.Method) -> None:
    t = bed.to_torch(dtype=torch.float64)
    problem = BilevelProblem(t.f, t.g, t.a, t.b_x, t.rhs).numpy()
    ends = [run(method, p, np.zeros(5), np.zeros(8), {}, iterations=5).x[-1] for p in (problem, bed)]
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)  # Hessians by differences


def test_penalised_and_potential_without_the_bed(bed: LCQP, x: np.ndarray) -> None:
    general = plain(bed)
    ours, exact = penalised(general, x, 0.05), penalised(bed, x, 0.05)
    assert ours.value == pytest.approx(exact.value, abs=1e-8)
    np.testing.assert_allclose(ours.gradient, exact.gradient, atol=1e-6)
    state = start(bed, x, np.random.default_rng(5).standard_normal(8))
    assert potential(general, state, 0.1, 1.0, 1.0) == pytest.approx(
        potential(bed, state, 0.1, 1.0, 1.0), abs=1e-9
    )


def test_potential_of_equality_rows_is_above_its_parts() -> None:
    toy = AiPODToy.draw(3, 5, np.random.default_rng(0))
    x, y = np.random.default_rng(1).standard_normal((2, 5))
    state = start(toy, x, y)
    # At y = z = y*, u = v = the multipliers of g, and delta -> 0, K = d = q = 0.
    answer = lower_level(toy, x)
    best = start(toy, x, answer.y)
    best = library.State(x, best.y, best.z, best.alpha, best.beta, answer.multipliers, answer.multipliers)
    assert potential(toy, best, 1e-9, 0.3, 0.3) == pytest.approx(0.0, abs=1e-7)
    assert potential(toy, state, 1e-9, 0.3, 0.3) > 1e-3


def test_smoothness_bound_and_proven_steps(bed: LCQP) -> None:
    exact = float(np.abs(np.linalg.eigvalsh(hessian_primal(bed, 0.1, 0.4))).max())
    bound = smoothness_bound(bed, 0.1, 0.4)
    assert exact <= bound <= 4 * exact
    sharp, _ = theory_steps(bed, 0.1, 0.4, exact)
    rough, mu_y = theory_steps(plain(bed), 0.1, 0.4)
    assert rough.y <= sharp.y == pytest.approx(1 / (4 * exact))
    assert mu_y == pytest.approx(0.2)  # min{1 - 0.1 - 0.4, 0.4 / 2}
    with pytest.raises(ValueError, match="need mu_g and l_f1"):
        theory_steps(BilevelProblem(bed.f, bed.g, bed.a, bed.b_x, bed.rhs), 0.1, 0.4)


def test_high_point_bound(bed: LCQP) -> None:
    value, x, y = high_point(plain(bed))
    joint, program = np.hstack([bed.b_x, bed.a]), bed.program()
    square = program.p[:13, :13].tocsc()
    none = program.e[:0, :13]
    found, *_ = conic_qp(square, program.q[:13], none, np.zeros(0), program.slack[:, :13], bed.rhs)
    np.testing.assert_allclose(np.r_[x, y], found, atol=1e-6)
    assert (joint @ np.r_[x, y] - bed.rhs).max() < 1e-9
    assert value <= bed.certificate().lower + 1e-9


def test_empty_set_is_named_and_repaired() -> None:
    # y <= x and -y <= -1: feasible for x >= 1 only.
    problem = BilevelProblem(
        lambda x, y: (y**2)[..., 0], lambda x, y: (y**2)[..., 0], np.array([[1.0], [-1.0]]),
        np.array([[-1.0], [0.0]]), np.array([0.0, -1.0]), grad_f=lambda x, y: (0 * x, 2 * y),
        grad_g=lambda x, y: (0 * x, 2 * y),
    )  # fmt: skip
    with pytest.raises(Infeasible, match=r"Y\(x\) is empty: .* at least 0\.5 \(row [01] binds\)"):
        problem.phi(np.array([0.0]))
    with pytest.raises(Infeasible, match=r"of run \(1,\)"):
        check_feasible(problem, np.array([[2.0], [0.0]]))
    repaired = nearest_feasible(problem, np.array([0.0]))
    np.testing.assert_allclose(repaired, 1.0, atol=1e-6)
    check_feasible(problem, repaired, tolerance=1e-6)
    np.testing.assert_allclose(nearest_feasible(problem, np.array([3.0])), 3.0, atol=1e-6)


def test_public_names_load() -> None:
    for name in library.__all__:
        assert getattr(library, name).__name__ if name != "PUBLISHED" else library.PUBLISHED
    assert callable(library.sflcb)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = library.nothing


def test_the_example_of_the_package_runs() -> None:
    code = library.__doc__.partition("::\n")[2].partition("What is supported")[0]
    scope: dict = {}
    exec("\n".join(line[4:] for line in code.splitlines()), scope)
    # y*(x) = min(x, x) = x, so Phi = (x - 1)^2 + x^2/10 with minimum at 1 / 1.1.
    assert float(scope["result"].state.x[0]) == pytest.approx(1 / 1.1, abs=0.02)
