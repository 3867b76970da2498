"""Measurements by coordinate: which are the same, which are groups, and which are independent samples.

The functions take and return frames and suit a paper's own test; `Cells` is the same as columns of numbers, for the
tests that every paper uses on hundreds of thousands of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from reproven.harness.errors import did_you_mean

RATES = {"1": (0.0, 1.0), "%": (0.0, 100.0)}  # unit -> the range that a rate has in it


def need(data: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise ValueError unless every measurement has each of these coordinates."""
    for name in names:
        if name not in data.columns:
            raise ValueError(f"no coordinate {name!r}{did_you_mean(name, [str(c) for c in data.columns])}")
        absent = int(data[name].isna().to_numpy().sum())
        if absent:
            raise ValueError(f"{absent} of {len(data)} measurements have no coordinate {name!r}")


@dataclass(frozen=True)
class Cells:
    """Measurements as columns of numbers, each (rows,): value and codes of sample, base seed and compared member.

    members: what the codes of `member` stand for, in the order of comparison; rate: the range of a rate, or None.
    """

    value: np.ndarray
    sample: np.ndarray
    seed: np.ndarray
    member: np.ndarray
    members: tuple[Any, ...]
    seeds: tuple[Any, ...]
    rate: tuple[float, float] | None

    def take(self, rows: np.ndarray) -> Cells:
        """Return these rows alone."""
        return replace(
            self,
            value=self.value[rows],
            sample=self.sample[rows],
            seed=self.seed[rows],
            member=self.member[rows],
        )

    def table(self, ragged: bool = False) -> np.ndarray:
        """Return the means of each sample at each member, (samples, members); ValueError where one is missing.

        ragged: a member without any measurement is a column of NaN instead.
        """
        _, sample = np.unique(self.sample, return_inverse=True)
        shape = (int(sample.max()) + 1, len(self.members))
        cell = sample * shape[1] + self.member
        counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
        there = counts.any(axis=0)
        if not (ragged or there.all()):
            raise ValueError(f"no measurement at {self.members[int(np.argmin(there))]}")
        lost = int((counts[:, there] == 0).any(axis=1).sum())
        if lost:
            raise ValueError(f"{lost} samples are at only some of {', '.join(map(str, self.members))}")
        sums = np.bincount(cell, weights=self.value, minlength=counts.size).reshape(shape)
        means: np.ndarray = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
        return means

    def by_seed(self) -> Iterator[tuple[str, Cells]]:
        """Yield ("seed=0", its rows) for every base seed."""
        for rows in split(self.seed):
            yield key(["seed"], self.seeds[self.seed[rows[0]]]), self.take(rows)


def cells(
    data: pd.DataFrame,
    per: Sequence[str],
    samples: Sequence[str],
    axis: str | None = None,
    members: Sequence[Any] | None = None,
) -> list[tuple[str, Cells]]:
    """Return (label, cells) of every group of `per`, each sample at the `members` of `axis` (all in order if None).

    ValueError where a coordinate is missing, or nothing was measured at a member.
    """
    need(data, [*per, *samples, *([axis] if axis else [])])
    if axis is not None:
        members = sorted(data[axis].unique().tolist()) if members is None else members
        member = np.full(len(data), -1)
        for code, wanted in enumerate(members):
            member[same(data[axis], wanted).to_numpy()] = code
        data, member = data[member >= 0], member[member >= 0]
        absent = set(range(len(members))) - set(member.tolist())
        if absent:
            raise ValueError(f"no measurement at {axis}={members[min(absent)]}")
    else:
        members, member = ("all",), np.zeros(len(data), dtype=int)
    if data.empty:
        raise ValueError("no measurement")
    seed, seeds = pd.factorize(data["seed"], sort=True)
    every = Cells(
        value=data["value"].to_numpy(dtype=float),
        sample=_codes(data, samples),
        seed=seed,
        member=member,
        members=tuple(members),
        seeds=tuple(seeds),
        rate=rate_range(data),
    )
    if not per:
        return [("", every)]
    first = data[list(per)]
    return [(key(per, tuple(first.iloc[rows[0]])), every.take(rows)) for rows in split(_codes(data, per))]


