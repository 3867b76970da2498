"""Batches of graphs that multiply: resident matrices, packed bits, regenerated tiles, sparse rows.

All four answer the same questions. Node features are columns, ``h (graphs, ..., n)``: the adjacency is symmetric,
so ``h A`` is the neighbour sum of every feature of every model at once, one product, nothing to transpose.

====================  ==========================  ======================================
class                 memory a graph              use
====================  ==========================  ======================================
`MatrixGraphs`        ``4 n^2`` bytes             many small graphs, weights, attention
`PackedGraph`         ``n^2 / 8`` bytes           dense graphs, to about 1e5 nodes
`StreamedGraph`       ``TILE^2`` bytes            dense graphs of any size
`SparseGraphs`        ``12`` bytes an edge end    edge probability of order log(n)/n
====================  ==========================  ======================================
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reproven.papers.zero_one.graphs import (
    TILE,
    check_probability,
    check_size,
    dense_from_edges,
    erdos_renyi_bits,
    erdos_renyi_tile,
)
from reproven.papers.zero_one.products import PRECISIONS

ROWS = 1024  # rows of a packed graph that are unpacked at a time
SMALL = 512  # nodes up to which graphs are multiplied in batches of float matrices


class Graphs(Protocol):
    """A batch of undirected graphs on the same number of nodes."""

    n: int
    count: int

    @property
    def degree(self) -> Tensor:
        """Row sums of the adjacency, (graphs, n)."""

    def multiply(self, h: Tensor) -> Tensor:
        """Return the neighbour sums ``h A`` of features ``h (graphs, ..., n)``, same shape."""

    def dense(self) -> Tensor:
        """Return the adjacency, (graphs, n, n), in the graphs' dtype."""


class MatrixGraphs:
    """Symmetric adjacency matrices held as they are, weighted or not.

    Args:
        adjacency: (graphs, n, n), floating point.
    """

    def __init__(self, adjacency: Tensor) -> None:
        if adjacency.ndim != 3 or adjacency.shape[1] != adjacency.shape[2]:
            raise ValueError(f"adjacency has shape {tuple(adjacency.shape)}; expected (graphs, n, n)")
        self.adjacency = adjacency
        self.count, self.n = adjacency.shape[:2]

    @cached_property
    def degree(self) -> Tensor:
        return self.adjacency.sum(1)

    def multiply(self, h: Tensor) -> Tensor:
        rows = _rows(self, h)
        # A few columns multiply faster from the other side: 5.5 against 7.5 ms at n=2000, d=128.
        narrow = 4 * rows.shape[1] <= self.n
        product = (self.adjacency @ rows.mT).mT if narrow else rows @ self.adjacency
        return product.reshape(h.shape)

    def dense(self) -> Tensor:
        return self.adjacency


