"""Families of random graphs by name: the paper's, its appendix's, the follow-up's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from reproven.papers.zero_one import graphs as samplers
from reproven.papers.zero_one.adjacency import (
    SMALL,
    Graphs,
    MatrixGraphs,
    PackedGraph,
    SparseGraphs,
    StreamedGraph,
    erdos_renyi,
)

Family = Callable[..., Graphs]

BLOCKS, INSIDE, ACROSS = 10, 0.7, 0.1  # the follow-up's block model
STREAM_ABOVE = 60_000  # nodes; a packed graph would need more than 450 MB


def _rng(key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _dense(probability: float) -> Family:
    def sample(n: int, keys: Sequence[int], dtype: torch.dtype, device: str, precision: str) -> Graphs:
        if n > STREAM_ABOVE:
            (key,) = keys
            return StreamedGraph(n, probability, key, dtype=dtype, device=device, precision=precision)
        return erdos_renyi(n, probability, keys, dtype=dtype, device=device, precision=precision)

    return sample


def _sparse(edges: Callable[[int, np.random.Generator], np.ndarray]) -> Family:
    def sample(n: int, keys: Sequence[int], dtype: torch.dtype, device: str, precision: str) -> Graphs:
        return SparseGraphs(n, [edges(n, _rng(key)) for key in keys], dtype=dtype, device=device)

    return sample


def _matrix(adjacency: Callable[[int, int], np.ndarray]) -> Family:
    def sample(n: int, keys: Sequence[int], dtype: torch.dtype, device: str, precision: str) -> Graphs:
        matrices = np.stack([np.asarray(adjacency(n, key), dtype=np.float32) for key in keys])
        return MatrixGraphs(torch.from_numpy(matrices).to(device, dtype))

    return sample


def _binary(adjacency: Callable[[int, int], np.ndarray]) -> Family:
    """Like `_matrix` for 0/1 matrices, held as bits where they are large."""
    small = _matrix(adjacency)

    def sample(n: int, keys: Sequence[int], dtype: torch.dtype, device: str, precision: str) -> Graphs:
        if n <= SMALL:
            return small(n, keys, dtype, device, precision)
        (key,) = keys
        matrix = adjacency(n, key)
        bits = np.packbits(matrix, axis=1)
        return PackedGraph(bits, len(matrix), dtype=dtype, device=device, precision=precision)

    return sample


def _block_model(n: int, key: int) -> np.ndarray:
    if n % BLOCKS:
        raise ValueError(f"n={n} is no multiple of the {BLOCKS} equal blocks of the block model")
    probabilities = np.where(np.eye(BLOCKS), INSIDE, ACROSS)
    return samplers.stochastic_block_model([n // BLOCKS] * BLOCKS, probabilities, _rng(key))


def _half_attachment(n: int, key: int) -> np.ndarray:
    return samplers.dense_from_edges(n, samplers.barabasi_albert(n, n // 2, _rng(key)))


def _virtual_node(n: int, key: int) -> np.ndarray:
    bits = samplers.erdos_renyi_bits(n, 0.5, key)
    return samplers.with_virtual_node(np.unpackbits(bits, axis=1, count=n))


FAMILIES: dict[str, Family] = {
    # the paper
    "er_half": _dense(0.5),
    "er_log": _sparse(lambda n, rng: samplers.erdos_renyi_edges(n, math.log(n) / n, rng)),
    "virtual_node": _binary(_virtual_node),
    "ba_half": _binary(_half_attachment),
    "complete_weighted": _matrix(lambda n, key: samplers.complete_weighted(n, 0.5, _rng(key))),
    # the follow-up
    "er_tenth": _dense(0.1),
    "er_fiftieth_over_n": _sparse(lambda n, rng: samplers.erdos_renyi_edges(n, 1 / (50 * n), rng)),
    "er_fifty_over_n": _sparse(lambda n, rng: samplers.erdos_renyi_edges(n, min(50 / n, 1), rng)),
    "sbm": _binary(_block_model),
    "ba5": _sparse(lambda n, rng: samplers.barabasi_albert(n, 5, rng)),
}


def sample_graphs(
    family: str,
    n: int,
    keys: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    precision: str = "float32",
) -> Graphs:
    """Sample one graph a key from the family called `family`.

    Args:
        family: a key of `FAMILIES`.
        n: nodes, >= 1; ``virtual_node`` adds one.
        keys: seeds in [0, 2**63); one at a time where ``n > adjacency.SMALL`` (see `batches`).
    """
    if family not in FAMILIES:
        raise ValueError(f"graph family {family!r} is unknown; choose one of {', '.join(FAMILIES)}")
    samplers.check_size(n)
    return FAMILIES[family](n, keys, dtype, device, precision)


def batches(count: int, n: int, columns: int, *, entries: int = 2**24) -> list[range]:
    """Split `count` graphs into batches whose matrices and states have at most about `entries` entries.

    Args:
        columns: features of all models together.
    """
    size = 1 if n > SMALL else max(1, min(count, entries // (n * max(n, columns))))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]
