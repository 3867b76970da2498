"""Arc ridge: regularise fine-tuning by the length of the path that training has travelled. Reconstructed.

Around your optimiser, or once for all lambdas::

    import torch
    from reproven.papers.arc_ridge import ArcRidge, arc_path

    model = torch.nn.Linear(3, 1)
    x, y = torch.randn(50, 3), torch.randn(50, 1)
    arc = ArcRidge(torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0), lam=0.1)
    while not arc.stopped and arc.steps < 500:
        arc.optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        arc.step(loss)

What is supported:

* the optimiser and the path: `ArcRidge` (`ArcInfo`, `Diverged`), `arc_path` (`ArcPath`, `Stop`), `first_stop`
* is weight decay safe for my network: `rho_v` (exact), `rho_v_matrix_free` (conjugate gradients on J J^T)
* baselines for one network: `NetworkFineTuning` with `finetuning.*` methods; `wise`, `kernel_ridge`, `patience_index`
* what fine-tuning leaves: `linear_probe_accuracy`, `linear_cka`, `kernel_alignment`
* small networks in float64, many at once: `TwoLayer`, `gradient_flow`, `truncated_flow`, `nearest_on_fibre`,
  `fibre_flow`, `ridge`, `geodesic`
* closed forms: modules `kernel` (linear models) and `toy` (F = a b, Riemannian Gibbs process)
"""

from reproven.papers.arc_ridge import kernel, toy
from reproven.papers.arc_ridge.arc import ArcInfo, ArcRidge, Diverged
from reproven.papers.arc_ridge.finetuning import kernel_ridge, patience_index, wise
from reproven.papers.arc_ridge.flow import gradient_flow, truncated_flow
from reproven.papers.arc_ridge.geodesic import geodesic
from reproven.papers.arc_ridge.geometry import (
    fibre_flow,
    nearest_on_fibre,
    rho_v,
    rho_v_matrix_free,
    ridge,
)
from reproven.papers.arc_ridge.network import NetworkFineTuning
from reproven.papers.arc_ridge.path import ArcPath, Stop, arc_path, first_stop
from reproven.papers.arc_ridge.retention import kernel_alignment, linear_cka, linear_probe_accuracy
from reproven.papers.arc_ridge.two_layer import TwoLayer

__all__ = [
    "ArcInfo",
    "ArcPath",
    "ArcRidge",
    "Diverged",
    "NetworkFineTuning",
    "Stop",
    "TwoLayer",
    "arc_path",
    "fibre_flow",
    "first_stop",
    "geodesic",
    "gradient_flow",
    "kernel",
    "kernel_alignment",
    "kernel_ridge",
    "linear_cka",
    "linear_probe_accuracy",
    "nearest_on_fibre",
    "patience_index",
    "rho_v",
    "rho_v_matrix_free",
    "ridge",
    "toy",
    "truncated_flow",
    "wise",
]
