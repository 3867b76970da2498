"""E2 and E2': Grad-CAM maps of corrupted images edited to those of the clean ones; every editor, same edit sets."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.papers.prograd.attribution import cosine, grad_cam, iou, satisfaction
from reproven.papers.prograd.constraints import channel_features
from reproven.papers.prograd.heads import HeadEdit, MapTask, largest_change
from reproven.papers.prograd.nets import as_images, batched, digit_cnn, drawn, fit_classifier
from reproven.papers.prograd.rows import min_max
from reproven.papers.prograd.tail import Tail, edit_space, float64_copy


@dataclass(frozen=True)
class Subject:
    """A network cut in two: `body` up to the map's place (frozen), `head` behind it, whose layer `layer` is edited.

    at: the map's place in the head, as `Tail`'s.
    """

    body: nn.Module
    head: nn.Module
    layer: str
    at: str

    @property
    def linear(self) -> nn.Linear:
        found = self.head.get_submodule(self.layer)
        assert isinstance(found, nn.Linear)
        return found

    def edited(self, edit: HeadEdit, rows: Tensor | None) -> nn.Sequential:
        """Return the whole network with another last layer, or other `rows` of it."""
        head = copy.deepcopy(self.head)
        layer = head.get_submodule(self.layer)
        assert isinstance(layer, nn.Linear)
        which = slice(None) if rows is None else rows
        layer.weight.data[which], layer.bias.data[which] = edit.weight, edit.bias
        return nn.Sequential(self.body, head).eval()


@dataclass(frozen=True)
class EditSet:
    """Corrupted images with their clean counterparts and true labels."""

    noisy: Tensor
    clean: Tensor
    labels: Tensor


def features(subject: Subject, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (h, v, activity): (n, width), (n, entries, width) twice, of a channel-by-channel head."""
    z = batched(subject.body, x)
    work = float64_copy(subject.head)
    view = Tail(work, edit_space(work, [subject.layer]), z.double(), at=subject.at)
    h = view.base.inputs[subject.layer]
    u = channel_features(view)
    place = torch.zeros_like(view.at_value()).requires_grad_()
    inputs = view.run(view.points, at_shift=place).inputs[subject.layer]
    (slope,) = torch.autograd.grad(inputs.sum(), place)
    return h.detach(), u.transpose(1, 2).detach(), slope.flatten(2).transpose(1, 2)


def map_task(
    subject: Subject, images: EditSet, keep: Tensor, epsilon: float, whole: bool = True
) -> tuple[MapTask, np.ndarray]:
    """Return what editors are given, and the target maps (n, entries).

    whole: all rows of the head, or (False) those of the right and of the wrong classes alone, the rest held.
    """
    layer = subject.linear
    h, v, activity = features(subject, images.noisy)
    _, teacher, _ = features(subject, images.clean)
    clean = torch.einsum("nk,nek->ne", layer.weight.detach().double()[images.labels], teacher)
    targets = min_max(clean.numpy(force=True))
    with torch.no_grad():
        y = h.float() @ layer.weight.T + layer.bias
    wrong = y.argmax(1)
    weight, bias, labels = layer.weight.detach(), layer.bias.detach(), images.labels
    rows, others = None, None
    if not whole:
        rows = torch.cat([labels, wrong]).unique()
        rest = torch.ones(len(weight), dtype=torch.bool)
        rest[rows] = False
        others = y[:, rest].logsumexp(1)
        weight, bias = weight[rows], bias[rows]
        labels, wrong = torch.searchsorted(rows, labels), torch.searchsorted(rows, wrong)
    task = MapTask(
        weight=weight, bias=bias, h=h.float(), v=v.float(),
        valid=torch.ones(v.shape[:2], dtype=torch.bool), targets=torch.as_tensor(targets).float(),
        labels=labels, wrong=wrong, rows=rows, others=others, keep=features(subject, keep)[0].float(), epsilon=epsilon,
        teacher=teacher.float(), activity=activity.float(),
    )  # fmt: skip
    return task, targets


def evaluate(
    ctx: Context, subject: Subject, edit: HeadEdit, images: EditSet, targets: np.ndarray, task: MapTask, test: Tests,
    percentile: float, at: dict[str, Any],
) -> np.ndarray:  # fmt: skip
    """Record what the whole edited network does, by autograd in its own precision; return its maps (n, entries)."""
    model = subject.edited(edit, task.rows)
    place = f"1.{subject.at}"
    maps = grad_cam(model, images.noisy, images.labels, place).flatten(1).double().numpy(force=True)
    share = satisfaction(maps, targets, task.epsilon)
    likeness, overlap = cosine(maps, targets), iou(maps, targets, percentile)
    for name, value in (
        ("satisfied", share.mean()), ("images_met", (share == 1).mean()), ("min_cosine", likeness.min()),
        ("mean_cosine", likeness.mean()), ("min_iou", overlap.min()), ("mean_iou", overlap.mean()),
    ):  # fmt: skip
        ctx.record(name, value, unit="1", direction="higher", **at)
    for name, (x, y) in test.items():
        right = (batched(model, x).argmax(1) == y).double().mean()
        ctx.record("accuracy", float(right), unit="1", direction="higher", split=name, **at)
    ctx.record("edited", edit.status == "edited", unit="1", direction="higher", **at)
    ctx.record("largest_change", largest_change(task, edit), unit="weight", direction="lower", **at)
    return maps


