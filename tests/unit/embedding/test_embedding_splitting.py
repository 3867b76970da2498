"""Properties of the splitting map T, its comparators, and the errors of inputs where it does not apply."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from reproven.papers.embedding import comparators as other
from reproven.papers.embedding import extensions, nets, splitting
from reproven.papers.embedding.trajectory_reference import exponential_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def defects(model, wide, T, x, y):
    """Relative change of the norm, of the output, of the gradient."""

    def gradient(net):
        params = dict(net.named_parameters())
        return dict(zip(params, torch.autograd.grad(exponential_loss(net(x), y), list(params.values()))))

    theta, eta = dict(model.named_parameters()), dict(wide.named_parameters())

    def size(d):
        return torch.cat([v.detach().flatten() for v in d.values()]).norm()

    g, g_wide = gradient(model), gradient(wide)
    image = T(g)
    out = model(x).detach()
    return (
        float(abs(size(eta) / size(theta) - 1)),
        float((wide(x).detach() - out).abs().max() / out.abs().max()),
        float(size({k: g_wide[k] - image[k] for k in image}) / size(image)),
    )


def points(shape, seed=1):
    g = generator(seed)
    return torch.randn(24, *shape, generator=g, dtype=torch.float64), torch.sign(torch.randn(24, generator=g))


class TwoConv(nn.Module):
    """conv - leaky - max pool - conv - relu - average pool - linear, written as a forward pass."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 3, 3, bias=False, dtype=torch.float64)
        self.b = nn.Conv2d(3, 4, 3, padding=1, bias=False, dtype=torch.float64)
        self.c = nn.Linear(4 * 3 * 3, 1, bias=False, dtype=torch.float64)

    def forward(self, x):
        x = F.max_pool2d(F.leaky_relu(self.a(x), 0.1), 2)
        x = F.avg_pool2d(torch.relu(self.b(x)), 2, stride=1, padding=0, ceil_mode=False)
        return self.c(x.view(x.size(0), -1))


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    act=st.sampled_from(["relu", "leaky", "linear"]),
    copies=st.integers(1, 5),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_split_is_isometric_and_equivariant(widths, act, copies, bias, seed):
    g = generator(seed)
    model = nets.he_normal(nets.mlp([4, *widths, 1], act=act, bias=bias), g)
    layer = int(torch.randint(len(widths), (), generator=g))
    unit = int(torch.randint(widths[layer], (), generator=g))
    wide, T = splitting.split(model, str(2 * layer), unit, splitting.random_coefficients(copies, g))
    x, y = points((4,), seed % 1000)
    isometry, output, gradient = defects(model, wide, T, x, y)
    assert isometry <= 1e-14  # norms differ by rounding of a few additions
    assert (
        output <= 1e-13 or float(model(x).detach().abs().max()) < 1e-12
    )  # relative to an output that is not all dead
    assert gradient <= 1e-13 or not torch.isfinite(torch.tensor(gradient))  # 0/0 where every unit is dead


@pytest.mark.parametrize("layer", ["a", "b"])
def test_channels_split_through_pooling_convolution_and_flatten(layer):
    model = nets.he_normal(TwoConv(), generator())
    wide, T = splitting.split(model, layer, [0, 2], [[0.6, 0.8], [0.0, 0.6, 0.8]])
    assert max(defects(model, wide, T, *points((1, 10, 10)))) <= 1e-13


def test_iterated_splits_compose():
    model = nets.he_normal(nets.mlp([3, 4, 5, 1]), generator())
    one, T = splitting.split(model, "0", 1, [0.6, 0.8])
    two, S = splitting.split(one, "0", 2, [0.8, 0.6])
    three, R = splitting.split(two, "2", 4, [0.5**0.5, 0.5**0.5])
    assert max(defects(model, three, T.then(S).then(R), *points((3,)))) <= 1e-13


def test_zero_coefficient_gives_a_dead_copy():
    model = nets.he_normal(nets.mlp([3, 2, 1]), generator())
    wide, T = splitting.split(model, "0", 0, [1.0, 0.0])
    assert max(defects(model, wide, T, *points((3,)))) <= 1e-15
    assert not wide[0].weight[1].any()


