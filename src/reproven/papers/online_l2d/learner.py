"""Online learning-to-defer: hyper-parameters and the compiled run over a stream.

Reconstructed from the v5 abstract of "Online Learning-to-Defer with Varying Experts" (arXiv 2605.12340);
`learner_reference` has the algorithm in the paper's order, `learner_numpy` a twin vectorised over seeds, and
`deferrer` the same learner one round at a time.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np

from reproven.papers.online_l2d import kernels
from reproven.papers.online_l2d.kernels import Rounds, Spec, State
from reproven.papers.online_l2d.streams import Stream

SURROGATES = {"s_cost": kernels.S_COST, "s_reward": kernels.S_REWARD, "ce_reward": kernels.CE_REWARD}
SAMPLERS = {"greedy": kernels.GREEDY, "softmax": kernels.SOFTMAX}
FEEDBACK = {
    "bandit": kernels.BANDIT,
    "label_after_deferral": kernels.LABEL_AFTER_DEFERRAL,
    "full": kernels.FULL,
}
STEPS = {"theory": kernels.THEORY, "adagrad": kernels.ADAGRAD, "constant": kernels.CONSTANT}
BLOCK = 1 << 16  # rounds whose uniforms are drawn at once
# Multiples of the two knobs that every tuned method has: exploration and scale (radius, ridge, rate).
EXPLORATION_GRID = (1 / 3, 1.0, 3.0, 9.0)
SCALE_GRID = (1 / 3, 1.0, 3.0)

Method = TypeVar("Method", bound=Any)


@dataclass(frozen=True)
class Trace:
    """What a policy did on a stream: rows played (T,), their probabilities (T,; NaN where unknown), info."""

    actions: np.ndarray
    propensities: np.ndarray
    info: dict[str, float] = field(default_factory=dict)

    @classmethod
    def blank(cls, rounds: int) -> Trace:
        """Trace of T rounds, to be filled in place."""
        return cls(np.empty(rounds, np.int16), np.empty(rounds))


def blocks(stream: Stream, trace: Trace, rng: np.random.Generator) -> Iterator[Rounds]:
    """Yield the stream's rounds for the compiled code, which fills `trace`; `rng` gives two uniforms a round."""
    contexts = stream.augmented()
    for start in range(0, stream.rounds, BLOCK):
        part = slice(start, min(start + BLOCK, stream.rounds))
        yield Rounds(
            n_labels=stream.n_labels,
            first=start,
            contexts=contexts,
            which=stream.index[part],
            label=stream.label[part],
            wrong=stream.wrong[part],
            available=stream.available[part],
            fee=stream.fee,
            uniforms=rng.random((part.stop - start, 2)),
            actions=trace.actions[part],
            propensities=trace.propensities[part],
        )


def check_ranges(method: object, *, positive: Sequence[str] = (), not_negative: Sequence[str] = ()) -> None:
    """Raise ValueError unless the fields of `method` named are finite numbers > 0, and >= 0."""
    for name in (*positive, *not_negative):
        value: float = getattr(method, name)
        known = isinstance(value, numbers.Real) and 0 <= value < np.inf
        if name in positive and not (known and value > 0):
            raise ValueError(f"{name} is {value}: give a positive finite number")
        if not known:
            raise ValueError(f"{name} is {value}: give a finite number >= 0")


def tuning_grid(method: Method, scale: str) -> list[Method]:
    """Return the method's twelve settings: four exploration constants kappa times three of its field `scale`."""
    return [
        replace(method, kappa=method.kappa * k, **{scale: getattr(method, scale) * s})
        for k in EXPLORATION_GRID
        for s in SCALE_GRID
    ]


def theory_constant(surrogate: str, rows: int) -> float:
    """G of E||g^||^2 <= G^2 rho^2 / gamma: N (S-cost), N^{3/2} (S-reward), sqrt(2) N (CE-reward)."""
    return {"s_cost": rows, "s_reward": rows**1.5, "ce_reward": np.sqrt(2.0) * rows}[surrogate]


