"""SFLCB: bilevel optimisation with a linearly constrained lower level, and exact scores for any method on it.

A problem is f, g and ``B x + A y <= b``, as torch tensors (gradients by autograd) or NumPy arrays::

    import torch
    from reproven.papers.sflcb import BilevelProblem, Steps, sflcb, start

    f = lambda x, y: ((y - 1) ** 2).sum(-1) + 0.1 * (x**2).sum(-1)
    g = lambda x, y: ((y - x) ** 2).sum(-1)
    one = torch.ones(1, 1).double()
    problem = BilevelProblem(f, g, one, -one, torch.zeros(1).double(), mu_g=2.0, l_f1=2.0)  # y <= x
    begin = start(problem, torch.zeros(1).double(), torch.zeros(1).double())
    result = sflcb(problem, begin, iterations=2000, delta=0.1, rho=0.5, steps=Steps.common(0.1))
    problem.numpy().phi(result.state.x.numpy())  # the true upper value: y solved exactly

What is supported:

* a problem and its checks: `BilevelProblem`, `check_feasible`, `check_curvature`, `rho_bound`, `Infeasible`
* Algorithm 1: `sflcb`, `start`, `warm_start`, `step`, `State`, `Steps`, `Result`; plain twin `sflcb_reference`
* step sizes: `theory_steps` (proven), `PUBLISHED` (the paper's tables), `tune` (equal grids, equal budgets)
* variants, not in the paper: `slack_eliminated_step`, `delta_continuation`, `adaptive_rho`, `scale_rows`
* what the theorems speak of: `penalised` (Phi_delta and its gradient), `potential` (V_t), `modulus`
* exact evaluators: `lower_level`, `hypergradient`, `nearest_feasible`, `high_point`, `ConvexQP`; certificates of
  quadratic problems: `certify`, `enumerate_active_sets`, `KKTProgram`
* methods under one budget (`run`): `SFLCB`, `BLOCC`, `LVHBA`, `BiCGAFFA`, `GAM`, `AiPOD`, `KwonPenalty`,
  `ImplicitGradient`; those with exact solves inside take ``problem.numpy()``
* test beds: `LCQP`, `draw` (with ``certificate()``), `SVM`, `Transport`, `AiPODToy`, `GAFFAToy`, `Toy`

Other names than those of Algorithm 1 load on first use.
"""

from importlib import import_module
from typing import Any

# Eager: these two functions are called like their modules, which a late import would put in their place.
from reproven.papers.sflcb.sflcb import Result, State, Steps, rho_bound, sflcb, start, step, warm_start
from reproven.papers.sflcb.sflcb_reference import sflcb_reference

_MODULES = {
    "baselines.aipod": "AiPOD",
    "baselines.blocc": "BLOCC",
    "baselines.gaffa": "BiCGAFFA",
    "baselines.implicit": "GAM ImplicitGradient hypergradient",
    "baselines.kwon": "KwonPenalty",
    "baselines.lv_hba": "LVHBA",
    "beds.equality": "AiPODToy GAFFAToy",
    "beds.lcqp": "LCQP draw",
    "beds.svm": "SVM",
    "beds.toy": "Toy",
    "beds.transport": "Transport",
    "driver": "Method Trace run tune",
    "exact": "ConvexQP Infeasible KKTProgram LowerSolution certify check_feasible enumerate_active_sets high_point "
    "lower_level nearest_feasible",
    "methods": "SFLCB",
    "problem": "BilevelProblem check_curvature",
    "steps": "PUBLISHED",
    "theory": "modulus penalised potential theory_steps",
    "variants": "adaptive_rho delta_continuation scale_rows slack_eliminated_step",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
__all__ = [
    "Result", "State", "Steps", "rho_bound", "sflcb", "sflcb_reference", "start", "step", "warm_start", *sorted(_HOME)
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the public name `name` from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
