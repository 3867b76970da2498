"""Online learning-to-defer one round at a time: decide, learn, save and continue exactly.

Bit for bit the compiled loop of `learner` (the same compiled functions), for use on a live stream.
"""

from __future__ import annotations

import json
import numbers
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reproven.papers.online_l2d import kernels
from reproven.papers.online_l2d.kernels import Spec, State
from reproven.papers.online_l2d.learner import OnlineL2D

ExpertId = int | str
LARGEST = 1e100  # of a context's numbers: beyond, squares of gradients overflow


class Action(NamedTuple):
    """Answer with label `id` (kind "label") or ask expert `id` (kind "expert")."""

    kind: str
    id: ExpertId


class Choice(NamedTuple):
    """The action drawn and the probability with which it was drawn."""

    action: Action
    propensity: float


@dataclass(frozen=True)
class Feedback:
    """What came back for the pending decision.

    cost: of the action taken, in [0, 1]; errors plus any fee, clipped or rescaled by the caller.
    label: the true label, where the regime reveals it. experts: cost per available expert ("full" only).
    """

    cost: float
    label: int | None = None
    experts: Mapping[ExpertId, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pending:
    x: np.ndarray
    pool: np.ndarray
    scores: np.ndarray
    p: np.ndarray
    played: int
    gamma: float


class Deferrer:
    """An `OnlineL2D` learner that is driven by hand.

    method: its hyper-parameters. n_labels >= 0: labels it may answer with; 0 is the two-stage router, which
    only routes among experts. dimension >= 1: length of x. horizon: number of rounds, where the method's
    schedule is "horizon". roster: the only expert ids allowed; None lets new ones join. rho: bound on
    ||(x, 1)||, and n_experts: how many experts there will be, for ``step="theory"`` only; None uses what was
    seen so far.

    Every call either succeeds or raises ValueError and leaves the learner as it was.

    >>> learner = Deferrer(OnlineL2D(schedule="anytime"), n_labels=2, dimension=3)
    >>> action, propensity = learner.decide([0.1, -0.4, 1.0], available=["ann", "bob"])
    >>> learner.learn(Feedback(cost=0.0))
    """

    def __init__(
        self,
        method: OnlineL2D,
        *,
        n_labels: int,
        dimension: int,
        horizon: int | None = None,
        roster: Iterable[ExpertId] | None = None,
        rho: float | None = None,
        n_experts: int | None = None,
        seed: int = 0,
    ) -> None:
        whole = isinstance(n_labels, numbers.Integral) and isinstance(dimension, numbers.Integral)
        if not whole or n_labels < 0 or dimension < 1:
            raise ValueError(
                f"n_labels is {n_labels} and dimension {dimension}: give whole numbers, at least 0 and 1"
            )
        if rho is not None and not 0 < rho < np.inf:
            raise ValueError(f"rho is {rho}: give a positive bound on the length of (x, 1), or None")
        if n_experts is not None and n_experts < 0:
            raise ValueError(f"n_experts is {n_experts}: give at least 0, or None")
        if horizon is not None and not (isinstance(horizon, numbers.Integral) and horizon >= 1):
            raise ValueError(f"horizon is {horizon}: give at least one round, or schedule='anytime'")
        if method.feedback == "label_after_deferral" and n_labels == 0:
            raise ValueError("feedback 'label_after_deferral' needs labels: use 'bandit' with n_labels=0")
        method.spec(n_labels, 1, 1.0, horizon)  # raises where the method wants a horizon and has none
        self.method, self.n_labels, self.dimension, self.horizon = method, n_labels, dimension, horizon
        self.roster = None if roster is None else frozenset(roster)
        self.rho, self.n_experts = rho, n_experts
        self.experts: dict[ExpertId, int] = {}  # id -> row
        self.state: State = method.new_state(n_labels, dimension + 1)
        self.rng = np.random.default_rng(seed)
        self._largest = 0.0 if rho is None else rho
        self._pending: _Pending | None = None

    @property
    def matrix(self) -> np.ndarray:
        """W, (N, dimension + 1): labels first, then the experts in order of appearance."""
        return self.state.weights * self.state.scalars[kernels.SCALE]

    def decide(self, x: Sequence[float] | np.ndarray, available: Iterable[ExpertId] = ()) -> Choice:
        """Draw an action from the labels and the `available` experts; new experts join with a zero row."""
        context, ids = self._context(x), self._ids(available)
        new = [name for name in ids if name not in self.experts]
        if new:
            self._append(new)
        rows = sorted(self.experts[name] for name in ids)
        labels = range(self.n_labels)
        pool = np.array([*labels, *rows], np.int64)
        self._largest = max(self._largest, float(np.sqrt(context @ context)))
        spec, k = self._spec(), len(pool)
        self.state.scalars[kernels.ROUNDS] += 1.0
        gamma = kernels.exploration(
            spec.kappa, spec.exponent, spec.horizon, self.state.scalars[kernels.ROUNDS]
        )
        scores, p = np.empty(k), np.empty(k)
        u_tie, u_draw = self.rng.random(2)
        kernels.pool_scores(self.state.weights, self.state.scalars[kernels.SCALE], context, pool, k, scores)
        kernels.distribution(spec.sampler, gamma, scores, k, u_tie, p)
        played = int(kernels.draw(p, k, u_draw))
        self._pending = _Pending(context, pool, scores, p, played, float(gamma))
        return Choice(self._action(pool[played]), float(p[played]))

    def learn(self, feedback: Feedback) -> None:
        """Learn from the feedback on the pending decision."""
        pending = self._pending
        if pending is None:
            raise ValueError("feedback without a pending decision: call decide first")
        if not isinstance(feedback, Feedback):
            raise ValueError(f"feedback is {feedback!r}: give Feedback(cost=...)")
        costs = self._costs(feedback, pending)
        k = len(pending.pool)
        kernels.learn_round(
            self._spec(), self.state, pending.gamma, pending.x, pending.pool, k, pending.scores, pending.p,
            pending.played, costs, np.empty(k), np.empty(k),
        )  # fmt: skip
        self._pending = None

    def discard(self) -> None:
        """Drop the pending decision, whose feedback will never come; nothing is learnt from it."""
        if self._pending is None:
            raise ValueError("no pending decision to discard: call decide first")
        self._pending = None

    def save(self, path: str | Path) -> None:
        """Write the whole state to `path` (.npz, no pickles), atomically; `load` continues exactly."""
        pending = self._pending
        arrays = {f"state_{name}": value for name, value in self.state._asdict().items()}
        if pending is not None:
            arrays |= {f"pending_{name}": getattr(pending, name) for name in ("x", "pool", "scores", "p")}
        meta = self._shape() | {
            "experts": list(self.experts),
            "rng": self.rng.bit_generator.state,
            "largest": self._largest,
            "pending": None if pending is None else [pending.played, pending.gamma],
        }
        target = Path(path)
        partial = target.with_name(target.name + ".partial")
        try:
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, meta=np.array(json.dumps(meta)), **arrays)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)

    def load(self, path: str | Path) -> None:
        """Continue exactly from a saved state; it must come from a learner built with the same arguments."""
        meta, arrays = _read(path)
        for key, mine in self._shape().items():
            if meta.get(key) != mine:
                raise ValueError(
                    f"saved state in {path} has {key} {meta.get(key)!r}, this learner {mine!r}: "
                    f"build the learner with the saved {key}"
                )
        strangers = set() if self.roster is None else set(meta["experts"]) - self.roster
        if strangers:
            raise ValueError(
                f"saved state in {path} knows expert {min(map(str, strangers))!r}: add it to the roster"
            )
        fresh = self.method.new_state(self.n_labels + len(meta["experts"]), self.dimension + 1)
        state = State(*(arrays[f"state_{name}"] for name in State._fields))
        for name, value in fresh._asdict().items():
            found = getattr(state, name)
            if found.shape != value.shape or found.dtype != value.dtype or not np.isfinite(found).all():
                raise ValueError(
                    f"saved state in {path} has {name} of shape {found.shape}, expected finite "
                    f"{value.shape}: save it again"
                )
        pending = _pending(path, meta, arrays, *fresh.weights.shape)
        rng = np.random.default_rng()
        try:
            rng.bit_generator.state = meta["rng"]
            largest = float(meta["largest"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"saved state in {path} has no usable rng or largest: save it again") from error
        self.experts = {name: self.n_labels + i for i, name in enumerate(meta["experts"])}
        self.state, self.rng, self._pending, self._largest = state, rng, pending, largest

    def _shape(self) -> dict[str, Any]:
        return {
            "method": asdict(self.method),
            "n_labels": self.n_labels,
            "dimension": self.dimension,
            "horizon": self.horizon,
            "rho": self.rho,
            "n_experts": self.n_experts,
        }

    def _spec(self) -> Spec:
        rows = self.n_labels + (len(self.experts) if self.n_experts is None else self.n_experts)
        return self.method.spec(self.n_labels, rows, self._largest, self.horizon)

    def _context(self, x: Sequence[float] | np.ndarray) -> np.ndarray:
        if self._pending is not None:
            raise ValueError("a decision is pending: call learn with its feedback, or discard it")
        try:
            context = np.append(np.asarray(x, float).ravel(), 1.0)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"context {x!r} holds what is no number: give {self.dimension} numbers"
            ) from error
        if len(context) != self.dimension + 1:
            raise ValueError(f"context has length {len(context) - 1}: give {self.dimension} numbers")
        if not np.isfinite(context).all():
            raise ValueError("context holds NaN or infinity: impute it before deciding")
        if np.abs(context).max() > LARGEST:
            raise ValueError(f"context holds a number beyond {LARGEST:g}: scale x")
        if self.rho is not None and np.sqrt(context @ context) > self.rho * (1 + 1e-12):
            raise ValueError(f"context (x, 1) is longer than rho={self.rho}: scale x or raise rho")
        return context

    def _ids(self, available: Iterable[ExpertId]) -> list[ExpertId]:
        if isinstance(available, str | bytes) or not isinstance(available, Iterable):
            raise ValueError(f"available is {available!r}: give a list of expert ids")
        ids = list(available) if self.method.use_experts else []
        ids = [int(name) if isinstance(name, np.integer) else name for name in ids]
        for name in ids:
            if not isinstance(name, int | str) or isinstance(name, bool):
                raise ValueError(f"expert id {name!r} is neither int nor str: use one of these")
            if self.roster is not None and name not in self.roster:
                raise ValueError(f"expert {name!r} is unknown: the roster is {sorted(map(str, self.roster))}")
        if len(set(ids)) != len(ids):
            raise ValueError(f"available experts repeat an id: {ids}; name each once")
        if not ids and self.n_labels == 0:
            raise ValueError("empty pool: without labels at least one expert must be available")
        joined = [*self.experts, *(name for name in ids if name not in self.experts)]
        if self.n_experts is not None and len(joined) > self.n_experts:
            raise ValueError(
                f"expert {joined[self.n_experts]!r} is one more than n_experts={self.n_experts}: raise it"
            )
        return ids

    def _append(self, new: list[ExpertId]) -> None:
        """Zero rows for experts never seen before; ||W||_F and all old decisions stay the same."""
        joined = self.method.new_state(len(new), self.dimension + 1)
        old = self.state
        self.state = State(
            np.concatenate([old.weights, joined.weights]),
            old.scalars,
            np.concatenate([old.coefficients, joined.coefficients]),
            np.concatenate([old.inverse, joined.inverse]),
        )
        for name in new:
            self.experts[name] = self.n_labels + len(self.experts)

    def _action(self, row: int) -> Action:
        if row < self.n_labels:
            return Action("label", int(row))
        return Action("expert", list(self.experts)[row - self.n_labels])

    def _costs(self, feedback: Feedback, pending: _Pending) -> np.ndarray:
        """Costs over the pool, NaN where not revealed."""
        for name, cost in [("cost", feedback.cost), *feedback.experts.items()]:
            if not (isinstance(cost, numbers.Real) and 0.0 <= cost <= 1.0):
                raise ValueError(f"cost of {name!r} is {cost}: clip it, or rescale it by 1 + the largest fee")
        costs = np.full(len(pending.pool), np.nan)
        asked = pending.pool[pending.played] >= self.n_labels
        regime = self.method.feedback
        if regime == "full" or (regime == "label_after_deferral" and asked):
            known = isinstance(feedback.label, numbers.Integral) and 0 <= feedback.label < self.n_labels
            if self.n_labels and not known:
                raise ValueError(
                    f"label is {feedback.label}: feedback {regime!r} reveals one of 0..{self.n_labels - 1}"
                )
            costs[: self.n_labels] = np.arange(self.n_labels) != feedback.label
        if regime == "full":
            names = list(self.experts)
            for i, row in enumerate(pending.pool[self.n_labels :], start=self.n_labels):
                costs[i] = feedback.experts.get(names[row - self.n_labels], np.nan)
            unknown = set(feedback.experts) - {
                names[r - self.n_labels] for r in pending.pool[self.n_labels :]
            }
            if unknown:
                raise ValueError(
                    f"expert {min(map(str, unknown))!r} is not in the pending pool: name only its experts"
                )
        costs[pending.played] = feedback.cost
        if regime == "full" and np.isnan(costs).any():
            raise ValueError(
                "feedback 'full' needs the cost of every available expert: fill Feedback.experts"
            )
        return costs


