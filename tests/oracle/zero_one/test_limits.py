"""Limits: closed form against the reference recursion, against large graphs, against sampled curves."""

import numpy as np
import pytest
import torch

from reproven.papers.zero_one import gnn_reference as reference
from reproven.papers.zero_one.attention import GAT
from reproven.papers.zero_one.curves import zero_one_curve
from reproven.papers.zero_one.limits import (
    class_probability,
    decision_size,
    limit_class,
    limit_logits,
    logit_scale,
    surrogate_probability,
)
from reproven.papers.zero_one.models import GCN, GIN, MeanGNN, MeanGNNPlus, SumGNN, SumGNNPlus


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + k) for k in range(count)]


def layers(weights, model):
    return [{k: w[model].double().numpy() for k, w in layer.items()} for layer in weights.layers]


@pytest.mark.parametrize(
    "network",
    [
        GCN(width=5, activation="tanh", bias=True),
        MeanGNN(width=5, activation="relu"),
        MeanGNNPlus(width=5, activation="sigmoid", bias=True),
    ],
)
def test_limit_of_averages_equals_the_recursion(network):
    weights = network.draw(3, generators(2))
    got = list(network.limit_states(weights, torch.full((5,), 0.5, dtype=torch.float64)))[-1]
    sigma = reference.activation(network.activation, network.bound)
    for m in range(2):
        want = reference.mean_limit(np.full(5, 0.5), layers(weights, m), sigma)
        np.testing.assert_allclose(got[m].numpy(), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "network", [SumGNN(width=5, bound=2.0), SumGNNPlus(width=5, activation="sigmoid", density=0.3)]
)
def test_limit_of_sums_equals_the_recursion(network):
    weights = network.draw(3, generators(2))
    got = list(network.limit_states(weights, torch.full((5,), 0.5, dtype=torch.float64)))[-1]
    low, high = (-2.0, 2.0) if network.activation == "clip" else (0.0, 1.0)
    for m in range(2):
        want = reference.sum_limit(np.full(5, 0.5), layers(weights, m), network.density, low, high)
        np.testing.assert_array_equal(got[m].numpy(), want)


@pytest.mark.parametrize(
    "network",
    [
        GCN(width=8, activation="tanh"),
        MeanGNNPlus(width=8, activation="tanh"),
        SumGNNPlus(width=8, activation="tanh"),
    ],
)
def test_pooled_states_of_large_graphs_approach_the_limit(network):
    from reproven.papers.zero_one.adjacency import erdos_renyi

    weights = network.draw(2, generators(4))
    limit = list(network.limit_states(weights, torch.full((8,), 0.5, dtype=torch.float64)))[-1]
    gaps = []
    for n in (20, 2000):
        x = torch.rand(1, 8, n, generator=torch.Generator().manual_seed(0))
        gaps.append((network.pooled(weights, erdos_renyi(n, 0.5, [3]), x)[0] - limit).abs().mean().item())
    assert gaps[1] < gaps[0] / 2


@pytest.mark.parametrize("network", [GIN(width=8), SumGNN(width=8, activation="relu")])
def test_growing_states_take_the_direction_of_the_limit(network):
    from reproven.papers.zero_one.adjacency import erdos_renyi

    weights = network.draw(2, generators(3))
    limit = list(network.limit_states(weights, torch.full((8,), 0.5, dtype=torch.float64)))[-1]
    x = torch.rand(1, 8, 3000, generator=torch.Generator().manual_seed(0))
    pooled = network.pooled(weights, erdos_renyi(3000, 0.5, [3]), x)[0]
    cosine = torch.nn.functional.cosine_similarity(pooled, limit, dim=-1)
    assert (cosine > 0.999).all()  # biases vanish like 1/n
    sign = (network.limit_logits(weights, torch.full((8,), 0.5)) > 0).tolist()
    assert (network.logits(weights, erdos_renyi(3000, 0.5, [4]), x)[0] > 0).tolist() == sign


def test_scale_is_the_spread_of_the_logit():
    network = GCN(width=8, activation="tanh")
    weights = network.draw(2, generators(3))
    n = 400
    rng = torch.Generator().manual_seed(0)
    means = torch.rand(20_000, n // 100, 8, generator=rng, dtype=torch.float64).mean(1)
    # A mean over n/100 uniform features has the spread of n/100; the delta method is local, so shrink it tenfold.
    near = 0.5 + (means - 0.5) / 10
    spread = network.limit_logits(weights, near).std(0) * n**0.5
    np.testing.assert_allclose(logit_scale(network, weights).numpy(), spread.numpy(), rtol=0.03)


def test_decision_size_is_where_the_law_says():
    network = MeanGNN(width=8, activation="tanh")
    weights = network.draw(2, generators(4))
    m, s = limit_logits(network, weights).numpy(), logit_scale(network, weights).numpy()
    star = decision_size(network, weights, error=0.05)
    p = class_probability(star, m, s)
    np.testing.assert_allclose(np.minimum(p, 1 - p), 0.05, rtol=1e-9)


def test_predictions_match_sampled_curves():
    network = GCN(width=16, activation="tanh")
    weights = network.draw(2, generators(6))
    curve = zero_one_curve(network, [200], graphs=200, weights=weights, models=6)
    want = surrogate_probability(
        network, weights, 200, draws=4000, generator=torch.Generator().manual_seed(1)
    )
    # Five standard errors of 200 graphs and of 4,000 draws.
    assert np.abs(curve.proportion[0] - want).max() < 5 * np.sqrt(0.25 / 200 + 0.25 / 4000)
    clear = np.abs(want - 0.5) > 0.4
    assert np.array_equal(curve.proportion[0][clear] > 0.5, limit_class(network, weights)[clear] == 1)


def test_what_has_no_limit_or_scale_says_so():
    gat, sums = GAT(width=4), SumGNN(width=4)
    with pytest.raises(ValueError, match="GAT has no limit in closed form"):
        limit_class(gat, gat.draw(1, generators(1)))
    with pytest.raises(ValueError, match="constant near its limit"):
        logit_scale(sums, sums.draw(1, generators(1)))
    sine = SumGNN(width=4, activation="sine")
    with pytest.raises(ValueError, match="not eventually constant"):
        limit_class(sine, sine.draw(1, generators(1)))
    with pytest.raises(ValueError, match="error=0.7"):
        decision_size(gat, None, error=0.7)
