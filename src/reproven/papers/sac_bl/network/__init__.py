"""The SAC network, reconstructed: DRAEM's two sub-networks with Perlin anomalies, and hard pairs as a switch.

    network, info = train_sac(images, textures, steps=400, generator=torch.Generator().manual_seed(0))
    maps = sac_score_maps(network, test_images)
    scores = pooled_scores(maps, window=21)

Parts: `perlin_noise`, `perlin_masks`, `synthesise` (mixed training batches), `SacNetwork`, `ssim`, `focal_loss`,
`sac_loss`, `train_sac`, `sac_score_maps`, `pooled_scores`. Nothing of it is the paper's own code or recipe: that was
not published.
"""

from reproven.papers.sac_bl.network.losses import focal_loss, sac_loss, ssim
from reproven.papers.sac_bl.network.nets import SacNetwork
from reproven.papers.sac_bl.network.perlin import perlin_masks, perlin_noise
from reproven.papers.sac_bl.network.sac import TrainingInfo, pooled_scores, sac_score_maps, train_sac
from reproven.papers.sac_bl.network.synthesis import Mixed, synthesise

__all__ = [
    "Mixed",
    "SacNetwork",
    "TrainingInfo",
    "focal_loss",
    "perlin_masks",
    "perlin_noise",
    "pooled_scores",
    "sac_loss",
    "sac_score_maps",
    "ssim",
    "synthesise",
    "train_sac",
]
