"""Targets are checked before anything runs; each mistake is one line that names the remedy."""

from __future__ import annotations

import pytest

from reproven.harness.errors import UserError
from reproven.harness.targets import load_targets

CLAIM = {
    "id": "c1",
    "kind": "claim",
    "statement": "FDR is at most alpha",
    "source": "Theorem 1",
    "test": "mean_at_most",
    "metric": "fdp",
    "where": {"method": "bl", "k": [200, 1000]},
    "samples": ["replicate", "seed"],
    "params": {"bound": 0.05, "per": ["k"]},
}
VALUE = {
    "id": "v1",
    "kind": "value",
    "source": "Table 2, row 3",
    "metric": "accuracy",
    "value": 0.9,
    "margin": 0.02,
    "seeds": 10,
}


def load(*entries, folder=None):
    return load_targets("sac_bl/simulation", entries, folder)


def test_a_claim_and_a_value():
    claim, value = load(CLAIM, VALUE)
    assert (claim.paper, claim.experiment) == ("sac_bl", "sac_bl/simulation")
    assert (claim.metric, claim.samples, claim.params["per"]) == (("fdp",), ("replicate", "seed"), ["k"])
    assert claim.statistical
    assert (value.value, value.margin, value.seeds, value.samples) == (0.9, 0.02, 10, ("seed",))
    assert value.tiers == ("smoke", "cpu", "paper")
    assert not value.statistical


def test_an_exact_claim_is_not_statistical():
    (target,) = load({**CLAIM, "test": "all_at_most"})
    assert not target.statistical


@pytest.mark.parametrize("kind", ["audit", "deviation"])
def test_audits_and_deviations_are_decided_by_tests(kind):
    (target,) = load({**CLAIM, "kind": kind})
    assert (target.kind, target.test) == (kind, "mean_at_most")
    with pytest.raises(UserError, match=f"a {kind} takes no 'value'"):
        load({**CLAIM, "kind": kind, "value": 1.0})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"kind": "clam"}, r"kind 'clam' \(did you mean 'claim'\?\)"),
        ({"id": None}, "target None needs 'id'"),
        ({"source": ""}, "needs 'source'"),
        ({"metric": None}, "needs 'metric'"),
        ({"metric": []}, "needs 'metric'"),
        ({"test": None}, "needs 'test'"),
        ({"test": "mean_at_mots"}, "target 'c1': no claim test 'mean_at_mots' .*'mean_at_most'"),
        ({"test": "reproven.papers.nowhere.claims.f"}, "target 'c1': claim test .* No module"),
        ({"metrics": "fdp"}, r"unknown key 'metrics' \(did you mean 'metric'\?\)"),
        ({"margin": 0.1}, "a claim takes no 'margin'"),
        ({"params": {"bond": 0.05}}, r"mean_at_most takes no 'bond' \(did you mean 'bound'\?\)"),
        ({"params": {}}, "mean_at_most needs 'bound'"),
        ({"params": [0.05]}, "params .* must be a mapping"),
        ({"params": {"bound": 0.05, "per": ["k", "k"]}}, "names one thing twice"),
        ({"where": ["bl"]}, "where .* must be a mapping"),
        ({"where": {"k": []}}, "where k is"),
        ({"where": {"k": {"a": 1}}}, "where k is"),
        ({"samples": 3}, "samples 3 must be a name or a list of names"),
        ({"samples": ["seed", "seed"]}, "names one thing twice"),
        ({"tiers": ["gpu"]}, "tier 'gpu'"),
        ({"headline": "yes"}, "headline 'yes' must be true or false"),
        ({"regress_tol": -1}, "regress_tol -1 must be a finite number, 0 or more"),
        ({"regress_tol": float("inf")}, "regress_tol inf must be a finite number"),
    ],
)
def test_mistakes_in_a_claim(changes, match):
    with pytest.raises(UserError, match=match):
        load({**CLAIM, **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"value": None}, "needs 'value'"),
        ({"value": "many"}, "value 'many' must be a finite number"),
        ({"value": float("nan")}, "value nan must be a finite number"),
        ({"margin": None}, "needs 'margin'"),
        ({"margin": 0}, "margin 0 is not positive"),
        ({"margin": -1}, "margin -1 must be a finite number, 0 or more"),
        ({"margin": float("inf")}, "margin inf must be a finite number"),
        ({"margin": True}, "margin True must be a finite number"),
        ({"seeds": 0}, "seeds 0 must be a finite number, 1 or more"),
        ({"seeds": 2.5}, "seeds 2.5 is no whole number"),
        ({"better": "bigger"}, "better 'bigger'"),
        ({"interval": "wilson"}, "interval 'wilson'"),
        ({"test": "mean_at_most"}, "a value takes no 'test'"),
        ({"spread": -0.1}, "spread -0.1 must be a finite number"),
    ],
)
def test_mistakes_in_a_value(changes, match):
    with pytest.raises(UserError, match=match):
        load({**VALUE, **changes})


