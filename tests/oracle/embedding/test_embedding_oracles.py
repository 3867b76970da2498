"""Fast against plain: split against Defs 4.6 and 4.10, stacked pairs against two autograd passes a pair."""

import numpy as np
import pytest
import torch

from reproven.papers.embedding import nets, splitting, stacked
from reproven.papers.embedding.optimisers import AdaptiveRule, GradientRule
from reproven.papers.embedding.splitting_reference import split_channel, split_neuron
from reproven.papers.embedding.stacked import Batch, StackedNet, stack_embeddings, stack_models
from reproven.papers.embedding.trajectory import train_pairs
from reproven.papers.embedding.trajectory_reference import train_pair


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("layer", [1, 2])
def test_split_equals_definition_4_6(layer):
    model = nets.he_normal(nets.mlp([4, 3, 5, 2]), generator())
    wide, _ = splitting.split(model, str(2 * (layer - 1)), 2, [0.48, 0.6, 0.64])
    expected = split_neuron(
        [model[i].weight.detach().numpy() for i in (0, 2, 4)], layer, 2, [0.48, 0.6, 0.64]
    )
    for i, w in zip((0, 2, 4), expected):
        assert np.array_equal(wide[i].weight.detach().numpy(), w)  # bit by bit


def test_split_equals_definition_4_10():
    model = nets.he_normal(nets.cnn(6, 3, 3, pool=2, outputs=2), generator())
    wide, _ = splitting.split(model, "0", 1, [0.6, 0.8])
    conv, fc = split_channel(
        model[0].weight.detach().numpy(), model.fc.weight.detach().numpy(), 1, [0.6, 0.8]
    )
    assert np.array_equal(wide.get_submodule("0").weight.detach().numpy(), conv)
    assert np.array_equal(wide.fc.weight.detach().numpy(), fc)


NETS = {
    "two_layer": (lambda: nets.mlp([4, 3, 1]), (4,), 0, "0"),
    "deep": (lambda: nets.mlp([4, 5, 3, 1], act="relu"), (4,), 0, "2"),
    "linear": (lambda: nets.mlp([4, 3, 3, 1], act="linear"), (4,), 0, "0"),
    "cnn": (lambda: nets.cnn(5, 2, 3), (1, 5, 5), 5, "0"),
    "cnn_pool": (lambda: nets.cnn(7, 2, 3, pool=2), (1, 7, 7), 7, "0"),  # a row is left over by the pool
    "cnn_inputs": (lambda: nets.cnn(6, 2, 3, pool=2, inputs=3), (3, 6, 6), 6, "0"),
}


def build(name, count=3):
    make, shape, side, layer = NETS[name]
    pairs, data = [], []
    for seed in range(count):
        g = generator(seed)
        model = nets.he_normal(make(), g, scale=0.6)
        pairs.append((model, *splitting.split(model, layer, 1, splitting.random_coefficients(2, g))))
        x = torch.randn(20, *shape, generator=g, dtype=torch.float64)
        data.append((x, torch.sign(torch.randn(20, generator=g, dtype=torch.float64))))
    net = StackedNet.of(pairs[0][0], side)
    batch = Batch(
        torch.stack([net.inputs(x) for x, _ in data]),
        torch.stack([y for _, y in data]),
        torch.full((count, 20), 1 / 20, dtype=torch.float64),
    )
    return pairs, data, net, batch


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("loss", ["exponential", "logistic", "logsumexp"])
def test_stacked_gradients_equal_autograd(name, loss):
    pairs, data, net, batch = build(name)
    for which in (0, 1):
        value, gradient = net.loss_and_gradient(stack_models([p[which] for p in pairs]), batch, loss)
        for i, (pair, (x, y)) in enumerate(zip(pairs, data)):
            q = y * pair[which](x).squeeze(-1)
            expected = {
                "exponential": lambda q: torch.exp(-q).mean(),
                "logistic": lambda q: torch.log1p(torch.exp(-q)).mean(),
                "logsumexp": lambda q: torch.log(torch.exp(-q).mean()),
            }[loss](q)
            expected.backward()
            torch.testing.assert_close(value[i], expected.detach(), rtol=1e-13, atol=1e-14)
            for n, parameter in pair[which].named_parameters():
                torch.testing.assert_close(gradient[n][i], parameter.grad, rtol=1e-12, atol=1e-14)
                parameter.grad = None


