"""Every pooling as plain loops in float64: one text, one channel or head at a time, in the order of the formulas.

``REFERENCE[class name](rows, settings, parameters)`` takes the real tokens of one input, an (n, d) array, and returns
one vector. Padding does not exist here: a caller drops it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.linalg import sqrtm
from scipy.special import expit, logsumexp

Arrays = Mapping[str, np.ndarray]
Reference = Callable[[np.ndarray, Any, Arrays], np.ndarray]


def softmax(x: np.ndarray) -> np.ndarray:
    """Return exp(x) / sum exp(x)."""
    e = np.exp(x - x.max())
    return e / e.sum()


def layer_norm(row: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Return (row - mean) / sqrt(var + eps)."""
    return (row - row.mean()) / np.sqrt(row.var() + eps)


def gem(z, s, p):
    def mean(column):
        return np.mean(column**s.p) ** (1 / s.p)

    positive = np.array([mean(np.maximum(c, 0)) for c in z.T])
    return positive - np.array([mean(np.maximum(-c, 0)) for c in z.T]) if s.signed else positive


def covariance(z, s, p):
    if 0 < s.channels < z.shape[1]:
        z = np.stack([z @ cosine(z.shape[1], k + 1) for k in range(s.channels)], axis=1)
    c = sum(np.outer(row, row) for row in z - z.mean(0)) / len(z)
    if s.iterations:
        c = np.real(sqrtm(c))
    c = np.asarray(c)
    out = []
    for i in range(len(c)):
        for j in range(i, len(c)):
            out.append(c[i, j] * (1.0 if i == j else np.sqrt(2)))
    return np.array(out)


def cosine(d: int, order: int) -> np.ndarray:
    """Return one orthonormal type-II cosine."""
    return np.sqrt(2 / d) * np.cos(np.pi / d * (np.arange(d) + 0.5) * order)


def w_avg(z, s, p):
    order = np.arange(len(z))[::-1] if s.align == "end" else np.arange(len(z))
    w = p["w"][order]
    a = softmax(w) if s.convex else w
    return sum(a_i * z_i for a_i, z_i in zip(a, z))


def attend(z, keys, values, query, scale):
    a = softmax(np.array([query @ k for k in keys]) / scale)
    return sum(a_i * v for a_i, v in zip(a, values))


def query_attention(z, s, p):
    return attend(z, z, z, p["q"], s.tau)


def gated_abmil(z, s, p):
    scores = [p["w"] @ (np.tanh(p["v"] @ row + p["v_bias"]) * expit(p["u"] @ row + p["u_bias"])) for row in z]
    a = softmax(np.array(scores))
    return sum(a_i * row for a_i, row in zip(a, z))


def chunks(d, heads):
    return [slice(h * d // heads, (h + 1) * d // heads) for h in range(heads)]


def pma(z, s, p):
    query = p["q"] @ p["seed"]
    keys, values = z @ p["k"].T, z @ p["v"].T + p["v_bias"]
    d = z.shape[1]
    parts = [attend(z, keys[:, c], values[:, c], query[c], np.sqrt(d)) for c in chunks(d, s.heads)]
    out = query + np.concatenate(parts)
    return out + np.maximum(p["o"] @ out + p["o_bias"], 0)


def latent_dictionary(z, s, p):
    d = z.shape[1]
    keys, values = p["latents"] @ p["k"].T, p["latents"] @ p["v"].T
    out = []
    for row in z:
        query = p["q"] @ layer_norm(row)
        parts = [
            attend(z, keys[:, c], values[:, c], query[c], np.sqrt(d / s.heads)) for c in chunks(d, s.heads)
        ]
        out.append(row + p["o"] @ np.concatenate(parts))
    return np.mean(out, axis=0)


def ada_pool(z, s, p):
    d = z.shape[1]
    start = {"mean": z.mean(0), "first": z[0], "last": z[-1]}[s.query]
    query, keys, values = p["q"] @ start, z @ p["k"].T, z @ p["v"].T
    parts = [attend(z, keys[:, c], values[:, c], query[c], np.sqrt(d / s.heads)) for c in chunks(d, s.heads)]
    out = p["o"] @ np.concatenate(parts)
    return out if s.query == "mean" else out + start


def sim_pool(z, s, p):
    plain = np.stack([layer_norm(row) for row in z])
    return attend(z, plain @ p["k"].T, plain, p["q"] @ z.mean(0), np.sqrt(z.shape[1]))


def efficient_probing(z, s, p):
    values = z @ p["v"].T
    parts = [attend(z, z, values[:, c], p["q"][m], 1.0) for m, c in enumerate(chunks(z.shape[1], s.queries))]
    return np.concatenate(parts)


def sliced_wasserstein(z, s, p):
    out = []
    for theta, w, r in zip(p["theta"], p["w"], p["r"]):
        ordered = np.sort(z @ theta)
        t = (np.arange(s.references) + 0.5) / s.references
        quantiles = np.interp(t * len(z) - 0.5, np.arange(len(z)), ordered)
        out.append(w @ (quantiles - r))
    return np.array(out)


REFERENCE: dict[str, Reference] = {
    "Avg": lambda z, s, p: z.mean(0),
    "Sum": lambda z, s, p: np.add.reduce(z),
    "SqrtMean": lambda z, s, p: np.add.reduce(z) / np.sqrt(len(z)),
    "Max": lambda z, s, p: z.max(0),
    "Min": lambda z, s, p: z.min(0),
    "Median": lambda z, s, p: np.median(z, axis=0),
    "Last": lambda z, s, p: z[-1],
    "First": lambda z, s, p: z[0],
    "TopK": lambda z, s, p: np.array([np.sort(c)[::-1][: s.k].mean() for c in z.T]),
    "GeM": gem,
    "LSE": lambda z, s, p: np.array([(logsumexp(s.r * c) - np.log(len(c))) / s.r for c in z.T]),
    "PositionMean": lambda z, s, p: np.average(z, axis=0, weights=np.arange(1, len(z) + 1)),
    "AvgMax": lambda z, s, p: np.concatenate([z.mean(0), z.max(0)]),
    "Covariance": covariance,
    "WAvg": w_avg,
    "QueryAttention": query_attention,
    "GatedABMIL": gated_abmil,
    "PMA": pma,
    "LatentDictionary": latent_dictionary,
    "AdaPool": ada_pool,
    "SimPool": sim_pool,
    "EfficientProbing": efficient_probing,
    "SlicedWasserstein": sliced_wasserstein,
}
