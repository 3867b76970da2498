"""Constructors, weights and heads: what they refuse, how they draw, hand-computed cases."""

import pytest
import torch

from reproven.papers.zero_one.adjacency import MatrixGraphs, erdos_renyi
from reproven.papers.zero_one.classifiers import Head
from reproven.papers.zero_one.features import LAWS, feature_law
from reproven.papers.zero_one.models import GCN, GIN, MeanGNN, SumGNN, SumGNNPlus


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + k) for k in range(count)]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GCN(width=0), "width=0"),
        (lambda: GCN(activation="gelu"), "'gelu' is unknown; choose one of clip"),
        (lambda: MeanGNN(bound=0.0), "bound=0.0 must be positive"),
        (lambda: SumGNN(density=0.0), "density=0.0"),
        (lambda: GIN(density=1.5), "density=1.5"),
        (lambda: GCN().draw(0, generators(1)), "depth=0"),
        (lambda: feature_law("cauchy"), "'cauchy' is unknown; choose one of uniform"),
    ],
)
def test_bad_arguments_name_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_weights_have_the_stated_ranges():
    weights = GCN(width=64).draw(2, generators(3))
    w = weights.layers[0]["neighbour"]
    assert w.shape == (3, 64, 64)
    assert 0.99 < w.abs().max() <= 1
    assert abs(w.mean()) < 0.03
    assert 0.99 / 8 < weights.head.w1.abs().max() <= 1 / 8
    assert 0.9 / 10 < weights.head.w2.abs().max() <= 1 / 10


def test_architectures_with_as_many_matrices_share_weights():
    gcn, mean = GCN(width=8).draw(3, generators(2)), MeanGNN(width=8).draw(3, generators(2))
    assert all(
        torch.equal(a["neighbour"], b["neighbour"]) for a, b in zip(gcn.layers, mean.layers, strict=True)
    )
    assert torch.equal(gcn.head.w1, SumGNNPlus(width=8).draw(1, generators(2)).head.w1)


def test_selected_models_give_the_same_logits():
    network, graphs = GCN(width=8, activation="relu"), erdos_renyi(30, 0.5, [1])
    weights = network.draw(2, generators(5))
    x = torch.rand(1, 8, 30)
    some = network.logits(network.select(weights, [3, 1]), graphs, x)
    torch.testing.assert_close(some, network.logits(weights, graphs, x)[:, [3, 1]], rtol=1e-6, atol=1e-7)


def test_two_joined_nodes_by_hand():
    # One feature, weight w: both nodes average to (a + b) / 2, clipped at 1.
    graphs = MatrixGraphs(torch.tensor([[[0.0, 1], [1, 0]]]))
    network = GCN(width=1, bound=1.0)
    layer = {"neighbour": torch.tensor([[[0.5]]])}
    pre = network.layer(layer, graphs, torch.tensor([[[[2.0, 6.0]]]]))
    assert pre.flatten().tolist() == pytest.approx([2.0, 2.0], rel=1e-6)
    assert SumGNN(width=1).layer(
        {"self": torch.tensor([[[1.0]]]), "neighbour": torch.tensor([[[10.0]]])},
        graphs,
        torch.tensor([[[[2.0, 6.0]]]]),
    ).tolist() == [[[[62.0, 26.0]]]]


def test_head_by_hand_and_at_infinity():
    head = Head(torch.tensor([[[2.0]]]), torch.tensor([[0.5]]), torch.tensor([[3.0]]), torch.tensor([-1.0]))
    head = Head(*(t.double() for t in (head.w1, head.b1, head.w2, head.b2)))
    want = 3 * torch.tanh(torch.tensor(2.5, dtype=torch.float64)) - 1
    assert head.logits(torch.tensor([[1.0]])).item() == pytest.approx(want.item(), rel=1e-12)
    far = head.logits(torch.tensor([[1e6]]))
    assert head.logits_at_infinity(torch.tensor([[1.0]])).item() == pytest.approx(far.item(), rel=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_features_have_their_moments(name):
    import numpy as np

    law = LAWS[name]
    x = law.sample(50, 4000, np.random.default_rng(0)).double()
    assert x.shape == (50, 4000)
    assert x.mean().item() == pytest.approx(law.mean, abs=5 * law.sd / 200_000**0.5)
    assert x.std().item() == pytest.approx(law.sd, rel=0.01)
    if name == "uniform":
        assert x.min() >= 0
        assert x.max() <= 1
