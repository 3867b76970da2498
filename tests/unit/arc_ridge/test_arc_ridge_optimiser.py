"""The wrapper and the path: state, budgets, minibatches, and one clear line for bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from reproven.papers.arc_ridge.arc import ArcRidge, Diverged
from reproven.papers.arc_ridge.path import arc_path, first_stop

X = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
Y = torch.sin(X.sum(1, keepdim=True))
MAKERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def train(model, arc, steps, halves=False):
    infos = []
    for _ in range(steps):
        arc.optimizer.zero_grad()
        if halves:
            (0.5 * ((model(X[:16]) - Y[:16]) ** 2).mean()).backward()
            arc.half()
            (0.5 * ((model(X[16:]) - Y[16:]) ** 2).mean()).backward()
        else:
            ((model(X) - Y) ** 2).mean().backward()
        infos.append(arc.step())
    return infos


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("halves", [False, True])
def test_state_goes_on_bit_by_bit(name, halves):
    def wrapped():
        model = net()
        kind = "halves" if halves else "full"
        return model, ArcRidge(MAKERS[name](model.parameters()), 0.05, every=3, gradient=kind, decay=0.5)

    model, arc = wrapped()
    train(model, arc, 10, halves)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(arc.state_dict())
    expected = train(model, arc, 10, halves)
    other, restored = wrapped()
    other.load_state_dict(weights)
    restored.load_state_dict(state)
    assert train(other, restored, 10, halves) == expected
    for a, b in zip(model.parameters(), other.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MAKERS)
def test_a_larger_lambda_stops_earlier_and_lambda_zero_is_the_bare_optimiser(name):
    arcs = []
    for lam in (0.0, 0.1, 3.0):
        model = net()
        arc = ArcRidge(MAKERS[name](model.parameters()), lam)
        train(model, arc, 80)
        arcs.append(arc.arc)
    assert arcs == sorted(arcs, reverse=True)
    bare = net()
    optimizer = MAKERS[name](bare.parameters())
    for _ in range(80):
        optimizer.zero_grad()
        ((bare(X) - Y) ** 2).mean().backward()
        optimizer.step()
    model = net()
    train(model, ArcRidge(MAKERS[name](model.parameters()), 0.0), 80)
    for a, b in zip(model.parameters(), bare.parameters()):
        assert torch.equal(a, b)


def test_a_stopped_run_stays_where_it_is():
    model = net()
    arc = ArcRidge(MAKERS["sgd"](model.parameters()), 10.0, rule="stop")
    infos = train(model, arc, 50)
    assert infos[-1].stopped
    assert infos[-1].grad_norm <= 10.0 * infos[-1].arc
    before = [p.clone() for p in model.parameters()]
    train(model, arc, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_coarse_length_is_below_the_sum_of_steps():
    lengths = []
    for every in (1, 10):
        model = net()
        arc = ArcRidge(MAKERS["momentum"](model.parameters()), 0.0, every=every)
        train(model, arc, 200)
        lengths.append(arc.arc)
    assert 0 < lengths[1] <= lengths[0]


def test_checkpoints_stay_within_the_disk_budget(tmp_path):
    model = net()
    size = sum(p.numel() * 4 for p in model.parameters())
    optimizer = MAKERS["sgd"](model.parameters())

    def backward(arc):
        optimizer.zero_grad()
        loss = ((model(X) - Y) ** 2).mean()
        loss.backward()
        return loss.item()

    path = arc_path(optimizer, backward, 400, folder=tmp_path, budget_bytes=6 * size)
    assert 2 <= len(list(tmp_path.iterdir())) <= 6
    assert len(path.checkpoints.kept) == len(list(tmp_path.iterdir()))
    found = path.load(0.5, list(model.parameters()))
    assert found.checkpoint <= found.step
    assert path.stop(0.0).step == 400
    with pytest.raises(ValueError, match="finite number of 0 or more"):
        path.stop(-1.0)
    with pytest.raises(ValueError, match="shape"):
        path.load(0.5, [torch.zeros(3) for _ in model.parameters()])
    with pytest.raises(ValueError, match="raise budget_bytes"):
        arc_path(optimizer, backward, 5, budget_bytes=8)
    with pytest.raises(ValueError, match="announce fewer"):
        arc_path(optimizer, backward, 400, budget_bytes=2 * size, lams=np.logspace(-3, 1, 30))


def test_first_stop_by_hand():
    norm, arc = np.array([4.0, 3.0, 2.0, 1.0]), np.array([0.0, 1.0, 2.0, 3.0])
    assert first_stop(norm, arc, 1.0) == (2, True)
    assert first_stop(norm, arc, 100.0) == (1, True)
    assert first_stop(norm, arc, 0.0) == (3, False)


BAD = {
    "lam = -1": lambda p: ArcRidge(torch.optim.SGD(p, lr=0.1), -1),
    "lam = nan": lambda p: ArcRidge(torch.optim.SGD(p, lr=0.1), float("nan")),
    "every = 0": lambda p: ArcRidge(torch.optim.SGD(p, lr=0.1), 1, every=0),
    "rule 'soft'": lambda p: ArcRidge(torch.optim.SGD(p, lr=0.1), 1, rule="soft"),
    "gradient 'half'": lambda p: ArcRidge(torch.optim.SGD(p, lr=0.1), 1, gradient="half"),
    "decay = 1": lambda p: ArcRidge(torch.optim.SGD(p, lr=0.1), 1, decay=1),
    "metric 'l1'": lambda p: ArcRidge(torch.optim.SGD(p, lr=0.1), 1, metric="l1"),
    "metric of RMSprop": lambda p: ArcRidge(torch.optim.RMSprop(p, lr=0.1), 1),
    "weight_decay = 0.01": lambda p: ArcRidge(torch.optim.AdamW(p, lr=0.1, weight_decay=0.01), 1),
    "maximises": lambda p: ArcRidge(torch.optim.SGD(p, lr=0.1, maximize=True), 1),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_name_the_value(message):
    with pytest.raises(ValueError, match=message) as error:
        BAD[message](net().parameters())
    assert "\n" not in str(error.value)


def test_a_group_without_gradient_and_a_missing_half_are_errors():
    model = net()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
    arc = ArcRidge(torch.optim.SGD(groups, lr=0.1), 1.0)
    for p in model[0].parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match="group 1 has no gradient at step 0"):
        arc.step()
    arc = ArcRidge(torch.optim.SGD(model[0].parameters(), lr=0.1), 1.0, gradient="halves")
    with pytest.raises(ValueError, match="no half batch at step 0"):
        arc.step()


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_nan_goes_back_to_the_last_good_checkpoint(broken):
    model = net()
    arc = ArcRidge(torch.optim.SGD(model.parameters(), lr=0.05), 0.01, every=4)
    train(model, arc, 8)
    good = [p.clone() for p in model.parameters()]
    train(model, arc, 1 if broken == "gradient" else 2)  # step 8 measures
    if broken == "gradient":
        train(model, arc, 3)
        good = None
    arc.optimizer.zero_grad()
    loss = ((model(X) - Y) ** 2).mean()
    loss.backward()
    if broken == "gradient":
        model[0].weight.grad[0, 0] = float("nan")
    with pytest.raises(Diverged, match="the last good one") as error:
        arc.step(float("nan") if broken == "loss" else loss)
    assert error.value.last_good == 8
    assert error.value.step == (10 if broken == "loss" else 12)
    if good is not None:
        assert all(torch.equal(a, b) for a, b in zip(good, model.parameters()))


def test_a_state_of_another_model_is_refused():
    model = net()
    arc = ArcRidge(torch.optim.SGD(model.parameters(), lr=0.05), 0.01)
    train(model, arc, 2)
    other = nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 1))
    with pytest.raises(ValueError, match="other model"):
        ArcRidge(torch.optim.SGD(other.parameters(), lr=0.05), 0.01).load_state_dict(arc.state_dict())
