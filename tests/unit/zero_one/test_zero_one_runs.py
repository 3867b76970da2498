"""Experiment functions on tiny budgets: what they record, that methods share graphs, that strangers may join."""

import numpy as np
import pandas as pd
import pytest
import torch

from reproven.harness.context import Context
from reproven.harness.errors import Blocked
from reproven.papers.zero_one import followup, scaling, theory
from reproven.papers.zero_one.attention import GAT
from reproven.papers.zero_one.constant_networks import GPS, ConstantGCN
from reproven.papers.zero_one.experiments import proportions
from reproven.papers.zero_one.models import GCN, SumGNN
from reproven.papers.zero_one.released import released_counts


def table(ctx: Context) -> pd.DataFrame:
    parts = [pd.DataFrame({"metric": s.metric, "value": s.values, **s.coords}) for s in ctx.series]
    return pd.concat(parts, ignore_index=True)


def values(rows: pd.DataFrame, metric: str, **where) -> np.ndarray:
    rows = rows[rows["metric"] == metric]
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    return rows["value"].to_numpy()


class Stranger:
    """A method from outside: no select, no limit, no short cut."""

    width = 3

    def draw(self, depth, generators):
        return torch.stack([torch.rand(self.width, generator=g) - 0.5 for g in generators])

    def logits(self, weights, graphs, features):
        sums = graphs.multiply(features).mean(-1) / graphs.n
        return (sums @ weights.T).double()


def test_proportions_records_every_model_and_size():
    ctx = Context(methods={"gcn": GCN(width=6), "sum": SumGNN(width=6), "stranger": Stranger()})
    proportions(ctx, depth=[1, 2], n=[10, 20], graphs=6, models=4, full_models=2, official_depth=True)
    rows = table(ctx)
    for method in ctx.methods:
        assert len(values(rows, "minority_fraction", method=method, depth=2, n=20)) == 4
    p = values(rows, "proportion")
    assert np.allclose(p * 6, np.round(p * 6), rtol=0, atol=1e-12)
    assert np.array_equal(values(rows, "minority_fraction"), np.minimum(p, 1 - p))
    assert np.array_equal(values(rows, "unanimous"), (np.minimum(p, 1 - p) == 0).astype(float))
    assert values(rows, "shortcut_error").max() < 1e-5
    assert values(rows, "shortcut_disagreements").max() == 0
    assert set(rows[rows.metric == "surrogate_agreement"]["method"]) == {"gcn", "sum"}


def test_a_method_alone_sees_the_graphs_it_saw_in_company():
    together = Context(methods={"gcn": GCN(width=6), "stranger": Stranger()}, seed=3)
    alone = Context(methods={"stranger": Stranger()}, seed=3)
    for ctx in (together, alone):
        proportions(ctx, depth=1, n=[15], graphs=40, models=5)
    assert np.array_equal(
        values(table(together), "proportion", method="stranger"),
        values(table(alone), "proportion", method="stranger"),
    )


def test_official_depth_gives_one_layer_two():
    ctx = Context(methods={"gcn": GCN(width=4)})
    theory.layer_count(ctx, depth=[1, 2, 3])
    rows = table(ctx)
    assert values(rows, "layers", rule="official").tolist() == [2, 2, 3]
    assert values(rows, "layers", rule="true").tolist() == [1, 2, 3]


def test_non_finite_logits_end_the_run():
    class Broken(Stranger):
        def logits(self, weights, graphs, features):
            return super().logits(weights, graphs, features) / 0

    with pytest.raises(FloatingPointError, match="not finite at n=10"):
        proportions(Context(methods={"broken": Broken()}), depth=1, n=[10], graphs=2, models=2)


def test_concentration_falls_and_clips_are_counted():
    ctx = Context(methods={"gcn": GCN(width=8), "cut": GCN(width=8, bound=0.5)})
    theory.concentration(ctx, depth=[2], n=[20, 600], graphs=4, models=3)
    rows = table(ctx)
    for metric in ("node_deviation", "pooled_deviation"):
        near, far = (values(rows, metric, method="gcn", n=n).mean() for n in (600, 20))
        assert near < far
    assert values(rows, "clipped", method="gcn").max() == 0
    assert values(rows, "clipped", method="cut").min() > 0.1
    with pytest.raises(ValueError, match="'gat' offers no node states and limit"):
        theory.concentration(Context(methods={"gat": GAT()}), depth=[1], n=[10], graphs=1, models=1)


