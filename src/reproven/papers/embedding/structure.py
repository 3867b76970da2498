"""Where the activation of a hidden layer goes: the preconditions of a split, read off a traced module."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from reproven.harness.errors import did_you_mean

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (nn.Linear, *CONV)
# f(c x) = c f(x) for c > 0, entry by entry.
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity)
POOLS = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LayerNorm, nn.GroupNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RMSNorm, nn.LocalResponseNorm,
)  # fmt: skip
POOL_CALLS = {
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d,
}  # fmt: skip
HOMOGENEOUS_CALLS = {F.relu, torch.relu, F.leaky_relu, torch.abs, *POOL_CALLS}
HOMOGENEOUS_METHODS = {"relu", "abs", "contiguous", "clone"}
FLATTEN_METHODS = {"flatten", "view", "reshape"}
SHAPE_METHODS = {"size", "dim"}


@dataclass(frozen=True)
class Path:
    """The way from a hidden layer to the one layer that reads it.

    producer, consumer: names of the modules; group: consumer inputs per unit (H*W after a flatten, else 1).
    steps: what lies between, in order, as functions of one tensor; flattened: whether a flatten is among
    them.
    """

    producer: str
    consumer: str
    group: int
    steps: tuple[Callable[[Tensor], Tensor], ...]
    flattened: bool


def module_named(model: nn.Module, name: str) -> nn.Module:
    """Return the module `name` of `model`; a ValueError names near misses."""
    modules = dict(model.named_modules())
    if name not in modules:
        raise ValueError(f"no layer {name!r} in the model{did_you_mean(name, [n for n in modules if n])}")
    return modules[name]


def units_of(layer: nn.Module) -> int:
    """Return the number of hidden units (output features or channels) of `layer`."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def find_path(model: nn.Module, layer: str, *, homogeneous: bool = True) -> Path:
    """Return the path from hidden layer `layer` to the layer that reads it.

    model: any module that `torch.fx` can trace. homogeneous: refuse what is not positively 1-homogeneous
    (False only for negative controls, which break the assumption on purpose).
    Raises ValueError with one line where the principle does not apply. Source: Defs 4.6 and 4.10, Thm 4.8.
    """
    producer = module_named(model, layer)
    if not isinstance(producer, WEIGHTED):
        raise ValueError(f"layer {layer!r} is a {type(producer).__name__}; split a Linear or a Conv layer")
    _refuse_groups(layer, producer)
    _refuse_shared(model, layer)
    _refuse_computed(model, layer)
    graph = _trace(model)
    calls = [n for n in graph.nodes if n.op == "call_module" and n.target == layer]
    if len(calls) != 1:
        raise ValueError(
            f"layer {layer!r} is called {len(calls)} times in one forward pass: its weights are shared, and "
            "the split is exact only for a layer that is called once"
        )
    modules = dict(model.named_modules())
    node, steps, flattened, pooled = calls[0], [], False, False
    while True:
        node = _only_user(node, layer)
        kind = _kind(node, modules, layer, homogeneous)
        if kind == "weighted":
            break
        flattened |= kind == "flatten"
        pooled |= _pools(node, modules)
        steps.append(_step(node, modules))
    consumer = modules[str(node.target)]
    _refuse_groups(str(node.target), consumer)
    _refuse_shared(model, str(node.target))
    _refuse_computed(model, str(node.target))
    _refuse_mixing(layer, producer, str(node.target), consumer, flattened, pooled)
    group = 1
    if isinstance(consumer, nn.Linear):
        group, rest = divmod(consumer.in_features, units_of(producer))
        if rest:
            raise ValueError(
                f"layer {node.target!r} reads {consumer.in_features} inputs, no multiple of the "
                f"{units_of(producer)} units of {layer!r}: flatten channel first"
            )
        if group > 1 and isinstance(producer, nn.Linear):
            raise ValueError(
                f"layer {node.target!r} reads {group} values of each unit of the linear layer {layer!r}, flattened "
                "with the units last: only channels, which come first, can be split before a flatten"
            )
    return Path(layer, str(node.target), group, tuple(steps), flattened)


def _trace(model: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(model)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced ({error}): split needs a forward pass without "
            "data-dependent control flow"
        ) from error


def _refuse_groups(name: str, layer: nn.Module) -> None:
    if getattr(layer, "groups", 1) != 1:
        raise ValueError(f"layer {name!r} has groups={layer.groups}: splitting it needs groups=1")


def _refuse_shared(model: nn.Module, layer: str) -> None:
    count = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, parameter in module_named(model, layer).named_parameters(recurse=False):
        if count[id(parameter)] > 1:
            raise ValueError(
                f"parameter {name!r} of layer {layer!r} is shared with another layer: a split would scale "
                "both, and the principle does not apply; untie the weights first"
            )


