"""Fast networks against the node-by-node reference, and against PyG's layers."""

import numpy as np
import pytest
import torch

from reproven.papers.zero_one import gnn_reference as reference
from reproven.papers.zero_one.adjacency import MatrixGraphs, PackedGraph, SparseGraphs, erdos_renyi
from reproven.papers.zero_one.attention import GAT
from reproven.papers.zero_one.graphs import erdos_renyi_bits
from reproven.papers.zero_one.models import GCN, GIN, MeanGNN, MeanGNNPlus, SumGNN, SumGNNPlus

NETWORKS = {
    "gcn": GCN(width=6, activation="tanh"),
    "gcn_bias": GCN(width=6, activation="relu", bias=True),
    "meangnn": MeanGNN(width=6, activation="clip", bound=0.5),
    "meangnn_plus": MeanGNNPlus(width=6, activation="sigmoid", bias=True),
    "sumgnn": SumGNN(width=6),
    "sumgnn_relu": SumGNN(width=6, activation="relu"),
    "sumgnn_plus": SumGNNPlus(width=6, bias=True),
    "gin": GIN(width=6),
    "gat": GAT(width=6, bound=1.0),
    "gcn_sine": GCN(width=6, activation="sine"),
}


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + k) for k in range(count)]


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_equal_the_reference(name):
    network = NETWORKS[name]
    weights = network.draw(3, generators(2))
    graphs = erdos_renyi(13, 0.4, [1, 2, 3])
    x = torch.rand(3, 6, 13, generator=torch.Generator().manual_seed(1))
    got = network.logits(weights, graphs, x)
    for g in range(3):
        A, X = graphs.dense()[g].double().numpy(), x[g].double().numpy().T
        for m in range(2):
            want = reference.logit(network, weights, m, A, X)
            # float32 states of order n^T pass through a float64 head
            assert got[g, m].item() == pytest.approx(want, rel=2e-5, abs=2e-5)
            assert reference.classify(want) == int(got[g, m] > 0)