def test_ids_are_unique():
    with pytest.raises(UserError, match="two targets are called 'c1'"):
        load(CLAIM, {**VALUE, "id": "c1"})


def test_an_entry_must_be_a_mapping():
    with pytest.raises(UserError, match="target 1 is 'c1'"):
        load("c1")


@pytest.mark.parametrize(
    ("value", "number", "rounding"),
    [
        (0.1, 0.1, 0.0),
        ("0.10", 0.1, 0.005),
        (".144", 0.144, 0.0005),
        ("3", 3.0, 0.0),
        ("1.5e-3", 0.0015, 5e-5),
    ],
)
def test_digits_count_only_where_the_file_keeps_them(value, number, rounding):
    (target,) = load({**VALUE, "value": value})
    assert target.value == number
    assert target.rounding == pytest.approx(rounding, rel=1e-12, abs=0)


PRINTED = {"printed": "t.csv", "metric": "minority", "samples": ["model"], "seeds": 10, "margin": 0.1}


def table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_printed_table(tmp_path):
    folder = table(
        tmp_path,
        "id,source,value,seeds,depth,method,exact\ng1,T1,.056,,1,gcn,true\ng2,T1,0.147,5,2,,\n",
    )
    one, two = load({**PRINTED, "where": {"n": 10}}, folder=folder)
    assert (one.kind, one.value, one.rounding, one.seeds) == ("value", 0.056, pytest.approx(0.0005), 10)
    assert one.where == {"n": 10, "depth": 1, "method": "gcn", "exact": True}
    assert (two.seeds, two.where) == (5, {"n": 10, "depth": 2})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id,value\n", "needs rows"),
        ("", "needs rows"),
        ("id,source\na,T1\n", "needs rows and the columns id and value"),
        ("id,value,value,source\na,1,2,T\n", "each once"),
        ("id,source,value\na,T1\n", "line 2 has fewer cells"),
        ("id,source,value\na,T1,1,2\n", "line 2 has more cells"),
        ("id,source,value\na,T1,\n", "line 2 has no value"),
        ("id,source,value\n,T1,1\n", "line 2 has no id"),
        ("id,source,value\na,T1,95 ± 1\n", "line 2: value '95 ± 1' must be a finite number"),
        ("id,source,value\na,,1\n", "line 2 needs 'source'"),
        ("id,source,value,n\na,T1,1,10\n", "'n' is both a column and in where"),
        ('id,source,value\na,"T1,1\n', "does not parse|fewer cells"),
        ("id,source,value\na,T,1\na,T,2\n", "two targets are called 'a'"),
    ],
)
def test_mistakes_in_a_printed_table(tmp_path, text, match):
    with pytest.raises(UserError, match=match):
        load({**PRINTED, "where": {"n": 10}}, folder=table(tmp_path, text))


def test_a_printed_average_stands_apart_from_its_cells(tmp_path):
    folder = table(tmp_path, "id,source,value,category\na,T1,1,x\nb,T1,3,y\nc,T1,2,average\n")
    cells = load({**PRINTED, "without": {"category": "average"}}, folder=folder)
    assert [t.where for t in cells] == [{"category": "x"}, {"category": "y"}]
    (mean,) = load(
        {**PRINTED, "rows": {"category": "average"}, "where": {"category": ["x", "y"]}}, folder=folder
    )
    assert (mean.value, mean.where) == (2.0, {"category": ["x", "y"]})
    (one,) = load({**PRINTED, "rows": {"category": ["y", "z"]}}, folder=folder)
    assert (one.id, one.where) == ("b", {})
    for key in ("rows", "without"):
        with pytest.raises(UserError, match="no column 'categry'.*did you mean 'category'"):
            load({**PRINTED, key: {"categry": "x"}}, folder=folder)
    with pytest.raises(UserError, match="no row is left"):
        load({**PRINTED, "rows": {"category": "q"}}, folder=folder)


def test_a_printed_table_that_is_not_there(tmp_path):
    table(tmp_path, "")
    with pytest.raises(UserError, match=r"did you mean 't.csv'"):
        load({**PRINTED, "printed": "tt.csv"}, folder=tmp_path)


def test_a_printed_table_in_another_encoding(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"id,source,value\na,T\xe9,1\n")
    with pytest.raises(UserError, match="does not parse"):
        load(PRINTED, folder=tmp_path)
