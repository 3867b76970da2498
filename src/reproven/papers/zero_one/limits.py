"""The limit of a random-graph classifier, read from its weights: class, speed, and the size at which it decides.

For networks whose nodes all converge to ``z_T`` the logit of a graph on n nodes is close to normal with mean
``m = head(z_T)`` and standard deviation ``s / sqrt(n)``, because the pooled state follows the sample mean of the
features, ``z_T(mean of x)``. Hence

    P(class 1) = Phi(m sqrt(n) / s),    s = sd(x) |d m / d E[x]|,    n* = (s Phi^-1(1 - error) / m)^2.

Source: section 3.2 (limit state) and reconstructed (finite-size law).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from reproven.papers.zero_one.features import FeatureLaw, feature_law


def limit_logits(network: Any, weights: Any, features: str | FeatureLaw = "uniform") -> Tensor:
    """Return the logits ``m`` of the limit state, (models,) float64.

    Args:
        network: offers `width` and `limit_logits`.
        weights: from ``network.draw``.
        features: a law or its name.
    """
    return _limit(network)(weights, _mean(network, weights, _law(features)))


def limit_class(network: Any, weights: Any, features: str | FeatureLaw = "uniform") -> np.ndarray:
    """Return the class (0 or 1) that almost all large graphs get, (models,). No sampling.

    Example:
        >>> network = GCN(width=16)
        >>> weights = network.draw(2, [torch.Generator().manual_seed(0)])
        >>> limit_class(network, weights).shape
        (1,)
    """
    return (limit_logits(network, weights, features) > 0).long().cpu().numpy()


def logit_scale(network: Any, weights: Any, features: str | FeatureLaw = "uniform") -> Tensor:
    """Return ``s``, the standard deviation of the logit times sqrt(n), (models,), by the delta method."""
    law = _law(features)
    mean = _mean(network, weights, law).requires_grad_()
    with torch.enable_grad():
        logits = _limit(network)(weights, mean)
        gradients = [torch.autograd.grad(m, mean, retain_graph=True)[0] for m in logits]
    scale = law.sd * torch.stack(gradients).norm(dim=-1)
    if not (scale > 0).all():
        raise ValueError(
            f"{type(network).__name__} is constant near its limit: its decisions sharpen faster than sqrt(n), "
            "so that no scale exists"
        )
    return scale


def decision_size(
    network: Any, weights: Any, features: str | FeatureLaw = "uniform", error: float = 0.01
) -> np.ndarray:
    """Return ``n*``, the number of nodes from which at most a fraction `error` of graphs gets the other class.

    Args:
        error: in (0, 1/2).
    """
    if not 0 < error < 0.5:
        raise ValueError(f"error={error} must be in (0, 0.5)")
    margin = limit_logits(network, weights, features).abs()
    scale = logit_scale(network, weights, features)
    return (scale * norm.ppf(1 - error) / margin).square().cpu().numpy()


def class_probability(n: np.ndarray | float, logit: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return ``Phi(m sqrt(n) / s)``, the predicted probability of class 1 on n nodes."""
    return norm.cdf(np.asarray(logit) * np.sqrt(n) / np.asarray(scale))


def surrogate_probability(
    network: Any,
    weights: Any,
    n: int,
    features: str | FeatureLaw = "uniform",
    *,
    draws: int = 4000,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Return the probability of class 1 on n nodes with the graph left out, (models,), from `draws` feature means.

    The mean of n features is drawn from its normal limit and sent through the recursion of the limit. Unlike
    `class_probability` this needs no smooth head: the released networks have pooled states of order 100, where the
    hidden units of the head are saturated and the derivative at the limit says nothing about the boundary.

    Args:
        n: nodes, >= 1. draws: >= 1. generator: of the draws.
    """
    if n < 1 or draws < 1:
        raise ValueError(f"n={n} and draws={draws} must be at least 1")
    law = _law(features)
    noise = torch.randn(draws, network.width, generator=generator, dtype=torch.float64)
    means = law.mean + law.sd / n**0.5 * noise
    logits = _limit(network)(weights, means.to(_device(weights)))
    return (logits > 0).double().mean(0).cpu().numpy()


def _law(features: str | FeatureLaw) -> FeatureLaw:
    return feature_law(features) if isinstance(features, str) else features


def _mean(network: Any, weights: Any, law: FeatureLaw) -> Tensor:
    return torch.full((network.width,), law.mean, dtype=torch.float64, device=_device(weights))


def _device(weights: Any) -> torch.device:
    """Return where weights lie; networks from outside may keep them in any form, and get theirs on the CPU."""
    head = getattr(weights, "head", None)
    return torch.device("cpu") if head is None else head.b2.device


def _limit(network: Any) -> Any:
    if getattr(network, "limit_logits", None) is None:
        raise ValueError(
            f"{type(network).__name__} has no limit in closed form; estimate it with zero_one_curve"
        )
    return network.limit_logits