def test_original_model_is_untouched_and_storage_is_not_shared():
    model = nets.he_normal(nets.mlp([3, 2, 1]), generator())
    before = copy.deepcopy(model.state_dict())
    wide, _ = splitting.split(model, "0", 0, [0.6, 0.8])
    with torch.no_grad():
        for p in wide.parameters():
            p.zero_()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("build", "broken"),
    [
        (lambda m: other.net2net(m, "0", 1), (True, False, True)),
        (lambda m: other.splitting_2021(m, "0", 1), (True, False, True)),
        (lambda m: other.null_unit(m, "0", 1), (True, False, True)),
        (lambda m: other.compatible_split(m, "0", 1, 3, generator=generator(4)), (True, False, True)),
        (lambda m: other.sum_to_one(m, "0", 1), (True, True, True)),
        (lambda m: other.signed_split(m, "0", 1, generator=generator(4)), (False, True, True)),
    ],
)
def test_comparators_break_what_they_must(build, broken):
    model = nets.he_normal(nets.mlp([3, 4, 1]), generator(3))
    found = defects(model, *build(model), *points((3,)))
    for value, wrong in zip(found, broken):
        assert value > 1e-2 if wrong else value < 1e-14


@pytest.mark.parametrize(
    ("c", "d"),
    [([0.5, 1.0], [1.0, 0.5]), ([0.5, 0.5], [1.0, 1.0]), ([0.3, 0.4], [1.2, 1.6]), ([1.0, 2.0], [0.2, 0.4])],
)
def test_scales_that_keep_the_output_keep_the_gradient_only_if_equal(c, d):
    """Dossier 3.3: ``sum c_i d_i = 1`` keeps the output; only ``c = d`` keeps norm and gradient too."""
    model = nets.he_normal(nets.mlp([3, 4, 1]), generator(3))
    isometry, output, gradient = defects(model, *other.scaled_split(model, "0", 1, c, d), *points((3,)))
    assert output < 1e-14
    assert min(isometry, gradient) > 1e-3


@pytest.mark.parametrize("act", ["tanh", "relu2"])
def test_activations_that_are_not_homogeneous_break_the_split(act):
    model = nets.he_normal(nets.mlp([3, 4, 1], act=act), generator(3))
    wide, T = other.uniform_split(model, "0", 1, homogeneous=False)
    _, output, gradient = defects(model, wide, T, *points((3,)))
    assert max(output, gradient) > 1e-2


def test_compatible_embedding_keeps_the_output_with_shares_of_any_sign():
    model = nets.he_normal(nets.mlp([3, 2, 1]), generator())
    wide, T = other.compatible_embedding(model, "0", [0, 1, 1, 0], [1.5, 0.25, 0.75, -0.5])
    _, output, gradient = defects(model, wide, T, *points((3,)))
    assert output <= 1e-14
    assert gradient > 1e-2
    with pytest.raises(ValueError, match="each must sum to 1"):
        other.compatible_embedding(model, "0", [0, 1, 1], [1.0, 0.5, 0.4])


@pytest.mark.parametrize("pair", ["qk", "vo"])
def test_attention_coordinates_split_exactly(pair):
    model = nn.Sequential()
    model.add_module("attention", extensions.SelfAttention(6, heads=2, qk=3, vo=4))
    model.add_module("flat", nn.Flatten())
    model.add_module("out", nn.Linear(30, 1, bias=False, dtype=torch.float64))
    nets.he_normal(model, generator())
    wide, T = extensions.split_attention(model, "attention", pair, 1, [0.48, 0.6, 0.64])
    assert max(defects(model, wide, T, *points((5, 6)))) <= 1e-13


