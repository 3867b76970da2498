"""Graph samplers: exact invariants, moments within five standard deviations, laws against networkx."""

import numpy as np
import pytest

from reproven.papers.zero_one.graphs import (
    TILE,
    barabasi_albert,
    complete_weighted,
    dense_from_edges,
    erdos_renyi_bits,
    erdos_renyi_edges,
    stochastic_block_model,
    with_virtual_node,
)


def dense(n, r, key):
    return np.unpackbits(erdos_renyi_bits(n, r, key), axis=1, count=n).astype(int)


@pytest.mark.parametrize("r", [0.5, 0.1, 0.25, 1 / 3])
@pytest.mark.parametrize("n", [1, 9, 200, TILE + 130])
def test_erdos_renyi_is_simple_and_has_the_right_moments(n, r):
    A = dense(n, r, key=7)
    assert np.array_equal(A, A.T)
    assert not A.diagonal().any()
    pairs = n * (n - 1) / 2
    edges = A.sum() / 2
    assert abs(edges - r * pairs) <= 5 * np.sqrt(r * (1 - r) * pairs)
    if n >= 200:
        # The sample variance of n degrees has relative standard deviation about sqrt(2/n).
        assert A.sum(1).var() == pytest.approx(n * r * (1 - r), rel=5 * np.sqrt(2 / n))


@pytest.mark.parametrize(("r", "edges"), [(0.0, 0), (1.0, 40 * 39 // 2)])
def test_erdos_renyi_at_the_ends(r, edges):
    assert dense(40, r, 0).sum() == 2 * edges
    assert erdos_renyi_edges(40, r, np.random.default_rng(0)).shape == (2, edges)


def test_keys_give_different_and_repeatable_graphs():
    assert np.array_equal(dense(64, 0.5, 3), dense(64, 0.5, 3))
    differing = (dense(64, 0.5, 3) != dense(64, 0.5, 4)).mean()
    assert 0.4 < differing < 0.6


def test_every_edge_of_a_small_graph_is_equally_likely():
    total = sum(dense(6, 0.3, key) for key in range(2000))[np.triu_indices(6, 1)]
    assert np.abs(total - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


def test_sparse_sampler_visits_every_pair_equally_often():
    rng = np.random.default_rng(0)
    total = np.zeros((7, 7))
    for _ in range(3000):
        u, v = erdos_renyi_edges(7, 0.2, rng)
        assert (u < v).all()
        total[u, v] += 1
    counts = total[np.triu_indices(7, 1)]
    assert total.sum() == counts.sum()
    assert np.abs(counts - 600).max() < 5 * np.sqrt(3000 * 0.2 * 0.8)


def test_sparse_sampler_at_large_n_has_no_repeats_and_the_right_count():
    n = 20_000
    edges = erdos_renyi_edges(n, np.log(n) / n, np.random.default_rng(1))
    assert len(np.unique(edges[0] * n + edges[1])) == edges.shape[1]
    assert edges.max() < n
    mean = np.log(n) / n * n * (n - 1) / 2
    assert abs(edges.shape[1] - mean) < 5 * np.sqrt(mean)


def test_block_model_densities():
    p = np.where(np.eye(3), 0.7, 0.1)
    A = stochastic_block_model([100, 150, 50], p, np.random.default_rng(0))
    assert np.array_equal(A, A.T)
    assert not A.diagonal().any()
    assert A[:100, 100:250].mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / 15_000))
    assert A[100:250, 100:250].sum() / (150 * 149) == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / 11_175))
    with pytest.raises(ValueError, match="symmetric 2 by 2"):
        stochastic_block_model([5, 5], p, np.random.default_rng(0))


def test_preferential_attachment_has_its_edges_and_is_simple():
    edges = barabasi_albert(60, 5, np.random.default_rng(0))
    A = dense_from_edges(60, edges)
    assert A.sum() == 2 * edges.shape[1] == 2 * (5 + 54 * 5)
    assert np.array_equal(A, A.T)
    assert not A.diagonal().any()


@pytest.mark.parametrize(("n", "m"), [(30, 2), (20, 10)])
def test_preferential_attachment_has_the_degrees_of_networkx(n, m):
    networkx = pytest.importorskip("networkx")
    repeats = 400

    def largest_and_first(A):
        degree = A.sum(0)
        return degree.max(), degree[0], (degree**2).mean()

    rng = np.random.default_rng(0)
    ours = np.array(
        [largest_and_first(dense_from_edges(n, barabasi_albert(n, m, rng))) for _ in range(repeats)]
    )
    theirs = np.array(
        [
            largest_and_first(networkx.to_numpy_array(networkx.barabasi_albert_graph(n, m, seed=k)))
            for k in range(repeats)
        ]
    )
    error = np.sqrt((ours.var(0) + theirs.var(0)) / repeats)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error).all()


def test_the_released_script_draws_a_complete_graph():
    W = complete_weighted(50, 0.5, np.random.default_rng(0))
    assert np.array_equal(W, W.T)
    assert (W.diagonal() == 1).all()
    off = W[np.triu_indices(50, 1)]
    assert (off < 0.5).all()
    assert (off > 0).mean() > 0.99
    assert off.mean() == pytest.approx(0.25, abs=5 * 0.5 / np.sqrt(12 * off.size))


def test_virtual_node_is_joined_to_all():
    A = with_virtual_node(np.zeros((3, 3), dtype=np.uint8))
    assert A.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]


def test_bad_sizes_and_probabilities_are_refused():
    with pytest.raises(ValueError, match="n=0"):
        erdos_renyi_bits(0, 0.5, 0)
    with pytest.raises(ValueError, match="r=1.5 is no probability"):
        erdos_renyi_bits(5, 1.5, 0)
    with pytest.raises(ValueError, match="m=5 must be"):
        barabasi_albert(5, 5, np.random.default_rng(0))