@dataclass(frozen=True)
class OnlineL2D:
    """Pool-masked linear scores, uniform-mixture exploration, projected online gradient on a surrogate.

        p_t = (1 - gamma_t) q_t + gamma_t / K_t,    gamma_t = min(1, kappa h^-exponent)
        W  <- Projection_{||W||_F <= radius}(W - eta_t g_t x~_t^T)

    with h the horizon T (``schedule="horizon"``) or t (``"anytime"``), and eta_t = B sqrt(gamma_t) / (G rho
    sqrt(h)) (``step="theory"``; without sqrt(gamma_t) where all costs are seen), sqrt(2) B / sqrt(sum of squared
    gradient norms) (``"adagrad"``) or `eta` (``"constant"``).

    surrogate: "s_cost", "s_reward" (matches v5's bounds term by term) or "ce_reward".
    sampler: q_t is the argmax with random ties ("greedy") or "softmax".
    estimator: "iw", importance weights alone, or "dr", doubly robust over a ridge regression per action.
    feedback: "bandit" (the paper), "label_after_deferral" (y_t revealed when an expert is asked), "full".
    radius: B > 0. kappa >= 0, exponent >= 0: exploration; the theory's exponent is 1/3, low noise 1/2.
    eta: the constant step. ridge > 0: of the regressions. use_experts: False leaves the labels only.
    Raises ValueError for a value outside these ranges. Source: reconstructed (dossier section 3).

    >>> trace = OnlineL2D().run(static(1000, np.random.default_rng(0)), np.random.default_rng(1))
    """

    surrogate: str = "s_cost"
    sampler: str = "greedy"
    estimator: str = "iw"
    feedback: str = "bandit"
    step: str = "adagrad"
    schedule: str = "horizon"
    radius: float = 15.0
    kappa: float = 1.0
    exponent: float = 1 / 3
    eta: float = 0.01
    ridge: float = 1.0
    use_experts: bool = True

    def __post_init__(self) -> None:
        choices = {"surrogate": SURROGATES, "sampler": SAMPLERS, "feedback": FEEDBACK, "step": STEPS}
        for name, known in (
            choices | {"estimator": ("iw", "dr"), "schedule": ("horizon", "anytime")}
        ).items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: use one of {', '.join(known)}")
        check_ranges(self, positive=("radius", "eta", "ridge"), not_negative=("kappa", "exponent"))
        if self.step == "theory" and self.feedback != "full" and self.kappa == 0:
            raise ValueError(
                f"kappa 0 with step 'theory' and {self.feedback} feedback: that step is in proportion to the square"
                " root of the exploration and never learns; use kappa > 0, or step='adagrad'"
            )

    def replace(self, **changes: Any) -> OnlineL2D:
        """Return a copy with some hyper-parameters changed."""
        known = {f.name for f in fields(self)}
        if not set(changes) <= known:
            raise ValueError(f"unknown keys {sorted(set(changes) - known)}: use some of {sorted(known)}")
        return replace(self, **changes)

    def candidates(self) -> list[OnlineL2D]:
        """Grid for tuning: exploration times radius, or times the constant step."""
        return tuning_grid(self, "eta" if self.step == "constant" else "radius")

    def spec(self, n_labels: int, rows: int, rho: float, rounds: int | None) -> Spec:
        """Return the numbers for N = `rows`, ||x~|| <= `rho` and horizon `rounds` (unused when anytime)."""
        if self.schedule == "horizon" and not (rounds is not None and rounds >= 1):
            raise ValueError(f"horizon is {rounds}: give the number of rounds, or schedule='anytime'")
        return Spec(
            n_labels=n_labels,
            surrogate=SURROGATES[self.surrogate],
            sampler=SAMPLERS[self.sampler],
            doubly_robust=self.estimator == "dr",
            feedback=FEEDBACK[self.feedback],
            step=STEPS[self.step],
            kappa=float(self.kappa),
            exponent=float(self.exponent),
            horizon=float(rounds or 0) if self.schedule == "horizon" else 0.0,
            radius=float(self.radius),
            lipschitz=float(theory_constant(self.surrogate, rows) * rho),
            eta=float(self.eta),
        )

    def new_state(self, rows: int, dimension: int) -> State:
        """Return the state before round 1; `dimension` counts the constant."""
        return kernels.new_state(rows, dimension, doubly_robust=self.estimator == "dr", ridge=self.ridge)

    def run(self, stream: Stream, rng: np.random.Generator) -> Trace:
        """Play the whole stream, T rounds of O(K d); `rng` gives two uniforms a round."""
        contexts = stream.augmented()
        rho = float(np.sqrt((contexts**2).sum(axis=1).max()))
        rows = stream.rows if self.use_experts else stream.n_labels
        if rows == 0:
            raise ValueError("empty pool: a learner without experts needs labels")
        spec = self.spec(stream.n_labels, rows, rho, stream.rounds)
        state = self.new_state(stream.rows, contexts.shape[1])
        trace, worst_sum, least_share = Trace.blank(stream.rounds), 0.0, np.inf
        for block in blocks(stream, trace, rng):
            sums, share = kernels.run_rounds(block, spec, self.use_experts, state)
            worst_sum, least_share = max(worst_sum, sums), min(least_share, share)
        kernels.fold_scale(state)
        info = {
            "sum_error": worst_sum,
            "least_share": least_share,
            "norm": float(np.sqrt(state.scalars[kernels.NORM_SQ])),
            "gradient_sq": float(state.scalars[kernels.GRADIENT_SQ]),
        }
        return replace(trace, info=info)