Tests = dict[str, tuple[Tensor, Tensor]]


def _run_methods(
    ctx: Context, subject: Subject, images: EditSet, keep: Tensor, test: Tests, *, epsilon: float, steps: int,
    percentile: float, at: dict[str, Any], show: int = 0, whole: bool = True,
) -> None:  # fmt: skip
    task, targets = map_task(subject, images, keep, epsilon, whole)
    for name, method in ctx.methods.items():
        begin = time.perf_counter()
        found = method.edit(task, steps, ctx.torch_generator("editor", **at))
        seconds = time.perf_counter() - begin
        here = {"method": name, **at}
        maps = evaluate(ctx, subject, found, images, targets, task, {"edit": (images.noisy, images.labels), **test},
                        percentile, here)  # fmt: skip
        ctx.record("edit_seconds", seconds, unit="s", direction="lower", **here)
        for i in range(min(show, len(maps))):
            flat = maps[i] if np.ptp(maps[i]) > 0 else np.linspace(0, 1, len(maps[i]))
            ctx.record_many("map", min_max(flat), unit="1", image=i, entry=range(len(flat)), **here)
    for i in range(min(show, len(targets))):
        entries = range(targets.shape[1])
        ctx.record_many("map", targets[i], unit="1", image=i, entry=entries, method="(target)", **at)
    ctx.record("edit_images", len(images.labels), unit="images", method="", **at)


def digits(
    ctx: Context,
    *,
    nets: int,
    draws: int,
    train_images: int,
    epochs: int,
    steps: int,
    images: int,
    kept: int,
    noise: float,
    top: int,
    epsilon: float,
) -> None:
    """E2: a CNN trained on handwritten digits; its maps on noisy training images edited to the clean ones.

    Args:
        nets: trained networks. draws: edit sets of each. train_images: at most. epochs: of training. steps: of each
            trial of the trained editors. images: at most, a set.
        kept: clean training images whose outputs are preserved. noise: standard deviation, pixels in [0, 1].
        top: the true class must be among the first `top` of a wrongly classified noisy image.
    Records, a method and draw: satisfied (share of pixels), images_met, min_cosine, mean_cosine, min_iou, mean_iou,
    accuracy (split test, edit), largest_change, edited, edit_seconds; and the maps of the first images.
    """
    data = ctx.dataset()
    x, y = as_images(data.data, data.peak), torch.as_tensor(data.targets)
    for net in range(nets):
        order = torch.randperm(len(x), generator=ctx.torch_generator("split", net=net))
        cut = int(0.8 * len(x))
        train, test = order[:cut][:train_images], order[cut:]
        model = drawn(digit_cnn(x.shape[-1]), ctx.torch_generator("weights", net=net))
        fit_classifier(
            model, x[train], y[train], epochs=epochs, generator=ctx.torch_generator("batches", net=net)
        )
        assert isinstance(model, nn.Sequential)
        subject = Subject(model[:4], model[4:], "fc", "conv3")
        for draw in range(draws):
            g = ctx.torch_generator("noise", net=net, draw=draw)
            edit_set = _noisy_set(model, x[train], y[train], noise, top, images, g)
            keep = x[train][torch.randperm(len(train), generator=g)[:kept]]
            _run_methods(
                ctx, subject, edit_set, keep, {"test": (x[test], y[test])}, epsilon=epsilon, steps=steps, percentile=75,
                at={"net": net, "draw": draw}, show=3 if net == draw == 0 else 0,
            )  # fmt: skip
            ctx.progress((net + (draw + 1) / draws) / nets, f"net {net} draw {draw}")


def _noisy_set(
    model: nn.Module, x: Tensor, y: Tensor, noise: float, top: int, most: int, g: torch.Generator
) -> EditSet:
    noisy = (x + noise * torch.randn(x.shape, generator=g)).clamp(0, 1)
    clean_right = batched(model, x).argmax(1) == y
    ranked = batched(model, noisy).argsort(1, descending=True)
    chosen = clean_right & (ranked[:, 0] != y) & (ranked[:, :top] == y[:, None]).any(1)
    rows = torch.nonzero(chosen)[:, 0]
    rows = rows[torch.randperm(len(rows), generator=g)[:most]]
    if not len(rows):
        raise ValueError("no noisy image is classified wrongly: raise the noise")
    return EditSet(noisy[rows], x[rows], y[rows])


