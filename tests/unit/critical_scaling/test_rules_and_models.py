"""Rescaling rules against their printed factors; the small model's data; the theory experiments at toy sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reproven.data.reference_texts import python_reference
from reproven.harness.context import Context
from reproven.harness.errors import Blocked, UserError
from reproven.papers.critical_scaling import experiments, real, rules, small_lm

KNOWN = rules.Calibration(train_length=2048, read_length=2048 * 16)


@pytest.mark.parametrize(
    ("extension", "yarn", "logn"),
    [(2, 1.143, 1.091), (4, 1.297, 1.182), (8, 1.459, 1.273), (16, 1.631, 1.364), (32, 1.813, 1.455)],
)
def test_factors_are_those_of_the_dossier(extension: int, yarn: float, logn: float) -> None:
    """Printed to three digits, one of them (1.297) rounded up."""
    n = np.array([2048 * extension])
    assert rules.YaRN(whole=False).factor(n, 0, KNOWN)[0, 0] == pytest.approx(yarn, abs=1e-3)
    assert rules.QwenLogN().factor(n, 0, KNOWN)[0, 0] == pytest.approx(logn, abs=1e-3)
    whole = rules.Calibration(2048, 2048 * extension)
    assert rules.YaRN().factor(np.array([5]), 0, whole)[0, 0] == pytest.approx(yarn, abs=1e-3)


def test_rules_below_and_at_the_training_length() -> None:
    n = np.array([1, 100, 2048])
    for rule in (rules.NoRescaling(), rules.QwenLogN(), rules.Power(2.0), rules.YaRN(whole=False)):
        np.testing.assert_allclose(rule.factor(n, 0, KNOWN), 1.0, rtol=1e-12, atol=0)
    np.testing.assert_allclose(
        rules.SuLogN().factor(n, 0, KNOWN)[0], np.log(n) / np.log(2048), rtol=1e-12, atol=0
    )
    llama4 = rules.Llama4().factor(np.array([2047, 2048, 4096]), 0, KNOWN)[0]
    np.testing.assert_allclose(llama4, [1.0, 1 + 0.1 * np.log(2), 1 + 0.1 * np.log(3)], rtol=1e-12, atol=0)
    ssmax = rules.SSMax().factor(np.arange(1, 2049), 0, KNOWN)
    assert ssmax.mean() == pytest.approx(1.0, rel=1e-12)
    np.testing.assert_allclose(rules.SSMax(0.43).factor(n, 0, KNOWN)[0], 0.43 * np.log(n), rtol=1e-12, atol=0)


def test_adaptive_temperature_is_the_polynomial() -> None:
    logits = torch.tensor([[[[0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, -torch.inf]]]])
    h = np.log(4)
    poly = -0.037 * h**4 + 0.481 * h**3 - 2.3 * h**2 + 4.917 * h - 1.791
    beta = rules.AdaptiveTemperature().factor(logits, 0, KNOWN)[0, 0]
    assert beta[0].item() == pytest.approx(max(1.0, poly), rel=1e-5)
    assert beta[1].item() == 1.0  # entropy below the threshold


def test_rules_that_need_a_calibration_say_so() -> None:
    with pytest.raises(ValueError, match="run `calibrate`"):
        rules.BRule().factor(np.array([4096]), 0, KNOWN)
    with pytest.raises(ValueError, match="run `calibrate`"):
        rules.EntropyTarget().factor(torch.zeros(1, 1, 1, 4), 0, KNOWN)


def test_planted_needles_come_before_their_questions() -> None:
    alphabet, rng = small_lm.Alphabet(), np.random.default_rng(0)
    text = rng.integers(alphabet.text, size=(6, 256))
    out = small_lm.planted(text, alphabet, 8, rng)
    first = alphabet.text
    for row in out:
        needles = {int(t) - first: i for i, t in enumerate(row) if first <= t < first + 64}
        assert len(needles) == 8
        for token, place in needles.items():
            key, value = divmod(token, 8)
            (asked,) = np.flatnonzero(row == alphabet.query(key))
            assert asked > place
            assert row[asked + 1] == alphabet.answer(value)
    hay, places, depths = small_lm.haystack(text[0], alphabet, rng)
    assert sorted(hay[places] - alphabet.query(0)) == list(range(8))
    assert ((depths >= 0) & (depths < 1)).all()
    for place, depth in zip(places, depths):
        token = int(hay[round(depth * 240)]) - first
        assert alphabet.query(token // 8) == hay[place]
        assert alphabet.answer(token % 8) == hay[place + 1]
    with pytest.raises(ValueError, match="no room"):
        small_lm.haystack(text[0, :20], alphabet, rng)


@pytest.mark.parametrize("positions", small_lm.POSITIONS)
def test_a_reader_looks_back_at_all_keys(positions: str) -> None:
    """Positions of zero would be taken for packed sequences, each token alone; nothing rotated is no such thing."""
    pytest.importorskip("transformers")
    alphabet = small_lm.Alphabet(20, 2, 2)
    model = small_lm.build_model(alphabet, positions, 0, width=16, layers=1, heads=2).eval()
    reader = small_lm.Reader(model, alphabet)
    ids = torch.randint(0, 20, (1, 12), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 0] = (ids[0, 0] + 1) % 20
    swapped = ids.clone()
    swapped[0, [2, 3]] = ids[0, [3, 2]]
    with torch.inference_mode():
        out, other, swap = reader(ids)[0, -1], reader(changed)[0, -1], reader(swapped)[0, -1]
    assert (out - other).abs().max() > 1e-4
    blind = torch.allclose(out, swap, rtol=1e-4, atol=1e-5)
    assert blind == (positions == "none")
    with pytest.raises(ValueError, match="is not one of none, rotary"):
        small_lm.build_model(alphabet, "learned", 0, width=16, layers=1, heads=2)


def values(ctx: Context, metric: str, **where) -> list[float]:
    found = []
    for s in ctx.series:
        if s.metric == metric:
            found += [
                v for i, v in enumerate(s.values) if all(s.coords[k][i] == want for k, want in where.items())
            ]
    return found


def test_theorem_a_counts_nothing_and_its_control_something() -> None:
    ctx = Context()
    experiments.theorem_a(ctx, rows_per_family=40, sizes=[2, 16, 64], draws=2)
    for part in ("p_max_floor", "p_max_ceiling", "entropy_floor", "entropy_ceiling", "two_thirds", "half"):
        assert values(ctx, "violations", part=part) == [0.0] * 7
    assert min(values(ctx, "violations", part="control_log_n")) > 0


def test_the_schedule_table_has_the_dossiers_diagonal() -> None:
    ctx = Context()
    experiments.schedules(ctx, start=1024, log2_n=[16])
    for family, rule in (
        ("exponential", "power_0"),
        ("gaussian", "power_half"),
        ("fixed_gap", "power_1"),
        ("edge_q1", "power_2"),
    ):
        assert values(ctx, "p_max", family=family, rule=rule)[0] == pytest.approx(0.5, abs=0.1)
        assert values(ctx, "p_max", family=family, rule="b_rule")[0] == pytest.approx(0.5, abs=0.06)


def test_documents_are_cut_without_overlap() -> None:
    class Words:
        def __call__(self, text: str, **_) -> dict[str, list[int]]:
            return {"input_ids": list(range(len(text.split())))}

    text, digest = python_reference()
    assert len(digest) == 64
    pieces = real.documents("python_reference", Words(), 100, 3, skip=1)
    assert [int(p[0]) for p in pieces] == [100, 200, 300]
    news = {"train": {"text": ["a b", "c " * 300, "d " * 250, "e " * 400]}}
    assert len(real.documents("newsgroups", Words(), 120, 2, newsgroups=news)) == 2
    with pytest.raises(UserError, match="has 3 documents of 120 tokens, not 9"):
        real.documents("newsgroups", Words(), 120, 9, newsgroups=news)
    with pytest.raises(UserError, match="is not one of"):
        real.documents("wiki", Words(), 10, 1)
    with pytest.raises(UserError, match="lower one of them"):
        real.documents("python_reference", Words(), len(text), 1)


def test_corpora_and_models_of_the_hub_are_blocked_without_it(tmp_path, monkeypatch) -> None:
    class Words:
        def __call__(self, text: str, **_) -> dict[str, list[int]]:
            return {"input_ids": list(range(len(text.split())))}

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("transformers")
    with pytest.raises(
        Blocked, match=r"not in the local hub cache .* huggingface-cli download nobody/nothing"
    ):
        real.hub_model("nobody/nothing", "cpu")
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text("word " * 60)
    assert [len(x) for x in real.hub_documents(str(tmp_path), Words(), 50, 2)] == [50, 50]
    with pytest.raises(UserError, match="has 2 documents"):
        real.hub_documents(str(tmp_path), Words(), 50, 3)
