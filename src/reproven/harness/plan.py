"""The planner: which runs an experiment means, which of them are done, and what the rest will take."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.types import Override

from reproven.harness import compose, provenance, signatures
from reproven.harness.errors import UserError, did_you_mean
from reproven.harness.store import RERUN_ALWAYS, RERUN_ON_REQUEST, Status, Store

NAMED_AXES = ("method", "dataset", "seed")


@dataclass(frozen=True)
class Run:
    """One resolved configuration: what one process will do. Its id is a hash of `identity`."""

    paper: str
    experiment: str
    tier: str
    hardware: dict[str, Any]
    task: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    datasets: dict[str, dict[str, Any]]
    keywords: dict[str, Any]  # budget, grid and batch axes, as the experiment function takes them
    seed: int
    threads: int
    time_limit_s: float
    tracker: dict[str, Any]
    estimate_s: float | None
    identity: dict[str, Any] = field(repr=False)
    run_id: str = ""
    comparable: str = ""

    @property
    def label(self) -> str:
        """Return what a person calls this run."""
        names = [*self.methods] if len(self.methods) < 3 else [f"{len(self.methods)} methods"]
        axes = [f"{axis}={value}" for axis, value in self.identity["axes"].items()]
        return " ".join([self.experiment, *names, *self.datasets, *axes, f"seed={self.seed}"])

    def config(self) -> dict[str, Any]:
        """Return the resolved configuration, as kept in ``config.yaml``."""
        kept = ("paper", "experiment", "tier", "hardware", "task", "methods", "datasets", "keywords", "seed")
        return {**{k: getattr(self, k) for k in kept}, "threads": self.threads, "tracker": self.tracker}


@dataclass(frozen=True)
class Step:
    """One run of a plan with what is to happen to it.

    action: ``"run"``, ``"skip"`` (done), ``"keep"`` (failed before, not asked to retry) or ``"elsewhere"``
    (another process runs it now).
    """

    run: Run
    action: str
    reason: str
    estimate_s: float | None


def expand(overrides: Sequence[str]) -> tuple[Mapping[str, Any], list[Run]]:
    """Return the composition that the overrides mean, and its runs (none where it has no budget for the tier).

    The experiment's ``grid`` spans the runs; an explicit ``method=``, ``dataset=`` or ``seed=`` replaces that
    axis wherever the experiment holds it, a sweep (``seed=0,1``) by all its values. UserError when nothing is left.
    """
    parsed = compose.parse(overrides)
    text = {id(o): str(o.input_line) for o in parsed}
    if "experiment" not in [o.key_or_group.lstrip("+") for o in parsed]:
        known = ", ".join(compose.available("experiment"))
        raise UserError(f"no experiment was named; add experiment=<paper>/<name> (known: {known})")
    chosen = {o.key_or_group: _values(o) for o in parsed if o.key_or_group in NAMED_AXES}
    inner: dict[str, list[str]] = {
        g: [text[id(o)] for o in parsed if o.key_or_group.startswith(f"{g}.")] for g in ("method", "dataset")
    }
    apart = {text for texts in inner.values() for text in texts}
    rest = [text[id(o)] for o in parsed if o.key_or_group not in NAMED_AXES and text[id(o)] not in apart]
    node = compose.composed(rest)
    grid, batch = dict(node["grid"]), dict(node["batch"])
    for axis, values in chosen.items():
        if values != [None]:
            (batch if axis in batch else grid)[axis] = values
    for axis, values in (*grid.items(), *batch.items()):
        if not isinstance(values, list) or not values:
            raise UserError(
                f"{node['name']}: axis {axis!r} is {values!r}; give a list with at least one entry"
            )
    tier = node["tier"]["name"]
    if tier not in node["budgets"]:
        return node, []
    points = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    runs = [_run(node, point, batch, tier, inner) for point in points]
    if not runs:
        raise UserError(f"{node['name']} expands to no run at all; look at its grid")
    return node, runs


def _values(override: Override) -> list[Any]:
    """Return what an override of an axis stands for: one value, or all of ``seed=0,1`` and ``seed=range(0,8)``."""
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


def _run(
    node: Mapping[str, Any],
    point: Mapping[str, Any],
    batch: Mapping[str, Any],
    tier: str,
    inner: Mapping[str, Sequence[str]],
) -> Run:
    name = node["name"]

    def names(axis: str) -> list[str]:
        if axis in batch:
            return list(batch[axis])
        return [point[axis]] if axis in point else []

    methods = {n: compose.entry("method", n, inner["method"]) for n in names("method")}
    datasets = {n: compose.entry("dataset", n, inner["dataset"]) for n in names("dataset")}
    axes = {a: v for a, v in point.items() if a not in NAMED_AXES}
    held = {a: v for a, v in batch.items() if a not in ("method", "dataset")}
    budget = {**node["budgets"][tier], **node["budget"]}
    keywords = {**budget, **axes, **held}
    _check(name, node, methods, datasets, budget, {**axes, **held})

    targets = [n["_target_"] for n in _targets([node["task"], *methods.values(), *datasets.values()])]
    hardware = node["hardware"]
    seed = point.get("seed", node["seed"])
    if not isinstance(seed, int) or seed < 0:
        raise UserError(f"{name}: seed {seed!r} is no whole number from 0 up")
    identity = {
        "experiment": name,
        "task": node["task"],
        "dataset": datasets,
        "budget": budget,
        "axes": axes,
        "batch": {a: v for a, v in batch.items() if a != "method"},
        "seed": seed,
        "threads": node["threads"],
        "data": _declared_digests(datasets),
        "hardware": [hardware["name"], hardware["dtype"]],
        "torch": provenance.torch_version(),
        "code": provenance.source_digest(t for t in targets if t.startswith("reproven.")),
    }
    comparable = provenance.digest(identity)
    identity |= {"method": methods, "outside": provenance.outside_digest(targets)}
    estimate = node["estimate_s"].get(tier)
    return Run(
        paper=node["paper"],
        experiment=name,
        tier=tier,
        hardware=hardware,
        task=node["task"],
        methods=methods,
        datasets=datasets,
        keywords=keywords,
        seed=seed,
        threads=int(node["threads"]),
        time_limit_s=float(node["tier"]["time_limit_s"]),
        tracker=node["tracker"],
        estimate_s=None if estimate is None else float(estimate),
        identity=identity,
        run_id=provenance.digest(identity),
        comparable=comparable,
    )


def _check(
    name: str,
    node: Mapping[str, Any],
    methods: Mapping[str, Any],
    datasets: Mapping[str, Any],
    budget: Mapping[str, Any],
    axes: Mapping[str, Any],
) -> None:
    doubled = sorted(set(budget) & set(axes))
    if doubled:
        raise UserError(f"{name}: {doubled[0]!r} is both an axis and in the budget; keep one")
    signatures.check(node["task"], f"{name} task", {**budget, **axes}, given=1)
    for method, entry in methods.items():
        signatures.check(entry, f"method {method}")
    for dataset, entry in datasets.items():
        unknown = sorted(set(entry) - {"cards", "loader"})
        if unknown:
            raise UserError(
                f"dataset {dataset}: unknown key {unknown[0]!r}{did_you_mean(unknown[0], ['cards', 'loader'])}"
            )
        if "loader" not in entry or "cards" not in entry:
            raise UserError(f"dataset {dataset} needs both cards: [...] and loader: {{_target_: ...}}")
        signatures.check(entry["loader"], f"dataset {dataset}")


def _targets(nodes: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    for node in nodes:
        if isinstance(node, Mapping):
            if "_target_" in node:
                yield node
            yield from _targets(node.values())


def cards(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the cards that data sets rest on, each once."""
    return list(dict.fromkeys(c for entry in datasets.values() for c in entry["cards"]))


