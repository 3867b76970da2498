"""Streams: what they promise (means, schedules, hard halves) against what they draw."""

from __future__ import annotations

import numpy as np
import pytest

from reproven.papers.online_l2d import streams
from reproven.papers.online_l2d.real_streams import arrays, oriented_gradients, specialists, whitened


@pytest.mark.parametrize("name", streams.SYNTHETIC)
def test_mean_costs_are_the_means_of_the_realised_costs(name):
    world = streams.SYNTHETIC[name](60_000, np.random.default_rng(0))
    costs, regime = world.costs(), world.regime()
    for r in range(len(world.regime_start)):
        for m in range(len(world.contexts)):
            rows = (regime == r) & (world.index == m)
            # 4.5 standard errors of a mean of at least 5,000 Bernoulli draws
            np.testing.assert_allclose(costs[rows].mean(axis=0), world.mean_cost[r, m], atol=4.5 * 0.5 / 70)


def test_static_stream_is_the_dossiers():
    world = streams.static(10, np.random.default_rng(0))
    ordered = np.sort(world.mean_cost[0], axis=1)
    np.testing.assert_allclose(ordered[:, 1] - ordered[:, 0], [0.24, 0.30, 0.36, 0.01, 0.07], atol=0.011)
    assert world.rows == 7


def test_low_noise_streams_have_their_gap():
    for name, gap in (("realizable", 0.6), ("massart", 0.35)):
        ordered = np.sort(streams.SYNTHETIC[name](10, np.random.default_rng(0)).mean_cost[0], axis=1)
        assert (ordered[:, 1] - ordered[:, 0]).min() >= gap - 1e-12
    assert streams.realizable(10, np.random.default_rng(0)).mean_cost.min() == 0.0


def test_shift_moves_every_best_expert():
    world = streams.shift(100, np.random.default_rng(0))
    assert (world.mean_cost[0].argmin(axis=1) != world.mean_cost[1].argmin(axis=1)).all()


def test_schedule_arrivals_departures_and_toggling():
    rng = np.random.default_rng(0)
    plain = streams.schedule(1000, [0.0, 0.25], [1.0, 0.75], rng)
    assert plain[:, 0].all()
    assert np.flatnonzero(plain[:, 1])[[0, -1]].tolist() == [250, 749]
    toggled = streams.schedule(200_000, [0.0], [1.0], rng, off=0.005, on=0.02)[:, 0]
    assert toggled[0] == 1
    assert toggled.mean() == pytest.approx(0.8, abs=0.02)  # stationary share on / (on + off)
    leaves = ((toggled[:-1] == 1) & (toggled[1:] == 0)).sum() / toggled[:-1].sum()
    assert leaves == pytest.approx(0.005, rel=0.15)


def test_varying_pool_removes_the_currently_best_expert():
    world = streams.varying(20_000, np.random.default_rng(0))
    assert world.available[:15_000, 9].any()
    assert not world.available[15_000:, 9].any()
    assert (world.mean_cost[0].argmin(axis=1) == 4 + 9).any()


def test_regret_and_costs_of_a_hand_made_stream():
    world = streams.Stream(
        n_labels=2,
        contexts=np.array([[1.0]]),
        index=np.zeros(3, np.int32),
        label=np.array([0, 1, 1], np.int16),
        wrong=np.array([[0], [1], [0]], np.uint8),
        available=np.array([[1], [1], [0]], np.uint8),
        fee=np.array([0.1]),
        mean_cost=np.array([[[0.6, 0.4, 0.2]]]),
        regime_start=np.zeros(1, np.int64),
        hard=np.array([True]),
    )
    np.testing.assert_allclose(world.costs(), [[0, 1, 0.1], [1, 0, 1.0], [1, 0, 0.1]], rtol=1e-12)
    actions = np.array([2, 2, 0])
    np.testing.assert_allclose(world.realised_cost(actions), [0.1, 1.0, 1.0], rtol=1e-12)
    assert world.error(actions).tolist() == [0, 1, 1]
    np.testing.assert_allclose(world.pseudo_regret(actions), [0.0, 0.0, 0.2], atol=1e-12)
    singles = [world.realised_cost_at(t, a) for t, a in enumerate(actions)]
    np.testing.assert_allclose(singles, world.realised_cost(actions), rtol=1e-12)


