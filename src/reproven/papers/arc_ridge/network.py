"""Fine-tuning of one torch network by AdamW: the problem that text and paper-tier transfer hand to every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.papers.arc_ridge.arc import ArcRidge
from reproven.papers.arc_ridge.finetuning import Path, Scores
from reproven.papers.arc_ridge.path import first_stop

Measure = Callable[[Tensor, Tensor], Tensor]
Trainable = Any  # an nn.Module with `features` and `head`
CHUNK = 256  # data at a time, where no gradient is taken


def wrong_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return 1 where the largest output is not the label's, else 0."""
    return (outputs.argmax(1) != labels).float()


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return ``(f - y)^2`` of each datum; outputs (n, 1), labels (n,)."""
    return (outputs[:, 0] - labels).square()


def half_mean_square(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss ``1/2 mean (f - y)^2``."""
    return 0.5 * squared_error(outputs, labels).mean()


@dataclass
class NetworkFineTuning:
    """One task: a network fine-tuned by AdamW on batches of two halves, arc ridge in Adam's metric.

    net: pretrained, with ``features(*inputs)`` and a zero ``head``; a module without dropout or running statistics.
    train_set, validation, test: inputs, then labels; those of the test are right. They may lie on another device.
    loss: outputs, labels -> mean loss. error: outputs, labels -> error of each datum.
    lams: of the penalties. arc_lams: of arc ridge, whose unit is that of Adam's metric.
    rate, steps, batch: of AdamW, the same for every method. seed: of the order of batches, likewise.
    every: steps between measurements of length and norm, and between watched points.
    """

    net: Trainable
    train_set: tuple[Tensor, ...]
    validation: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    loss: Measure
    error: Measure
    lams: Sequence[float]
    arc_lams: Sequence[float]
    noise_loss: float
    rate: float
    steps: int
    batch: int
    every: int
    seed: int
    lengths: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        self.start = nn.utils.parameters_to_vector(self.net.parameters()).detach()[None].clone()

    def load(self, parameters: Tensor) -> None:
        """Put parameters (1, P) into the network."""
        nn.utils.vector_to_parameters(parameters[0].clone(), self.net.parameters())

    def evaluate(self, parameters: Tensor) -> Scores:
        """Return the mean errors, (1,): of noisy validation labels, of clean test labels."""
        self.load(parameters)
        return Scores(*(self._mean(self.error, part)[None] for part in (self.validation, self.test)))

    def features(self, parameters: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Return the features of `inputs` at these parameters, (n, k), on the inputs' device."""
        self.load(parameters)
        with torch.no_grad():
            blocks = zip(*(part.split(CHUNK) for part in inputs))
            return torch.cat([self.net.features(*self._here(block)).to(inputs[0].device) for block in blocks])

    def _here(self, parts: Sequence[Tensor]) -> list[Tensor]:
        device = self.net.head.weight.device
        return [part.to(device) for part in parts]

    def _mean(self, measure: Measure, data: tuple[Tensor, ...]) -> Tensor:
        total = torch.zeros(())
        with torch.no_grad():
            for block in zip(*(part.split(CHUNK) for part in data)):
                *inputs, labels = self._here(block)
                total = total + measure(self.net(*inputs), labels).mean().cpu() * len(labels)
        return total / len(data[-1])

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the indices of two halves, drawn independently: disjoint halves of few data are anticorrelated."""
        generator = torch.Generator().manual_seed(self.seed)
        n, half = len(self.train_set[-1]), self.batch // 2
        while True:
            yield torch.randperm(n, generator=generator)[:half], torch.randperm(n, generator=generator)[:half]

    def _loss(self, pick: Tensor) -> Tensor:
        *inputs, labels = self._here([part[pick] for part in self.train_set])
        return self.loss(self.net(*inputs), labels)

    def whole_loss(self) -> float:
        """Return the loss on all training data at the present parameters."""
        return float(self._mean(self.loss, self.train_set))

    def path(self) -> Path:
        """Return the trajectory of AdamW without decay, with every lambda's stop (debiased norm, coarse arc)."""
        return self._path

    @cached_property
    def _path(self) -> Path:
        self.load(self.start)
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.rate, weight_decay=0.0)
        arc = ArcRidge(optimizer, 0.0, every=self.every, gradient="halves", decay=0.7)
        rows, points, plain, euclidean = [], [], [], 0.0
        batches = self._batches()
        for _ in range(self.steps + 1):
            first, second = next(batches)
            due = arc.steps % self.every == 0
            if due:
                points.append(nn.utils.parameters_to_vector(self.net.parameters()).detach()[None].clone())
                loss = self.whole_loss()
            optimizer.zero_grad()
            (0.5 * self._loss(first)).backward()
            arc.half()
            (0.5 * self._loss(second)).backward()
            info = arc.step()
            if due:
                norm = info.grad_norm if arc.settled else np.inf
                rows.append((arc.steps - 1, loss, info.arc, norm))
                euclidean += float((points[-1] - points[max(len(points) - 2, 0)]).norm())
                size = torch.stack(
                    [p.grad.norm() for p in self.net.parameters() if p.grad is not None]
                ).norm()
                plain.append((euclidean, float(size)))
        scores = [self.evaluate(p) for p in points]
        step, loss_, arcs, norms = (np.array(column) for column in zip(*rows))
        self.lengths = {"step": step, "own_arc": arcs, "own_norm": norms,
                        "euclidean_arc": np.array(plain)[:, 0], "euclidean_norm": np.array(plain)[:, 1]}  # fmt: skip
        stops = []
        for lam in self.arc_lams:
            index, reached = first_stop(norms, arcs, lam)
            stops.append((points[index], torch.tensor([reached])))
        column = lambda values: torch.tensor(values, dtype=torch.float32)[:, None]  # noqa: E731 - used below
        return Path(step.tolist(), torch.stack(points), column(loss_), column(arcs), column(norms), scores,
                    self.arc_lams, stops)  # fmt: skip

    def train(self, start: Tensor, strengths: Sequence[float], anchor: Tensor | None) -> list[Tensor]:
        """Train with AdamW; the penalty is in the gradient, not decoupled, so that the minimiser is the stated one."""
        ends = []
        for strength in strengths:
            self.load(start)
            parameters = list(self.net.parameters())
            optimizer = torch.optim.AdamW(parameters, lr=self.rate, weight_decay=0.0)
            home = [p.detach().clone() if anchor is not None else torch.zeros_like(p) for p in parameters]
            batches = self._batches()
            for _ in range(self.steps):
                first, second = next(batches)
                optimizer.zero_grad()
                self._loss(torch.cat([first, second])).backward()
                if strength:
                    with torch.no_grad():
                        for p, h in zip(parameters, home):
                            if p.grad is not None:
                                p.grad.add_(p - h, alpha=strength)
                optimizer.step()
            ends.append(nn.utils.parameters_to_vector(parameters).detach()[None].clone())
        return ends

    def head_fits(self, strengths: Sequence[float]) -> list[Tensor]:
        """Return start with heads fitted on the frozen features, one for each ridge strength.

        Multinomial logistic regression for classes, ridge regression for numbers (intercepts not penalised).
        """
        from sklearn.linear_model import LogisticRegression, Ridge

        z = self.features(self.start, self.train_set[:-1]).cpu().numpy()
        labels = self.train_set[-1].cpu().numpy()
        fits = []
        for strength in strengths:
            weight, bias = torch.zeros_like(self.net.head.weight), torch.full_like(self.net.head.bias, -1e3)
            if self.train_set[-1].is_floating_point():
                line = Ridge(alpha=strength * len(labels)).fit(z, labels)
                weight[0], bias[0] = torch.as_tensor(line.coef_).to(weight), float(line.intercept_)
            else:
                model = LogisticRegression(C=1 / (strength * len(labels)), max_iter=500).fit(z, labels)
                weight[model.classes_] = torch.as_tensor(model.coef_).to(weight)
                bias[model.classes_] = torch.as_tensor(model.intercept_).to(bias)
            self.load(self.start)
            with torch.no_grad():
                self.net.head.weight.copy_(weight)
                self.net.head.bias.copy_(bias)
            fits.append(nn.utils.parameters_to_vector(self.net.parameters()).detach()[None].clone())
        return fits

    def linearised(self, strengths: Sequence[float]) -> list[Scores]:
        """Not offered: the Jacobian of all outputs on all data would not fit into memory."""
        raise ValueError(
            "the empirical NTK of this network is too large: leave ft_kernel_ridge out of method="
        )
