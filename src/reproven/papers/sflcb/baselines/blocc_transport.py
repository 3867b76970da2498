"""BLOCC as the published transport code runs it: inner loops to loose tolerances, its own constants and report."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reproven.papers.sflcb.beds.transport import Transport
from reproven.papers.sflcb.driver import Method, Presets, Settings
from reproven.papers.sflcb.problem import Array


class Lower(NamedTuple):
    """One lower-level iterate: shares (K,), flows (K, L), balance (K, n) and capacity (L,) multipliers."""

    share: np.ndarray
    flow: np.ndarray
    balance: np.ndarray
    capacity: np.ndarray


class PublishedState(NamedTuple):
    """x (..., dx), reported y (..., dy), and per run the iterates of both levels; `inner` counts their steps."""

    x: Array
    y: Array
    plain: list[Lower]
    penalised: list[Lower]
    inner: int


class BLOCCTransport(Method):
    """``x <- max(x_low, x - beta (c + gamma lam_g - lam_F))`` after both lower levels met their tolerances.

    Constants of the published files for 3 and 9 nodes. Their choices are kept: the capacity multiplier
    enters the flow gradient without its demand weight; a level stops on small moves with up to 0.2 (0.3
    for the penalised one) imbalance at the origins, and on 9 nodes with up to 10 links more than 0.2
    over capacity; beta grows to `fast` while every capacity multiplier is below 1.

    Args: capacity_slack and capacity_share, see `_done`; wide, start at 3 + 12 U in place of 0.3 + 0.7 U.
    Source: published MATLAB files, described in the dossier's section 5.3; a port, not a copy.
    """

    ETA, ETA_DUAL, LIMIT = 1e-2, 0.4, 20_000

    def __init__(
        self,
        *,
        gamma: float = 4.0,
        beta: float = 1.6e-4,
        fast: float = 1e-3,
        capacity_slack: float = 1e-2,
        links_over: tuple[int, int] | list[int] = (0, 4),
        wide: bool = False,
        presets: Presets | None = None,
    ) -> None:
        super().__init__({"gamma": gamma, "beta": beta, "fast": fast}, presets)
        self.capacity_slack, self.links_over, self.wide = capacity_slack, tuple(links_over), wide

    def cost(self, settings: Settings) -> tuple[int, int]:
        """At least three gradients: one of f and one of g for the penalised level, one of g for the plain one."""
        return 3, 0

    def init(self, problem: Any, x: Array, y: Array, settings: Settings) -> PublishedState:
        """Return the start: shares 0.01, no flow, zero multipliers."""
        p: Transport = problem
        x = 3 + 12 * (x - 0.3) / 0.7 if self.wide else x
        first = Lower(np.full(p.K, 0.01), np.zeros((p.K, p.L)), np.zeros((p.K, p.n)), np.zeros(p.L))
        runs = len(x)
        return PublishedState(x, self._rows(p, [first] * runs), [first] * runs, [first] * runs, 0)

    def step(self, problem: Any, s: PublishedState, k: int, settings: Settings) -> PublishedState:
        """Return the state after both inner loops and one step of x, run by run."""
        p: dict[str, Any] = {**self.defaults, **settings}
        diagonal = np.flatnonzero(problem.columns[:, 0] == problem.columns[:, 1])
        x, plain, penalised, inner = s.x.copy(), [], [], s.inner
        for row, (last_g, last_f) in enumerate(zip(s.plain, s.penalised)):
            beta = p["fast"] if k > 1 and last_g.capacity.max() < 1 else p["beta"]
            g, steps_g = self._solve(problem, x[row], last_g, None)
            f, steps_f = self._solve(problem, x[row], last_f, p["gamma"])
            gradient = problem.c.copy()
            # The published arrays hold the multipliers of the diagonal at 100.
            gradient[diagonal] += 100 * (p["gamma"] - 1)
            gradient[: problem.L] += p["gamma"] * g.capacity - f.capacity
            x[row] = np.maximum(problem.x_box[0], x[row] - beta * gradient)
            plain.append(g)
            penalised.append(f)
            inner += steps_g + steps_f
        return PublishedState(x, self._rows(problem, plain), plain, penalised, inner)

    def _solve(self, p: Transport, x: np.ndarray, s: Lower, gamma: float | None) -> tuple[Lower, int]:
        """Return one level's iterate and its number of steps; gamma None means the level without f."""
        scale = 1.0 if gamma is None else gamma
        eta, eta_dual = self.ETA / scale, self.ETA_DUAL / scale
        pull = np.zeros(p.K) if gamma is None else p.m
        flow_cost = scale * p.w[:, None] * p.t
        for count in range(1, self.LIMIT + 1):
            net = s.flow @ p.incidence.T - s.share[:, None] * p.ends
            balance = s.balance + eta_dual * net
            capacity = np.maximum(s.capacity + eta_dual * (p.w @ s.flow - x[: p.L]), 0.0)
            slope = scale * p.w * (np.log(s.share / (1 - s.share)) - p.t_ext) - pull
            share = np.clip(s.share - eta * (slope - (balance * p.ends).sum(1)), 0.01, 0.99)
            move = flow_cost + capacity + balance @ p.incidence
            flow = np.clip(s.flow - eta * move, 0.0, 1.0)
            before, s = s, Lower(share, flow, balance, capacity)
            if self._done(p, x, before, s, gamma is not None):
                return s, count
        return s, self.LIMIT

    def _done(self, p: Transport, x: np.ndarray, a: Lower, b: Lower, penalised: bool) -> bool:
        """Tell whether a level stops: small moves, outflow of every origin near its share, few links over capacity."""
        cells = p.n * p.n
        moved = np.abs(b.flow - a.flow)
        if np.abs(b.share - a.share).sum() / cells / self.ETA > (0.03 if penalised else 0.02):
            return False
        if penalised and moved.max(1).sum() / cells / self.ETA > 0.1:
            return False
        if not penalised and moved.sum() / cells**2 / self.ETA > 0.01:
            return False
        leaving = b.flow @ np.maximum(p.incidence, 0).T
        lag = np.abs(leaving[np.arange(p.K), p.pairs[:, 0]] - b.share).max()
        over = int((p.w @ b.flow >= x[: p.L] + self.capacity_slack).sum())
        return bool(lag <= (0.3 if penalised else 0.2) and over <= self.links_over[penalised])

    @staticmethod
    def _rows(p: Transport, levels: list[Lower]) -> np.ndarray:
        return np.stack([np.r_[level.share, level.flow.ravel()] for level in levels])
