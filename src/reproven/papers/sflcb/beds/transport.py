"""Transport network design of section 6.3: an operator chooses link capacities, travellers a mode and routes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from reproven.harness.errors import require
from reproven.papers.sflcb.problem import Array, BilevelProblem


@dataclass(frozen=True)
class Network:
    """n nodes; matrices (n, n): link time t, cost c, revenue m, outside time t_ext, demand w; links (L, 2)."""

    t: np.ndarray
    c: np.ndarray
    m: np.ndarray
    t_ext: np.ndarray
    w: np.ndarray
    links: np.ndarray

    @property
    def n(self) -> int:
        """Number of nodes."""
        return len(self.t)


class Transport(BilevelProblem):
    """Upper: ``max sum m y - sum c x``, x >= x_low. Lower: logit mode choice and routes under capacities.

    ``min sum_od w [y ln y + (1-y) ln(1-y) - t_ext y + sum_ij t_ij p_ij]``, y in [y_low, 1 - y_low],
    p in [0, 1], subject to flow conservation (equality: net outflow of p^od is y at o, -y at d, else 0) and
    ``sum_od w p_ij <= x_ij``. Linear, so not strongly convex, in p.

    x (n^2,) holds the links first and then every other entry of the published n x n array, diagonal
    included: they only cost, for no flow can enter them (their time is 10^4, or they leave no node). y is
    (K + K L,): y_od, then p by pair.
    Rows: K n balances, then L capacities.
    Source: section 6.3, Appendix F and the published constants.
    """

    def __init__(
        self, network: Network, *, x_low: float = 1e-3, y_low: float = 0.01, published_duals: bool = False
    ) -> None:
        self.network = network
        n = network.n
        pairs = [(o, d) for o in range(n) for d in range(n) if o != d]
        links = [tuple(link) for link in network.links.tolist()]
        self.pairs = np.array(pairs)
        entries = [(i, j) for i in range(n) for j in range(n)]
        self.columns = np.array(links + [entry for entry in entries if entry not in set(links)])
        self.K, self.L, self.n = len(pairs), len(links), n
        o, d = self.pairs.T
        self.m, self.t_ext, self.w = network.m[o, d], network.t_ext[o, d], network.w[o, d]
        self.t = network.t[tuple(network.links.T)]
        self.c = network.c[tuple(self.columns.T)]
        self.incidence = np.zeros((n, self.L))
        self.incidence[network.links[:, 0], np.arange(self.L)] = 1.0
        self.incidence[network.links[:, 1], np.arange(self.L)] = -1.0
        self.ends = np.zeros((self.K, n))
        self.ends[np.arange(self.K), o] = 1.0
        self.ends[np.arange(self.K), d] = -1.0
        self._flow_cost = (self.w[:, None] * self.t).ravel()
        rows = self.K * n + self.L
        b_x = np.zeros((rows, n * n))
        b_x[self.K * n + np.arange(self.L), np.arange(self.L)] = -1.0
        low = np.r_[np.full(self.K, y_low), np.zeros(self.K * self.L)]
        high = np.r_[np.full(self.K, 1 - y_low), np.ones(self.K * self.L)]
        self._g_linear = np.r_[-self.w * self.t_ext, self._flow_cost]
        super().__init__(
            self._f, self._g, self.sparse.toarray(), b_x, np.zeros(rows), grad_f=self._grad_f,
            grad_g=self._grad_g, equality=np.arange(rows) < self.K * n, x_box=(x_low, np.inf), y_box=(low, high),
        )  # fmt: skip
        if published_duals:
            self.dual_map = published_reset(self)

    @cached_property
    def sparse(self) -> sp.csr_matrix:
        """A as a sparse matrix (K n + L, K + K L)."""
        balance_p = sp.kron(sp.identity(self.K), sp.csr_matrix(self.incidence))
        balance_y = sp.vstack([sp.csr_matrix((-self.ends[k], (np.arange(self.n), np.full(self.n, k))),
                                             shape=(self.n, self.K)) for k in range(self.K)])  # fmt: skip
        capacity = sp.kron(sp.csr_matrix(self.w[None]), sp.identity(self.L))
        zero = sp.csr_matrix((self.L, self.K))
        return sp.vstack([sp.hstack([balance_y, balance_p]), sp.hstack([zero, capacity])]).tocsr()

    def utility(self, x: Array, y: Array) -> Array:
        """Return ``sum m y - sum c x`` at the y handed in, which need not be the response to x."""
        return y[..., : self.K] @ self.m - x @ self.c

    def _f(self, x: Array, y: Array) -> Array:
        return -self.utility(x, y)

    def _g(self, x: Array, y: Array) -> Array:
        share, flow = y[..., : self.K], y[..., self.K :]
        entropy = share * np.log(share) + (1 - share) * np.log(1 - share) - self.t_ext * share
        return entropy @ self.w + flow @ self._flow_cost

    def _grad_f(self, x: Array, y: Array) -> tuple[Array, Array]:
        grad = np.zeros_like(y)
        grad[..., : self.K] = -self.m
        return np.zeros_like(x) + self.c, grad

    def _grad_g(self, x: Array, y: Array) -> tuple[Array, Array]:
        share = y[..., : self.K]
        grad = np.empty_like(y)
        grad[..., : self.K] = self.w * (np.log(share / (1 - share)) - self.t_ext)
        grad[..., self.K :] = self._flow_cost
        return np.zeros_like(x), grad

    def gradients(self, x: Array, y: Array, z: Array, delta: Array) -> tuple[Array, Array, Array]:
        """As in the base class, without the zero parts."""
        d_y, d_z = self._grad_g(x, y)[1], self._grad_g(x, z)[1]
        d_y[..., : self.K] -= delta * self.m
        return np.broadcast_to(delta * self.c, x.shape), d_y, d_z

    # Products with A by its blocks: dense, A has 1.5 million entries on nine nodes, of which 7,000 are not zero.
    def residual(self, x: Array, y: Array) -> Array:
        """Return balances and capacity excess, shape (..., K n + L)."""
        share = y[..., : self.K]
        flow = y[..., self.K :].reshape(*y.shape[:-1], self.K, self.L)
        h = np.empty((*y.shape[:-1], self.K * self.n + self.L))
        balance = flow @ self.incidence.T
        balance -= share[..., None] * self.ends
        h[..., : self.K * self.n] = balance.reshape(*y.shape[:-1], -1)
        h[..., self.K * self.n :] = self.w @ flow - x[..., : self.L]
        return h

    def adjoint_x(self, pi: Array) -> Array:
        """Return B^T pi: minus the capacity entries, zero for pairs without a link."""
        out = np.zeros((*pi.shape[:-1], self.n * self.n))
        out[..., : self.L] = -pi[..., self.K * self.n :]
        return out

    def adjoint_y(self, pi: Array) -> Array:
        """Return A^T pi."""
        balance = pi[..., : self.K * self.n].reshape(*pi.shape[:-1], self.K, self.n)
        price = pi[..., None, self.K * self.n :]
        out = np.empty((*pi.shape[:-1], self.K + self.K * self.L))
        out[..., : self.K] = -(balance * self.ends).sum(-1)
        flow = balance @ self.incidence
        flow += self.w[:, None] * price
        out[..., self.K :] = flow.reshape(*pi.shape[:-1], -1)
        return out

    def project_slack(self, alpha: Array) -> Array:
        """Return min(alpha, 0) on capacities and 0 on balances."""
        out = np.zeros_like(alpha)
        np.minimum(alpha[..., self.K * self.n :], 0, out=out[..., self.K * self.n :])
        return out

    def imbalance(self, y: Array) -> Array:
        """Return the absolute balance residuals, shape (..., K, n)."""
        h = self.residual(np.zeros((*y.shape[:-1], self.n * self.n)), y)
        return np.abs(h[..., : self.K * self.n]).reshape(*y.shape[:-1], self.K, self.n)

    def sustained(self, x: np.ndarray, y_floor: float = 0.0) -> tuple[float, np.ndarray]:
        """Return the true utility of the link capacities x, and the exact shares y_od (K,).

        Entries of x that are no link carry nothing and are left out of the cost.
        The lower level is solved as a conic program (exponential cones) by Clarabel; with ``y_floor = 0`` the
        shares may fall to zero, as on pairs that no capacity serves.
        """
        program, capacity, floor, variable = self._conic
        capacity.value = np.maximum(x[: self.L], 0)
        floor.value = np.full(self.K, y_floor)
        program.solve(solver="CLARABEL", max_threads=1)
        if program.status not in ("optimal", "optimal_inaccurate"):
            raise ValueError(f"lower level of the network is {program.status} at these capacities")
        share = np.asarray(variable.value)
        return float(self.m @ share - self.c[: self.L] @ x[: self.L]), share

    @cached_property
    def _conic(self):
        require("cvxpy", "sflcb")
        import cvxpy as cp

        share, flow = cp.Variable(self.K), cp.Variable((self.K, self.L), nonneg=True)
        capacity, floor = cp.Parameter(self.L, nonneg=True), cp.Parameter(self.K, nonneg=True)
        cost = -self.w @ (cp.entr(share) + cp.entr(1 - share)) - (self.w * self.t_ext) @ share
        cost = cost + self.w @ (flow @ self.t)
        spread = cp.reshape(share, (self.K, 1), order="C") @ np.ones((1, self.n))
        balance = flow @ self.incidence.T == cp.multiply(spread, self.ends)
        rows = [balance, self.w @ flow <= capacity, share >= floor]
        return cp.Problem(cp.Minimize(cost), rows), capacity, floor, share


def published_reset(problem: Transport):
    """Return the multiplier map of the published MATLAB: clipped, and zero at every destination.

    The array is indexed (origin, destination, node), the reset meant for equal origin and destination is
    applied to the last two indices, and balances are clipped at >= 0 like capacities; so wherever the node is
    the destination the multiplier is zero and only the rho term pulls.
    """
    keep = np.ones((problem.K, problem.n))
    keep[np.arange(problem.K), problem.pairs[:, 1]] = 0.0
    mask = np.r_[keep.ravel(), np.ones(problem.L)]
    return lambda u: np.maximum(u, 0.0) * mask


def three_node() -> Network:
    """Return the 3-node network: published constants."""
    t = np.array([[0, 1, 10], [1, 0, 2], [10, 2, 0]], float)
    c = np.array([[0, 1, 10], [1, 0, 3], [10, 3, 0]], float)
    m = np.array([[0, 2, 6], [2, 0, 1], [6, 1, 0]], float)
    off = 1.0 - np.eye(3)
    return Network(t, c, m, 3 * off, off, np.argwhere(off > 0))


def sigmoid(v: float) -> float:
    """Return 1 / (1 + exp(-v))."""
    return float(1 / (1 + np.exp(-v)))


def three_node_capacity(delta: float) -> float:
    """Return the optimal x_12 = x_21 = sigma(2 + delta) of the penalised 3-node problem (reconstructed)."""
    return sigmoid(2 + delta)


def three_node_utility(delta: float) -> float:
    """Return the true utility 4 sigma(2) - 2 sigma(2 + delta) there; delta = 0 is the global optimum.

    At delta = 0 it is global: with prices a, b >= 0 on links 1-2 and 2-3 one direction earns at most
    ``sigma(2-a) - 2 sigma(1-b) + 2 sigma(-a-b)``, and sigma(-a-b) < sigma(1-b), so a = 0, b -> infinity is best.
    """
    return 4 * sigmoid(2) - 2 * sigmoid(2 + delta)


_LINKS = (  # node, node, time, cost; the same both ways
    (1, 2, 0.75, 1.7), (3, 4, 1.1, 2.6), (4, 8, 0.8, 3.2), (1, 3, 0.7, 2.7), (3, 5, 0.5, 1.7),
    (5, 6, 0.5, 1.9), (1, 9, 0.9, 2.9), (3, 9, 0.7, 2.5), (5, 7, 0.7, 3.0), (2, 3, 0.6, 2.1),
    (4, 5, 0.8, 2.8), (6, 7, 0.5, 2.7), (2, 4, 1.1, 3.0), (4, 6, 0.7, 2.4), (6, 8, 0.4, 2.8),
)  # fmt: skip
_T_EXT = """
0 1.6 .8 2 1.6 2.5 3 2.5 .8; 2 0 .9 1.2 1.5 2.5 2.7 2.4 1.8; 1.5 1.4 0 1.3 .9 2 1.6 2.3 .9
1.9 2 1.9 0 1.8 2 1.9 1.2 2; 3 1.5 2 2 0 1.5 1.1 1.8 1.7; 2.1 2.7 2.2 1 1.5 0 .9 .9 2.9
2.8 2.3 1.5 1.8 .9 .8 0 1.3 2.1; 2.8 2.2 2 1.1 1.5 .8 1.9 0 .3; 1 1.5 1.1 2.7 1.9 1.8 2.4 3 0
"""
_REVENUE = """
0 1 1 2 2 3 3 3 1; 1 0 1 1 2 2 3 2 2; 1 1 0 1 1 2 2 3 1; 2 1 1 0 1 1 2 1 3; 2 2 1 1 0 1 1 2 1
3 2 2 1 1 0 1 1 3; 3 3 2 2 1 1 0 2 3; 3 2 2 1 2 1 2 0 3; 1 2 1 2 2 3 3 3 0
"""
_DEMAND = """
0 9 26 19 13 12 13 8 11; 11 0 14 26 7 18 3 6 12; 30 19 0 30 24 8 15 12 5; 21 9 11 0 22 16 25 21 23
14 14 8 9 0 20 16 22 21; 26 1 22 24 13 0 16 14 12; 8 6 9 23 6 13 0 11 11; 9 2 14 20 18 16 11 0 4
8 7 11 22 27 17 8 12 0
"""


def nine_node() -> Network:
    """Return the 9-node network: published constants (15 two-way links)."""

    def table(text: str) -> np.ndarray:
        return np.array([row.split() for row in text.strip().replace("\n", ";").split(";")], float)

    t, c = np.full((9, 9), 1e4), np.full((9, 9), 10.0)
    links = []
    for i, j, time, cost in _LINKS:
        for a, b in ((i - 1, j - 1), (j - 1, i - 1)):
            t[a, b], c[a, b] = time, cost
            links.append((a, b))
    return Network(t, c, 2.5 * table(_REVENUE), table(_T_EXT), table(_DEMAND) / 10, np.array(sorted(links)))
