"""Bilevel problems with a linearly constrained lower level: what every method of this package is handed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from reproven.papers.sflcb.exact import LowerSolution

Array = Any  # a NumPy array or a torch tensor; the two are never mixed in one problem
Pair = tuple[Array, Array]


class BilevelProblem:
    """Minimise Phi(x) = f(x, y*(x)) over x in X, y*(x) = argmin {g(x, y): h(x, y) <= 0, y in Y0}.

    ``h(x, y) = B x + A y - b``; rows marked in `equality` mean ``h = 0``. X and Y0 are boxes. Arrays are
    row vectors with any leading batch axes, ``x`` is (..., dx) and ``y`` (..., dy), and a matrix may carry
    the same leading axes, so that a whole grid of runs is one call.

    Args:
        f, g: upper and lower objective, ``(x, y) -> (...)``.
        a, b_x, rhs: A (..., dh, dy), B (..., dh, dx) and b, which broadcasts against (..., dh).
        grad_f, grad_g: ``(x, y) -> (grad_x, grad_y)``; None differentiates f or g with torch.
        equality: boolean (dh,), rows with ``h = 0``; None means none.
        x_box, y_box: ``(low, high)``, scalars or arrays; None means unbounded.
        mu_g, l_f1, l_g1: modulus of g in y and Lipschitz constants of the gradients of f and g, where known.

    Raises:
        ValueError: when the shapes of A, B, b and `equality` do not agree, or an entry is not finite.

    Source: problem (1) and Assumptions 3.1-3.3 of the paper; equality rows and boxes reconstructed.
    """

    def __init__(
        self,
        f: Callable[[Array, Array], Array],
        g: Callable[[Array, Array], Array],
        a: Array,
        b_x: Array,
        rhs: Array,
        *,
        grad_f: Callable[[Array, Array], Pair] | None = None,
        grad_g: Callable[[Array, Array], Pair] | None = None,
        equality: np.ndarray | None = None,
        x_box: Pair | None = None,
        y_box: Pair | None = None,
        mu_g: float | None = None,
        l_f1: float | None = None,
        l_g1: float | None = None,
    ) -> None:
        if a.shape[-2] != b_x.shape[-2]:
            raise ValueError(
                f"A has {a.shape[-2]} rows and B has {b_x.shape[-2]}: both need one row a constraint"
            )
        if rhs.shape[-1] != a.shape[-2]:
            raise ValueError(f"b has {rhs.shape[-1]} entries for {a.shape[-2]} constraint rows of A")
        if equality is not None and np.shape(equality) != (a.shape[-2],):
            raise ValueError(f"equality has shape {np.shape(equality)}, needs ({a.shape[-2]},)")
        for name, part in (("A", a), ("B", b_x), ("b", rhs)):
            check_finite(name, part)
        self.f, self.g = f, g
        self.grad_f = grad_f if grad_f is not None else _differentiate(f)
        self.grad_g = grad_g if grad_g is not None else _differentiate(g)
        self.a, self.b_x, self.rhs = a, b_x, rhs
        self.equality = equality
        self.x_box, self.y_box = x_box, y_box
        self.mu_g, self.l_f1, self.l_g1 = mu_g, l_f1, l_g1
        self.members: list[Any] | None = None
        # Applied to multipliers after their step by SFLCB; only the published transport code needs one.
        self.dual_map: Callable[[Array], Array] | None = None
        self._slack_low = None if equality is None else like(np.where(equality, 0.0, -np.inf), rhs)

    @property
    def dx(self) -> int:
        """Number of upper variables."""
        return int(self.b_x.shape[-1])

    @property
    def dy(self) -> int:
        """Number of lower variables."""
        return int(self.a.shape[-1])

    @property
    def dh(self) -> int:
        """Number of constraint rows."""
        return int(self.a.shape[-2])

    def residual(self, x: Array, y: Array) -> Array:
        """Return h(x, y) = B x + A y - b, shape (..., dh)."""
        return x @ self.b_x.swapaxes(-1, -2) + y @ self.a.swapaxes(-1, -2) - self.rhs

    def adjoint_x(self, pi: Array) -> Array:
        """Return B^T pi, shape (..., dx)."""
        return pi @ self.b_x

    def adjoint_y(self, pi: Array) -> Array:
        """Return A^T pi, shape (..., dy)."""
        return pi @ self.a

    def gradients(self, x: Array, y: Array, z: Array, delta: Array) -> tuple[Array, Array, Array]:
        """Return the gradients of phi = delta f(x, y) + g(x, y) - g(x, z) in x and y, and grad_y g(x, z).

        One evaluation of grad f and two of grad g; problems with structure override it.
        """
        fx, fy = self.grad_f(x, y)
        gx, gy = self.grad_g(x, y)
        gxz, gz = self.grad_g(x, z)
        return delta * fx + gx - gxz, delta * fy + gy, gz

    def hessians_g(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return g_yy (dy, dy) and g_yx (dy, dx) at one NumPy point, by central differences of grad_g.

        Exact to rounding for a quadratic g; problems that know their Hessians override it.
        """
        g_yy = differences(lambda v: self.grad_g(_spread(x, v), v)[1], y)
        return (g_yy + g_yy.T) / 2, differences(lambda v: self.grad_g(v, _spread(y, v))[1], x)

    def hessian_f(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return f_yy (dy, dy) at one NumPy point, by central differences of grad_f."""
        f_yy = differences(lambda v: self.grad_f(_spread(x, v), v)[1], y)
        return (f_yy + f_yy.T) / 2

    def lower(self, x: np.ndarray) -> LowerSolution:
        """Return the exact lower-level response at one x (dx,); raises Infeasible where Y(x) is empty."""
        from reproven.papers.sflcb.exact import lower_level

        return lower_level(self, x)

    def penalised(self, x: np.ndarray, delta: float) -> LowerSolution:
        """Return y*_delta(x) = argmin delta f + g over Y(x), with its multipliers."""
        from reproven.papers.sflcb.exact import lower_level

        return lower_level(self, x, delta=delta)

    def phi(self, x: np.ndarray) -> float:
        """Return Phi(x) = f(x, y*(x)) at the exact lower-level response."""
        return float(self.f(x, self.lower(x).y))

    def numpy(self) -> BilevelProblem:
        """Return a problem of torch functions as one of NumPy arrays, for methods with exact solves inside."""
        if isinstance(self.a, np.ndarray):
            return self
        tensor = self.a.new_tensor

        def plain(function: Callable[[Array, Array], Any]) -> Callable[[np.ndarray, np.ndarray], Any]:
            def call(x: np.ndarray, y: np.ndarray) -> Any:
                answer = function(tensor(x), tensor(y))
                return tuple(map(host, answer)) if isinstance(answer, tuple) else host(answer)

            return call

        return BilevelProblem(
            plain(self.f), plain(self.g), host(self.a), host(self.b_x), host(self.rhs),
            grad_f=plain(self.grad_f), grad_g=plain(self.grad_g), equality=self.equality, x_box=_host_box(self.x_box),
            y_box=_host_box(self.y_box), mu_g=self.mu_g, l_f1=self.l_f1, l_g1=self.l_g1,
        )  # fmt: skip

    def project_x(self, x: Array) -> Array:
        """Return the nearest point of X."""
        return x if self.x_box is None else x.clip(*self.x_box)

    def project_y(self, y: Array) -> Array:
        """Return the nearest point of Y0, the box of the lower variables."""
        return y if self.y_box is None else y.clip(*self.y_box)

    def project_slack(self, alpha: Array) -> Array:
        """Return min(alpha, 0), and 0 on equality rows, which have no slack."""
        return (
            alpha.clip(max=0.0)
            if self._slack_low is None
            else alpha.clip(self._slack_low, self._slack_low * 0)
        )

    def project_dual(self, u: Array) -> Array:
        """Return the multipliers max(u, 0), left free on equality rows (for methods without slacks)."""
        if self.equality is None:
            return u.clip(min=0.0)
        return u.clip(like(np.where(self.equality, -np.inf, 0.0), u), None)

    def each(self, *arrays: Array) -> Iterator[tuple[tuple[int, ...], Any, tuple[Array, ...]]]:
        """Yield (index, problem, rows) for every run of a batch: `members[s]` for arrays (S, P, d)."""
        for index in np.ndindex(*arrays[0].shape[:-1]):
            yield (
                index,
                self if self.members is None else self.members[index[0]],
                tuple(a[index] for a in arrays),
            )

    def violation(self, x: Array, y: Array) -> Array:
        """Return the largest violation of h(x, y) <= 0 (= 0 on equality rows), shape (...)."""
        h = self.residual(x, y)
        signed = h if self.equality is None else where(self.equality, abs(h), h)
        return (
            signed.clip(min=0.0).max(-1) if isinstance(signed, np.ndarray) else signed.clip(min=0.0).amax(-1)
        )


def host(values: Any) -> np.ndarray:
    """Return a float, NumPy array or torch tensor of any device as a NumPy array."""
    return values.detach().to("cpu").numpy() if hasattr(values, "detach") else np.asarray(values)


def _host_box(box: Pair | None) -> Pair | None:
    return None if box is None else (host(box[0]), host(box[1]))


def check_finite(name: str, values: Any) -> None:
    """Raise ValueError naming the first entry of `values` that is NaN or infinite."""
    array = host(values)
    bad = ~np.isfinite(array)
    if bad.any():
        place = tuple(int(k) for k in np.argwhere(bad)[0])
        raise ValueError(f"{name}{list(place)} is {array[place]}: replace entries that are not finite")


def _spread(point: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.broadcast_to(point, (*other.shape[:-1], len(point)))


def differences(gradient: Callable[[np.ndarray], np.ndarray], point: np.ndarray) -> np.ndarray:
    """Return the Jacobian (n, m) of `gradient` (..., m) -> (..., n) at `point` (m,) by central differences."""
    # The cube root of the rounding unit balances truncation against cancellation.
    width = 6e-6 * (1 + np.abs(point))
    moves = np.diag(width)
    change = gradient(point + moves) - gradient(point - moves)
    return (change / (2 * width[:, None])).T


def like(values: np.ndarray, other: Array) -> Array:
    """Return NumPy `values` as an array of the library, precision and device of `other`."""
    if isinstance(other, np.ndarray):
        return values.astype(other.dtype) if values.dtype.kind == "f" else values
    return other.new_tensor(values) if values.dtype.kind == "f" else other.new_tensor(values).bool()


def where(mask: np.ndarray, yes: Array, no: Array) -> Array:
    """Return `yes` where `mask` and `no` elsewhere, in the library of `yes`."""
    if isinstance(yes, np.ndarray):
        return np.where(mask, yes, no)
    import torch

    return torch.where(torch.as_tensor(mask, device=yes.device), yes, no)


def _differentiate(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Pair]:
    """Return ``(x, y) -> (grad_x, grad_y)`` of `function` by reverse differentiation with torch."""

    def gradient(x: Array, y: Array) -> Pair:
        import torch

        if not isinstance(x, torch.Tensor):
            raise ValueError("give grad_f and grad_g, or torch tensors: NumPy arrays are not differentiated")
        with torch.enable_grad():
            x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
            value = function(x, y).sum()
            # A constant of one argument has no graph towards it: its gradient is zero.
            grads = torch.autograd.grad(value, (x, y), allow_unused=True)
        gx, gy = (torch.zeros_like(v) if d is None else d for v, d in zip((x, y), grads))
        return gx, gy

    return gradient


def check_curvature(
    problem: BilevelProblem, x: Array, y: Array, generator: np.random.Generator, *, pairs: int = 16
) -> float:
    """Return the smallest secant curvature of g(x, .) over random pairs around y, and fail if it is not > 0.

    ``min <grad_y g(x, y1) - grad_y g(x, y2), y1 - y2> / |y1 - y2|^2``, an upper bound on mu_g.

    Raises:
        ValueError: when it is not positive: the lower level is not strongly convex and no theorem applies.

    Source: Assumption 3.3; the check is reconstructed.
    """
    worst = np.inf
    for _ in range(pairs):
        y1 = problem.project_y(y + like(generator.standard_normal(tuple(y.shape)), y))
        y2 = problem.project_y(y + like(generator.standard_normal(tuple(y.shape)), y))
        difference = y1 - y2
        change = problem.grad_g(x, y1)[1] - problem.grad_g(x, y2)[1]
        secant = (change * difference).sum(-1) / (difference * difference).sum(-1)
        worst = min(worst, float(secant.min()))
    if not worst > 0:
        raise ValueError(
            f"g is not strongly convex in y: smallest curvature {worst:.3g} over {pairs} random pairs; "
            "add a strongly convex term or use a method for merely convex lower levels"
        )
    return worst
