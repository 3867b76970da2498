"""Laws of the node features: independent coordinates with a common mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor


@dataclass(frozen=True)
class FeatureLaw:
    """Law of one feature coordinate. `kind` is ``"uniform"`` (on an interval) or ``"normal"``."""

    kind: str
    mean: float
    sd: float

    def sample(self, width: int, n: int, rng: Generator, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw features as columns, (width, n)."""
        if self.kind == "uniform":
            unit = (rng.random((width, n), dtype=np.float32) - np.float32(0.5)) * np.float32(12**0.5)
        else:
            unit = rng.standard_normal((width, n), dtype=np.float32)
        return torch.from_numpy(unit).to(dtype).mul_(self.sd).add_(self.mean)


# The official experiments draw U(0,1); "normal1" and "normal5" are its appendix variants; "normal0" and
# "uniform0" have mean zero, which breaks the hypothesis of the theorem on sums.
LAWS: dict[str, FeatureLaw] = {
    "uniform": FeatureLaw("uniform", 0.5, 12**-0.5),
    "normal1": FeatureLaw("normal", 0.5, 1.0),
    "normal5": FeatureLaw("normal", 0.5, 5.0),
    "normal0": FeatureLaw("normal", 0.0, 1.0),
    "uniform0": FeatureLaw("uniform", 0.0, 12**-0.5),
}


def feature_law(name: str) -> FeatureLaw:
    """Return the law called `name`."""
    if name not in LAWS:
        raise ValueError(f"feature law {name!r} is unknown; choose one of {', '.join(LAWS)}")
    return LAWS[name]
