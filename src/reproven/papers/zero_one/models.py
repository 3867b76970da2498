"""Message passing on dense graphs: GCN, MeanGNN(+), SumGNN(+), GIN. Section 3.1 of the paper's dossier.

Every layer aggregates first and transforms afterwards, so that the models of a batch share the first product with
the adjacency, and all later ones are one product for all models.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from reproven.papers.zero_one.adjacency import Graphs
from reproven.papers.zero_one.classifiers import SATURATED, Network, Weights, limit_transform, transform


class _Averaging(Network):
    """A layer that is one average over neighbours and one matrix: linear up to the activation."""

    matrices = ("neighbour",)

    def aggregate(self, graphs: Graphs, h: Tensor) -> Tensor:
        """Return the average of features (graphs, ..., n) over closed neighbourhoods."""
        raise NotImplementedError

    def aggregate_back(self, graphs: Graphs, v: Tensor) -> Tensor:
        """Return the transpose of `aggregate` applied to node weights (graphs, n)."""
        raise NotImplementedError

    def layer(self, weights: dict[str, Tensor], graphs: Graphs, h: Tensor) -> Tensor:
        return transform(weights["neighbour"], self.aggregate(graphs, h))

    def limit_layer(self, weights: dict[str, Tensor], z: Tensor) -> Tensor:
        return limit_transform(weights["neighbour"], z)

    def linear_logits(self, weights: Weights, graphs: Graphs, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return `logits` at the cost of one product with the adjacency for all models, where the clip cannot bind.

        Without the clip the network is linear, and with P the averaging matrix the pooled state is

            (1/n) 1' P^T X W_1 ... W_T = ((P')^(T-1) 1/n)' (P X) (W_1 ... W_T).

        The clip cannot bind at layer t if ``rho^(t-1) max_v |(P X)_v W_1 ... W_t| <= bound``, rho the largest row
        sum of P; the maximum over nodes is bounded by the range of each coordinate of P X.

        Returns: logits (graphs, models) and, of the same shape, whether each is certified.
        """
        if self.activation != "clip" or self.bias:
            none = torch.zeros(len(features), len(weights.head.b2), dtype=torch.bool, device=features.device)
            return none.double(), none
        first = self.aggregate(graphs, features)  # (graphs, d, n)
        high, low = first.amax(-1).double(), first.amin(-1).double()
        centre, radius = (high + low) / 2, (high - low) / 2
        ones = torch.ones(graphs.count, graphs.n, dtype=features.dtype, device=features.device)
        growth = self.aggregate(graphs, ones).amax(-1).double()
        spread = ones / graphs.n
        for _ in weights.layers[1:]:
            spread = self.aggregate_back(graphs, spread)
        pooled = (first.double() @ spread.double()[..., None])[..., 0]
        certified = torch.ones(1, dtype=torch.bool, device=features.device)
        shape = (graphs.count, len(weights.head.b2), self.width)
        for t, path in enumerate(weights.paths):
            # |centre M| + radius |M| bounds |x M| for every x in the range.
            largest = (centre @ path).abs_().add_(radius @ path.abs()).view(shape).amax(-1)
            certified = certified & (largest * growth[:, None] ** t <= self.bound)
        return weights.head.logits((pooled @ weights.paths[-1]).view(shape)), certified


class GCN(_Averaging):
    """Graph convolution, ``x_v' = sigma( sum_{u in N+(v)} x_u W / sqrt((d_u+1)(d_v+1)) )``.

    The normalised matrix is never formed: with ``s = (d+1)^(-1/2)`` it is ``s ((s x) A + s x)``.
    Arguments: see `Network`. Source: section 3.1; self-loops, weights ``U(-1, 1)`` and no bias as in the released
    code.
    """

    def aggregate(self, graphs: Graphs, h: Tensor) -> Tensor:
        s = _as_columns((graphs.degree + 1).rsqrt(), h)
        scaled = h * s
        return graphs.multiply(scaled).add_(scaled).mul_(s)

    def aggregate_back(self, graphs: Graphs, v: Tensor) -> Tensor:
        return self.aggregate(graphs, v)  # the matrix is symmetric


class MeanGNN(_Averaging):
    """Mean aggregation, ``x_v' = sigma( 1/(d_v+1) sum_{u in N+(v)} x_u W )``.

    Arguments: see `Network`. Source: section 3.1; the released code includes the self-loop and has no weight for
    the node itself.
    """

    def aggregate(self, graphs: Graphs, h: Tensor) -> Tensor:
        return graphs.multiply(h).add_(h).div_(_as_columns(graphs.degree + 1, h))

    def aggregate_back(self, graphs: Graphs, v: Tensor) -> Tensor:
        scaled = v / (graphs.degree + 1)
        return graphs.multiply(scaled).add_(scaled)


class MeanGNNPlus(Network):
    """MeanGNN with a weight for the node itself and a global readout.

    ``x_v' = sigma( x_v W_s + 1/(d_v+1) sum_{u in N+(v)} x_u W_n + 1/n sum_u x_u W_r )``.
    Arguments: see `Network`. Source: section 3.1 (reconstructed).
    """

    matrices = ("self", "neighbour", "readout")

    def layer(self, weights: dict[str, Tensor], graphs: Graphs, h: Tensor) -> Tensor:
        neighbours = graphs.multiply(h).add_(h).div_(_as_columns(graphs.degree + 1, h))
        pre = transform(weights["neighbour"], neighbours)
        pre += transform(weights["self"], h)
        return pre.add_(transform(weights["readout"], h.mean(-1, keepdim=True)))

    def limit_layer(self, weights: dict[str, Tensor], z: Tensor) -> Tensor:
        return limit_transform(weights["self"] + weights["neighbour"] + weights["readout"], z)


