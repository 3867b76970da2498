"""Experiment functions at tiny budgets, the paper's own claim tests, and that broken twins are told apart."""

import numpy as np
import pandas as pd
import pytest

from reproven.harness.context import Context
from reproven.papers.embedding import (
    benchmarks,
    claims,
    comparators,
    experiments,
    figures,
    panels,
    properties,
)
from reproven.papers.embedding.optimisers import AdaptiveRule, GradientRule


class Images:
    """A stand-in data set: 3s are bright on the left, 5s on the right, 12x12."""

    def __init__(self, count=40, side=12):
        rng = np.random.default_rng(0)
        self.targets = np.array([3, 5, 7, 5] * (count // 4))
        left = np.arange(side)[None, None, :] < side // 2
        bright = np.where(left == (self.targets != 5)[:, None, None], 180, 60)
        self.data = np.clip(bright + rng.normal(0, 30, (count, side, side)), 0, 255).astype(np.uint8)
        self.peak = 255


def frame(ctx, **shared):
    parts = [
        pd.DataFrame({"metric": s.metric, "value": s.values, **{k: list(v) for k, v in s.coords.items()}})
        for s in ctx.series
    ]
    return pd.concat(parts, ignore_index=True).assign(run="r", **shared)


def values(ctx, metric, **where):
    rows = frame(ctx)
    rows = rows[rows["metric"] == metric]
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    assert len(rows), (metric, where)
    return rows["value"].to_numpy()


def test_map_properties_tell_the_split_from_its_broken_twins():
    ctx = Context(methods={"split": comparators.random_split, "twin": comparators.sum_to_one})
    properties.map_properties(ctx, architecture=["leaky", "cnn"], trials=3, splits=2)
    assert values(ctx, "gradient_error", method="split").max() < 1e-13
    assert values(ctx, "output_error", method="twin").min() > 1e-3


@pytest.mark.parametrize("exp", experiments.TOYS)
def test_rows_of_table_1_run_and_stay_together_but_for_exp_4(exp):
    ctx = Context()
    experiments.table_1(ctx, exp=exp, seed=[0, 2], coefficients=["uniform", "random"], steps=60)
    worst = values(ctx, "max_error")
    assert worst.min() > 1e-4 if exp.startswith("exp4") else worst.max() < 1e-12
    assert not values(ctx, "diverged").any()


@pytest.mark.slow
def test_released_start_of_exp_1():
    ctx = Context()
    experiments.table_1(ctx, exp="exp1", seed=[0], coefficients=["uniform"], steps=10000)
    assert values(ctx, "loss_narrow", step=10000)[0] == pytest.approx(0.009942, abs=5.1e-7)  # released log


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_table_2_keeps_predictions_equal(model):
    ctx = Context(datasets={"images": Images})
    experiments.table_2(ctx, model=model, seed=[0, 1], epochs=2, batch=16)
    assert values(ctx, "max_error").max() < 1e-12
    assert not values(ctx, "predictions_differing").any()


def test_table_2_names_what_is_missing():
    with pytest.raises(ValueError, match="does not hold both classes"):
        experiments.table_2(Context(datasets={"i": Images}), model="mlp", seed=[0], epochs=1, classes=(3, 9))
    with pytest.raises(ValueError, match="not 'mlp' or 'cnn'"):
        experiments.table_2(Context(datasets={"i": Images}), model="rnn", seed=[0], epochs=1)


def test_optimiser_panel_separates_adam_from_its_repair():
    rules = {
        "gd": GradientRule(0.05),
        "adam": AdaptiveRule(0.01),
        "repaired": AdaptiveRule(0.01, repaired=True),
    }
    ctx = Context(methods=rules, datasets={"images": Images})
    panels.optimisers(
        ctx, seed=[0], batches=["full", "mini"], steps=60, widths=[5, 4], classes=[3, 5], size=8
    )
    for batches in ("full", "mini"):
        for method in ("gd", "repaired"):
            assert values(ctx, "max_relative_error", method=method, batches=batches).max() < 1e-13
        assert values(ctx, "max_relative_error", method="adam", batches=batches).min() > 1e-2
    full, mini = (values(ctx, "final_loss", method="gd", batches=b, side="narrow") for b in ("full", "mini"))
    assert full[0] != mini[0]
    with pytest.raises(ValueError, match="must be 'full' or 'mini'"):
        panels.optimisers(ctx, seed=[0], batches=["some"], steps=1, widths=[2], classes=[3, 5])


def test_start_panel_separates_net2net_and_an_independent_network():
    ways = {
        n: getattr(comparators, n)
        for n in ("random_split", "net2net", "compatible_split", "independent_wide")
    }
    ctx = Context(methods=ways, datasets={"images": Images})
    panels.starts(ctx, seed=[0], steps=60, width=4, lr=0.01, classes=[3, 5])
    assert values(ctx, "max_relative_error", method="random_split").max() < 1e-13
    for method in ("net2net", "compatible_split"):
        assert values(ctx, "max_relative_error", method=method).min() > 1e-3
    assert values(ctx, "max_relative_error", method="independent_wide").min() > 0.5


def test_kkt_panel_transfers_certificates():
    ctx = Context(datasets={"images": Images})
    panels.kkt_panel(
        ctx, seed=[0], steps=200, control_steps=200, checkpoints=[200], width=3, lr=0.01, decay=300, classes=[3, 5]
    )  # fmt: skip
    assert values(ctx, "multiplier_gap").max() < 1e-8
    assert values(ctx, "direction_error").max() < 1e-12
    data = frame(ctx, seed=0)
    assert claims.equal_sides(
        data[data["metric"] == "residual"], samples=["seed", "step"], confidence=0.99, axis="side", a="narrow",
        b="wide", rtol=1e-8,
    ).verdict == "holds"  # fmt: skip


@pytest.mark.slow
def test_instability_escapes_in_float32_and_hides_under_equal_coefficients():
    ctx = Context()
    panels.instability(
        ctx, seed=[0], split=["0.6,0.8", "uniform"], steps=8000, lr=0.01, precision=["float32"], every=100
    )
    assert values(ctx, "escaped", split="0.6,0.8")[0] == 1
    assert values(ctx, "escaped", split="uniform")[0] == 0
    assert values(ctx, "late_movement", split="uniform")[0] > 1e-6
    assert figures.growth(frame(ctx)).axes


def test_rows_and_precisions_must_exist():
    with pytest.raises(ValueError, match=r"no row 'exp9' of Table 1 .did you mean 'exp5'"):
        experiments.table_1(Context(), exp="exp9", seed=[0], coefficients=["uniform"], steps=1)
    with pytest.raises(ValueError, match="precision 'float16' is not one of float64, float32, bfloat16"):
        panels.instability(Context(), seed=[0], split=["uniform"], steps=1, lr=0.1, precision=["float16"])


def test_bfloat16_steps_are_lost_in_rounding():
    ctx = Context()
    panels.instability(
        ctx, seed=[0], split=["0.6,0.8"], steps=600, lr=1e-5, precision=["bfloat16", "float64"]
    )
    assert values(ctx, "late_movement", precision="bfloat16")[0] == 0
    assert values(ctx, "late_movement", precision="float64")[0] > 1e-9


def test_condensation_and_transverse_panels_run():
    ctx = Context(datasets={"images": Images})
    panels.condensation(
        ctx, seed=[0], width=[4], scale=[1.0], rays=[1, 4, 8], steps=20, lr=0.003, decay=100, classes=[3, 5]
    )
    assert values(ctx, "ray_distance", rays=4).max() < 1e-6  # as many rays as neurons
    ctx = Context()
    panels.transverse_panel(ctx, trials=1)
    assert values(ctx, "hessian_gap").max() < 1e-10


def test_beyond_homogeneous_flows_match():
    ctx = Context()
    properties.beyond_homogeneous(ctx, trials=1, steps=20, lr=0.05)
    assert values(ctx, "flow_error").max() < 1e-13
    assert values(ctx, "gradient_error").max() < 1e-13


def test_benchmark_compares_equal_work():
    ctx = Context()
    benchmarks.pairs(ctx, case=["toy_cnn"], count=4, steps=5, loop_pairs=2, repeats=1)
    assert values(ctx, "gradient_gap").max() < 2e-15
    assert values(ctx, "trajectory_gap").max() < 1e-14


def test_time_of_table_1_is_carried_to_all_steps_on_two_cores():
    ctx = Context()
    benchmarks.table_1_time(ctx, exp=["exp1", "exp2", "exp5"], seeds=1, steps=20, full=2000, repeats=1)
    rows, total = values(ctx, "row_seconds"), values(ctx, "table_seconds")[0]
    assert total == pytest.approx(max(rows.max(), rows.sum() - rows.max()), rel=1e-12)


def test_autograd_pairs_follow_the_stacked_ones():
    plain, stacked = Context(), Context()
    experiments.autograd_pairs(plain, exp="exp5", seed=[1], steps=60)
    experiments.table_1(stacked, exp="exp5", seed=[1], coefficients=["uniform"], steps=60)
    assert values(plain, "max_error")[0] < 1e-13
    ours, theirs = (values(c, "loss_narrow", step=60)[0] for c in (stacked, plain))
    assert ours == pytest.approx(theirs, rel=1e-13)
    assert values(plain, "final_norm") == pytest.approx(values(stacked, "final_norm"), rel=1e-13)
    with pytest.raises(ValueError, match="exp='exp3' is no full-batch row"):
        experiments.autograd_pairs(Context(), exp="exp3", seed=[0], steps=1)


def test_autograd_pairs_draw_their_growth():
    ctx = Context()
    experiments.autograd_pairs(ctx, exp="exp5", seed=[0], steps=60, low=1e-17, high=1.0)
    assert values(ctx, "growth_rate").shape == (1,)
    assert figures.released_growth(frame(ctx)).axes


def test_any_at_least_needs_one():
    data = pd.DataFrame({"value": [0.0, 1.0], "seed": [0, 1]})
    assert claims.any_at_least(data, samples=["seed"], confidence=0.99, bound=1.0).verdict == "holds"
    assert claims.any_at_least(data, samples=["seed"], confidence=0.99, bound=1.1).verdict == "violated"


def test_equal_sides_sees_a_difference():
    data = pd.DataFrame({"value": [1.0, 1.0 + 1e-6], "side": ["a", "b"], "seed": [0, 0]})
    args = {"samples": ["seed"], "confidence": 0.99, "axis": "side", "a": "a", "b": "b"}
    assert claims.equal_sides(data, rtol=1e-5, **args).verdict == "holds"
    assert claims.equal_sides(data, rtol=1e-7, **args).verdict == "violated"


def test_each_run_is_judged_alone():
    data = pd.DataFrame({"value": [1.0, 2.0, 1.0, 3.0], "step": [1, 10, 1, 10], "seed": [0, 0, 1, 1]})
    shared = {"samples": ["seed"], "confidence": 0.99}
    assert claims.each_rises(data, axis="step", order=[1, 10], **shared).verdict == "holds"
    assert claims.each_rises(data, axis="step", order=[10, 1], **shared).verdict == "violated"
    assert claims.each_ratio_at_most(data, axis="step", a=1, b=10, bound=0.5, **shared).verdict == "holds"
    assert claims.each_ratio_at_most(data, axis="step", a=1, b=10, bound=0.4, **shared).verdict == "violated"
    found = claims.each_slope_within(data, x="step", low=0.30, high=0.48, **shared)
    assert found.verdict == "holds"
    assert (found.ci_low, found.ci_high) == pytest.approx((np.log10(2), np.log10(3)), rel=1e-12)
    assert claims.each_slope_within(data, x="step", low=0.35, high=0.48, **shared).verdict == "violated"


def test_incomplete_samples_are_left_out_and_counted():
    data = pd.DataFrame({
        "value": [1.0, 3.0, 1.1, 3.0, 0.9, 3.1, 9.0], "step": [1, 2, 1, 2, 1, 2, 1], "seed": [0, 0, 1, 1, 2, 2, 3],
    })  # fmt: skip
    found = claims.complete_slope_within(
        data, samples=["seed"], confidence=0.9, x="step", low=1.5, high=2.6, log=False
    )
    assert found.verdict == "holds"
    assert found.ours == pytest.approx(2.0333, abs=1e-3)
    assert "1 samples are not at every step" in found.reason
    found = claims.each_rises(
        data, samples=["seed"], confidence=0.9, axis="step", order=[1, 2], complete=True
    )
    assert found.verdict == "holds"
    assert "1 samples" in found.reason
