"""Bounds, sensitivity, attacks, claim tests and the audit: hand-computed cases, broken assumptions, bad input."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from reproven.papers.pooling import Avg, Max, auc, audit, claims, exceedance, neighbours, sensitive, theory
from reproven.papers.pooling.sensitivity import distances, spread


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_attention_is_torchs():
    """Dot-product heads against torch.nn.MultiheadAttention."""
    block = theory.random_block("dot", 8, 2, generator())
    layer = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True, dtype=torch.float64)
    stacked = [w.permute(1, 0, 2).reshape(8, 8).T for w in (block.query, block.key, block.value)]
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.cat(stacked))
        layer.out_proj.weight.copy_(block.output.T)
    x = torch.randn(3, 5, 8, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(theory.attention(block, x), layer(x, x, x)[0].detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", theory.KINDS)
def test_power_iteration_finds_the_jacobians_norm_and_the_bound_is_above_it(kind):
    block = theory.random_block(kind, 8, 2, generator())
    x = theory.rows_within(torch.randn(5, 8, generator=generator(1), dtype=torch.float64), 1.0)
    jacobian = torch.func.jacrev(block)(x).reshape(40, 40)
    local = theory.local_lipschitz(block, x, generator(2), steps=200)
    assert local == pytest.approx(float(theory.spectral(jacobian)), rel=1e-3)
    assert local <= theory.block_lipschitz(block, 5, 1.0)


def test_a_bound_whose_assumption_is_broken_is_exceeded():
    """T1 with a radius that the inputs do not keep, and L2's bound with the square for the fourth power."""
    block = theory.random_block("dot", 8, 1, generator(), scale=2.0)
    x = theory.rows_within(torch.randn(6, 8, generator=generator(1), dtype=torch.float64), 30.0)
    x[0] = 0
    local = theory.local_lipschitz(lambda v: theory.attention(block, v), x, generator(2))
    assert local > theory.dot_product_lipschitz(block, 6, 0.1)
    assert local <= theory.dot_product_lipschitz(block, 6, 30.0)
    tied = theory.random_block("l2", 8, 1, generator(), scale=40.0)
    same = torch.ones(6, 8, dtype=torch.float64)
    found = theory.local_lipschitz(lambda v: theory.attention(tied, v), same, generator(3))
    query = float(theory.spectral(tied.query)[0])
    assert found <= theory.l2_lipschitz(tied, 6)
    assert found > theory.l2_lipschitz(tied, 6) / query  # |W_Q| in place of |W_Q|^2 fails


def test_rows_leave_a_block_within_the_radius_that_stacks_carry():
    for kind in theory.KINDS:
        block = theory.random_block(kind, 8, 2, generator())
        x = theory.rows_within(torch.randn(50, 7, 8, generator=generator(1), dtype=torch.float64), 2.0)
        assert float(block(x).norm(dim=-1).max()) <= theory.radius_after(block, 2.0)


def test_gamma_and_factors_by_hand():
    assert theory.gamma(0.1, 0.5, 4.0) == pytest.approx(0.8)
    assert theory.center_norm_lipschitz(5) == 1.25
    block = theory.random_block("dot", 8, 2, generator())
    whole = theory.block_lipschitz(block, 4, 1.0)
    assert theory.pooled_lipschitz(block, Avg(), 4, 1.0) == pytest.approx(whole / 2)
    assert theory.pooled_lipschitz(block, Max(), 4, 1.0, "operator") == pytest.approx(whole * 2)
    assert theory.average_lipschitz(block, 4, 1.0) <= whole / 2
    assert theory.stack_lipschitz([block], 4, 1.0) == pytest.approx(whole)


