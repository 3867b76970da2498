"""Exact search and bounds for network design: prices in place of capacities."""

from __future__ import annotations

import numpy as np

from reproven.papers.sflcb.beds.transport import Transport

UNBUILT = 30.0  # a price beyond which a link draws a share below 1e-12


def priced(problem: Transport, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return utility (P,) and capacities (P, L) when link l carries the price prices[:, l] >= 0.

    A capacity multiplier acts on travellers like a price, and capacities equal to the resulting flows
    make these prices the multipliers. So the design problem is exactly ``max_{prices >= 0} sum_od
    (m - w kappa) sigma(t_ext - tau)``: tau is the shortest priced time of a pair and kappa the cost of the
    links on that route. Ties between routes are broken towards the first found.

    Source: KKT conditions of the lower level; reconstructed.
    """
    net, (o, d) = problem.network, problem.pairs.T
    batch, n = len(prices), problem.n
    i, j = net.links.T
    time = np.full((batch, n, n), 1e6)
    time[:, i, j] = problem.t + prices
    time[:, range(n), range(n)] = 0.0
    cost = np.zeros((batch, n, n))
    cost[:, i, j] = problem.c[: problem.L]
    hop = np.broadcast_to(np.arange(n), (batch, n, n)).copy()
    for k in range(n):
        through = time[:, :, k, None] + time[:, None, k, :]
        shorter = through < time - 1e-12
        time = np.where(shorter, through, time)
        cost = np.where(shorter, cost[:, :, k, None] + cost[:, None, k, :], cost)
        hop = np.where(shorter, hop[:, :, k, None], hop)
    share = 1 / (1 + np.exp(np.clip(time[:, o, d] - problem.t_ext, -50, 50)))
    utility = ((problem.m - problem.w * cost[:, o, d]) * share).sum(1)
    return utility, _flows(problem, hop, share)


def _flows(problem: Transport, hop: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the demand-weighted flow on every link (P, L): each pair follows its next hops."""
    batch, n = len(share), problem.n
    index = np.full((n, n), problem.L)
    index[tuple(problem.network.links.T)] = np.arange(problem.L)
    flow = np.zeros((batch, problem.L + 1))
    rows = np.arange(batch)[:, None]
    at = np.broadcast_to(problem.pairs[:, 0], share.shape).copy()
    end = np.broadcast_to(problem.pairs[:, 1], share.shape)
    for _ in range(n - 1):
        after = np.where(at == end, at, hop[rows, at, end])
        link = np.where(at == end, problem.L, index[at, after])
        np.add.at(flow, (np.broadcast_to(rows, link.shape), link), problem.w * share)
        at = after
    return flow[:, : problem.L]


def search(
    problem: Transport,
    generator: np.random.Generator,
    *,
    restarts: int = 8,
    rounds: int = 400,
    width: int = 128,
) -> tuple[float, np.ndarray]:
    """Return the best true utility found and its capacities (L,), by random local search over prices.

    Each round draws `width` changes of a few prices, or builds or closes a link, and keeps the best.
    """
    best, best_prices = -np.inf, np.full(problem.L, UNBUILT)
    for _ in range(restarts):
        prices = np.where(generator.random(problem.L) < 0.5, generator.exponential(1.0, problem.L), UNBUILT)
        now = float(priced(problem, prices[None])[0][0])
        for _ in range(rounds):
            moves = np.repeat(prices[None], width, axis=0)
            chosen = generator.random(moves.shape) < generator.choice([0.03, 0.1], size=(width, 1))
            scale = generator.choice([0.02, 0.2, 2.0], size=(width, 1))
            moves = np.where(
                chosen, np.maximum(moves + scale * generator.standard_normal(moves.shape), 0), moves
            )
            flipped = generator.random(moves.shape) < 0.03
            moves = np.where(flipped, np.where(generator.random(moves.shape) < 0.5, UNBUILT, 0.0), moves)
            values = priced(problem, np.minimum(moves, UNBUILT))[0]
            top = int(np.argmax(values))
            if values[top] > now:
                now, prices = float(values[top]), np.minimum(moves[top], UNBUILT)
        if now > best:
            best, best_prices = now, prices
    return best, priced(problem, best_prices[None])[1][0]


def utility_bound(problem: Transport) -> float:
    """Return ``sum_od max_r [m - w kappa_r]_+ sigma(t_ext - t_r)`` over simple routes r, an upper bound.

    Whatever the prices, every used route r of a pair costs travellers at least t_r, so its share is at most
    ``sigma(t_ext - t_r)``, and the operator earns a mean of ``m - w kappa_r`` over used routes on it. Adding
    the pairs' separate maxima bounds the true utility from above. Source: reconstructed.
    """
    ends = problem.network.links
    total = 0.0
    for k, (o, d) in enumerate(problem.pairs.tolist()):
        best = 0.0
        pending = [(o, 0.0, 0.0, frozenset([o]))]
        while pending:
            node, time, cost, seen = pending.pop()
            if node == d:
                earned = max(problem.m[k] - problem.w[k] * cost, 0.0)
                best = max(best, float(earned / (1 + np.exp(time - problem.t_ext[k]))))
                continue
            for link in np.flatnonzero(ends[:, 0] == node):
                after = int(ends[link, 1])
                if after not in seen:
                    pending.append((after, time + problem.t[link], cost + problem.c[link], seen | {after}))
        total += best
    return total
