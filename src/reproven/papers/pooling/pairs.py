"""Similarity of pairs, probed as the paper probes STS-B: a linear map, cosine, squared error to the rescaled score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from reproven.papers.pooling.base import Pooling
from reproven.papers.pooling.features import Tokens
from reproven.papers.pooling.probes import Fitted, Head, pooled, standardise, start_heads, start_parameters


@dataclass(frozen=True)
class PairTask:
    """Pairs of inputs with a graded similarity in [0, 1].

    left, right: indices into the tokens, (pairs,); target: (pairs,) float32; pool, test: indices of pairs. Metric:
    Spearman's rank correlation of cosine and target.
    """

    name: str
    scope: str
    tokens: Tokens
    left: np.ndarray
    right: np.ndarray
    target: Tensor
    pool: np.ndarray
    test: np.ndarray
    metric: str = "spearman"


def spearman(similarity: Tensor, target: Tensor) -> Tensor:
    """Return Spearman's correlation along the last axis, (...)."""
    flat = similarity.reshape(-1, similarity.shape[-1]).numpy()
    wanted = stats.rankdata(target.numpy())
    values = [np.corrcoef(stats.rankdata(row), wanted)[0, 1] if np.ptp(row) > 0 else 0.0 for row in flat]
    return torch.tensor(values).view(similarity.shape[:-1])


def fit_fixed_pairs(
    task: PairTask,
    features: Tensor,
    numbers: Sequence[int],
    *,
    width: int = 64,
    epochs: int = 10,
    batch: int = 32,
    lr: float = 1e-3,
    order: int = 0,
) -> Fitted:
    """Arm P for features (p, inputs, d'): every pooling's and seed's linear map d' -> width at once.

    The paper's map keeps the width; `width` is smaller here for speed.
    """
    features = features.float()
    head = start_heads(len(features), features.shape[2], width, numbers, shared=True)
    left, right = torch.from_numpy(task.left), torch.from_numpy(task.right)
    _train(
        task, lambda pairs: (features[:, left[pairs]], features[:, right[pairs]]), head, [], epochs, batch, lr, order
    )  # fmt: skip
    with torch.no_grad():
        there = torch.from_numpy(task.test)
        cosine = _cosine(head(features[:, left[there]]), head(features[:, right[there]]))
        test = spearman(cosine.movedim(2, 1), task.target[task.test])
    return Fitted(test, torch.full_like(test, torch.nan), {}, Head(head.weight.detach(), head.bias.detach()))


def fit_learned_pairs(
    task: PairTask,
    pooling: Pooling,
    numbers: Sequence[int],
    *,
    width: int = 64,
    epochs: int = 10,
    batch: int = 32,
    lr: float = 1e-3,
    order: int = 0,
) -> Fitted:
    """Arm P for a pooling that learns, all seeds at once."""
    parameters = start_parameters(pooling, task.tokens, numbers)
    head = start_heads(len(numbers), pooling.width(task.tokens.width), width, numbers, shared=False)

    def sides(pairs: Tensor) -> tuple[Tensor, Tensor]:
        index = pairs.numpy()
        x, mask = task.tokens.batch(np.concatenate([task.left[index], task.right[index]]))
        both = pooling.ensemble(x, mask, parameters)
        return both[:, : len(index)], both[:, len(index) :]

    _train(task, sides, head, list(parameters.values()), epochs, batch, lr, order)
    frozen = {k: v.detach() for k, v in parameters.items()}
    with torch.no_grad():
        used, place = np.unique(
            np.concatenate([task.left[task.test], task.right[task.test]]), return_inverse=True
        )
        features = pooled(pooling, task.tokens, used, frozen)
        count = len(task.test)
        cosine = _cosine(head(features[:, place[:count]]), head(features[:, place[count:]]))[:, :, 0]
        test = spearman(cosine, task.target[task.test])
    return Fitted(
        test, torch.full_like(test, torch.nan), frozen, Head(head.weight.detach(), head.bias.detach())
    )


def standardised_similarity(task: PairTask, features: Tensor) -> float:
    """Arm C for features (inputs, d'): cosine of standardised features, nothing trained."""
    pool = np.unique(np.concatenate([task.left[task.pool], task.right[task.pool]]))
    _, plain = standardise(features[pool].double(), features.double())
    cosine = torch.nn.functional.cosine_similarity(plain[task.left[task.test]], plain[task.right[task.test]])
    return float(spearman(cosine, task.target[task.test]))


def _train(task, sides, head, more, epochs, batch, lr, order) -> None:
    g = torch.Generator().manual_seed(order)
    pool = torch.from_numpy(task.pool)
    adam = torch.optim.Adam([*more, head.weight, head.bias], lr=lr, fused=True)
    for _ in range(epochs):
        for part in pool[torch.randperm(len(pool), generator=g)].split(batch):
            adam.zero_grad(set_to_none=True)
            left, right = sides(part)
            gap = _cosine(head(left), head(right)) - task.target[part][None, :, None]
            gap.square().mean(dim=1).sum().backward()
            adam.step()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return cosines of (p, pairs, s, width): (p, pairs, s)."""
    return torch.nn.functional.cosine_similarity(a, b, dim=3)