def test_bad_arguments_of_the_theory_are_one_clear_line():
    block = theory.random_block("dot", 8, 2, generator())
    for call, words in (
        (lambda: theory.block_lipschitz(block, 4), "no global constant"),
        (lambda: theory.l2_lipschitz(block, 4), "tied weights"),
        (lambda: theory.c1(theory.random_block("l2", 8, 2, generator()), 4, 1.0, row=True), "no row-aware"),
        (lambda: theory.random_block("dot", 8, 3, generator()), "do not divide"),
        (lambda: theory.random_block("cosine", 8, 2, generator()), "is not one of"),
        (lambda: theory.gamma(0.1, 0.0, 1.0), "must be"),
        (lambda: theory.center_norm_lipschitz(1), "width of 2"),
        (lambda: exceedance(np.ones(3), 0.0), "positive sigma"),
        (lambda: auc(np.ones(0), np.ones(2)), "at least one"),
        (lambda: sensitive.knn_centroid(2, 0, generator()), "nearest of"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_sensitivity_by_hand():
    x = torch.zeros(4, 3, 2)
    moved = neighbours(x, 0.5, generator())
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((4,), 0.5))
    assert distances(torch.tensor([[3.0, 0]]), torch.tensor([[0.0, 4]])).tolist() == [5.0]
    found = exceedance(np.array([0.1, 0.2, 0.3, 0.4]), 0.25)
    assert found.share == 0.5
    assert 0 < found.low < 0.5 < found.high < 1
    assert spread(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2.0)
    assert auc([1.0, 2.0], [3.0, 4.0]) == 1.0
    assert auc([3.0], [1.0]) == 0.0
    assert auc([1.0], [1.0]) == 0.5


def test_attacks_stay_within_their_budget_and_no_scale_saturates_the_normalised_loss():
    w = torch.randn(16, 3, generator=generator())
    x = torch.rand(20, 4, 4, generator=generator(1))
    y = (x.flatten(1) @ w).argmax(dim=1)
    for steps in (1, 5):
        for loss in sensitive.LOSSES:
            moved, _ = sensitive.attack(lambda v: v.flatten(1) @ w, x, y, 0.1, loss, steps, generator(2))
            assert float((moved - x).abs().max()) <= 0.1 + 1e-6
            assert float(moved.min()) >= 0
            assert float(moved.max()) <= 1
    loud = lambda v: 1e6 * (v.flatten(1) @ w)  # noqa: E731 - logits so large that softmax is flat in float32
    _, flat = sensitive.attack(loud, x, y, 0.1, "cross_entropy", 1)
    assert float(flat.mean()) > 0.9
    moved, flat = sensitive.attack(loud, x, y, 0.1, "normalised", 1)
    assert float(flat.mean()) == 0.0
    assert ((moved.flatten(1) @ w).argmax(dim=1) != y).any()


def test_knn_centroid_of_all_is_the_mean_and_of_one_the_token_itself():
    for k, wanted in ((128, lambda x: x.mean(dim=1)), (1, lambda x: x[:, 0])):
        sets = sensitive.knn_centroid(5, k, generator())
        torch.testing.assert_close(sets.target, wanted(sets.points), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- claim tests


def frame(values, **columns):
    """Rows of (task, method) -> list of seeds."""
    rows = [
        {
            "task": t,
            "method": m,
            "seed": s,
            "value": v,
            "metric": "utility",
            "unit": "",
            "run": "r",
            **columns,
        }
        for (t, m), seeds in values.items()
        for s, v in enumerate(seeds)
    ]
    return pd.DataFrame(rows)


def test_no_dominance_holds_where_each_is_beaten_and_is_violated_by_a_winner():
    def near(value):
        return [value + 0.001 * k for k in range(6)]

    crossed = frame(
        {("x", "a"): near(1.0), ("x", "b"): near(0.5), ("y", "a"): near(0.5), ("y", "b"): near(1.0)}
    )
    crossed["value"] += np.random.default_rng(0).normal(size=len(crossed)) * 1e-3
    assert claims.no_dominance(crossed, samples=["seed"], confidence=0.99).verdict == "holds"
    winner = frame(
        {("x", "a"): near(1.0), ("x", "b"): near(0.5), ("y", "a"): near(1.0), ("y", "b"): near(0.5)}
    )
    assert claims.no_dominance(winner, samples=["seed"], confidence=0.99).verdict == "violated"
    rng = np.random.default_rng(1)
    noise = frame({(t, m): list(rng.normal(size=6)) for t in "xy" for m in "ab"})
    assert claims.no_dominance(noise, samples=["seed"], confidence=0.99).verdict == "inconclusive"


def test_ranks_differ_is_friedmans():
    rng = np.random.default_rng(0)
    strong = frame({(f"t{t}", m): [k + 0.1 * rng.normal()] for t in range(12) for k, m in enumerate("abcd")})
    found = claims.ranks_differ(strong, samples=["task"], confidence=0.999)
    assert found.verdict == "holds"
    assert "d 1.00" in found.reason
    noise = frame({(f"t{t}", m): [rng.normal()] for t in range(12) for m in "abcd"})
    assert claims.ranks_differ(noise, samples=["task"], confidence=0.999).verdict == "inconclusive"
    with pytest.raises(ValueError, match="were not measured"):
        claims.ranks_differ(strong.iloc[1:], samples=["task"], confidence=0.99)


def test_nemenyis_critical_difference_is_demsars():
    """Demsar (2006), Table 5a: q_0.05 of 4 classifiers is 2.569; CD of his example with 14 data sets is 1.25."""
    assert claims.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_norm_predicts_by_rank():
    values = {(f"t{t}", m): [v] for t in range(20) for m, v in (("last", 1 + 0.1 * t), ("avg", 1.0))}
    scores = frame(values, arm="P")
    norm = frame({(f"t{t}", "w"): [1 + 0.01 * t] for t in range(20)})
    norm["metric"] = "sharpness"
    both = pd.concat([scores, norm])
    args = {"norm": "sharpness", "score": "utility", "a": "last", "b": "avg", "method": "w", "arm": "P"}
    assert claims.norm_predicts(both, samples=["seed"], confidence=0.99, **args).verdict == "holds"
    norm["value"] *= -1
    found = claims.norm_predicts(pd.concat([scores, norm]), samples=["seed"], confidence=0.99, **args)
    assert found.verdict == "violated"


def test_equal_differ_best_and_references():
    data = frame({("x", "a"): [1.0, 1.1, 1.05], ("x", "b"): [1.0, 1.1, 1.05], ("x", "c"): [2.0, 2.1, 2.05]})
    args = {"samples": ["seed"], "confidence": 0.99, "axis": "method"}
    assert claims.equal_members(data, **args, a="a", b="b", atol=0).verdict == "holds"
    assert claims.equal_members(data, **args, a="a", b="c", atol=0.1).verdict == "violated"
    assert claims.differ_by(data, **args, a="a", b="c", least=0.5).verdict == "holds"
    assert claims.differ_by(data, **args, a="a", b="b", least=0.5).verdict == "violated"
    best = {"samples": ["seed"], "confidence": 0.99, "factor": 1.25, "per": ["task"]}
    assert claims.best_in_each(data, member="a", rivals=["b", "c"], **best).verdict == "holds"
    assert claims.best_in_each(data, member="c", rivals=["a", "b"], **best).verdict == "violated"
    data["metric"], data["arm"] = "score", "C"
    marks = pd.DataFrame([{"task": "x", "reference": "majority", "value": 0.9, "metric": "reference"}])
    both = pd.concat([data, marks])
    args = {"samples": ["task"], "confidence": 0.99, "method": "a", "arm": "C"}
    assert claims.above_reference(both, reference="majority", **args).verdict == "holds"
    assert claims.below_references(both, tasks=["x"], references=["majority"], **args).verdict == "violated"


def test_stronger_attack_compares_pairs():
    rows = []
    for seed in range(5):
        for kind, value in (("fgsm cross_entropy", 0.3), ("pgd normalised", 0.6)):
            attack, loss = kind.split()
            rows.append(
                {
                    "method": "a",
                    "epsilon": 8,
                    "seed": seed,
                    "attack": attack,
                    "loss": loss,
                    "value": value + 0.01 * seed,
                }
            )
    data = pd.DataFrame(rows)
    args = {"samples": ["seed"], "confidence": 0.99, "margin": 0.01, "per": ["method", "epsilon"]}
    weak, strong = ["fgsm", "cross_entropy"], ["pgd", "normalised"]
    assert claims.stronger_attack(data, strong=strong, weak=weak, **args).verdict == "holds"
    assert claims.stronger_attack(data, strong=weak, weak=strong, **args).verdict == "violated"


# ---------------------------------------------------------------- the printed tables


def test_ecg200_has_one_explanation():
    assert audit.splits_that_round_to(65.19) == [(39, 25)]
    assert audit.batch_mean(39, 25) == pytest.approx(65.19, abs=0.005)
    assert audit.splits_that_round_to(65.0) == []
    assert math.isclose(audit.batch_mean(64, 36), 100.0)


def test_a_changed_cell_or_a_missing_table_is_noticed(tmp_path):
    with pytest.raises(audit.UserError, match=r"table_1.csv is not in"):
        audit.check_digest(tmp_path, "x")
    for name in audit.TABLES:
        (tmp_path / name).write_text("")
    with pytest.raises(audit.UserError, match="have sha256"):
        audit.check_digest(tmp_path, "x")
