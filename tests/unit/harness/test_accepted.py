"""The regression gate: what moves, what may, and what is never asked."""

from __future__ import annotations

import json
import math

import pytest

from reproven.harness import accepted
from reproven.harness.errors import UserError
from reproven.harness.verdicts import Row

HEADLINE = {("p/e", "t"): 0.0}


def row(verdict="holds", samples=None, **changes):
    named = {
        "paper": "p", "experiment": "p/e", "target": "t", "kind": "claim", "tier": "cpu", "hardware": "cpu",
        "method": "", "dataset": "", "ours": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 2, "paper_value": None,
        "margin": None, "unit": "1", "reason": "as it is", "runs": ("r1",),
    }  # fmt: skip
    kept = {"seed=0": 0.4, "seed=1": 0.6} if samples is None else samples
    return Row(**{**named, "verdict": verdict, **changes}, samples=kept)


@pytest.fixture
def root(tmp_path):
    accepted.accept(tmp_path, [row()], "first", "0123456789abcdef")
    return tmp_path


def moves(root, *rows, tolerance=0.0, headline=None):
    return accepted.compare(root, rows, headline or {("p/e", "t"): tolerance})


def test_nothing_moved(root):
    assert moves(root, row()) == []


def test_a_sample_that_moved_is_told_from_what_to_what_since_when(root):
    (line,) = moves(root, row(samples={"seed=0": 0.4, "seed=1": 0.65}), tolerance=0.01)
    assert "p/e t (cpu, cpu) at seed=1: 0.6 became 0.65, more than 0.01 apart, since 0123456789 of 20" in line
    assert moves(root, row(samples={"seed=0": 0.4, "seed=1": 0.65}), tolerance=0.051) == []


def test_means_do_not_hide_samples(root):
    """0.5 and 0.5 have the mean of 0.4 and 0.6."""
    assert len(moves(root, row(samples={"seed=0": 0.5, "seed=1": 0.5}))) == 2


def test_noise_beyond_twelve_digits_is_none(root):
    assert moves(root, row(samples={"seed=0": 0.4 + 1e-15, "seed=1": 0.6})) == []
    assert len(moves(root, row(samples={"seed=0": 0.4 + 1e-10, "seed=1": 0.6}))) == 1


def test_missing_and_new_samples(root):
    (line,) = moves(root, row(samples={"seed=0": 0.4}))
    assert "at seed=1: 0.6 is missing now" in line
    (line,) = moves(root, row(samples={"seed=0": 0.4, "seed=1": 0.6, "seed=2": 1.0}))
    assert "at seed=2: not accepted before" in line


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_moved(tmp_path, root, bad):
    (line,) = moves(root, row(samples={"seed=0": 0.4, "seed=1": bad}), tolerance=1e300)
    assert "at seed=1: 0.6 became" in line
    accepted.accept(tmp_path, [row(samples={"seed=0": bad})], "a slip", "c")
    assert len(moves(root, row(samples={"seed=0": bad}), tolerance=1e300)) == 1


def test_a_changed_verdict_is_told_though_no_sample_moved(root):
    (line,) = moves(root, row("violated"))
    assert "holds became violated since 0123456789" in line


def test_a_row_without_samples_is_held_to_its_number(tmp_path):
    accepted.accept(tmp_path, [row(samples={})], "first", None)
    assert moves(tmp_path, row(samples={})) == []
    (line,) = moves(tmp_path, row(samples={}, ours=0.51))
    assert "0.5 became 0.51, more than 0 apart, since an unknown" in line
    blocked = row("blocked", samples={}, ours=None)
    accepted.accept(tmp_path, [blocked], "no data here", None)
    assert moves(tmp_path, blocked) == []


def test_a_hardware_class_or_tier_with_nothing_accepted_fails_with_the_command(root):
    for other in (row(hardware="cuda"), row(tier="paper"), row(target="t2")):
        headline = {("p/e", other.target): 0.0}
        (line,) = moves(root, other, headline=headline)
        assert "nothing accepted here; `reproven accept p --reason ...`" in line


def test_times_and_ratios_never_gate(root):
    for unit in ("s", "x", "ms"):
        assert moves(root, row("violated", samples={"seed=0": 9.0}, unit=unit)) == []
        assert moves(root, row("violated", unit=unit, tier="paper")) == []


def test_only_headlines_gate(root):
    assert accepted.compare(root, [row("violated")], {("p/e", "other"): 0.0}) == []


