"""Small networks that are trained here: a digit classifier, a tanh net for functions; and their training loops."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 512


def digit_cnn(size: int) -> nn.Sequential:
    """Return conv32, conv64, conv512 -> ReLU -> mean -> fc, with a 4x4 map, for images of 8x8 or 28x28 pixels.

    512 channels: a class may be asked for (entries - 1) * images values, which must stay a small share of them.
    """
    stride = {8: (1, 2, 1), 28: (2, 2, 2)}
    if size not in stride:
        raise ValueError(f"images of {size} pixels: this network takes 8 or 28")
    a, b, c = stride[size]
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3, stride=a, padding=1), relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3, stride=b, padding=1), relu2=nn.ReLU(),
            conv3=nn.Conv2d(64, CHANNELS, 3, stride=c, padding=1), relu3=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(CHANNELS, 10),
        )
    )  # fmt: skip


def drawn(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw weights of Linear and Conv2d uniformly by fan-in (He), biases by the default rule; changed in place."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                fan = layer.weight[0].numel()
                layer.weight.uniform_(-((6 / fan) ** 0.5), (6 / fan) ** 0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.uniform_(-(fan**-0.5), fan**-0.5, generator=generator)
    return model


def fit_classifier(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    generator: torch.Generator,
    rate: float = 2e-3,
    batch: int = 64,
) -> nn.Module:
    """Train with Adam on cross-entropy under a one-cycle rate; return the model in evaluation mode."""
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            optimiser.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def tanh_net(hidden: int = 100) -> nn.Sequential:
    """Return the 1-100-100-100-1 tanh network of the function experiment, float64."""
    return nn.Sequential(
        nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(),
        nn.Linear(hidden, 1),
    )  # fmt: skip


def batched(model: nn.Module, x: Tensor, size: int = 256) -> Tensor:
    """Return the model's outputs without gradient, in batches."""
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(size)])


def as_images(data: np.ndarray, peak: int) -> Tensor:
    """Return uint8 images (n, h, w) as float32 (n, 1, h, w) in [0, 1]."""
    return torch.as_tensor(data, dtype=torch.float32)[:, None] / peak
