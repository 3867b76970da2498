"""The report page: what it says of a row, of runs that are not done, of text that is markup, of its own size."""

from __future__ import annotations

import pandas as pd
import pytest

from reproven.harness import page, tables
from reproven.harness.verdicts import Row


def row(verdict="holds", **changes):
    named = {
        "paper": "p", "experiment": "p/e", "target": "t", "kind": "claim", "tier": "cpu", "hardware": "cpu",
        "method": "bl", "dataset": "", "ours": 1.5, "ci_low": 1.0, "ci_high": 2.0, "n": 3,
        "paper_value": None, "margin": None, "unit": "s", "reason": "as it is", "runs": ("r1",),
    }  # fmt: skip
    return Row(**{**named, "verdict": verdict, **changes})


def run(**changes):
    named = {
        "run_id": "r1", "experiment": "p/e", "methods": ("bl",), "seed": 0, "tier": "cpu", "hardware": "cpu",
        "state": "done", "reason": "", "seconds": 61.0, "peak_memory_bytes": 2**21, "commit": "abc",
    }  # fmt: skip
    return tables.RunInfo(**{**named, **changes})


def section(rows, runs=(), card="# A title\n\nText.", comparisons=None):
    return page.section("p", rows, {}, comparisons or {}, [], list(runs), card)


def test_every_verdict_has_a_mark_of_its_own():
    assert set(page.MARKS) == set(tables.ORDER)
    assert len(set(page.MARKS.values())) == len(page.MARKS)


def test_a_value_shows_the_paper_the_difference_and_what_it_cost():
    text = section([row("deviates", kind="value", paper_value=1.0)], [run()])
    assert "+0.5" in text
    assert "1 min 1 s" in text
    assert '<a href="#run-r1"' in text
    assert 'id="run-r1"' in text


def test_each_tier_and_hardware_has_a_table_of_its_own_the_weightiest_first():
    text = section([row(tier="smoke"), row(tier="cpu"), row(tier="cpu", hardware="cuda")])
    assert text.index("Tier cpu, cpu") < text.index("Tier cpu, cuda") < text.index("Tier smoke, cpu")


def test_the_tier_that_decides_most_is_open():
    text = section([row("blocked", tier="paper"), row("not-run", tier="paper"), row(tier="cpu")])
    assert text.count('class="scope" open') == 1
    assert text.index('class="scope" open') > text.index("Tier paper, cpu")


def test_text_is_never_markup():
    text = section([row(reason="<script>alert(1)</script>")], card="# T\n\n<script>alert(2)</script>")
    assert "<script>" not in text


def test_a_card_is_rendered_with_its_tables():
    text = section([row()], card="# A title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    assert "<h2>A title" in text
    assert "<td>1</td>" in text


def test_a_run_that_is_not_done_is_listed_with_its_reason():
    assert "blocked: no moon rock" in section([row("blocked")], [run(state="blocked", reason="no moon rock")])


def test_comparisons_stand_under_their_tier():
    data = pd.DataFrame(
        {
            "run": "r1",
            "experiment": "p/e",
            "paper": "p",
            "tier": "cpu",
            "hardware": "cpu",
            "method": ["a", "b"],
        }
        | {"dataset": "", "seed": 0, "metric": "loss", "value": [1.0, 2.0], "unit": "nat", "direction": ""}
    )
    text = section([row()], comparisons={"p/e": tables.comparisons(data)})
    assert "p/e: loss (nat)" in text
    assert "<td>1 (1)</td><td>2 (1)</td>" in text


@pytest.mark.parametrize(("beside", "shown"), [("cpu", False), ("smoke", True)])
def test_smoke_shows_verdicts_alone_beside_a_real_tier(tmp_path, beside, shown):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "f.png")
    figure = page.Figure(tmp_path / "f.png", "p/e", "smoke", "cpu", "a caption")
    text = page.section("p", [row(tier="smoke")], {}, {}, [figure], [run(tier=beside)], "# A title")
    assert ("a caption" in text) is shown
    assert "Tier smoke, cpu: 1 holds" in text


@pytest.mark.parametrize(("beside", "shown"), [("cpu", False), ("smoke", True)])
def test_reduced_rows_of_smoke_are_counted_and_not_listed_beside_a_real_tier(beside, shown):
    text = section([row("reduced", tier="smoke", target="too_big"), row(tier="smoke")], [run(tier=beside)])
    assert ("too_big" in text) is shown
    assert "1 reduced" in text


def test_the_front_row_counts_as_the_verdicts_say():
    rows = [row(), row("violated"), row("reproduced", kind="value"), row("blocked", kind="value")]
    (found,) = page.front_rows(tables.verdicts_csv(rows), {("cpu", "cpu"): "61.0"})
    assert (found["held"], found["claims"], found["violated"]) == ("1", "2", "1")
    assert (found["reproduced"], found["values"], found["blocked"]) == ("1", "2", "1")
    assert found["time"] == "1 min 1 s"


def test_benchmarks_are_no_paper():
    papers = {"p": ("A title", "x"), "bench": ("", "y"), "q": ("Another", None)}
    assert "2 papers, claim by claim" in page.index(papers, [])


def test_a_paper_that_has_not_run_says_how_to_run_it():
    assert "make reproduce-p" in page.index({"p": ("A title", None)}, [])


def test_latex_escapes_what_latex_would_read():
    text = tables.verdicts_latex([row(target="a_b", reason="50 % & more")])
    assert r"a\_b" in text
    assert r"50 \% \& more" in text
    assert r"\begin{longtable}" in text
