"""Training and scoring with the SAC network (Algorithm 1, lines 1 and 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from reproven.papers.sac_bl.network.losses import sac_loss
from reproven.papers.sac_bl.network.nets import SacNetwork, initialise
from reproven.papers.sac_bl.network.synthesis import synthesise


class TrainingInfo(NamedTuple):
    """Loss of each step: total, MSE, 1 - SSIM, focal, hard pairs; shape (steps, 5)."""

    losses: np.ndarray


def train_sac(
    images: np.ndarray,
    sources: np.ndarray,
    *,
    steps: int,
    generator: torch.Generator,
    hard_pairs: bool = True,
    batch: int = 8,
    rate: float = 1e-4,
    reconstructive_width: int = 128,
    discriminative_width: int = 64,
    reconstructive_blocks: int = 5,
    discriminative_blocks: int = 6,
    exponents: int = 6,
    augmentations: int = 3,
    device: str = "cpu",
    tell: Callable[[float], None] | None = None,
) -> tuple[SacNetwork, TrainingInfo]:
    """Train on normal images and synthetic anomalies; the defaults are DRAEM's (dossier 3.1).

    Args:
        images: normal training images, uint8, shape (n, size, size) or (n, size, size, 3).
        sources: textures for the anomalies, uint8, same shape but their number.
        steps: batches seen; DRAEM's 700 epochs are 700 n / batch. The rate falls to a fifth at 80 % and 90 %.
        generator: a CPU generator; draws weights, batches and anomalies.
        hard_pairs: the reconstructed part of SAC (`sac_loss`); False is plain DRAEM.
        batch, rate: images a step; Adam's rate.
        reconstructive_width, discriminative_width, reconstructive_blocks, discriminative_blocks: `SacNetwork`.
        exponents, augmentations: `synthesise`.
        device: where the network lives.
        tell: called with the share of steps done.

    Returns: the network, in evaluation mode, and `TrainingInfo`.
    """
    clean, textures = as_tensor(images), as_tensor(sources)
    if steps < 1 or batch < 1:
        raise ValueError(f"steps={steps}, batch={batch} must be at least 1")
    network = SacNetwork(
        channels=clean.shape[1],
        reconstructive_width=reconstructive_width,
        discriminative_width=discriminative_width,
        reconstructive_blocks=reconstructive_blocks,
        discriminative_blocks=discriminative_blocks,
    )
    initialise(network, generator)
    # Channels last: half the time on a processor, the same numbers up to rounding.
    network.to(device).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimiser, [int(0.8 * steps), int(0.9 * steps)], gamma=0.2
    )
    # A stream of its own: with and without hard pairs the network sees the same batches.
    hard = torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator)))
    losses = np.empty((steps, 5))
    for step in range(steps):
        chosen = torch.randint(len(clean), (batch,), generator=generator)
        mixed = synthesise(
            clean[chosen].to(device).float() / 255,
            textures,
            generator=generator,
            exponents=exponents,
            augmentations=augmentations,
        )
        loss, parts = sac_loss(network, mixed, hard_pairs=hard_pairs, generator=hard)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses[step] = [part.item() for part in (loss, *parts)]
        if not np.isfinite(losses[step, 0]):
            raise ValueError(f"the loss is not finite at step {step}: lower rate={rate}")
        if tell is not None and step % 20 == 0:
            tell(step / steps)
    return network.eval(), TrainingInfo(losses)


@torch.inference_mode()
def sac_score_maps(network: SacNetwork, images: np.ndarray, *, batch: int = 128) -> np.ndarray:
    """Pixel scores: logit of anomalous less logit of normal, shape (n, size, size), float32.

    DRAEM takes the softmax, which saturates at 1 and ties; the difference of logits ranks the same without ties.

    Args: images as in `train_sac`; the network decides the device.
    """
    x = as_tensor(images)
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(x), batch):
        _, logits = network(x[start : start + batch].to(device).float() / 255)
        parts.append((logits[:, 1] - logits[:, 0]).cpu().numpy())
    return np.concatenate(parts)


def pooled_scores(maps: np.ndarray, *, window: int = 21) -> np.ndarray:
    """Image scores: the largest mean over window x window pixels, (n, h, w) -> (n,); DRAEM's window is 21.

    Windows reach over the edge, where they count fewer pixels.
    """
    if window % 2 == 0 or not window >= 1:
        raise ValueError(f"window={window} must be odd")
    x = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[:, None]
    pooled = functional.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)
    return pooled.flatten(1).max(dim=1).values.numpy().astype(float)


def as_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 images (n, h, w) or (n, h, w, c) as a tensor (n, c, h, w)."""
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) == 0:
        raise ValueError(
            f"images must be uint8 of shape (n, h, w) or (n, h, w, c), not {images.dtype} {images.shape}"
        )
    x = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(x))
