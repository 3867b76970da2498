"""SVM hyper-parameters: each training point has its own cap c_i on its slack, chosen on validation data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reproven.papers.sflcb.exact import ConvexQP, LowerSolution
from reproven.papers.sflcb.problem import Array, BilevelProblem


@dataclass(frozen=True)
class Split:
    """Signed feature rows l_i (z_i, 1) of training, validation and test points, shapes (n, features + 1)."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


class SVM(BilevelProblem):
    """``min_{w, b} |w|^2/2 + mu b^2/2`` subject to ``1 - c_i - l_i (z_i^T w + b) <= 0``; x = c, y = (w, b).

    Upper level, ``loss="exp"``: ``sum_val exp(1 - l (z^T w + b)) + |c|^2/2`` (the published one, sums);
    ``loss="logistic"``: ``mean_val log(1 + exp(-l (z^T w + b))) + reg/(2n) |c|^2`` (well posed: Lipschitz).
    With a leading axis of S splits (`stack`) x is (S, P, n).
    Source: section 6.2 and Appendix F; the logistic upper level is reconstructed.
    """

    def __init__(self, split: Split, *, mu: float = 0.01, loss: str = "exp", reg: float = 0.05) -> None:
        if loss not in ("exp", "logistic"):
            raise ValueError(f"loss {loss!r} is not 'exp' or 'logistic'")
        self.split, self.mu, self.loss = split, mu, loss
        n, d = split.train.shape[-2:]
        self.weight = 1.0 if loss == "exp" else reg / n
        self.diagonal = np.r_[np.ones(d - 1), mu]
        rhs = np.full((n,), -1.0)
        super().__init__(
            self._f, self._g, -split.train, np.broadcast_to(-np.eye(n), (*split.train.shape[:-2], n, n)), rhs,
            grad_f=self._grad_f, grad_g=self._grad_g,
        )  # fmt: skip

    def _f(self, x: Array, y: Array) -> Array:
        margin = y @ self.split.valid.swapaxes(-1, -2)
        regular = self.weight / 2 * (x * x).sum(-1)
        if self.loss == "exp":
            return np.exp(1 - margin).sum(-1) + regular
        return np.logaddexp(0, -margin).mean(-1) + regular

    def _g(self, x: Array, y: Array) -> Array:
        return 0.5 * (self.diagonal * y * y).sum(-1)

    def _grad_f(self, x: Array, y: Array) -> tuple[Array, Array]:
        valid = self.split.valid
        margin = y @ valid.swapaxes(-1, -2)
        # d/dm of exp(1 - m), or of the mean of log(1 + exp(-m)), without the sign.
        slope = np.exp(1 - margin) if self.loss == "exp" else _sigmoid(-margin) / valid.shape[-2]
        return self.weight * x, -(slope @ valid)

    def _grad_g(self, x: Array, y: Array) -> tuple[Array, Array]:
        return np.zeros_like(x), self.diagonal * y

    def gradients(self, x: Array, y: Array, z: Array, delta: Array) -> tuple[Array, Array, Array]:
        """As in the base class; g does not depend on x."""
        f_x, f_y = self._grad_f(x, y)
        return delta * f_x, delta * f_y + self.diagonal * y, self.diagonal * z

    # B is minus the identity: no product with it is needed.
    def residual(self, x: Array, y: Array) -> Array:
        """Return 1 - c - l (z^T w + b)."""
        return 1 - x - y @ self.split.train.swapaxes(-1, -2)

    def adjoint_x(self, pi: Array) -> Array:
        """Return -pi."""
        return -pi

    def hessians_g(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return g_yy and g_yx."""
        return np.diag(self.diagonal), np.zeros((self.dy, self.dx))

    def lower(self, x: np.ndarray) -> LowerSolution:
        """Return the exact lower-level response at c (n,); raises Infeasible where Y(c) is empty."""
        if not hasattr(self, "_qp"):
            self._qp = ConvexQP(np.diag(self.diagonal), self.a)
        return self._qp.solve(np.zeros(self.dy), self.rhs + x)

    def repair(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return c raised just enough that y is feasible: max(c, 1 - l (z^T w + b))."""
        return np.maximum(x, x + self.residual(x, y))

    def project_joint(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest (c, w, b) that satisfies the constraints, by Newton's method on (w, b) alone.

        c = max(c_0, 1 - l (z^T w + b)) is optimal given (w, b), which leaves a piecewise quadratic.
        """
        train, w = self.split.train, y.copy()
        for _ in range(100):
            excess = 1 - x - train @ w
            gradient = w - y - np.maximum(excess, 0) @ train
            if np.abs(gradient).max() < 1e-12 * (1 + np.abs(w).max()):
                break
            rows = train[excess > 0]
            step = np.linalg.solve(np.eye(len(w)) + rows.T @ rows, -gradient)
            length = 1.0
            now = ((w - y) ** 2).sum() + (np.maximum(excess, 0) ** 2).sum()
            while length > 1e-12:
                trial = w + length * step
                value = ((trial - y) ** 2).sum() + (np.maximum(1 - x - train @ trial, 0) ** 2).sum()
                if value <= now + 1e-4 * length * 2 * (gradient @ step):
                    break
                length /= 2
            else:
                break
            w = trial
        return np.maximum(x, 1 - train @ w), w

    def phi(self, x: np.ndarray) -> float:
        """Return Phi(c), with the exact lower level."""
        return float(self._f(x, self.lower(x).y))

    def accuracy(self, y: Array) -> Array:
        """Return the test accuracy of (w, b), shape (...)."""
        return (y @ self.split.test.swapaxes(-1, -2) > 0).mean(-1)

    def relaxation(self) -> tuple[float, np.ndarray]:
        """Return the high-point bound ``min_{c, w, b} f`` subject to the constraints, and its c.

        c_i = max(0, 1 - l_i (z_i^T w + b)) is optimal, which leaves a smooth convex function of (w, b),
        minimised by Newton's method. It bounds the bilevel optimum from below, and is it where the exact
        response at its c attains it.
        """
        train, valid = self.split.train, self.split.valid
        y = np.zeros(self.dy)

        def value(y: np.ndarray) -> float:
            return float(self._f(np.maximum(1 - train @ y, 0), y))

        for _ in range(200):
            c = np.maximum(1 - train @ y, 0)
            gradient = self._grad_f(c, y)[1] - self.weight * (c @ train)
            margin = valid @ y
            if self.loss == "exp":
                curvature = np.exp(1 - margin)
            else:
                curvature = np.exp(-np.logaddexp(0, margin) - np.logaddexp(0, -margin)) / len(valid)
            kept = train[c > 0]
            hessian = (valid.T * curvature) @ valid + self.weight * kept.T @ kept
            # The small ridge only shapes the direction; the line search keeps the objective exact.
            step = np.linalg.solve(hessian + 1e-10 * np.trace(hessian) / self.dy * np.eye(self.dy), -gradient)
            now, length = value(y), 1.0
            while value(y + length * step) > now + 1e-4 * length * (gradient @ step) and length > 1e-10:
                length /= 2
            if length <= 1e-10 or -(gradient @ step) < 1e-13 * max(1.0, now):
                break
            y = y + length * step
        return value(y), np.maximum(1 - train @ y, 0)


def _sigmoid(v: Array) -> Array:
    return np.exp(-np.logaddexp(0, -v))


def stack(splits: Sequence[Split], **keywords) -> SVM:
    """Return the S splits as one problem; x is then (S, P, n)."""
    batch = SVM(
        Split(*(np.stack([getattr(s, k) for s in splits]) for k in ("train", "valid", "test"))), **keywords
    )
    batch.members = [SVM(s, **keywords) for s in splits]
    return batch


def quadratic_features(features: np.ndarray) -> np.ndarray:
    """Return (n, 1 + 2d + d(d-1)/2): constant, linear, squares and products of features (n, d) scaled to [-1, 1].

    Source: published SVM code, described in the paper's Appendix F.
    """
    low, high = features.min(0), features.max(0)
    if np.any(high == low):
        raise ValueError(
            f"feature {int(np.argmax(high == low))} is constant: drop it before scaling to [-1, 1]"
        )
    z = 2 * (features - low) / (high - low) - 1
    i, j = np.triu_indices(z.shape[1], 1)
    return np.hstack([np.ones((len(z), 1)), z, z * z, z[:, i] * z[:, j]])


def split_rows(
    features: np.ndarray, labels: np.ndarray, sizes: tuple[int, int], generator: np.random.Generator
) -> Split:
    """Return a random split of (n, d) features and (n,) labels in {-1, 1} into train, valid and the rest.

    Each split shuffles a fresh index: the published loader shuffles in place, so its seeds depend on one another.
    """
    if sum(sizes) >= len(labels):
        raise ValueError(f"{len(labels)} rows are too few for {sizes[0]} + {sizes[1]} and a test set")
    if set(np.unique(labels)) != {-1, 1}:
        raise ValueError(f"labels {sorted(set(labels.tolist()))[:4]} must be -1 and 1, both present")
    order = generator.permutation(len(labels))
    rows = labels[order, None] * np.hstack([features[order], np.ones((len(labels), 1))])
    first, second = sizes[0], sizes[0] + sizes[1]
    return Split(rows[:first], rows[first:second], rows[second:])