@pytest.mark.parametrize("copies", [2, 5])
def test_gated_units_have_tau_below_one(copies):
    model = nets.he_normal(extensions.GatedUnits(4, 3), generator())
    wide, T = extensions.split_gated(model, copies)
    x, y = points((4,))
    scaled = splitting.Embedding(
        {
            n: {a: splitting.AxisMap(m.index, m.scale * T.tau) for a, m in maps.items()}
            for n, maps in T.axes.items()
        }
    )
    isometry, output, gradient = defects(model, wide, scaled, x, y)
    assert isometry == pytest.approx(copies ** (1 / 6) - 1, rel=1e-12)
    assert output <= 1e-13
    assert gradient <= 1e-13


def test_optimiser_state_carries_over_in_the_middle_of_training():
    model = nets.he_normal(nets.mlp([3, 4, 1]), generator())
    x, y = points((3,))
    narrow = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    step(model, narrow, x, y, 5)
    wide, T = splitting.split(model, "0", 2, [0.6, 0.8])
    optimiser = torch.optim.SGD(wide.parameters(), lr=0.05, momentum=0.9)
    optimiser.state.update(splitting.embed_optimiser_state(T, model, wide, narrow))
    step(model, narrow, x, y, 5)
    step(wide, optimiser, x, y, 5)
    image = T(dict(model.named_parameters()))
    for name, value in wide.named_parameters():
        torch.testing.assert_close(value, image[name], rtol=0, atol=1e-14)


def test_second_moments_map_by_squares():
    model = nets.he_normal(nets.mlp([3, 2, 1]), generator())
    optimiser = torch.optim.Adam(model.parameters())
    step(model, optimiser, *points((3,)), 1)
    wide, T = splitting.split(model, "0", 0, [0.6, 0.8])
    state = splitting.embed_optimiser_state(T, model, wide, optimiser)
    narrow = optimiser.state[model[0].weight]
    torch.testing.assert_close(
        state[wide[0].weight]["exp_avg"][1], 0.8 * narrow["exp_avg"][0], rtol=1e-15, atol=0
    )
    torch.testing.assert_close(
        state[wide[0].weight]["exp_avg_sq"][1], 0.64 * narrow["exp_avg_sq"][0], rtol=1e-15, atol=0
    )


