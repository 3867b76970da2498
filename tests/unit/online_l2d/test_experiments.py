"""Experiment functions, the claim test and the figures on tiny budgets; broken twins are told apart."""

from __future__ import annotations

import inspect
import textwrap

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from reproven.harness import intervals
from reproven.harness.context import Context
from reproven.papers import online_l2d
from reproven.papers.online_l2d import experiments, figures
from reproven.papers.online_l2d.batch import BatchL2D
from reproven.papers.online_l2d.claims import bootstrap_exponent, exponent_larger, exponent_within, u_shaped
from reproven.papers.online_l2d.controls import Control
from reproven.papers.online_l2d.learner import OnlineL2D
from reproven.papers.online_l2d.linear_bandits import Banditron, RidgeBandit
from reproven.papers.online_l2d.real import real

matplotlib.use("Agg")


def frame(ctx: Context) -> pd.DataFrame:
    parts = [pd.DataFrame({"metric": s.metric, "value": s.values, **s.coords}) for s in ctx.series]
    return pd.concat(parts, ignore_index=True).assign(seed=0)


def test_theory():
    ctx = Context()
    experiments.theory(ctx, instances=500, programs=7, pairs=40)
    data = frame(ctx).groupby("metric").value
    assert data.min()["slack"] >= -1e-9
    worst = data.max()
    assert worst["minimum_gap"] <= 1e-9
    assert worst["bias"] <= 1e-12
    assert worst["second_moment_share"] <= 1.0
    assert -1e-6 < worst["expansion"] <= 1e-12  # pairs inside the ball do not move: the bound is reached
    assert worst["append_changes"] == 0


def test_negative_controls_are_told_apart():
    ctx = Context()
    experiments.negative_controls(ctx, replicates=1, rounds=400, restarts=300)
    table = frame(ctx).pivot_table(index="twin", columns="metric", values="value")
    sound = table.loc["sound"]
    assert sound["bias"] <= 1e-12
    assert sound["absent_plays"] == 0
    assert sound["label_zero_first"] == pytest.approx(1 / 7, abs=0.1)  # 5 standard errors of 300 draws
    assert table.loc["mismatched_weights", "bias"] > 0.01
    assert table.loc["all_rows", "absent_plays"] > 10
    assert table.loc["index_ties", "label_zero_first"] == 1.0


METHODS = {"l2d_s_cost": OnlineL2D(radius=20.0), "l2d_random": Control("random"), "ridge": RidgeBandit()}


def test_growth_and_its_figure():
    ctx = Context(methods=METHODS)
    experiments.growth(ctx, stream="varying", rounds=[256, 1024, 4096], replicates=2)
    data = frame(ctx)
    regret = data[data.metric == "regret"].groupby(["method", "rounds"]).value.mean()
    assert regret["l2d_random", 4096] / regret["l2d_random", 1024] == pytest.approx(4.0, rel=0.1)
    assert regret["ridge", 4096] < regret["l2d_random", 4096] / 2
    assert (data[data.metric == "absent_plays"].value == 0).all()
    assert (data[data.metric == "bound_share"].value < 1).all()
    assert set(data[data.metric == "sum_error"].method) == {"l2d_s_cost"}
    axes = figures.regret_growth(data).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert len(axes.get_lines()) == len(METHODS) + 2


def test_shift_misranking_ablation():
    ctx = Context(methods=METHODS)
    experiments.shift(ctx, rounds=8192, replicates=2)
    data = frame(ctx)
    rate = data[(data.metric == "rate") & (data.method == "ridge")].groupby("interval").value.mean()
    assert rate["onset"] > rate["second quarter"] + 0.1
    assert data[data.metric == "recovery"].value.between(1 / 64, 0.5).all()
    assert isinstance(figures.regret_around_shift(data), Figure)

    ctx = Context()
    experiments.misranked(ctx, instances=15)
    data = frame(ctx)
    found = data[data.metric == "misranks"].groupby("surrogate").value.mean()
    assert found["ce_reward"] == 0.0
    assert found["s_cost"] > 0.0
    assert (data[data.metric == "forced"].value.mean()) <= found["s_cost"]

    ctx = Context(methods={"l2d_s_cost": OnlineL2D()})
    changes = {"kappa": [{"kappa": 0.5}, {"kappa": 2.0}], "surrogate": [{"surrogate": "s_reward"}]}
    experiments.ablation(ctx, stream="static", rounds=500, replicates=3, changes=changes)
    data = frame(ctx)
    assert data.groupby("ablation").setting.nunique().to_dict() == {"kappa": 2, "surrogate": 1}
    assert isinstance(figures.ablations(data), Figure)


def test_real_and_its_figures():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 6
    x = rng.normal(size=(300, 8)) + 3 * np.eye(8)[y]
    methods = {**METHODS, "batch": BatchL2D(), "oracle": Control("oracle")}
    ctx = Context(methods=methods, datasets={"made": lambda: (x, y)})
    real(ctx, replicates=2, rounds=2000, tuning_rounds=400, warm_up=100, components={"made": 6})
    data = frame(ctx)
    cost = data[data.metric == "cost"].groupby("method").value.mean()
    assert cost.idxmin() == "oracle"
    assert cost["ridge"] < cost["l2d_random"]
    tuned = data[data.metric == "tuned"].set_index("method").value
    assert tuned["oracle"] == -1
    assert tuned["ridge"] in range(12)
    asked = data[(data.metric == "asked") & (data.method == "l2d_random")].groupby("expert").value.mean()
    assert len(asked) == 6
    assert isinstance(figures.rolling_accuracy(data), Figure)
    assert isinstance(figures.deferral_map(data), Figure)


