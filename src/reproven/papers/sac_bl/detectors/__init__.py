"""Detectors to plug in before the decision rules: fit on normal items, score others; larger is more anomalous.

On vectors: `KnnDistance`, `PcaReconstruction`, `EcodScores`, `IsolationForestScores` (fit, score).
On feature maps: `PaDiM`, `PatchCore` (fit, score_maps), with features from `deep_features`.

    >>> import numpy as np
    >>> from reproven.papers.sac_bl import bh, conformal_p
    >>> rng = np.random.default_rng(0)
    >>> train, held_out, test = rng.normal(size=(3, 200, 5))
    >>> test[:20] += 4.0
    >>> scores = KnnDistance().fit(train).score(np.concatenate([held_out, test]))
    >>> anomalous, _ = bh(conformal_p(scores[:200], scores[200:]), alpha=0.1)
    >>> int(anomalous[:20].sum())
    20
"""

from reproven.papers.sac_bl.detectors.patches import (
    PaDiM,
    PatchCore,
    deep_features,
    image_scores,
    k_centres,
    upsampled,
)
from reproven.papers.sac_bl.detectors.vectors import (
    EcodScores,
    IsolationForestScores,
    KnnDistance,
    PcaReconstruction,
)

__all__ = [
    "EcodScores",
    "IsolationForestScores",
    "KnnDistance",
    "PaDiM",
    "PatchCore",
    "PcaReconstruction",
    "deep_features",
    "image_scores",
    "k_centres",
    "upsampled",
]