def step(model, optimiser, x, y, count):
    for _ in range(count):
        optimiser.zero_grad()
        exponential_loss(model(x), y).backward()
        optimiser.step()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight
        self.out = nn.Linear(3, 1)

    def forward(self, x):
        return self.out(torch.relu(self.b(torch.relu(self.a(x)))))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(3, 3, bias=False), nn.Linear(3, 1)

    def forward(self, x):
        return self.out(torch.relu(self.a(torch.relu(self.a(x)))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(3, 3, bias=False), nn.Linear(3, 1)

    def forward(self, x):
        return self.out(x + torch.relu(self.a(x)))


class FixedView(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Conv2d(1, 2, 3), nn.Linear(18, 1)

    def forward(self, x):
        return self.out(self.a(x).view(24, 18))


def with_between(layer):
    return nn.Sequential(nn.Linear(3, 4), layer, nn.ReLU(), nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("model", "layer", "unit", "c", "message"),
    [
        (nets.mlp([3, 4, 1]), "0", 4, [1.0], "unit 4 is out of range: layer '0' has units 0 to 3"),
        (nets.mlp([3, 4, 1]), "0", -1, [1.0], "unit -1 is out of range"),
        (nets.mlp([3, 4, 1]), "0", 0, [0.5, 0.5], "sum to 0.5, not to 1"),
        (nets.mlp([3, 4, 1]), "0", 0, [0.0, 0.0], "all zero"),
        (nets.mlp([3, 4, 1]), "0", 0, [-0.6, 0.8], "must be finite and >= 0"),
        (nets.mlp([3, 4, 1]), "0", 0, [float("nan")], "must be finite"),
        (nets.mlp([3, 4, 1]), "0", 0, [], "no coefficients"),
        (nets.mlp([3, 4, 1]), "2", 0, [1.0], "is the output layer"),
        (nets.mlp([3, 4, 1]), "1", 0, [1.0], "is a LeakyReLU"),
        (nets.mlp([3, 4, 1]), "zero", 0, [1.0], "no layer 'zero'"),
        (nets.mlp([3, 4, 1], act="tanh"), "0", 0, [1.0], "not positively 1-homogeneous"),
        (nets.mlp([3, 4, 1], act="relu2"), "0", 0, [1.0], "pow|homogeneous"),
        (with_between(nn.BatchNorm1d(4)), "0", 0, [1.0], "BatchNorm1d '1' normalises"),
        (with_between(nn.LayerNorm(4)), "0", 0, [1.0], "LayerNorm '1' normalises"),
        (with_between(nn.Dropout(0.5)), "0", 0, [1.0], "set p=0"),
        (with_between(nn.PReLU(4)), "0", 0, [1.0], "one slope a unit"),
        (Tied(), "a", 0, [1.0], "is shared with another layer"),
        (Twice(), "a", 0, [1.0], "called 2 times"),
        (Residual(), "a", 0, [1.0], "feeds a sum"),
        (FixedView(), "a", 0, [1.0], "fixed view size"),
        (nets.mlp([3, 4, 1]), "0", 1.5, [1.0], "unit=1.5 must be an index"),
        (nets.mlp([3, 4, 1]), "0", True, [1.0], "unit=True must be an index"),
        (nets.mlp([3, 4, 1]), "0", "a", [1.0], "unit='a' must be an index"),
        (nets.mlp([3, 4, 1]), "0", 0, 0.5, "coefficients=0.5 must be a list"),
        (nets.mlp([3, 4, 1]), "0", 0, None, "coefficients=None must be a list"),
        (nets.mlp([3, 4, 1]), "0", 0, ["a"], "must be numbers"),
        (nets.mlp([3, 4, 1]), "0", [0, 1], [0.6, 0.8], "coefficients=0.6 must be a list"),
        (with_between(nn.RMSNorm(4)), "0", 0, [1.0], "RMSNorm '1' normalises"),
        (with_between(nn.AdaptiveAvgPool1d(4)), "0", 0, [1.0], "runs over its units"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 1)), "0", 0, [1.0], "not its channels: flatten"),
        (nn.Sequential(nn.Linear(3, 4), nn.Conv1d(4, 1, 1)), "0", 0, [1.0], "does not read along the units"),
        (nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 1)), "0", 0, [1.0], "with the units last"),
        (
            nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Linear(4, 1)),
            "0",
            0,
            [1.0],
            "is computed from other",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), weight_norm(nn.Linear(4, 1))),
            "0",
            0,
            [1.0],
            "is computed from other",
        ),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Conv2d(2, 1, 3)), "0", 0, [1.0], "groups=2"),
    ],
)
def test_inputs_outside_the_principle_end_with_one_line(model, layer, unit, c, message):
    with pytest.raises(ValueError, match=message) as caught:
        splitting.split(model, layer, unit, c)
    assert "\n" not in str(caught.value)


def test_units_must_be_distinct_and_have_their_own_coefficients():
    model = nets.mlp([3, 4, 1])
    with pytest.raises(ValueError, match="not distinct"):
        splitting.split(model, "0", [1, 1], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="need 2 lists"):
        splitting.split(model, "0", [1, 2], [[1.0]])


def test_attention_and_gated_splits_refuse_what_they_cannot_split():
    attention = extensions.SelfAttention(6, heads=2, qk=3, vo=4)
    with pytest.raises(ValueError, match="not 'qk' or 'vo'"):
        extensions.split_attention(attention, "", "qv", 0, [1.0])
    with pytest.raises(ValueError, match="coordinates 0 to 2"):
        extensions.split_attention(attention, "", "qk", 3, [1.0])
    with pytest.raises(ValueError, match="not a SelfAttention"):
        extensions.split_attention(nets.mlp([3, 4, 1]), "0", "qk", 0, [1.0])
    with pytest.raises(ValueError, match="at least 1"):
        extensions.split_gated(extensions.GatedUnits(2, 2), 0)


def test_public_names_load_and_unknown_ones_do_not():
    from reproven.papers import embedding

    assert all(callable(getattr(embedding, name)) for name in embedding.__all__)
    with pytest.raises(AttributeError, match="no attribute 'spilt'"):
        _ = embedding.spilt
