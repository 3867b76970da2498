"""Certificates, transverse curvature, ray distances, toy draws and batch orders: closed forms and bad inputs."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from reproven.papers.embedding import kkt, nets, splitting, toys, transverse
from reproven.papers.embedding.condensation import ray_distance
from reproven.papers.embedding.experiments import TOYS, draw_toy, toy_batches
from reproven.papers.embedding.optimisers import AdaptiveRule, GradientRule
from reproven.papers.embedding.stacked import (
    Batch,
    StackedNet,
    loss_and_slope,
    stack_embeddings,
    stack_models,
)
from reproven.papers.embedding.structure import find_path
from reproven.papers.embedding.trajectory import train_pairs, train_stack


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- KKT certificate


def linear_svm_point():
    """Two points: the maximum-margin separator of (1, 0) and (-2, 1) is w = (1, 0), lambda = (1, 0)."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0]]))  # any positive multiple
    x = torch.tensor([[1.0, 0.0], [-2.0, 1.0]], dtype=torch.float64)
    return model, x, torch.tensor([1.0, -1.0], dtype=torch.float64)


def test_certificate_of_a_hard_margin_solution():
    found = kkt.certificate(*linear_svm_point(), order=1)
    assert found.residual == pytest.approx(0, abs=1e-14)
    assert found.slackness == pytest.approx(0, abs=1e-14)
    assert found.support == 1
    assert found.sum_lambda == pytest.approx(1, rel=1e-14)
    assert found.euler_sum == pytest.approx(1, rel=1e-14)
    assert found.normalised_margin == pytest.approx(1, rel=1e-14)
    np.testing.assert_allclose(found.multipliers, [1, 0], atol=1e-14)


def test_certificate_sees_a_direction_that_is_no_kkt_point():
    model, x, y = linear_svm_point()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0]]))
    assert kkt.certificate(model, x, y, order=1).residual == pytest.approx(math.sqrt(0.5), rel=1e-12)


def test_certificate_is_invariant_to_scale_and_obeys_euler():
    model = nets.he_normal(nets.mlp([3, 4, 1]), generator())
    x = torch.randn(6, 3, generator=generator(1), dtype=torch.float64)
    y = torch.sign(model(x).detach().squeeze(-1))
    q, jacobian = kkt.per_sample_gradients(model, x, y)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(jacobian @ theta, 2 * q, rtol=1e-12, atol=1e-12)  # Euler, order 2
    first = kkt.certificate(model, x, y, order=2)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    second = kkt.certificate(model, x, y, order=2)
    assert second.residual == pytest.approx(first.residual, rel=1e-9)
    assert second.normalised_margin == pytest.approx(first.normalised_margin, rel=1e-12)


def test_certificate_needs_separated_data():
    model, x, y = linear_svm_point()
    with pytest.raises(ValueError, match="every sample classified right"):
        kkt.certificate(model, x, -y, order=1)


def test_certificate_transfers_along_the_split():
    model = nets.he_normal(nets.mlp([5, 4, 1]), generator())
    x = torch.randn(20, 5, generator=generator(1), dtype=torch.float64)
    y = torch.sign(model(x).detach().squeeze(-1))
    wide, _ = splitting.split(model, "0", [0, 3], [[0.6, 0.8], [0.0, 1.0]])
    a, b = kkt.certificate(model, x, y, 2), kkt.certificate(wide, x, y, 2)
    np.testing.assert_allclose(a.multipliers, b.multipliers, rtol=1e-9, atol=1e-12)
    assert a.residual == pytest.approx(b.residual, rel=1e-9)


def kinked_model():
    """A net with one unit exactly at its kink for two samples, which it classifies right all the same."""
    model = nets.he_normal(nets.mlp([4, 3, 1]), generator(5))
    with torch.no_grad():
        model[0].weight[1] = torch.tensor([1.0, -1.0, 0.0, 0.0])
    x = torch.randn(9, 4, generator=generator(1), dtype=torch.float64)
    x[0, 1], x[3, 1] = x[0, 0], x[3, 0]
    y = torch.sign(model(x).detach().squeeze(-1))
    return model, x, y


