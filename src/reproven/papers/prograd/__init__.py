"""ProGrad: edit one layer of my network so that its gradients and explanations obey hard bounds, with a proof.

The smallest change of a layer's weights under linear constraints on gradients at points; certified by autograd on the
edited copy, in the precisions asked for; what cannot be done comes back untouched, with the conflicting requirements::

    import torch
    from reproven.papers.prograd import JacobianBox, edit_gradients

    model = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2)).eval()
    x = torch.randn(4, 3)
    result = edit_gradients(model, "0", x, [JacobianBox(-0.3, 0.3)])   # every dN_o/dx_j within +-0.3 at x
    result.status, result.certificates, result.model                   # "edited", what autograd says, the edited copy

What is supported:

* edits: `edit_gradients` (any layer, or several of which none lies behind another; anything differentiable in front;
  behind it ReLU, ReLU6, leaky ReLU, hard tanh, max and mean pooling, evaluation-mode batch normalisation, convolutions
  and residual branches, or anything at all with ``pin=True``), `edit_in_turn` (layers in series), `add_cuts`
  (violations between the points), `Keep` (outputs to preserve), `solve_lazily` (rows that come in when missed)
* constraints: `JacobianBox`, `JacobianPolytope`, `Directional`, `saliency`, `input_x_gradient`, `OutputMargin`,
  `GradCAM`, `IntegratedGradients`, `FrozenMaps`, `LinearOperator` (`derivative`, `monotone`, `convex`)
* certificates: `certify` (autograd, in float64, float32 or bfloat16), `exact_slack` (rational arithmetic)
* why not: `conflict` (irreducible conflicting set, least relaxation)
* attributions: `grad_cam`, `integrated_gradients`, `input_gradients`; `satisfaction`, `cosine`, `iou`
* soft editors to compare with: module `heads`
"""

from reproven.papers.prograd.attribution import (
    cosine,
    grad_cam,
    input_gradients,
    integrated_gradients,
    iou,
    satisfaction,
)
from reproven.papers.prograd.certify import Certificate, certify, exact_slack
from reproven.papers.prograd.constraints import (
    Directional,
    FrozenMaps,
    GradCAM,
    IntegratedGradients,
    JacobianBox,
    JacobianPolytope,
    LinearOperator,
    OutputMargin,
    convex,
    derivative,
    input_x_gradient,
    monotone,
    saliency,
)
from reproven.papers.prograd.edit import Edit, Keep, add_cuts, edit_gradients, edit_in_turn
from reproven.papers.prograd.infeasible import Conflict, conflict
from reproven.papers.prograd.program import Solution, solve, solve_lazily
from reproven.papers.prograd.rows import min_max

__all__ = [
    "Certificate",
    "Conflict",
    "Directional",
    "Edit",
    "FrozenMaps",
    "GradCAM",
    "IntegratedGradients",
    "JacobianBox",
    "JacobianPolytope",
    "Keep",
    "LinearOperator",
    "OutputMargin",
    "Solution",
    "add_cuts",
    "certify",
    "conflict",
    "convex",
    "cosine",
    "derivative",
    "edit_gradients",
    "edit_in_turn",
    "exact_slack",
    "grad_cam",
    "input_gradients",
    "input_x_gradient",
    "integrated_gradients",
    "iou",
    "min_max",
    "monotone",
    "saliency",
    "satisfaction",
    "solve",
    "solve_lazily",
]