@pytest.mark.parametrize(("n", "experts"), [(2, 4), (3, 6), (10, 6), (6, 6), (26, 6)])
def test_specialists_on_features(n, experts):
    rng = np.random.default_rng(n)
    y = np.arange(600) % n
    x = rng.normal(size=(600, 12)) + y[:, None]
    world = specialists(x, y, 30_000, rng, components=5)
    assert world.n_experts == experts
    assert np.linalg.norm(world.contexts, axis=1).mean() == pytest.approx(1.0, rel=1e-12)
    # no label is right more than half of the time on hard rows; one always is on easy rows
    best = world.mean_cost[0, :, :n].min(axis=1)
    np.testing.assert_array_equal(best, np.where(world.hard, 0.5, 0.0))
    # on every hard row some expert beats every label once all are there
    assert (world.mean_cost[0, world.hard, n:].min(axis=1) < 0.5).mean() > 0.5
    costs = world.costs()
    drawn = costs - world.mean_cost[0, world.index]
    np.testing.assert_allclose(drawn.mean(axis=0), 0.0, atol=0.015)  # 5 standard errors
    warm = set(world.index[: world.warm_up])
    assert warm.isdisjoint(world.index[world.warm_up :])


def test_whitening_and_gradients():
    rng = np.random.default_rng(0)
    z = whitened(rng.normal(size=(300, 6)) * [1, 5, 1, 1, 1, 9], 4)
    gram = z.T @ z
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(4), atol=1e-9)
    with pytest.raises(ValueError, match="rank 2"):
        whitened(np.outer(rng.normal(size=9), [1, 2, 3]) + np.outer(rng.normal(size=9), [1, 0, 0]), 3)
    stripes = np.zeros((2, 28, 28))
    stripes[0, :, ::4] = 1.0  # vertical edges: gradient along x, angle 0
    stripes[1, ::4, :] = 1.0  # horizontal edges: angle pi / 2, between bins 4 and 5
    cells = oriented_gradients(stripes).reshape(2, 16, 9).sum(axis=1)
    assert cells[0].argmax() == 0
    assert cells[1].argmax() in (4, 5)
    np.testing.assert_allclose(np.linalg.norm(oriented_gradients(stripes), axis=1), 1.0, rtol=1e-12)


def test_bad_features_and_streams():
    with pytest.raises(ValueError, match="NaN"):
        arrays((np.array([[np.nan]]), np.array([0])))
    with pytest.raises(ValueError, match="rounds is 300"):
        specialists(np.eye(9), np.arange(9) % 3, 300, np.random.default_rng(0), components=2)
    with pytest.raises(ValueError, match="features hold NaN"):
        specialists(np.full((9, 3), np.nan), np.arange(9) % 3, 400, np.random.default_rng(0), components=2)
    with pytest.raises(ValueError, match="single class"):
        specialists(np.eye(9), np.zeros(9, int), 400, np.random.default_rng(0), components=2)
    with pytest.raises(ValueError, match="components is 1: with two classes"):
        specialists(np.eye(9), np.arange(9) % 2, 400, np.random.default_rng(0), components=1)
    with pytest.raises(ValueError, match="components is 0, the features have rank 8: ask for 1 to 8"):
        specialists(np.eye(9), np.arange(9) % 3, 400, np.random.default_rng(0), components=0)
    with pytest.raises(ValueError, match="stream 'statics' is unknown: use one of labels_noisy"):
        streams.synthetic("statics")
    world = streams.static(5, np.random.default_rng(0))
    for changes, message in [
        ({"index": world.index[:3]}, "disagree"),
        ({"label": world.label[:3]}, "disagree"),
        ({"index": world.index + 5}, "number the 5 contexts from 0"),
        ({"index": world.index - 5}, "number the 5 contexts from 0"),
        ({"fee": np.zeros(2)}, "each of 3 experts"),
        ({"fee": np.array([0.0, np.nan, 0.0])}, "fee is .*nan"),
        ({"fee": np.array([0.0, -0.1, 0.0])}, "finite number >= 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            streams.replace(world, **changes)
    with pytest.raises(ValueError, match="empty pool"):
        streams.replace(world, n_labels=0, available=np.zeros_like(world.available))
