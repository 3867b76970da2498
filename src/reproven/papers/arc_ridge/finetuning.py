"""Ways to regularise fine-tuning, on one problem, one grid of strengths and one budget of steps.

A problem stacks R independent tasks (one a seed) and knows how to train; a method returns candidates, one for each
strength of its grid. Candidates are compared on validation labels that every method has; only the oracle sees more.
All rules that only stop share one unregularised trajectory, `Problem.path`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Validation and test error of R tasks, (R,) each: mean squared error, or share of wrong classes."""

    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class Candidate:
    """Parameters (R, P) at one strength; None where the model is none of the network's (`scores` stand in)."""

    strength: float
    parameters: Tensor | None
    scores: Scores | None = None


@dataclass(frozen=True)
class Path:
    """The unregularised trajectory at K watched points: parameters (K, R, P), the rest (K, R).

    stops: for each lambda of `lams` the parameters where arc ridge ends, (R, P), and whether it does, (R,).
    """

    step: list[int]
    parameters: Tensor
    loss: Tensor
    arc: Tensor
    grad_norm: Tensor
    scores: list[Scores]
    lams: Sequence[float]
    stops: list[tuple[Tensor, Tensor]]

    def at(self, index: Tensor) -> Tensor:
        """Return each task's parameters at its own watched point; index: (R,)."""
        return self.parameters[index, torch.arange(self.parameters.shape[1])]

    def first(self, hit: Tensor) -> Tensor:
        """Return the index of the first True of each column of (K, R), the last point where there is none."""
        return torch.where(hit.any(0), hit.double().argmax(0), len(hit) - 1)


class Problem(Protocol):
    """What a method may ask of a fine-tuning problem; `start` (R, P) are the pretrained weights and a zero head."""

    start: Tensor
    lams: Sequence[float]
    noise_loss: float

    def path(self) -> Path:
        """Return the unregularised trajectory from `start`, computed once."""

    def train(self, start: Tensor, strengths: Sequence[float], anchor: Tensor | None) -> list[Tensor]:
        """Train with penalty ``strength/2 |theta - anchor|^2`` (anchor None: zero) for each strength; the ends."""

    def evaluate(self, parameters: Tensor) -> Scores:
        """Return the errors of parameters (R, P)."""

    def head_fits(self, strengths: Sequence[float]) -> list[Tensor]:
        """Return `start` with heads fitted on frozen features, one for each ridge strength."""

    def linearised(self, strengths: Sequence[float]) -> list[Scores]:
        """Return the errors of ridge regression with the empirical NTK at `start`, for each strength."""


def select(candidates: list[Scores]) -> Tensor:
    """Return the index of the least validation error of each task, the first of equals, (R,)."""
    return torch.stack([s.validation for s in candidates]).argmin(0)


def pick(candidates: list[Candidate], index: Tensor) -> Tensor | None:
    """Return each task's own candidate's parameters; None where candidates have none."""
    stack = [c.parameters for c in candidates if c.parameters is not None]
    return torch.stack(stack)[index, torch.arange(len(index))] if len(stack) == len(candidates) else None


@dataclass
class NoRegularisation:
    """The end of training."""

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the end of the trajectory."""
        return [Candidate(0.0, problem.path().parameters[-1])]


@dataclass
class ArcRidgePath:
    """Arc ridge for every lambda of the grid, by look-up on one trajectory (dossier 3.6)."""

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the stop of each lambda."""
        path = problem.path()
        return [Candidate(lam, point) for lam, (point, _) in zip(path.lams, path.stops)]


@dataclass
class WeightDecay:
    """``lambda/2 |theta|^2``: pulls pretrained weights to zero. One run for each lambda."""

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the end of each run."""
        ends = problem.train(problem.start, problem.lams, None)
        return [Candidate(lam, end) for lam, end in zip(problem.lams, ends)]


@dataclass
class AnchoredRidge:
    """``lambda/2 |theta - theta0|^2`` (L2-SP, Li et al. 2018, arXiv 1802.01483). One run for each lambda."""

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the end of each run."""
        ends = problem.train(problem.start, problem.lams, problem.start)
        return [Candidate(lam, end) for lam, end in zip(problem.lams, ends)]


