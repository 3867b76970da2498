"""Audit rules: each finds a planted fault, each passes the table without it, and rounding alone is never a fault."""

from __future__ import annotations

import numpy as np
import pytest

from reproven.harness import audit, paths
from reproven.harness.errors import UserError


def cells(texts, decimals=None, **coords):
    rows = [{k: v[i] for k, v in coords.items()} for i in range(len(texts))]
    return [audit.printed(f"c{i}", t, r, decimals) for i, (t, r) in enumerate(zip(texts, rows, strict=True))]


def verdicts(found):
    return [fits for _, fits, _ in found]


@pytest.mark.parametrize(
    ("text", "decimals", "half"),
    [
        ("92.14", None, 0.005),
        ("92.1", 2, 0.005),
        ("100", None, 0.5),
        ("3e-2", None, 0.005),
        ("-0.50", None, 0.005),
    ],
)
def test_a_printed_number_is_an_interval(text, decimals, half):
    cell = audit.printed("x", text, decimals=decimals)
    assert cell.high - cell.low == pytest.approx(2 * half, rel=1e-4)  # slack of 1e-9 of the number
    assert cell.low <= float(text) <= cell.high


def test_what_is_no_number_is_refused():
    with pytest.raises(UserError, match=r"'n/a' of 'x' is no number"):
        audit.printed("x", "n/a")


def test_counts_find_the_rate_that_no_count_gives():
    planted = cells(["92.14", "92.86"], 2, category=["a", "b"])
    assert verdicts(audit.counts(planted, {"c0": 28, "c1": 28}, 100)) == [False, True]


def test_counts_pass_every_true_rate():
    rng = np.random.default_rng(0)
    for n in rng.integers(1, 5000, 200):
        rate = f"{100 * rng.integers(0, n + 1) / n:.2f}"
        assert verdicts(audit.counts([audit.printed("x", rate)], {"x": int(n)}, 100)) == [True]


def test_averages_find_the_mean_that_is_none():
    good = cells(["1.00", "2.00", "1.50"], row=["a", "b", "average"])
    assert verdicts(audit.averages(good, "row")) == [True]
    bad = cells(["1.00", "2.00", "1.52"], row=["a", "b", "average"])
    assert verdicts(audit.averages(bad, "row")) == [False]


def test_averages_pass_means_of_rounded_numbers():
    rng = np.random.default_rng(1)
    for _ in range(200):
        values = rng.uniform(0, 100, 15)
        texts = [f"{v:.2f}" for v in [*values, values.mean()]]
        assert verdicts(audit.averages(cells(texts, row=[*map(str, range(15)), "average"]), "row")) == [True]


def test_f_measure_is_the_harmonic_mean():
    p, r = cells(["0.80"], m=["a"]), cells(["0.50"], m=["a"])
    assert verdicts(audit.f_measure(p, r, cells(["0.62"], m=["a"]))) == [True]  # 0.6154
    assert verdicts(audit.f_measure(p, r, cells(["0.64"], m=["a"]))) == [False]


def test_confusion_finds_an_f1_that_no_counts_give():
    tpr, fpr = cells(["100.00"], m=["a"]), cells(["49.00"], m=["a"])
    sizes = {"c0": 100}
    assert verdicts(audit.confusion(tpr, fpr, cells(["80.32"], m=["a"]), sizes, sizes, 100)) == [True]
    assert verdicts(audit.confusion(tpr, fpr, cells(["80.97"], m=["a"]), sizes, sizes, 100)) == [False]
    (found,) = audit.confusion(
        cells(["92.14"], m=["a"]), fpr, cells(["80.32"], m=["a"]), {"c0": 28}, sizes, 100
    )
    assert not found[1]
    assert "no counts give" in found[2]


def test_confusion_agrees_with_scikit_learn():
    from sklearn.metrics import f1_score

    truth, said = (
        np.r_[np.ones(30, int), np.zeros(50, int)],
        np.r_[np.ones(27, int), np.zeros(40, int), np.ones(13, int)],
    )
    tpr, fpr, f1 = (said[truth == 1].mean(), said[truth == 0].mean(), f1_score(truth, said))
    three = [cells([f"{100 * v:.2f}"], m=["a"]) for v in (tpr, fpr, f1)]
    assert verdicts(audit.confusion(*three, {"c0": 30}, {"c0": 50}, 100)) == [True]


