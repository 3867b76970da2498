"""The panels beyond the paper: what one draw does must not reach the next."""

from __future__ import annotations

import copy

import torch

from reproven.data.images import digits
from reproven.harness.context import Context
from reproven.papers.prograd.experiments import panel


def test_random_weights_of_one_draw_leave_the_network_of_the_next_alone(monkeypatch):
    trained, kept = panel._trained, {}

    def watched(ctx, epochs):
        subject, *data = trained(ctx, epochs)
        kept["now"], kept["then"] = subject, copy.deepcopy(subject)
        return subject, *data

    monkeypatch.setattr(panel, "_trained", watched)
    panel.faithfulness(
        Context(datasets={"digits": digits}), epochs=2, draws=1, images=4, noise=0.35, epsilon=0.01, patch=2
    )
    for part in ("body", "head"):
        now, then = (getattr(kept[k], part).state_dict() for k in ("now", "then"))
        assert all(torch.equal(now[name], then[name]) for name in then)
