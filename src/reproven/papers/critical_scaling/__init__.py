"""Critical scaling of inverse temperature in self-attention: at which beta does a row of logits condense, and why.

For a row of logits, B = max_k log(1 + k) / g_k over its sorted gaps is the critical inverse temperature: at
beta > B softmax has a winner (p_max >= 1 - B / beta, guaranteed), below it the top competitors stay unseparated.
On your own model::

    found = diagnose(model, texts, [128, 512, 2048], tokenizer=tokenizer)
    print(found.summary())

and on your own logits::

    import numpy as np
    from reproven.papers.critical_scaling import p_max_floor, row_stats

    stats = row_stats(np.random.default_rng(0).normal(size=(8, 1024)))
    stats.scale, stats.depth, stats.beta      # B, k*, beta_{2/3}
    p_max_floor(stats.scale, beta=6.0)        # a certificate for each row

What is supported:

* rows: `row_stats`, `fast_stats` (float32), `gaps`, `accumulation_scale`, `log_partition`, `concentration`,
  `beta_at`, `annealed_profile`, `regime`; one pass over a row: `ScaleStream`, `streaming_scale`
* certificates (Theorem A): `p_max_floor`, `p_max_ceiling`, `entropy_floor`, `entropy_ceiling`,
  `two_thirds_bracket`, `half_bracket`
* laws: `local_exponents`, `fit_exponent`, `bootstrap_exponents`, `choose_law`; score families: module `families`
* models: `diagnose`, `calibrate`, `attending` (the hook), `Recorder`
* rescaling rules, as logit multipliers for any Hugging Face model: module `rules` (`Rescaled`, `BRule`, ...)::

      known = calibrate(model, documents, train_length=2048, lengths=[4096, 8192])
      with attending(model, scaler=Rescaled(BRule(), known)):
          model.generate(...)
"""

from reproven.papers.critical_scaling import families, rules
from reproven.papers.critical_scaling.attention import attending
from reproven.papers.critical_scaling.certificates import (
    entropy_ceiling,
    entropy_floor,
    half_bracket,
    p_max_ceiling,
    p_max_floor,
    two_thirds_bracket,
)
from reproven.papers.critical_scaling.diagnose import Diagnosis, Recorder, calibrate, diagnose
from reproven.papers.critical_scaling.exponents import (
    bootstrap_exponents,
    choose_law,
    fit_exponent,
    local_exponents,
)
from reproven.papers.critical_scaling.fast import fast_stats
from reproven.papers.critical_scaling.rows import (
    RowStats,
    accumulation_scale,
    annealed_profile,
    beta_at,
    concentration,
    gaps,
    log_partition,
    regime,
    row_stats,
)
from reproven.papers.critical_scaling.rules import BRule, Calibration, Rescaled
from reproven.papers.critical_scaling.streaming import ScaleStream, StreamScale, streaming_scale

__all__ = [
    "BRule",
    "Calibration",
    "Diagnosis",
    "Recorder",
    "Rescaled",
    "RowStats",
    "ScaleStream",
    "StreamScale",
    "accumulation_scale",
    "annealed_profile",
    "attending",
    "beta_at",
    "bootstrap_exponents",
    "calibrate",
    "choose_law",
    "concentration",
    "diagnose",
    "entropy_ceiling",
    "entropy_floor",
    "families",
    "fast_stats",
    "fit_exponent",
    "gaps",
    "half_bracket",
    "local_exponents",
    "log_partition",
    "p_max_ceiling",
    "p_max_floor",
    "regime",
    "row_stats",
    "rules",
    "streaming_scale",
    "two_thirds_bracket",
]