def split(codes: np.ndarray) -> list[np.ndarray]:
    """Return the row numbers of each code, codes in order, rows in theirs."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _codes(data: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    if not names:
        return np.zeros(len(data), dtype=int)
    codes: np.ndarray = data.groupby(list(names), sort=True).ngroup().to_numpy()
    return codes


def groups(data: pd.DataFrame, per: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield (label, rows) for each combination of the `per` coordinates; one group without any."""
    if not per:
        yield "", data
        return
    need(data, per)
    for point, rows in data.groupby(list(per), sort=True):
        yield key(per, point), rows


def key(names: Sequence[str], point: Any) -> str:
    """Return ``"n=10,seed=0"``; whole numbers without a point, so that keys outlive a change of type."""
    values = point if isinstance(point, tuple) else (point,)
    return ",".join(f"{n}={_word(v)}" for n, v in zip(names, values))


def sampled(data: pd.DataFrame, samples: Sequence[str]) -> pd.Series:
    """Return one value a sample: the mean over all rows that share the `samples` coordinates.

    Without any coordinate there is one sample, the mean of all: rows are never taken as independent unasked.
    """
    need(data, samples)
    if not samples:
        return pd.Series([data["value"].mean()])
    return data.groupby(list(samples), sort=True)["value"].mean()


def per_seed(
    data: pd.DataFrame,
    label: str,
    statistic: Callable[[pd.DataFrame], float] = lambda rows: float(rows["value"].mean()),
) -> dict[str, float]:
    """Return what the regression gate keeps of a group: the statistic of each base seed alone.

    A seed whose own measurements do not determine the statistic (its mean has no logarithm, say) is left out.
    """
    prefix = f"{label}," if label else ""
    kept = {}
    for seed, rows in data.groupby("seed", sort=True):
        try:
            kept[f"{prefix}seed={_word(seed)}"] = float(statistic(rows))
        except ValueError:
            continue
    return kept


def paired(data: pd.DataFrame, samples: Sequence[str], axis: str, a: Hashable, b: Hashable) -> pd.DataFrame:
    """Return columns ``a`` and ``b``: the values of the same samples at two points of `axis`.

    ValueError when a sample is at only one of them: a comparison of other samples is no pairing.
    """
    need(data, [axis])
    sides = {}
    for name, point in (("a", a), ("b", b)):
        rows = data[same(data[axis], point)]
        if rows.empty:
            raise ValueError(f"no measurement at {axis}={point}")
        sides[name] = sampled(rows, samples)
    table = pd.concat(sides, axis=1)
    if table.isna().to_numpy().any():
        raise ValueError(f"{int(table.isna().any(axis=1).sum())} samples are at only one of {axis}={a}, {b}")
    return table


def same(column: pd.Series, wanted: Any) -> pd.Series:
    """Tell which entries equal `wanted` (any of a list), where 5, 5.0 and a column turned float are the same.

    A truth value is no number: True is neither 1 nor "True".
    """
    options = wanted if isinstance(wanted, list | tuple) else [wanted]
    flags = [o for o in options if isinstance(o, bool)]
    numbers = [float(o) for o in options if isinstance(o, int | float) and not isinstance(o, bool)]
    words = [o for o in options if isinstance(o, str)]
    if pd.api.types.is_bool_dtype(column):
        return column.isin(flags)
    if isinstance(column.dtype, pd.StringDtype):
        return column.isin(words)
    if pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(dtype=float)
        near = [np.isclose(values, number, rtol=1e-12, atol=0.0) for number in numbers]
        return pd.Series(np.any(near, axis=0) if near else False, index=column.index)

    def found(value: Any) -> bool:
        if isinstance(value, bool | np.bool_):
            return bool(value) in flags
        if isinstance(value, int | float | np.number):
            return any(abs(float(value) - n) <= 1e-12 * abs(n) for n in numbers)
        return value in words

    known: dict[Any, bool] = {}
    hits = []
    for value in column:  # few levels among many rows; True and 1 are one key to a dictionary
        entry = (type(value), value)
        if entry not in known:
            known[entry] = found(value)
        hits.append(known[entry])
    return pd.Series(hits, index=column.index, dtype=bool)


def rate_range(data: pd.DataFrame) -> tuple[float, float] | None:
    """Return the range of a rate where the unit of all rows is that of rates and all values lie in it."""
    units = data["unit"].unique() if "unit" in data.columns else []
    found = RATES.get(units[0]) if len(units) == 1 else None
    if found is None or not data["value"].between(*found).all():
        return None
    return found


def _word(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