def _pending(
    path: str | Path, meta: dict[str, Any], arrays: dict[str, np.ndarray], rows: int, dimension: int
) -> _Pending | None:
    """Return the saved decision that waits for its feedback; compiled code trusts its numbers, so check them."""
    if meta["pending"] is None:
        return None
    played, gamma = meta["pending"]
    x, pool, scores, p = (arrays[f"pending_{name}"] for name in ("x", "pool", "scores", "p"))
    k = pool.size
    sound = (
        x.shape == (dimension,)
        and pool.shape == scores.shape == p.shape == (k,)
        and pool.dtype == np.int64
        and all(a.dtype == float and np.isfinite(a).all() for a in (x, scores, p))
        and 0 <= int(played) < k
        and pool.min() >= 0
        and pool.max() < rows
        and p[int(played)] > 0
    )
    if not sound:
        raise ValueError(f"saved state in {path} has a pending decision that does not fit: save it again")
    return _Pending(x, pool, scores, p, int(played), float(gamma))


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the description and the arrays of a saved learner; one clear line where `path` is none."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        meta = json.loads(str(arrays.pop("meta")))
        wanted = [f"state_{name}" for name in State._fields]
        if meta["pending"] is not None:
            wanted += [f"pending_{name}" for name in ("x", "pool", "scores", "p")]
        missing = [key for key in ("experts", "rng", "largest") if key not in meta]
        missing += [name for name in wanted if name not in arrays]
    except (KeyError, OSError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a saved learner: give a file that save wrote") from error
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: give a file that save wrote")
    return meta, arrays
