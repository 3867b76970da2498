"""Soft editors against packages, closed forms and plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reproven.papers.prograd.attribution import cosine, iou, satisfaction
from reproven.papers.prograd.heads import (
    DPO,
    EWA,
    RRR,
    SFT,
    SWA,
    AugmentedLagrangian,
    Hinge,
    MapTask,
    MinimumNorm,
)
from reproven.papers.prograd.rows import min_max

D = torch.float64


def task(seed: int = 0, n: int = 4, entries: int = 6, width: int = 40, classes: int = 3) -> MapTask:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, width, entries, generator=g, dtype=D)
    slope = (z > 0).to(D) / entries
    share = slope.sum(2, keepdim=True) / entries
    weight = torch.randn(classes, width, generator=g, dtype=D)
    v = (share * z).transpose(1, 2)
    clean = v + 0.3 * torch.randn(v.shape, generator=g, dtype=D)
    labels = torch.arange(n) % classes
    targets = torch.as_tensor(min_max(torch.einsum("nk,nek->ne", weight[labels], clean).numpy()))
    return MapTask(
        weight=weight, bias=torch.zeros(classes, dtype=D), h=z.relu().mean(2), v=v,
        valid=torch.ones(n, entries, dtype=torch.bool), targets=targets, labels=labels, wrong=(labels + 1) % classes,
        keep=torch.randn(5, width, generator=g, dtype=D), epsilon=0.05, teacher=clean, activity=slope.transpose(1, 2),
    )  # fmt: skip


def loss(method, t: MapTask, factor: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    w, b = t.weight[None].clone().requires_grad_(), t.bias[None].clone().requires_grad_()
    method.begin(t, 1)
    value = method.loss(t, w, b, torch.tensor([factor], dtype=D), torch.Generator().manual_seed(0))
    return value, w, b


GRID = {"rates": [0.01], "factors": [1.0]}


def test_ewa_does_not_depend_on_the_head():
    t = task()
    gradients = []
    for factor in (1.0, 1e4):
        value, w, _ = loss(EWA(**GRID), t, factor)
        gradients.append(torch.autograd.grad(value.sum(), w)[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_swa_is_cross_entropy_and_the_difference_of_unit_maps():
    t = task()
    value, w, _ = loss(SWA(**GRID), t, 7.0)
    student = torch.stack([(t.v[i] @ w[0, c]).relu() for i, c in enumerate(t.labels)])
    teacher = torch.stack([(t.teacher[i] @ t.weight[c]).relu() for i, c in enumerate(t.labels)])
    plain = F.cross_entropy(t.h @ w[0].T, t.labels) + 7.0 * F.mse_loss(
        F.normalize(student), F.normalize(teacher)
    )
    torch.testing.assert_close(value[0], plain, rtol=1e-10, atol=1e-12)


def test_rrr_is_the_squared_gradient_of_the_summed_log_probabilities():
    t = task()
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4, 40, 6, generator=g, dtype=D).requires_grad_()
    logp = F.log_softmax(F.linear(z.relu().mean(2), t.weight), 1)
    (gradient,) = torch.autograd.grad(logp.sum(), z)
    wrong = (t.targets <= t.targets.median(1, keepdim=True).values).to(D)
    plain = F.cross_entropy(F.linear(z.relu().mean(2), t.weight), t.labels)
    plain = plain + 3.0 * (wrong[:, None] * gradient**2).sum((1, 2)).mean()
    value, _, _ = loss(RRR(**GRID), t, 3.0)
    torch.testing.assert_close(value[0], plain.detach(), rtol=1e-10, atol=1e-12)


def test_dpo_starts_at_log_2_and_moves_two_rows():
    t = task(classes=3, n=1)
    value, w, _ = loss(DPO(**GRID), t, 0.5)
    assert float(value) == pytest.approx(np.log(2), abs=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), w)
    assert (gradient[0, 2] == 0).all()
    torch.testing.assert_close(gradient[0, 0], -gradient[0, 1])
    torch.testing.assert_close(gradient[0, 0], -0.5 * 0.5 * t.h[0])


def test_sft_trains_like_torch():
    t = task()
    found = SFT(rates=[0.01], factors=[0.0], decay=0.0).edit(t, 5, torch.Generator())
    layer = nn.Linear(40, 3).double()
    layer.weight.data, layer.bias.data = t.weight.clone(), t.bias.clone()
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        F.cross_entropy(layer(t.h), t.labels).backward()
        optimiser.step()
    torch.testing.assert_close(found.weight, layer.weight.detach(), rtol=1e-9, atol=1e-10)


def test_minimum_norm_reaches_the_target_and_is_the_least():
    t = task(width=60)
    found = MinimumNorm().edit(t, 0, torch.Generator())
    assert float(t.satisfied(found.weight)) == 1.0
    maps, own = t.maps(found.weight), t.maps(t.weight)
    for c in range(3):
        rows = [i for i in range(4) if t.labels[i] == c]
        wanted = torch.cat([own[i].min() + (own[i].max() - own[i].min()) * t.targets[i] for i in rows])
        torch.testing.assert_close(torch.cat([maps[i] for i in rows]), wanted, rtol=1e-8, atol=1e-9)
        v = torch.cat([t.v[i] for i in rows])
        change = found.weight[c] - t.weight[c]
        least = torch.linalg.lstsq(v, v @ change, driver="gelsd").solution
        torch.testing.assert_close(change, least, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [Hinge, AugmentedLagrangian])
def test_strong_editors_reach_what_they_ask_for(method):
    t = task()
    found = method(rates=[0.003, 0.03], factors=[0.0]).edit(t, 600, torch.Generator())
    assert float(t.satisfied(found.weight)) > 0.95
    assert float(t.satisfied(t.weight)) < 0.6


def test_metrics_by_hand():
    target = np.array([[0.0, 0.5, 1.0, 0.25]])
    assert satisfaction(10 * target + 3, target, 1e-9)[0] == 1.0  # scale and shift are normalised away
    assert satisfaction(np.array([[0.0, 0.6, 1.0, 0.25]]), target, 0.05)[0] == 0.75
    assert satisfaction(np.zeros((1, 4)), target, 0.5)[0] == 0.0
    assert cosine(3 * target - 1, target)[0] == pytest.approx(1.0)
    a, b = np.arange(49.0)[None], np.roll(np.arange(49.0), 1)[None]
    assert iou(a, a, 75)[0] == 1.0
    assert iou(a, b, 75)[0] == pytest.approx(11 / 13)  # 12 of 49, 11 shared
