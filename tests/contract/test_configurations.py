"""Every experiment, method and printed table in the repository answers the same questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from reproven.harness import accepted, compose, paths, plan, signatures
from reproven.harness.targets import load_targets

EXPERIMENTS = sorted(
    p.relative_to(paths.experiments()).with_suffix("").as_posix()
    for p in paths.experiments().glob("*/*.yaml")
)
METHODS = sorted(
    p.relative_to(paths.conf() / "method").with_suffix("").as_posix()
    for p in paths.conf().glob("method/**/*.yaml")
)
PAPERS = sorted({e.partition("/")[0] for e in EXPERIMENTS} - {"bench"})


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with compose.hydra_ready():
        yield


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_expands_at_every_tier_it_offers(experiment):
    node, _ = plan.expand([f"experiment={experiment}", "tier=cpu"])
    assert node["name"] == experiment
    assert node["paper"] == experiment.partition("/")[0]
    assert node["budgets"], "an experiment without a budget never runs"
    for tier in node["budgets"]:
        _, runs = plan.expand([f"experiment={experiment}", f"tier={tier}"])
        assert runs
        assert len({r.run_id for r in runs}) == len(runs)
        assert all(r.estimate_s is not None for r in runs), f"estimate_s has no entry for {tier}"
        assert [r.run_id for r in plan.expand([f"experiment={experiment}", f"tier={tier}"])[1]] == [
            r.run_id for r in runs
        ]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_targets_are_well_formed_and_decidable_at_a_tier_on_offer(experiment):
    node, _ = plan.expand([f"experiment={experiment}"])
    printed = paths.experiments() / node["paper"] / "printed"
    for target in load_targets(experiment, node["targets"], printed):
        assert set(target.tiers) & set(node["budgets"]), f"{target.id} can be decided at no tier on offer"
        assert target.statement or target.kind == "value", f"{target.id} does not say what the paper says"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_figures_are_functions_of_the_measurements(experiment):
    node, _ = plan.expand([f"experiment={experiment}"])
    for figure in node["figures"]:
        assert signatures.signature(figure["_target_"]).names[:1] == ("data",)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_built_as_its_file_says(name):
    node = compose.entry("method", name)
    signatures.check(node, name)
    assert callable(compose.instantiate(node)) or not node.get("_partial_")


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_has_a_card_and_a_headline(paper):
    assert (paths.experiments() / paper / "README.md").is_file()
    headlines = [
        t.id
        for e in EXPERIMENTS
        if e.startswith(f"{paper}/")
        for t in load_targets(
            e, plan.expand([f"experiment={e}"])[0]["targets"], paths.experiments() / paper / "printed"
        )
        if t.headline and "smoke" in t.tiers
    ]
    assert headlines, "the regression gate watches nothing of this paper at the smoke tier"


def test_papers_do_not_know_each_other_and_the_harness_knows_none():
    for path in (paths.PACKAGE / "papers").glob("*/**/*.py"):
        slug = path.relative_to(paths.PACKAGE / "papers").parts[0]
        for other in {p.name for p in (paths.PACKAGE / "papers").iterdir() if p.is_dir()} - {slug}:
            assert f"reproven.papers.{other}" not in path.read_text(encoding="utf-8"), path
    for path in (paths.PACKAGE / "harness").glob("*.py"):
        assert "from reproven.papers" not in path.read_text(encoding="utf-8"), path


def test_every_yaml_is_plain_yaml():
    for path in [*paths.conf().glob("**/*.yaml"), *paths.experiments().glob("*/*.yaml")]:
        assert isinstance(yaml.safe_load(Path(path).read_text(encoding="utf-8")), dict), path


def test_the_readmes_table_is_what_the_accepted_values_say():
    readme = (paths.CHECKOUT / "README.md").read_text(encoding="utf-8")
    table = accepted.readme_table(paths.CHECKOUT / "results" / "accepted")
    assert accepted.with_table(readme, table) == readme