def test_clarke_certificate_without_kinks_is_the_plain_one():
    model = nets.he_normal(nets.mlp([5, 4, 1]), generator())
    x = torch.randn(20, 5, generator=generator(1), dtype=torch.float64)
    y = torch.sign(model(x).detach().squeeze(-1))
    plain, clarke = kkt.certificate(model, x, y, 2), kkt.clarke_certificate(model, x, y, kink=0.0)
    assert clarke.residual == pytest.approx(plain.residual, rel=1e-6)  # pricing stops at 1e-8 of the norm
    np.testing.assert_allclose(clarke.multipliers, plain.multipliers, atol=1e-5)
    assert clarke.alignment == pytest.approx(plain.alignment, rel=1e-12)


def test_clarke_certificate_equals_brute_force_over_slopes():
    model, x, y = kinked_model()
    found = kkt.clarke_certificate(model, x, y, kink=1e-12)
    w, u = model[0].weight.detach().numpy(), model[2].weight.detach().numpy()[0]
    z = x.numpy() @ w.T
    q = y.numpy() * (np.where(z > 0, z, 0.01 * z) @ u)
    scale, columns = q.min() ** -0.5, []
    for k in range(len(q)):
        for slope in (1.0, 0.01) if abs(z[k, 1]) < 1e-12 else (None,):
            side = np.where(z[k] > 0, 1.0, 0.01)
            side[1] = side[1] if slope is None else slope
            inner = float(y[k]) * (side * u)[:, None] * x[k].numpy()
            columns.append(np.concatenate([inner.ravel(), float(y[k]) * side * z[k]]))
    theta = scale * np.concatenate([w.ravel(), u])
    _, distance = scipy.optimize.nnls(scale * np.array(columns).T, theta)
    assert sum(abs(z[:, 1]) < 1e-12) == 2
    assert found.residual == pytest.approx(distance / np.linalg.norm(theta), rel=1e-6)


def test_clarke_residual_transfers_although_the_wide_subdifferential_is_larger():
    model, x, y = kinked_model()
    wide, _ = splitting.split(model, "0", 1, [0.6, 0.8])
    a, b = (kkt.clarke_certificate(m, x, y, kink=1e-12) for m in (model, wide))
    assert a.residual == pytest.approx(b.residual, rel=1e-6)
    np.testing.assert_allclose(a.multipliers, b.multipliers, atol=1e-4)


def test_clarke_certificate_refuses_other_structures():
    with pytest.raises(ValueError, match="bias-free with one output"):
        kkt.clarke_certificate(nets.mlp([2, 2, 2, 1]), torch.zeros(1, 2), torch.ones(1))
    model, x, y = kinked_model()
    with pytest.raises(ValueError, match="every sample classified right"):
        kkt.clarke_certificate(model, x, -y)


# --- transverse stability


def test_growth_rates_equal_the_general_matrix():
    model = nets.he_normal(nets.cnn(5, 2, 3), generator())
    x = torch.randn(12, 1, 5, 5, generator=generator(1), dtype=torch.float64)
    y = torch.sign(torch.randn(12, generator=generator(2), dtype=torch.float64))
    net = StackedNet.of(model, side=5)
    batch = Batch(net.inputs(x), y, torch.full_like(y, 1 / 12))
    fast = transverse.growth_rates(net, stack_models([model]), batch)
    for unit in range(2):
        v = transverse.transverse_matrix(
            model, "0", unit, x, lambda out: torch.exp(-y * out.squeeze(-1)).mean()
        )
        assert v.shape == (9, 9)
        assert float(fast[0, unit]) == pytest.approx(float(torch.linalg.svdvals(v)[0]), rel=1e-12)


def test_restricted_hessian_has_the_singular_values_of_v():
    model = nets.he_normal(nets.mlp([4, 3, 2]), generator())
    x = torch.randn(10, 4, generator=generator(1), dtype=torch.float64)
    labels = torch.arange(10) % 2

    def loss(out):
        return nn.functional.cross_entropy(out, labels)

    wide, T = splitting.split(model, "0", 1, [0.48, 0.6, 0.64])
    hessian = transverse.transverse_hessian(wide, T, "0", find_path(model, "0").consumer, [1, 2, 3], x, loss)
    s = torch.linalg.svdvals(transverse.transverse_matrix(model, "0", 1, x, loss))
    expected = torch.cat([s, s, -s, -s, torch.zeros(2 * 4 + 2 * 2 - 8, dtype=s.dtype)]).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(hessian), expected, rtol=0, atol=1e-12)


