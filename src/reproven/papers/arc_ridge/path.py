"""One training run that answers every lambda: the trajectory of arc ridge does not depend on lambda, its end does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reproven.papers.arc_ridge.arc import ArcRidge

GIB = 1 << 30
FIRST_SPACING = 0.05  # of log(|grad L| / A) between kept checkpoints, before thinning


@dataclass(frozen=True)
class Stop:
    """Where arc ridge with `lam` ends: first recorded point with ``|grad L| <= lam A``.

    reached: False where the run was too short; its end stands in. checkpoint: step of the nearest kept
    parameters at or before it (`step` itself where the lambda was announced).
    """

    lam: float
    index: int
    step: int
    arc: float
    grad_norm: float
    reached: bool
    checkpoint: int


@dataclass
class Checkpoints:
    """Parameters at chosen steps, in memory or under `folder`, never more than `budget` bytes.

    With `lams` the points where each of these stops are kept, each once. Without, points are kept at equal distances
    of ``log(|grad L| / A)``; when the budget is full every second one goes and the distance doubles.
    """

    folder: Path | None
    budget: int
    lams: list[float] | None
    size: int = 0
    kept: dict[int, list[Tensor] | Path] = field(default_factory=dict)
    level: float = 700.0  # of log(|grad L| / A) at the last one kept
    spacing: float = FIRST_SPACING

    def offer(self, step: int, ratio: float, parameters: Sequence[Tensor]) -> None:
        """Keep the parameters at `step` if ``ratio = |grad L| / A`` says that some lambda will need them."""
        self.size = sum(p.numel() * p.element_size() for p in parameters)
        if self.size > self.budget:
            raise ValueError(
                f"one checkpoint has {self.size} bytes, the budget is {self.budget}: raise budget_bytes"
            )
        if self.lams is not None:
            due = [lam for lam in self.lams if lam >= ratio]
            if not due:
                return
            self.lams = [lam for lam in self.lams if lam < ratio]
        elif self.kept and not 0 < ratio <= math.exp(self.level - self.spacing):
            return
        if 0 < ratio < math.inf:
            self.level = math.log(ratio)
        if (len(self.kept) + 1) * self.size > self.budget:
            self._thin()
        self._keep(step, parameters)

    def close(self, step: int, parameters: Sequence[Tensor]) -> None:
        """Keep the end of the run, for lambdas that it was too short for."""
        if step not in self.kept:
            if (len(self.kept) + 1) * self.size > self.budget:
                self._thin()
            self._keep(step, parameters)

    def load(self, step: int) -> list[Tensor]:
        """Return the parameters kept at `step`."""
        entry = self.kept[step]
        return torch.load(entry, weights_only=True) if isinstance(entry, Path) else entry

    def _keep(self, step: int, parameters: Sequence[Tensor]) -> None:
        copies = [p.detach().clone() for p in parameters]
        if self.folder is None:
            self.kept[step] = copies
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{step}.pt"
        torch.save(copies, path)
        self.kept[step] = path

    def _thin(self) -> None:
        if self.lams is not None:
            raise ValueError(
                f"{len(self.kept) + 1} checkpoints of {self.size} bytes exceed the budget of {self.budget}: "
                "announce fewer lambdas or raise budget_bytes"
            )
        for step in sorted(self.kept)[1::2]:
            entry = self.kept.pop(step)
            if isinstance(entry, Path):
                entry.unlink()
        self.spacing *= 2


@dataclass(frozen=True)
class ArcPath:
    """A recorded trajectory: step, A, ``|grad L|`` and loss, each (points,), and the checkpoints kept of it.

    end: number of steps of the run, whose last parameters are kept too.
    """

    step: np.ndarray
    arc: np.ndarray
    grad_norm: np.ndarray
    loss: np.ndarray
    end: int
    checkpoints: Checkpoints

    def stop(self, lam: float) -> Stop:
        """Return where arc ridge with this lambda ends, by look-up."""
        if not (math.isfinite(lam) and lam >= 0):
            raise ValueError(f"lam = {lam} must be a finite number of 0 or more")
        index, reached = first_stop(self.grad_norm, self.arc, lam)
        step = int(self.step[index]) if reached else self.end
        kept = [s for s in self.checkpoints.kept if s <= step]
        return Stop(
            lam,
            index,
            step,
            float(self.arc[index]),
            float(self.grad_norm[index]),
            reached,
            max(kept, default=-1),
        )

    def load(self, lam: float, parameters: Sequence[Tensor]) -> Stop:
        """Copy the kept parameters of this lambda into `parameters`; ValueError if they have another shape."""
        found = self.stop(lam)
        if found.checkpoint < 0:
            raise ValueError(f"no checkpoint at or before step {found.step}: announce lam = {lam} beforehand")
        for i, (p, saved) in enumerate(zip(parameters, self.checkpoints.load(found.checkpoint), strict=True)):
            if p.shape != saved.shape:
                raise ValueError(f"parameter {i} has shape {tuple(p.shape)}, the path's {tuple(saved.shape)}")
            p.data.copy_(saved)
        return found


def first_stop(grad_norm: np.ndarray, arc: np.ndarray, lam: float) -> tuple[int, bool]:
    """Return (first index with ``grad_norm <= lam arc`` and arc > 0, True), or (the last index, False)."""
    hits = np.flatnonzero((grad_norm <= lam * arc) & (arc > 0))
    return (int(hits[0]), True) if len(hits) else (len(arc) - 1, False)


def arc_path(
    optimizer: torch.optim.Optimizer,
    backward: Callable[[ArcRidge], float],
    steps: int,
    *,
    every: int = 1,
    gradient: str = "full",
    decay: float = 0.9,
    lams: Sequence[float] | None = None,
    folder: Path | None = None,
    budget_bytes: int = GIB,
) -> ArcPath:
    """Train once without regularisation and record what the stop of every lambda needs.

    backward: called with the `ArcRidge` before each step; sets gradients (and calls ``arc.half()`` between two half
        batches when `gradient` is ``"halves"``), returns the loss.
    steps: of the optimiser, >= 1. every, gradient, decay: as in `ArcRidge`.
    lams: lambdas whose end points are kept exactly; None keeps points for any lambda within the budget.
    folder: for checkpoints on disk; None keeps them in memory. budget_bytes: for all of them.

    Returns an `ArcPath`; ``path.stop(lam)`` is a look-up, ``path.load(lam, parameters)`` brings the parameters back.
    Source: dossier 3.7. Example::

        path = arc_path(opt, lambda arc: train_loss_with_gradients(), 1000, lams=np.logspace(-4, 1, 25))
        path.load(0.1, list(model.parameters()))
    """
    if steps < 1:
        raise ValueError(f"steps = {steps} must be at least 1")
    announced = None if lams is None else sorted(float(lam) for lam in lams)
    for lam in announced or ():
        if not (math.isfinite(lam) and lam >= 0):
            raise ValueError(f"lam = {lam} must be a finite number of 0 or more")
    arc = ArcRidge(optimizer, 0.0, every=every, gradient=gradient, decay=decay)
    store = Checkpoints(folder, budget_bytes, announced)
    rows: list[tuple[int, float, float, float]] = []
    for step in range(steps):
        loss = backward(arc)
        info = arc.step(loss)
        if info.measured and arc.settled:
            rows.append((step, info.arc, info.grad_norm, float(loss)))
            store.offer(step, info.grad_norm / info.arc if info.arc > 0 else math.inf, arc.point)
    if not rows:
        raise ValueError(f"{steps} steps hold no settled measurement: take more steps or a smaller decay")
    store.close(steps, [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad])
    table = np.array(rows, dtype=float)
    return ArcPath(table[:, 0].astype(int), table[:, 1], table[:, 2], table[:, 3], steps, store)