class SumGNN(Network):
    """Sum aggregation, ``x_v' = sigma( x_v W_s + sum_{u in N(v)} x_u W_n )``.

    The limit on G(n, r) needs an activation that is eventually constant: every coordinate of ``s = z r W_n`` is
    driven to one of its two constants. With relu the state grows without bound in a fixed direction instead, and
    the head sees that direction at infinity.

    Args: see `Network`; the released runs have ``width=64, bound=1``.
        density: edge probability r of the limit.
    Source: section 3.1.
    """

    matrices = ("self", "neighbour")

    def __init__(
        self,
        width: int = 64,
        activation: str = "clip",
        bound: float = 1.0,
        bias: bool = False,
        density: float = 0.5,
    ) -> None:
        super().__init__(width, activation, bound, bias)
        if not 0 < density <= 1:
            raise ValueError(f"density={density} must be in (0, 1]")
        self.density = density

    def layer(self, weights: dict[str, Tensor], graphs: Graphs, h: Tensor) -> Tensor:
        return transform(weights["neighbour"], graphs.multiply(h)).add_(transform(weights["self"], h))

    def limit_layer(self, weights: dict[str, Tensor], z: Tensor) -> Tensor:
        return limit_transform(weights["neighbour"], z) * self.density

    def limit_logits(self, weights: Weights, mean: Tensor) -> Tensor:
        for z in self.limit_states(weights, mean):
            last = z
        return (
            weights.head.logits_at_infinity(last) if self.activation == "relu" else weights.head.logits(last)
        )

    def _activate(self, layer: dict[str, Tensor], pre: Tensor, dim: int) -> Tensor:
        if dim == -2:
            return super()._activate(layer, pre, dim)
        return self._saturate(pre)  # biases are o(n) beside the sum

    def _saturate(self, s: Tensor) -> Tensor:
        """Return the activation of ``n s`` for n to infinity, up to a positive factor where it is unbounded."""
        if self.activation == "relu":
            return s.relu() / s.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        if self.activation not in SATURATED:
            raise ValueError(
                f"activation {self.activation!r} is not eventually constant: a sum has no limit under it"
            )
        below, above = SATURATED[self.activation]
        scale = self.bound if self.activation == "clip" else 1.0
        middle = (below + above) / 2
        return (middle + (above - below) / 2 * s.sign()) * scale


class SumGNNPlus(SumGNN):
    """SumGNN with a global readout: adds ``sum_{u in V} x_u W_r``.

    Arguments: see `SumGNN`. Source: section 3.1 and the released notebook; limit ``s = z (r W_n + W_r)``.
    """

    matrices = ("self", "neighbour", "readout")  # type: ignore[assignment]

    def layer(self, weights: dict[str, Tensor], graphs: Graphs, h: Tensor) -> Tensor:
        pre = super().layer(weights, graphs, h)
        return pre.add_(transform(weights["readout"], h.sum(-1, keepdim=True)))

    def limit_layer(self, weights: dict[str, Tensor], z: Tensor) -> Tensor:
        return limit_transform(self.density * weights["neighbour"] + weights["readout"], z)


class GIN(Network):
    """Graph isomorphism network, ``x_v' = relu( (x_v + sum_{u in N(v)} x_u) W_1 + b_1 ) W_2 + b_2``.

    Unbounded sums: no theorem of the paper covers it, although the released extra notebook runs it.

    Args:
        width: feature and hidden dimension, >= 1.
        density: edge probability r of the limit, in (0, 1].
    Source: Xu et al. (2019) with eps = 0 and a two-layer perceptron, default initialisation of linear layers.
    """

    def __init__(self, width: int = 64, density: float = 0.5) -> None:
        super().__init__(width)
        if not 0 < density <= 1:
            raise ValueError(f"density={density} must be in (0, 1]")
        self.density = density

    def draw_layer(self, generator: Generator) -> dict[str, Tensor]:
        limit = self.width**-0.5

        def draw(rows: int) -> Tensor:
            return (torch.rand(rows, self.width, generator=generator) * 2 - 1) * limit

        return {"w1": draw(self.width), "b1": draw(1)[0], "w2": draw(self.width), "b2": draw(1)[0]}

    def layer(self, weights: dict[str, Tensor], graphs: Graphs, h: Tensor) -> Tensor:
        hidden = transform(weights["w1"], graphs.multiply(h).add_(h)).add_(weights["b1"][..., None]).relu_()
        return transform(weights["w2"], hidden).add_(weights["b2"][..., None])

    def limit_layer(self, weights: dict[str, Tensor], z: Tensor) -> Tensor:
        return limit_transform(weights["w2"], limit_transform(weights["w1"], z * self.density).relu())

    def limit_logits(self, weights: Weights, mean: Tensor) -> Tensor:
        for z in self.limit_states(weights, mean):
            last = z
        return weights.head.logits_at_infinity(last)

    def _activate(self, layer: dict[str, Tensor], pre: Tensor, dim: int) -> Tensor:
        # The perceptron has its own; the limit keeps only the direction of a state of order n^t.
        return pre if dim == -2 else pre / pre.norm(dim=-1, keepdim=True).clamp_min(1e-300)


def _as_columns(per_node: Tensor, h: Tensor) -> Tensor:
    """Return (graphs, n) shaped to multiply features (graphs, ..., n)."""
    return per_node.view(per_node.shape[0], *(1,) * (h.ndim - 2), per_node.shape[1])
