"""Detectors on maps of frozen features: PaDiM (a Gaussian a place) and a PatchCore-style memory bank.

Both take features of shape (n, channels, height, width), from `deep_features` or any other network, and return score
maps (n, height, width). `image_scores` and `upsampled` make image scores and pixel maps of them.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional

IMAGE_MEAN = IMAGE_STD = 0.5  # of EfficientNet-Lite0: (pixels in [0, 1] - mean) / std


@torch.inference_mode()
def deep_features(
    network: Any,
    images: np.ndarray,
    *,
    size: int = 64,
    stages: tuple[int, ...] = (1, 2),
    grid: int = 0,
    smooth: bool = True,
    batch: int = 256,
) -> np.ndarray:
    """Features of a frozen EfficientNet on the grid of one of its stages, stages concatenated along the channels.

    Args:
        network: timm's `tf_efficientnet_lite0` or another network with `conv_stem`, `bn1` and `blocks`.
        images: grey (n, h, w) or colour (n, h, w, 3), values in [0, 1].
        size: images are resized to size x size (bilinear).
        stages: indices of `blocks` whose outputs are taken, in order.
        grid: position in `stages` of the one whose height and width all are resized to.
        smooth: average each feature over 3 x 3 neighbours (PatchCore's locally aware features).
        batch: images at a time.

    Returns: float32, shape (n, channels, height, width).
    """
    images = np.asarray(images, dtype=np.float32)
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=-1)
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(f"images of shape {images.shape}: need (n, h, w) or (n, h, w, 3), n >= 1")
    parts = []
    for start in range(0, len(images), batch):
        x = torch.from_numpy(np.ascontiguousarray(images[start : start + batch].transpose(0, 3, 1, 2)))
        x = functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
        parts.append(_stages(network, (x - IMAGE_MEAN) / IMAGE_STD, stages, grid, smooth).numpy())
    return np.concatenate(parts)


def _stages(network: Any, x: torch.Tensor, stages: tuple[int, ...], grid: int, smooth: bool) -> torch.Tensor:
    device = next(network.parameters()).device
    x = network.bn1(network.conv_stem(x.to(device)))
    found = []
    for index, block in enumerate(network.blocks[: max(stages) + 1]):
        x = block(x)
        if index in stages:
            found.append(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if smooth else x)
    shape = found[grid].shape[-2:]
    found = [
        y if y.shape[-2:] == shape else functional.interpolate(y, shape, mode="bilinear", align_corners=False)
        for y in found
    ]
    return torch.cat(found, dim=1).to("cpu", torch.float32)


class PaDiM:
    """Mahalanobis distance of each place's features to a Gaussian fitted to that place of the training images.

    s(x)_ij^2 = (f_ij - m_ij)^T (C_ij + epsilon I)^-1 (f_ij - m_ij)

    Args:
        channels: how many randomly chosen channels are used (all when None).
        epsilon: added to the diagonal of the covariances; the paper's 0.01.
        seed: of the choice of channels.

    Source: Defard et al. 2011.08785, section III.
    """

    def __init__(self, *, channels: int | None = 40, epsilon: float = 0.01, seed: int = 0) -> None:
        if epsilon <= 0:
            raise ValueError(f"epsilon={epsilon} must be positive")
        self.channels, self.epsilon, self.seed = channels, epsilon, seed

    def fit(self, features: np.ndarray) -> Self:
        """features: of normal images, shape (n, channels, h, w), n >= 2."""
        features = check_features(features)
        total = features.shape[1]
        kept = total if self.channels is None else min(self.channels, total)
        self.kept = np.sort(np.random.default_rng(self.seed).permutation(total)[:kept])
        places = self._places(features)  # (h w, n, c)
        n = places.shape[1]
        if n < 2:
            raise ValueError("PaDiM needs at least 2 training images")
        self.mean = places.mean(axis=1, keepdims=True)
        centred = places - self.mean
        covariance = centred.transpose(0, 2, 1) @ centred / (n - 1) + self.epsilon * np.eye(
            kept, dtype=np.float32
        )
        # |L^-1 (f - m)| is the distance, L being Cholesky's factor.
        self.whiten = np.linalg.inv(np.linalg.cholesky(covariance.astype(np.float64))).astype(np.float32)
        return self

    def score_maps(self, features: np.ndarray) -> np.ndarray:
        """Distances of images (m, channels, h, w), shape (m, h, w)."""
        features = check_features(features)
        whitened = (self._places(features) - self.mean) @ self.whiten.transpose(0, 2, 1)
        distance = np.sqrt(np.einsum("pnc,pnc->np", whitened, whitened))
        return distance.reshape(len(features), *features.shape[2:])

    def _places(self, features: np.ndarray) -> np.ndarray:
        chosen = features[:, self.kept]
        n, c, h, w = chosen.shape
        return np.ascontiguousarray(chosen.reshape(n, c, h * w).transpose(2, 0, 1))


class PatchCore:
    """Distance of each patch to a memory bank of normal patches, thinned by greedy k-centre selection.

    s(x)_ij = min over the bank of |f_ij - b|

    Args:
        share: part of the training patches kept in the bank, in (0, 1].
        limit: at most this many patches are kept.
        projection: dimension of the random projection in which the bank is selected.
        seed: of the projection and of the first patch.

    Source: Roth et al. 2106.08265, sections 3.1 and 3.2; `image_scores` has its reweighting (section 3.3).
    """

    def __init__(
        self, *, share: float = 0.01, limit: int = 1000, projection: int = 16, seed: int = 0
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share} must lie in (0, 1]")
        self.share, self.limit, self.projection, self.seed = share, limit, projection, seed

    def fit(self, features: np.ndarray) -> Self:
        """features: of normal images, shape (n, channels, h, w)."""
        patches = _patches(check_features(features))
        rng = np.random.default_rng(self.seed)
        d = patches.shape[1]
        low = patches
        if self.projection < d:
            low = (
                patches
                @ rng.standard_normal((d, self.projection), dtype=np.float32)
                / np.sqrt(self.projection).astype(np.float32)
            )
        size = min(max(1, round(self.share * len(patches))), self.limit)
        self.bank = patches[k_centres(low, size, first=int(rng.integers(len(low))))]
        return self

    def score_maps(self, features: np.ndarray) -> np.ndarray:
        """Distances of images (m, channels, h, w) to the bank, shape (m, h, w)."""
        features = check_features(features)
        distance, _ = self._nearest(_patches(features))
        return distance.reshape(len(features), *features.shape[2:])

    def image_scores(self, features: np.ndarray, *, neighbours: int = 9) -> np.ndarray:
        """Scores of images (m, channels, h, w), shape (m,): the largest patch distance, reweighted.

        w = 1 - exp|f* - b*| / sum over b in N(b*) of exp|f* - b|, with f* the patch of the largest distance, b* its
        nearest member of the bank and N the `neighbours` members nearest to b*; 1 where the bank is one patch.
        """
        features = check_features(features)
        patches = _patches(features)
        distance, nearest = self._nearest(patches)
        distance = distance.reshape(len(features), -1)
        top = distance.argmax(axis=1)
        rows = np.arange(len(features))
        best = nearest.reshape(len(features), -1)[rows, top]
        far = patches.reshape(len(features), -1, patches.shape[1])[rows, top]
        if len(self.bank) == 1:
            return distance[rows, top]
        kept = min(neighbours, len(self.bank))
        around = np.argsort(_squared(self.bank[best], self.bank), axis=1)[:, :kept]
        # b* itself first: rounding must not drop it.
        around = np.where((around == best[:, None]).any(axis=1, keepdims=True), around, best[:, None])
        spans = np.linalg.norm(far[:, None].astype(np.float64) - self.bank[around], axis=2)
        top_distance = np.linalg.norm(far.astype(np.float64) - self.bank[best], axis=1)
        weight = 1 - 1 / np.sum(np.exp(spans - top_distance[:, None]), axis=1)
        return weight * top_distance

    def _nearest(self, patches: np.ndarray, block: int = 16384) -> tuple[np.ndarray, np.ndarray]:
        distance = np.empty(len(patches), dtype=np.float32)
        nearest = np.empty(len(patches), dtype=np.int64)
        for start in range(0, len(patches), block):
            squared = _squared(patches[start : start + block], self.bank)
            found = squared.argmin(axis=1)
            nearest[start : start + block] = found
            distance[start : start + block] = np.sqrt(
                np.maximum(np.take_along_axis(squared, found[:, None], axis=1)[:, 0], 0.0)
            )
        return distance, nearest


def k_centres(points: np.ndarray, size: int, *, first: int) -> np.ndarray:
    """Greedy k-centre selection: from `first` on, always the point farthest from those chosen.

    Args: points, shape (n, d); size <= n. Returns: indices, shape (size,). Source: Roth et al., algorithm 1.
    """
    if not 1 <= size <= len(points):
        raise ValueError(f"size={size} must lie between 1 and the {len(points)} points")
    squared = np.einsum("nd,nd->n", points, points)
    far = np.full(len(points), np.inf, dtype=points.dtype)
    chosen = np.empty(size, dtype=np.int64)
    current = first
    for i in range(size):
        chosen[i] = current
        np.minimum(far, squared + squared[current] - 2 * (points @ points[current]), out=far)
        far[current] = -np.inf
        current = int(far.argmax())
    return chosen


def image_scores(maps: np.ndarray) -> np.ndarray:
    """Largest score of each map, (n, h, w) -> (n,)."""
    return maps.reshape(len(maps), -1).max(axis=1)


def upsampled(maps: np.ndarray, size: int, *, smoothing: float = 0.0) -> np.ndarray:
    """Score maps (n, h, w) at size x size pixels (bilinear), smoothed by a Gaussian of that many pixels."""
    from scipy.ndimage import gaussian_filter1d

    x = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[:, None]
    full = functional.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)[:, 0].numpy()
    for axis in (1, 2) if smoothing > 0 else ():
        full = gaussian_filter1d(full, smoothing, axis=axis)
    return full


def check_features(features: np.ndarray) -> np.ndarray:
    """Return features as float32; ValueError unless (n, channels, h, w), n >= 1, all finite."""
    features = np.asarray(features, dtype=np.float32)
    if features.ndim != 4 or len(features) == 0:
        raise ValueError(f"features of shape {features.shape}: need (n, channels, h, w), n >= 1")
    if not np.isfinite(features).all():
        raise ValueError("features contain NaN or infinity")
    return features


def _patches(features: np.ndarray) -> np.ndarray:
    """(n, c, h, w) -> (n h w, c)."""
    n, c, h, w = features.shape
    return np.ascontiguousarray(features.transpose(0, 2, 3, 1)).reshape(n * h * w, c)


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("nd,nd->n", b, b) - 2 * (a @ b.T)
