"""MeanGNN+ keeps a node's own features: its pooled state has another limit than the recursion of means."""

from __future__ import annotations

import numpy as np


def test_the_pooled_state_tends_to_a_mean_over_nodes_not_to_a_state_of_means():
    rng = np.random.default_rng(0)
    d, n = 16, 3000
    own, around, readout = (rng.uniform(-1, 1, (d, d)) for _ in range(3))
    x = rng.uniform(0, 1, (n, d))
    adjacency = np.triu(rng.random((n, n)) < 0.5, 1)
    adjacency = adjacency + adjacency.T + np.eye(n)
    mean = adjacency @ x / adjacency.sum(1, keepdims=True)
    pooled = np.tanh(x @ own + mean @ around + x.mean(0) @ readout).mean(0)

    z = np.full(d, 0.5)
    of_means = np.tanh(z @ (own + around + readout))
    fresh = rng.uniform(0, 1, (200_000, d))
    over_nodes = np.tanh(fresh @ own + z @ (around + readout)).mean(0)

    # What fluctuates is the feature mean, by sqrt(1 / 12 n) a coordinate: 0.02 after a sum over d = 16 weights.
    near, far = np.abs(pooled - over_nodes).max(), np.abs(pooled - of_means).max()
    assert near < 0.05
    assert far > 0.1