def test_growth_fit_crossing_and_prediction_on_an_exponential():
    t = np.linspace(0, 200, 401)
    e = 1e-15 * np.exp(0.2 * t)
    rate, points = transverse.fitted_rate(t, e)
    assert rate == pytest.approx(0.2, rel=1e-9)
    assert points > 100
    assert transverse.crossing_time(t, e, 1e-9) == pytest.approx(math.log(1e6) / 0.2, rel=1e-9)
    assert transverse.crossing_time(t, e, 1e6) == math.inf
    constant = np.full_like(t, 0.2)
    assert transverse.predicted_crossing(t, constant, 20.0, 1e6) == pytest.approx(
        20 + math.log(1e6) / 0.2, rel=1e-9
    )
    assert transverse.predicted_crossing(t, constant, 20.0, 1e30) == math.inf
    assert math.isnan(transverse.fitted_rate(t, np.full_like(t, 1e-15))[0])


# --- distance to the images of narrow networks


def test_image_of_a_narrow_network_has_distance_zero():
    model = nets.he_normal(nets.mlp([5, 3, 1]), generator())
    c = [splitting.random_coefficients(4, generator(i)) for i in range(3)]
    wide, _ = splitting.split_layer(model, "0", c)
    neurons = torch.cat([wide[0].weight, wide[2].weight.T], 1).detach().numpy()
    distance, groups = ray_distance(neurons, 3, np.random.default_rng(0))
    assert distance <= 1e-7  # square root of rounding
    assert [len(set(groups[4 * i : 4 * i + 4])) for i in range(3)] == [1, 1, 1]


def test_orthogonal_neurons_leave_out_all_but_the_longest():
    distance, _ = ray_distance(np.diag([3.0, 2.0, 1.0]), 2, np.random.default_rng(0))
    assert distance == pytest.approx(math.sqrt(1 / 14), rel=1e-12)
    assert ray_distance(np.diag([3.0, 2.0, 1.0]), 3, np.random.default_rng(0))[0] == pytest.approx(
        0, abs=1e-8
    )


def test_opposite_neurons_share_no_ray():
    assert ray_distance(np.array([[1.0, 0], [-1.0, 0]]), 1, np.random.default_rng(0))[0] == pytest.approx(
        math.sqrt(0.5), rel=1e-12
    )


def test_ray_distance_refuses_an_impossible_width():
    with pytest.raises(ValueError, match="between 1 and the number of neurons, 3"):
        ray_distance(np.eye(3), 4, np.random.default_rng(0))


# --- toys


def test_orders_are_those_of_torch_loaders():
    x = torch.arange(100)
    torch.manual_seed(7)
    left = itertools.cycle(DataLoader(TensorDataset(x), batch_size=16, shuffle=True))
    right = itertools.cycle(DataLoader(TensorDataset(x), batch_size=16, shuffle=True))
    expected = [(next(left)[0], next(right)[0]) for _ in range(9)]
    g = generator(7)
    orders = [toys.LoaderOrder(100, g) for _ in range(2)]
    ours = [toys.batch_source([o.epoch], 16, repeat=True) for o in orders]
    for step, batches in enumerate(expected):
        for source, batch in zip(ours, batches):
            index, weight = source(step)
            assert torch.equal(index[0][weight[0] > 0], batch)


def test_fresh_orders_are_those_of_a_loader_iterated_again():
    x = torch.arange(10)
    torch.manual_seed(3)
    loader = DataLoader(TensorDataset(x), batch_size=4, shuffle=True)
    expected = [batch[0] for _ in range(3) for batch in loader]
    source = toys.batch_source([toys.LoaderOrder(10, generator(3)).epoch], 4, repeat=False)
    for step, batch in enumerate(expected):
        index, weight = source(step)
        assert torch.equal(index[0][weight[0] > 0], batch)
        assert float(weight.sum()) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("exp", ["exp1", "exp4", "exp5", "exp5_paper"])
