"""What an experiment function is handed: its methods, its data, its seeds, and a place for measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reproven.harness import seeds

if TYPE_CHECKING:
    import torch

Scalar = int | float | str | bool
DIRECTIONS = ("", "higher", "lower")


@dataclass(frozen=True)
class Series:
    """Measurements of one metric in columns: ``values[i]`` was taken at ``{k: coords[k][i]}``.

    Raw, per seed, never averaged or formatted. `direction` says which way is better: ``"higher"``,
    ``"lower"`` or ``""``.
    """

    metric: str
    unit: str
    direction: str
    coords: dict[str, list[Scalar]]
    values: list[float]


@dataclass
class Context:
    """The hands of an experiment function ``fn(ctx, *, **budget_and_axes)``.

    methods: name -> instantiated method, in the order of the experiment's axis. One entry when a method
        runs alone (``method=name``); experiment functions loop over it and never name a method.
    datasets: name -> loader without arguments; call `dataset` to load one, once.
    seed: the base seed of this run.
    device, dtype: where and in what precision tensors live (``hardware=``).
    folder: for arrays that only figures need; None in library use.
    """

    methods: Mapping[str, Any] = field(default_factory=dict)
    datasets: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    folder: Path | None = None
    on_progress: Callable[[float, str], None] | None = None
    series: list[Series] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._load = cache(lambda name: self.datasets[name]())

    def dataset(self, name: str | None = None) -> Any:
        """Load the data set `name` (the only one when None); loaded once a run."""
        if name is None:
            (name,) = self.datasets
        return self._load(name)

    def derive(self, purpose: str, **axes: seeds.Axis) -> int:
        """Return a seed for `purpose` that varies with `axes` alone (see `harness.seeds`)."""
        return seeds.derive(self.seed, purpose, **axes)

    def generator(self, purpose: str, **axes: seeds.Axis) -> np.random.Generator:
        """Return a NumPy generator for `purpose` that varies with `axes` alone."""
        return seeds.generator(self.seed, purpose, **axes)

    def torch_generator(self, purpose: str, **axes: seeds.Axis) -> torch.Generator:
        """Return a CPU torch generator for `purpose` that varies with `axes` alone."""
        return seeds.torch_generator(self.seed, purpose, "cpu", **axes)

    def record(
        self, metric: str, value: float, *, unit: str = "", direction: str = "", **coords: Scalar
    ) -> None:
        """Record one raw measurement at `coords` (step, n, split, layer, method, dataset...)."""
        self.record_many(metric, [value], unit=unit, direction=direction, **coords)

    def record_many(
        self,
        metric: str,
        values: Iterable[float],
        *,
        unit: str = "",
        direction: str = "",
        **coords: Scalar | Iterable[Scalar],
    ) -> None:
        """Record a column of measurements; each coordinate is a scalar (shared) or as long as `values`.

        `method` and `dataset` are filled in when the run has only one.
        """
        if direction not in DIRECTIONS:
            raise ValueError(f"direction {direction!r} of {metric!r} is not one of {DIRECTIONS}")
        column = np.asarray(values, dtype=float).ravel().tolist()
        for axis, names in (("method", self.methods), ("dataset", self.datasets)):
            if axis not in coords and len(names) == 1:
                coords[axis] = next(iter(names))
        columns = {name: _column(name, value, len(column)) for name, value in coords.items()}
        self.series.append(Series(metric, unit, direction, columns, column))

    def progress(self, fraction: float, label: str = "") -> None:
        """Tell the supervisor that `fraction` in [0, 1] of the work is done."""
        if self.on_progress is not None:
            self.on_progress(float(fraction), label)

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Keep arrays for figures as ``<run folder>/<name>.npz``; they carry no verdict."""
        if self.folder is not None:
            np.savez_compressed(self.folder / f"{name}.npz", allow_pickle=False, **arrays)


def _column(name: str, value: Scalar | Iterable[Scalar], length: int) -> list[Scalar]:
    if isinstance(value, str | int | float | bool | np.generic):
        return [_plain(value)] * length
    column = [_plain(v) for v in value]
    if len(column) != length:
        raise ValueError(f"coordinate {name!r} has {len(column)} entries for {length} values")
    return column


def _plain(value: Any) -> Scalar:
    plain: Scalar = value.item() if isinstance(value, np.generic) else value
    return plain
