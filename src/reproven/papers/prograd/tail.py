"""The network as a function of the edited weights: what is linear in them, as batched coefficients.

An edited layer computes ``z = W u + b`` at every position (one for a fully connected layer, one a pixel for a
convolution, one a token for a layer on sequences), u being its input (unfolded into patches for a convolution). On
fixed pieces everything behind it is affine in z, so that for a linear read-out with row M

    change of an output         = sum_l M_l (dW u_l + db)
    change of a derivative      = sum_l M_l dW u'_l,    u' = J_up d the derivative of u in the direction d
                                                        (Definition 4.4: D_ref W^(L-1) ... dW^(0), times J_up)

M comes from one batched reverse pass, u' from one batched forward pass over all directions; never one call a row.
Biases of later layers enter outputs and pre-activations, with M at their own place; derivatives do not see them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from reproven.papers.prograd import pattern as pieces_of
from reproven.papers.prograd.pattern import Piece, Recorder, Replay

EDITABLE = (nn.Linear, nn.Conv2d)
CHUNK = 1 << 24  # numbers in one batched reverse or forward pass


@dataclass(frozen=True)
class Site:
    """One place where parameters vary.

    name: the module. weight: whether its weight varies (else its bias alone). outputs: rows of the weight that
    vary, in order. width: entries of a row. bias: whether the bias varies. start: its first column.
    """

    name: str
    weight: bool
    bias: bool
    outputs: tuple[int, ...]
    width: int
    start: int

    @property
    def size(self) -> int:
        return len(self.outputs) * (self.width * self.weight + self.bias)


@dataclass(frozen=True)
class Space:
    """The variables: for every site the rows of its weight one after the other, then its bias."""

    sites: tuple[Site, ...]

    @property
    def size(self) -> int:
        return sum(s.size for s in self.sites)

    def split(self, delta: np.ndarray) -> dict[str, np.ndarray]:
        """Return the change of every parameter that varies: name -> (rows, width) or (rows,)."""
        found = {}
        for s in self.sites:
            part = delta[s.start : s.start + s.size]
            weights = len(s.outputs) * s.width * s.weight
            if s.weight:
                found[f"{s.name}.weight"] = part[:weights].reshape(len(s.outputs), s.width)
            if s.bias:
                found[f"{s.name}.bias"] = part[weights:]
        return found


def edit_space(
    model: nn.Module,
    layers: Sequence[str],
    *,
    bias: bool = True,
    later: Sequence[str] = (),
    outputs: Sequence[int] | None = None,
) -> Space:
    """Return the variables of an edit: weights (and biases) of `layers`, biases of `later`.

    outputs: only these rows of the (single) layer vary. ValueError on what cannot be edited.
    """
    modules = dict(model.named_modules())
    sites: list[Site] = []
    start = 0
    for name, weight in [*((n, True) for n in layers), *((n, False) for n in later)]:
        module = modules.get(name)
        if not isinstance(module, EDITABLE):
            known = [n for n, m in modules.items() if isinstance(m, EDITABLE)]
            raise ValueError(
                f"layer {name!r} is no Linear or Conv2d of this model; there are {', '.join(known)}"
            )
        if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros"):
            raise ValueError(f"layer {name!r}: grouped or non-zero-padded convolutions cannot be edited")
        if not weight and module.bias is None:
            continue
        rows = tuple(range(module.weight.shape[0])) if outputs is None or not weight else tuple(outputs)
        if not rows or min(rows) < 0 or max(rows) >= module.weight.shape[0] or len(set(rows)) < len(rows):
            raise ValueError(
                f"layer {name!r} has rows 0 to {module.weight.shape[0] - 1}, each once; not {rows}"
            )
        own_bias = module.bias is not None and (bias if weight else True)
        site = Site(name, weight, own_bias, rows, module.weight[0].numel(), start)
        sites.append(site)
        start += site.size
    if not any(s.weight for s in sites):
        raise ValueError("name at least one layer to edit")
    return Space(tuple(sites))


def check_model(model: nn.Module, space: Space) -> None:
    """ValueError unless the model can be edited: evaluation mode, finite weights, none of them shared."""
    if model.training or any(m.training for m in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() first")
    for name, value in model.named_parameters():
        if not torch.isfinite(value).all():
            raise ValueError(
                f"parameter {name!r} holds values that are not finite: nothing can be proved about it"
            )
    names: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        names.setdefault(value.data_ptr(), []).append(name)
    for site in space.sites:
        shared = names[dict(model.named_modules())[site.name].weight.data_ptr()]
        if len(shared) > 1:
            raise ValueError(
                f"layer {site.name!r} shares its weight ({' and '.join(shared)} are tied): untie it first, "
                "or an edit moves the input too"
            )


@dataclass
class Trace:
    """What one pass through the network leaves: result, inputs of the edited layers, value at `at`, quantities."""

    y: Tensor
    inputs: dict[str, Tensor]
    shapes: dict[str, torch.Size]
    at: Tensor | None
    quantities: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class OneHot:
    """M of an edited last layer: row r of the coefficients reads output ``index[r]``."""

    index: Tensor


class Tail:
    """A network around its edited layers, at points with fixed pieces.

    model: in evaluation mode; it is run, never changed. points: (n, ...). at: what is differentiated against: the
    input of the network, or ``"name"`` (what that module returns) or ``"name:input"`` (what it is given).
    reference: the network whose pieces are taken (default: the model itself). pin: no pieces; the edited layers'
    values will be held, so that whatever lies behind them may be smooth.
    """

    def __init__(
        self,
        model: nn.Module,
        space: Space,
        points: Tensor,
        *,
        at: str | None = None,
        reference: nn.Module | None = None,
        pin: bool = False,
    ) -> None:
        self.model, self.space, self.points, self.at, self.pin = model, space, points, at, pin
        self._constants = {k: v.detach() for k, v in [*model.named_parameters(), *model.named_buffers()]}
        self.pieces, self.calls, trace = self._record(model)  # calls: between `at` and the first edited layer
        if reference is not None and not pin:
            self.pieces = self._record(reference)[0]
        self.shapes = trace.shapes
        self.last = self._is_last(trace)
        self.base = self.run(points)

    # --- running -----------------------------------------------------------------------------------------

    def run(
        self,
        x: Tensor,
        shift: dict[str, Tensor] | None = None,
        at_shift: Tensor | None = None,
        mode: Any = None,
        model: nn.Module | None = None,
    ) -> Trace:
        """Run the network on its fixed pieces; `shift` is added to what sites return, `at_shift` at `at`."""
        model = model or self.model
        held: dict[str, Any] = {"inputs": {}, "shapes": {}, "at": None}
        mode = mode or Replay(self.pieces)
        constants = self._constants if model is self.model else _constants(model)
        with contextlib.ExitStack() as stack:
            mark = mode.mark if isinstance(mode, Recorder) else lambda name: None
            for handle in self._hooks(model, held, shift or {}, at_shift, mark):
                stack.callback(handle.remove)
            with mode:
                y = torch.func.functional_call(model, constants, (x,))
        quantities = mode.quantities if isinstance(mode, Replay) else []
        return Trace(y, held["inputs"], held["shapes"], held["at"], quantities)

    def _hooks(
        self,
        model: nn.Module,
        held: dict[str, Any],
        shift: dict[str, Tensor],
        at_shift: Tensor | None,
        mark: Callable[[str], None],
    ) -> Iterator[Any]:
        modules = dict(model.named_modules())
        for site in self.space.sites:
            yield modules[site.name].register_forward_hook(self._site_hook(site, held, shift, mark))
        if self.at is not None:
            name, _, side = self.at.partition(":")
            if name not in modules:
                raise ValueError(f"no module {name!r} in this model to take the map at")

            def keep(value: Tensor) -> Tensor:
                mark("at")
                held["at"] = value.clone() if at_shift is None else value + at_shift
                return held["at"]

            if side == "input":
                yield modules[name].register_forward_pre_hook(lambda m, a: (keep(a[0]), *a[1:]))
            else:
                yield modules[name].register_forward_hook(lambda m, a, out: keep(out))

    def _site_hook(
        self, site: Site, held: dict[str, Any], shift: dict[str, Tensor], mark: Callable[[str], None]
    ) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
            mark(site.name)
            if site.name in held["inputs"]:
                raise ValueError(
                    f"layer {site.name!r} is used twice in one pass: its edit would not be linear"
                )
            if site.weight and args[0].requires_grad and isinstance(shift.get(site.name), Tensor):
                raise ValueError(
                    f"layer {site.name!r} lies behind another edited layer: edit them one after the other"
                )
            held["inputs"][site.name] = args[0]
            held["shapes"][site.name] = out.shape
            return out + shift[site.name] if site.name in shift else out

        return hook

    def _record(self, model: nn.Module) -> tuple[list[Any], list[str], Trace]:
        with torch.no_grad():
            shapes = self.run(self.points, mode=contextlib.nullcontext(), model=model).shapes
        missing = [s.name for s in self.space.sites if s.name not in shapes]
        if missing:
            raise ValueError(f"layer {missing[0]!r} takes no part in the forward pass of these points")
        first = self.space.sites[0].name
        recorder = Recorder(
            first, smooth=self.pin, constants=frozenset(v.data_ptr() for v in _constants(model).values())
        )
        shift = {n: self.points.new_zeros(s, requires_grad=True) for n, s in shapes.items()}
        trace = self.run(self.points, shift, mode=recorder, model=model)
        if trace.at is not None and trace.at.requires_grad:
            raise ValueError(f"{self.at!r} depends on the edited layer: take a place in front of it")
        if trace.y.dim() != 2:
            raise ValueError(f"the model must return (n, outputs), not {tuple(trace.y.shape)}")
        calls = recorder.calls[recorder.marks.get("at", 0) : recorder.marks[first] - 1]
        return recorder.pieces, calls, trace

    def _is_last(self, trace: Trace) -> bool:
        """Tell whether the model returns what its only edited layer does, on vectors."""
        (site, *more) = self.space.sites
        module = dict(self.model.named_modules())[site.name]
        if more or not isinstance(module, nn.Linear) or trace.shapes[site.name] != trace.y.shape:
            return False
        bump = torch.randn(trace.y.shape, generator=torch.Generator().manual_seed(0)).to(trace.y)
        with torch.no_grad():
            plain, moved = self.run(self.points).y, self.run(self.points, {site.name: bump}).y
        return bool(torch.allclose(moved - plain, bump, rtol=1e-4, atol=1e-4 * float(1 + plain.abs().max())))

    # --- read-outs -----------------------------------------------------------------------------------------

    def reader(self, outputs: Tensor) -> dict[str, Tensor] | OneHot:
        """Return M for one output a point, ``outputs`` (n,): site -> (n, channels, positions)."""
        if self.last:
            return OneHot(outputs)
        shift = self._zero_shift()
        y = self.run(self.points, shift).y
        picked = y.gather(1, outputs[:, None].to(y.device)).sum()
        grads = torch.autograd.grad(picked, list(shift.values()), allow_unused=True)
        return {n: _zeros_like(g, shift[n]) for n, g in zip(shift, grads)}

    def output_readers(self, outputs: Sequence[int]) -> dict[str, Tensor]:
        """Return M for all `outputs` at all points: site -> (outputs, n, channels, positions), one batched pass."""
        pick = torch.tensor(list(outputs), device=self.points.device)
        return self._readers(lambda trace: trace.y[:, pick], len(pick))

    def condition_readers(self) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Return what the condition needs: values and bounds (n, units), M: site -> (units, n, channels, positions)."""
        if not self.base.quantities:
            empty = self.points.new_zeros((len(self.points), 0))
            return empty, empty, empty, {}
        values = torch.cat(self.base.quantities, 1)
        low, high = pieces_of.bounds(self.pieces)
        readers = self._readers(lambda trace: torch.cat(trace.quantities, 1), values.shape[1])
        return values, low.to(values), high.to(values), readers

    def _readers(self, read: Callable[[Trace], Tensor], rows: int) -> dict[str, Tensor]:
        shift = self._zero_shift()
        value = read(self.run(self.points, shift))
        eye = torch.eye(rows, dtype=value.dtype, device=value.device)[:, None, :].expand(
            rows, len(value), rows
        )
        step = max(1, CHUNK // max(1, self.points.numel() * 4))
        parts = [
            torch.autograd.grad(
                value, list(shift.values()), eye[i : i + step], is_grads_batched=True, retain_graph=True,
                allow_unused=True,
            )
            for i in range(0, rows, step)
        ]  # fmt: skip
        found = {}
        for k, (name, place) in enumerate(shift.items()):
            given = [p[k] for p in parts if p[k] is not None]
            whole = (
                torch.cat(given) if given else place.new_zeros((rows, *place.shape))
            )  # unused: no influence
            found[name] = _positions(whole, 2)
        return found

    def _zero_shift(self) -> dict[str, Tensor]:
        return {n: self.points.new_zeros(s, requires_grad=True) for n, s in self.shapes.items()}

    # --- features ------------------------------------------------------------------------------------------

    def features(self) -> dict[str, Tensor]:
        """Return u: site -> (n, width, positions)."""
        return {s.name: self._unfold(s, self.base.inputs[s.name]) for s in self.space.sites if s.weight}

    def tangents(self, directions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the derivatives along `directions` (d, n, ...) of the outputs, (d, n, outputs), and of u.

        Forward mode, all directions in one batched pass over one primal: site -> (d, n, width, positions).
        """
        weights = [s for s in self.space.sites if s.weight]

        def at_point(v: Tensor) -> tuple[Tensor, ...]:
            trace = self.run(v) if self.at is None else self.run(self.points, at_shift=v)
            return (trace.y, *(self._unfold(s, trace.inputs[s.name]) for s in weights))

        start = self.points if self.at is None else torch.zeros_like(self.at_value())

        def along(direction: Tensor) -> tuple[Tensor, ...]:
            return torch.func.jvp(at_point, (start,), (direction,))[1]

        step = max(1, CHUNK // max(1, start.numel() * 4))
        with torch.no_grad():
            parts = [
                torch.func.vmap(along)(directions[i : i + step]) for i in range(0, len(directions), step)
            ]
        whole = [torch.cat(p) for p in zip(*parts)]
        return whole[0], {s.name: u for s, u in zip(weights, whole[1:])}

    def at_value(self) -> Tensor:
        """Return the value that is differentiated against, (n, ...)."""
        if self.at is None:
            return self.points
        assert self.base.at is not None
        return self.base.at.detach()

    def _unfold(self, site: Site, u: Tensor) -> Tensor:
        module = dict(self.model.named_modules())[site.name]
        if isinstance(module, nn.Conv2d):
            return F.unfold(u, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
        return u[..., None] if u.dim() == 2 else u.flatten(1, -2).transpose(1, 2)

    # --- coefficients --------------------------------------------------------------------------------------

    def coefficients(
        self, readers: dict[str, Tensor] | OneHot, features: dict[str, Tensor], biases: bool
    ) -> sparse.csr_array:
        """Return the rows (rows, variables): sums over positions of M times u, and of M for biases.

        readers, features: site -> (rows, channels, positions) and (rows, width, positions), rows alike.
        """
        if isinstance(readers, OneHot):
            return self._one_hot(readers, features, biases)
        parts = []
        for s in self.space.sites:
            m = readers[s.name][:, list(s.outputs)]
            if s.weight:
                parts.append(torch.einsum("rcl,rql->rcq", m, features[s.name]).flatten(1))
            if s.bias:
                parts.append(m.sum(2) if biases else torch.zeros_like(m[..., 0]))
        return sparse.csr_array(torch.cat(parts, 1).detach().double().numpy(force=True))

    def _one_hot(self, reader: OneHot, features: dict[str, Tensor], biases: bool) -> sparse.csr_array:
        (site,) = self.space.sites
        position = {c: i for i, c in enumerate(site.outputs)}
        wanted = reader.index.tolist()
        strange = [c for c in wanted if c not in position]
        if strange:
            raise ValueError(
                f"output {strange[0]} is constrained, but its row of {site.name!r} is not edited"
            )
        u = features[site.name][..., 0].detach().double().numpy(force=True)
        rows, width = u.shape
        place = np.array([position[c] for c in wanted])
        columns = (place * width)[:, None] + np.arange(width)
        extra = site.bias and biases
        if extra:
            u = np.column_stack([u, np.ones(rows)])
            columns = np.column_stack([columns, len(site.outputs) * width + place])
        data, where = np.ascontiguousarray(u).ravel(), columns.ravel()
        starts = np.arange(rows + 1) * columns.shape[1]
        return sparse.csr_array((data, where, starts), shape=(rows, self.space.size))


def float64_copy(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a copy of the model in `dtype` that asks for no gradient."""
    return copy.deepcopy(model).to(dtype).requires_grad_(False)


def downstream(model: nn.Module, layer: str, points: Tensor) -> list[str]:
    """Return the Linear and Conv2d modules whose input depends on what `layer` returns, in order of use."""
    modules = {n: m for n, m in model.named_modules() if isinstance(m, EDITABLE)}
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda module, args: (
            found.append(name) if args[0].requires_grad and name not in found else None
        )

    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(watch(name)).remove)
        bump = lambda module, args, out: out.detach().requires_grad_()  # noqa: E731 - one use
        stack.callback(modules[layer].register_forward_hook(bump).remove)
        torch.func.functional_call(model, _constants(model), (points.detach(),))
    return found


def _constants(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in [*model.named_parameters(), *model.named_buffers()]}


def _positions(m: Tensor, lead: int) -> Tensor:
    """Bring (..., channels[, height, width] or tokens, channels) to (..., channels, positions)."""
    rest = m.dim() - lead
    if rest == 1:
        return m[..., None]
    return m.transpose(-1, -2) if rest == 2 else m.flatten(lead + 1)


def _zeros_like(gradient: Tensor | None, value: Tensor) -> Tensor:
    return _positions(torch.zeros_like(value) if gradient is None else gradient, 1)


__all__ = [
    "OneHot", "Piece", "Site", "Space", "Tail", "check_model", "downstream", "edit_space", "float64_copy",
]  # fmt: skip
