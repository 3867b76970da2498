"""Text transfer: the last feed-forward block of a sentence encoder and a head, on few labels, some of them wrong.

AdamW with arc ridge in Adam's metric. Everything below the trained block is frozen and computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.papers.arc_ridge.arc import ArcRidge
from reproven.papers.arc_ridge.finetuning import Path, Scores
from reproven.papers.arc_ridge.path import first_stop


class LastBlock(nn.Module):
    """Feed-forward block with residual and layer norm, mean over tokens, linear head: the trained part of BERT.

    ``logits = head(mean_tokens LN(h + W2 gelu(W1 h)))``. dense_in, dense_out, norm: those of the encoder's last layer.
    """

    def __init__(self, dense_in: nn.Linear, dense_out: nn.Linear, norm: nn.LayerNorm, classes: int) -> None:
        super().__init__()
        self.dense_in, self.dense_out, self.norm = dense_in, dense_out, norm
        self.head = nn.Linear(dense_in.in_features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, h: Tensor, mask: Tensor) -> Tensor:
        """h: (n, tokens, d), mask: (n, tokens) -> (n, d)."""
        z = self.norm(h + self.dense_out(nn.functional.gelu(self.dense_in(h))))
        return (z * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.head(self.features(h, mask))


def frozen_part(encoder: Any, tokenizer: Any, texts: list[str], tokens: int) -> tuple[Tensor, Tensor]:
    """Return what enters the last feed-forward block of a BERT encoder, (n, tokens, d), and the mask, (n, tokens)."""
    coded = tokenizer(texts, truncation=True, max_length=tokens, padding="max_length", return_tensors="pt")
    kept: list[Tensor] = []
    hook = encoder.encoder.layer[-1].attention.register_forward_hook(
        lambda module, inputs, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        with torch.no_grad():
            for at in range(0, len(texts), 64):
                encoder(**{name: column[at : at + 64] for name, column in coded.items()})
    finally:
        hook.remove()
    return torch.cat(kept), coded["attention_mask"].float()


def flip_labels(labels: np.ndarray, share: float, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Return labels of which `share` (rounded), drawn at random, are moved to another class, uniformly."""
    if not 0 <= share < 1:
        raise ValueError(f"share of wrong labels = {share} must lie in [0, 1)")
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    moved = labels.copy()
    moved[wrong] = (labels[wrong] + rng.integers(1, classes, size=len(wrong))) % classes
    return moved


def noise_entropy(share: float, classes: int) -> float:
    """Return the cross-entropy of the truth on labels of which `share` are wrong, in nats."""
    if share == 0:
        return 0.0
    return float(-(1 - share) * np.log(1 - share) - share * np.log(share / (classes - 1)))


@dataclass
class TextClassification:
    """One task: `block` fine-tuned by AdamW on batches of two halves; errors are shares of wrong classes.

    block: pretrained, with a zero head. train_set, validation, test: h, mask, labels; test labels are right.
    lams: of the penalties. arc_lams: of arc ridge, whose unit is that of Adam's metric.
    rate, steps, batch: of AdamW, the same for every method. seed: of the order of batches, likewise.
    every: steps between measurements of length and norm, and between watched points.
    """

    block: LastBlock
    train_set: tuple[Tensor, Tensor, Tensor]
    validation: tuple[Tensor, Tensor, Tensor]
    test: tuple[Tensor, Tensor, Tensor]
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
        self.start = nn.utils.parameters_to_vector(self.block.parameters()).detach()[None].clone()

    def load(self, parameters: Tensor) -> None:
        """Put parameters (1, P) into the block."""
        nn.utils.vector_to_parameters(parameters[0].clone(), self.block.parameters())

    def evaluate(self, parameters: Tensor) -> Scores:
        """Return shares of wrong classes, (1,): of noisy validation labels, of clean test labels."""
        self.load(parameters)
        with torch.no_grad():
            wrong = [
                (self.block(h, mask).argmax(1) != labels).float().mean()[None]
                for h, mask, labels in (self.validation, self.test)
            ]
        return Scores(*wrong)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the indices of two halves, drawn independently: disjoint halves of few data are anticorrelated."""
        generator = torch.Generator().manual_seed(self.seed)
        n, half = len(self.train_set[2]), self.batch // 2
        while True:
            yield torch.randperm(n, generator=generator)[:half], torch.randperm(n, generator=generator)[:half]

    def _loss(self, pick: Tensor) -> Tensor:
        h, mask, labels = (part[pick] for part in self.train_set)
        return nn.functional.cross_entropy(self.block(h, mask), labels)

    def whole_loss(self) -> float:
        """Return the loss on all training texts at the block's present parameters."""
        with torch.no_grad():
            return float(self._loss(torch.arange(len(self.train_set[2]))))

    def path(self) -> Path:
        """Return the trajectory of AdamW without decay, with every lambda's stop (debiased norm, coarse arc)."""
        return self._path

    @cached_property
    def _path(self) -> Path:
        self.load(self.start)
        optimizer = torch.optim.AdamW(self.block.parameters(), lr=self.rate, weight_decay=0.0)
        arc = ArcRidge(optimizer, 0.0, every=self.every, gradient="halves", decay=0.7)
        rows, points, plain, euclidean = [], [], [], 0.0
        batches = self._batches()
        for _ in range(self.steps + 1):
            first, second = next(batches)
            due = arc.steps % self.every == 0
            if due:
                points.append(nn.utils.parameters_to_vector(self.block.parameters()).detach()[None].clone())
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
                    [p.grad.norm() for p in self.block.parameters() if p.grad is not None]
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
            parameters = list(self.block.parameters())
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
        """Return start with multinomial logistic heads on the frozen features, one for each ridge strength."""
        from sklearn.linear_model import LogisticRegression

        self.load(self.start)
        with torch.no_grad():
            z = self.block.features(*self.train_set[:2])
        labels = self.train_set[2].numpy()
        fits = []
        for strength in strengths:
            model = LogisticRegression(C=1 / (strength * len(labels)), max_iter=500).fit(z.numpy(), labels)
            weight, bias = (
                torch.zeros_like(self.block.head.weight),
                torch.full_like(self.block.head.bias, -1e3),
            )
            weight[model.classes_] = torch.as_tensor(model.coef_, dtype=weight.dtype)
            bias[model.classes_] = torch.as_tensor(model.intercept_, dtype=bias.dtype)
            self.load(self.start)
            with torch.no_grad():
                self.block.head.weight.copy_(weight)
                self.block.head.bias.copy_(bias)
            fits.append(nn.utils.parameters_to_vector(self.block.parameters()).detach()[None].clone())
        return fits

    def linearised(self, strengths: Sequence[float]) -> list[Scores]:
        """Not offered: the Jacobian of all classes on all texts would not fit into memory."""
        raise NotImplementedError(
            "the empirical NTK of the text block is too large; leave ft_kernel_ridge out"
        )
