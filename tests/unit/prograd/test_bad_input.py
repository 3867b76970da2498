"""Bad input ends with one clear line, and the network stays as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from reproven.papers.prograd import constraints, edit
from reproven.papers.prograd.attribution import input_gradients
from reproven.papers.prograd.heads import Hinge, ProGrad
from reproven.papers.prograd.infeasible import conflict
from reproven.papers.prograd.program import solve

D = torch.float64


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    )


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, dtype=D, generator=torch.Generator().manual_seed(1))


BOX = constraints.JacobianBox(-9.0, 9.0)


def test_training_mode(net, x):
    with pytest.raises(ValueError, match=r"training mode: call model\.eval"):
        edit.edit_gradients(net.train(), "2", x, [BOX])


def test_weights_that_are_no_numbers(net, x):
    net[2].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'2\.weight' holds values that are not finite"):
        edit.edit_gradients(net, "2", x, [BOX])


def test_layers_in_series(net, x):
    with pytest.raises(ValueError, match="behind another edited layer: edit them one after the other"):
        edit.edit_gradients(net, ["0", "2"], x, [BOX])


def test_unsupported_activation(x):
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).double().eval()
    with pytest.raises(ValueError, match=r"gelu behind layer '0' .*pin=True"):
        edit.edit_gradients(model, "0", x, [BOX])


def test_tied_weights(x):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double().eval()
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match="are tied"):
        edit.edit_gradients(model, "2", x, [BOX])


def test_unknown_layer_and_bad_numbers(net, x):
    with pytest.raises(ValueError, match=r"there are 0, 2, 4"):
        edit.edit_gradients(net, "7", x, [BOX])
    with pytest.raises(ValueError, match="margin"):
        edit.edit_gradients(net, "2", x, [BOX], margin=0.0)
    with pytest.raises(ValueError, match="size 'l3'"):
        edit.edit_gradients(net, "2", x, [BOX], size="l3")
    with pytest.raises(ValueError, match="lower bound 1 exceeds upper bound 0"):
        edit.edit_gradients(net, "2", x, [constraints.JacobianBox(1.0, 0.0)])
    with pytest.raises(ValueError, match="not finite"):
        edit.edit_gradients(net, "2", x * float("nan"), [BOX])
    with pytest.raises(ValueError, match="at least one constraint"):
        edit.edit_gradients(net, "2", x, [])


def test_a_time_limit_leaves_the_model_alone(net, x):
    j = input_gradients(net, x).numpy()
    before = copy.deepcopy(net.state_dict())
    found = edit.edit_gradients(net, "0", x, [constraints.JacobianBox(j + 0.01, j + 0.02)], time_limit=1e-9)
    assert found.status == "time_limit"
    assert "time" in found.reason
    assert found.model is net
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_contradictions_leave_the_model_alone_and_say_why(net, x):
    j = input_gradients(net, x).numpy()
    above, below = constraints.JacobianBox(j + 0.2, np.inf), constraints.JacobianBox(-np.inf, j + 0.1)
    found = edit.edit_gradients(net, "2", x, [above, below])
    assert found.status == "infeasible"
    assert found.model is net
    assert found.conflict.irreducible
    assert "Jacobian of point" in found.reason
    assert found.conflict.total > 0


def test_a_feasible_set_has_no_conflict(net, x):
    work, points, space = edit.prepare(net, ["2"], x)
    rows = edit.gather_rows(work, space, points, [BOX], 1e-6)
    found = conflict(rows.all, space.size, box=1.0)
    assert found.total == pytest.approx(0.0, abs=1e-9)
    assert found.requirements == []


def test_a_reference_pattern_from_another_network(net, x):
    other = copy.deepcopy(net)
    other[0].bias.data += 0.3
    j = input_gradients(other, x).numpy()
    asked = constraints.JacobianBox(j - 0.01, j + 0.01)
    found = edit.edit_gradients(net, "0", x, [asked], reference=other)
    assert found.edited, found.reason
    assert torch.equal(found.model[0](x) > 0, other[0](x) > 0)


def test_zero_weights_are_no_success():
    maps = constraints.FrozenMaps([np.eye(3)], [0], [np.array([0.0, 0.5, 1.0])], 0.1)
    head = nn.Sequential(nn.Linear(3, 1))
    head[0].weight.data.zero_()
    assert maps.measure(head, torch.zeros(1, 3)).satisfied == 0.0


def test_conv_groups_are_refused():
    model = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(2, 2)).double().eval()
    with pytest.raises(ValueError, match="grouped"):
        edit.edit_gradients(model, "0", torch.randn(1, 2, 1, 1, dtype=D), [BOX])


def test_editors_check_their_numbers():
    with pytest.raises(ValueError, match="rates"):
        Hinge(rates=[-1.0], factors=[1.0])
    with pytest.raises(ValueError, match="box"):
        solve([], 3, box=-1.0)
    assert ProGrad().size == "l1"
