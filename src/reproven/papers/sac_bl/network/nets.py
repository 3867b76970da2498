"""The two sub-networks: a reconstructor without skips and a U-Net that compares it with its input.

Reconstructed: the paper gives no architecture. This is the lineage of DRAEM (dossier 3.1): a reconstructor of 5
blocks and base width 128, a discriminator of 6 blocks and base width 64, weights N(0, 0.02). Widths and numbers of
blocks are parameters, so that the same code trains on a processor.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def _double(inside: int, outside: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, padding=1),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


def _up(inside: int, outside: int) -> nn.Sequential:
    """Twice the height and width (bilinear), then one 3x3 convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Conv2d(inside, outside, 3, padding=1),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


def _widths(width: int, blocks: int) -> list[int]:
    """width, 2 width, 4 width, 8 width, 8 width, ..."""
    return [width * min(2**i, 8) for i in range(blocks)]


class ReconstructiveNet(nn.Module):
    """Encoder and decoder without skips: whatever is foreign must not get through. (n, c, h, w) -> the same.

    Args: channels of the images; base width; number of blocks (height and width must be multiples of 2^(blocks-1)).
    """

    def __init__(self, channels: int = 3, width: int = 128, blocks: int = 5) -> None:
        super().__init__()
        widths = _widths(width, blocks)
        inside = [channels, *widths[:-1]]
        self.encoder = nn.ModuleList(_double(a, b) for a, b in zip(inside, widths))
        self.ups = nn.ModuleList(_up(b, a) for a, b in zip(widths[-2::-1], widths[:0:-1]))
        self.decoder = nn.ModuleList(_double(a, a) for a in widths[-2::-1])
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, block in enumerate(self.encoder):
            x = block(x if index == 0 else functional.max_pool2d(x, 2))
        for up, block in zip(self.ups, self.decoder):
            x = block(up(x))
        return self.out(x)


class DiscriminativeNet(nn.Module):
    """U-Net with skips: (reconstruction, input) stacked, (n, 2 c, h, w) -> logits of normal and anomalous (n, 2, h, w).

    Args: as `ReconstructiveNet`.
    """

    def __init__(self, channels: int = 3, width: int = 64, blocks: int = 6) -> None:
        super().__init__()
        widths = _widths(width, blocks)
        inside = [2 * channels, *widths[:-1]]
        self.encoder = nn.ModuleList(_double(a, b) for a, b in zip(inside, widths))
        self.ups = nn.ModuleList(_up(b, a) for a, b in zip(widths[-2::-1], widths[:0:-1]))
        self.decoder = nn.ModuleList(_double(2 * a, a) for a in widths[-2::-1])
        self.out = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for index, block in enumerate(self.encoder):
            x = block(x if index == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        for up, block, skip in zip(self.ups, self.decoder, skips[-2::-1]):
            x = block(torch.cat([up(x), skip], dim=1))
        return self.out(x)


class SacNetwork(nn.Module):
    """R-net and D-net together: x -> (reconstruction, logits).

    Args:
        channels: of the images.
        reconstructive_width, discriminative_width: base widths; DRAEM's 128 and 64.
        reconstructive_blocks, discriminative_blocks: numbers of blocks; DRAEM's 5 and 6.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        reconstructive_width: int = 128,
        discriminative_width: int = 64,
        reconstructive_blocks: int = 5,
        discriminative_blocks: int = 6,
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (max(reconstructive_blocks, discriminative_blocks) - 1)
        self.reconstruct = ReconstructiveNet(channels, reconstructive_width, reconstructive_blocks)
        self.discriminate = DiscriminativeNet(channels, discriminative_width, discriminative_blocks)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if x.shape[-1] % self.multiple or x.shape[-2] % self.multiple:
            raise ValueError(
                f"images of {x.shape[-2]} x {x.shape[-1]} pixels: sides must be multiples of {self.multiple}; "
                "use fewer blocks or another size"
            )
        reconstruction = self.reconstruct(x)
        return reconstruction, self.discriminate(torch.cat([reconstruction, x], dim=1))


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew: convolutions N(0, 0.02), normalisation N(1, 0.02), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.copy_(0.02 * torch.randn(module.weight.shape, generator=generator))
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.data.copy_(1 + 0.02 * torch.randn(module.weight.shape, generator=generator))
            module.bias.data.zero_()
