"""Zero-one laws of graph neural networks: which class does a random GNN give to almost all large graphs?

    import torch
    from reproven.papers.zero_one import GCN, limit_class, zero_one_curve

    network = GCN(width=32)
    weights = network.draw(2, [torch.Generator().manual_seed(s) for s in range(3)])
    curve = zero_one_curve(network, [50, 200], graphs=16, weights=weights)
    curve.minority_fraction              # (sizes, models): 0 where all graphs of a size agree
    limit_class(network, weights)        # (models,), without sampling a graph

What is supported:

* networks: `GCN`, `MeanGNN`, `MeanGNNPlus`, `SumGNN`, `SumGNNPlus`, `GIN`, `GAT`; the follow-up's graph-constant ones
  in `constant_networks`
* sampling: `zero_one_curve`, `Curve`; random graphs by `erdos_renyi`, families in `families`, features in `features`
* limits: `limit_class`, `limit_logits`, `logit_scale`, `decision_size`, `class_probability`, `surrogate_probability`
"""

from reproven.papers.zero_one.adjacency import erdos_renyi
from reproven.papers.zero_one.attention import GAT
from reproven.papers.zero_one.curves import Curve, zero_one_curve
from reproven.papers.zero_one.limits import (
    class_probability,
    decision_size,
    limit_class,
    limit_logits,
    logit_scale,
    surrogate_probability,
)
from reproven.papers.zero_one.models import GCN, GIN, MeanGNN, MeanGNNPlus, SumGNN, SumGNNPlus

__all__ = [
    "GAT",
    "GCN",
    "GIN",
    "Curve",
    "MeanGNN",
    "MeanGNNPlus",
    "SumGNN",
    "SumGNNPlus",
    "class_probability",
    "decision_size",
    "erdos_renyi",
    "limit_class",
    "limit_logits",
    "logit_scale",
    "surrogate_probability",
    "zero_one_curve",
]