def u_data(means: dict[float, float], noise: float = 0.05) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"setting": s, "replicate": r, "value": m * np.exp(noise * rng.normal())}
        for s, m in means.items()
        for r in range(8)
    ]
    return pd.DataFrame(rows).assign(seed=0)


@pytest.mark.parametrize(
    ("means", "noise", "verdict"),
    [
        ({0.001: 9.0, 0.016: 3.0, 0.25: 5.0}, 0.05, "holds"),
        ({0.001: 9.0, 0.016: 3.0, 0.25: 3.0}, 0.0, "inconclusive"),
        ({0.001: 1.0, 0.016: 3.0, 0.25: 5.0}, 0.05, "violated"),
    ],
)
def test_u_shape(means, noise, verdict):
    keywords = {
        "samples": ["replicate"],
        "confidence": 0.99,
        "axis": "setting",
        "centre": 0.0156,
        "factor": 5.0,
    }
    data = u_data(means, noise)
    if noise == 0.0:  # the upper end is above in half of the samples and below in the others
        upper = data.setting == 0.25
        data.loc[upper, "value"] *= np.where(data[upper].replicate % 2, 1.3, 0.8)
    decision = u_shaped(data, **keywords)
    assert decision.verdict == verdict
    assert decision.ci_low <= decision.ours <= decision.ci_high
    with pytest.raises(ValueError, match="no setting"):
        u_shaped(u_data(means), **keywords | {"centre": 100.0})
    with pytest.raises(ValueError, match="positive"):
        u_shaped(u_data(means).assign(value=np.nan), **keywords)


def power_data(exponents: dict[str, float], noise: float = 0.1, replicates: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        {"stream": name, "rounds": T, "replicate": r, "value": 3 * T**power * np.exp(noise * rng.normal())}
        for name, power in exponents.items()
        for T in (1000, 4000, 16000, 64000)
        for r in range(replicates)
    ]
    return pd.DataFrame(rows).assign(seed=0)


def test_bootstrap_exponent_covers_the_exponent_and_agrees_with_the_delta_method():
    x = np.array([1000.0, 4000.0, 16000.0, 64000.0])
    exact = np.outer(np.ones(5), 3 * x**0.6)
    assert bootstrap_exponent(x, exact) == pytest.approx((0.6, 0.6), abs=1e-12)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        noisy = 3 * x**0.6 * np.exp(0.2 * rng.normal(size=(16, 4)))
        low, high = bootstrap_exponent(x, noisy)
        covered += low <= 0.6 <= high
        _, least, most = intervals.slope_interval(x, noisy, True, 0.95)
        assert (high - low) == pytest.approx(most - least, rel=0.3)  # 16 samples: 1.96 against 2.13
    assert covered >= 50  # of 60 at 95 %, and the percentile interval is a little narrow


@pytest.mark.parametrize(("power", "verdict"), [(0.55, "holds"), (0.6667, "inconclusive"), (0.8, "violated")])
def test_exponent_within_reports_the_bootstrap(power, verdict):
    keywords = {
        "samples": ["replicate"],
        "confidence": 0.99,
        "x": "rounds",
        "high": 0.6667,
        "per": ["stream"],
    }
    decision = exponent_within(power_data({"a": power}), **keywords)
    assert decision.verdict == verdict
    assert "95 % bootstrap stream=a [0." in decision.reason


def test_exponent_larger_tells_two_rates_apart():
    keywords = {"samples": ["replicate"], "confidence": 0.99, "x": "rounds", "axis": "stream"}
    data = power_data({"steep": 0.67, "flat": 0.5, "same": 0.5})
    assert exponent_larger(data, a="steep", b="flat", **keywords).verdict == "holds"
    assert exponent_larger(data, a="flat", b="steep", **keywords).verdict == "violated"
    assert exponent_larger(data, a="flat", b="same", **keywords).verdict == "inconclusive"
    with pytest.raises(ValueError, match="0 samples"):
        exponent_larger(data, a="steep", b="absent", **keywords)


def test_growth_without_experts():
    ctx = Context(methods={"banditron": Banditron(), "l2d_s_cost": OnlineL2D(radius=20.0)})
    experiments.growth(ctx, stream="labels_separable", rounds=[256, 1024, 4096], replicates=2)
    data = frame(ctx)
    assert set(data.stream) == {"labels_separable"}
    assert (data[data.metric == "absent_plays"].value == 0).all()
    assert (data[data.metric == "rate_second_half"].value < 0.6).all()


def test_the_example_of_the_package_runs(tmp_path):
    text = inspect.getdoc(online_l2d)
    names = {**{name: getattr(online_l2d, name) for name in online_l2d.__all__}, "np": np}
    blocks = [b for b in text.split("\n\n") if b.startswith("    ")]
    assert len(blocks) == 2
    for block in blocks:
        exec(textwrap.dedent(block).replace("state.npz", str(tmp_path / "state.npz")), names)
    assert (tmp_path / "state.npz").exists()
    assert np.isfinite(names["regret"])
    assert all(f"`{name}`" in text for name in online_l2d.__all__ if name not in ("Trace", "Stream"))
