"""Poolings of token states: which one, what it costs in robustness, and how to probe a frozen backbone with each.

One interface, ``(tokens (batch, n, d), mask (batch, n)) -> (batch, d')``, right under left and right padding::

    import torch
    from reproven.papers.pooling import Avg, PMA, PoolingLayer

    tokens, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    Avg()(tokens, mask)                               # (2, 8)
    Avg().lipschitz(n=5, d=8, norm="operator")        # 1/sqrt(5)
    layer = PoolingLayer(PMA(heads=4), d=8, n=5)      # a torch module with the parameters in it
    layer(tokens, mask)

What is supported:

* without parameters: `Avg`, `Sum`, `SqrtMean`, `Max`, `Min`, `Median`, `Last`, `First`, `TopK`, `GeM`, `LSE`,
  `PositionMean`, `AvgMax`, `Covariance`
* learned: `WAvg`, `QueryAttention`, `GatedABMIL`, `PMA`, `LatentDictionary`, `AdaPool`, `SimPool`, `EfficientProbing`,
  `SlicedWasserstein`; many copies at once by ``.ensemble``
* theory: module `theory` (`Block`, `block_lipschitz`, `stack_lipschitz`, `gamma`...)
* sensitivity: `exceedance`, `neighbours`, `auc`
* probing: `Tokens`, `stored`, `encode_texts`; `Task`, `fit_fixed`, `fit_learned` (arm P), `fit_ridge` (arm C)
"""

from reproven.papers.pooling import theory
from reproven.papers.pooling.base import Pooling, PoolingLayer
from reproven.papers.pooling.features import Tokens, dense, encode_texts, ragged, stored
from reproven.papers.pooling.fixed import (
    LSE,
    Avg,
    AvgMax,
    Covariance,
    First,
    GeM,
    Last,
    Max,
    Median,
    Min,
    PositionMean,
    SqrtMean,
    Sum,
    TopK,
)
from reproven.papers.pooling.learned import (
    PMA,
    AdaPool,
    EfficientProbing,
    GatedABMIL,
    LatentDictionary,
    QueryAttention,
    SimPool,
    SlicedWasserstein,
    WAvg,
)
from reproven.papers.pooling.probes import Task, draw_seeds, fit_fixed, fit_learned, fit_ridge, pooled
from reproven.papers.pooling.sensitivity import Exceedance, auc, exceedance, neighbours

__all__ = [
    "LSE", "PMA", "AdaPool", "Avg", "AvgMax", "Covariance", "EfficientProbing", "Exceedance", "First", "GatedABMIL",
    "GeM", "Last",
    "LatentDictionary", "Max", "Median", "Min", "Pooling", "PoolingLayer", "PositionMean", "QueryAttention",
    "SimPool", "SlicedWasserstein", "SqrtMean", "Sum", "Task", "Tokens", "TopK", "WAvg", "auc", "dense", "draw_seeds",
    "encode_texts", "exceedance", "fit_fixed", "fit_learned", "fit_ridge", "neighbours", "pooled", "ragged", "stored",
    "theory",
]  # fmt: skip
