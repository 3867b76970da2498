"""SAC-BL: which of my scores may I call anomalies, with a guarantee on the share of false alarms.

Scores -> p-values -> mask. Every rule takes arrays of shape (..., n), leading axes being independent batches, and
returns (mask of anomalies, Info)::

    p = conformal_p(calibration_scores, test_scores)
    anomalous, info = bh(p, alpha=0.1)

What is supported:

* p-values: `conformal_p`, `conformal_p_per_location`, `weighted_conformal_p`, `known_null_p`
* the paper's rules: `bl`, `sbl` (`sbl_version1`, `sbl_inclusion`, `sbl_per_item`)
* stronger, same guarantee: `sharp_bl`, `discrete_bl`, `closed_e_bh`; how much calibration: `k_min`, `best_gamma`
* any dependence: `e_bh`, `u_e_bh`, `by`, `u_by`, `conformal_e`,
  `derandomised_conformal_e`; e-values: `power_calibrator`,
  `integral_calibrator`, `discrete_calibrator`, `conformal_e_values`, `on_e_values`
* positive dependence (conformal p-values have it): `bh`, `storey_bh`
* one item at a time: `lond`, `lord_plus_plus`, `saffron`, `addis`, `e_lond`
* without a guarantee: `fixed_threshold`; an oracle: `f1_adaptive`
* metrics: module `metrics`
* scores to decide on: subpackage `detectors` (nearest neighbours, PCA, ECOD, isolation forest, PaDiM, PatchCore) and
  subpackage `network` (the SAC network, reconstructed: `train_sac`, `sac_score_maps`); `defects` makes test defects
"""

from reproven.papers.sac_bl import metrics
from reproven.papers.sac_bl.bl import best_gamma, bl, discrete_bl, k_min, sharp_bl, worst_case_fdr
from reproven.papers.sac_bl.e_values import (
    closed_e_bh,
    conformal_e,
    conformal_e_values,
    derandomised_conformal_e,
    discrete_calibrator,
    e_bh,
    integral_calibrator,
    on_e_values,
    power_calibrator,
    u_e_bh,
)
from reproven.papers.sac_bl.evidence import Evidence, decide
from reproven.papers.sac_bl.online import addis, e_lond, lond, lord_plus_plus, saffron
from reproven.papers.sac_bl.p_values import (
    conformal_p,
    conformal_p_per_location,
    known_null_p,
    weighted_conformal_p,
)
from reproven.papers.sac_bl.rules import bh, by, f1_adaptive, fixed_threshold, storey_bh, u_by
from reproven.papers.sac_bl.sbl import sbl, sbl_inclusion, sbl_per_item, sbl_version1
from reproven.papers.sac_bl.step_up import Info, NoPowerWarning

__all__ = [
    "Evidence",
    "Info",
    "NoPowerWarning",
    "addis",
    "best_gamma",
    "bh",
    "bl",
    "by",
    "closed_e_bh",
    "conformal_e",
    "conformal_e_values",
    "conformal_p",
    "conformal_p_per_location",
    "decide",
    "derandomised_conformal_e",
    "discrete_bl",
    "discrete_calibrator",
    "e_bh",
    "e_lond",
    "f1_adaptive",
    "fixed_threshold",
    "integral_calibrator",
    "k_min",
    "known_null_p",
    "lond",
    "lord_plus_plus",
    "metrics",
    "on_e_values",
    "power_calibrator",
    "saffron",
    "sbl",
    "sbl_inclusion",
    "sbl_per_item",
    "sbl_version1",
    "sharp_bl",
    "storey_bh",
    "u_by",
    "u_e_bh",
    "weighted_conformal_p",
    "worst_case_fdr",
]
