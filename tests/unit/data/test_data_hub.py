"""Pinned revisions: whole commits, one for every repository that the paper tiers of two papers name."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import yaml

from reproven.data.hub import REVISIONS, revision
from reproven.harness.errors import Blocked
from reproven.papers.pooling import paper_scale

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
UNPINNED = {"EleutherAI/proof-pile-2"}  # no public code that was found pins a whole commit of it


def test_every_revision_is_a_whole_commit():
    assert all(re.fullmatch("[0-9a-f]{40}", found) for found in REVISIONS.values())


def test_every_repository_of_the_paper_tiers_is_pinned():
    grid = yaml.safe_load((EXPERIMENTS / "critical_scaling" / "hub_models.yaml").read_text())["grid"]
    named = {
        *grid["repository"],
        *grid["corpus"],
        *paper_scale.TIMM.values(),
        *paper_scale.HUGGING_FACE.values(),
    }
    assert named - set(REVISIONS) == UNPINNED
    assert revision("EleutherAI/proof-pile-2") is None


@pytest.mark.parametrize("task", ["stsb", "banking77", "tweet"])
def test_data_sets_are_asked_for_at_their_revision(monkeypatch, task):
    import datasets

    asked = []

    def refuse(name, config=None, *, revision):
        asked.append((name, revision))
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(Blocked, match="@[0-9a-f]{40} is not in the local Hugging Face cache"):
        paper_scale.text_task("bert", task, 8)
    ((name, found),) = asked
    assert found == REVISIONS[name]


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_moment_is_asked_for_at_its_revision(monkeypatch, size):
    asked = []

    class Pipeline:
        @staticmethod
        def from_pretrained(name, *, revision, **options):
            asked.append((name, revision))
            raise OSError("offline")

    monkeypatch.setitem(sys.modules, "momentfm", types.SimpleNamespace(MOMENTPipeline=Pipeline))
    with pytest.raises(
        Blocked, match=f"MOMENT-1-{size}@[0-9a-f]{{40}} is not in the local Hugging Face cache"
    ):
        paper_scale.moment(f"moment_{size}")
    ((name, found),) = asked
    assert found == REVISIONS[name]


def test_models_are_asked_for_at_their_revision(monkeypatch):
    import timm
    import transformers

    asked = []

    def refuse(name, **options):
        asked.append((name, options.get("revision")))
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    for load in (
        lambda: paper_scale.vit("vit_small"),
        lambda: paper_scale._text_tokens("bert", "tweet", ["a"], 8),
    ):
        with pytest.raises(Blocked, match="@.* fetch it|@.* fetch them"):
            load()
    small, bert = "timm/vit_small_patch16_224.augreg_in21k_ft_in1k", "google-bert/bert-base-uncased"
    assert asked == [(f"hf-hub:{small}@{REVISIONS[small]}", None), (bert, REVISIONS[bert])]
