"""The wrapper against its plain twin, step by step; broken twins are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reproven.papers.arc_ridge.arc import ArcRidge
from reproven.papers.arc_ridge.arc_reference import adam_descent, debiased_norm, prox_descent
from reproven.papers.arc_ridge.path import arc_path


def problem(seed: int = 0):
    rng = np.random.default_rng(seed)
    X, y, theta0 = rng.normal(size=(8, 12)), rng.normal(size=8), rng.normal(size=12)
    Xt, yt = torch.tensor(X), torch.tensor(y)
    theta = torch.nn.Parameter(torch.tensor(theta0))

    def loss() -> torch.Tensor:
        return 0.5 * ((torch.tanh(Xt @ theta) - yt) ** 2).sum()

    def gradient(t: np.ndarray) -> np.ndarray:
        f = np.tanh(X @ t)
        return X.T @ ((f - y) * (1 - f**2))

    return theta, loss, gradient, theta0


def run(arc, theta, loss, steps):
    thetas, lengths = [theta.detach().numpy().copy()], [0.0]
    for _ in range(steps):
        arc.optimizer.zero_grad()
        value = loss()
        value.backward()
        arc.step(value)
        thetas.append(theta.detach().numpy().copy())
        lengths.append(arc.arc)
    return np.array(thetas), np.array(lengths)


def test_prox_rule_on_sgd_is_the_reference():
    theta, loss, gradient, theta0 = problem()
    ours, A = run(ArcRidge(torch.optim.SGD([theta], lr=0.02), 0.3), theta, loss, 300)
    reference, A_reference = prox_descent(gradient, theta0, 0.3, 0.02, 300)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-11)
    np.testing.assert_allclose(A, A_reference, rtol=1e-11, atol=1e-12)


def test_prox_rule_on_adam_is_the_reference_in_adams_metric():
    theta, loss, gradient, theta0 = problem(1)
    ours, A = run(ArcRidge(torch.optim.Adam([theta], lr=0.01), 0.3), theta, loss, 200)
    reference, A_reference = adam_descent(gradient, theta0, 0.3, 0.01, 0.9, 0.999, 1e-8, 200)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-10)
    np.testing.assert_allclose(A, A_reference, rtol=1e-10, atol=1e-12)


def test_control_euclidean_length_under_adam_is_told_apart():
    ends = []
    for metric in ("own", "euclidean"):
        theta, loss, *_ = problem(1)
        ends.append(
            run(ArcRidge(torch.optim.Adam([theta], lr=0.01), 0.3, metric=metric), theta, loss, 200)[0][-1]
        )
    assert np.linalg.norm(ends[0] - ends[1]) > 1e-2


def test_metric_scale_is_a_change_of_variables():
    """theta = s phi, lr = eta s^2: the same path as plain descent in phi, the same A."""
    s, lam, eta = 7.0, 0.3, 0.02
    theta, loss, _, theta0 = problem(2)
    plain, A_plain = run(ArcRidge(torch.optim.SGD([theta], lr=eta), lam), theta, loss, 100)
    rng = np.random.default_rng(2)
    X, y = torch.tensor(rng.normal(size=(8, 12))), torch.tensor(rng.normal(size=8))

    def scaled(**group):
        big = torch.nn.Parameter(torch.tensor(theta0 * s))
        optimizer = torch.optim.SGD([{"params": [big], "lr": eta * s**2, **group}])
        value = lambda: 0.5 * ((torch.tanh(X @ (big / s)) - y) ** 2).sum()  # noqa: E731 - one use, below
        return run(ArcRidge(optimizer, lam), big, value, 100)

    path, A = scaled(metric_scale=s)
    np.testing.assert_allclose(path / s, plain, rtol=0, atol=1e-11)
    np.testing.assert_allclose(A, A_plain, rtol=1e-11, atol=1e-12)
    wrong, _ = scaled()  # control: the missing mean-field factor ends elsewhere
    assert np.linalg.norm(wrong[-1] / s - plain[-1]) > 1e-2


def test_debiased_norm_is_the_reference_and_unbiased():
    rng = np.random.default_rng(0)
    mean = np.full(5, 0.2)
    halves = mean + rng.normal(size=(4000, 2, 5))
    theta = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    arc = ArcRidge(torch.optim.SGD([theta], lr=1e-3), 0.0, gradient="halves", decay=0.999)
    seen = []
    for first, second in torch.tensor(halves):
        theta.grad = first / 2
        arc.half()
        theta.grad = (first + second) / 2
        seen.append(arc.step().grad_norm)
    np.testing.assert_allclose(seen[:300], debiased_norm(halves[:300], 0.999), rtol=1e-9, atol=1e-12)
    truth = np.linalg.norm(mean)
    assert abs(seen[-1] - truth) < 0.1 * truth
    raw = np.sqrt(np.mean(np.sum((halves.mean(axis=1)) ** 2, axis=1)))
    assert raw > 2 * truth, "control: the raw norm is mostly noise here"


@pytest.mark.parametrize("lam", [0.01, 0.1, 1.0, 10.0])
def test_path_look_up_is_the_run_with_that_lambda(lam):
    theta, loss, *_ = problem(3)
    optimizer = torch.optim.SGD([theta], lr=0.01)

    def backward(arc: ArcRidge) -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    path = arc_path(optimizer, backward, 2000, lams=[0.01, 0.1, 1.0, 10.0])
    found = path.load(lam, [theta])
    looked_up = theta.detach().clone()
    theta, loss, *_ = problem(3)
    arc = ArcRidge(torch.optim.SGD([theta], lr=0.01), lam, rule="stop")
    run(arc, theta, loss, 2000)
    assert arc.stopped == found.reached
    if found.reached:
        assert arc.steps == found.step
    torch.testing.assert_close(theta.detach(), looked_up, rtol=0, atol=1e-13)