RULES = {
    "gd": (GradientRule(0.02), lambda p: torch.optim.SGD(p, lr=0.02)),
    "momentum": (GradientRule(0.005, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9)),
    "nesterov": (
        GradientRule(0.005, momentum=0.9, nesterov=True, weight_decay=1e-2),
        lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9, nesterov=True, weight_decay=1e-2),
    ),
    "adam": (AdaptiveRule(0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    "adam_l2": (
        AdaptiveRule(0.01, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    ),
    "adamw": (
        AdaptiveRule(0.01, weight_decay=0.1, decoupled=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
    "rmsprop": (AdaptiveRule(0.01, kind="rmsprop"), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "adagrad": (AdaptiveRule(0.01, kind="adagrad", eps=1e-10), lambda p: torch.optim.Adagrad(p, lr=0.01)),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_follow_torch_optim(rule):
    pairs, data, net, batch = build("deep")
    ours, theirs = RULES[rule]
    record = train_pairs(
        net, stack_models([p[0] for p in pairs]), stack_embeddings([p[2] for p in pairs]), lambda _: batch,
        ours, 40, records=[],
    )  # fmt: skip
    for i, ((narrow, wide, T), (x, y)) in enumerate(zip(pairs, data)):
        train_pair(narrow, wide, T, [(x, y)] * 40, theirs)
        for stack, model in ((record.narrow, narrow), (record.wide, wide)):
            for name, parameter in model.named_parameters():
                # Adam divides by sqrt(v): rounding of tiny gradients is magnified, hence 1e-9 and not 1e-13.
                torch.testing.assert_close(stack[name][i], parameter.detach(), rtol=1e-9, atol=1e-10)


def test_clipping_follows_torch():
    pairs, data, net, batch = build("two_layer")
    record = train_pairs(
        net, stack_models([p[0] for p in pairs]), stack_embeddings([p[2] for p in pairs]), lambda _: batch,
        GradientRule(0.1, clip=0.2), 30, records=[],
    )  # fmt: skip
    for i, ((narrow, wide, T), (x, y)) in enumerate(zip(pairs, data)):
        train_pair(narrow, wide, T, [(x, y)] * 30, lambda p: torch.optim.SGD(p, lr=0.1), clip=0.2)
        for name, parameter in wide.named_parameters():
            torch.testing.assert_close(record.wide[name][i], parameter.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NETS)
def test_pairs_stay_on_the_image_like_the_plain_pair(name):
    pairs, data, net, batch = build(name)
    record = train_pairs(
        net, stack_models([p[0] for p in pairs]), stack_embeddings([p[2] for p in pairs]), lambda _: batch,
        GradientRule(0.01), 200, records=range(200),
    )  # fmt: skip
    assert float(record.max_error.max()) < 1e-12
    for i, ((narrow, wide, T), (x, y)) in enumerate(zip(pairs, data)):
        errors, losses = train_pair(narrow, wide, T, [(x, y)] * 200, lambda p: torch.optim.SGD(p, lr=0.01))
        assert max(errors) < 1e-12
        np.testing.assert_allclose(record.loss_narrow[:, i].numpy(), losses, rtol=1e-11)


@pytest.mark.parametrize("name", ["deep", "cnn", "cnn_pool"])
@pytest.mark.parametrize("rule", ["nesterov", "adam"])
def test_blocks_of_pairs_give_the_whole_stack(name, rule, monkeypatch):
    """Cut into blocks of two, two and one, five pairs with own batches a side train as they do at once."""
    pairs, _, net, batch = build(name, count=5)
    other = Batch(batch.x.flip(-1), batch.y, batch.weight)

    def run():
        return train_pairs(
            net, stack_models([p[0] for p in pairs]), stack_embeddings([p[2] for p in pairs]), lambda _: batch,
            RULES[rule][0], 20, records=range(20), wide_batches=lambda _: other,
        )  # fmt: skip

    whole = run()
    monkeypatch.setattr(stacked, "BLOCK", 2 * batch.x[0].numel() + 1)
    assert [list(range(5))[b] for b in batch.blocks(5)] == [[0, 1], [2, 3], [4]]
    cut = run()
    # Sums over pairs do not occur, so only kernels chosen by size may round apart; Adam magnifies that.
    for ours, theirs in ((cut.narrow, whole.narrow), (cut.wide, whole.wide)):
        for n in ours:
            torch.testing.assert_close(ours[n], theirs[n], rtol=1e-10, atol=1e-12)
    for column in ("error", "loss_narrow", "loss_wide", "norm_wide"):
        torch.testing.assert_close(getattr(cut, column), getattr(whole, column), rtol=1e-10, atol=1e-12)


def test_pairs_that_share_samples_are_one_block(monkeypatch):
    pairs, _, net, batch = build("deep")
    shared = Batch(batch.x[0], batch.y[0], batch.weight[0])
    monkeypatch.setattr(stacked, "BLOCK", 1)
    assert shared.blocks(3) == [slice(None)]
    assert batch.blocks(3) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    narrow = stack_models([p[0] for p in pairs])
    alone, _ = net.loss_and_gradient(
        {n: v[1:2] for n, v in narrow.items()},
        Batch(batch.x[:1], batch.y[:1], batch.weight[:1]),
    )
    together, _ = net.loss_and_gradient(narrow, shared.of(slice(0, 3)))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-13, atol=0)
