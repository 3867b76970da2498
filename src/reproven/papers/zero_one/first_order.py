"""Graph properties with known zero-one behaviour on G(n, 1/2), for batches of small dense graphs.

Every function takes adjacencies (graphs, n, n) with entries 0 and 1 and returns one truth value a graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def has_triangle(A: Tensor) -> Tensor:
    """Some three nodes are pairwise adjacent: ``trace(A^3) > 0``."""
    return ((A @ A) * A).sum((1, 2)) > 0


def has_diameter_two(A: Tensor) -> Tensor:
    """Any two nodes are adjacent or have a common neighbour."""
    near = A + A @ A + torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return (near > 0).all((1, 2))


def has_isolated_node(A: Tensor) -> Tensor:
    """Some node has no neighbour."""
    return (A.sum(1) == 0).any(1)


def is_connected(A: Tensor) -> Tensor:
    """There is a path between any two nodes (no first-order property, yet it obeys the law)."""
    reached = torch.zeros_like(A[:, 0])
    reached[:, 0] = 1
    while True:
        grown = ((reached[:, None] @ A)[:, 0] + reached > 0).to(A.dtype)
        if torch.equal(grown, reached):
            return reached.bool().all(1)
        reached = grown


def has_even_edges(A: Tensor) -> Tensor:
    """The number of edges is even: probability exactly 1/2 on G(n, 1/2) for n >= 2."""
    return (A.sum((1, 2), dtype=torch.float64) / 2) % 2 == 0


def has_majority_of_edges(A: Tensor) -> Tensor:
    """More than half of all pairs are edges: probability tends to 1/2."""
    n = A.shape[-1]
    return A.sum((1, 2), dtype=torch.float64) / 2 > n * (n - 1) / 4


PROPERTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "triangle": has_triangle,
    "diameter_two": has_diameter_two,
    "isolated_node": has_isolated_node,
    "connected": is_connected,
    "even_edges": has_even_edges,
    "majority_of_edges": has_majority_of_edges,
}
