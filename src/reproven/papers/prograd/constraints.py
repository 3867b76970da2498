"""What may be asked of an edited network: each constraint makes its linear rows and measures itself by autograd.

`blocks` states the requirement as rows in the edit; `measure` runs the network as it is, differentiates it plainly, and
says what came out: the two share no code beyond the formula, so that a certificate checks the rows too.

Arguments named ``points`` are the (n, ...) inputs of the edit; a constraint takes all of them, or those in `index`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from reproven.papers.prograd.attribution import (
    gauss_legendre,
    grad_cam,
    input_gradients,
    integrated_gradients,
)
from reproven.papers.prograd.pattern import CHANNELWISE
from reproven.papers.prograd.rows import Block, band, inset, min_max, min_max_block
from reproven.papers.prograd.tail import OneHot, Tail

MakeTail = Callable[..., Tail]


@dataclass(frozen=True)
class Measured:
    """What a network does with one constraint.

    violation: (items,), by how much each item misses its bounds, negative inside them. point: (items,), which
    point an item belongs to.
    """

    violation: np.ndarray
    point: np.ndarray

    @property
    def satisfied(self) -> float:
        return float((self.violation <= 0).mean())


class Constraint(Protocol):
    """A requirement on a network at points."""

    def condition_points(self, points: Tensor) -> Tensor:
        """Return the inputs at which the activation condition must hold."""

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        """Return the rows. tail(points, at=...) gives the network around its edited layers at these points."""

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        """Return what the model does, by autograd."""


def _chosen(points: Tensor, index: Sequence[int] | None) -> tuple[Tensor, np.ndarray]:
    which = np.arange(len(points)) if index is None else np.asarray(index, dtype=int)
    return points[torch.as_tensor(which)], which


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy(force=True)


def _outside(got: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    got = np.where(np.isfinite(got), got, np.inf)  # what is no number is inside no bounds
    return np.maximum(low - got, got - high)


class AtPoints:
    """A constraint on all points, or on those in `index`, whose condition must hold at these points alone."""

    index: Sequence[int] | None

    def condition_points(self, points: Tensor) -> Tensor:
        return _chosen(points, self.index)[0]


@dataclass(frozen=True)
class JacobianPolytope(AtPoints):
    """``A vec(J) <= b`` with J = dN/dx of shape (outputs, inputs), row by row (Definition 1.1).

    a: (r, outputs * inputs). b: (r,), or (n, r) for each point its own. two_stage: G = D dW as variables.
    """

    a: np.ndarray
    b: np.ndarray
    index: Sequence[int] | None = None
    two_stage: bool = True

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        x, which = _chosen(points, self.index)
        found = []
        b = np.broadcast_to(np.asarray(self.b, dtype=float), (len(x), len(self.a)))
        for i, stages in enumerate(jacobian_stages(tail(x), self.two_stage)):
            if self.a.shape[1] != len(stages.now):
                raise ValueError(
                    f"polytope has {self.a.shape[1]} columns for a Jacobian of {len(stages.now)} entries"
                )
            t = sparse.csr_array(sparse.csr_array(self.a) @ stages.t)
            high = b[i] - self.a @ stages.now - margin
            low, zero = np.full(len(high), -np.inf), np.zeros(stages.a.shape[0])
            found.append(Block(stages.a, zero, low, high, f"Jacobian of point {which[i]}", t))
        return found

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        x, which = _chosen(points, self.index)
        j = _numpy(input_gradients(model, x)).reshape(len(x), -1)
        violation = np.where(np.isfinite(j @ self.a.T), j @ self.a.T, np.inf) - self.b
        return Measured(violation.ravel(), np.repeat(which, violation.shape[1]))


@dataclass(frozen=True)
class JacobianBox(AtPoints):
    """``lower <= dN_o/dx_j <= upper`` for all outputs and inputs.

    lower, upper: numbers or arrays that broadcast to (n, outputs, inputs).
    """

    lower: np.ndarray | float
    upper: np.ndarray | float
    index: Sequence[int] | None = None
    two_stage: bool = True

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        x, which = _chosen(points, self.index)
        view = tail(x)
        found = []
        for i, stages in enumerate(jacobian_stages(view, self.two_stage)):
            shape = (view.base.y.shape[1], x[0].numel())
            low, high = (
                np.broadcast_to(np.asarray(v, dtype=float), (len(x), *shape))[i].ravel()
                for v in (self.lower, self.upper)
            )
            label = f"Jacobian of point {which[i]}"
            low, high = inset(low, high, margin, label)
            zero = np.zeros(stages.a.shape[0])
            found.append(Block(stages.a, zero, low - stages.now, high - stages.now, label, stages.t))
        return found

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        x, which = _chosen(points, self.index)
        j = _numpy(input_gradients(model, x))
        violation = _outside(j, np.asarray(self.lower), np.asarray(self.upper)).reshape(len(x), -1)
        return Measured(violation.ravel(), np.repeat(which, violation.shape[1]))


@dataclass(frozen=True)
class Stages:
    """The Jacobian of one point: ``vec J = now + t (a delta)``."""

    a: sparse.csr_array
    t: sparse.csr_array
    now: np.ndarray


def jacobian_stages(view: Tail, two_stage: bool = True) -> list[Stages]:
    """Return the Jacobian of every point in the edit.

    Two stages for a single fully connected layer: dG = M dW, (outputs, width), then dJ = dG J_up. A row of dG has
    as many entries as the layer has outputs, one of dJ multiplied out has `width` times as many.
    """
    n, inputs = len(view.points), view.points[0].numel()
    eye = torch.eye(inputs, dtype=view.points.dtype, device=view.points.device)
    directions = eye.reshape(inputs, 1, *view.points.shape[1:]).expand(inputs, *view.points.shape)
    now, up = view.tangents(directions)  # (inputs, n, outputs), site -> (inputs, n, width, positions)
    outputs = now.shape[2]
    readers = view.output_readers(range(outputs))
    jacobian = now.permute(1, 2, 0)
    weights = [s for s in view.space.sites if s.weight]
    flat = len(weights) == 1 and up[weights[0].name].shape[3] == 1
    found = []
    for i in range(n):
        value = _numpy(jacobian[i]).ravel()
        if two_stage and flat:
            name, width = weights[0].name, weights[0].width
            eye_q = torch.eye(width, dtype=view.points.dtype, device=view.points.device)
            m = {k: v[:, i].repeat_interleave(width, 0) for k, v in readers.items()}
            u = {name: eye_q.repeat(outputs, 1)[..., None]}
            a = view.coefficients(m, u, biases=False)
            t = sparse.csr_array(sparse.kron(np.eye(outputs), _numpy(up[name][:, i, :, 0])))
            a = _without_zeros(a)
            found.append(Stages(a, t, value))
        else:
            m = {k: v[:, i].repeat_interleave(inputs, 0) for k, v in readers.items()}
            u = {k: v[:, i].repeat(outputs, 1, 1) for k, v in up.items()}
            a = _without_zeros(view.coefficients(m, u, biases=False))
            found.append(Stages(a, sparse.csr_array(sparse.eye_array(len(value))), value))
    return found


def _without_zeros(a: sparse.csr_array) -> sparse.csr_array:
    a.eliminate_zeros()
    return a


@dataclass(frozen=True)
class Directional(AtPoints):
    """``lower <= <dN_o/dx, d> <= upper``: saliency entries, Input x Gradient, any linear read-out of a gradient.

    directions: (d, n, ...), as the points (or the value at `at`). outputs: (n,), one output a point.
    lower, upper: broadcast to (d, n).
    """

    directions: Tensor
    outputs: Sequence[int]
    lower: np.ndarray | float
    upper: np.ndarray | float
    index: Sequence[int] | None = None
    name: str = "derivative"

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        x, which = _chosen(points, self.index)
        a, value = directional_rows(tail(x), self.directions.to(x), torch.as_tensor(list(self.outputs)))
        shape = (len(self.directions), len(x))
        low, high = (
            np.broadcast_to(np.asarray(v, dtype=float), shape).T.ravel() for v in (self.lower, self.upper)
        )
        order = np.arange(a.shape[0]).reshape(shape).T.ravel()  # point by point
        per = shape[0]
        return [
            band(
                a[order[i * per : (i + 1) * per]], value.T.ravel()[i * per : (i + 1) * per],
                low[i * per : (i + 1) * per], high[i * per : (i + 1) * per], margin, f"{self.name} of point {which[i]}",
            )
            for i in range(len(x))
        ]  # fmt: skip

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        x, which = _chosen(points, self.index)
        gradient = input_gradients(model, x, torch.as_tensor(list(self.outputs)))
        got = _numpy((self.directions.to(x) * gradient).flatten(2).sum(2))
        violation = _outside(got, np.asarray(self.lower), np.asarray(self.upper))
        return Measured(violation.T.ravel(), np.repeat(which, len(self.directions)))


def saliency(
    points: Tensor, outputs: Sequence[int], lower: np.ndarray | float, upper: np.ndarray | float
) -> Directional:
    """Return bounds on every entry of the gradient of one output a point; lower, upper: broadcast to (inputs, n)."""
    return Directional(_unit_directions(points), outputs, lower, upper, name="saliency")


def input_x_gradient(
    points: Tensor, outputs: Sequence[int], lower: np.ndarray | float, upper: np.ndarray | float
) -> Directional:
    """Return bounds on every ``x_j dN_o/dx_j``; lower, upper: broadcast to (inputs, n)."""
    return Directional(_unit_directions(points) * points, outputs, lower, upper, name="input x gradient")


def _unit_directions(points: Tensor) -> Tensor:
    eye = torch.eye(points[0].numel(), dtype=points.dtype, device=points.device)
    return eye.reshape(-1, 1, *points.shape[1:]).expand(-1, *points.shape).clone()


def directional_rows(view: Tail, directions: Tensor, outputs: Tensor) -> tuple[sparse.csr_array, np.ndarray]:
    """Return rows (d * n, variables) and values (d, n) of ``<dN_o/dx, d>``, one output a point."""
    count = len(directions)
    now, up = view.tangents(directions)
    reader = view.reader(outputs)
    value = now.gather(2, outputs.to(now.device)[None, :, None].expand(count, -1, 1))[..., 0]
    u = {k: v.flatten(0, 1) for k, v in up.items()}
    if isinstance(reader, OneHot):
        m: dict[str, Tensor] | OneHot = OneHot(reader.index.repeat(count))
    else:
        m = {k: v.repeat(count, 1, 1) for k, v in reader.items()}
    return view.coefficients(m, u, biases=False), _numpy(value)


@dataclass(frozen=True)
class OutputMargin(AtPoints):
    """``N_label - N_k >= margin`` for every other output k: the prediction itself, which a map does not fix."""

    labels: Sequence[int]
    margin: float = 0.0
    against: Sequence[int] | None = None
    index: Sequence[int] | None = None

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        x, which = _chosen(points, self.index)
        view = tail(x)
        found = []
        classes = list(range(view.base.y.shape[1])) if self.against is None else list(self.against)
        a, value = output_rows(view, classes + sorted(set(self.labels) - set(classes)))
        names = classes + sorted(set(self.labels) - set(classes))
        for i, label in enumerate(self.labels):
            others = [names.index(c) for c in classes if c != label]
            t = np.zeros((len(others), len(names)))
            t[np.arange(len(others)), others] = -1
            t[:, names.index(label)] += 1
            rows = a[i * len(names) : (i + 1) * len(names)]
            found.append(
                Block(
                    rows, value[i], np.full(len(others), self.margin + margin), np.full(len(others), np.inf),
                    f"answer of point {which[i]}", sparse.csr_array(t),
                )
            )  # fmt: skip
        return found

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        x, which = _chosen(points, self.index)
        with torch.no_grad():
            y = _numpy(model(x))
        keep = np.arange(y.shape[1]) if self.against is None else np.asarray(self.against)
        mine = y[np.arange(len(y)), list(self.labels)]
        short = self.margin - (mine[:, None] - y[:, keep])
        short[np.asarray(self.labels)[:, None] == keep[None]] = -np.inf
        return Measured(np.where(np.isnan(short), np.inf, short).max(1), which)


def output_rows(view: Tail, outputs: Sequence[int]) -> tuple[sparse.csr_array, np.ndarray]:
    """Return rows (n * outputs, variables), point by point, and values (n, outputs)."""
    n, count = len(view.points), len(outputs)
    u = {k: v.repeat_interleave(count, 0) for k, v in view.features().items()}
    value = _numpy(view.base.y[:, list(outputs)])
    if view.last:
        (site,) = view.space.sites
        edited = [i for i, o in enumerate(outputs) if o in site.outputs]
        index = torch.tensor([outputs[i] for i in edited]).repeat(n)
        places = np.concatenate([np.arange(n)[:, None] * count + np.array(edited, dtype=int)[None]]).ravel()
        some = view.coefficients(
            OneHot(index), {k: v[torch.as_tensor(places)] for k, v in u.items()}, biases=True
        )
        spread = sparse.csr_array(
            (np.ones(len(places)), (places, np.arange(len(places)))), shape=(n * count, len(places))
        )
        return sparse.csr_array(spread @ some), value
    readers = view.output_readers(list(outputs))
    m = {k: v.transpose(0, 1).flatten(0, 1) for k, v in readers.items()}
    return view.coefficients(m, u, biases=True), value


@dataclass(frozen=True)
class GradCAM(AtPoints):
    """``|mm(L') - target| <= epsilon`` for Grad-CAM, ``L_c = sum_k alpha_k z_k`` of a class without a last ReLU.

    classes: (n,). targets: (n, height, width), normalised to [0, 1]. at: where z is taken, e.g. ``"bn2.act:input"``
    (before the ReLU), ``"bn2"`` (behind it) or the convolution (before its batch normalisation): alpha is the mean
    gradient there, whatever lies behind. floor: the map's range must keep this share of what it is now.
    """

    classes: Sequence[int]
    targets: np.ndarray
    epsilon: float
    at: str
    floor: float = 0.1
    index: Sequence[int] | None = None

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        x, which = _chosen(points, self.index)
        a, value = grad_cam_rows(tail(x, at=self.at), torch.as_tensor(list(self.classes)))
        size = value.shape[1]
        return [
            _map_block(
                self, a[i * size : (i + 1) * size], value[i], target, margin, f"map of point {which[i]}"
            )
            for i, target in enumerate(self.targets)
        ]

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        x, which = _chosen(points, self.index)
        maps = _numpy(grad_cam(model, x, torch.as_tensor(list(self.classes)), self.at)).reshape(len(x), -1)
        return _measured_maps(list(maps), list(self.targets), self.epsilon, which)


def _map_block(
    asked: GradCAM | IntegratedGradients | FrozenMaps,
    a: sparse.csr_array,
    value: np.ndarray,
    target: np.ndarray,
    margin: float,
    label: str,
) -> Block:
    """Return the rows of one map, (entries,), whose range must keep the share `floor` of what it is now."""
    floor = asked.floor * float(np.ptp(value))
    flat = np.asarray(target, dtype=float).ravel()
    return min_max_block(a, value, flat, epsilon=asked.epsilon, margin=margin, floor=floor, label=label)


def _measured_maps(
    maps: Sequence[np.ndarray], targets: Sequence[np.ndarray], epsilon: float, which: np.ndarray
) -> Measured:
    """Compare normalised maps with their targets; one that is flat, or no number, satisfies nothing."""
    parts = []
    for map_, target in zip(maps, targets, strict=True):
        normal = bool(np.ptp(map_) > 0)
        off = np.abs(min_max(map_) - np.asarray(target).ravel()) if normal else np.full(len(map_), np.inf)
        parts.append(off - epsilon)
    return Measured(np.concatenate(parts), np.repeat(which, [len(p) for p in parts]))


def grad_cam_rows(view: Tail, classes: Tensor) -> tuple[sparse.csr_array, np.ndarray]:
    """Return rows (n * pixels, variables), point by point, and the maps (n, pixels).

    A pixel is a derivative: ``L(i, j) = <dN_c/dz, d_ij>`` with ``d_ij = z_kij / (H W)`` on all of channel k. Where all
    between z and the edited layer works channel by channel, one direction (1 / (H W) everywhere) gives the factor
    of every channel, and u'_ij,k = factor_k z_kij; otherwise there is one direction a pixel.
    """
    z = view.at_value()
    if z.dim() != 4:
        raise ValueError(
            f"a Grad-CAM map needs feature maps (n, channels, height, width), not {tuple(z.shape)}"
        )
    n, _, height, width = z.shape
    pixels = height * width
    if view.last and _channelwise(view):
        (site,) = view.space.sites
        u = channel_features(view)
        rows = u.transpose(1, 2).flatten(0, 1)[..., None]
        a = view.coefficients(OneHot(classes.repeat_interleave(pixels)), {site.name: rows}, biases=False)
        weight = view.model.get_parameter(f"{site.name}.weight").detach()
        return a, _numpy(torch.einsum("nkp,nk->np", u, weight[classes.to(weight.device)]))
    directions = z.flatten(2).permute(2, 0, 1)[..., None, None].expand(-1, -1, -1, height, width) / pixels
    a, value = directional_rows(view, directions, classes)
    order = np.arange(a.shape[0]).reshape(pixels, n).T.ravel()
    return a[order], value.T.copy()


def channel_features(view: Tail) -> Tensor:
    """Return u with ``L(i, j) = W_c u_ij``: (n, channels, pixels), for a head that works channel by channel."""
    if not (view.last and _channelwise(view)):
        raise ValueError(
            "between the map and the edited last layer something mixes channels: use GradCAM's rows"
        )
    z = view.at_value()
    _, up = view.tangents(torch.full_like(z, 1 / z[0, 0].numel())[None])
    (site,) = view.space.sites
    return up[site.name][0] * z.flatten(2)


def _channelwise(view: Tail) -> bool:
    """Tell whether each feature of the edited layer depends on one channel at `at` alone, in order."""
    z = view.at_value()
    (site,) = view.space.sites
    return z.shape[1] == site.width and bool(view.calls) and all(c in CHANNELWISE for c in view.calls)


@dataclass(frozen=True)
class IntegratedGradients:
    """``|mm(IG') - target| <= epsilon`` over the tokens (or entries) of each point.

    ``IG_j = sum over the entries of token j of d * int_0^1 dN_o/dx (x_0 + a d) da``, d = x - x_0, by Gauss-Legendre.
    outputs: (n,). baselines: as the points. targets: one array a point, normalised, over `tokens` (a list of
    positions a point; default: all). nodes: of the quadrature. Points may be (n, tokens, width) or (n, entries).
    """

    outputs: Sequence[int]
    baselines: Tensor
    targets: Sequence[np.ndarray]
    epsilon: float
    tokens: Sequence[Sequence[int]] | None = None
    nodes: int = 25
    floor: float = 0.1
    index: Sequence[int] | None = None

    def condition_points(self, points: Tensor) -> Tensor:
        x, _ = _chosen(points, self.index)
        alpha, _weights = gauss_legendre(self.nodes)
        steps = torch.as_tensor(alpha).to(x).reshape(1, -1, *[1] * (x.dim() - 1))
        base = self.baselines.to(x)
        return (base[:, None] + steps * (x - base)[:, None]).flatten(0, 1)

    def _tokens(self, i: int, x: Tensor) -> list[int]:
        return list(range(x.shape[1])) if self.tokens is None else list(self.tokens[i])

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        x, which = _chosen(points, self.index)
        found = []
        for i in range(len(x)):
            a, value = integrated_rows(
                tail, x[i], self.baselines[i].to(x), int(self.outputs[i]), self._tokens(i, x), self.nodes
            )
            found.append(
                _map_block(self, a, value, self.targets[i], margin, f"attributions of point {which[i]}")
            )
        return found

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        x, which = _chosen(points, self.index)
        maps = [
            _numpy(
                integrated_gradients(model, x[i], self.baselines[i].to(x), int(self.outputs[i]), self.nodes)
            )[self._tokens(i, x)]
            for i in range(len(x))
        ]
        return _measured_maps(maps, self.targets, self.epsilon, which)


def integrated_rows(
    tail: MakeTail, x: Tensor, baseline: Tensor, output: int, tokens: Sequence[int], nodes: int
) -> tuple[sparse.csr_array, np.ndarray]:
    """Return rows (tokens, variables) and attributions of one point: one forward-mode product a token and node.

    All tokens go through in one batched pass over the primal of the path.
    """
    alpha, weights = gauss_legendre(nodes)
    step = x - baseline
    path = baseline[None] + torch.as_tensor(alpha).to(x).reshape(-1, *[1] * x.dim()) * step[None]
    directions = x.new_zeros((len(tokens), len(path), *x.shape))
    for row, token in enumerate(tokens):
        directions[row, :, token] = step[token]
    view = tail(path)
    a, value = directional_rows(view, directions, torch.full((len(path),), output))
    quadrature = sparse.csr_array(sparse.kron(np.eye(len(tokens)), weights[None]))
    return sparse.csr_array(quadrature @ a), value @ weights


@dataclass(frozen=True)
class LinearOperator(AtPoints):
    """``lower <= L N <= upper`` for a linear operator L in the input, by an edit of the last layer.

    ``L N = W L h + (L 1) b``: monotonicity, convexity or the residual of a differential equation at points.
    apply: (function, x (n, ...)) -> (n, k), the operator on a function x -> (n, k); it must be linear in the
    function and use torch.func. one: the operator applied to the constant 1, (n,). lower, upper: (n, outputs).
    """

    apply: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
    lower: np.ndarray | float
    upper: np.ndarray | float
    one: np.ndarray | float = 0.0
    index: Sequence[int] | None = None
    name: str = "operator"

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        x, which = _chosen(points, self.index)
        view = tail(x)
        if not view.last:
            raise ValueError(
                "a linear operator constrains an edit of the last layer alone: only there is it linear"
            )
        (site,) = view.space.sites
        u = self.apply(lambda v: view.run(v).inputs[site.name], x)
        value = _numpy(self.apply(lambda v: view.run(v).y, x))
        outputs = range(value.shape[1])
        one = np.broadcast_to(np.asarray(self.one, dtype=float), (len(x),))
        rows = view.coefficients(
            OneHot(torch.arange(len(outputs)).repeat(len(x))),
            {site.name: u.repeat_interleave(len(outputs), 0)[..., None]},
            biases=True,
        ).toarray()
        if site.bias:
            rows[:, len(site.outputs) * site.width :] *= np.repeat(one, len(outputs))[:, None]
        a = sparse.csr_array(rows)
        low, high = (np.broadcast_to(v, value.shape) for v in self._bounds())
        per = len(outputs)
        return [
            band(
                a[i * per : (i + 1) * per],
                value[i],
                low[i],
                high[i],
                margin,
                f"{self.name} at point {which[i]}",
            )
            for i in range(len(x))
        ]

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        x, which = _chosen(points, self.index)
        value = _numpy(self.apply(model, x))
        violation = _outside(value, *self._bounds())
        return Measured(violation.ravel(), np.repeat(which, violation.shape[1]))

    def _bounds(self) -> list[np.ndarray]:
        both = [np.asarray(v, dtype=float) for v in (self.lower, self.upper)]
        return [v[:, None] if v.ndim == 1 else v for v in both]


@dataclass(frozen=True)
class FrozenMaps:
    """``|mm(L') - target| <= epsilon`` for maps ``L_i = W_c v_i`` whose features v were computed beforehand.

    For an edit of a last layer, the body being frozen: Grad-CAM and Integrated Gradients are such maps. The model is
    the head alone and the points are its inputs. features: one (entries, width) a point. classes: (n,).
    targets: one (entries,) a point, normalised. `measure` sees the head alone: measure the whole network too.
    """

    features: Sequence[np.ndarray]
    classes: Sequence[int]
    targets: Sequence[np.ndarray]
    epsilon: float
    floor: float = 0.1

    def condition_points(self, points: Tensor) -> Tensor:
        return points

    def blocks(self, tail: MakeTail, points: Tensor, margin: float) -> list[Block]:
        view = tail(points)
        if not view.last:
            raise ValueError("frozen features belong to an edit of the last layer alone")
        (site,) = view.space.sites
        weight = _numpy(view.model.get_parameter(f"{site.name}.weight"))
        found = []
        for i, (v, c) in enumerate(zip(self.features, self.classes)):
            u = {site.name: torch.as_tensor(v).to(points)[..., None]}
            a = view.coefficients(OneHot(torch.full((len(v),), int(c))), u, biases=False)
            value = np.asarray(v, dtype=float) @ weight[c]
            found.append(_map_block(self, a, value, self.targets[i], margin, f"map of point {i}"))
        return found

    def measure(self, model: nn.Module, points: Tensor) -> Measured:
        weight = next(p for n, p in model.named_parameters() if n.endswith("weight"))
        maps = [
            _numpy(torch.as_tensor(v).to(weight) @ weight[c]) for v, c in zip(self.features, self.classes)
        ]
        return _measured_maps(maps, self.targets, self.epsilon, np.arange(len(maps)))


def derivative(order: int = 1) -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]:
    """Return the operator d^order/dx^order of functions of one variable, x (n, 1), by nested forward mode."""

    def apply(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        current = function
        for _ in range(order):
            current = _differentiated(current)
        return current(x)

    return apply


def _differentiated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]


def monotone(lower: float = 0.0, upper: float = np.inf) -> LinearOperator:
    """Return bounds on N'(x) at the points, for functions of one variable."""
    return LinearOperator(derivative(1), lower, upper, name="slope")


def convex() -> LinearOperator:
    """Return N''(x) >= 0 at the points, for functions of one variable."""
    return LinearOperator(derivative(2), 0.0, np.inf, name="curvature")
