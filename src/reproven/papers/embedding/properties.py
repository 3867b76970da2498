"""Properties of the splitting map on random networks: C1 to C4, C11 (biases) and C12 (attention)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.papers.embedding import extensions, nets
from reproven.papers.embedding.splitting import Embedding, random_coefficients
from reproven.papers.embedding.structure import module_named, units_of

FLOAT = torch.float64  # the claims are about rounding: every experiment runs in double precision


def _random_mlp(
    act: str, bias: bool = False
) -> Callable[[torch.Generator], tuple[nn.Module, list[str], Tensor]]:
    def build(g: torch.Generator) -> tuple[nn.Module, list[str], Tensor]:
        depth = int(torch.randint(1, 4, (), generator=g))
        widths = [6, *torch.randint(4, 17, (depth,), generator=g).tolist(), 1]
        model = nets.he_normal(nets.mlp(widths, act=act, bias=bias), g)
        return model, [str(2 * i) for i in range(depth)], torch.randn(40, 6, generator=g, dtype=FLOAT)

    return build


def _random_cnn(g: torch.Generator) -> tuple[nn.Module, list[str], Tensor]:
    """conv - leaky - max pool - conv - ReLU - average pool - linear: conv to conv and conv to linear."""
    first, second = (int(v) for v in torch.randint(2, 6, (2,), generator=g))
    model = nn.Sequential(
        nn.Conv2d(2, first, 3, bias=False, dtype=FLOAT),
        nn.LeakyReLU(nets.SLOPE),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1, bias=False, dtype=FLOAT),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(second * 4, 1, bias=False, dtype=FLOAT),
    )
    return nets.he_normal(model, g), ["0", "3"], torch.randn(40, 2, 10, 10, generator=g, dtype=FLOAT)


ARCHITECTURES = {
    "relu": _random_mlp("relu"),
    "leaky": _random_mlp("leaky"),
    "linear": _random_mlp("linear"),
    "bias": _random_mlp("leaky", bias=True),
    "cnn": _random_cnn,
    "tanh": _random_mlp("tanh"),
    "relu2": _random_mlp("relu2"),
}


def map_properties(ctx: Context, *, architecture: list[str], trials: int, splits: int) -> None:
    """Relative defects of norm, output and gradient after `splits` successive splits (C1 to C4, C11).

    Every method sees the same networks, units and inputs; relu2 and tanh break 1-homogeneity on purpose.
    """
    for done, name in enumerate(architecture):
        for method, widening in ctx.methods.items():
            rows = []
            for trial in range(trials):
                g = ctx.torch_generator("network", architecture=name, trial=trial)
                model, layers, x = ARCHITECTURES[name](g)
                y = torch.sign(torch.randn(len(x), generator=g, dtype=FLOAT))
                wide, T = model, Embedding()
                for _ in range(splits):
                    layer = layers[int(torch.randint(len(layers), (), generator=g))]
                    unit = int(torch.randint(units_of(module_named(wide, layer)), (), generator=g))
                    copies = int(torch.randint(2, 6, (), generator=g))
                    wide, step = widening(wide, layer, unit, copies, homogeneous=False, generator=g)
                    T = T.then(step)
                rows.append(defects(model, wide, T, x, y))
            for metric, values in zip(DEFECTS, zip(*rows, strict=True), strict=True):
                ctx.record_many(
                    metric, values, unit="1", direction="lower", architecture=name, method=method, splits=splits,
                    trial=range(trials),
                )  # fmt: skip
        ctx.progress((done + 1) / len(architecture), name)


DEFECTS = ("isometry_error", "output_error", "gradient_error")


def defects(
    model: nn.Module, wide: nn.Module, T: Embedding, x: Tensor, y: Tensor
) -> tuple[float, float, float]:
    """Return the relative changes of norm and output and ``||grad~ - tau T grad|| / ||tau T grad||``."""
    theta, eta = _flat(dict(model.named_parameters())), _flat(dict(wide.named_parameters()))
    out, g = _output_and_gradient(model, x, y)
    wide_out, g_wide = _output_and_gradient(wide, x, y)
    image = {name: T.tau * value for name, value in T(g).items()}
    return (
        float(abs(eta.norm() / theta.norm() - 1)),
        float((wide_out - out).abs().max() / out.abs().max()),
        float(_flat({name: g_wide[name] - image[name] for name in image}).norm() / _flat(image).norm()),
    )


def _output_and_gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    parameters = dict(model.named_parameters())
    out = model(x)
    # The logistic loss: its slope lies in (0, 1), so that no sample of a random network drowns the others.
    loss = nn.functional.softplus(-y * out.squeeze(-1)).mean()
    return out.detach(), dict(
        zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True)
    )


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.detach().flatten() for v in tensors.values()])


def beyond_homogeneous(ctx: Context, *, trials: int, steps: int, lr: float) -> None:
    """Attention coordinates (C12) and gated units with tau = m^(-1/3): defects and trajectories.

    Gated pairs take the wide step ``lr / tau``: gradient flow satisfies ``eta(t) = T theta(tau t)``.
    """
    for trial in range(trials):
        for pair in ("qk", "vo"):
            g = ctx.torch_generator("attention", trial=trial)
            model = nn.Sequential()
            model.add_module("attention", extensions.SelfAttention(8, heads=2, qk=4, vo=4))
            model.add_module("flat", nn.Flatten())
            model.add_module("out", nn.Linear(40, 1, bias=False, dtype=FLOAT))
            nets.he_normal(model, g)
            x = torch.randn(30, 5, 8, generator=g, dtype=FLOAT)
            c = random_coefficients(3, g)
            wide, T = extensions.split_attention(model, "attention", pair, 1, c)
            _record_beyond(ctx, model, wide, T, x, g, f"attention_{pair}", trial)
        for copies in (2, 5):
            g = ctx.torch_generator("gated", trial=trial)
            gated = extensions.GatedUnits(4, 6)
            nets.he_normal(gated, g, scale=0.5)
            x = torch.randn(40, 4, generator=g, dtype=FLOAT)
            wide, T = extensions.split_gated(gated, copies)
            y = _record_beyond(ctx, gated, wide, T, x, g, f"gated_{copies}", trial)
            error = _descend(gated, wide, T, x, y, steps, lr)
            ctx.record(
                "flow_error",
                error,
                unit="1",
                direction="lower",
                case=f"gated_{copies}",
                trial=trial,
                steps=steps,
            )
        ctx.progress((trial + 1) / trials)


def _record_beyond(
    ctx: Context,
    model: nn.Module,
    wide: nn.Module,
    T: Embedding,
    x: Tensor,
    g: torch.Generator,
    case: str,
    trial: int,
) -> Tensor:
    y = torch.sign(torch.randn(len(x), generator=g, dtype=FLOAT))
    for metric, value in zip(DEFECTS, defects(model, wide, T, x, y), strict=True):
        ctx.record(metric, value, unit="1", direction="lower", case=case, trial=trial)
    return y


def _descend(
    model: nn.Module, wide: nn.Module, T: Embedding, x: Tensor, y: Tensor, steps: int, lr: float
) -> float:
    """Return the largest relative trajectory error of gradient descent with the wide step ``lr / tau``."""
    narrow = torch.optim.SGD(model.parameters(), lr=lr)
    broad = torch.optim.SGD(wide.parameters(), lr=lr / T.tau)
    worst = 0.0
    for _ in range(steps):
        for net, optimiser in ((model, narrow), (wide, broad)):
            optimiser.zero_grad()
            nn.functional.softplus(-y * net(x).squeeze(-1)).mean().backward()
            optimiser.step()
        image = T(dict(model.named_parameters()))
        actual = dict(wide.named_parameters())
        gap = _flat({name: actual[name] - image[name] for name in image}).norm() / _flat(image).norm()
        worst = max(worst, float(gap))
    return worst
