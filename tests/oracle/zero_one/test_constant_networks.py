"""The follow-up's networks against the same networks built from PyG's layers, weights copied over."""

import numpy as np
import pytest
import torch

from reproven.papers.zero_one.adjacency import MatrixGraphs, SparseGraphs, erdos_renyi
from reproven.papers.zero_one.attention import random_walk_encoding
from reproven.papers.zero_one.constant_networks import GPS, ConstantGAT, ConstantGCN, ConstantMean

pyg = pytest.importorskip("torch_geometric.nn")


def concatenating_mean(w, b):
    """Mean over neighbours beside the own state, then a linear map."""

    class Conv(pyg.MessagePassing):
        def forward(self, x, edge_index):
            return torch.cat([x, self.propagate(edge_index, x=x)], dim=-1) @ w + b

    return Conv(aggr="mean")


def gcn(layer):
    conv = pyg.GCNConv(*layer["w"].shape)
    conv.lin.weight.data = layer["w"].T.contiguous()
    return conv


def gat(layer):
    conv = pyg.GATConv(*layer["value"].shape)
    conv.lin.weight.data = layer["value"].T.contiguous()
    conv.att_src.data, conv.att_dst.data = layer["source"][None, None], layer["target"][None, None]
    return conv


def gps(layer):
    width = layer["out.w"].shape[0]
    conv = pyg.GPSConv(width, concatenating_mean(layer["local.w"], layer["local.b"]), norm=None)
    conv.attn.in_proj_weight.data = layer["qkv"].T.contiguous()
    conv.attn.out_proj.weight.data = layer["out.w"].T.contiguous()
    for linear, name in ((conv.mlp[0], "up"), (conv.mlp[3], "down")):
        linear.weight.data, linear.bias.data = layer[f"{name}.w"].T.contiguous(), layer[f"{name}.b"]
    return conv.eval()


def mean(layer):
    return concatenating_mean(layer["w"], layer["b"])


def pyg_probabilities(convs, encoder, decoder, x, edge_index):
    x = encoder(x)
    for i, conv in enumerate(convs):
        x = conv(x, edge_index)
        if i < len(convs) - 1:
            x = x.relu()
    return decoder(x.mean(0)).softmax(-1)


@pytest.mark.parametrize(
    ("network", "build"), [(ConstantMean, mean), (ConstantGCN, gcn), (ConstantGAT, gat), (GPS, gps)]
)
@pytest.mark.parametrize("sparse", [False, True])
def test_probabilities_equal_pyg(network, build, sparse):
    n, net = 23, network(width=8, classes=5)
    weights = net.draw([torch.Generator().manual_seed(k) for k in range(2)])
    A = erdos_renyi(n, 0.1, [1, 2])  # with an isolated node, as checked below
    x = torch.rand(2, 8, n, generator=torch.Generator().manual_seed(9))
    assert (A.degree == 0).any()
    edges = [np.stack(np.triu(a.numpy()).nonzero()) for a in A.dense()]
    got = net.probabilities(weights, SparseGraphs(n, edges) if sparse else A, x)
    for g in range(2):
        edge_index = A.dense()[g].nonzero().T.contiguous()
        for m in range(2):
            layers = [{k: t[m] for k, t in layer.items()} for layer in weights]
            encoder = decoder = torch.nn.Identity()
            if network is GPS:
                first, *layers, last = layers
                encoder = lambda v, first=first: v @ first["w"] + first["b"]  # noqa: E731
                decoder = lambda v, last=last: v @ last["w"] + last["b"]  # noqa: E731
            with torch.no_grad():
                want = pyg_probabilities([build(w) for w in layers], encoder, decoder, x[g].T, edge_index)
            torch.testing.assert_close(got[g, m].float(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6])
def test_random_walk_encoding_equals_pyg(length):
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddRandomWalkPE

    graphs = erdos_renyi(19, 0.2, [3, 4])
    got = random_walk_encoding(graphs, length)
    for g in range(2):
        edge_index = graphs.dense()[g].nonzero().T.contiguous()
        data = AddRandomWalkPE(length)(Data(edge_index=edge_index, num_nodes=19))
        torch.testing.assert_close(got[g].T, data.random_walk_pe, rtol=1e-5, atol=1e-6)


def test_walks_return_on_known_graphs():
    # On a triangle a walk is back after two steps with 1/2, after three with 1/4; on an edge, always after two.
    triangle = MatrixGraphs((torch.ones(3, 3) - torch.eye(3))[None])
    assert random_walk_encoding(triangle, 3)[0, :, 0].tolist() == [0.0, 0.5, 0.25]
    edge = MatrixGraphs(torch.tensor([[[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]]))
    assert random_walk_encoding(edge, 2)[0].tolist() == [[0, 0, 0], [1, 1, 0]]


def test_positional_encoding_reaches_the_output():
    net, graphs = GPS(width=8, walk=3), erdos_renyi(30, 0.3, [1])
    weights = net.draw([torch.Generator().manual_seed(0)])
    x = torch.rand(1, 8, 30, generator=torch.Generator().manual_seed(1))
    with_walk = net.probabilities(weights, graphs, x)
    encoder, *rest = weights
    encoder = {"w": encoder["w"].clone(), "b": encoder["b"]}
    encoder["w"][:, -3:] = 0
    assert (net.probabilities((encoder, *rest), graphs, x) - with_walk).abs().max() > 1e-6


def test_probabilities_are_probabilities_and_bad_arguments_are_refused():
    net = ConstantMean(width=4, classes=3)
    p = net.probabilities(net.draw([torch.Generator()]), erdos_renyi(9, 0.5, [0]), torch.rand(1, 4, 9))
    assert p.sum(-1).item() == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="walk=-1"):
        GPS(walk=-1)
    with pytest.raises(ValueError, match="classes=0"):
        ConstantGCN(classes=0)