def test_toy_pairs_share_data_and_start_across_coefficients(exp):
    toy = TOYS[exp]
    a, b = draw_toy(toy, 1, "uniform"), draw_toy(toy, 1, "random")
    assert torch.equal(a.x, b.x)
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))
    net = StackedNet.of(a.model, side=5)
    batch = toy_batches(toy, net, [a])[0](0)
    assert float(batch.weight.sum()) == pytest.approx(1, abs=1e-12)


# --- rules and stacks


def test_repaired_adam_keeps_a_dead_copy_dead():
    model = nets.he_normal(nets.mlp([3, 2, 1]), generator())
    _, T = splitting.split(model, "0", 0, [1.0, 0.0])
    net, stacked = StackedNet.of(model), stack_embeddings([T])
    x = torch.randn(8, 3, generator=generator(1), dtype=torch.float64)
    batch = Batch(net.inputs(x), torch.sign(x[:, 0]), torch.full((8,), 1 / 8, dtype=torch.float64))
    record = train_pairs(
        net,
        stack_models([model]),
        stacked,
        lambda s: batch,
        AdaptiveRule(0.01, repaired=True),
        30,
        records=[],
    )
    assert float(record.max_error) < 1e-13
    plain = train_pairs(
        net, stack_models([model]), stacked, lambda s: batch, AdaptiveRule(0.01), 30, records=[]
    )
    assert float(plain.max_error) < 1e-13  # one live copy: nothing to break
    _, T = splitting.split(model, "0", 0, [0.6, 0.8])
    broken = train_pairs(
        net, stack_models([model]), stack_embeddings([T]), lambda s: batch, AdaptiveRule(0.01), 30, records=[]
    )
    assert float(broken.max_error) > 1e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientRule(0.0), "lr=0.0 must be positive"),
        (lambda: GradientRule(0.1, nesterov=True), "needs momentum"),
        (lambda: AdaptiveRule(0.1, kind="lion"), "not one of adam, rmsprop, adagrad"),
        (lambda: StackedNet.of(nets.mlp([2, 2, 1], bias=True)), "has a bias"),
        (lambda: StackedNet.of(nets.mlp([2, 2, 1], act="tanh")), "Tanh '1' does not stack"),
        (
            lambda: StackedNet.of(
                torch.nn.Sequential(
                    torch.nn.Linear(2, 2, bias=False),
                    torch.nn.LeakyReLU(-0.5),
                    torch.nn.Linear(2, 1, bias=False),
                )
            ),
            "slopes >= 0",
        ),
        (lambda: nets.activation("gelu"), "not one of leaky"),
        (
            lambda: loss_and_slope(torch.zeros(1, 1), Batch(*[torch.ones(1)] * 3), "hinge"),
            "not one of exponential",
        ),
    ],
)
def test_bad_inputs_end_with_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_stack_trains_alone_as_it_does_in_a_pair():
    model = nets.he_normal(nets.mlp([3, 2, 1]), generator())
    net, T = StackedNet.of(model), splitting.split(model, "0", 0, [0.6, 0.8])[1]
    x = torch.randn(8, 3, generator=generator(1), dtype=torch.float64)
    batch = Batch(net.inputs(x), torch.sign(x[:, 0]), torch.full((8,), 1 / 8, dtype=torch.float64))
    start, rule, seen = stack_models([model]), GradientRule(0.01), []
    record = train_pairs(net, start, stack_embeddings([T]), lambda s: batch, rule, 20, records=[])
    alone = train_stack(net, start, lambda s: batch, rule, 20, records=[7], watch=lambda s, t: seen.append(s))
    assert seen == [7]
    assert all(torch.equal(alone[n], record.narrow[n]) for n in alone)


def test_stacked_embeddings_must_split_the_same_units():
    model = nets.he_normal(nets.mlp([3, 2, 1]), generator())
    maps = [splitting.split(model, "0", unit, [0.6, 0.8])[1] for unit in (0, 1)]
    with pytest.raises(ValueError, match="train them in separate stacks"):
        stack_embeddings(maps)
