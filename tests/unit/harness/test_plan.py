"""Planning: what a run's identity rests on, and what it does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from conftest import TOYS
from reproven.harness import compose, plan
from reproven.harness.errors import UserError
from reproven.harness.provenance import digest, source_digest


@pytest.fixture
def own_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function: edit a copy of the toy configuration, then expand overrides in it."""
    folder = tmp_path / "conf"
    shutil.copytree(TOYS / "conf", folder)
    monkeypatch.syspath_prepend(str(TOYS))

    def expand(*overrides: str, edit: tuple[str, str, str] | None = None) -> list[plan.Run]:
        if edit is not None:
            path = folder / edit[0]
            text = path.read_text()
            assert edit[1] in text
            path.write_text(text.replace(edit[1], edit[2]))
        with compose.hydra_ready(str(folder)):
            return plan.expand(overrides)[1]

    return expand


MEAN = ("experiment=toy/mean", "tier=smoke")
FILE = "experiment/toy/mean.yaml"


def ids(runs: list[plan.Run]) -> list[str]:
    return [r.run_id for r in runs]


def test_a_grid_spans_runs_and_a_batch_is_held_inside_one(own_conf):
    runs = own_conf(*MEAN)
    assert [r.seed for r in runs] == [0, 1]
    assert all(list(r.methods) == ["toy_zero", "toy_one"] for r in runs)
    assert all(r.keywords == {"n": 10, "replicate": [0, 1, 2, 3]} for r in runs)
    assert len(set(ids(runs))) == 2


def test_targets_figures_and_estimates_are_no_part_of_a_run(own_conf):
    before = ids(own_conf(*MEAN))
    assert before == ids(own_conf(*MEAN, edit=(FILE, "bound: 0.999", "bound: 0.5")))
    assert before == ids(own_conf(*MEAN, edit=(FILE, "estimate_s: {cpu: 0.1}", "estimate_s: {cpu: 3}")))
    assert before == ids(own_conf(*MEAN, "tracker=wandb", "jobs=1", "retry=true", "results=/elsewhere"))


@pytest.mark.parametrize(
    "edit",
    [
        (FILE, "smoke: {n: 10}", "smoke: {n: 11}"),
        (FILE, "replicate: [0, 1, 2, 3]", "replicate: [0, 1, 2]"),
        ("method/toy_one.yaml", "by: 1.0", "by: 1.5"),
        (FILE, "paper: toy", "paper: toy\nthreads: 2"),
    ],
)
def test_what_changes_the_outcome_changes_the_id(own_conf, edit):
    assert set(ids(own_conf(*MEAN))).isdisjoint(ids(own_conf(*MEAN, edit=edit)))


def test_a_method_alone_is_comparable_with_the_others(own_conf):
    together, alone = own_conf(*MEAN), own_conf(*MEAN, "method=toy_outsider")
    assert [r.comparable for r in together] == [r.comparable for r in alone]
    assert set(ids(together)).isdisjoint(ids(alone))


def test_an_unknown_key_in_an_experiment_is_an_error(own_conf):
    with pytest.raises(UserError, match="unknown key 'tragets' .*'targets'"):
        own_conf(*MEAN, edit=(FILE, "targets:", "tragets:"))


def test_a_keyword_given_twice_is_an_error(own_conf):
    with pytest.raises(UserError, match="'n' is both an axis and in the budget"):
        own_conf(*MEAN, edit=(FILE, "grid: {", "grid: {n: [1], "))


def test_a_digest_does_not_depend_on_key_order():
    assert digest({"a": 1, "b": [2, {"c": 3, "d": 4}]}) == digest({"b": [2, {"d": 4, "c": 3}], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_docstrings_and_readers_are_outside_the_source_digest(tmp_path, monkeypatch):
    from reproven.harness import paths, provenance, signatures

    paper = tmp_path / "papers" / "p"
    paper.mkdir(parents=True)
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "seeds.py").write_text("SEED = 1\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cards.py").write_text("N = 1\n")
    (tmp_path / "data" / "tables.py").write_text("N = 1\n")
    (paper / "method.py").write_text(
        '"""Doc."""\nfrom reproven.data import cards, tables\n\ndef f():\n    """Doc."""\n    return 1\n'
    )
    (paper / "claims.py").write_text("A = 1\n")
    monkeypatch.setattr(paths, "PACKAGE", tmp_path)
    monkeypatch.setattr(signatures, "PACKAGE", tmp_path)

    def now() -> str:
        signatures.module_path.cache_clear()
        provenance._file_digest.cache_clear()
        provenance._shared_imports.cache_clear()
        return source_digest(["reproven.papers.p.method.f"])

    before = now()
    (paper / "method.py").write_text(
        (paper / "method.py").read_text().replace("Doc.", "Other words. # comment")
    )
    (paper / "claims.py").write_text("A = 2\n")
    assert now() == before
    # Where the data come from may change: their digests are in a run's identity on their own.
    (tmp_path / "data" / "cards.py").write_text("N = 2\n")
    assert now() == before
    (tmp_path / "data" / "tables.py").write_text("N = 2\n")
    with_data = now()
    assert with_data != before
    (paper / "method.py").write_text((paper / "method.py").read_text().replace("return 1", "return 2"))
    assert now() != with_data
    signatures.module_path.cache_clear()
    provenance._file_digest.cache_clear()
    provenance._shared_imports.cache_clear()


def test_a_package_and_its_init_are_one_module():
    from reproven.harness import provenance

    task = "reproven.papers.sac_bl.experiments.simulation"
    named_by_package = provenance.source_digest([task, "reproven.papers.sac_bl.bh"])
    assert named_by_package == provenance.source_digest([task])
    assert named_by_package == provenance.source_digest([task, "reproven.papers.sac_bl.rules.bh"])
