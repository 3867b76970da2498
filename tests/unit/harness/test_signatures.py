"""Keywords read from source agree with those that Python itself reports."""

from __future__ import annotations

import pytest

from reproven.harness import signatures
from reproven.harness.errors import UserError


@pytest.mark.parametrize(
    "target",
    [
        "reproven.harness.seeds.derive",
        "reproven.harness.context.Series",
        "reproven.harness.errors.did_you_mean",
        "reproven.harness.store.Store",
        "reproven.harness.intervals.slope_interval",
    ],
)
def test_source_and_inspection_agree(target):
    read = signatures.signature(target)
    inspected = signatures._from_import(target)
    assert (read.names, read.required, read.open) == (inspected.names, inspected.required, inspected.open)


def test_a_re_export_is_followed():
    assert signatures.signature("reproven.cli.expand") == signatures.signature("reproven.harness.plan.expand")


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"did you mean 'derive'"):
        signatures.signature("reproven.harness.seeds.derve")


def test_unknown_missing_and_doubled_keywords():
    target = "reproven.harness.intervals.mean_interval"
    with pytest.raises(UserError, match="takes no keyword 'confidenc' .*'confidence'"):
        signatures.check({"_target_": target, "samples": [], "confidenc": 0.9}, "here")
    with pytest.raises(UserError, match="needs 'confidence', which nothing sets"):
        signatures.check({"_target_": target, "samples": []}, "here")
    with pytest.raises(UserError, match="'samples' is given twice"):
        signatures.check({"_target_": target, "samples": [], "confidence": 0.9}, "here", {"samples": []})
    signatures.check({"_target_": target, "_partial_": True}, "here")
