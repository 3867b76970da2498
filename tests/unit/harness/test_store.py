"""The store: atomic files, one frame of everything, and series that survive the way through JSON."""

from __future__ import annotations

import json

import pytest

from reproven.harness.context import Context
from reproven.harness.errors import UserError
from reproven.harness.store import SCHEMA, Result, frame, pack, write_atomically


def result(context: Context, **changes: object) -> Result:
    made = {
        "schema": SCHEMA, "run_id": "r", "paper": "p", "experiment": "p/e", "tier": "smoke", "hardware": "cpu",
        "seed": 3, "state": "done", "failure": None, "started": "", "seconds": 1.0, "peak_memory_bytes": 1,
        "data": {}, "identity": {}, "provenance": {}, "measurements": json.loads(json.dumps(pack(context.series))),
    }  # fmt: skip
    return {**made, **changes}  # type: ignore[return-value,typeddict-item]


def test_measurements_come_back_with_their_coordinates():
    ctx = Context(methods={"a": None, "b": None})
    ctx.record("x", 1.5, unit="s", direction="lower", method="a", n=10)
    ctx.record_many(
        "x", [2.5, float("nan"), float("-inf")], unit="s", direction="lower", method=["a", "b", "b"], n=20
    )
    ctx.record("y", 7.0)
    data = frame([result(ctx)])
    assert len(data) == 5
    x = data[data["metric"] == "x"]
    assert list(x["method"]) == ["a", "a", "b", "b"]
    assert list(x["n"]) == [10, 20, 20, 20]
    assert x["value"].tolist()[:2] == [1.5, 2.5]
    assert x["value"].isna().sum() == 1
    assert x["value"].tolist()[3] == float("-inf")
    assert set(data["seed"]) == {3}
    assert data[data["metric"] == "y"]["n"].isna().all()


def test_series_alike_are_joined():
    ctx = Context()
    for step in range(100):
        ctx.record("loss", float(step), step=step)
    (packed,) = pack(ctx.series)
    assert packed["coords"]["step"] == list(range(100))


def test_a_batched_seed_replaces_the_run_s_own():
    ctx = Context()
    ctx.record_many("x", [1.0, 2.0], seed=[8, 9])
    assert list(frame([result(ctx)])["seed"]) == [8, 9]


def test_the_sole_method_and_data_set_are_filled_in():
    ctx = Context(methods={"only": None}, datasets={"digits": lambda: 1})
    ctx.record("x", 1.0)
    row = frame([result(ctx)]).iloc[0]
    assert (row["method"], row["dataset"]) == ("only", "digits")
    assert ctx.dataset() == 1


def test_lengths_and_directions_are_checked():
    ctx = Context()
    with pytest.raises(ValueError, match="coordinate 'n' has 2 entries for 3 values"):
        ctx.record_many("x", [1, 2, 3], n=[1, 2])
    with pytest.raises(ValueError, match="direction 'up'"):
        ctx.record("x", 1.0, direction="up")


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match="No space left on device.*free space there"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_no_measurement_gives_an_empty_frame_with_its_columns():
    assert {"run", "metric", "value", "method"} <= set(frame([]).columns)