@dataclass
class Patience:
    """Early stopping: the best validation error so far, once `patience` watched points brought no better one."""

    patience: int = 10

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the best point before patience ran out."""
        path = problem.path()
        errors = torch.stack([s.validation for s in path.scores])
        return [Candidate(0.0, path.at(patience_index(errors, self.patience)))]


def patience_index(errors: Tensor, patience: int) -> Tensor:
    """Return where each column's minimum lies when the search ends after `patience` rows without a new one."""
    if patience < 1:
        raise ValueError(f"patience = {patience} must be at least 1")
    best, index = errors[0].clone(), torch.zeros(errors.shape[1], dtype=torch.long)
    for row in range(1, len(errors)):
        better = (errors[row] < best) & (row - index <= patience)
        best, index = torch.where(better, errors[row], best), torch.where(better, row, index)
    return index


@dataclass
class OracleStopping:
    """The point of least *test* error: unachievable, a bound for every rule that only stops."""

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return each task's best point on the test set."""
        path = problem.path()
        return [Candidate(0.0, path.at(torch.stack([s.test for s in path.scores]).argmin(0)))]


@dataclass
class GradientNormStopping:
    """Stops where ``|grad L| <= strength |grad L(start)|``: arc ridge without the arc."""

    strengths: list[float] = field(default_factory=lambda: [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01])

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the first watched point of each strength."""
        path = problem.path()
        return [
            Candidate(s, path.at(path.first(path.grad_norm <= s * path.grad_norm[0]))) for s in self.strengths
        ]


@dataclass
class DiscrepancyPrinciple:
    """Stops where the training loss is what the truth itself would have on labels of known noise (Morozov)."""

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the first watched point with that loss."""
        path = problem.path()
        return [Candidate(problem.noise_loss, path.at(path.first(path.loss <= problem.noise_loss)))]


@dataclass
class LinearProbe:
    """Frozen body, ridge on its features; the strengths are of the head's penalty alone."""

    strengths: list[float] = field(default_factory=lambda: [1e-3, 1e-2, 1e-1, 1.0])

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return one head for each strength."""
        return [Candidate(s, p) for s, p in zip(self.strengths, problem.head_fits(self.strengths))]


@dataclass
class ProbeThenFineTune:
    """LP-FT (Kumar et al. 2022, arXiv 2202.10054): all weights, from the best linear probe, without penalty."""

    strengths: list[float] = field(default_factory=lambda: [1e-3, 1e-2, 1e-1, 1.0])

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the end of the run from the probe that is best on validation."""
        heads = problem.head_fits(self.strengths)
        index = select([problem.evaluate(p) for p in heads])
        start = torch.stack(heads)[index, torch.arange(len(index))]
        return [Candidate(0.0, problem.train(start, [0.0], None)[0])]


@dataclass
class WeightInterpolation:
    """WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903): ``(1 - s) start + s end``, a straight way back."""

    strengths: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return one interpolation for each strength."""
        start, end = problem.start, problem.path().parameters[-1]
        return [Candidate(s, wise(start, end, s)) for s in self.strengths]


def wise(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Return ``(1 - share) start + share end``; ValueError for another shape or a share outside [0, 1]."""
    if start.shape != end.shape:
        raise ValueError(f"the anchor has shape {tuple(start.shape)}, the parameters {tuple(end.shape)}")
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share} must lie in [0, 1]")
    return (1 - share) * start + share * end


@dataclass
class KernelRidge:
    """The linearised network: ridge regression with the empirical NTK of the pretrained weights."""

    strengths: list[float] = field(default_factory=lambda: [1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0])

    def candidates(self, problem: Problem) -> list[Candidate]:
        """Return the errors of each strength; there are no parameters."""
        scores = problem.linearised(self.strengths)
        return [Candidate(s, None, found) for s, found in zip(self.strengths, scores)]


def kernel_ridge(gram: Tensor, cross: Tensor, residual: Tensor, offset: Tensor, strength: float) -> Tensor:
    """Return ``f0(x') + Theta(x', X) (Theta(X, X) + strength n I)^{-1} (y - f0(X))`` (arXiv 2502.01556).

    gram: (..., n, n), cross: (..., m, n), residual: ``y - f0(X)`` (..., n), offset: ``f0(x')`` (..., m). strength: of
    the penalty against a mean loss, >= 0.
    """
    n = gram.shape[-1]
    matrix = gram + strength * n * torch.eye(n, dtype=gram.dtype)
    return offset + (cross @ torch.linalg.solve(matrix, residual[..., None])).squeeze(-1)
