"""E1: Theorems 4.3 and 4.5 on ReLU networks with a smooth frozen prefix, and what breaks without their condition."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.papers.prograd.attribution import input_gradients
from reproven.papers.prograd.certify import exact_slack
from reproven.papers.prograd.constraints import JacobianBox, OutputMargin, jacobian_stages
from reproven.papers.prograd.edit import (
    Edit,
    Rows,
    edit_gradients,
    edit_in_turn,
    gather_rows,
    prepare,
    written,
)
from reproven.papers.prograd.infeasible import conflict_rows, feasible
from reproven.papers.prograd.program import solve
from reproven.papers.prograd.tail import Tail

INPUTS, HIDDEN, OUTPUTS = 6, 32, 3


def soundness(
    ctx: Context, *, layer: list[str], nets: int, points: int, shift: float, width: float, exact: int
) -> None:
    """Edit random networks so that all entries of all Jacobians lie in boxes; check by autograd.

    Args:
        layer: which layer is edited, ``first``, ``middle`` or ``last`` of the tail, or ``in_turn`` (one after
            the other: last, then middle). nets: networks. points: edit points a network.
        shift, width: boxes are the Jacobian plus uniform(-shift, shift), plus or minus width.
        exact: networks whose rows are also checked in rational arithmetic.
    Records a network: feasible; where feasible gradient_gap (C1), violation and points_met (C2), the same with the
    condition dropped (``condition: dropped``, C3), bias_gap (C5), exact_slack; rows_off (C10), repeat_gap (C11).
    """
    for where in layer:
        for i in range(nets):
            model = network(ctx.torch_generator("net", net=i))
            x = torch.randn(
                points, INPUTS, dtype=torch.float64, generator=ctx.torch_generator("points", net=i)
            )
            asked = box_around(input_gradients(model, x).numpy(), ctx.generator("boxes", net=i), shift, width)
            _one(ctx, model, where, x, asked, i, exact)
            ctx.progress((layer.index(where) + (i + 1) / nets) / len(layer), f"{where} {i}")


def _one(
    ctx: Context, model: nn.Module, where: str, x: Tensor, asked: JacobianBox, net: int, exact: int
) -> None:
    at: dict[str, Any] = {"layer": where, "net": net}
    if where == "in_turn":
        found = edit_in_turn(model, ["6", "4"], x, [asked], sweeps=2)
    else:
        found = edit_gradients(model, PLACES[where], x, [asked], explain=False)
        _counts(ctx, model, where, x, asked, found, at)
    ctx.record("feasible", found.edited, unit="1", direction="higher", **at)
    if not found.edited:
        ctx.record("returned_unedited", found.model is model, unit="1", direction="higher", **at)
        return
    _record_violation(ctx, found.model, x, asked, condition="held", **at)
    if where == "in_turn":
        return
    ctx.record("gradient_gap", _gradient_gap(model, where, x, found), unit="1", direction="lower", **at)
    ctx.record("bias_gap", bias_gap(found.model, x, ctx.generator("biases", net=net)), unit="1", **at)
    work, xx, space = prepare(model, [PLACES[where]], x)
    loose = gather_rows(work, space, xx, [asked], 1e-6, conditions=False)
    dropped = solve(loose.all, space.size)
    if dropped.status == "optimal":
        edited, _ = written(model, space, dropped.delta)
        _record_violation(ctx, edited, x, asked, condition="dropped", **at)
    again = edit_gradients(model, PLACES[where], x, [asked], explain=False)
    gap = max(float(np.abs(again.delta[k] - v).max()) for k, v in found.delta.items())
    ctx.record("repeat_gap", gap, unit="1", direction="lower", **at)
    if net < exact:
        rows = gather_rows(work, space, xx, [asked], 0.0)
        slack = exact_slack(rows.all, flat(found))
        ctx.record("exact_slack", float(slack), unit="1", direction="higher", **at)


def _record_violation(ctx: Context, model: nn.Module, x: Tensor, asked: JacobianBox, **at: str | int) -> None:
    measured = asked.measure(model, x)
    ctx.record("violation", float(measured.violation.max()), unit="1", direction="lower", **at)
    met = len(x) - len(np.unique(measured.point[measured.violation > 1e-8]))
    ctx.record("points_met", met / len(x), unit="1", direction="higher", **at)


def _counts(
    ctx: Context, model: nn.Module, where: str, x: Tensor, asked: JacobianBox, found: Edit, at: dict
) -> None:
    """C10: one condition a hidden unit behind the edited layer, one requirement a Jacobian entry; twice for twice S."""
    units = {"first": 2, "middle": 1, "last": 0}[where] * HIDDEN
    off = abs(found.conditions - len(x) * units) + abs(found.requirements - len(x) * INPUTS * OUTPUTS)
    work, xx, space = prepare(model, [PLACES[where]], x)
    double = torch.cat([xx, xx + 0.5])
    wider = JacobianBox(np.full((2 * len(x), 1, 1), -9.0), np.full((2 * len(x), 1, 1), 9.0))
    rows: Rows = gather_rows(work, space, double, [wider], 1e-6)
    twice = sum(b.rows for b in rows.all)
    off += abs(twice - 2 * (found.conditions + found.requirements))
    sizes = {
        "first": HIDDEN * (HIDDEN // 2) + 2 * HIDDEN + OUTPUTS, "middle": HIDDEN**2 + HIDDEN + OUTPUTS,
        "last": HIDDEN * OUTPUTS + OUTPUTS,
    }  # fmt: skip
    ctx.record("rows_off", off + abs(space.size - sizes[where]), unit="rows", direction="lower", **at)


def _gradient_gap(model: nn.Module, where: str, x: Tensor, found: Edit) -> float:
    """C1: the conditional gradient at the solution against autograd on the edited network."""
    work, xx, space = prepare(model, [PLACES[where]], x)
    stages = jacobian_stages(Tail(work, space, xx))
    said = np.stack([s.now + s.t @ (s.a @ flat(found)) for s in stages])
    return float(np.abs(said - input_gradients(found.model, x).numpy().reshape(said.shape)).max())


def bias_gap(model: nn.Module, x: Tensor, rng: np.random.Generator) -> float:
    """C5: change all biases of the tail by as much as flips no sign; return how far the Jacobian moves."""
    before, signs = input_gradients(model, x), _signs(model, x)
    scale = 1e-2
    for _ in range(40):
        moved = copy.deepcopy(model)
        for layer in [m for m in moved.modules() if isinstance(m, nn.Linear)][1:]:
            layer.bias.data += torch.as_tensor(rng.uniform(-scale, scale, layer.bias.shape))
        if torch.equal(_signs(moved, x), signs):
            return float((input_gradients(moved, x) - before).abs().max())
        scale /= 2
    raise RuntimeError("every change of the biases flipped a sign: draw other points")


def _signs(model: nn.Module, x: Tensor) -> Tensor:
    found, h = [], x
    for layer in model.children():
        if isinstance(layer, nn.ReLU):
            found.append(h > 0)
        h = layer(h)
    return torch.cat(found, 1)


def controls(ctx: Context, *, nets: int, points: int) -> None:
    """Contradictions (C9): what no edit can do, with the sets that say why.

    Records a network: returned_unedited, conflict_size, relaxation (its least total, here 0.2 by construction), and
    rest_feasible, the share of requirements of the conflicting set without which the others can be met.
    """
    for i in range(nets):
        model = network(ctx.torch_generator("net", net=i))
        x = torch.randn(points, INPUTS, dtype=torch.float64, generator=ctx.torch_generator("points", net=i))
        j = input_gradients(model, x).numpy()
        low, high = j - 0.5, j + 0.5
        clash = [JacobianBox(low, high), *_clash(j[:1])]
        found = edit_gradients(model, "2", x, clash, margin=1e-6)
        at: dict[str, Any] = {"net": i}
        unchanged = found.model is model and found.status == "infeasible"
        ctx.record("returned_unedited", unchanged, unit="1", direction="higher", **at)
        assert found.conflict is not None
        ctx.record("conflict_size", len(found.conflict.requirements), unit="rows", **at)
        ctx.record("relaxation", found.conflict.total, unit="1", **at)
        kept = found.conflict.requirements
        ctx.record("irreducible", found.conflict.irreducible, unit="1", direction="higher", **at)
        parts = [conflict_rows(found.blocks, found.conflict, k) for k in range(len(kept))]
        rest = [feasible(p, found.space.size, box=10.0) for p in parts]
        ctx.record("rest_feasible", float(np.mean(rest)), unit="1", direction="higher", **at)
        labels = edit_gradients(
            model, "6", x, [OutputMargin([0] * points, 0.1), OutputMargin([1] * points, 0.1)]
        )
        unchanged = labels.model is model and labels.status == "infeasible"
        ctx.record("answers_returned_unedited", unchanged, unit="1", direction="higher", **at)


def _clash(j: np.ndarray) -> list[JacobianBox]:
    """Bound one entry of the first Jacobian to two ranges 0.2 apart."""
    infinite = np.full_like(j, np.inf)
    above, below = -infinite, infinite.copy()
    above[0, 0, 0], below[0, 0, 0] = j[0, 0, 0] + 0.1, j[0, 0, 0] - 0.1
    return [JacobianBox(above, infinite, index=[0]), JacobianBox(-infinite, below, index=[0])]


PLACES = {"first": "2", "middle": "4", "last": "6"}


def network(generator: torch.Generator) -> nn.Sequential:
    """Return a smooth prefix (6 -> 16, tanh) and a ReLU tail 16-32-32-3, float64, drawn by the generator."""
    model = nn.Sequential(
        nn.Linear(INPUTS, HIDDEN // 2), nn.Tanh(), nn.Linear(HIDDEN // 2, HIDDEN), nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUTPUTS),
    ).double()  # fmt: skip
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
    return model.eval()


def box_around(jacobian: np.ndarray, rng: np.random.Generator, shift: float, width: float) -> JacobianBox:
    """Return boxes of half-width `width` whose centres lie uniform(-shift, shift) off the Jacobian."""
    centre = jacobian + rng.uniform(-shift, shift, jacobian.shape)
    return JacobianBox(centre - width, centre + width)


def flat(found: Edit) -> np.ndarray:
    """Return the change of all variables as the program orders them."""
    parts: list[np.ndarray] = []
    for site in found.space.sites:
        for kind in ("weight", "bias"):
            change = found.delta.get(f"{site.name}.{kind}")
            if change is not None:
                parts.append(change.ravel())
    return np.concatenate(parts)
