"""Distance of a trained wide two-layer network from the union of the images of all narrower ones.

The image of T over all networks of k hidden units and all splits is the set of wide networks whose neurons
``x_i = (w_i, u_i)`` lie on k rays. The nearest such network puts each group G of neurons on its best ray:
``dist^2 = sum_G (||X_G||^2 - sigma_+(X_G)^2)``, sigma_+ the largest ``||X_G^T c||`` over unit ``c >= 0``.
Finding the groups is a clustering problem; what is returned is its best local solution, an upper bound.
"""

from __future__ import annotations

import numpy as np


def ray_distance(
    neurons: np.ndarray, rays: int, generator: np.random.Generator, restarts: int = 10, sweeps: int = 100
) -> tuple[float, np.ndarray]:
    """Return the relative distance ``dist / ||X||`` to `rays` rays, in [0, 1], and each neuron's group.

    neurons: (units, fan_in + fan_out) rows ``(w_i, u_i)``. rays: width k of the narrow network, 1..units.
    """
    x = np.asarray(neurons, dtype=np.float64)
    if not 1 <= rays <= len(x):
        raise ValueError(f"rays={rays} must lie between 1 and the number of neurons, {len(x)}")
    total = float((x**2).sum())
    best, groups = np.inf, np.zeros(len(x), dtype=int)
    for _ in range(restarts):
        chosen = _spread(x, rays, generator)
        z = x[chosen] / np.linalg.norm(x[chosen], axis=1, keepdims=True).clip(1e-300)
        captured = -1.0
        for _ in range(sweeps):
            along = np.maximum(x @ z.T, 0.0)
            owner = along.argmax(1)
            now = float((along[np.arange(len(x)), owner] ** 2).sum())
            if now <= captured * (1 + 1e-14):
                break
            captured = now
            c = np.where(np.arange(rays) == owner[:, None], along, 0.0)
            direction = c.T @ x  # one power step on c >= 0 a ray: never lowers what the ray captures
            length = np.linalg.norm(direction, axis=1, keepdims=True)
            z = np.where(length > 0, direction / length.clip(1e-300), z)
        lost = max(total - captured, 0.0)
        if lost < best:
            best, groups = lost, owner
    return float(np.sqrt(best / total)), groups


def _spread(x: np.ndarray, rays: int, generator: np.random.Generator) -> list[int]:
    """Choose neurons to start from, each with probability proportional to what the others leave over."""
    size = (x**2).sum(1)
    chosen: list[int] = []
    left = size.copy()
    for _ in range(rays):
        weight = left if left.sum() > 0 else np.ones(len(x))
        i = int(generator.choice(len(x), p=weight / weight.sum()))
        chosen.append(i)
        z = x[i] / max(float(np.linalg.norm(x[i])), 1e-300)
        left = np.minimum(left, size - np.maximum(x @ z, 0.0) ** 2).clip(0)
    return chosen
