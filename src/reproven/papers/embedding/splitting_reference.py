"""Defs 4.6 and 4.10 word by word: loops over copies, float64, the paper's symbols. Slow on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def split_neuron(W: Sequence[np.ndarray], k: int, j: int, c: Sequence[float]) -> list[np.ndarray]:
    """Split hidden unit j of hidden layer k (Def. 4.6).

    W: weight matrices ``W^(1)..W^(alpha+1)`` as a list (index 0 is ``W^(1)``); ``W^(l)`` has shape (h_l,
    h_(l-1)). k: hidden layer, 1..alpha. j: unit, 0-based. c: splitting coefficients.
    """
    wide = [np.array(w, dtype=np.float64) for w in W]
    rows, columns = [], []
    for unit in range(W[k - 1].shape[0]):
        for c_i in c if unit == j else [1.0]:
            rows.append(c_i * wide[k - 1][unit, :])  # step 1: incoming weights
            columns.append(c_i * wide[k][:, unit])  # step 2: outgoing weights
    wide[k - 1] = np.stack(rows, axis=0)
    wide[k] = np.stack(columns, axis=1)
    return wide  # step 3: nothing else changes


def split_channel(
    W_k: np.ndarray, W_next: np.ndarray, j: int, c: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Split output channel j of a conv layer (Def. 4.10).

    W_k: (C_out, C_in, kh, kw). W_next: (C_next, C_out, kh, kw), or (out, C_out * H * W) for a linear layer
    after a channel-first flatten, whose slice is the group of H * W columns of the channel.
    """
    C_out = W_k.shape[0]
    group = W_next.shape[1] // C_out
    filters, slices = [], []
    for channel in range(C_out):
        for c_i in c if channel == j else [1.0]:
            filters.append(c_i * W_k[channel])
            for column in range(channel * group, (channel + 1) * group):
                slices.append(c_i * W_next[:, column])
    return np.stack(filters, axis=0).astype(np.float64), np.stack(slices, axis=1).astype(np.float64)
