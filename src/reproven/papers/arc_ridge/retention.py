"""What fine-tuning leaves of a pretrained body: linear probe, CKA, kernel alignment."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_probe_accuracy(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, *, strength: float = 1e-3
) -> Tensor:
    """Return the accuracy of a ridge classifier (one-hot targets, with intercept) on features, (R,).

    train: (R, n, k), labels: (R, n), test: (R, m, k), test_labels: (R, m); classes count from 0.
    strength: ridge penalty for the mean squared loss, features centred and scaled to unit mean square.
    """
    centre = train.mean(1, keepdim=True)
    scale = (train - centre).square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-12)
    a, b = (train - centre) / scale, (test - centre) / scale
    target = torch.nn.functional.one_hot(labels).to(train.dtype)
    mean = target.mean(1, keepdim=True)
    matrix = a.mT @ a / a.shape[1] + strength * torch.eye(a.shape[-1], dtype=a.dtype)
    weight = torch.linalg.solve(matrix, a.mT @ (target - mean) / a.shape[1])
    return ((b @ weight + mean).argmax(-1) == test_labels).to(train.dtype).mean(1)


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Return linear CKA of two feature maps on the same inputs, in [0, 1] (Kornblith et al. 2019); (R, n, k) -> (R,).

    ``|A^T B|_F^2 / (|A^T A|_F |B^T B|_F)`` with centred columns.
    """
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    cross = (a.mT @ b).square().sum((1, 2))
    own = (a.mT @ a).square().sum((1, 2)) * (b.mT @ b).square().sum((1, 2))
    return cross / own.sqrt().clamp(min=1e-30)


def kernel_alignment(gram: Tensor, other: Tensor) -> Tensor:
    """Return ``<Theta, Theta0> / (|Theta| |Theta0|)`` in [-1, 1] for Gram matrices (R, n, n) -> (R,)."""
    return (gram * other).sum((1, 2)) / (gram.flatten(1).norm(dim=1) * other.flatten(1).norm(dim=1))
