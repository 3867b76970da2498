"""Losses of the SAC network: MSE and structural similarity of the reconstruction, focal loss of the segmentation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from reproven.papers.sac_bl.network.nets import SacNetwork
from reproven.papers.sac_bl.network.synthesis import Mixed

K1, K2 = 0.01, 0.03  # Wang et al. 2004


class LossParts(NamedTuple):
    """The terms of the loss, each a scalar; `hard` is 0 without hard pairs."""

    mse: torch.Tensor
    ssim: torch.Tensor
    focal: torch.Tensor
    hard: torch.Tensor


def ssim(a: torch.Tensor, b: torch.Tensor, *, window: int = 11, sigma: float = 1.5) -> torch.Tensor:
    """Structural similarity map of images in [0, 1] with a Gaussian window; zeros beyond the edge.

    ((2 m_a m_b + c1)(2 s_ab + c2)) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))

    Args: a, b of shape (n, c, h, w); window, an odd number of pixels; sigma of the Gaussian.
    Returns: shape (n, c, h, w). Source: Wang et al. 2004.
    """
    if window % 2 == 0 or window < 1:
        raise ValueError(f"window={window} must be odd")
    offsets = torch.arange(window, dtype=a.dtype, device=a.device) - window // 2
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    line = line / line.sum()
    n, c = a.shape[:2]
    # Five local means in one pass, along one axis after the other.
    x = torch.cat([a, b, a * a, b * b, a * b]).reshape(5 * n * c, 1, *a.shape[2:])
    x = functional.conv2d(x, line.view(1, 1, -1, 1), padding=(window // 2, 0))
    x = functional.conv2d(x, line.view(1, 1, 1, -1), padding=(0, window // 2))
    mean_a, mean_b, aa, bb, ab = x.reshape(5, n, c, *a.shape[2:])
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    top = (2 * product + K1**2) * (2 * (ab - product) + K2**2)
    return top / ((squares + K1**2) * (aa + bb - squares + K2**2))


def focal_loss(logits: torch.Tensor, mask: torch.Tensor, *, gamma: float = 2.0) -> torch.Tensor:
    """Mean of -(1 - p_t)^gamma log p_t, p_t the softmax probability of each pixel's true class.

    Args: logits (n, 2, h, w), anomalous second; mask in {0, 1}, (n, 1, h, w). Source: Lin et al. 1708.02002.
    """
    log_p = functional.log_softmax(logits, dim=1)
    log_true = torch.where(mask > 0.5, log_p[:, 1:], log_p[:, :1])
    return (-((1 - log_true.exp()) ** gamma) * log_true).mean()


def sac_loss(
    network: SacNetwork, batch: Mixed, *, hard_pairs: bool, generator: torch.Generator, weight: float = 1.0
) -> tuple[torch.Tensor, LossParts]:
    """DRAEM's loss, and with `hard_pairs` that of two harder pairs for the discriminator.

    L = |R(x^a) - x|^2 + 1 - SSIM(R(x^a), x) + focal(D(R(x^a), x^a), M)
      + weight * (focal(D(R(x^w), x^w), M) + focal(D(R(x), x), 0)) / 2

    x^w = x (1 - M) + M (l sg(R(x^a)) + (1 - l) x^a), l ~ U(0.2, 0.8): the anomaly half repaired. sg stops gradients.
    The second pair, a normal image, must not be called anomalous. Reconstructed (dossier 3.1): the paper only says
    that its reconstruction network makes hard pairs that constrain the discriminator.

    Returns: the loss, a scalar, and its parts.
    """
    reconstruction, logits = network(batch.image)
    mse = functional.mse_loss(reconstruction, batch.clean)
    similarity = 1 - ssim(reconstruction, batch.clean).mean()
    focal = focal_loss(logits, batch.mask)
    hard = torch.zeros_like(mse)
    if hard_pairs:
        share = 0.2 + 0.6 * torch.rand(len(batch.image), 1, 1, 1, generator=generator)
        half = half_repaired(batch, reconstruction.detach(), share.to(batch.image.device))
        _, hard_logits = network(torch.cat([half, batch.clean]))
        hard = focal_loss(hard_logits, torch.cat([batch.mask, torch.zeros_like(batch.mask)]))
    loss = mse + similarity + focal + weight * hard
    return loss, LossParts(mse, similarity, focal, hard)


def half_repaired(batch: Mixed, reconstruction: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The weak anomaly x^w of `sac_loss`; share: l, shape (n, 1, 1, 1)."""
    inside = share * reconstruction + (1 - share) * batch.image
    return batch.clean * (1 - batch.mask) + batch.mask * inside