def test_a_headline_that_turns_reduced_has_moved(root):
    first, *_ = moves(root, row("reduced", samples={}))
    assert "holds became reduced" in first


def test_a_row_accepted_as_reduced_or_never_accepted_may_stay_reduced(root):
    assert moves(root, row(), row("reduced", samples={}, tier="smoke")) == []
    accepted.accept(root, [row("reduced", samples={}, tier="smoke", ours=None)], "too small", "f")
    assert moves(root, row("reduced", samples={}, tier="smoke", ours=None)) == []


@pytest.mark.parametrize(
    ("now", "headline"), [([row()], {("p/e", "u"): 0.0}), ([row(target="u")], {("p/e", "t"): 0.0})]
)
def test_a_headline_cannot_be_dropped_unseen(tmp_path, now, headline):
    accepted.accept(tmp_path, [row()], "first", "0123456789abcdef", headline=HEADLINE)
    assert any("was a headline and is none now" in m for m in accepted.dropped(tmp_path, now, headline))
    assert accepted.dropped(tmp_path, [row()], HEADLINE) == []


def test_a_headline_of_a_tier_that_did_not_run_is_not_missed(tmp_path):
    accepted.accept(tmp_path, [row(), row(tier="smoke")], "first", "0123456789abcdef", headline=HEADLINE)
    assert accepted.dropped(tmp_path, [row(tier="smoke")], HEADLINE) == []


def test_accepting_renews_only_what_moved(root):
    accepted.accept(root, [row(), row(target="t2")], "second", "fedcba")
    entries = accepted.load(root, "p")
    assert (entries["p/e:t:cpu:cpu"]["reason"], entries["p/e:t:cpu:cpu"]["commit"]) == (
        "first",
        "0123456789abcdef",
    )
    assert (entries["p/e:t2:cpu:cpu"]["reason"], entries["p/e:t2:cpu:cpu"]["commit"]) == ("second", "fedcba")


def test_accepting_leaves_other_tiers_and_drops_targets_that_are_gone(root):
    accepted.accept(root, [row(tier="paper")], "second", "f")
    accepted.accept(root, [row(target="t2")], "third", "f")
    assert sorted(accepted.load(root, "p")) == ["p/e:t2:cpu:cpu", "p/e:t:paper:cpu"]


def test_the_file_is_sorted_and_stable(root):
    path = root / "p.json"
    before = path.read_text(encoding="utf-8")
    accepted.accept(root, [row()], "again", "other")
    assert path.read_text(encoding="utf-8") == before
    assert json.dumps(json.loads(before), indent=1, sort_keys=True) + "\n" == before


def test_a_reason_is_needed(tmp_path):
    with pytest.raises(UserError, match="accept needs a reason"):
        accepted.accept(tmp_path, [row()], "  ", None)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_told(root):
    (root / "p.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"p.json is no JSON .* restore it from git"):
        moves(root, row())


def test_readme_table_counts_by_paper_and_hardware(tmp_path):
    rows = [
        row(target="a"), row("violated", target="b"), row("inconclusive", target="c"),
        row("blocked", target="d"), row("reproduced", target="e", kind="value"),
        row("deviates", target="f", kind="value"), row("holds", target="g", tier="paper"),
    ]  # fmt: skip
    accepted.accept(tmp_path, rows, "first", None)
    accepted.accept(tmp_path, [row(paper="q", experiment="q/e", hardware="cuda")], "first", None)
    lines = accepted.readme_table(tmp_path).splitlines()
    assert [c.strip() for c in lines[2].strip("|").split("|")] == [
        "[p](experiments/p/README.md)", "cpu", "1 of 4", "1", "1", "1 of 2", "1", "1",
    ]  # fmt: skip
    assert lines[3].startswith("| [q](experiments/q/README.md) | cuda | 1 of 1 |")
    assert len(lines) == 4


def test_the_readmes_generated_part_is_replaced_and_nothing_else():
    before = f"top\n{accepted.BEGIN}\nold\n{accepted.END}\nbottom\n"
    after = accepted.with_table(before, "| new |\n")
    assert after == f"top\n{accepted.BEGIN}\n| new |\n{accepted.END}\nbottom\n"
    assert accepted.with_table(after, "| new |\n") == after
    with pytest.raises(UserError, match="put them back"):
        accepted.with_table("top\n", "| new |\n")
