"""Graph attention without a score per pair in memory for sparse graphs, and without an exponential per pair.

    alpha_vu = softmax_{u in N+(v)} leaky( a_dst . h_v + a_src . h_u ),    out_v = sum_u alpha_vu h_u

The leaky rectifier is ``max(x, slope x)`` and the exponential is monotone, so
``exp(leaky(p_v + q_u)) = max(e^p_v e^q_u, e^(slope p_v) e^(slope q_u))``: two outer products of vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from reproven.papers.zero_one.adjacency import Graphs, SparseGraphs
from reproven.papers.zero_one.classifiers import Network, transform

SLOPE = 0.2


def graph_attention(graphs: Graphs, h: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return attention-weighted sums over closed neighbourhoods, (graphs, models, d, n).

    Args:
        h: transformed node columns (graphs, models, d, n).
        source, target: attention vectors ``a_src``, ``a_dst`` (models, d).
    Source: Velickovic et al. (2018), one head, negative slope 0.2, self-loops added.
    """
    q = torch.einsum("gmdn,md->gmn", h, source)
    p = torch.einsum("gmdn,md->gmn", h, target)
    peak = q.amax(-1, keepdim=True)
    q = q - peak
    p = p + peak
    top = torch.maximum(p, SLOPE * p)  # the largest score that row v could meet; all exponents are then <= 0
    row, column = ((p - top).exp(), (SLOPE * p - top).exp()), (q.exp(), (SLOPE * q).exp())
    own = torch.maximum(row[0] * column[0], row[1] * column[1])  # the self-loop
    if isinstance(graphs, SparseGraphs):
        total, weight = _attend_arcs(graphs, h, row, column)
    else:
        total, weight = _attend_pairs(graphs, h, row, column)
    return total.add_(h * own[:, :, None]).div_((weight + own)[:, :, None])


Factors = tuple[Tensor, Tensor]


def _attend_pairs(graphs: Graphs, h: Tensor, row: Factors, column: Factors) -> tuple[Tensor, Tensor]:
    """Return (sum_u w_vu h_u, sum_u w_vu) over neighbours, one model and graph at a time: n^2 memory."""
    total, weight = torch.empty_like(h), torch.empty_like(row[0])
    for g, adjacency in enumerate(graphs.dense()):
        for m in range(h.shape[1]):
            scores = torch.outer(row[0][g, m], column[0][g, m])
            torch.maximum(scores, torch.outer(row[1][g, m], column[1][g, m]), out=scores)
            scores *= adjacency
            weight[g, m] = scores.sum(1)
            torch.mm(h[g, m], scores.T, out=total[g, m])
    return total, weight


def _attend_arcs(graphs: SparseGraphs, h: Tensor, row: Factors, column: Factors) -> tuple[Tensor, Tensor]:
    v, u = graphs.arcs
    total, weight = torch.empty_like(h), torch.empty_like(row[0])
    ones = torch.ones(h.shape[0], 1, h.shape[-1], dtype=h.dtype, device=h.device)
    for m in range(h.shape[1]):
        flat = [factor[:, m].reshape(-1) for factor in (*row, *column)]
        scores = torch.maximum(flat[0][v] * flat[2][u], flat[1][v] * flat[3][u])
        both = graphs.weighted_sum(scores, torch.cat([h[:, m], ones], dim=1))
        total[:, m], weight[:, m] = both[:, :-1], both[:, -1]
    return total, weight


def random_walk_encoding(graphs: Graphs, length: int) -> Tensor:
    """Return the probabilities to be back after 1..length steps of the simple random walk, (graphs, length, n).

    ``diag((D^-1 A)^k)``; an isolated node has zeros. Computed as row sums of ``P^a * (P^b)'``, ``a + b = k``, so
    that `length` steps need ``ceil(length/2) - 1`` products of matrices.
    """
    if length < 1:
        raise ValueError(f"length={length} of the walk must be at least 1")
    return torch.stack([torch.stack(list(_return_probabilities(a, length))) for a in graphs.dense()])


def _return_probabilities(adjacency: Tensor, length: int) -> Iterator[Tensor]:
    step = adjacency / adjacency.sum(1, keepdim=True).clamp_min(1)
    powers = [step]
    while len(powers) < (length + 1) // 2:
        powers.append(powers[-1] @ step)
    yield step.diagonal()
    for k in range(2, length + 1):
        a = (k + 1) // 2
        yield (powers[a - 1] * powers[k - a - 1].T).sum(1)


class GAT(Network):
    """Graph attention network, one head: ``x_v' = sigma( sum_u alpha_vu x_u W )``.

    Args: see `Network`; the released runs have ``width=64`` and clip at 50 (notebook) or 1 (script).
    Source: Velickovic et al. (2018) with the default initialisation of PyG's layer: Glorot matrices, zero bias.
    """

    def __init__(self, width: int = 64, activation: str = "clip", bound: float = 50.0) -> None:
        super().__init__(width, activation, bound)

    def draw_layer(self, generator: Generator) -> dict[str, Tensor]:
        return draw_attention(self.width, self.width, generator)

    def layer(self, weights: dict[str, Tensor], graphs: Graphs, h: Tensor) -> Tensor:
        columns = transform(weights["value"], h)
        return graph_attention(graphs, columns, weights["source"], weights["target"])

    # Attention depends on a node's own features: the limit is an expectation over node types, not a function of
    # the feature mean, and has no closed form.
    limit_logits = None  # type: ignore[assignment]


def draw_attention(rows: int, columns: int, generator: Generator) -> dict[str, Tensor]:
    """Draw a value matrix (rows, columns) and two attention vectors by Glorot's rule."""

    def glorot(a: int, b: int) -> Tensor:
        return (torch.rand(a, b, generator=generator) * 2 - 1) * (6 / (a + b)) ** 0.5

    return {"value": glorot(rows, columns), "source": glorot(1, columns)[0], "target": glorot(1, columns)[0]}
