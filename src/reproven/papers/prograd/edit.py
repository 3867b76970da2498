"""ProGrad: change the weights of one layer as little as possible so that gradients at points obey linear bounds.

Tao and Thakur, Provable Gradient Editing of Deep Neural Networks, NeurIPS 2025: Definition 1.1 (the problem),
3.3 (conditional output), 4.2 and 4.4 (conditional gradient), Theorems 4.3 and 4.5 (soundness), B.1 (frozen prefix).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from reproven.papers.prograd.certify import Certificate, certify
from reproven.papers.prograd.constraints import Constraint, output_rows
from reproven.papers.prograd.infeasible import Conflict, conflict, relax
from reproven.papers.prograd.program import Preserve, Solution, solve
from reproven.papers.prograd.rows import Block, drop_settled, total_rows
from reproven.papers.prograd.tail import Space, Tail, check_model, downstream, edit_space, float64_copy


@dataclass(frozen=True)
class Keep:
    """Outputs to preserve: ``weight * mean |change of output|`` on `points` joins the objective.

    outputs: which of them (default: all).
    """

    points: Tensor
    weight: float = 1.0
    outputs: Sequence[int] | None = None


@dataclass(frozen=True)
class Edit:
    """What an edit came to.

    status: ``edited``; ``infeasible``, ``time_limit``, ``failed`` or ``uncertified`` with the model returned as it was.
    model: the edited copy, or the caller's own model. delta: name of parameter -> change of the edited rows.
    certificates: what the network does, by autograd, in each precision. conflict: why nothing fits.
    margin: with which the rows were drawn in. reason: one line. requirements, conditions: numbers of rows.
    """

    status: str
    model: nn.Module
    delta: dict[str, np.ndarray]
    solution: Solution | None
    certificates: list[Certificate]
    margin: float
    requirements: int
    conditions: int
    space: Space
    conflict: Conflict | None = None
    reason: str = ""
    blocks: list[Block] = field(default_factory=list, repr=False)
    seconds: float = 0.0

    @property
    def edited(self) -> bool:
        return self.status == "edited"


@dataclass(frozen=True)
class Rows:
    """All rows of an edit before it is solved: of the constraints, and of the activation condition."""

    constraints: list[Block]
    conditions: list[Block]

    @property
    def all(self) -> list[Block]:
        return [*self.constraints, *self.conditions]


def edit_gradients(
    model: nn.Module,
    layer: str | Sequence[str],
    points: Tensor,
    constraints: Sequence[Constraint],
    *,
    size: str = "l1",
    box: float = 10.0,
    margin: float = 1e-6,
    bias: bool = True,
    later_biases: bool = True,
    outputs: Sequence[int] | None = None,
    keep: Keep | None = None,
    reference: nn.Module | None = None,
    pin: bool = False,
    precisions: Sequence[str] = ("float64",),
    certifiers: Sequence[Callable[[nn.Module], Certificate]] = (),
    doublings: int = 4,
    time_limit: float = 600.0,
    explain: bool = True,
    dtype: torch.dtype = torch.float64,
    decouple: bool = True,
) -> Edit:
    """Return the model with the smallest change of `layer` for which every constraint holds at its points.

        min |theta' - theta|  s.t.  phi_x(theta') and A vec(dN(x; theta')/dx) <= b    for all points x

    The model must be in evaluation mode and return (n, outputs). It is never changed: the edit is a copy, and any
    status but ``edited`` gives the caller's own model back. What is proved is checked again on the copy by autograd;
    where rounding breaks it in one of `precisions`, or for one of `certifiers`, the margin is doubled and the program
    solved again.

    Args:
        layer: name of a Linear or Conv2d, or several of which none lies behind another.
        points: (n, ...), inputs of the model.
        constraints: see `constraints`; at least one.
        size: what is minimised, see `program`. box: largest change of a weight, > 0.
        margin: > 0; how far inside their bounds pre-activations and requirements stay.
        bias, later_biases: whether biases of the layer, and of layers behind it, vary too.
        outputs: rows of the layer that vary (default: all).
        keep: outputs to preserve on other inputs.
        reference: a network of the same structure whose activation pattern is taken (default: the model's own).
        pin: hold the layer's values at every point, so that anything differentiable may lie behind it.
        precisions: in which the certificate must hold: float64, float32, bfloat16.
        certifiers: further certificates of the edited copy that must hold, such as that of a whole network in its own
            precision of which `model` is the tail: its features carry rounding that no certificate of the tail sees.
        doublings: how often the margin is doubled before giving up.
        explain: on infeasibility, look for the relaxation and the conflicting requirements.
        dtype: of all analysis.
    Raises:
        ValueError: training mode, weights that are not finite, tied or unknown layers, edited layers in series, a
            function behind the layer that is not piecewise linear, contradictory bounds; one line with the remedy.
    """
    begin = time.perf_counter()
    layers = [layer] if isinstance(layer, str) else list(layer)
    work, x, space = prepare(
        model, layers, points, bias=bias, later_biases=later_biases, outputs=outputs, dtype=dtype, pin=pin
    )
    if not constraints:
        raise ValueError("give at least one constraint")
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(
            f"margin {margin!r} must be a positive number: at the edge of a piece nothing is proved"
        )
    ref = None if reference is None else float64_copy(reference, dtype)
    preserve = None if keep is None else preserved(work, space, keep)
    last: Edit | None = None
    for attempt in range(doublings + 1):
        tau = margin * 2**attempt
        rows = gather_rows(work, space, x, constraints, tau, reference=ref, pin=pin)
        found = solve(
            rows.all,
            space.size,
            size=size,
            box=box,
            preserve=preserve,
            time_limit=time_limit,
            decouple=decouple,
        )
        counts: dict[str, Any] = {
            "requirements": total_rows(rows.constraints),
            "conditions": total_rows(rows.conditions),
        }
        if found.status != "optimal":
            why = None
            if found.status == "infeasible" and explain and last is None:
                why = conflict(rows.all, space.size, box=box, time_limit=time_limit)
            if last is not None:
                return last
            return Edit(
                found.status, model, {}, found, [], tau, **counts, space=space, conflict=why,
                reason=explained(found, why), blocks=rows.all, seconds=time.perf_counter() - begin,
            )  # fmt: skip
        edited, delta = written(model, space, found.delta)
        certificates = [certify(edited, points, constraints, p) for p in precisions]
        certificates += [check(edited) for check in certifiers]
        ok = all(c.holds for c in certificates)
        last = Edit(
            "edited" if ok else "uncertified", edited if ok else model, space.split(delta), found, certificates, tau,
            **counts, space=space, reason="" if ok else _uncertified(certificates, tau), blocks=rows.all,
            seconds=time.perf_counter() - begin,
        )  # fmt: skip
        if ok:
            return last
    assert last is not None
    return last


def explained(found: Solution, why: Conflict | None) -> str:
    """Return one line on why there is no edit."""
    if why is None:
        return found.reason
    names = ", ".join(dict.fromkeys(name for name, _ in why.requirements))
    return f"{found.reason}; in conflict: {names or 'none found'}; least total relaxation {why.total:.3g}"


def _uncertified(certificates: Sequence[Certificate], margin: float) -> str:
    worst = max(certificates, key=lambda c: c.worst)
    return (
        f"the edit holds in exact arithmetic, but {worst.precision} misses a bound by {worst.worst:.3g} at margin "
        f"{margin:.3g}: widen the bounds, raise `margin`, or keep the layer in more bits"
    )


def prepare(
    model: nn.Module,
    layers: Sequence[str],
    points: Tensor,
    *,
    bias: bool = True,
    later_biases: bool = True,
    outputs: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float64,
    pin: bool = False,
) -> tuple[nn.Module, Tensor, Space]:
    """Return the model and the points in `dtype`, and the variables; ValueError on what cannot be edited."""
    if not torch.isfinite(points).all():
        raise ValueError("the points hold values that are not finite: leave them out")
    check_model(model, edit_space(model, layers, bias=bias, outputs=outputs))
    work, x = float64_copy(model, dtype), points.to(dtype)
    later: list[str] = []
    if later_biases and bias and not pin:
        found = [n for name in layers for n in downstream(work, name, x[:1])]
        later = [n for n in dict.fromkeys(found) if n not in layers]
    return work, x, edit_space(model, layers, bias=bias, later=later, outputs=outputs)


def gather_rows(
    work: nn.Module,
    space: Space,
    points: Tensor,
    constraints: Sequence[Constraint],
    margin: float,
    *,
    reference: nn.Module | None = None,
    pin: bool = False,
    conditions: bool = True,
) -> Rows:
    """Return all rows. conditions: False leaves the activation condition out, which proves nothing (a control)."""

    def tail(x: Tensor, at: str | None = None) -> Tail:
        return Tail(work, space, x, at=at, reference=reference, pin=pin)

    asked = [b for c in constraints for b in c.blocks(tail, points, margin)]
    held: list[Block] = []
    places = [c.condition_points(points) for c in constraints] if conditions else []
    if places:
        view = tail(_distinct(torch.cat(places)))
        held = pinned_rows(view) if pin else condition_rows(view, margin)
    return Rows(asked, held)


def _distinct(points: Tensor) -> Tensor:
    flat = points.flatten(1)
    _, first = np.unique(flat.numpy(force=True), axis=0, return_index=True)
    return points[torch.as_tensor(np.sort(first))]


def condition_rows(view: Tail, margin: float) -> list[Block]:
    """Return phi: every pre-activation stays `margin` inside its piece, one block a point.

    Strictly inside: at 0 autograd takes the derivative of the piece below.
    """
    values, low, high, readers = view.condition_readers()
    if values.shape[1] == 0:
        return []
    features = view.features()
    found = []
    for i in range(len(values)):
        units = values.shape[1]
        m = {k: v[:, i] for k, v in readers.items()}
        u = {k: v[i : i + 1].expand(units, -1, -1) for k, v in features.items()}
        a = view.coefficients(m, u, biases=True)
        a.eliminate_zeros()
        now, floor, ceiling = (t[i].double().numpy(force=True) for t in (values, low, high))
        live = drop_settled(Block(a, now, floor, ceiling, f"activation pattern of point {i}"))
        found.append(Block(live.a, live.value, live.low + margin, live.high - margin, live.label))
    return found


def pinned_rows(view: Tail) -> list[Block]:
    """Return ``dW u + db = 0`` at every point and position: whatever lies behind keeps its value and derivative."""
    found = []
    for site in view.space.sites:
        if not site.weight:
            continue
        u = view.features()[site.name].double().numpy(force=True)
        for i, at in enumerate(u):
            rows = np.concatenate([at.T, np.ones((at.shape[1], int(site.bias)))], 1)
            own = _layer_rows(site.start, len(site.outputs), site.width, site.bias, view.space.size, rows)
            zero = np.zeros(own.shape[0])
            found.append(Block(own, zero, zero, zero, f"values of {site.name} at point {i}"))
    return found


def _layer_rows(
    start: int, outputs: int, width: int, bias: bool, n: int, rows: np.ndarray
) -> sparse.csr_array:
    """Return (outputs * positions, n): each row of `rows` (positions, width + bias) for each output."""
    weights = sparse.kron(np.eye(outputs), rows[:, :width])
    parts = [sparse.csr_array((weights.shape[0], start)), weights]
    used = start + outputs * width
    if bias:
        parts.append(sparse.kron(np.eye(outputs), rows[:, width:]))
        used += outputs
    parts.append(sparse.csr_array((weights.shape[0], n - used)))
    found = sparse.csr_array(sparse.hstack(parts))
    found.eliminate_zeros()
    return found


def preserved(work: nn.Module, space: Space, keep: Keep) -> Preserve:
    """Return the rows of `keep`: the change of its outputs, exact for a last layer, else on today's pieces."""
    x = keep.points.to(next(work.parameters()).dtype)
    view = Tail(work, space, x)
    outputs = list(range(view.base.y.shape[1])) if keep.outputs is None else list(keep.outputs)
    a, _ = output_rows(view, outputs)
    live = np.flatnonzero(np.diff(a.indptr))
    return Preserve(sparse.csr_array(a[live]), keep.weight)


def written(model: nn.Module, space: Space, delta: np.ndarray) -> tuple[nn.Module, np.ndarray]:
    """Return a copy of the model with the edit in its own precision, and the change that was really made."""
    edited = copy.deepcopy(model)
    made = np.zeros_like(delta)
    modules = dict(edited.named_modules())
    for site in space.sites:
        own = Space((site,)).split(
            np.concatenate([np.zeros(site.start), delta[site.start : site.start + site.size]])
        )
        rows = list(site.outputs)
        at = site.start
        for kind in ("weight", "bias"):
            change = own.get(f"{site.name}.{kind}")
            if change is None:
                continue
            value = getattr(modules[site.name], kind)
            before = value.data[rows].double().flatten(1) if kind == "weight" else value.data[rows].double()
            after = (before + torch.as_tensor(change).to(before)).to(value.dtype)
            value.data[rows] = after.reshape(value.data[rows].shape)
            made[at : at + change.size] = (after.double() - before).numpy(force=True).ravel()
            at += change.size
    return edited, made


def edit_in_turn(
    model: nn.Module,
    layers: Sequence[str],
    points: Tensor,
    constraints: Sequence[Constraint],
    *,
    box: float = 10.0,
    margin: float = 1e-6,
    sweeps: int = 1,
    size: str = "l1",
    time_limit: float = 600.0,
    on_step: Callable[[str, float], None] | None = None,
) -> Edit:
    """Edit layers in series one after the other, for what no single layer can do.

    A layer that cannot meet everything takes the edit of least total relaxation (its activation condition held),
    and the next goes on from there; the first that can ends it with a proper edit. on_step: told each
    layer and the total relaxation left.
    """
    current, seconds = model, time.perf_counter()
    last: Edit | None = None
    for layer in [name for _ in range(sweeps) for name in layers]:
        last = edit_gradients(
            current,
            layer,
            points,
            constraints,
            size=size,
            box=box,
            margin=margin,
            explain=False,
            time_limit=time_limit,
        )
        if last.edited or last.status != "infeasible":
            break
        work, x, space = prepare(current, [layer], points)
        rows = gather_rows(work, space, x, constraints, margin)
        found = _elastic(rows, space.size, box, time_limit)
        if on_step is not None:
            on_step(layer, found.total)
        current, _ = written(current, space, found.delta)
    assert last is not None
    if not last.edited:
        return Edit(
            last.status, model, {}, last.solution, [], margin, last.requirements, last.conditions, last.space,
            reason=f"no layer of {', '.join(layers)} met all requirements in {sweeps} sweeps",
            seconds=time.perf_counter() - seconds,
        )  # fmt: skip
    return last


def _elastic(rows: Rows, n: int, box: float, time_limit: float) -> Conflict:
    """Relax the constraints alone: the condition stays hard, or the step would prove nothing."""
    hard = [b for b in rows.conditions if b.rows]
    found, _ = relax(rows.constraints, n, box=box, time_limit=time_limit, hard=hard)
    return found


def add_cuts(
    model: nn.Module,
    layer: str,
    points: Tensor,
    dense: Tensor,
    make: Callable[[Tensor], Sequence[Constraint]],
    *,
    rounds: int,
    most: int,
    edit: Callable[[nn.Module, Tensor, Sequence[Constraint]], Edit],
) -> tuple[Edit, list[float]]:
    """Edit, look for violations on a dense set of inputs, add the worst as points, edit again.

    make: points -> constraints. most: points added a round. Returns the last edit and the violated shares of `dense`.
    """
    shares: list[float] = []
    result = edit(model, points, make(points))
    for _ in range(rounds):
        if not result.edited:
            break
        violation = _per_point(make(dense), result.model, dense)
        shares.append(float((violation > 0).mean()))
        worst = np.argsort(-violation)[:most]
        worst = worst[violation[worst] > 0]
        if not len(worst):
            break
        points = torch.cat([points, dense[torch.as_tensor(worst.copy())]])
        result = edit(model, points, make(points))
    if result.edited:
        shares.append(float((_per_point(make(dense), result.model, dense) > 0).mean()))
    return result, shares


def _per_point(constraints: Sequence[Constraint], model: nn.Module, points: Tensor) -> np.ndarray:
    worst = np.full(len(points), -np.inf)
    for c in constraints:
        measured = c.measure(model, points)
        np.maximum.at(worst, measured.point, measured.violation)
    return worst
