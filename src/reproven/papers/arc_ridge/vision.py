"""Vision transfer: small CNNs pretrained on half of the digits, fine-tuned on few noisy labels of the other half.

All tasks and all penalties of a kind are trained in one stack; convolutions are matrix products of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from reproven.papers.arc_ridge.finetuning import Path, Scores, kernel_ridge

SIDE, FILTERS, HIDDEN = 14, (8, 16), 32
SHAPES = {
    "w1": (25, FILTERS[0]), "b1": (1, FILTERS[0]),
    "w2": (9 * FILTERS[0], FILTERS[1]), "b2": (1, FILTERS[1]),
    "w3": (9 * FILTERS[1], HIDDEN), "b3": (1, HIDDEN),
}  # fmt: skip
BODY = sum(a * b for a, b in SHAPES.values())


def patches(images: np.ndarray) -> Tensor:
    """Return 28 x 28 images, averaged to 14 x 14, as 25 patches of 5 x 5 with stride 2: (n, 25, 25)."""
    x = torch.as_tensor(images, dtype=torch.float32) / 255
    x = x.reshape(len(x), SIDE, 2, SIDE, 2).mean((2, 4)) - 0.13
    return x.unfold(1, 5, 2).unfold(2, 5, 2).reshape(len(x), 25, 25)


def features(theta: Tensor, x: Tensor) -> Tensor:
    """Return the body's features: theta (R, >= BODY), x (R, n, 25, 25) -> (R, n, HIDDEN). Two convolutions, tanh."""
    parts, at = {}, 0
    for name, (a, b) in SHAPES.items():
        parts[name] = theta[:, at : at + a * b].reshape(-1, a, b)
        at += a * b
    tasks, n = x.shape[:2]
    h = torch.tanh(x.reshape(tasks, n * 25, 25) @ parts["w1"] + parts["b1"]).reshape(tasks, n, 5, 5, -1)
    nine = torch.cat([h[:, :, i : i + 3, j : j + 3] for i in range(3) for j in range(3)], -1)
    h = torch.tanh(nine.reshape(tasks, n * 9, -1) @ parts["w2"] + parts["b2"]).reshape(tasks, n, -1)
    return torch.tanh(h @ parts["w3"] + parts["b3"])


def outputs(theta: Tensor, x: Tensor) -> Tensor:
    """Return head and body together, (R, n, K); the head's weight and bias follow the body in theta."""
    h = features(theta, x)
    head = theta[:, BODY:].reshape(len(theta), HIDDEN + 1, -1)
    return h @ head[:, :-1] + head[:, -1:]


def pretrain(
    x: Tensor,
    labels: Tensor,
    generators: Sequence[torch.Generator],
    *,
    classes: int,
    steps: int,
    batch: int = 128,
) -> Tensor:
    """Return bodies (R, BODY) trained on all of x (n, 25, 25) by Adam with cross-entropy, one a generator."""
    theta = []
    for g in generators:
        body = [torch.randn(a, b, generator=g) / a**0.5 * (a > 1) for a, b in SHAPES.values()]
        theta.append(torch.cat([p.flatten() for p in body] + [torch.zeros((HIDDEN + 1) * classes)]))
    weights = torch.stack(theta).requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=5e-3)
    for _ in range(steps):
        pick = torch.stack([torch.randint(len(x), (batch,), generator=g) for g in generators])
        logits = outputs(weights, x[pick])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[pick].flatten())
        optimizer.zero_grad()
        (loss * len(generators)).backward()
        optimizer.step()
    return weights.detach()[:, :BODY]


