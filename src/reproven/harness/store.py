"""The store: one folder a run, ``status.json`` first, ``result.json`` last and atomically.

A run without a valid ``result.json`` did not happen. The same keys stand in success and failure records.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from filelock import FileLock, Timeout

from reproven.harness.context import Series
from reproven.harness.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
State = Literal["done", "failed", "killed", "out-of-memory", "timeout", "blocked", "interrupted"]
RERUN_ALWAYS = ("blocked", "killed", "interrupted")
RERUN_ON_REQUEST = ("failed", "timeout", "out-of-memory")
_UMASK = os.umask(0)  # there is no way to ask without setting it
os.umask(_UMASK)


class Failure(TypedDict):
    """Why a run is not done."""

    kind: str  # exception's name, or the state
    message: str  # one line
    log_tail: str  # the last lines of log.txt


class Result(TypedDict):
    """``result.json``, written once, by the supervisor alone."""

    schema: int
    run_id: str
    paper: str
    experiment: str
    tier: str
    hardware: str
    seed: int
    state: State
    failure: Failure | None  # None exactly when the state is `done`
    started: str  # ISO 8601, UTC
    seconds: float  # wall time of the child, monotonic clock
    peak_memory_bytes: int  # of the child's process tree, resident
    data: dict[str, str]  # card -> sha256, checked before and after
    identity: dict[str, Any]  # what the run id is a hash of
    provenance: dict[str, Any]
    measurements: list[dict[str, Any]]  # one entry a `Series`; non-finite values as "nan", "inf", "-inf"


@dataclass(frozen=True)
class Status:
    """What planning needs to know of a run without reading its measurements (``status.json``)."""

    run_id: str
    paper: str
    experiment: str
    tier: str
    hardware: str
    comparable: str  # hash of the identity without the methods
    state: str  # "running", or a terminal state
    reason: str
    seconds: float | None
    result_sha256: str | None


class Store:
    """Run folders under ``<results>/runs/<paper>/<run_id>/``."""

    def __init__(self, results: Path) -> None:
        self.root = results
        self.runs = results / "runs"

    def check_writable(self) -> None:
        """Raise UserError when the results folder cannot be written."""
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.runs):
                pass
        except OSError as error:
            raise UserError(
                f"results folder {self.root} is not writable ({error.strerror}); "
                "set results=<folder> or REPROVEN_RESULTS"
            ) from None

    def folder(self, paper: str, run_id: str) -> Path:
        """Return the folder of a run."""
        return self.runs / paper / run_id

    def lock(self, paper: str, run_id: str) -> FileLock:
        """Return the lock of a run; the system frees it when its holder dies."""
        locks = self.runs / paper / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{run_id}.lock", thread_local=False)

    def begin(self, status: Status, config: Mapping[str, Any], environment: Mapping[str, Any]) -> Path:
        """Empty the run's folder and write ``status.json`` (running), ``config.yaml`` and ``env.json``."""
        import yaml

        folder = self.folder(status.paper, status.run_id)
        if folder.exists():
            shutil.rmtree(folder)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise _unwritable(folder, error) from None
        write_atomically(folder / "status.json", _json(asdict(status)))
        write_atomically(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))
        write_atomically(folder / "env.json", _json(environment))
        return folder

    def finish(self, result: Result, status: Status) -> None:
        """Write the final status, then ``result.json``, each atomically."""
        folder = self.folder(result["paper"], result["run_id"])
        text = _json(result)
        sha = hashlib.sha256(text.encode()).hexdigest()
        reason = result["failure"]["message"] if result["failure"] else ""
        final = {**asdict(status), "state": result["state"], "reason": reason, "result_sha256": sha}
        write_atomically(folder / "status.json", _json({**final, "seconds": result["seconds"]}))
        write_atomically(folder / "result.json", text)

    def status(self, paper: str, run_id: str) -> Status | None:
        """Return the state of a run, or None when there is none.

        A run that says `running` while nobody holds its lock was killed with its supervisor; so was one whose
        result is missing.
        """
        folder = self.folder(paper, run_id)
        try:
            status = Status(**json.loads((folder / "status.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        lost = status.state != "running" and not (folder / "result.json").is_file()
        if (status.state == "running" and not self._held(paper, run_id)) or lost:
            return Status(**{**asdict(status), "state": "killed", "reason": "its supervisor ended before it"})
        return status

    def statuses(self, paper: str) -> Iterator[Status]:
        """Yield the state of every run of a paper, in the order of ids."""
        folder = self.runs / paper
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            status = self.status(paper, entry.name) if entry.name != ".locks" else None
            if status is not None:
                yield status

    def papers(self) -> list[str]:
        """Return the papers that have run folders."""
        return sorted(p.name for p in self.runs.iterdir() if p.is_dir()) if self.runs.is_dir() else []

    def result(self, paper: str, run_id: str) -> Result | None:
        """Return a run's result; None when there is none; UserError when the file is damaged."""
        path = self.folder(paper, run_id) / "result.json"
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8")
        status = self.status(paper, run_id)
        intact = status is not None and status.result_sha256 == hashlib.sha256(text.encode()).hexdigest()
        if not intact:
            raise UserError(f"{path} is damaged or was changed by hand; delete its folder and run again")
        result: Result = json.loads(text)
        if result["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {result['schema']}, this version reads {SCHEMA}; run it again"
            )
        return result

    def _held(self, paper: str, run_id: str) -> bool:
        try:
            with self.lock(paper, run_id).acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False  # a folder that cannot be written: no run is under way in it


def pack(series: Iterable[Series]) -> list[dict[str, Any]]:
    """Return series as JSON, those alike joined; non-finite values become the words "nan", "inf", "-inf"."""
    joined: dict[tuple[Any, ...], dict[str, Any]] = {}
    for s in series:
        key = (s.metric, s.unit, s.direction, *s.coords)
        empty = {"metric": s.metric, "unit": s.unit, "direction": s.direction}
        entry = joined.setdefault(key, {**empty, "coords": {c: [] for c in s.coords}, "values": []})
        entry["values"] += [v if math.isfinite(v) else str(v) for v in s.values]
        for name, column in s.coords.items():
            entry["coords"][name] += column
    return list(joined.values())


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Return every measurement of `results` as one row of one frame.

    Columns: run, experiment, paper, tier, hardware, method, dataset, seed, metric, value, unit, direction, and
    the coordinates, missing where a series has none. The columns method, dataset and seed come from the
    coordinates where these carry them.
    """
    import pandas as pd  # here: planning and running need none of its second

    parts = []
    for result in results:
        shared = {k: result[k] for k in ("experiment", "paper", "tier", "hardware", "seed")}
        for series in result["measurements"]:
            columns = {"run": result["run_id"], **shared, "method": "", "dataset": "", **series["coords"]}
            values = [float(v) for v in series["values"]]
            named = {"metric": series["metric"], "value": values, "unit": series["unit"]}
            parts.append(pd.DataFrame({**columns, **named, "direction": series["direction"]}))
    first = [
        "run",
        "experiment",
        "paper",
        "tier",
        "hardware",
        "method",
        "dataset",
        "seed",
        "metric",
        "value",
        "unit",
    ]
    if not parts:
        return pd.DataFrame(columns=[*first, "direction"])
    data = pd.concat(parts, ignore_index=True, sort=False)
    return data[[*first, "direction", *[c for c in data.columns if c not in (*first, "direction")]]]


def write_atomically(path: Path, text: str) -> None:
    """Write through a temporary file in the same folder, synced, then renamed; UserError where the disk refuses."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_UMASK)  # mkstemp lets nobody else read; what is published is for others
        os.replace(name, path)
    except OSError as error:
        _forget(name)
        raise _unwritable(path, error) from None
    except BaseException:
        _forget(name)
        raise


def _forget(name: str) -> None:
    if name:
        Path(name).unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror}); free space there, or set results=<folder>"
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=None, separators=(",", ":"), allow_nan=False, default=str) + "\n"