def imagenet(
    ctx: Context,
    *,
    severities: list[float],
    draws: int,
    steps: int,
    epsilon: float,
    floor_images: int,
    crops: int,
) -> None:
    """E2': EfficientNet-Lite0 with ImageNet weights on 20 labelled ImageNet images under Gaussian noise.

    The edit set of a severity: images that are right when clean and wrong when noisy; where these are fewer than
    `floor_images`, all that are right when clean. Target: the clean map of the true class (7x7, at the last
    convolution behind its batch normalisation, before the ReLU6). Preserved and tested: shifted copies of all clean
    images, different ones.

    Args:
        severities: standard deviations of the noise, pixels in [0, 1]. draws: of the noise. crops: shifted copies
            of every image, half of them preserved, half for testing.
    Records what `digits` does with coordinate severity; and gradient_gap (C6), once.
    """
    from reproven.nets.pretrained import IMAGE_MEAN, IMAGE_STD

    model, data = ctx.dataset("efficientnet_lite0"), ctx.dataset("imagenet_20")
    raw = torch.as_tensor(data.data).permute(0, 3, 1, 2).float() / 255
    labels = torch.as_tensor(data.targets)
    scale: Callable[[Tensor], Tensor] = lambda pixels: (pixels - IMAGE_MEAN) / IMAGE_STD  # noqa: E731
    subject = efficientnet_subject(model)
    clean = scale(raw)
    shifted, owner = _shifted(raw, crops, ctx.torch_generator("shifts"))
    z_shifted, z_clean = batched(subject.body, scale(shifted), 20), batched(subject.body, clean, 20)
    cached = Subject(nn.Identity(), subject.head, subject.layer, subject.at)  # the body has run; it is frozen
    half = torch.arange(len(owner)) % 2 == 0
    test = {"shifted": (z_shifted[~half], labels[owner[~half]]), "clean": (z_clean, labels)}
    right = batched(subject.head, z_clean).argmax(1) == labels
    ctx.progress(0.2, "features")
    for done, severity in enumerate(severities):
        for draw in range(draws):
            g = ctx.torch_generator("noise", draw=draw, severity=severity)
            noisy = scale((raw + severity * torch.randn(raw.shape, generator=g)).clamp(0, 1))
            z = batched(subject.body, noisy, 20)
            wrong = batched(subject.head, z).argmax(1) != labels
            chosen = right & wrong
            if int(chosen.sum()) < floor_images:
                chosen = right
            at = {"severity": severity, "draw": draw}
            if not done and not draw:
                _linearity(ctx, subject, noisy[right], labels[right])
            edit_set = EditSet(z[chosen], z_clean[chosen], labels[chosen])
            _run_methods(
                ctx, cached, edit_set, z_shifted[half], test, epsilon=epsilon, steps=steps, percentile=75, at=at,
                show=3 if not draw and not done else 0, whole=False,
            )  # fmt: skip
            ctx.progress(0.2 + 0.8 * (done * draws + draw + 1) / len(severities) / draws, f"{at}")


def efficientnet_subject(model: nn.Module) -> Subject:
    """Cut timm's EfficientNet behind its last convolution and batch normalisation.

    Its last normalisation holds the ReLU6 too; the map's place is what that is given: ``norm.act:input``.
    """
    from timm.layers import SelectAdaptivePool2d

    parts = dict(model.named_children())
    pool = parts["global_pool"]
    assert isinstance(pool, SelectAdaptivePool2d)
    head = nn.Sequential()
    head.add_module("norm", parts["bn2"])
    head.add_module("pool", pool)
    head.add_module("fc", parts["classifier"])
    body = nn.Sequential(parts["conv_stem"], parts["bn1"], parts["blocks"], parts["conv_head"])
    return Subject(body.eval(), head.eval(), "fc", "norm.act:input")


def _shifted(raw: Tensor, copies: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return copies shifted by up to 16 pixels (edges repeated), half of them mirrored, and whose they are."""
    wide = torch.nn.functional.pad(raw, (16, 16, 16, 16), mode="replicate")
    size = raw.shape[-1]
    found, owner = [], []
    for i in range(len(raw)):
        for _ in range(copies):
            dx, dy, flip = (int(torch.randint(n, (), generator=g)) for n in (33, 33, 2))
            one = wide[i, :, dy : dy + size, dx : dx + size]
            found.append(one.flip(-1) if flip else one)
            owner.append(i)
    return torch.stack(found), torch.tensor(owner)


def _linearity(ctx: Context, subject: Subject, x: Tensor, labels: Tensor) -> None:
    """C6: ``v . W_c`` against Grad-CAM of the whole network by autograd, in float64, relative."""
    body, head = float64_copy(subject.body), float64_copy(subject.head)
    whole = nn.Sequential(body, head).eval()
    own = grad_cam(whole, x.double(), labels, f"1.{subject.at}").flatten(1)
    z = batched(body, x.double(), 20)
    view = Tail(head, edit_space(head, [subject.layer]), z, at=subject.at)
    weight = head.get_parameter(f"{subject.layer}.weight").detach()
    said = torch.einsum("nkp,nk->np", channel_features(view), weight[labels])
    gap = (said - own).abs().amax(1) / own.abs().amax(1)
    ctx.record_many(
        "linearity_gap", gap.tolist(), unit="1", direction="lower", image=range(len(gap)), method="(none)"
    )
