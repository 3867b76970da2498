"""Tables as text: the columns of the contract, the same bytes for the same measurements, honest cells."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pandas as pd
import pytest

from reproven.harness import intervals, tables
from reproven.harness.verdicts import Row

VERDICTS = (
    "paper,experiment,target,kind,tier,hardware,method,dataset,ours,ci_low,ci_high,n,paper_value,margin,unit,"
    "verdict,reason,runs"
)
SUMMARY = (
    "paper,tier,hardware,claims_hold,claims_violated,claims_inconclusive,claims_total,values_reproduced,"
    "values_total,blocked,failed,seconds"
)


def row(verdict="holds", **changes):
    named = {
        "paper": "p", "experiment": "p/e", "target": "t", "kind": "claim", "tier": "cpu", "hardware": "cpu",
        "method": "bl", "dataset": "", "ours": 0.1 + 0.2, "ci_low": 0.25, "ci_high": 1 / 3, "n": 3,
        "paper_value": None, "margin": None, "unit": "1", "reason": "as it is", "runs": ("r1", "r2"),
    }  # fmt: skip
    return Row(**{**named, "verdict": verdict, **changes})


def frame(values, **columns):
    shared = {
        "run": "r0", "experiment": "p/e", "paper": "p", "tier": "cpu", "hardware": "cpu", "method": "bl",
        "dataset": "", "seed": range(len(values)), "metric": "fdp", "unit": "1", "direction": "lower",
    }  # fmt: skip
    return pd.DataFrame({**shared, "value": np.asarray(values, dtype=float), **columns})


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_verdicts_csv_by_the_contract():
    text = tables.verdicts_csv([row(), row("blocked", ours=None, ci_low=None, ci_high=None, n=0, runs=())])
    assert text.splitlines()[0] == VERDICTS
    one, two = read(text)
    assert (one["ours"], one["ci_high"], one["runs"]) == ("0.3", "0.3333333333", "r1 r2")
    assert (two["ours"], two["n"], two["paper_value"], two["runs"]) == ("", "0", "", "")


def test_reasons_survive_csv_and_markdown():
    tricky = row(reason='a "quoted", piped | reason')
    assert read(tables.verdicts_csv([tricky]))[0]["reason"] == 'a "quoted", piped | reason'
    line = tables.verdicts_markdown([tricky]).splitlines()[-1]
    assert r"piped \| reason" in line


def test_no_rows_are_still_a_table():
    assert tables.verdicts_csv([]) == VERDICTS + "\n"
    assert tables.summary_csv([]) == SUMMARY + "\n"


def test_summary_counts_by_tier_and_hardware():
    rows = [
        row(), row("violated"), row("inconclusive"), row("failed"), row("blocked"), row("reduced"),
        row("holds", kind="audit"), row("reproduced", kind="value"), row("better", kind="value"),
        row("deviates", kind="value"), row("holds", hardware="cuda"), row("holds", tier="paper"),
    ]  # fmt: skip
    seconds = {("cpu", "cpu"): 12.34, ("cpu", "cuda"): 1.0, ("paper", "cpu"): 0.0}
    text = tables.summary_csv(tables.summary_rows(rows, seconds))
    assert text.splitlines()[0] == SUMMARY
    found = {(r["tier"], r["hardware"]): r for r in read(text)}
    assert found["cpu", "cpu"] == {
        "paper": "p", "tier": "cpu", "hardware": "cpu", "claims_hold": "2", "claims_violated": "1",
        "claims_inconclusive": "1", "claims_total": "7", "values_reproduced": "2", "values_total": "3",
        "blocked": "1", "failed": "1", "seconds": "12.3",
    }  # fmt: skip
    assert found["cpu", "cuda"]["claims_hold"] == found["paper", "cpu"]["claims_hold"] == "1"


def test_raw_rows_keep_every_number_and_no_empty_column():
    data = frame([1 / 3, math.nan, math.inf], k=[5.0, np.nan, 7.0], other=np.nan)
    text = tables.raw_csv(data)
    found = read(text)
    assert "other" not in found[0]
    assert [r["value"] for r in found] == ["0.3333333333", "nan", "inf"]
    assert [r["k"] for r in found] == ["5", "", "7"]


def test_raw_rows_are_the_same_bytes_in_any_order_of_runs():
    a, b = frame([1.0, 2.0], run="r1", seed=1), frame([3.0, 4.0], run="r0", seed=0)
    one = tables.raw_csv(pd.concat([a, b], ignore_index=True))
    assert one == tables.raw_csv(pd.concat([b, a], ignore_index=True))
    assert [r["value"] for r in read(one)] == ["3", "4", "1", "2"]


def test_failures_stand_before_what_was_reproduced():
    text = tables.verdicts_markdown([row(target="good"), row("violated", target="bad"), row(tier="paper")])
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines] == [
        "| verdict",
        "| violated",
        "| holds",
        "| verdict",
        "| holds",
    ]
    assert "## Tier cpu, cpu" in text
    assert "## Tier paper, cpu" in text


def body(text):
    return [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]


def test_a_column_a_method_with_intervals_over_independent_samples():
    # two seeds with three replicates each: the replicates are not six samples, unless a target says so
    data = frame([1.0, 2.0, 3.0, 3.0, 4.0, 5.0], seed=[0, 0, 0, 1, 1, 1], replicate=[0, 1, 2] * 2)
    data = pd.concat([data, data.assign(method="bh", value=0.5)], ignore_index=True)
    by_seed = body(tables.comparison_markdown("p/e", tables.comparisons(data)))
    assert by_seed[0] == ["replicate", "bh", "bl"]
    head, cells = body(
        tables.comparison_markdown("p/e", tables.comparisons(data, {"fdp": ["seed", "replicate"]}))
    )
    low, high = intervals.mean_interval([1, 2, 3, 3, 4, 5], 0.95)
    assert head == ["bh", "bl"]
    assert cells == ["0.5 ± 0 (6)", f"3 ± {(high - low) / 2:.4g} (6)"]
    # replicate 0: 1 and 3, so s = sqrt(2) and the half-width is t_1(0.975) = 12.71
    assert by_seed[1] == ["0", "0.5 ± 0 (2)", "2 ± 12.71 (2)"]


def test_one_sample_has_no_interval():
    assert body(tables.comparison_markdown("p/e", tables.comparisons(frame([2.0])))) == [["bl"], ["2 (1)"]]


def test_settings_are_rows_and_a_gap_is_one():
    data = frame([1.0, 2.0, 3.0], seed=0, n=[10, 200, np.nan], dataset=["digits"] * 3)
    assert body(tables.comparison_markdown("p/e", tables.comparisons(data))) == [
        ["n", "bl"], ["10", "1 (1)"], ["200", "2 (1)"], ["", "3 (1)"],
    ]  # fmt: skip


def test_what_is_averaged_over_is_said():
    data = frame(np.arange(30.0), seed=0, step=range(30))
    text = tables.comparison_markdown("p/e", tables.comparisons(data))
    assert "Averaged over step." in text
    assert body(text) == [["bl"], ["14.5 (1)"]]


def test_tiers_and_hardware_have_tables_of_their_own():
    data = pd.concat([frame([1.0]), frame([2.0], tier="paper"), frame([3.0], hardware="cuda")])
    text = tables.comparison_markdown("p/e", tables.comparisons(data))
    assert text.count("\n## fdp (1)") == 3
    assert [cells for cells in body(text) if cells != ["bl"]] == [["1 (1)"], ["3 (1)"], ["2 (1)"]]


def test_long_tables_are_cut_and_say_so():
    data = frame(np.arange(100.0), seed=0, a=list(range(10)) * 10, b=np.repeat(range(10), 10))
    text = tables.comparison_markdown("p/e", tables.comparisons(data))
    assert len(body(text)) == 1 + tables.SHOWN_ROWS
    assert "40 more rows stand in the CSV beside this file." in text


def test_what_was_written_is_what_is_recomputed(tmp_path):
    files = {"p/verdicts.csv": tables.verdicts_csv([row()]), "summary.csv": tables.summary_csv([])}
    tables.write(tmp_path, files)
    assert tables.differences(tmp_path, files) == []
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["summary.csv", "verdicts.csv"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda p: p.write_text(p.read_text().replace("0.3,", "0.31,", 1)),
            "line 2 is not what the runs say",
        ),
        (lambda p: p.write_text(p.read_text() + "more\n"), "line 3 is not what the runs say"),
        (lambda p: p.write_text(""), "line 1 is not what the runs say"),
        (lambda p: p.unlink(), "missing"),
    ],
)
def test_a_changed_table_is_told_with_its_line(tmp_path, change, match):
    files = {"p/verdicts.csv": tables.verdicts_csv([row()])}
    tables.write(tmp_path, files)
    change(tmp_path / "p" / "verdicts.csv")
    (line,) = tables.differences(tmp_path, files)
    assert "verdicts.csv" in line
    assert match in line
