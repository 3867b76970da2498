"""The batched, two-stage, decoupled edit against the plain twin, and its rows against one autograd call a row."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from reproven.papers.prograd import constraints, edit, prograd_reference, tail
from reproven.papers.prograd.attribution import grad_cam, input_gradients, integrated_gradients
from reproven.papers.prograd.certify import Certificate, exact_slack
from reproven.papers.prograd.experiments.language import Prompt, completeness_gap
from reproven.papers.prograd.language import NEGATIVE, POSITIVE, VOCABULARY, AnswerLogits, small_llama
from reproven.papers.prograd.program import Preserve, solve
from reproven.papers.prograd.rows import Block, min_max_template

D = torch.float64


def mlp(seed: int, widths=(4, 7, 5, 2)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().eval()


def boxes(jacobian: np.ndarray, seed: int, width: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    centre = jacobian + np.random.default_rng(seed).uniform(-0.1, 0.1, jacobian.shape)
    return centre - width, centre + width


@pytest.mark.parametrize("seed", range(4))
def test_the_edit_is_as_small_as_the_twins(seed):
    model, x = mlp(seed), torch.randn(3, 4, dtype=D, generator=torch.Generator().manual_seed(seed))
    low, high = boxes(input_gradients(model, x).numpy(), seed)
    linear = [m for m in model if isinstance(m, nn.Linear)]
    W, b = [m.weight.detach().numpy() for m in linear], [m.bias.detach().numpy() for m in linear]
    theirs = prograd_reference.reference_edit(
        W, b, list(x.numpy()), list(zip(low, high)), box=5.0, margin=1e-6
    )
    for two_stage in (True, False):
        ours = edit.edit_gradients(
            model, "0", x, [constraints.JacobianBox(low, high, two_stage=two_stage)], box=5.0, doublings=0
        )
        if theirs is None:
            assert ours.status == "infeasible"
            continue
        assert ours.edited, ours.reason
        assert ours.solution.objective == pytest.approx(theirs[1], rel=1e-6, abs=1e-9)
        assert ours.requirements == 3 * 2 * 4
        assert ours.conditions == 3 * (7 + 5)


def test_a_certifier_of_the_caller_asks_for_margin_until_it_holds():
    """A coarser view of the network: what it sees is off by 1e-3, so that a margin of 1e-3 is needed."""
    model, x = mlp(0), torch.randn(2, 4, dtype=D, generator=torch.Generator().manual_seed(0))
    low, high = boxes(input_gradients(model, x).numpy(), 0)
    asked = [constraints.JacobianBox(low, high)]

    def coarse(error):
        def certify(edited):
            seen = input_gradients(edited, x).numpy()
            worst = float(max((low - (seen - error)).max(), (seen + error - high).max()))
            return Certificate("coarse", 1.0, 1.0, worst)

        return certify

    plain = edit.edit_gradients(model, "0", x, asked, box=5.0)
    assert plain.edited
    assert not coarse(1e-3)(plain.model).holds, "the smallest edit lies at a bound"
    found = edit.edit_gradients(model, "0", x, asked, box=5.0, certifiers=[coarse(1e-3)], doublings=12)
    assert found.edited
    assert coarse(1e-3)(found.model).holds
    assert found.margin > 1e-3 / 2
    never = edit.edit_gradients(model, "0", x, asked, box=5.0, certifiers=[coarse(1.0)], doublings=2)
    assert never.status == "uncertified"
    assert never.model is model
    assert "coarse" in never.reason


class Residual(nn.Module):
    """A convolutional tail with everything that is linear or piecewise linear in it."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(1, 3, 3, padding=1)
        self.edited = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.up(x))
        z = self.norm(self.edited(h))
        z = nn.functional.relu6(2 * z) + nn.functional.leaky_relu(self.inner(nn.functional.relu(z)), 0.1)
        z = nn.functional.avg_pool2d(self.pool(z), 2)
        return self.out(z.flatten(2).mean(2))


def residual() -> Residual:
    torch.manual_seed(5)
    model = Residual().double().eval()
    model.norm.running_mean.uniform_(-0.2, 0.2)
    model.norm.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("layer", ["edited", "inner", "out", "up"])