@dataclass
class DigitsRegression:
    """R tasks: predict the standardised digit from few images with noisy labels. Loss ``1/2 mean (f - y)^2``.

    x, y: training images (R, n, 25, 25) and noisy targets (R, n). validation: the same of the labels kept back.
    test: images (R, m, 25, 25) and clean targets (R, m). rate, steps: of gradient descent, the same for every method.
    """

    start: Tensor
    x: Tensor
    y: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    lams: Sequence[float]
    noise: float
    rate: float
    steps: int
    watched: int = 80

    def __post_init__(self) -> None:
        self.noise_loss = 0.5 * self.noise**2

    def evaluate(self, parameters: Tensor) -> Scores:
        """Return mean squared errors: against noisy validation labels, against clean test targets."""
        with torch.no_grad():
            errors = [
                (outputs(parameters, x)[..., 0] - y).square().mean(1) for x, y in (self.validation, self.test)
            ]
        return Scores(*errors)

    def gradient(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (R,) and gradients (R, P)."""
        theta = theta.detach().requires_grad_()
        loss = 0.5 * (outputs(theta, x)[..., 0] - y).square().mean(1)
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
        return loss.detach(), gradient

    def path(self) -> Path:
        """Return the trajectory of plain gradient descent, with every lambda's stop."""
        return self._path

    @cached_property
    def _path(self) -> Path:
        marks = set(np.unique(np.rint(np.geomspace(1, self.steps, self.watched))).astype(int).tolist()) | {0}
        theta, arc = self.start, torch.zeros(len(self.start))
        points: list[Tensor] = []
        rows: list[tuple[Tensor, Tensor, Tensor]] = []
        stops = self.start[None].repeat(len(self.lams), 1, 1)
        found = torch.zeros(len(self.lams), len(arc), dtype=torch.bool)
        lams = torch.tensor(self.lams)[:, None]
        for step in range(self.steps + 1):
            loss, gradient = self.gradient(theta, self.x, self.y)
            norm = gradient.norm(dim=1)
            new = (norm <= lams * arc) & (arc > 0) & ~found
            if bool(new.any()):
                stops = torch.where(new[..., None], theta, stops)
                found |= new
            if step in marks:
                points.append(theta)
                rows.append((loss, arc, norm))
            theta, arc = theta - self.rate * gradient, arc + self.rate * norm
        stops = torch.where(found[..., None], stops, points[-1])
        losses, arcs, norms = (torch.stack(column) for column in zip(*rows))
        scores = [self.evaluate(p) for p in points]
        return Path(sorted(marks), torch.stack(points), losses, arcs, norms, scores, self.lams,
                    list(zip(stops, found)))  # fmt: skip

    def train(self, start: Tensor, strengths: Sequence[float], anchor: Tensor | None) -> list[Tensor]:
        """Train all strengths in one stack."""
        count = len(strengths)
        lam = torch.tensor(strengths).repeat_interleave(len(start))[:, None]
        x, y = self.x.repeat(count, 1, 1, 1), self.y.repeat(count, 1)
        home = torch.zeros(count * len(start), 1) if anchor is None else anchor.repeat(count, 1)
        theta = start.repeat(count, 1)
        for _ in range(self.steps):
            _, gradient = self.gradient(theta, x, y)
            theta = theta - self.rate * (gradient + lam * (theta - home))
        return list(theta.reshape(count, len(start), -1))

    def head_fits(self, strengths: Sequence[float]) -> list[Tensor]:
        """Return start with ridge heads on the frozen features (intercept not penalised)."""
        h = features(self.start, self.x)
        centre, mean = h.mean(1, keepdim=True), self.y.mean(1, keepdim=True)
        a, n = h - centre, h.shape[1]
        fits = []
        for strength in strengths:
            matrix = a.mT @ a / n + strength * torch.eye(HIDDEN)
            weight = torch.linalg.solve(matrix, a.mT @ (self.y - mean)[..., None] / n)
            bias = mean[..., None] - centre @ weight
            fits.append(torch.cat([self.start[:, :BODY], weight.flatten(1), bias.flatten(1)], 1))
        return fits

    def jacobian(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return the Jacobians of the output: theta (R, P), x (R, n, 25, 25) -> (R, n, P)."""
        single = torch.func.grad(lambda p, image: outputs(p[None], image[None, None])[0, 0, 0])
        return torch.func.vmap(torch.func.vmap(single, (None, 0)))(theta, x)

    def linearised(self, strengths: Sequence[float]) -> list[Scores]:
        """Return the errors of ridge regression with the empirical NTK at the start."""
        here = self.jacobian(self.start, self.x)
        gram = here @ here.mT
        residual = self.y - outputs(self.start, self.x)[..., 0]
        parts = []
        for x, y in (self.validation, self.test):
            blocks = [self.jacobian(self.start, piece) @ here.mT for piece in x.split(100, 1)]
            parts.append((torch.cat(blocks, 1), outputs(self.start, x)[..., 0], y))
        return [
            Scores(
                *((kernel_ridge(gram, cross, residual, f0, s) - y).square().mean(1) for cross, f0, y in parts)
            )
            for s in strengths
        ]
