"""The paper's networks as plain `nn.Sequential`, with the released code's initialisations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

SLOPE = 0.01  # leaky ReLU of all the paper's experiments


def activation(name: str, slope: float = SLOPE) -> nn.Module:
    """Return ``leaky``, ``relu``, ``linear``, or the not 1-homogeneous ``tanh`` and ``relu2`` (controls)."""
    known: dict[str, Callable[[], nn.Module]] = {
        "leaky": lambda: nn.LeakyReLU(slope),
        "relu": nn.ReLU,
        "linear": nn.Identity,
        "tanh": nn.Tanh,
        "relu2": SquaredReLU,
    }
    if name not in known:
        raise ValueError(f"activation {name!r} is not one of {', '.join(known)}")
    return known[name]()


class SquaredReLU(nn.Module):
    """``max(x, 0)^2``: positively homogeneous of degree 2, not 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the squared positive part."""
        return torch.relu(x) ** 2


def mlp(widths: Sequence[int], *, act: str = "leaky", bias: bool = False) -> nn.Sequential:
    """Return ``widths[0]-...-widths[-1]``, layers named 0, 2, 4...; call an initialiser for the weights."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(fan_in, fan_out, bias=bias, dtype=torch.float64))
        if i < len(widths) - 2:
            layers.append(activation(act))
    return nn.Sequential(*layers)


def cnn(
    size: int,
    channels: int,
    kernel: int,
    *,
    pool: int = 1,
    inputs: int = 1,
    outputs: int = 1,
    act: str = "leaky",
) -> nn.Sequential:
    """Return conv - activation [- average pool] - flatten - linear, bias-free; layers ``0`` and ``fc``."""
    side = (size - kernel + 1) // pool
    net = nn.Sequential()
    net.add_module("0", nn.Conv2d(inputs, channels, kernel, bias=False, dtype=torch.float64))
    net.add_module("1", activation(act))
    if pool > 1:
        net.add_module("pool", nn.AvgPool2d(pool))
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.Linear(channels * side * side, outputs, bias=False, dtype=torch.float64))
    return net


def kaiming_uniform(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw every weight from ``U(-1/sqrt(fan_in), 1/sqrt(fan_in))`` in place (toy experiments 1 to 4)."""
    for parameter in model.parameters():
        bound = 1 / math.sqrt(parameter[0].numel())
        with torch.no_grad():
            parameter.uniform_(-bound, bound, generator=generator)
    return model


def kaiming_normal(model: nn.Module, generator: torch.Generator, scale: float = 1.0) -> nn.Module:
    """Draw every weight from Kaiming-normal with ``a = sqrt(5)`` (CNN and MNIST), times `scale`, in place."""
    for parameter in model.parameters():
        nn.init.kaiming_normal_(parameter, a=math.sqrt(5), generator=generator)
        with torch.no_grad():
            parameter.mul_(scale)
    return model


def he_normal(model: nn.Module, generator: torch.Generator, scale: float = 1.0) -> nn.Module:
    """Draw every weight from ``scale * N(0, 2/fan_in)`` and biases from ``N(0, 0.01 scale^2)``, in place."""
    for parameter in model.parameters():
        std = math.sqrt(2 / parameter[0].numel()) if parameter.ndim > 1 else 0.1
        with torch.no_grad():
            parameter.normal_(0, std * scale, generator=generator)
    return model