def test_rows_are_the_derivatives_of_the_gradient_in_the_weights(layer):
    model = residual()
    x = torch.randn(2, 1, 8, 8, dtype=D, generator=torch.Generator().manual_seed(1))
    if layer == "up":  # a smooth function lies behind it
        work, space = tail.float64_copy(model), tail.edit_space(model, [layer])
        with pytest.raises(ValueError, match="tanh behind layer 'up'"):
            tail.Tail(work, space, x)
        return
    directions = torch.randn(3, 2, 1, 8, 8, dtype=D, generator=torch.Generator().manual_seed(2))
    outputs = torch.tensor([2, 0])
    space = tail.edit_space(model, [layer])
    view = tail.Tail(tail.float64_copy(model), space, x)
    a, value = constraints.directional_rows(view, directions, outputs)
    module = dict(model.named_modules())[layer]

    def derivatives() -> torch.Tensor:
        v = x.clone().requires_grad_()
        picked = model(v).gather(1, outputs[:, None]).sum()
        (g,) = torch.autograd.grad(picked, v, create_graph=True)
        return (directions * g).flatten(2).sum(2)

    expected = prograd_reference.rows_by_autograd(derivatives, [module.weight, module.bias])
    np.testing.assert_allclose(a.toarray(), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(value, derivatives().detach().numpy(), rtol=1e-9, atol=1e-12)
    rows, _ = constraints.output_rows(view, [0, 1, 2])
    expected = prograd_reference.rows_by_autograd(lambda: model(x), [module.weight, module.bias])
    np.testing.assert_allclose(rows.toarray(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layer", ["edited", "inner", "out"])
def test_convolutional_tails_are_edited_soundly(layer):
    model = residual()
    x = torch.randn(2, 1, 8, 8, dtype=D, generator=torch.Generator().manual_seed(1))
    directions = torch.randn(3, 2, 1, 8, 8, dtype=D, generator=torch.Generator().manual_seed(2))
    gradient = input_gradients(model, x, torch.tensor([2, 0]))
    now = (directions * gradient).flatten(2).sum(2).numpy()
    asked = constraints.Directional(directions, [2, 0], now + 0.02, now + 0.04)
    ours = edit.edit_gradients(model, layer, x, [asked], margin=1e-5)
    assert ours.edited, ours.reason
    assert ours.certificates[0].worst <= 0
    assert (ours.conditions > 0) == (layer != "out")


def test_grad_cam_rows_agree_with_one_call_a_pixel_by_both_routes():
    torch.manual_seed(2)
    body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(inplace=True))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    model = nn.Sequential(body, head).double().eval()
    x = torch.randn(3, 1, 6, 6, dtype=D)
    for at in ("0.0", "0.1", "0.2", "0.2:input"):
        space = tail.edit_space(model, ["1.2"])
        view = tail.Tail(tail.float64_copy(model), space, x, at=at)
        a, value = constraints.grad_cam_rows(view, torch.tensor([1, 3, 0]))
        view.calls.append("linear")  # no longer channel by channel: the general route
        b, other = constraints.grad_cam_rows(view, torch.tensor([1, 3, 0]))
        np.testing.assert_allclose(a.toarray(), b.toarray(), rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(value, other, rtol=1e-10, atol=1e-13)
        maps = grad_cam(model, x, torch.tensor([1, 3, 0]), at).flatten(1)
        np.testing.assert_allclose(value, maps.detach().numpy(), rtol=1e-10, atol=1e-13)
    z = body[:2](x).detach()
    plain = prograd_reference.grad_cam_rows_by_autograd(
        lambda v: head(nn.functional.relu6(v)), z, [1, 3, 0], head[2].weight
    )
    own = a.toarray().reshape(3, 16, -1)
    for i, c in enumerate([1, 3, 0]):
        np.testing.assert_allclose(
            own[i, :, c * 6 : c * 6 + 6], plain.reshape(3, 16, 6)[i], rtol=1e-10, atol=1e-13
        )


def test_integrated_gradients_rows_agree_with_token_by_token_products():
    torch.manual_seed(3)
    body = nn.Sequential(nn.Flatten(1), nn.Linear(12, 9), nn.GELU(), nn.Linear(9, 7), nn.Tanh())
    model = nn.Sequential(body, nn.Linear(7, 5)).double().eval()
    x, base = torch.randn(2, 4, 3, dtype=D)
    work = tail.float64_copy(model)
    space = tail.edit_space(work, ["1"])
    a, value = constraints.integrated_rows(lambda p: tail.Tail(work, space, p), x, base, 2, [0, 1, 2, 3], 25)
    alpha, weights = constraints.gauss_legendre(25)
    v = prograd_reference.integrated_rows_by_token(lambda t: body(t), x, base, alpha, weights)
    np.testing.assert_allclose(a.toarray()[:, 14:21], v, rtol=1e-10, atol=1e-13)
    own = integrated_gradients(model, x, base, 2)
    np.testing.assert_allclose(value, own.detach().numpy(), rtol=1e-10, atol=1e-13)
    ends = model(torch.stack([x, base]))[:, 2]
    assert float(own.sum()) == pytest.approx(float(ends[0] - ends[1]), rel=1e-6)


def test_what_completeness_misses_is_the_error_of_the_quadrature():
    torch.manual_seed(0)
    model = AnswerLogits(small_llama(VOCABULARY, 32, 2, 4)).double().eval().requires_grad_(False)
    for p in model.parameters():
        p.mul_(4.0 if p.dim() > 1 else 1.0)  # sharp attention: the integrand turns quickly
    prompt = Prompt(torch.tensor([20, 5, 9, 71, 2, 33, 6]), tuple(range(6)), POSITIVE, NEGATIVE)
    gaps = [completeness_gap(model, prompt, nodes) for nodes in (1, 5, 25, 100)]
    assert gaps[0] > 1e-3  # one node does miss it
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[3] < 1e-8  # of the whole, in float64


def test_integrated_gradients_agree_with_captum():
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x, base = torch.randn(2, 5, dtype=D)
    theirs = captum.IntegratedGradients(model).attribute(
        x[None], base[None], target=1, n_steps=25, method="gausslegendre"
    )
    np.testing.assert_allclose(
        integrated_gradients(model, x, base, 1), theirs[0].detach(), rtol=1e-6, atol=1e-9
    )


def test_grad_cam_agrees_with_captum():
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(4)
    conv = nn.Conv2d(1, 5, 3)
    model = (
        nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).double().eval()
    )
    x = torch.randn(2, 1, 7, 7, dtype=D)
    theirs = captum.LayerGradCam(model, conv).attribute(x, target=torch.tensor([1, 2]))
    np.testing.assert_allclose(
        grad_cam(model, x, torch.tensor([1, 2]), "0").detach(), theirs[:, 0].detach(), rtol=1e-9, atol=1e-12
    )


def test_the_min_max_template_is_the_requirement():
    rng = np.random.default_rng(0)
    target = rng.random(8)
    target = (target - target.min()) / np.ptp(target)
    t = min_max_template(target, 0.1, 0.0)
    assert t.shape == (4 * 6 + 1, 8)
    for _ in range(300):
        map_ = target * rng.uniform(0.5, 2) + rng.normal() + rng.normal(size=8) * 0.08
        met = (t @ map_)[:-1].min() >= 0 and (t @ map_)[-1] > 0
        normal = (map_ - map_.min()) / np.ptp(map_)
        same_ends = map_.argmin() == target.argmin() and map_.argmax() == target.argmax()
        assert met == bool(same_ends and np.abs(normal - target).max() <= 0.1)
    assert (t @ np.ones(8))[:-1].min() >= 0, "only the last row keeps the flat map out"
    assert (t @ np.ones(8))[-1] == 0


def random_blocks(seed: int, groups: int = 3) -> tuple[list[Block], int]:
    from scipy import sparse

    rng = np.random.default_rng(seed)
    width = 12
    blocks = []
    for g in range(groups):
        a = np.zeros((6, groups * width))
        a[:, g * width : (g + 1) * width] = rng.normal(size=(6, width))
        target = rng.random(6)
        target = (target - target.min()) / np.ptp(target)
        t = min_max_template(target, 0.1, 1e-6)
        low = np.zeros(t.shape[0])
        low[-1] = 0.1
        blocks.append(
            Block(sparse.csr_array(a), rng.normal(size=6), low, np.full(t.shape[0], np.inf), f"g{g}", t)
        )
    return blocks, groups * width


@pytest.mark.parametrize("size", ["l1", "l2"])
def test_decoupling_and_two_stages_change_nothing(size):
    blocks, n = random_blocks(0)
    from scipy import sparse

    keep = Preserve(sparse.csr_array(np.kron(np.eye(3), np.random.default_rng(1).normal(size=(5, 12)))), 0.5)
    found = [
        solve(blocks, n, size=size, preserve=keep, decouple=d, two_stage=s)
        for d in (True, False)
        for s in (True, False)
    ]
    assert [f.programs for f in found] == [3, 3, 1, 1]
    for f in found:
        assert f.status == "optimal"
        assert f.objective == pytest.approx(found[0].objective, rel=1e-5, abs=1e-8)
        assert max(b.residual(f.delta).max() for b in blocks) <= 1e-7


def test_objectives_agree_with_cvxpy():
    cvxpy = pytest.importorskip("cvxpy")
    blocks, n = random_blocks(2, 2)
    delta = cvxpy.Variable(n)
    rules = [cvxpy.abs(delta) <= 4.0]
    for b in blocks:
        a, low, _ = b.direct()
        rules.append(a.toarray() @ delta >= low)
    sizes = {
        "l1": cvxpy.norm1(delta) / n,
        "linf": cvxpy.norm_inf(delta),
        "linf_l1": cvxpy.norm_inf(delta) + cvxpy.norm1(delta) / n,
        "l2": cvxpy.sum_squares(delta) / (2 * n),
    }
    for size, formula in sizes.items():
        theirs = cvxpy.Problem(cvxpy.Minimize(formula), rules).solve(solver="CLARABEL")
        ours = solve(blocks, n, size=size, box=4.0)
        assert ours.objective == pytest.approx(theirs, rel=1e-5, abs=1e-7), size


def test_exact_slack_agrees_with_fractions():
    blocks, n = random_blocks(3, 1)
    delta = solve(blocks, n).delta
    ours = exact_slack(blocks, delta)
    b = blocks[0]
    s = [
        Fraction(float(b.value[i]))
        + sum(Fraction(float(v)) * Fraction(float(d)) for v, d in zip(b.a.toarray()[i], delta))
        for i in range(b.a.shape[0])
    ]
    t = b.t.toarray()
    got = [sum(Fraction(float(v)) * x for v, x in zip(row, s)) for row in t]
    assert ours == min(v - Fraction(float(low)) for v, low in zip(got, b.low))
    plain = Block(b.a, np.zeros(6), np.full(6, -1.0), np.full(6, 1.0), "plain")
    assert exact_slack([plain], delta) == prograd_reference.exact_slack_by_fractions(
        b.a.toarray(), plain.low, plain.high, delta
    )


def test_pinned_edits_pass_through_smooth_tails():
    torch.manual_seed(6)
    model = nn.Sequential(
        nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, 8), nn.Tanh(),
        nn.Linear(8, 2),
    ).double().eval()  # fmt: skip
    x = torch.randn(3, 6, dtype=D)
    low, high = boxes(input_gradients(model, x).numpy(), 0, 0.02)
    asked = [constraints.JacobianBox(low, high)]
    with pytest.raises(ValueError, match="pin=True"):
        edit.edit_gradients(model, "2", x, asked)
    ours = edit.edit_gradients(model, "2", x, asked, pin=True)
    assert ours.edited, ours.reason
    torch.testing.assert_close(ours.model(x), model(x), rtol=0, atol=1e-9)


def test_pinned_edits_work_inside_a_llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=30, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, attn_implementation="eager",
    )  # fmt: skip
    from reproven.papers.prograd.language import AnswerLogits

    model = AnswerLogits(transformers.LlamaForCausalLM(config)).double().eval()
    x = model.lm.get_input_embeddings()(torch.randint(30, (1, 5))).detach()
    direction = torch.randn(1, 1, 5, 24, dtype=D)
    now = float((direction[0] * input_gradients(model, x, torch.tensor([7]))).sum())
    asked = [constraints.Directional(direction, [7], now + 0.01, now + 0.02)]
    ours = edit.edit_gradients(model, "lm.model.layers.1.self_attn.o_proj", x, asked, pin=True, bias=False)
    assert ours.edited, ours.reason
    torch.testing.assert_close(ours.model(x), model(x), rtol=0, atol=1e-9)


