"""Vowpal Wabbit's contextual bandit with action-dependent features, through its Python binding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reproven.harness.errors import require
from reproven.papers.online_l2d.learner import Trace, check_ranges, tuning_grid
from reproven.papers.online_l2d.streams import Stream


@dataclass(frozen=True)
class VowpalWabbit:
    """``--cb_explore_adf`` with one line per available row, so that the pool may change in every round.

    The shared line holds x, each action line its row's name; ``--interactions sa`` gives each row its own
    linear model of the cost. exploration: "epsilon" (eps = min(1, kappa T^{-1/3})) or "squarecb" (gamma scale
    10 kappa, 10 being its default). kappa > 0. rate > 0: the learning rate, 0.5 by default. `Blocked` where the package
    vowpalwabbit is absent.
    """

    exploration: str = "epsilon"
    kappa: float = 1.0
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.exploration not in ("epsilon", "squarecb"):
            raise ValueError(f"exploration {self.exploration!r} is unknown: use epsilon or squarecb")
        check_ranges(self, positive=("kappa", "rate"))

    def candidates(self) -> list[VowpalWabbit]:
        """Grid for tuning: exploration times learning rate, as large as every other method's."""
        return tuning_grid(self, "rate")

    def command(self, rounds: int) -> str:
        """Return the options for a horizon of `rounds`."""
        options = f"--cb_explore_adf --interactions sa --quiet --learning_rate {self.rate:.10g}"
        if self.exploration == "epsilon":
            return f"{options} --epsilon {min(1.0, self.kappa * rounds ** (-1 / 3)):.10g}"
        return f"{options} --squarecb --gamma_scale {10 * self.kappa:.10g}"

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream, one prediction and one update a round."""
        require("vowpalwabbit", "online_l2d")
        import vowpalwabbit

        workspace = vowpalwabbit.Workspace(self.command(stream.rounds))
        shared = [
            "shared |s " + " ".join(f"{j}:{v:.6g}" for j, v in enumerate(x) if v != 0.0)
            for x in stream.contexts
        ]
        names = [f"|a {row}" for row in range(stream.rows)]
        pools = stream.pool()
        trace, uniforms = Trace.blank(stream.rounds), rng.random(stream.rounds)
        for t in range(stream.rounds):
            rows = np.flatnonzero(pools[t]).tolist()
            lines = [shared[stream.index[t]], *(names[row] for row in rows)]
            p = np.asarray(workspace.predict(lines))
            p /= p.sum()
            i = min(int(np.searchsorted(np.cumsum(p), uniforms[t], side="right")), len(rows) - 1)
            trace.actions[t], trace.propensities[t] = rows[i], p[i]
            cost = stream.realised_cost_at(t, rows[i])
            lines[i + 1] = f"{i}:{cost:.6g}:{p[i]:.8g} {names[rows[i]]}"
            workspace.learn(lines)
        workspace.finish()
        return trace
