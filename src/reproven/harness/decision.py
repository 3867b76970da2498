"""The one record that a claim test or a value comparison returns."""

from __future__ import annotations

from dataclasses import dataclass, field

CLAIM_VERDICTS = ("holds", "violated", "inconclusive")
VALUE_VERDICTS = ("reproduced", "better", "deviates", "inconclusive", "single-run")
ABSENT_VERDICTS = ("reduced", "blocked", "failed", "not-run")


@dataclass(frozen=True)
class Decision:
    """What the measurements say about one target.

    verdict: one of CLAIM_VERDICTS, VALUE_VERDICTS or ABSENT_VERDICTS.
    ours: the number compared, in the target's unit; None when there is none.
    ci_low, ci_high: the interval that decided; equal to `ours` for exact claims.
    n: independent samples behind it.
    reason: one line; what was compared with what.
    samples: pairing key (``"seed=0"``, ``"model=3,seed=1"``) -> value. The regression gate keeps these and
        compares them one by one on the same seeds.
    """

    verdict: str
    ours: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    reason: str = ""
    samples: dict[str, float] = field(default_factory=dict)