def test_ratios_must_agree_across_rows():
    time, base = cells(["2.0", "4.0"], m=["a", "b"]), cells(["1.0", "2.0"], m=["a", "b"])
    assert verdicts(audit.ratios(time, base, over=["m"])) == [True]
    assert verdicts(audit.ratios(cells(["2.0", "6.0"], m=["a", "b"]), base, over=["m"])) == [False]
    with pytest.raises(UserError, match="not positive"):
        audit.ratios(time, cells(["0.0", "2.0"], m=["a", "b"]), over=["m"])


def test_spreads_have_a_largest_value():
    mean = cells(["95.0"], m=["a"])
    reachable = np.std([100.0, 100.0, 85.0], ddof=1)
    assert verdicts(audit.spreads(mean, cells([f"{reachable:.1f}"], m=["a"]), {"c0": 3}, 0, 100)) == [True]
    assert verdicts(audit.spreads(mean, cells(["30.0"], m=["a"]), {"c0": 3}, 0, 100)) == [False]
    with pytest.raises(UserError, match="at least 2"):
        audit.spreads(mean, cells(["1.0"], m=["a"]), {"c0": 1}, 0, 100)


def test_spreads_pass_every_sample():
    rng = np.random.default_rng(2)
    for _ in range(200):
        sample = np.where(rng.random(5) < 0.5, 0, 100) * rng.random()
        mean, spread = cells([f"{sample.mean():.1f}"], m=["a"]), cells([f"{sample.std(ddof=1):.1f}"], m=["a"])
        assert verdicts(audit.spreads(mean, spread, {"c0": 5}, 0, 100)) == [True]


def test_a_number_printed_twice_is_one_number_at_the_coarser_rounding():
    assert verdicts(audit.repeated(cells(["0.667"], m=["a"]), cells(["0.67"], m=["a"]))) == [True]
    assert verdicts(audit.repeated(cells(["0.664"], m=["a"]), cells(["0.67"], m=["a"]))) == [False]


def test_digits_are_those_of_the_table():
    assert verdicts(audit.digits(cells(["1.00", "1.0"], m=["a", "b"]), 2)) == [True, False]


def test_cells_without_a_partner_are_refused():
    with pytest.raises(UserError, match="in one table and not in the other"):
        audit.repeated(cells(["1.0"], m=["a"]), cells(["1.0"], m=["b"]))
    with pytest.raises(UserError, match="same coordinates"):
        audit.repeated(cells(["1.0", "2.0"], m=["a", "a"]), cells(["1.0"], m=["a"]))


CHECK = """
- rule: {rule}
  title: "rates are counts"
  cells: {{table: {table}}}
  params: {{n: 28, scale: 100{more}}}
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "count"}, "no rule 'count'"),
        ({"table": "rate.csv"}, "no table 'rate.csv'"),
        ({"more": ", depth: 3"}, "takes no 'depth'"),
    ],
)
def test_a_wrong_check_ends_with_one_line(tmp_path, changes, message):
    (tmp_path / "rates.csv").write_text("id,source,value\nx,Table 1,92.14\n")
    named = {"rule": "counts", "table": "rates.csv", "more": ""}
    (tmp_path / "audit.yaml").write_text(CHECK.format(**named))
    (found,) = audit.audit(tmp_path)
    assert not found.consistent
    assert "no,rates are counts" in audit.findings_csv([found])
    (tmp_path / "audit.yaml").write_text(CHECK.format(**{**named, **changes}))
    with pytest.raises(UserError, match=message) as raised:
        audit.audit(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "folder", sorted(paths.experiments().glob("*/printed/audit.yaml")), ids=lambda p: p.parts[-3]
)
def test_the_checks_of_every_paper_run(folder):
    assert audit.audit(folder.parent)


def test_the_impossible_rate_of_sac_bl_is_found():
    found = audit.audit(paths.experiments() / "sac_bl" / "printed")
    wrong = {f.cells[0] for f in found if f.rule == "counts" and not f.consistent}
    assert wrong == {"mvtec_image_tpr_carpet_sac_sbl"}


def test_the_series_of_pooling_are_scored_by_batch():
    """No ECG200 cell is a count over 5 x 100 predictions, each is a mean over batches of 64 and 36: 18 of 18."""
    found = [f for f in audit.audit(paths.experiments() / "pooling" / "printed") if "_ecg200_" in f.cells[0]]
    as_counts = [f.consistent for f in found if "count over all" in f.check]
    as_batches = [f.consistent for f in found if "batches of 64 and 36" in f.check]
    assert as_counts == [False] * 18
    assert as_batches == [True] * 18
