"""KKT certificate of the margin problem ``min ||theta||^2 / 2 s.t. y_k Phi(theta; x_k) >= 1`` (Section 2).

Definitions follow Lyu and Li (2020); the paper states the theorem but measures none of this.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Certificate:
    """How far parameters are from a KKT point, after rescaling to margin one (theta^).

    normalised_margin: ``q_min / ||theta||^L``; smoothed_margin: ``-log(sum exp(-q)) / ||theta||^L``.
    residual: ``||theta^ - sum lambda_k h_k|| / ||theta^||`` with non-negative least-squares multipliers.
    sum_lambda: their sum; at a KKT point ``||theta^||^2 / L`` (`euler_sum`). support: number of lambda_k > 0.
    slackness: ``sum lambda_k (q^_k - 1) / sum lambda_k``. alignment: cosine of theta and the negative loss
    gradient. multipliers: (n,).
    """

    normalised_margin: float
    smoothed_margin: float
    residual: float
    sum_lambda: float
    euler_sum: float
    support: int
    slackness: float
    alignment: float
    multipliers: np.ndarray


def per_sample_gradients(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return margins ``q_k = y_k Phi(theta; x_k)`` (n,) and their gradients ``dq_k/dtheta`` (n, m)."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def margin(theta: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        return label * torch.func.functional_call(model, theta, (sample[None],)).squeeze()

    jacobian, q = torch.func.vmap(torch.func.grad_and_value(margin), (None, 0, 0))(parameters, x, y)
    return q.detach(), torch.cat([g.flatten(1) for g in jacobian.values()], 1).detach()


def certificate(model: nn.Module, x: Tensor, y: Tensor, order: int) -> Certificate:
    """Return the KKT certificate of a homogeneous scalar network, from one gradient a sample.

    model: float64; x: (n, ...); y: (n,) in {-1, +1}; order: homogeneity order L. Where training slides along
    kinks of the activation one gradient is not enough: see `clarke_certificate`.
    Raises ValueError if a sample is misclassified (no rescaling reaches margin one).
    """
    q, jacobian = per_sample_gradients(model, x, y)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    return certificate_of(theta.numpy(), q.numpy(), jacobian.numpy(), order)


def certificate_of(theta: np.ndarray, q: np.ndarray, jacobian: np.ndarray, order: int) -> Certificate:
    """Return the certificate from parameters (m,), margins (n,) and margin gradients (n, m) at theta."""
    from scipy.optimize import nnls

    smallest = _least(q)
    scale = smallest ** (-1 / order)
    h = scale ** (order - 1) * jacobian
    multipliers, distance = nnls(h.T, scale * theta, maxiter=30 * len(h))
    return _finish(theta, q, jacobian, order, multipliers, float(distance))


def clarke_certificate(
    model: nn.Sequential, x: Tensor, y: Tensor, kink: float = 1e-3, rounds: int = 200
) -> Certificate:
    """Return the KKT certificate of a two-layer network with the whole Clarke subdifferential.

    ``theta^ in sum_k lambda_k y_k d° Phi(theta^; x_k)`` is set-valued: units with ``|w_j . x| <= kink |w_j| |x|``
    may take either slope in the gradient of that sample, and mixtures. The gradients are generated as needed:
    least squares over those at hand, then for each sample the pattern that the residual prefers (it separates
    over units), until none helps. Multipliers are summed over the gradients of a sample.

    model: ``Linear - ReLU or LeakyReLU - Linear``, bias-free, scalar, float64; kink: relative width, >= 0.
    Raises ValueError for another structure or a misclassified sample. Reconstructed from the definition.
    """
    from scipy.optimize import nnls

    w, u, slope = _two_layers(model)
    xs, ys = x.flatten(1).numpy(), y.numpy()
    z = xs @ w.T
    side = np.where(z > 0, 1.0, slope)
    q = ys * ((side * z) @ u)
    smallest = _least(q)
    size = np.linalg.norm(w, axis=1) * np.linalg.norm(xs, axis=1)[:, None]
    open_units = np.abs(z) <= kink * size
    scale = smallest**-0.5
    theta = np.concatenate([w.ravel(), u])

    def gradients(sample: np.ndarray, pattern: np.ndarray) -> np.ndarray:
        signed = ys[sample, None] * pattern
        inner = (signed * u)[:, :, None] * xs[sample, None, :]
        return np.concatenate([inner.reshape(len(sample), -1), signed * z[sample]], 1)

    everyone = np.arange(len(q))
    jacobian = gradients(everyone, side)
    columns, owner = scale * jacobian, everyone
    for _ in range(rounds):
        weights, distance = nnls(columns.T, scale * theta, maxiter=30 * len(columns))
        used = weights > 0
        columns, owner, weights = columns[used], owner[used], weights[used]
        left = scale * theta - columns.T @ weights
        pull = ys[:, None] * ((xs @ left[: w.size].reshape(w.shape).T) * u + z * left[w.size :])
        pattern = np.where(open_units, np.where(pull > 0, 1.0, slope), side)
        gain = scale * (pattern * pull).sum(1)
        new = np.nonzero(gain > 1e-8 * scale**2 * float(theta @ theta))[0]
        if not len(new):
            break
        columns = np.concatenate([columns, scale * gradients(new, pattern[new])])
        owner = np.concatenate([owner, new])
    multipliers = np.bincount(owner[: len(weights)], weights, minlength=len(q))
    return _finish(theta, q, jacobian, 2, multipliers, float(distance))


def _least(q: np.ndarray) -> float:
    smallest = float(q.min())
    if not smallest > 0:
        raise ValueError(
            f"smallest margin is {smallest:.3g}: a certificate needs every sample classified right"
        )
    return smallest


def _two_layers(model: nn.Sequential) -> tuple[np.ndarray, np.ndarray, float]:
    layers = list(model)
    kinds = (nn.Linear, nn.ReLU | nn.LeakyReLU, nn.Linear)
    fits = len(layers) == 3 and all(isinstance(a, b) for a, b in zip(layers, kinds, strict=True))
    if not fits or layers[0].bias is not None or layers[2].bias is not None or layers[2].out_features != 1:
        raise ValueError("clarke_certificate needs Linear - (leaky) ReLU - Linear, bias-free with one output")
    slope = getattr(layers[1], "negative_slope", 0.0)
    return layers[0].weight.detach().numpy(), layers[2].weight.detach().numpy()[0], slope


def _finish(
    theta: np.ndarray,
    q: np.ndarray,
    jacobian: np.ndarray,
    order: int,
    multipliers: np.ndarray,
    distance: float,
) -> Certificate:
    smallest, size, total = float(q.min()), float(np.linalg.norm(theta)), float(multipliers.sum())
    unit = smallest ** (-1 / order) * size
    shifted = np.exp(-(q - smallest))
    descent = (shifted / shifted.sum()) @ jacobian
    return Certificate(
        normalised_margin=smallest / size**order,
        smoothed_margin=float(smallest - np.log(shifted.sum())) / size**order,
        residual=distance / unit,
        sum_lambda=total,
        euler_sum=unit**2 / order,
        support=int((multipliers > 1e-10 * multipliers.max()).sum()),
        slackness=float(multipliers @ (q / smallest - 1) / total),
        alignment=float(theta @ descent / (size * np.linalg.norm(descent))),
        multipliers=multipliers,
    )
