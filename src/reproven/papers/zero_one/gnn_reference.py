"""The paper's networks as it writes them: one graph, one model, float64, node by node: what the fast ones must equal.

A graph is an adjacency matrix (n, n), features are rows (n, d), weight matrices act on rows. N(v) are the
neighbours of v, N+(v) adds v itself, d_v = |N(v)|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Layer = dict[str, Array]


def neighbours(A: Array, v: int) -> list[int]:
    return [u for u in range(len(A)) if A[v, u] != 0]


def gcn_layer(A: Array, X: Array, w: Layer, sigma: Callable[[Array], Array]) -> Array:
    """``x_v' = sigma( sum_{u in N+(v)} x_u W / sqrt((d_u+1)(d_v+1)) )``."""
    n = len(A)
    d = [len(neighbours(A, v)) for v in range(n)]
    out = []
    for v in range(n):
        total = np.zeros(w["neighbour"].shape[1])
        for u in [*neighbours(A, v), v]:
            total += X[u] @ w["neighbour"] / np.sqrt((d[u] + 1) * (d[v] + 1))
        out.append(sigma(total + w.get("bias", 0)))
    return np.array(out)


def meangnn_layer(A: Array, X: Array, w: Layer, sigma: Callable[[Array], Array]) -> Array:
    """``x_v' = sigma( 1/(d_v+1) sum_{u in N+(v)} x_u W_n )``; W_s and W_r where MeanGNN+ has them."""
    n = len(A)
    out = []
    for v in range(n):
        closed = [*neighbours(A, v), v]
        total = sum(X[u] @ w["neighbour"] for u in closed) / len(closed)
        if "self" in w:
            total = total + X[v] @ w["self"]
        if "readout" in w:
            total = total + sum(X[u] @ w["readout"] for u in range(n)) / n
        out.append(sigma(total + w.get("bias", 0)))
    return np.array(out)


def sumgnn_layer(A: Array, X: Array, w: Layer, sigma: Callable[[Array], Array]) -> Array:
    """``x_v' = sigma( x_v W_s + sum_{u in N(v)} a_vu x_u W_n )``; W_r where SumGNN+ has it; a_vu = 1 in a graph."""
    n = len(A)
    out = []
    for v in range(n):
        total = X[v] @ w["self"]
        for u in neighbours(A, v):
            total = total + A[v, u] * (X[u] @ w["neighbour"])
        if "readout" in w:
            for u in range(n):
                total = total + X[u] @ w["readout"]
        out.append(sigma(total + w.get("bias", 0)))
    return np.array(out)


def gin_layer(A: Array, X: Array, w: Layer, sigma: Callable[[Array], Array] | None = None) -> Array:
    """``x_v' = relu( (x_v + sum_{u in N(v)} x_u) W_1 + b_1 ) W_2 + b_2``."""
    out = []
    for v in range(len(A)):
        total = X[v] + sum((X[u] for u in neighbours(A, v)), np.zeros(X.shape[1]))
        out.append(np.maximum(total @ w["w1"] + w["b1"], 0) @ w["w2"] + w["b2"])
    return np.array(out)


def gat_layer(A: Array, X: Array, w: Layer, sigma: Callable[[Array], Array]) -> Array:
    """``x_v' = sigma( sum_{u in N+(v)} alpha_vu x_u W )``, softmax of leaky scores, slope 0.2."""
    H = X @ w["value"]
    out = []
    for v in range(len(A)):
        closed = [*neighbours(A, v), v]
        scores = np.array([H[v] @ w["target"] + H[u] @ w["source"] for u in closed])
        scores = np.where(scores > 0, scores, 0.2 * scores)
        alpha = np.exp(scores - scores.max())
        alpha /= alpha.sum()
        out.append(sigma(sum(a * H[u] for a, u in zip(alpha, closed, strict=True))))
    return np.array(out)


LAYERS: dict[str, Callable[..., Array]] = {
    "GCN": gcn_layer,
    "MeanGNN": meangnn_layer,
    "MeanGNNPlus": meangnn_layer,
    "SumGNN": sumgnn_layer,
    "SumGNNPlus": sumgnn_layer,
    "GIN": gin_layer,
    "GAT": gat_layer,
}


def activation(name: str, bound: float) -> Callable[[Array], Array]:
    """Return sigma by name."""
    functions: dict[str, Callable[[Array], Array]] = {
        "clip": lambda x: np.clip(x, -bound, bound),
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "sine": np.sin,
    }
    return functions[name]


def head(pooled: Array, w1: Array, b1: Array, w2: Array, b2: float) -> float:
    """Argument of the last tanh of ``Linear(d, 100), tanh, Linear(100, 1), tanh, sigmoid``."""
    return float(np.tanh(pooled @ w1 + b1) @ w2 + b2)


def classify(logit: float) -> int:
    """Class 1 iff ``sigmoid(tanh(logit)) > 1/2``."""
    return int(1 / (1 + np.exp(-np.tanh(logit))) > 0.5)


def logit(network: Any, weights: Any, model: int, A: Array, X: Array) -> float:
    """Return the logit of one drawn model of a fast network on one graph, by the layers above.

    network, weights: as in `models`; model: which of the drawn ones.
    """
    layers = [{k: w[model].double().numpy(force=True) for k, w in layer.items()} for layer in weights.layers]
    last = states(A, X, layers, type(network).__name__, activation(network.activation, network.bound))
    h = weights.head
    return head(last.mean(0), *(t[model].numpy(force=True) for t in (h.w1, h.b1, h.w2, h.b2)))


def states(
    A: Array, X: Array, layers: list[Layer], architecture: str, sigma: Callable[[Array], Array]
) -> Array:
    """Return node states after the last layer, (n, d)."""
    for w in layers:
        X = LAYERS[architecture](A, X, w, sigma)
    return X


def mean_limit(mean: Array, layers: list[Layer], sigma: Callable[[Array], Array]) -> Array:
    """``z_0 = E[x], z_{t+1} = sigma( z_t (W_s + W_n + W_r) + b )`` (absent matrices count as zero)."""
    z = mean
    for w in layers:
        z = sigma(z @ sum(w[k] for k in ("self", "neighbour", "readout") if k in w) + w.get("bias", 0))
    return z


def sum_limit(mean: Array, layers: list[Layer], r: float, low: float, high: float) -> Array:
    """``s_t = z_{t-1} (r W_n + W_r)``, ``z_t,i = sigma_+`` where ``s_t,i > 0``, else ``sigma_-``."""
    z = mean
    for w in layers:
        s = z @ (r * w["neighbour"] + w.get("readout", 0))
        z = np.where(s > 0, high, low)
    return z
