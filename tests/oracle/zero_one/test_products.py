"""Every way to multiply by an adjacency against the matrix product in float64."""

import numpy as np
import pytest
import torch

from reproven.papers.zero_one.adjacency import (
    SMALL,
    MatrixGraphs,
    PackedGraph,
    SparseGraphs,
    StreamedGraph,
    erdos_renyi,
)
from reproven.papers.zero_one.graphs import TILE, erdos_renyi_bits, erdos_renyi_edges
from reproven.papers.zero_one.products import PRECISIONS, fastest_precision

# Largest error against the spread of the product over nodes: rounding to 24, 15 and 8 bits.
ERROR = {"float32": 1e-4, "int8": 1e-3, "bfloat16": 0.05}


def features(n: int, columns: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, columns, n, generator=torch.Generator().manual_seed(seed))


def exact(h: torch.Tensor, bits: np.ndarray, n: int) -> np.ndarray:
    return h.double().numpy() @ np.unpackbits(bits, axis=1, count=n).astype(float)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("resident", [0, 2**28])
def test_packed_and_streamed_products_equal_the_dense_one(precision, resident):
    n = TILE + 77  # two tiles, the last one ragged and no multiple of eight
    bits = erdos_renyi_bits(n, 0.5, key=5)
    h = features(n)
    want = exact(h, bits, n)
    spread = want.std(axis=-1, keepdims=True)
    packed = PackedGraph(bits, n, precision=precision, resident=resident)
    streamed = StreamedGraph(n, 0.5, 5, precision=precision)
    for graph in (packed, streamed):
        error = np.abs(graph.multiply(h).numpy() - want) / spread
        assert error.max() < ERROR[precision]
        # Products never change a second time around, also from kept blocks.
        assert torch.equal(graph.multiply(h), graph.multiply(h))


def test_streamed_float32_product_meets_the_stated_tolerance():
    n = 2 * TILE + 300
    h = features(n, columns=8, seed=3)
    got = StreamedGraph(n, 0.5, 9).multiply(h).numpy()
    want = exact(h, erdos_renyi_bits(n, 0.5, 9), n)
    # Dossier Z10: 2.5e-4 in absolute terms on values near 1.5e3.
    np.testing.assert_allclose(got, want, rtol=0, atol=2.5e-4 * (n / 3000))


def test_degrees_agree_in_every_form():
    n = TILE + 40
    bits = erdos_renyi_bits(n, 0.3, key=1)
    dense = torch.from_numpy(np.unpackbits(bits, axis=1, count=n)).float()[None]
    want = dense.sum(1)
    assert torch.equal(PackedGraph(bits, n).degree, want)
    assert torch.equal(StreamedGraph(n, 0.3, 1).degree, want)
    assert torch.equal(MatrixGraphs(dense).degree, want)
    assert torch.equal(PackedGraph(bits, n).dense(), dense)


def test_small_batches_are_the_same_graphs_as_single_ones():
    batch = erdos_renyi(33, 0.5, [4, 5, 6])
    for g, key in enumerate([4, 5, 6]):
        bits = erdos_renyi_bits(33, 0.5, key)
        assert np.array_equal(batch.dense()[g].numpy(), np.unpackbits(bits, axis=1, count=33))


def test_sparse_batch_equals_dense():
    rng = np.random.default_rng(0)
    edges = [erdos_renyi_edges(40, 0.08, rng) for _ in range(3)]
    graphs = SparseGraphs(40, edges)
    h = torch.rand(3, 2, 5, 40)
    want = torch.einsum("gmdn,gnk->gmdk", h, graphs.dense())
    torch.testing.assert_close(graphs.multiply(h), want, rtol=1e-5, atol=1e-5)
    assert torch.equal(graphs.degree, graphs.dense().sum(1))


def test_sparse_batch_with_an_empty_graph():
    graphs = SparseGraphs(4, [np.empty((2, 0), dtype=np.int64), np.array([[0], [3]])])
    h = torch.arange(8.0).view(2, 1, 4)
    assert graphs.multiply(h).tolist() == [[[0, 0, 0, 0]], [[7, 0, 0, 4]]]


def test_constant_and_huge_features_survive_fixed_point():
    n = 50
    graph = PackedGraph(erdos_renyi_bits(n, 0.5, 0), n, precision="int8")
    constant = torch.full((1, 2, n), 3.0)
    torch.testing.assert_close(graph.multiply(constant), 3 * graph.degree.expand(1, 2, n), rtol=1e-6, atol=0)
    huge = torch.linspace(-1e6, 1e6, n).view(1, 1, n)
    want = exact(huge, graph.bits, n)
    np.testing.assert_allclose(graph.multiply(huge).numpy(), want, rtol=0, atol=1e-3 * want.std())


def test_wrong_shapes_and_forms_are_refused():
    graph = PackedGraph(erdos_renyi_bits(20, 0.5, 0), 20)
    with pytest.raises(ValueError, match="do not fit 1 graphs on 20 nodes"):
        graph.multiply(torch.zeros(1, 3, 21))
    with pytest.raises(ValueError, match="come one at a time"):
        erdos_renyi(SMALL + 1, 0.5, [1, 2])
    with pytest.raises(ValueError, match="no matrix"):
        StreamedGraph(5000, 0.5, 0).dense()


def test_the_chosen_precision_exists():
    assert fastest_precision() in PRECISIONS
    assert fastest_precision("meta") == "float32"
