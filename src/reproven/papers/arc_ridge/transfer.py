"""Transfer experiments: every method on the same tasks, and what each leaves of the pretrained body."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.harness.context import Context
from reproven.harness.errors import require
from reproven.papers.arc_ridge import text, vision
from reproven.papers.arc_ridge.finetuning import Candidate, Problem, Scores, pick, select
from reproven.papers.arc_ridge.geometry import rho_v
from reproven.papers.arc_ridge.network import NetworkFineTuning, wrong_class
from reproven.papers.arc_ridge.path import first_stop
from reproven.papers.arc_ridge.retention import kernel_alignment, linear_cka, linear_probe_accuracy

Retention = Callable[[Tensor], dict[str, Tensor]]


def compare(
    ctx: Context,
    problem: Problem,
    retention: Retention,
    seeds: Sequence[int],
    unit: str,
    *,
    ends: bool,
    **where: Any,
) -> None:
    """Record test errors and retention of every candidate, of the one that validation picks, and of the best.

    The "best" candidate is picked on the test set: an oracle, there to compare curves, not rules. ends: measure
    retention only at the largest strength and at the one picked, where it is dear.
    """
    for done, (name, method) in enumerate(ctx.methods.items()):
        found: list[Candidate] = method.candidates(problem)
        scores = [_scores(problem, candidate) for candidate in found]
        more = {"method": name, "task": list(seeds), **where}
        for candidate, score in zip(found, scores):
            at = {**more, "strength": candidate.strength}
            ctx.record_many("test_error", score.test.tolist(), unit=unit, direction="lower", **at)
            if candidate.parameters is not None and not (ends and candidate is not found[-1]):
                for metric, values in retention(candidate.parameters).items():
                    ctx.record_many(metric, values.tolist(), unit="share", direction="higher", **at)
        chosen = select(scores)
        best = torch.stack([s.test for s in scores]).argmin(0)
        for how, index in (("selected", chosen), ("best", best)):
            errors = torch.stack([s.test for s in scores])[index, torch.arange(len(index))]
            ctx.record_many(f"{how}_error", errors.tolist(), unit=unit, direction="lower", **more)
        parameters = pick(found, chosen)
        if parameters is not None:
            for metric, values in retention(parameters).items():
                ctx.record_many(
                    f"selected_{metric}", values.tolist(), unit="share", direction="higher", **more
                )
        ctx.progress((done + 1) / len(ctx.methods), name)


def _scores(problem: Problem, candidate: Candidate) -> Scores:
    if candidate.scores is not None:
        return candidate.scores
    if candidate.parameters is None:
        raise ValueError(f"the candidate at strength {candidate.strength} has neither parameters nor scores")
    return problem.evaluate(candidate.parameters)


def digits_transfer(
    ctx: Context, *, tasks: int, train: int, validation: int, test: int, noise: float, steps: int,
    rate: float, pretraining: int, lams: list[float],
) -> None:  # fmt: skip
    """Fine-tune CNNs pretrained on digits 0 to 4 to predict the value of digits 5 to 9 from few noisy labels.

    tasks: how many, each with a body, a draw of images and noise of its own. noise: standard deviation, on targets of
    unit variance. Retention: probe accuracy on digits 0 to 4, CKA and NTK alignment with the pretrained network there.
    """
    images = ctx.dataset()
    x, digit = vision.patches(images.data), torch.as_tensor(images.targets)
    rng = ctx.generator("source")
    source = torch.as_tensor(rng.permutation(np.flatnonzero(images.targets < 5)))
    held, learnt = source[:500], source[500:]
    bodies = vision.pretrain(
        x[learnt], digit[learnt], [ctx.torch_generator("body", task=t) for t in range(tasks)], classes=5,
        steps=pretraining,
    )  # fmt: skip
    start = torch.cat([bodies, torch.zeros(tasks, vision.HIDDEN + 1)], 1)
    parts: list[list[Tensor]] = [[], [], [], [], [], []]
    for task in range(tasks):
        g = ctx.generator("task", task=task)
        order = torch.as_tensor(g.permutation(np.flatnonzero(images.targets >= 5)))[
            : train + validation + test
        ]
        clean = (digit[order].float() - 7) / 2**0.5
        noisy = clean + noise * torch.as_tensor(g.normal(size=len(order)), dtype=torch.float32)
        cuts = (slice(train), slice(train, train + validation), slice(train + validation, None))
        for i, cut in enumerate(cuts):
            parts[2 * i].append(x[order[cut]])
            parts[2 * i + 1].append(clean[cut] if i == 2 else noisy[cut])
    stacks = [torch.stack(p) for p in parts]
    problem = vision.DigitsRegression(
        start, stacks[0], stacks[1], (stacks[2], stacks[3]), (stacks[4], stacks[5]), lams, noise, rate, steps
    )
    retention = _retention(problem, x[learnt[:1000]], digit[learnt[:1000]], x[held], digit[held])
    for metric, values in retention(start).items():
        ctx.record_many(
            f"pretrained_{metric}", values.tolist(), unit="share", task=range(tasks), method="start"
        )
    compare(ctx, problem, retention, range(tasks), "digit^2 / 2", ends=False)
    _drift(ctx, problem, list(range(tasks)))


def _retention(
    problem: vision.DigitsRegression, fit: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor
) -> Retention:
    count = len(problem.start)
    before = vision.features(problem.start, held.expand(count, -1, -1, -1))
    probe = held[:20].expand(count, -1, -1, -1)
    head = torch.ones(count, vision.HIDDEN + 1)  # the NTK of the sum of features: a zero head has no gradient

    def gram(theta: Tensor) -> Tensor:
        rows = problem.jacobian(torch.cat([theta[:, : vision.BODY], head], 1), probe)
        return rows @ rows.mT

    first = gram(problem.start)

    def measure(theta: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            after = vision.features(theta, held.expand(count, -1, -1, -1))
            accuracy = linear_probe_accuracy(
                vision.features(theta, fit.expand(count, -1, -1, -1)), labels.expand(count, -1), after,
                held_labels.expand(count, -1),
            )  # fmt: skip
        return {
            "probe_accuracy": accuracy,
            "cka": linear_cka(before, after),
            "ntk_alignment": kernel_alignment(first, gram(theta)),
        }

    return measure


def _drift(ctx: Context, problem: vision.DigitsRegression, tasks: list[int]) -> None:
    """Record the trajectory without regularisation: errors, lengths, and rho_V half way and at the end."""
    path = problem.path()
    for index, step in enumerate(path.step):
        at: dict[str, Any] = {"step": step, "task": tasks, "method": "trajectory"}
        ctx.record_many("arc", path.arc[index].tolist(), unit="theta", **at)
        ctx.record_many("path_test_error", path.scores[index].test.tolist(), unit="digit^2 / 2", **at)
        ctx.record_many("loss", path.loss[index].tolist(), unit="digit^2 / 2", **at)
    for index in (len(path.step) // 2, len(path.step) - 1):
        theta = path.parameters[index].double()
        v = theta - problem.start.double()
        jacobian = torch.cat([problem.jacobian(theta.float(), x) for x in problem.x.split(50, 1)], 1).double()
        at = {"step": path.step[index], "task": tasks, "method": "trajectory"}
        ctx.record_many("rho_v", rho_v(jacobian, v).tolist(), unit="share", **at)
        ctx.record_many("arc_over_distance", (path.arc[index] / v.norm(dim=1)).tolist(), unit="ratio", **at)


# --- text ----------------------------------------------------------------------------------------------------

GROUPS = ("sci.crypt", "sci.electronics", "sci.med", "sci.space", "rec.autos")  # of the 20 newsgroups


def text_transfer(
    ctx: Context, *, source: list[str], noise: list[float], tasks: int, per_class: dict[str, int], test: int,
    tokens: int, steps: int, rate: float, batch: int, every: int, lams: list[float], arc_lams: list[float],
) -> None:  # fmt: skip
    """Fine-tune the last block of MiniLM on few texts, a share `noise` of them with wrong labels.

    A fifth of the labels is kept back for validation, wrong ones included. Retention: CKA with the pretrained features
    on the test texts, probe accuracy of the features on the other source.
    """
    require("transformers", "arc_ridge")
    encoder, tokenizer = ctx.dataset("minilm_l6")
    data = {name: _texts(ctx, name, tasks, per_class[name], test) for name in source}
    frozen = {
        name: text.frozen_part(encoder, tokenizer, texts, tokens) for name, (texts, _, _, _) in data.items()
    }
    layer = encoder.encoder.layer[-1]
    total = len(source) * len(noise) * tasks
    for name in source:
        _, labels, trains, tests = data[name]
        classes = int(labels.max()) + 1
        other = next((o for o in source if o != name), name)
        for share in noise:
            for task in range(tasks):
                block = text.LastBlock(
                    copy.deepcopy(layer.intermediate.dense), copy.deepcopy(layer.output.dense),
                    copy.deepcopy(layer.output.LayerNorm), classes,
                )  # fmt: skip
                rng = ctx.generator("labels", task=task, source=name, noise=share)
                noisy = torch.as_tensor(text.flip_labels(labels[trains[task]].numpy(), share, classes, rng))
                h, mask = (part[trains[task]] for part in frozen[name])
                cut = round(0.8 * len(noisy))
                problem = NetworkFineTuning(
                    block, (h[:cut], mask[:cut], noisy[:cut]), (h[cut:], mask[cut:], noisy[cut:]),
                    (frozen[name][0][tests], frozen[name][1][tests], labels[tests]),
                    torch.nn.functional.cross_entropy, wrong_class, lams, arc_lams,
                    text.noise_entropy(share, classes), rate, steps, batch, every,
                    ctx.derive("batches", task=task, source=name),
                )  # fmt: skip
                where: dict[str, Any] = {"source": name, "noise": share}
                retention = _text_retention(problem, frozen[other], data[other])
                compare(ctx, problem, retention, [task], "share wrong", ends=True, **where)
                _metrics_control(ctx, problem, task=task, **where)
        ctx.progress((source.index(name) + 1) / len(source), f"{name}, {total} tasks in all")


def _texts(
    ctx: Context, name: str, tasks: int, per_class: int, test: int
) -> tuple[list[str], Tensor, list[Tensor], Tensor]:
    """Return texts, their labels, the rows of each task's training texts, and the rows of the test texts."""
    found = ctx.dataset(name)
    names = found["train"].features["label"].names
    kept = [c for c in range(len(names)) if name != "newsgroups_20" or names[c] in GROUPS]
    labels = np.array(found["train"]["label"])
    rows = []
    for task in range(tasks):
        rng = ctx.generator("texts", source=name, task=task)
        pool = [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in kept]
        rows.append(rng.permutation(np.concatenate(pool)))
    hidden = np.array(found["test"]["label"])
    rng = ctx.generator("test texts", source=name)
    tests = rng.permutation(np.flatnonzero(np.isin(hidden, kept)))[:test]
    train = np.concatenate(rows)
    texts = [found["train"][int(i)]["text"] for i in train] + [found["test"][int(i)]["text"] for i in tests]
    codes = {c: i for i, c in enumerate(kept)}
    coded = torch.tensor([codes[int(c)] for c in np.concatenate([labels[train], hidden[tests]])])
    size = len(rows[0])
    return (
        texts,
        coded,
        [torch.arange(t * size, (t + 1) * size) for t in range(tasks)],
        torch.arange(tasks * size, len(texts)),
    )