def _refuse_computed(model: nn.Module, layer: str) -> None:
    if "weight" not in dict(module_named(model, layer).named_parameters(recurse=False)):
        raise ValueError(
            f"the weight of layer {layer!r} is computed from other parameters (weight or spectral norm), which do not "
            "scale with it: remove the reparametrisation first"
        )


def _refuse_mixing(
    layer: str, producer: nn.Module, consumer: str, reader: nn.Module, flattened: bool, pooled: bool
) -> None:
    """Refuse ways on which the reader does not read along the units of the producer."""
    linear = isinstance(producer, nn.Linear)
    if linear and pooled:
        raise ValueError(
            f"pooling after the linear layer {layer!r} runs over its units and mixes copies with others: only the "
            "positions of a channel can be pooled"
        )
    if linear and isinstance(reader, CONV):
        raise ValueError(
            f"conv layer {consumer!r} does not read along the units of the linear layer {layer!r}, which come last"
        )
    if not linear and isinstance(reader, nn.Linear) and not flattened:
        raise ValueError(
            f"linear layer {consumer!r} reads along the width of the images of {layer!r}, not its channels: "
            "flatten in between"
        )


def _pools(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    return isinstance(modules.get(str(node.target)), POOLS) or node.target in POOL_CALLS


def _only_user(node: fx.Node, layer: str) -> fx.Node:
    users = [
        u
        for u in node.users
        if not (u.op == "call_method" and u.target in SHAPE_METHODS) and u.target is not getattr
    ]
    if len(users) != 1:
        raise ValueError(
            f"the activation of layer {layer!r} is read {len(users)} times: a split needs one reader"
        )
    return users[0]


def _kind(node: fx.Node, modules: Mapping[str, nn.Module], layer: str, homogeneous: bool) -> str:
    if node.op == "output":
        raise ValueError(f"layer {layer!r} is the output layer: only hidden units can be split")
    if node.op == "call_module":
        return _module_kind(modules[str(node.target)], str(node.target), layer, homogeneous)
    if node.op == "call_method":
        if node.target in FLATTEN_METHODS:
            return _flatten_kind(node, layer)
        if node.target in HOMOGENEOUS_METHODS or not homogeneous:
            return "step"
    elif node.target is torch.flatten:
        return _flatten_kind(node, layer)
    elif node.target in (operator.add, torch.add, operator.iadd):
        raise ValueError(f"layer {layer!r} feeds a sum: both summands would have to be split alike")
    elif node.target in HOMOGENEOUS_CALLS or not homogeneous:
        return "step"
    name = getattr(node.target, "__name__", str(node.target))
    raise ValueError(
        f"{name} after layer {layer!r} is not known to be positively 1-homogeneous: use ReLU or leaky ReLU"
    )


def _module_kind(module: nn.Module, name: str, layer: str, homogeneous: bool) -> str:
    if isinstance(module, WEIGHTED):
        return "weighted"
    if isinstance(module, nn.Flatten):
        if module.start_dim != 1 or module.end_dim != -1:
            raise ValueError(f"{name!r} must flatten every dimension but the first (start_dim=1, end_dim=-1)")
        return "flatten"
    if isinstance(module, NORMS):
        raise ValueError(
            f"{type(module).__name__} {name!r} normalises over the units of {layer!r}: copies scaled by c_i "
            "are scaled back, so the principle does not apply; remove the normalisation"
        )
    if isinstance(module, nn.Dropout) and module.p > 0 and homogeneous:
        raise ValueError(f"Dropout {name!r} draws one mask a copy: set p=0 to split layer {layer!r}")
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        raise ValueError(
            f"PReLU {name!r} learns one slope a unit: use num_parameters=1 to split layer {layer!r}"
        )
    if isinstance(module, (*ACTIVATIONS, *POOLS, nn.Dropout)) or not homogeneous:
        return "step"
    raise ValueError(
        f"{type(module).__name__} {name!r} after layer {layer!r} is not positively 1-homogeneous: the "
        "principle needs f(c x) = c f(x) for c > 0; use ReLU, leaky ReLU or a linear unit"
    )


def _flatten_kind(node: fx.Node, layer: str) -> str:
    sizes = node.args[1:]
    if node.target in ("view", "reshape") and -1 not in (sizes[0] if isinstance(sizes[0], tuple) else sizes):
        raise ValueError(
            f"a fixed {node.target} size follows layer {layer!r}: write x.flatten(1), which can widen"
        )
    return "flatten"


def _step(node: fx.Node, modules: Mapping[str, nn.Module]) -> Callable[[Tensor], Tensor]:
    if node.op == "call_module":
        return modules[str(node.target)]
    if node.target in FLATTEN_METHODS or node.target is torch.flatten:
        return lambda x: x.flatten(1)
    rest, keywords = node.args[1:], dict(node.kwargs)
    keywords.pop("input", None)
    if node.op == "call_method":
        return lambda x: getattr(x, str(node.target))(*rest, **keywords)
    function: Any = node.target
    return lambda x: function(x, *rest, **keywords)
