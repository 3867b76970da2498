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
    """Return the KKT certificate of a homogeneous scalar network that separates its data.

    model: float64; x: (n, ...); y: (n,) in {-1, +1}; order: homogeneity order L.
    Raises ValueError if a sample is misclassified (no rescaling reaches margin one).
    """
    q, jacobian = per_sample_gradients(model, x, y)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    return certificate_of(theta.numpy(), q.numpy(), jacobian.numpy(), order)


def certificate_of(theta: np.ndarray, q: np.ndarray, jacobian: np.ndarray, order: int) -> Certificate:
    """Return the certificate from parameters (m,), margins (n,) and margin gradients (n, m) at theta."""
    from scipy.optimize import nnls

    smallest = float(q.min())
    if not smallest > 0:
        raise ValueError(
            f"smallest margin is {smallest:.3g}: a certificate needs every sample classified right"
        )
    scale = smallest ** (-1 / order)
    unit, h = scale * theta, scale ** (order - 1) * jacobian
    multipliers, distance = nnls(h.T, unit, maxiter=30 * len(q))
    total = float(multipliers.sum())
    size = float(np.linalg.norm(theta))
    shifted = np.exp(-(q - smallest))
    descent = (shifted / shifted.sum()) @ jacobian
    return Certificate(
        normalised_margin=smallest / size**order,
        smoothed_margin=float(smallest - np.log(shifted.sum())) / size**order,
        residual=float(distance / np.linalg.norm(unit)),
        sum_lambda=total,
        euler_sum=float(unit @ unit) / order,
        support=int((multipliers > 1e-10 * multipliers.max()).sum()),
        slackness=float(multipliers @ (q / smallest - 1) / total),
        alignment=float(theta @ descent / (size * np.linalg.norm(descent))),
        multipliers=multipliers,
    )