@pytest.mark.parametrize("name", ["gcn", "meangnn_plus", "sumgnn", "gat"])
def test_the_form_of_the_graph_does_not_matter(name):
    network, n = NETWORKS[name], 50
    weights = network.draw(2, generators(3))
    bits = erdos_renyi_bits(n, 0.2, key=3)
    adjacency = np.unpackbits(bits, axis=1, count=n)
    x = torch.rand(1, 6, n, generator=torch.Generator().manual_seed(2))
    want = network.logits(weights, MatrixGraphs(torch.from_numpy(adjacency).float()[None]), x)
    edges = np.stack(np.triu(adjacency).nonzero())
    for graph in (PackedGraph(bits, n, resident=0), SparseGraphs(n, [edges])):
        torch.testing.assert_close(network.logits(weights, graph, x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_nodes_can_be_renumbered(name):
    network, n = NETWORKS[name], 20
    weights = network.draw(2, generators(2))
    A = erdos_renyi(n, 0.5, [7]).dense()
    x = torch.rand(1, 6, n, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(4))
    renumbered = MatrixGraphs(A[:, order][:, :, order].contiguous())
    torch.testing.assert_close(
        network.logits(weights, renumbered, x[..., order]),
        network.logits(weights, MatrixGraphs(A), x),
        rtol=1e-4,  # float32 sums in another order, through three layers
        atol=1e-4,
    )


def test_a_missing_self_loop_is_told_apart():
    """Negative control: the broken twin without self-loops must disagree with the reference."""

    class NoSelfLoop(GCN):
        def aggregate(self, graphs, h):
            s = graphs.degree.clamp_min(1).rsqrt().view(graphs.count, *(1,) * (h.ndim - 2), graphs.n)
            return graphs.multiply(h * s) * s

    network = NoSelfLoop(width=6, activation="tanh")
    weights = network.draw(2, generators(1))
    graphs = erdos_renyi(13, 0.4, [1])
    x = torch.rand(1, 6, 13, generator=torch.Generator().manual_seed(1))
    A, X = graphs.dense()[0].double().numpy(), x[0].double().numpy().T
    want = reference.logit(GCN(width=6, activation="tanh"), weights, 0, A, X)
    assert abs(network.logits(weights, graphs, x).item() - want) > 1e-3


def test_a_missing_normalisation_is_told_apart():
    """Negative control: a mean that forgets to divide must disagree with the reference."""

    class Undivided(MeanGNN):
        def aggregate(self, graphs, h):
            return graphs.multiply(h) + h

    network = Undivided(width=6, activation="tanh")
    weights = network.draw(1, generators(1))
    graphs = erdos_renyi(13, 0.4, [1])
    x = torch.rand(1, 6, 13, generator=torch.Generator().manual_seed(1))
    A, X = graphs.dense()[0].double().numpy(), x[0].double().numpy().T
    sigma = reference.activation("tanh", 1)
    last = reference.states(
        A,
        X,
        [{k: w[0].double().numpy() for k, w in layer.items()} for layer in weights.layers],
        "MeanGNN",
        sigma,
    )
    assert (network.pooled(weights, graphs, x)[0, 0].numpy() - last.mean(0)).__abs__().max() > 1e-2


def pyg_graph(n=17, r=0.3, key=2, width=6):
    A = erdos_renyi(n, r, [key])
    edge_index = A.dense()[0].nonzero().T.contiguous()
    x = torch.rand(n, width, generator=torch.Generator().manual_seed(5))
    return A, edge_index, x


def test_gcn_layer_equals_pyg():
    nn = pytest.importorskip("torch_geometric.nn")
    graphs, edge_index, x = pyg_graph()
    network = GCN(width=6)
    weights = network.draw(1, generators(1))
    conv = nn.GCNConv(6, 6, bias=False)
    conv.lin.weight.data = weights.layers[0]["neighbour"][0].T
    got = network.layer(weights.layers[0], graphs, x.T[None, None])[0, 0].T
    torch.testing.assert_close(got, conv(x, edge_index), rtol=1e-5, atol=1e-5)


def test_gin_layer_equals_pyg():
    nn = pytest.importorskip("torch_geometric.nn")
    graphs, edge_index, x = pyg_graph()
    network = GIN(width=6)
    w = network.draw(1, generators(1)).layers[0]
    mlp = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
    conv = nn.GINConv(mlp)  # initialises the perceptron anew, so that weights are set afterwards
    for linear, name in ((mlp[0], "1"), (mlp[2], "2")):
        linear.weight.data, linear.bias.data = w[f"w{name}"][0].T.contiguous(), w[f"b{name}"][0]
    got = network.layer(w, graphs, x.T[None, None])[0, 0].T
    torch.testing.assert_close(got, conv(x, edge_index), rtol=1e-5, atol=1e-5)


def test_gat_layer_equals_pyg():
    nn = pytest.importorskip("torch_geometric.nn")
    graphs, edge_index, x = pyg_graph()
    network = GAT(width=6)
    w = network.draw(1, generators(1)).layers[0]
    conv = nn.GATConv(6, 6)
    conv.lin.weight.data = w["value"][0].T.contiguous()
    conv.att_src.data, conv.att_dst.data = w["source"][0][None, None], w["target"][0][None, None]
    got = network.layer(w, graphs, x.T[None, None])[0, 0].T
    torch.testing.assert_close(got, conv(x, edge_index), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [GCN, MeanGNN])
def test_the_linear_short_cut_equals_the_full_pass(kind):
    network = kind(width=16)
    weights = network.draw(3, generators(5))
    graphs = erdos_renyi(60, 0.5, [1, 2])
    x = torch.rand(2, 16, 60, generator=torch.Generator().manual_seed(0))
    logits, certified = network.linear_logits(weights, graphs, x)
    assert certified.all()
    torch.testing.assert_close(logits, network.logits(weights, graphs, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [GCN, MeanGNN])
def test_the_short_cut_is_refused_where_the_clip_can_bind(kind):
    network = kind(width=16, bound=2.0)
    weights = network.draw(3, generators(5))
    graphs = erdos_renyi(60, 0.5, [1])
    x = torch.rand(1, 16, 60, generator=torch.Generator().manual_seed(0))
    _, certified = network.linear_logits(weights, graphs, x)
    largest = torch.stack([h.abs().amax((2, 3)) for h in network.states(weights, graphs, x)])
    assert (largest.amax(0)[0] == 2.0).any()  # the clip did bind
    # A certificate is never given to a network that was clipped.
    assert not (certified & (largest.amax(0) >= 2.0)).any()
    assert not GCN(width=16, activation="tanh").linear_logits(weights, graphs, x)[1].any()


def test_int8_decisions_are_within_the_guard():
    """The error of the integer products stays far below the logit at which decisions are repeated (1e-3)."""
    n = 1500
    network = GCN(width=32)
    weights = network.draw(3, generators(4))
    bits = erdos_renyi_bits(n, 0.5, 1)
    x = torch.rand(1, 32, n, generator=torch.Generator().manual_seed(0))
    plain = network.logits(weights, PackedGraph(bits, n), x)
    integer = network.logits(weights, PackedGraph(bits, n, precision="int8"), x)
    assert (plain - integer).abs().max() < 1e-5