def _text_retention(
    problem: NetworkFineTuning, other: tuple[Tensor, Tensor], of_other: tuple[Any, Tensor, Any, Tensor]
) -> Retention:
    _, labels, trains, tests = of_other
    fit = torch.cat(trains)[:160]  # enough for a probe; every candidate is probed

    def features(theta: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        return problem.features(theta, (h, mask))[None].double()

    before = features(problem.start, *problem.test[:2])

    def measure(theta: Tensor) -> dict[str, Tensor]:
        a, b = (features(theta, other[0][rows], other[1][rows]) for rows in (fit, tests))
        return {
            "cka": linear_cka(before, features(theta, *problem.test[:2])),
            "probe_accuracy": linear_probe_accuracy(
                a, labels[fit][None], b, labels[tests][None], strength=0.1
            ),
        }

    return measure


def _metrics_control(ctx: Context, problem: NetworkFineTuning, **where: Any) -> None:
    """Record where arc ridge would stop with Euclidean lengths and norms on the same trajectory of Adam."""
    problem.path()
    found = problem.lengths
    if found is None:
        raise ValueError("the path has not been recorded")
    at = {**where, "method": "trajectory"}
    for kind in ("own", "euclidean"):
        ctx.record_many(
            "arc", found[f"{kind}_arc"].tolist(), unit="length", metric_of=kind, step=found["step"], **at
        )
    for lam in problem.arc_lams:
        steps = {}
        for kind in ("own", "euclidean"):
            index, _ = first_stop(found[f"{kind}_norm"], found[f"{kind}_arc"], lam)
            steps[kind] = int(found["step"][index])
            ctx.record("stop_step", steps[kind], unit="steps", metric_of=kind, lam=lam, **at)
        ctx.record("stop_shift", abs(steps["own"] - steps["euclidean"]), unit="steps", lam=lam, **at)