def test_linear_operators_of_the_last_layer():
    torch.manual_seed(7)
    model = (
        nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
        .double()
        .eval()
    )
    x = torch.linspace(-1, 1, 9, dtype=D)[:, None]
    residual = (
        constraints.LinearOperator(  # N'' + N within 0.05 of 0.1 x, and N'' of the constant is 0, so L 1 = 1
            lambda f, v: constraints.derivative(2)(f, v) + f(v),
            0.1 * x.numpy() - 0.05,
            0.1 * x.numpy() + 0.05,
            one=1.0,
        )
    )
    ours = edit.edit_gradients(model, "4", x, [residual])
    assert ours.edited, ours.reason
    for asked in (constraints.monotone(0.1), constraints.convex()):
        ours = edit.edit_gradients(model, "4", x, [asked])
        assert ours.edited
        assert ours.certificates[0].worst <= 0


def test_the_whole_library_on_one_small_network():
    """Polytopes, saliency, input x gradient, Integrated Gradients through a ReLU tail, cuts, float32 and bfloat16."""
    from reproven.papers import prograd

    model, x = mlp(11, (4, 12, 10, 3)), torch.randn(2, 4, dtype=D, generator=torch.Generator().manual_seed(3))
    j = input_gradients(model, x).numpy()
    rows = np.random.default_rng(0).normal(size=(3, 12))
    polytope = prograd.JacobianPolytope(rows, np.stack([rows @ v.ravel() - 0.05 for v in j]))
    sal = prograd.saliency(x, [0, 2], -2.0, 2.0)
    product = prograd.input_x_gradient(x, [1, 1], -3.0, 3.0)
    found = prograd.edit_gradients(
        model,
        "2",
        x,
        [polytope, sal, product],
        size="linf_l1",
        margin=1e-4,
        precisions=("float64", "float32"),
    )
    assert found.edited, found.reason
    assert [c.holds for c in found.certificates] == [True, True]
    base = 0.9 * x
    own = [integrated_gradients(model, x[i], base[i], 0, 5).detach().numpy() for i in range(2)]
    targets = [(v - v.min()) / np.ptp(v) for v in own]
    moved = [np.clip(t + 0.05 * np.sin(7 * t), 0, 1) for t in targets]
    asked = prograd.IntegratedGradients([0, 0], base, moved, 0.06, nodes=5)
    found = prograd.edit_gradients(model, "0", x, [asked], margin=1e-5)
    assert found.edited, found.reason
    assert found.conditions > 0
    low = prograd.certify(found.model, x, [asked], "bfloat16", cast=["0.weight"])
    assert low.precision == "bfloat16"
    dense = torch.cat([x, x + 1e-3])
    result, shares = prograd.add_cuts(
        model, "0", x, dense, lambda p: [prograd.JacobianBox(-3.0, 3.0)], rounds=2, most=4,
        edit=lambda m, p, c: prograd.edit_gradients(m, "0", p, c),
    )  # fmt: skip
    assert result.edited
    assert shares[-1] == 0.0


def test_lazy_rows_end_with_the_same_optimum():
    from scipy import sparse

    from reproven.papers.prograd.program import solve_lazily

    rng = np.random.default_rng(5)
    a = sparse.csr_array(rng.normal(size=(300, 8)))
    target = rng.normal(size=40)
    keep = Preserve(sparse.csr_array(rng.normal(size=(40, 8))), 1.0, target)
    block = Block(a, np.zeros(300), np.full(300, -0.6), np.full(300, 0.6), "rows")
    whole = solve([block], 8, size="l2", preserve=keep, size_weight=1e-6)
    lazy, used = solve_lazily(
        block, 8, start=np.arange(3), slack=1e-9, preserve=keep, size_weight=1e-6, most=5
    )
    assert used < 300
    np.testing.assert_allclose(lazy.delta, whole.delta, rtol=0, atol=1e-5)
