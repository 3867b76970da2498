"""Experiment functions driven by a hand-made Context; claim tests and figures on what they record."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from reproven.harness import paths
from reproven.harness.context import Context
from reproven.harness.errors import UserError
from reproven.papers.sac_bl import (
    bh,
    bl,
    by,
    derandomised_conformal_e,
    figures,
    fixed_threshold,
    sbl,
)
from reproven.papers.sac_bl.claims import follows_beta, pathwise_order
from reproven.papers.sac_bl.experiments import (
    audit,
    boundary,
    lambda_draws,
    one_versus_rest,
    pathwise,
    phase,
    simulation,
    theorems,
)
from reproven.papers.sac_bl.experiments.phase import mean_field_fpr
from reproven.papers.sac_bl.experiments.printed import check_digest, files
from reproven.papers.sac_bl.experiments.real import NearestNormals, squared_distances

matplotlib.use("Agg")
RULES = {"bl": bl, "sbl": sbl, "by": by, "bh": bh}


def frame(ctx: Context) -> pd.DataFrame:
    parts = [pd.DataFrame({**s.coords, "metric": s.metric, "value": s.values}) for s in ctx.series]
    return pd.concat([part.assign(seed=0, run="r") for part in parts], ignore_index=True)


def digits() -> Context:
    found = load_digits()
    data = SimpleNamespace(data=found.images.astype(np.uint8), targets=found.target)
    rules = {"bl": bl, "bh": bh, "fixed": fixed_threshold, "derandomised": derandomised_conformal_e}
    return Context(methods=rules, datasets={"digits": lambda: data})


def test_simulation_reproduces_a_known_case_and_is_paired() -> None:
    """n = 150, 75 % anomalies, shift 4, k = 1000: power BL .757, SBL .899, BY .925, BH .986 (2,000 replicates)."""
    ctx = Context(methods=RULES)
    simulation(ctx, k=1000, prevalence=[0.0, 0.75], replicates=300, block=50, fine=10)
    data = frame(ctx)
    power = data[data["metric"] == "power"].groupby("method")["value"].mean()
    for name, known in {"bl": 0.757, "sbl": 0.899, "by": 0.925, "bh": 0.986}.items():
        assert power[name] == pytest.approx(known, abs=0.04)  # four standard errors of 300 replicates
    alone = Context(methods={"mine": bh})
    simulation(alone, k=1000, prevalence=[0.0, 0.75], replicates=300, block=50, fine=10)
    mine = frame(alone)
    together = data[(data["method"] == "bh")].reset_index(drop=True)
    for metric in ("fdp", "power"):
        np.testing.assert_array_equal(
            mine[mine["metric"] == metric]["value"], together[together["metric"] == metric]["value"]
        )
    assert set(data[data["metric"] == "power"]["prevalence"]) == {0.75}  # undefined without anomalies
    assert np.isfinite(data["value"]).all()
    with pytest.raises(ValueError, match="multiple of the next"):
        simulation(ctx, k=10, prevalence=[0.5], replicates=30, block=20, fine=10)


def test_missing_plus_one_is_caught_on_clean_batches_only() -> None:
    ctx = Context(methods={"bl": bl})
    simulation(ctx, k=60, prevalence=[0.0, 0.8], replicates=200, block=50, fine=10, plus_one=False)
    fdr = frame(ctx).query("metric == 'fdp'").groupby("prevalence")["value"].mean()
    assert fdr[0.0] > 0.5
    assert fdr[0.8] < 0.05


def test_real_scores_and_the_control_on_training_images() -> None:
    sizes = {"train": 300, "calibration": 500, "test_normal": 300, "splits": 3, "resplits": 1}
    ctx = digits()
    one_versus_rest(ctx, anomaly=[0], prevalence=[0.0, 0.3], **sizes)
    data = frame(ctx)
    assert data[data["metric"] == "auroc"]["value"].min() > 0.97
    mean = data[data["prevalence"] == 0.3].groupby(["method", "metric"])["value"].mean()
    assert mean["bl", "fpr"] == 1
    assert mean["bh", "fpr"] < 0.3
    assert mean["derandomised", "fpr"] < 1
    broken = digits()
    one_versus_rest(broken, anomaly=[0], prevalence=[0.0], calibrate_on="training", **sizes)
    assert frame(broken).query("metric == 'fdp' and method == 'bh'")["value"].mean() == 1
    figures.real_scores(data.assign(dataset="digits").fillna({"method": ""}))
    with pytest.raises(ValueError, match="normal images"):
        one_versus_rest(
            ctx, anomaly=[0], prevalence=[0.1], train=900, calibration=900, test_normal=9, splits=1
        )
    with pytest.raises(ValueError, match="needs .* anomalies"):
        one_versus_rest(ctx, anomaly=[0], prevalence=[0.9], **sizes)
    with pytest.raises(ValueError, match="held_out"):
        one_versus_rest(ctx, anomaly=[0], prevalence=[0.1], calibrate_on="all", **sizes)


def test_nearest_normals_equal_brute_force_also_where_the_list_is_too_short() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (400, 12)).astype(float)
    normal = np.arange(350)
    detector = NearestNormals(images, squared_distances(images), normal)
    items = np.arange(300, 400)
    for training in (rng.permutation(300)[:200], np.array([3, 7])):  # two members are rarely on the list
        distance = np.sqrt(((images[items, None] - images[training]) ** 2).sum(axis=2))
        expected = np.sort(distance, axis=1)[:, :2].mean(axis=1)
        np.testing.assert_allclose(detector.scores(items, training), expected, rtol=1e-9, atol=1e-9)
    assert detector.scores(np.array([3]), np.array([3, 7])) < distance[:, 0].min()  # distance 0 from itself


def test_pathwise_finds_no_violation_and_fires_on_the_controls() -> None:
    pytest.importorskip("online_fdr")
    ctx = Context()
    pathwise(ctx, cases=1440, package_cases=40, batch=20)
    total = frame(ctx).groupby("metric")["value"].agg(["sum", "max"])
    for metric in (
        "version_mismatches", "bl_outside_sbl", "bl_outside_bh", "bl_outside_by", "e_bh_mismatches", "fpr_increases",
        "e_bh_outside_closed", "non_monotone_sbl", "package_e_bh_mismatches", "strictly_more_beyond_all",
    ):  # fmt: skip
        assert total.loc[metric, "sum"] == 0, metric
    for metric in ("fpr_above_bound", "tpr_above_bound", "everything_shortfall"):
        assert total.loc[metric, "max"] <= 1e-12
    assert total.loc["non_monotone_per_item", "sum"] > 0
    assert total.loc["bl_outside_by_beyond_reach", "sum"] == 1
    least = frame(ctx).groupby("metric")["value"].min()
    assert least["strict_probability"] >= 0.05 * 0.05 - 1e-12  # delta alpha at the largest gamma
    assert least["fpr_strict_probability"] >= 0.05 * 0.05 - 1e-12
    assert (
        abs(frame(ctx).query("metric == 'strict_drawn_minus_exact'")["value"].mean()) < 0.03
    )  # 72 x 20 draws
    assert total.loc["by_dominates_up_to", "max"] == pytest.approx(3.39e6, rel=0.01)


def test_theorems_meet_their_closed_forms() -> None:
    ctx = Context()
    theorems(ctx, replicates=1500, beta_draws=4000, block=50)
    data = frame(ctx)
    worst = data[data["metric"] == "worst_dependence_fdr"].groupby("rule")["value"].agg(["mean", "sem"])
    closed = data[data["metric"] == "worst_dependence_closed_form"].set_index("rule")["value"]
    assert (abs(worst["mean"] - closed) < 5 * worst["sem"]).all()
    assert closed["sharp_bl"] == pytest.approx(0.05, rel=1e-9)
    assert worst.loc["bh", "mean"] > 0.2  # the construction does break a rule that needs positive dependence
    excess = data[data["metric"] == "null_p_excess"].groupby("p_value")["value"].mean()
    assert excess["weighted"] < 0.0 < 0.1 < excess["plain"]
    gain = data[data["metric"] == "sbl_power_gain"].groupby("k")["value"].mean()
    assert gain[200] > gain[1000] > gain[5000] > 0
    beta = data[data["metric"] == "conditional_tpr"]
    arguments = {"samples": ["draw"], "confidence": 0.99, "margin": 0.05}
    assert follows_beta(beta, **arguments).verdict == "holds"
    assert follows_beta(beta.assign(rank=14), **arguments).verdict == "violated"


def test_mean_field_values_and_both_boundaries() -> None:
    """gamma = .8, beta = .4, so that beta/gamma = .5; values of the dossier at n = 10^6, 10^100, 10^10000."""
    budget = np.log(0.2 * 0.05)
    for r, known in ((0.48, (0.943, 0.707, 0.999)), (0.52, (0.906, 0.455, 0.001))):
        for exponent, value in zip((6, 100, 10000), known):
            found = mean_field_fpr(exponent * np.log(10), r, 0.4, 0.8, budget)
            assert found == pytest.approx(value, abs=6e-4)  # three printed digits
    ctx = Context()
    boundary(ctx, r=[0.3, 0.45, 0.6, 0.9], beta=[0.4], log10_n=[6, 10000], uniforms=4)
    data = frame(ctx)
    far = data[(data["log10_n"] == 10000) & (data["rule"] == "bl")].set_index("r")
    assert far["stated"].tolist() == ["outside", "inside", "inside", "inside"]
    assert far["corrected"].tolist() == ["outside", "outside", "inside", "inside"]
    np.testing.assert_allclose(far["value"], [1, 1, 0, 0], rtol=0, atol=1e-3)  # n is finite
    figures.phase_diagram(data)


def test_monte_carlo_agrees_with_the_mean_field() -> None:
    ctx = Context(methods={"bl": bl, "bh": bh})
    phase(ctx, r=[0.6, 0.9], beta=[0.4], n=100_000, repeats=4)
    data = frame(ctx)
    measured = data.groupby(["method", "r"])["value"].mean()
    for r in (0.6, 0.9):
        for name, gamma, budget in (("bl", 0.8, 0.01), ("bh", 1.0, 0.05)):
            expected = mean_field_fpr(np.log(1e5), r, 0.4, gamma, np.log(budget))
            assert measured[name, r] == pytest.approx(expected, abs=0.05)  # 1,000 anomalies, 4 repeats
    figures.fpr_against_strength(data)


def test_lambda_draws_grow_as_lambda_falls() -> None:
    ctx = Context()
    lambda_draws(ctx, k=[200], points=40, replicates=5)
    data = frame(ctx)
    share = data[data["metric"] == "rejected_share"].pivot_table(
        index="replicate", columns="uniform", values="value"
    )
    assert (np.diff(share.to_numpy(), axis=1) <= 0).all()
    assert (data[data["metric"] == "everything_probability"]["value"] >= 0.01 - 1e-12).all()
    figures.over_lambda(data)


def test_audit_finds_the_known_contradictions_and_checks_the_cells(tmp_path) -> None:
    import hashlib

    folder = paths.experiments() / "sac_bl" / "printed"
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in files())).hexdigest()
    ctx = Context()
    audit(ctx, printed_sha256=digest)
    data = frame(ctx).set_index("metric")["value"]
    assert data["image_f1_contradictions"] == 14
    assert data["pixel_ratio_contradictions"] == 19
    assert data["average_tpr_mended"] == pytest.approx(98.25, abs=0.005)
    for name in files():
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    changed = tmp_path / "mvtec_f1.csv"
    changed.write_text(changed.read_text().replace("54.12", "54.13"))
    with pytest.raises(UserError, match="sha256"):
        check_digest(tmp_path, digest)


def test_figures_of_the_simulation() -> None:
    ctx = Context(methods=RULES)
    for k in (50, 200):
        simulation(ctx, k=k, prevalence=[0.0, 0.5], replicates=20, block=5, fine=5)
    for figure in (figures.fdr_and_power, figures.against_prevalence):
        axes = figure(frame(ctx)).axes
        assert any(axis.has_data() for axis in axes)


def order_data(values: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {"method": name, "split": i, "value": value, "seed": 0}
        for name, column in values.items()
        for i, value in enumerate(column)
    ]
    return pd.DataFrame(rows)


def test_pathwise_order_needs_every_sample() -> None:
    arguments = {"samples": ["split"], "confidence": 0.99, "axis": "method", "order": ["a", "b"]}
    good = order_data({"a": [0.1, 0.5], "b": [0.1, 0.6]})
    assert pathwise_order(good, **arguments).verdict == "holds"
    # The mean still rises, one sample falls.
    bad = order_data({"a": [0.1, 0.5], "b": [0.9, 0.4]})
    decision = pathwise_order(bad, **arguments)
    assert (decision.verdict, decision.ours) == ("violated", 1.0)
    with pytest.raises(ValueError, match="tell the measurements apart"):
        pathwise_order(pd.concat([good, good]), **arguments)
    with pytest.raises(ValueError, match="only one of"):
        pathwise_order(good.iloc[:3], **arguments)
