"""Beyond the paper, on the digit classifier: capacity, quantisation, the flat map, and what an edited map is worth."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproven.harness.context import Context
from reproven.papers.prograd.attribution import cosine, grad_cam, satisfaction
from reproven.papers.prograd.constraints import FrozenMaps
from reproven.papers.prograd.edit import gather_rows, prepare
from reproven.papers.prograd.experiments.gradcam import EditSet, Subject, _noisy_set, map_task
from reproven.papers.prograd.heads import MapTask, ProGrad, head_module
from reproven.papers.prograd.nets import as_images, batched, digit_cnn, drawn, fit_classifier
from reproven.papers.prograd.program import solve
from reproven.papers.prograd.rows import Block, min_max


def _trained(ctx: Context, epochs: int) -> tuple[Subject, Tensor, Tensor, Tensor, Tensor]:
    data = ctx.dataset()
    x, y = as_images(data.data, data.peak), torch.as_tensor(data.targets)
    order = torch.randperm(len(x), generator=ctx.torch_generator("split"))
    train, test = order[: int(0.8 * len(x))], order[int(0.8 * len(x)) :]
    model = drawn(digit_cnn(x.shape[-1]), ctx.torch_generator("weights"))
    fit_classifier(model, x[train], y[train], epochs=epochs, generator=ctx.torch_generator("batches"))
    assert isinstance(model, nn.Sequential)
    return Subject(model[:4], model[4:], "fc", "conv3"), x[train], y[train], x[test], y[test]


def capacity(
    ctx: Context, *, epochs: int, per_class: list[int], classes: int, draws: int, noise: float, epsilon: float
) -> None:
    """Ask for the maps of more and more images of one class: when is there no edit, and what does it cost before?

    per_class: numbers of images. classes: how many digits are tried, one at a time. draws: of images and noise.
    Records: load, the asked values (entries - 1) * images over the width of the head; rank of their features; feasible;
    accuracy on the test set where feasible.
    """
    subject, x, y, x_test, y_test = _trained(ctx, epochs)
    for done, count in enumerate(per_class):
        for draw in range(draws):
            for digit in range(classes):
                g = ctx.torch_generator("images", digit=digit, draw=draw)
                rows = torch.nonzero(y == digit)[:, 0]
                rows = rows[torch.randperm(len(rows), generator=g)[:count]]
                noisy = (x[rows] + noise * torch.randn(x[rows].shape, generator=g)).clamp(0, 1)
                task, _ = map_task(subject, EditSet(noisy, x[rows], y[rows]), x[:1], epsilon)
                rank = int(torch.linalg.matrix_rank(task.v.double().flatten(0, 1)))
                found = ProGrad(box=10.0).edit(task, 0, g)
                at: dict[str, Any] = {"images": count, "draw": draw, "digit": digit}
                load = (task.v.shape[1] - 1) * len(rows) / task.v.shape[2]
                ctx.record("rank", rank, unit="1", **at)
                ctx.record("load", load, unit="1", **at)
                ctx.record("feasible", found.status == "edited", unit="1", direction="higher", **at)
                if found.status == "edited":
                    model = subject.edited(found, None)
                    right = (batched(model, x_test).argmax(1) == y_test).double().mean()
                    ctx.record("accuracy", float(right), unit="1", direction="higher", **at)
        ctx.progress((done + 1) / len(per_class), f"{count} images")


STORES = ("float64", "float32", "float16", "bfloat16", "int8")


def stored(weight: Tensor, store: str) -> Tensor:
    """Return float64 weights as they come back from a store; int8: one scale a row, rounded to the nearest step."""
    if store == "int8":
        scale = weight.abs().amax(1, keepdim=True) / 127
        return (weight / scale).round() * scale
    return weight.to(getattr(torch, store)).double()


def quantisation(
    ctx: Context, *, epochs: int, draws: int, images: int, noise: float, epsilon: float, margins: list[float]
) -> None:
    """Store the edited layer in few bits: which requirements survive, at which margin (C12)?

    margins: shares of epsilon by which the requirements are drawn in. Records a store and margin: satisfied (share
    of pixels), edited; all arithmetic in float64, the edited layer alone rounded.
    """
    subject, x, y, _, _ = _trained(ctx, epochs)
    for draw in range(draws):
        g = ctx.torch_generator("noise", draw=draw)
        model = nn.Sequential(subject.body, subject.head).eval()
        images_set = _noisy_set(model, x, y, noise, 3, images, g)
        task, targets = map_task(subject, images_set, x[:100], epsilon)
        for margin in margins:
            editor = ProGrad(box=3.0, margin=margin * epsilon, keep=1.0, precision="float64")
            found = editor.edit(task, 0, g)
            at = {"margin": margin, "draw": draw}
            ctx.record("edited", found.status == "edited", unit="1", direction="higher", **at)
            for store in STORES:
                rows = stored(found.weight.double(), store)
                maps = _maps64(task, rows)
                share = satisfaction(maps, targets, epsilon).mean()
                ctx.record("satisfied", share, unit="1", direction="higher", store=store, **at)
        ctx.progress((draw + 1) / draws, f"draw {draw}")


def _maps64(task: MapTask, weight: Tensor) -> np.ndarray:
    return torch.einsum("nk,nek->ne", weight[task.labels], task.v.double()).numpy(force=True)


def flat_map(ctx: Context, *, epochs: int, draws: int, images: int, noise: float, epsilon: float) -> None:
    """Control: without the floor on a map's range the flat map passes the linear rows and fails the requirement.

    The row of a class is set to zero by the program itself: the same rows without (iii), smallest weights wanted.
    Records: satisfied by the rows and by the metric, with and without the floor.
    """
    subject, x, y, _, _ = _trained(ctx, epochs)
    for draw in range(draws):
        g = ctx.torch_generator("noise", draw=draw)
        images_set = _noisy_set(nn.Sequential(subject.body, subject.head).eval(), x, y, noise, 3, images, g)
        task, targets = map_task(subject, images_set, x[:1], epsilon)
        head = head_module(task.weight, task.bias).double()
        features = [v.double().numpy() for v in task.v]
        maps = FrozenMaps(features, task.labels.tolist(), list(targets), epsilon)
        rows = sorted(set(task.labels.tolist()))
        work, points, space = prepare(head, ["0"], task.h, outputs=rows, bias=False)
        blocks = gather_rows(work, space, points, [maps], 1e-5).all
        start = task.weight[rows].double().numpy().ravel()
        for floor in (True, False):
            # the smallest weights, not the smallest change: in w = w_0 + delta
            moved = [_shifted(b, start, floor) for b in blocks]
            found = solve(moved, space.size, size="l1", box=10.0)
            weight = task.weight.double().clone()
            weight[rows] = torch.as_tensor(found.delta.reshape(len(rows), -1))
            got = _maps64(task, weight)
            met = max(float(b.residual(found.delta).max()) for b in moved) <= 1e-6
            at = {"floor": floor, "draw": draw}
            ctx.record("rows_met", met, unit="1", direction="higher", **at)
            ctx.record(
                "satisfied", satisfaction(got, targets, epsilon).mean(), unit="1", direction="higher", **at
            )


def _shifted(block: Block, start: np.ndarray, floor: bool) -> Block:
    low = block.low.copy()
    if not floor:
        low[-1] = -np.inf
    return Block(block.a, block.value - block.a @ start, low, block.high, block.label, block.t)


def faithfulness(
    ctx: Context, *, epochs: int, draws: int, images: int, noise: float, epsilon: float, patch: int
) -> None:
    """Does an edited map say what the edited network relies on, or only what was asked of it?

    Patches of the input (one an entry of the map) are set to zero one at a time (occlusion) and in the order of a map
    (deletion; insertion the other way round), and the probability of the true class is watched.
    Records, an image set: occlusion_agreement (correlation of occlusion effects, original against edited network),
    map_agreement (of a network's own map with its own occlusion effects; model original or edited), deletion and
    insertion (mean probability along the curve; order: own, or the other network's map), randomised_cosine (edited map
    against that of the edited network with its convolutions drawn anew).
    """
    subject, x, y, _, _ = _trained(ctx, epochs)
    original = nn.Sequential(subject.body, subject.head).eval()
    for draw in range(draws):
        g = ctx.torch_generator("noise", draw=draw)
        images_set = _noisy_set(original, x, y, noise, 3, images, g)
        task, targets = map_task(subject, images_set, x[:100], epsilon)
        found = ProGrad(box=3.0, keep=1.0).edit(task, 0, g)
        edited = subject.edited(found, None)
        models = {"original": original, "edited": edited}
        maps = {k: _maps(m, images_set) for k, m in models.items()}
        effect = {k: _occlusion(m, images_set, patch) for k, m in models.items()}
        both = [np.corrcoef(a, b)[0, 1] for a, b in zip(effect["original"], effect["edited"])]
        ctx.record("occlusion_agreement", float(np.mean(both)), unit="1", draw=draw)
        for name, model in models.items():
            own = [np.corrcoef(a, b)[0, 1] for a, b in zip(maps[name], effect[name])]
            ctx.record(
                "map_agreement", float(np.mean(own)), unit="1", direction="higher", model=name, draw=draw
            )
            for order in models:
                for metric, keep in (("deletion", False), ("insertion", True)):
                    area = _curve(model, images_set, maps[order], patch, keep)
                    ctx.record(metric, area, unit="1", model=name, order=order, draw=draw)
        random = copy.deepcopy(
            edited
        )  # its body is the subject's own: drawn anew in place, all later draws would change
        drawn(random[0], g)
        drawn(random[1].get_submodule("conv3"), g)
        anew = _maps(random, images_set)
        live = np.ptp(anew, axis=1) > 0
        likeness = cosine(anew[live], min_max(maps["edited"][live]))
        ctx.record("randomised_cosine", float(likeness.mean()), unit="1", draw=draw)
        ctx.record("edited_cosine", float(cosine(maps["edited"], targets).mean()), unit="1", draw=draw)
        ctx.progress((draw + 1) / draws, f"draw {draw}")


def _maps(model: nn.Module, images: EditSet) -> np.ndarray:
    return grad_cam(model, images.noisy, images.labels, "1.conv3").flatten(1).double().numpy(force=True)


def _probability(model: nn.Module, x: Tensor, labels: Tensor) -> np.ndarray:
    return batched(model, x).softmax(1).gather(1, labels[:, None])[:, 0].double().numpy(force=True)


def _patches(size: int, patch: int) -> Tensor:
    """Return masks (entries, 1, size, size), one where a patch lies, in the order of the map."""
    side = size // patch
    eye = torch.eye(side * side).reshape(-1, 1, side, side)
    return eye.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def _occlusion(model: nn.Module, images: EditSet, patch: int) -> np.ndarray:
    """Return by how much each patch's absence lowers the probability of the true class, (n, entries)."""
    masks = _patches(images.noisy.shape[-1], patch)
    whole = _probability(model, images.noisy, images.labels)
    effects = [whole - _probability(model, images.noisy * (1 - m), images.labels) for m in masks]
    return np.stack(effects, 1)


def _curve(model: nn.Module, images: EditSet, maps: np.ndarray, patch: int, keep: bool) -> float:
    """Return the mean probability of the true class while patches go (or come, `keep`) in the order of the maps."""
    masks = _patches(images.noisy.shape[-1], patch)
    order = torch.as_tensor(np.argsort(-maps, axis=1).copy())
    values = []
    for count in range(maps.shape[1] + 1):
        touched = torch.stack([masks[o[:count]].sum(0) for o in order])
        x = images.noisy * (touched if keep else 1 - touched)
        values.append(_probability(model, x, images.labels).mean())
    return float(np.mean(values))
