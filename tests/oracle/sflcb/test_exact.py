"""Exact evaluators against Clarabel, plain enumeration, closed forms and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from reproven.papers.sflcb.baselines.implicit import hypergradient, shortest
from reproven.papers.sflcb.baselines.qp_layer import layer_hypergradient
from reproven.papers.sflcb.beds.lcqp import draw
from reproven.papers.sflcb.beds.network import priced, search, utility_bound
from reproven.papers.sflcb.beds.svm import SVM, quadratic_features, split_rows
from reproven.papers.sflcb.beds.transport import Transport, nine_node, three_node, three_node_utility
from reproven.papers.sflcb.exact import ConvexQP, Infeasible, conic_qp, enumerate_active_sets
from reproven.papers.sflcb.sflcb import Steps, start, step
from reproven.papers.sflcb.theory import hessian_y, modulus, penalised, potential, theory_steps

clarabel = pytest.importorskip("clarabel")


def test_quadratic_program_agrees_with_clarabel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        root = rng.standard_normal((6, 6))
        hessian, a = root @ root.T + np.eye(6), rng.standard_normal((9, 6))
        c, d = 3 * rng.standard_normal(6), a @ rng.standard_normal(6) + 0.1
        ours = ConvexQP(hessian, a).solve(c, d)
        empty = sp.csc_matrix((0, 6))
        y, multipliers, _, status = conic_qp(
            sp.csc_matrix(hessian), -c, empty, np.zeros(0), sp.csc_matrix(a), d
        )
        assert status == "solved"
        # Clarabel stops at 1e-10 of its own gap, which leaves 1e-6 in y.
        np.testing.assert_allclose(ours.y, y, atol=1e-5)
        np.testing.assert_allclose(ours.multipliers, multipliers, atol=1e-4)
        assert ours.residual.max() < 1e-9
        assert ours.multipliers.min() >= 0


def test_empty_set_names_row_and_violation() -> None:
    a = np.array([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(Infeasible, match=r"at least 0\.5 .*row [01]"):
        ConvexQP(np.eye(2), a).solve(np.zeros(2), np.array([-1.0, 0.0]))


@pytest.mark.parametrize("seed", range(4))
def test_certificate_is_the_enumerated_optimum(seed: int) -> None:
    problem = draw(5, 8, 4, np.random.default_rng(seed))
    certificate = problem.certificate()
    assert certificate.closed
    assert certificate.upper == pytest.approx(enumerate_active_sets(problem.program()), abs=1e-7)
    assert problem.phi(certificate.x) == pytest.approx(certificate.upper, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_hypergradient_agrees_with_differences_and_layer(seed: int) -> None:
    problem = draw(5, 8, 4, np.random.default_rng(seed))
    x = np.random.default_rng(9).standard_normal(5)
    ours = hypergradient(problem, x, problem.lower(x))
    numeric = [(problem.phi(x + e) - problem.phi(x - e)) / 2e-6 for e in 1e-6 * np.eye(5)]
    np.testing.assert_allclose(ours, numeric, atol=1e-6)  # differences of width 1e-6 in float64
    pytest.importorskip("cvxpylayers")
    layer, _ = layer_hypergradient(problem, x)
    np.testing.assert_allclose(ours, layer, atol=1e-4)  # the layer's solver stops at 1e-9


def test_penalised_gradient_and_value_bounds() -> None:
    problem = draw(5, 8, 4, np.random.default_rng(3))
    x = np.random.default_rng(4).standard_normal(5)
    answer = penalised(problem, x, 0.05)
    numeric = [
        (penalised(problem, x + e, 0.05).value - penalised(problem, x - e, 0.05).value) / 2e-5
        for e in 1e-5 * np.eye(5)
    ]
    np.testing.assert_allclose(answer.gradient, numeric, atol=1e-6)  # differences of a bracket over delta
    slope = max(float(np.linalg.norm(y - problem.y_t)) for y in (answer.y, answer.y_delta))
    assert 0 <= problem.phi(x) - answer.value <= 0.05 * slope**2 / 2


def test_modulus_holds_below_the_bound_and_fails_above() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 4))
    norm = float(np.linalg.norm(a, 2))
    inside, outside = 0.5 / norm**2, 20.0 / norm**2
    # f concave at its constant: the curvature of delta f + g is mu_g - delta l_f1 = 0.9 in every direction.
    for rho in (0.1 * inside, inside):
        smallest = np.linalg.eigvalsh(hessian_y(0.9 * np.eye(4), a, rho))[0]
        assert smallest >= modulus(1.0, 1.0, norm, 0.1, rho) - 1e-12
    assert modulus(1.0, 1.0, norm, 0.1, outside) < 0  # the formula is empty there
    problem = draw(5, 8, 4, rng)
    with pytest.raises(ValueError, match="must be below"):
        theory_steps(problem, 0.1, 5.0)


def test_potential_falls_in_the_proven_regime() -> None:
    problem = draw(5, 8, 4, np.random.default_rng(2))
    steps = Steps(0.005, 0.05, 0.05, 0.05, 0.05)
    state, values = start(problem, np.zeros(5), np.zeros(8)), []
    for _ in range(60):
        values.append(potential(problem, state, 0.1, 1.0, 1.0))
        state = step(problem, state, steps, 0.1, 1.0, 1.0)
    assert np.diff(values).max() < 1e-10


def svm(loss: str = "exp") -> SVM:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((90, 3))
    labels = np.where(rows[:, 0] + 0.8 * rng.standard_normal(90) > 0, 1, -1)
    return SVM(split_rows(quadratic_features(rows), labels, (40, 30), rng), loss=loss)


@pytest.mark.parametrize("loss", ["exp", "logistic"])
def test_relaxation_bounds_every_feasible_point(loss: str) -> None:
    problem = svm(loss)
    bound, c = problem.relaxation()
    rng = np.random.default_rng(1)
    for _ in range(20):
        y = 0.5 * rng.standard_normal(problem.dy)
        feasible = np.maximum(0, 1 - problem.split.train @ y)
        assert float(problem._f(feasible, y)) >= bound - 1e-9
    assert problem.phi(problem.repair(c, np.zeros(problem.dy))) >= bound - 1e-9


def test_svm_gradients_and_joint_projection() -> None:
    problem = svm("logistic")
    rng = np.random.default_rng(2)
    c, y = rng.uniform(0, 1, problem.dx), rng.standard_normal(problem.dy)
    _, f_y = problem.grad_f(c, y)
    numeric = [(problem._f(c, y + e) - problem._f(c, y - e)) / 2e-6 for e in 1e-6 * np.eye(problem.dy)]
    np.testing.assert_allclose(f_y, numeric, atol=1e-7)  # differences of width 1e-6
    near_c, near_y = problem.project_joint(c, y)
    assert problem.violation(near_c, near_y) <= 1e-9
    joint = np.hstack([problem.b_x, problem.a])
    exact = ConvexQP(np.eye(joint.shape[1]), joint).solve(np.r_[c, y], problem.rhs).y
    np.testing.assert_allclose(np.r_[near_c, near_y], exact, atol=1e-7)


def test_network_products_agree_with_dense_matrices() -> None:
    problem = Transport(nine_node())
    rng = np.random.default_rng(0)
    x, y, pi = rng.random(problem.dx), rng.random(problem.dy), rng.random(problem.dh)
    np.testing.assert_allclose(problem.residual(x, y), problem.b_x @ x + problem.a @ y, atol=1e-12)
    np.testing.assert_allclose(problem.adjoint_y(pi), pi @ problem.a, atol=1e-12)
    np.testing.assert_allclose(problem.adjoint_x(pi), pi @ problem.b_x, atol=1e-12)
    assert problem.m.sum() == pytest.approx(322.5)
    assert problem.w.sum() == pytest.approx(104.4)


def test_three_node_optimum_by_search_and_by_conic_solve() -> None:
    pytest.importorskip("cvxpy")
    problem = Transport(three_node(), y_low=1e-4)
    value, capacities = search(problem, np.random.default_rng(0), restarts=2, rounds=150)
    assert value == pytest.approx(three_node_utility(0.0), abs=1e-3)
    assert value <= utility_bound(problem) + 1e-9
    x = np.zeros(problem.dx)
    x[: problem.L] = capacities
    # Unserved pairs lie on the border of the exponential cone, where the solver is good to 1e-3.
    assert problem.sustained(x)[0] == pytest.approx(value, abs=2e-3)
    assert priced(problem, np.full((1, problem.L), 30.0))[0][0] == pytest.approx(0.0, abs=1e-9)


def test_shortest_vector_of_a_hull() -> None:
    np.testing.assert_allclose(
        shortest([np.array([1.0, 1.0]), np.array([1.0, -1.0])]), [1.0, 0.0], atol=1e-12
    )
    np.testing.assert_allclose(
        shortest([np.array([1.0, 0.0]), np.array([-1.0, 0.0])]), [0.0, 0.0], atol=1e-12
    )
    np.testing.assert_allclose(shortest([np.array([2.0, 1.0])]), [2.0, 1.0], atol=1e-12)