def _declared_digests(datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    if not datasets:
        return {}
    from reproven.data.cards import CARDS

    for card in cards(datasets):
        if card not in CARDS:
            raise UserError(f"no data card {card!r}{did_you_mean(card, CARDS)}")
    return {c: CARDS[c].sha256 for c in cards(datasets)}


def plan(runs: Iterable[Run], store: Store, *, retry: bool = False) -> list[Step]:
    """Return what is to happen to each run: done runs are skipped, killed and blocked ones always run again."""
    runs = list({run.run_id: run for run in runs}.values())
    durations = _durations(store, {run.paper for run in runs})
    steps = []
    for run in runs:
        status = store.status(run.paper, run.run_id)
        action, reason = _action(status, retry)
        known = durations.get((run.experiment, run.tier, run.hardware["name"]), run.estimate_s)
        steps.append(Step(run, action, reason, known if action in ("run", "elsewhere") else 0.0))
    return steps


def _action(status: Status | None, retry: bool) -> tuple[str, str]:
    if status is None:
        return "run", ""
    if status.state == "done":
        return "skip", "done"
    if status.state == "running":
        return "elsewhere", "another process runs it now"
    if status.state in RERUN_ALWAYS or retry:
        return "run", f"{status.state}: {status.reason}"
    assert status.state in RERUN_ON_REQUEST, status.state
    return "keep", f"{status.state}: {status.reason}; retry=true runs it again"


def _durations(store: Store, papers: Iterable[str]) -> dict[tuple[str, str, str], float]:
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for paper in papers:
        for status in store.statuses(paper):
            if status.state == "done" and status.seconds is not None:
                seconds.setdefault((status.experiment, status.tier, status.hardware), []).append(
                    status.seconds
                )
    return {key: statistics.median(values) for key, values in seconds.items()}


def remaining_seconds(steps: Sequence[Step], cores: int) -> float | None:
    """Return the estimated time of what is left on `cores`; None when nothing is known of a step."""
    todo = [s for s in steps if s.action == "run"]
    if any(s.estimate_s is None for s in todo):
        return None
    return sum((s.estimate_s or 0.0) * min(s.run.threads, cores) for s in todo) / max(cores, 1)