class PackedGraph:
    """One 0/1 adjacency held as bits; blocks of rows are unpacked on the fly, or once where that is small.

    Args:
        bits: (n, ceil(n/8)) uint8, rows packed most significant bit first, symmetric.
        n: nodes.
        dtype, device: of the features.
        precision: a key of `products.PRECISIONS`.
        resident: keep the unpacked blocks when they need at most this many bytes.
    """

    count = 1

    def __init__(
        self,
        bits: np.ndarray,
        n: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        precision: str = "float32",
        resident: int = 2**28,
    ) -> None:
        self.bits, self.n, self.dtype, self.device, self.precision = bits, n, dtype, device, precision
        self.resident = resident
        self._blocks: dict[torch.dtype, list[Tensor]] = {}

    @cached_property
    def degree(self) -> Tensor:
        counts = np.bitwise_count(self.bits).sum(1, dtype=np.int64)
        return torch.from_numpy(counts).to(self.device, self.dtype)[None]

    def multiply(self, h: Tensor) -> Tensor:
        operand = PRECISIONS[self.precision](_rows(self, h)[0])
        out = h.new_empty(h.shape).view(-1, self.n)
        first = 0
        for rows in self.blocks(operand.block_dtype):
            # A is symmetric: this block of rows, transposed, is a block of columns.
            columns = slice(first, first + len(rows))
            out[:, columns] = operand.finish(operand.times(rows.T), self.degree[0, columns])
            first += len(rows)
        return out.view(h.shape)

    def blocks(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield the adjacency from top to bottom as unpacked blocks of rows (<= ROWS, n)."""
        if dtype in self._blocks:
            yield from self._blocks[dtype]
            return
        keep = self.n**2 * dtype.itemsize <= self.resident
        # One block where all of it is kept: a single large product is the fastest.
        height = self.n if keep else ROWS
        kept = []
        for first in range(0, self.n, height):
            block = _unpack(self.bits[first : first + height], self.n).to(self.device, dtype)
            kept.append(block)
            yield block
            if not keep:
                kept.clear()
        if keep:
            self._blocks[dtype] = kept

    def dense(self) -> Tensor:
        return _unpack(self.bits, self.n).to(self.device, self.dtype)[None]

    def in_precision(self, precision: str) -> PackedGraph:
        """Return the same graph with another number format for its products."""
        return PackedGraph(
            self.bits,
            self.n,
            dtype=self.dtype,
            device=self.device,
            precision=precision,
            resident=self.resident,
        )


class StreamedGraph:
    """G(n, r) that is never stored: each product makes its tiles again and uses each twice, ``h U + h U^T``.

    The same `key` gives the same graph as `graphs.erdos_renyi_bits`.

    Args:
        n: nodes. r: edge probability in [0, 1]. key: the graph's seed in [0, 2**63).
        dtype, device, precision: as in `PackedGraph`.
    """

    count = 1

    def __init__(
        self,
        n: int,
        r: float,
        key: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        check_size(n)
        check_probability("r", r)
        self.n, self.r, self.key = n, r, key
        self.dtype, self.device, self.precision = dtype, device, precision

    @cached_property
    def degree(self) -> Tensor:
        counts = np.zeros(self.n, dtype=np.int64)
        for rows, columns, upper in self._tiles():
            counts[rows] += upper.sum(1, dtype=np.int64)
            counts[columns] += upper.sum(0, dtype=np.int64)
        return torch.from_numpy(counts).to(self.device, self.dtype)[None]

    def multiply(self, h: Tensor) -> Tensor:
        operand = PRECISIONS[self.precision](_rows(self, h)[0])
        total = torch.zeros(h.shape, dtype=h.dtype, device=h.device).view(-1, self.n)
        for rows, columns, upper in self._tiles():
            tile = torch.from_numpy(upper).to(self.device, operand.block_dtype)
            total[:, columns] += operand.times(tile, rows)
            total[:, rows] += operand.times(tile.T, columns)
        return operand.finish(total, self.degree[0]).view(h.shape)

    def dense(self) -> Tensor:
        raise ValueError(f"a streamed graph has no matrix; use PackedGraph for attention on n={self.n} nodes")

    def in_precision(self, precision: str) -> StreamedGraph:
        """Return the same graph with another number format for its products."""
        return StreamedGraph(
            self.n, self.r, self.key, dtype=self.dtype, device=self.device, precision=precision
        )

    def _tiles(self) -> Iterator[tuple[slice, slice, np.ndarray]]:
        count = -(-self.n // TILE)
        for i in range(count):
            for j in range(i, count):
                upper = erdos_renyi_tile(self.n, self.r, self.key, i, j)
                rows, columns = upper.shape
                yield slice(i * TILE, i * TILE + rows), slice(j * TILE, j * TILE + columns), upper


class SparseGraphs:
    """A batch of sparse graphs as one block-diagonal matrix in compressed rows.

    Args:
        n: nodes of each graph.
        edges: one (2, m) list of undirected edges a graph, each edge once.
        dtype, device: of the features.
    """

    def __init__(
        self, n: int, edges: Sequence[np.ndarray], *, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> None:
        check_size(n)
        self.n, self.count, self.edges = n, len(edges), edges
        self.dtype, self.device = dtype, device

    @cached_property
    def arcs(self) -> Tensor:
        """Both directions of every edge of every graph, (2, arcs), sorted by the first row.

        Node v of graph g has number ``g n + v``.
        """
        both = np.concatenate(
            [np.concatenate([e, e[::-1]], axis=1) + g * self.n for g, e in enumerate(self.edges)], axis=1
        )
        order = np.lexsort((both[1], both[0]))
        return torch.from_numpy(both[:, order]).to(self.device)

    @cached_property
    def degree(self) -> Tensor:
        counts = torch.bincount(self.arcs[0], minlength=self.count * self.n)
        return counts.to(self.dtype).view(self.count, self.n)

    def multiply(self, h: Tensor) -> Tensor:
        ones = torch.ones(self.arcs.shape[1], dtype=h.dtype, device=h.device)
        return self.weighted_sum(ones, h)

    def weighted_sum(self, weights: Tensor, h: Tensor) -> Tensor:
        """Return ``sum_u w_vu h_u`` for one weight an arc (v, u), in the order of `arcs`."""
        total = self.count * self.n
        offsets = torch.zeros(total + 1, dtype=torch.int64, device=h.device)
        torch.cumsum(torch.bincount(self.arcs[0], minlength=total), 0, out=offsets[1:])
        with warnings.catch_warnings():  # that compressed rows are "in beta state"
            warnings.simplefilter("ignore", UserWarning)
            matrix = torch.sparse_csr_tensor(
                offsets, self.arcs[1], weights, (total, total), check_invariants=False
            )
        nodes = _rows(self, h).movedim(2, 1).reshape(total, -1)
        return (matrix @ nodes).view(self.count, self.n, -1).movedim(1, 2).reshape(h.shape)

    def dense(self) -> Tensor:
        matrices = np.stack([dense_from_edges(self.n, e) for e in self.edges])
        return torch.from_numpy(matrices).to(self.device, self.dtype)


def erdos_renyi(
    n: int,
    r: float,
    keys: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    precision: str = "float32",
) -> Graphs:
    """Sample one G(n, r) a key, in the form that multiplies fastest: matrices when small, else packed bits.

    Args:
        n: nodes, >= 1. r: edge probability in [0, 1].
        keys: seeds in [0, 2**63); exactly one where ``n > SMALL``.
    """
    if n > SMALL:
        if len(keys) != 1:
            raise ValueError(f"n={n}: graphs of more than {SMALL} nodes come one at a time, not {len(keys)}")
        bits = erdos_renyi_bits(n, r, keys[0])
        return PackedGraph(bits, n, dtype=dtype, device=device, precision=precision)
    check_size(n)
    check_probability("r", r)
    upper = torch.from_numpy(np.stack([erdos_renyi_tile(n, r, key, 0, 0) for key in keys]))
    return MatrixGraphs((upper + upper.mT).to(device, dtype))


def _rows(graphs: Graphs, h: Tensor) -> Tensor:
    """Return features as (graphs, columns, n) after checking that they belong to these graphs."""
    if h.shape[0] != graphs.count or h.shape[-1] != graphs.n:
        raise ValueError(
            f"features of shape {tuple(h.shape)} do not fit {graphs.count} graphs on {graphs.n} nodes"
        )
    return h.reshape(graphs.count, -1, graphs.n)


def _unpack(bits: np.ndarray, n: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits, axis=1, count=n))
