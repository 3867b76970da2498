"""Figures of the ProGrad experiments; each takes the experiment's measurements."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREYS = ("0.0", "0.35", "0.6", "0.75")


def soundness(data: pd.DataFrame) -> Figure:
    """Largest violation of each network, with the activation condition held and dropped, by edited layer."""
    part = data[data["metric"] == "violation"]
    layers = [name for name in ("first", "middle", "last", "in_turn") if name in set(part["layer"])]
    fig, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for k, (condition, marker, colour) in enumerate((("held", "o", "0.0"), ("dropped", "^", "0.5"))):
        for i, layer in enumerate(layers):
            y = part[(part["layer"] == layer) & (part["condition"] == condition)]["value"].to_numpy()
            x = i + 0.25 * (k - 0.5) + np.linspace(-0.08, 0.08, len(y))
            label = f"condition {condition}" if i == 0 else None
            axis.plot(x, y, marker, color=colour, markersize=4, label=label)
    axis.axhline(0.0, color="0.6", linestyle=":", linewidth=1)
    axis.set_xticks(
        range(len(layers)), [f"{name} layer" if name != "in_turn" else "in turn" for name in layers]
    )
    axis.set_ylabel("largest violation of a Jacobian entry")
    axis.set_title("Boxes on Jacobians: each dot a network; above 0 is violated")
    axis.legend(frameon=False)
    return fig
