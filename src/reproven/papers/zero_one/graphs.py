"""Random graphs: samplers that return packed bits, edge lists or matrices. All simple and undirected.

`erdos_renyi_tile` is a pure function of (key, row tile, column tile): a stored graph and a graph that is
regenerated tile by tile in every product are the same graph.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator, Philox

TILE = 1024  # nodes a tile; a multiple of 8
_DIGITS = 32  # binary digits of an edge probability


def erdos_renyi_tile(n: int, r: float, key: int, i: int, j: int) -> np.ndarray:
    """Return the strict upper triangle of G(n, r) inside tile (i, j), ``i <= j``, as 0/1 bytes.

    Bits come from the counter-based generator Philox, keyed by (key, i, j). A bit that is 1 with probability
    ``r = 0.b1 b2 ... b32`` is made from fair bits f by ``x <- (f or x)`` for ``b = 1`` and ``x <- (f and x)`` for
    ``b = 0``, last digit first: one fair bit an edge when ``r = 1/2``, 32 at most.

    Args:
        n: nodes, >= 1.
        r: edge probability in [0, 1], rounded to 32 binary digits.
        key: the graph's seed, in [0, 2**63).
        i, j: tile numbers, ``0 <= i <= j < ceil(n / TILE)``.

    Returns: (rows, columns) uint8.
    """
    rows, columns = min(TILE, n - i * TILE), min(TILE, n - j * TILE)
    width = -(-columns // 8)
    words = -(-rows * width // 8)
    source = Philox(key=np.array([key, (i << 32) | j], dtype=np.uint64))
    numerator = round(r * 2**_DIGITS)
    if numerator >= 2**_DIGITS:
        packed = np.full(words, np.iinfo(np.uint64).max, dtype=np.uint64)
    else:
        packed = np.zeros(words, dtype=np.uint64)
        skip = (numerator & -numerator).bit_length() - 1 if numerator else _DIGITS
        for digit in range(skip, _DIGITS):
            fair = source.random_raw(words)
            packed = fair | packed if numerator >> digit & 1 else fair & packed
    bits = np.unpackbits(packed.view(np.uint8)[: rows * width].reshape(rows, width), axis=1, count=columns)
    return np.triu(bits, 1) if i == j else bits


def erdos_renyi_bits(n: int, r: float, key: int) -> np.ndarray:
    """Sample G(n, r) as a packed symmetric adjacency, (n, ceil(n/8)) uint8, zero diagonal.

    Source: section 2 of the paper; each of ``n(n-1)/2`` edges is present with probability `r`.
    """
    check_size(n)
    check_probability("r", r)
    bits = np.zeros((n, -(-n // 8)), dtype=np.uint8)
    tiles = -(-n // TILE)
    for i in range(tiles):
        for j in range(i, tiles):
            upper = erdos_renyi_tile(n, r, key, i, j)
            rows, columns = upper.shape
            above = np.s_[i * TILE : i * TILE + rows, j * TILE // 8 : j * TILE // 8 + -(-columns // 8)]
            below = np.s_[j * TILE : j * TILE + columns, i * TILE // 8 : i * TILE // 8 + -(-rows // 8)]
            if i == j:
                bits[above] = np.packbits(upper | upper.T, axis=1)
            else:
                bits[above] = np.packbits(upper, axis=1)
                bits[below] = np.packbits(np.ascontiguousarray(upper.T), axis=1)
    return bits


def erdos_renyi_edges(n: int, r: float, rng: Generator) -> np.ndarray:
    """Sample G(n, r) as an edge list (2, m), ``u < v``, in time O(r n^2).

    Gaps between successive edges, in the row-major order of pairs, are geometric (Batagelj and Brandes, 2005).
    """
    check_size(n)
    check_probability("r", r)
    pairs = n * (n - 1) // 2
    if r == 0 or pairs == 0:
        return np.empty((2, 0), dtype=np.int64)
    chosen = np.empty(0, dtype=np.int64)
    last = -1
    while last < pairs:
        expected = r * (pairs - last)
        gaps = rng.geometric(r, size=int(expected + 4 * np.sqrt(expected) + 16))
        positions = last + np.cumsum(gaps)
        chosen = np.concatenate([chosen, positions])
        last = int(positions[-1])
    chosen = chosen[chosen < pairs]
    return _pairs_from_positions(n, chosen)


def _pairs_from_positions(n: int, position: np.ndarray) -> np.ndarray:
    """Return (u, v), ``u < v``, of row-major positions in the strict upper triangle of an n by n matrix."""
    reverse = n * (n - 1) // 2 - 1 - position
    k = ((np.sqrt(8.0 * reverse + 1) - 1) / 2).astype(np.int64)
    k -= k * (k + 1) // 2 > reverse  # the square root may be one off either way
    k += (k + 1) * (k + 2) // 2 <= reverse
    u = n - 2 - k
    v = n - 1 - (reverse - k * (k + 1) // 2)
    return np.stack([u, v])


def stochastic_block_model(sizes: list[int], probabilities: np.ndarray, rng: Generator) -> np.ndarray:
    """Sample a stochastic block model as a boolean adjacency, (n, n), zero diagonal.

    Args:
        sizes: nodes of each block, all >= 1.
        probabilities: (blocks, blocks) symmetric edge probabilities.
    """
    probabilities = np.asarray(probabilities, dtype=np.float32)
    if probabilities.shape != (len(sizes), len(sizes)) or not np.array_equal(probabilities, probabilities.T):
        raise ValueError(
            f"probabilities must be a symmetric {len(sizes)} by {len(sizes)} matrix, one row a block"
        )
    block = np.repeat(np.arange(len(sizes)), sizes)
    n = len(block)
    upper = np.triu(rng.random((n, n), dtype=np.float32) < probabilities[block[:, None], block[None, :]], 1)
    return upper | upper.T


def barabasi_albert(n: int, m: int, rng: Generator) -> np.ndarray:
    """Grow a graph by preferential attachment; return its edge list (2, m + (n - m - 1) m).

    Starts from a star on ``m + 1`` nodes; each new node is joined to `m` distinct old ones, drawn one after the
    other with probability proportional to degree and without replacement. The drawing is an exponential race:
    the `m` smallest of ``E_u / degree_u``, ``E_u`` standard exponential, have exactly that law.

    Args:
        n: nodes. m: edges of a new node, ``1 <= m < n``.
    """
    if not 1 <= m < n:
        raise ValueError(f"m={m} must be at least 1 and less than n={n}")
    degree = np.zeros(n)
    degree[0], degree[1 : m + 1] = m, 1
    edges = [np.stack([np.zeros(m, dtype=np.int64), np.arange(1, m + 1)])]
    for new in range(m + 1, n):
        arrival = rng.standard_exponential(new) / degree[:new]
        old = np.argpartition(arrival, m - 1)[:m]
        degree[old] += 1
        degree[new] = m
        edges.append(np.stack([old, np.full(m, new)]))
    return np.concatenate(edges, axis=1)


def complete_weighted(n: int, r: float, rng: Generator) -> np.ndarray:
    """Return what the released large-scale script draws in place of G(n, r): symmetric weights, (n, n) float32.

    Off the diagonal the weights are uniform on [0, r) and never thresholded, on it they are 1: a complete graph.
    """
    upper = np.triu(rng.random((n, n), dtype=np.float32) * np.float32(r), 1)
    weights = upper + upper.T
    np.fill_diagonal(weights, 1)
    return weights


def with_virtual_node(adjacency: np.ndarray) -> np.ndarray:
    """Append a node that is joined to all others: (n, n) -> (n+1, n+1)."""
    joined = np.pad(adjacency, (0, 1), constant_values=1)
    joined[-1, -1] = 0
    return joined


def dense_from_edges(n: int, edges: np.ndarray) -> np.ndarray:
    """Return the 0/1 adjacency (n, n) uint8 of an undirected edge list (2, m)."""
    adjacency = np.zeros((n, n), dtype=np.uint8)
    adjacency[edges[0], edges[1]] = 1
    adjacency[edges[1], edges[0]] = 1
    return adjacency


def check_size(n: int) -> None:
    """Raise ValueError unless ``n >= 1``."""
    if n < 1:
        raise ValueError(f"n={n}: a graph has at least one node")


def check_probability(name: str, value: float) -> None:
    """Raise ValueError unless `value` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} is no probability: choose it in [0, 1]")