def test_generators_tell_the_scripts_graphs_apart():
    ctx = Context()
    theory.generators(ctx, n=[100], graphs=3, family=["er_half", "complete_weighted"])
    rows = table(ctx)
    assert values(rows, "edge_fraction", family="complete_weighted").min() > 0.999
    assert 0.4 < values(rows, "edge_fraction", family="er_half").mean() < 0.6
    assert values(rows, "non_binary_entries", family="er_half").max() == 0
    assert values(rows, "diagonal_weight", family="complete_weighted").min() == 100


def test_products_and_properties_are_recorded():
    ctx = Context()
    theory.products(ctx, n=[60], columns=4, graphs=1)
    theory.first_order(ctx, n=[12], graphs=5)
    rows = table(ctx)
    assert set(rows[rows.metric == "product_error"]["form"]) == {"packed", "streamed"}
    assert len(values(rows, "holds")) == 5 * 6
    assert set(values(rows, "holds")) <= {0.0, 1.0}


def test_fitted_decision_size_recovers_a_known_law():
    from scipy.stats import norm

    n = np.array([10, 50, 200, 1000])
    ones = 10_000 * norm.cdf(0.08 * np.sqrt(n))
    want = (norm.ppf(0.99) / 0.08) ** 2
    assert scaling.fitted_decision_size(n, ones, 10_000) == pytest.approx(want, rel=1e-3)
    assert scaling.fitted_decision_size(n, 10_000 - ones, 10_000) == pytest.approx(want, rel=1e-3)


def test_finite_size_records_both_laws():
    ctx = Context(methods={"tanh": GCN(width=8, activation="tanh")})
    scaling.finite_size(ctx, depth=[1], n=[20, 40], graphs=40, models=6, draws=200)
    rows = table(ctx)
    assert set(rows[rows.metric == "decision_size"]["law"]) == {"delta", "surrogate"}
    assert (values(rows, "spread_ratio") > 0).all()


def test_constant_outputs_and_their_groups():
    ctx = Context(methods={"gcn": ConstantGCN(width=8), "gps": GPS(width=8, walk=2)})
    followup.constant_outputs(ctx, family="er_log", n=[30, 60], graphs=11, models=2)
    rows = table(ctx)
    assert len(values(rows, "group_sd", method="gps", n=30)) == 2  # 11 graphs make two groups of five
    mean = values(rows, "class_mean", method="gcn", n=60).reshape(2, 5)
    assert mean.sum(1) == pytest.approx([1, 1], abs=1e-9)


def test_road_networks_are_read_or_blocked(tmp_path, monkeypatch):
    monkeypatch.setenv("REPROVEN_CACHE", str(tmp_path))
    ctx = Context(methods={"gcn": ConstantGCN(width=4)})
    with pytest.raises(Blocked, match="no road network at .*tiger_alaska_1k.npz"):
        followup.road_networks(ctx, thousands=[1], draws=5, models=1)
    folder = tmp_path / "tiger_alaska"
    folder.mkdir()
    np.savez(folder / "tiger_alaska_1k.npz", n=4, edges=np.array([[0, 1, 2], [1, 2, 3]]))
    followup.road_networks(ctx, thousands=[1], draws=5, models=1)
    assert len(values(table(ctx), "group_sd", n=4)) == 1
    np.savez(folder / "bad.npz", n=2, edges=np.array([[0], [5]]))
    with pytest.raises(ValueError, match="node numbers below n=2"):
        followup.road_network(folder / "bad.npz")
    (folder / "noise.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"noise\.npz is no road network"):
        followup.road_network(folder / "noise.npz")


def test_released_counts_are_whole_and_average_to_the_known_values():
    counts = released_counts()
    assert counts["count"].between(0, 32).all()
    gcn = counts[
        (counts.method == "gcn")
        & (counts.depth == 3)
        & (counts.family == "er_half")
        & (counts.features == "uniform")
    ]
    # Aggregated independently in the dossier, to three digits.
    want = {10: 0.122, 50: 0.069, 100: 0.084, 500: 0.019, 1000: 0.0, 2000: 0.0, 5000: 0.0}
    got = gcn.groupby("n")["minority_fraction"].mean()
    assert got.to_dict() == pytest.approx(want, abs=6e-4)
