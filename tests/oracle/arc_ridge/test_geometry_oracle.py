"""Flow, fibres, geodesics and kernels against plain loops, SciPy, scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from sklearn.kernel_ridge import KernelRidge as PackageKernelRidge
from sklearn.linear_model import Ridge

from reproven.harness import seeds
from reproven.papers.arc_ridge import kernel, toy
from reproven.papers.arc_ridge.arc import ArcRidge
from reproven.papers.arc_ridge.arc_reference import prox_descent
from reproven.papers.arc_ridge.finetuning import kernel_ridge
from reproven.papers.arc_ridge.flow import arc_descent, gradient_flow, norms, truncated_flow
from reproven.papers.arc_ridge.geodesic import geodesic
from reproven.papers.arc_ridge.geodesic_reference import geodesic_length, jacobian, outputs
from reproven.papers.arc_ridge.geometry import (
    descend_on_fibre,
    fibre_flow,
    nearest_on_fibre,
    rho_v,
    rho_v_matrix_free,
    ridge,
    vertical_part,
)
from reproven.papers.arc_ridge.two_layer import TwoLayer, circle_inputs, regression_data


def batch(widths, alphas, inputs=4, seed=0):
    net = TwoLayer.of(widths, alphas)
    gens = lambda k: [torch.Generator().manual_seed(10 * seed + k + 100 * i) for i in range(len(widths))]  # noqa: E731
    x, y = regression_data(inputs, 2, gens(1))
    return net, net.start(2, gens(2)), x, y


def test_networks_and_jacobians_are_the_plain_loops_whatever_the_padding():
    net, phi, x, _ = batch([8, 20, 14], [0.5, 1.0, 0.75])
    phi = phi + 0.1 * torch.randn(phi.shape, generator=torch.Generator().manual_seed(0), dtype=phi.dtype)
    f, J = net.forward(phi, x), net.jacobian(phi, x)
    for r, width in enumerate([8, 20, 14]):
        weight, s = width**-0.5, float(net.scale[r])
        own = phi[r, :width].numpy()
        np.testing.assert_allclose(f[r], outputs(own, x[r].numpy(), weight, s), rtol=0, atol=1e-13)
        mine = J[r].reshape(4, -1, 3)[:, :width].reshape(4, -1)
        np.testing.assert_allclose(mine, jacobian(own, x[r].numpy(), weight, s), rtol=0, atol=1e-13)
        assert not J[r].reshape(4, -1, 3)[:, width:].any()
    u = torch.randn(3, 4, dtype=phi.dtype)
    np.testing.assert_allclose(
        net.pull(phi, x, u).flatten(1), (J.mT @ u[..., None]).squeeze(-1), rtol=0, atol=1e-13
    )
    hessian = torch.autograd.functional.hessian(
        lambda p: (u[:1] * net.take(torch.tensor([0])).forward(p.reshape(1, *phi.shape[1:]), x[:1])).sum(),
        phi[0].flatten(),
    )
    np.testing.assert_allclose(torch.block_diag(*net.curvature(phi, x, u)[0]), hessian, rtol=0, atol=1e-13)


def test_antithetic_starts_are_zero_functions():
    net, phi, _, _ = batch([8, 20], [0.5, 1.0])
    assert float(net.forward(phi, circle_inputs(9).expand(2, -1, -1)).abs().max()) < 1e-13


def test_gradient_flow_is_scipys_integrator():
    net, start, x, y = batch([10, 16], [0.5, 1.0])
    flow = gradient_flow(net, start, x, y, pieces=400)
    for r in range(2):
        one = net.take(torch.tensor([r]))

        def slope(t, phi, one=one, r=r):
            p = torch.tensor(phi).reshape(1, *start.shape[1:])
            g = one.pull(p, x[r : r + 1], one.forward(p, x[r : r + 1]) - y[r : r + 1])
            return -g.flatten().numpy()

        end = solve_ivp(
            slope, (0, 3000), start[r].flatten().numpy(), method="LSODA", rtol=1e-9, atol=1e-11
        ).y[:, -1]
        # second-order steps of 1/400 of the path
        np.testing.assert_allclose(flow.phi[r].flatten(), end, rtol=0, atol=2e-4)


def test_prox_descent_of_a_batch_is_the_reference_and_the_optimiser():
    net, start, x, y = batch([8, 12], [1.0, 0.5])
    phi, arc = arc_descent(net, start, x, y, 0.3, 0.02, 200)
    for r, width in enumerate([8, 12]):
        weight, s = width**-0.5, float(net.scale[r])

        def gradient(v, r=r, width=width, weight=weight, s=s):
            p = v.reshape(width, 3)
            return jacobian(p, x[r].numpy(), weight, s).T @ (
                outputs(p, x[r].numpy(), weight, s) - y[r].numpy()
            )

        thetas, lengths = prox_descent(gradient, start[r, :width].flatten().numpy(), 0.3, 0.02, 200)
        np.testing.assert_allclose(phi[r, :width].flatten(), thetas[-1], rtol=0, atol=1e-11)
        np.testing.assert_allclose(arc[r], lengths[-1], rtol=1e-10)
    theta = torch.nn.Parameter(start[:1].clone())
    one = net.take(torch.tensor([0]))
    wrapped = ArcRidge(torch.optim.SGD([theta], lr=0.02), 0.3)
    for _ in range(200):
        wrapped.optimizer.zero_grad()
        (0.5 * (one.forward(theta, x[:1]) - y[:1]).square().sum()).backward()
        wrapped.step()
    np.testing.assert_allclose(theta.detach()[0], phi[0], rtol=0, atol=1e-11)


def test_truncated_flow_meets_the_rule_and_small_steps_go_there():
    net, start, x, y = batch([12, 12], [1.0, 0.5])
    exact, arc = truncated_flow(net, start, x, y, 0.3)
    norm, _ = norms(net, exact, x, y)
    np.testing.assert_allclose(norm, 0.3 * arc, rtol=1e-9)
    errors = []
    for eta in (0.04, 0.01):
        phi, _ = arc_descent(net, start, x, y, 0.3, eta, round(60 / eta))
        errors.append((phi - exact).flatten(1).norm(dim=1))
    assert float((errors[0] / errors[1] - 4).abs().max()) < 0.5, "first order in eta"


def test_nearest_point_is_stationary_nearer_and_the_limit_of_ridge_and_drift():
    net, start, x, y = batch([10, 16], [1.0, 1.0])
    fit = gradient_flow(net, start, x, y).phi
    near, distance = nearest_on_fibre(net, fit, start, x, y)
    assert float(vertical_part(net, near, x, near - start).abs().max()) < 1e-8
    assert float((net.forward(near, x) - y).abs().max()) < 1e-9
    assert bool((distance <= (fit - start).flatten(1).norm(dim=1)).all())
    solution = ridge(net, near, start, x, y, torch.full((2,), 1e-6, dtype=near.dtype))
    assert float((solution - near).abs().max()) < 1e-4
    gradient = net.pull(solution, x, net.forward(solution, x) - y) + 1e-6 * (solution - start)
    assert float(gradient.abs().max()) < 1e-10
    points, left = fibre_flow(net, fit, start, x, y, h=0.02, steps=400)
    assert float(left.max()) < 0.05
    assert float((points[-1] - near).flatten(1).norm(dim=1).max()) < 0.1
    with pytest.raises(ValueError, match="anchor has shape"):
        nearest_on_fibre(net, fit, start[:, :-1], x, y)


def test_descent_keeps_to_the_fibre_where_a_long_step_defeats_newtons_correction():
    """On this network of the width sweep a step of 1 ends off the fibre, nearer to the anchor: it must not count."""
    net = TwoLayer.of([128], [1.0])
    x, y = regression_data(6, 2, [seeds.torch_generator(0, "data", model=7)])
    start = net.start(2, [seeds.torch_generator(0, "start", model=7, width=128)])
    fit = gradient_flow(net, start, x, y, pieces=60).phi
    down = descend_on_fibre(net, fit, start, x, y, tol=1e-2)
    assert float((net.forward(down, x) - y).norm()) < 1e-9
    _, distance = nearest_on_fibre(net, fit, start, x, y)
    assert float(distance) < float((fit - start).norm()) * 0.95


def test_geodesic_is_the_plain_control_problem_and_lies_in_the_chain():
    net, start, x, y = batch([6], [1.0], inputs=2, seed=3)
    y = 0.5 * y
    found = geodesic(net, start, x, y, pieces=6, rounds=80)
    length, _ = geodesic_length(start[0].numpy(), x[0].numpy(), y[0].numpy(), 6**-0.5, float(net.scale[0]), 6)
    assert float(found.residual.max()) < 1e-4
    np.testing.assert_allclose(float(found.length[0]), length, rtol=1e-4)  # both stop at a tolerance
    flow = gradient_flow(net, start, x, y)
    _, distance = nearest_on_fibre(net, flow.phi, start, x, y)
    assert float(distance[0]) <= float(found.length[0]) * (1 + 1e-3)
    assert float(found.length[0]) <= float(flow.arc[-1, 0]) * (1 + 1e-3)


def test_rho_v_exact_and_matrix_free_agree_and_are_zero_on_row_space():
    g = torch.Generator().manual_seed(0)
    J, v = (
        torch.randn(5, 30, generator=g, dtype=torch.float64),
        torch.randn(30, generator=g, dtype=torch.float64),
    )
    exact = float(rho_v(J, v))
    basis = torch.linalg.svd(J).Vh[5:]
    assert exact == pytest.approx(float((basis @ v).norm() / v.norm()), abs=1e-12)
    found, info = rho_v_matrix_free(lambda t: J @ t, v, torch.zeros_like(v))
    assert found == pytest.approx(exact, abs=1e-8)
    mu = torch.linalg.eigvalsh(J @ J.mT)
    assert info.condition == pytest.approx(float(mu[-1] / mu[0]), rel=1e-6)
    assert float(rho_v(J, J.T @ torch.ones(5, dtype=J.dtype))) < 1e-12
    with pytest.raises(ValueError, match="leave no fibre"):
        rho_v(torch.randn(4, 3), torch.randn(3))
    with pytest.raises(ValueError, match="other anchor"):
        rho_v(J, v[:-1])
    with pytest.raises(ValueError, match="anchor has shape"):
        rho_v_matrix_free(lambda t: J @ t, v, v[:-1])


def test_linear_closed_forms_are_packages_and_integrals():
    rng = np.random.default_rng(0)
    X, y, start = rng.normal(size=(10, 25)), rng.normal(size=10), rng.normal(size=25)
    model = kernel.Linear.of(X, y, start)
    ours = model.theta(kernel.ridge(model.mu, model.c, 0.7)) - start
    package = Ridge(alpha=0.7, fit_intercept=False).fit(X, y - X @ start).coef_
    np.testing.assert_allclose(ours, package, rtol=0, atol=1e-10)
    end = solve_ivp(lambda t, w: -X.T @ (X @ w - y), (0, 0.3), start, rtol=1e-10, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(model.theta(kernel.flow(model.mu, model.c, np.array(0.3))), end, atol=1e-8)
    speed = lambda t: float(kernel.gradient_norm(model.mu, model.c, np.array(t)))  # noqa: E731 - one use, below
    length = quad(speed, 0, 0.3, epsabs=1e-12, epsrel=1e-12, limit=200)[0]
    assert float(kernel.arc_length(model.mu, model.c, np.array(0.3))) == pytest.approx(length, rel=1e-10)
    t = kernel.arc_stop(model.mu, model.c, 2.0)
    assert speed(t) == pytest.approx(2.0 * float(kernel.arc_length(model.mu, model.c, t)), rel=1e-9)
    with pytest.raises(ValueError, match="lam = 0"):
        kernel.arc_stop(model.mu, model.c, 0)


def test_kernel_ridge_is_scikit_learns():
    rng = np.random.default_rng(0)
    X, Z, y = rng.normal(size=(12, 5)), rng.normal(size=(7, 5)), rng.normal(size=12)
    ours = kernel_ridge(
        torch.tensor(X @ X.T),
        torch.tensor(Z @ X.T),
        torch.tensor(y),
        torch.zeros(7, dtype=torch.float64),
        0.1,
    )
    package = PackageKernelRidge(alpha=1.2, kernel="linear").fit(X, y).predict(Z)
    np.testing.assert_allclose(ours, package, rtol=0, atol=1e-10)


def test_toy_lengths_and_samplers():
    assert float(toy.arc(np.array(1.3))) == pytest.approx(
        quad(lambda s: np.cosh(2 * s) ** 0.5, 0, 1.3)[0], rel=1e-12
    )
    s = np.array([-3.0, -0.1, 0.0, 0.5, 8.0])
    np.testing.assert_allclose(toy.arc(toy.position(s)), s, rtol=0, atol=1e-11)

    def gradient(p):
        return (p[0] * p[1] - 1) * p[::-1]

    thetas, _ = prox_descent(gradient, np.array([1.0, 0.0]), 1.0, 1e-3, 20000)
    np.testing.assert_allclose(thetas[-1], toy.arc_ridge(1.0, 1.0), rtol=0, atol=1e-3)  # O(eta)
    rng = np.random.default_rng(0)
    exact, chain = toy.gibbs(0.5, 20000, rng), toy.langevin(0.5, 3000, 800, 0.01, rng)
    for level in (0.1, 0.25, 0.75, 0.9):
        a, b = np.quantile(exact, level), np.quantile(chain, level)
        assert abs(a - b) < 0.08 * exact.std(), "quantiles of 3,000 chains"
    flat = rng.normal(0, np.sqrt(0.5), 20000)  # control: the Gaussian process of the kernel regime
    assert abs(np.quantile(exact, 0.99) - np.quantile(flat, 0.99)) > 0.15 * exact.std()
    with pytest.raises(ValueError, match="temperature = 0"):
        toy.gibbs(0.0, 3, rng)
