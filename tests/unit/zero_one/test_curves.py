"""Curves, families, batches and first-order properties."""

import numpy as np
import pytest
import torch

from reproven.papers.zero_one.adjacency import SMALL, PackedGraph, StreamedGraph
from reproven.papers.zero_one.curves import Curve, guarded_logits, zero_one_curve
from reproven.papers.zero_one.families import FAMILIES, batches, sample_graphs
from reproven.papers.zero_one.first_order import PROPERTIES
from reproven.papers.zero_one.graphs import erdos_renyi_bits
from reproven.papers.zero_one.models import GCN


def test_a_curve_counts_and_repeats():
    curve = zero_one_curve(GCN(width=8), [10, 600], graphs=5, models=3)
    assert curve.counts.shape == (2, 3)
    assert ((curve.counts >= 0) & (curve.counts <= 5)).all()
    again = zero_one_curve(GCN(width=8), [600, 10], graphs=5, models=3)
    assert np.array_equal(curve.counts, again.counts[::-1])  # a graph does not depend on what came before it


def test_minority_fraction_by_hand():
    curve = Curve(np.array([10]), np.array([[0, 2, 16, 31, 32]]), 32)
    assert curve.minority_fraction.tolist() == [[0, 2 / 32, 0.5, 1 / 32, 0]]


def test_your_own_classifier():
    def more_than_half(adjacency, features):
        n = len(adjacency)
        assert features.shape == (n, 2)
        return adjacency.sum() / 2 - n * (n - 1) / 4

    more_than_half.width = 2
    curve = zero_one_curve(more_than_half, [40], graphs=60)
    assert 10 < curve.counts[0, 0] < 50  # no zero-one law: a fair coin
    with pytest.raises(ValueError, match="attribute `width`"):
        zero_one_curve(lambda a, x: 0.0, [10])
    with pytest.raises(ValueError, match="graphs=0"):
        zero_one_curve(GCN(width=4), [10], graphs=0)


class _Near(GCN):
    """Pretends that the fast format leaves model 1 near the boundary, on the wrong side."""

    def logits(self, weights, graphs, features):
        self.calls.append((graphs.precision, len(weights.head.b2)))
        return torch.tensor([[0.5, 1e-3]]) if graphs.precision == "int8" else torch.tensor([[-2e-3]])


def test_decisions_near_the_boundary_are_repeated_in_float32():
    network = _Near(width=4)
    network.calls = []
    weights = network.draw(1, [torch.Generator(), torch.Generator()])
    graph = PackedGraph(erdos_renyi_bits(20, 0.5, 0), 20, precision="int8")
    logits = guarded_logits(network, weights, graph, torch.zeros(1, 4, 20))
    np.testing.assert_allclose(logits.numpy(), [[0.5, -2e-3]], rtol=1e-6)
    assert network.calls == [("int8", 2), ("float32", 1)]
    plain = PackedGraph(graph.bits, 20)
    network.calls.clear()
    guarded_logits(network, network.select(weights, [0]), plain, torch.zeros(1, 4, 20))
    assert network.calls == [("float32", 1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_simple_symmetric_graphs(family):
    graphs = sample_graphs(family, 80, [1, 2])
    A = graphs.dense()
    assert A.shape == (2, graphs.n, graphs.n)
    assert torch.equal(A, A.mT)
    torch.testing.assert_close(graphs.degree, A.sum(1), rtol=1e-6, atol=0)
    assert not torch.equal(A[0], A[1]) or family == "er_fiftieth_over_n"
    if family != "complete_weighted":
        assert not A.diagonal(dim1=1, dim2=2).any()
        assert ((A == 0) | (A == 1)).all()


def test_large_families_are_packed_or_streamed():
    assert isinstance(sample_graphs("virtual_node", SMALL + 8, [1]), PackedGraph)
    assert isinstance(sample_graphs("er_half", 70_000, [1]), StreamedGraph)
    with pytest.raises(ValueError, match="'er' is unknown; choose one of er_half"):
        sample_graphs("er", 10, [0])
    with pytest.raises(ValueError, match="no multiple of the 10 equal blocks"):
        sample_graphs("sbm", 41, [0])


def test_batches_cover_every_graph_once_and_stay_small():
    for n in (10, 400, SMALL, SMALL + 1, 5000):
        parts = batches(32, n, 1280)
        assert [g for part in parts for g in part] == list(range(32))
        assert n <= SMALL or all(len(part) == 1 for part in parts)
        assert all(len(part) * n * max(n, 1280) <= 2**24 or len(part) == 1 for part in parts)


def test_properties_of_known_graphs():
    path = torch.zeros(1, 4, 4)
    for u, v in ((0, 1), (1, 2), (2, 3)):
        path[0, u, v] = path[0, v, u] = 1
    found = {name: bool(holds(path)) for name, holds in PROPERTIES.items()}
    assert found == {
        "triangle": False,
        "diameter_two": False,
        "isolated_node": False,
        "connected": True,
        "even_edges": False,
        "majority_of_edges": False,
    }
    complete = torch.ones(1, 4, 4) - torch.eye(4)
    assert all(
        bool(PROPERTIES[p](complete)) for p in ("triangle", "diameter_two", "connected", "majority_of_edges")
    )
    assert bool(PROPERTIES["isolated_node"](torch.zeros(1, 3, 3)))
    assert not bool(PROPERTIES["connected"](torch.zeros(1, 3, 3)))


def test_properties_agree_with_networkx():
    networkx = pytest.importorskip("networkx")
    A = sample_graphs("er_half", 8, list(range(40))).dense()
    for k in range(40):
        graph = networkx.from_numpy_array(A[k].numpy())
        connected = networkx.is_connected(graph)
        want = {
            "connected": connected,
            "diameter_two": connected and networkx.diameter(graph) <= 2,
            "triangle": any(networkx.triangles(graph).values()),
            "isolated_node": bool(list(networkx.isolates(graph))),
        }
        assert {name: bool(PROPERTIES[name](A)[k]) for name in want} == want
