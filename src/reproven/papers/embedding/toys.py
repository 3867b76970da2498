"""The released toy data and batch orders, draw by draw, and the paper's own description where it differs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SAMPLES = 100


def two_gaussians(centre: float, generator: torch.Generator, std: float = 0.8) -> tuple[Tensor, Tensor]:
    """Return 50 + 50 points around ``(centre, -centre)``, label +1, and its mirror image, label -1.

    centre: 2 (Exps 1, 3, 4) or 1 (Exp. 2). Returns x (100, 2) and y (100,), float64, class +1 drawn first.
    Source: released code; the paper leaves out the standard deviation.
    """
    c = torch.tensor([centre, -centre], dtype=torch.float64)
    halves = [
        torch.randn(SAMPLES // 2, 2, dtype=torch.float64, generator=generator) * std + sign * c
        for sign in (1, -1)
    ]
    y = torch.ones(SAMPLES, dtype=torch.float64)
    y[SAMPLES // 2 :] = -1
    return torch.cat(halves), y


def five_by_five(seed: int) -> tuple[Tensor, Tensor]:
    """Return the 200 images 1x5x5 of the released Exp. 5 (``make_classification``; random_state 42 there)."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        n_samples=200, n_features=25, n_informative=5, n_redundant=0, n_clusters_per_class=2, flip_y=0,
        random_state=seed,
    )  # fmt: skip
    return torch.from_numpy(x).view(200, 1, 5, 5), torch.from_numpy(y).to(torch.float64) * 2 - 1


def separable_images(generator: torch.Generator, std: float = 0.8) -> tuple[Tensor, Tensor]:
    """Return 50 + 50 images 1x5x5: three rows around 2 and two around -2, and the mirror image.

    Exp. 5 as the paper describes it: 100 separable samples. Reconstructed: the Gaussians of Exps 1 to 4
    carried to 25 pixels.
    """
    centre = torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0], dtype=torch.float64).view(1, 5, 1).expand(1, 5, 5)
    half = SAMPLES // 2
    halves = [
        torch.randn(half, 1, 5, 5, dtype=torch.float64, generator=generator) * std + sign * centre
        for sign in (1, -1)
    ]
    y = torch.ones(SAMPLES, dtype=torch.float64)
    y[half:] = -1
    return torch.cat(halves), y


class LoaderOrder:
    """The order in which a shuffling ``torch.utils.data.DataLoader`` visits `n` samples, epoch after epoch.

    Each pass over a loader draws two 64-bit integers from torch's global generator: a base seed when the
    iterator
    is made (for workers, unused here) and the seed of the permutation when the first batch is asked for. Two
    loaders opened together (``cycle(a), cycle(b)``) therefore draw base, base, permutation, permutation.
    """

    def __init__(self, n: int, generator: torch.Generator) -> None:
        """n: samples; generator: stands for torch's global one. Making the order opens the first pass."""
        self.n, self.generator = n, generator
        self._draw()
        self._open = True

    def _draw(self) -> int:
        return int(torch.empty((), dtype=torch.int64).random_(generator=self.generator))

    def epoch(self) -> Tensor:
        """Return the permutation of the next epoch, (n,)."""
        if not self._open:
            self._draw()
        self._open = False
        return torch.randperm(self.n, generator=torch.Generator().manual_seed(self._draw()))


def padded_batches(order: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Cut an epoch into batches; the last, short one is padded with weight 0.

    Returns index (batches, batch) and weight (batches, batch), whose rows sum to one.
    """
    n = len(order)
    count = -(-n // batch)
    index = torch.zeros(count * batch, dtype=torch.int64)
    weight = torch.zeros(count * batch, dtype=torch.float64)
    index[:n], weight[:n] = order, 1.0
    index, weight = index.view(count, batch), weight.view(count, batch)
    return index, weight / weight.sum(1, keepdim=True)


def batch_source(
    orders: list[Callable[[], Tensor]], batch: int, repeat: bool
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return step -> (index, weight), each (pairs, batch), one order a pair.

    repeat: visit the first epoch's batches for ever, as ``itertools.cycle(DataLoader)`` does in the
    released code; otherwise draw a fresh order each epoch. Steps must be asked for in order.
    """
    state: dict[str, tuple[Tensor, Tensor]] = {}

    def at(step: int) -> tuple[Tensor, Tensor]:
        if not state or (not repeat and step % len(state["epoch"][0]) == 0):
            cut = [padded_batches(order(), batch) for order in orders]
            state["epoch"] = (torch.stack([c[0] for c in cut], 1), torch.stack([c[1] for c in cut], 1))
        index, weight = state["epoch"]
        return index[step % len(index)], weight[step % len(index)]

    return at
