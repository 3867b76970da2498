"""Embedding principle of homogeneous networks: widen a network so that training cannot tell.

    wide, T = split(model, "0", unit=3, coefficients=[0.6, 0.8])     # any traceable torch module
    T(dict(model.named_parameters()))                                # parameters, gradients, moments

What is supported:

* the splitting map: `split`, `split_layer`, `Embedding`, `embed_optimiser_state`
* beyond the paper: `split_attention` (of a `SelfAttention`), `split_gated` (of `GatedUnits`, tau < 1)
* other widenings: `net2net`, `splitting_2021`, `null_unit`, `compatible_embedding`, `scaled_split`
* one pair, any module and optimiser: `train_pair`; many pairs at once: `train_pairs` with `StackedNet`, `Batch`,
  `stack_models`, `stack_embeddings` and the rules `GradientRule`, `AdaptiveRule` (``repaired=True`` for Adam)
* KKT: `certificate`, `clarke_certificate`
* curvature off the image: `transverse_matrix`, `transverse_hessian`, `growth_rates`
* distance of a wide network from the images of narrow ones: `ray_distance`

Names load on first use: planning runs must not wait for torch.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "comparators": "compatible_embedding net2net null_unit scaled_split splitting_2021",
    "condensation": "ray_distance",
    "extensions": "GatedUnits SelfAttention split_attention split_gated",
    "kkt": "Certificate certificate clarke_certificate",
    "optimisers": "AdaptiveRule GradientRule",
    "splitting": "Embedding embed_optimiser_state split split_layer",
    "stacked": "Batch StackedNet stack_embeddings stack_models",
    "trajectory": "PairRecord train_pairs train_stack",
    "trajectory_reference": "train_pair",
    "transverse": "growth_rates transverse_hessian transverse_matrix",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import the public name `name` from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
