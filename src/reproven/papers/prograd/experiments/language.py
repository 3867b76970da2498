"""E3 and E3': Integrated Gradients of language models edited to a teacher's, or to the mean over prompt wordings."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.harness.context import Context
from reproven.papers.prograd.attribution import (
    cosine,
    integrated_gradients,
    iou,
    satisfaction,
    token_features,
)
from reproven.papers.prograd.certify import Certificate
from reproven.papers.prograd.heads import HeadEdit, MapTask, largest_change, padded
from reproven.papers.prograd.language import (
    NEGATIVE,
    POSITIVE,
    VOCABULARY,
    AnswerLogits,
    answered,
    body,
    fit_answers,
    sentences,
    small_llama,
    untied,
)
from reproven.papers.prograd.rows import min_max


@dataclass(frozen=True)
class Prompt:
    """One sentence in its prompt.

    tokens: ids of the whole prompt. inside: positions of the sentence's own tokens. answer, other: right and
    wrong answer, ids.
    """

    tokens: Tensor
    inside: tuple[int, ...]
    answer: int
    other: int


def embedded(model: AnswerLogits, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Return the prompt's embeddings and the baseline's: token 0 at the sentence's positions, the template kept."""
    base = prompt.tokens.clone()
    base[list(prompt.inside)] = 0
    both = model.embed(torch.stack([prompt.tokens, base]))
    return both[0], both[1]


def attributions(model: AnswerLogits, prompt: Prompt, nodes: int) -> np.ndarray:
    """Return Integrated Gradients of the right answer's logit at the sentence's tokens, by reverse mode."""
    x, base = embedded(model, prompt)
    found = integrated_gradients(model, x, base, prompt.answer, nodes)
    return found[list(prompt.inside)].double().numpy(force=True)


def language_task(
    model: AnswerLogits, prompts: Sequence[Prompt], targets: Sequence[np.ndarray], keep: Tensor, nodes: int,
    epsilon: float, rows: Tensor | None = None,
) -> MapTask:  # fmt: skip
    """Return what editors are given. rows: outputs of the head that are left in (default: all)."""
    head = model.lm.lm_head
    weight = head.weight.detach()
    bias = weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach()
    features, hidden = [], []
    for prompt in prompts:
        x, base = embedded(model, prompt)
        features.append(
            token_features(lambda e: body(model, e), x, base, prompt.inside, nodes).double().numpy()
        )
        with torch.no_grad():
            hidden.append(body(model, x[None])[0])
    h = torch.stack(hidden)
    labels, wrong = (torch.tensor([getattr(p, k) for p in prompts]) for k in ("answer", "other"))
    others = None
    if rows is not None:
        rest = torch.ones(len(weight), dtype=torch.bool)
        rest[rows] = False
        others = (h @ weight[rest].T + bias[rest]).logsumexp(1)
        weight, bias = weight[rows], bias[rows]
        labels, wrong = torch.searchsorted(rows, labels), torch.searchsorted(rows, wrong)
    v, valid = padded(features, weight.dtype)
    target, _ = padded(targets, weight.dtype)

    def certify(weight: Tensor, bias: Tensor) -> Certificate:
        edited = with_head(model, HeadEdit(weight, bias, "edited"), rows)
        gaps = [_gap(attributions(edited, p, nodes), t) - epsilon for p, t in zip(prompts, targets)]
        met = np.concatenate(gaps) <= 0
        return Certificate(
            "whole model", float(met.mean()), float(np.mean([(g <= 0).all() for g in gaps])),
            float(np.concatenate(gaps).max()),
        )  # fmt: skip

    return MapTask(
        weight=weight, bias=bias, h=h, v=v, valid=valid, targets=target, labels=labels, wrong=wrong, keep=keep,
        epsilon=epsilon, rows=rows, others=others, has_bias=head.bias is not None, certify=certify,
    )  # fmt: skip


def _gap(found: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return how far each normalised attribution is from its target; infinite for a flat map."""
    return np.abs(min_max(found) - target) if np.ptp(found) > 0 else np.full(len(found), np.inf)


def with_head(
    model: AnswerLogits, edit: HeadEdit, rows: Tensor | None, precision: torch.dtype | None = None
) -> AnswerLogits:
    """Return the model with another head, stored in `precision` and used in its own.

    The head has no bias, and none is given to it: editors that move one are measured without.
    """
    edited = AnswerLogits(copy.copy(model.lm))
    edited.lm._modules = dict(model.lm._modules)
    head = copy.deepcopy(model.lm.lm_head)
    which = slice(None) if rows is None else rows
    value = edit.weight if precision is None else edit.weight.to(precision).to(edit.weight.dtype)
    head.weight.data[which] = value.to(head.weight.dtype)
    if head.bias is not None:
        head.bias.data[which] = edit.bias.to(head.weight.dtype)
    edited.lm.lm_head = head
    return edited.eval()


def _evaluate(
    ctx: Context, model: AnswerLogits, edit: HeadEdit, task: MapTask, prompts: Sequence[Prompt],
    targets: Sequence[np.ndarray], nodes: int, at: dict[str, Any],
) -> list[np.ndarray]:  # fmt: skip
    """Record what the whole edited model's attributions are, by reverse mode; return them."""
    edited = with_head(model, edit, task.rows)
    maps = [attributions(edited, p, nodes) for p in prompts]
    _record_maps(ctx, maps, targets, task.epsilon, {"precision": "own", **at})
    rounded = with_head(model, edit, task.rows, torch.bfloat16)
    low = [attributions(rounded, p, nodes) for p in prompts]
    _record_maps(ctx, low, targets, task.epsilon, {"precision": "bfloat16", **at})
    ctx.record("largest_change", largest_change(task, edit), unit="weight", direction="lower", **at)
    ctx.record("edited", edit.status == "edited", unit="1", direction="higher", **at)
    right = [int(answered(edited, [p.tokens], (p.other, p.answer))) for p in prompts]
    ctx.record("accuracy", float(np.mean(right)), unit="1", direction="higher", split="edit", **at)
    return maps


def _record_maps(
    ctx: Context,
    maps: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    epsilon: float,
    at: dict[str, Any],
) -> None:
    tokens = np.array([len(m) for m in maps])
    shares = np.array([satisfaction(m[None], t[None], epsilon)[0] for m, t in zip(maps, targets)])
    likeness = [cosine(m[None], t[None])[0] for m, t in zip(maps, targets)]
    overlap = [iou(m[None], t[None], 50)[0] for m, t in zip(maps, targets)]
    for name, value in (
        ("satisfied", float(shares @ tokens / tokens.sum())), ("sentences_met", float((shares == 1).mean())),
        ("mean_cosine", float(np.mean(likeness))), ("mean_iou", float(np.mean(overlap))),
    ):  # fmt: skip
        ctx.record(name, value, unit="1", direction="higher", **at)


def tiny_llama(
    ctx: Context, *, draws: int, prompts: int, student_steps: int, teacher_steps: int, student_sentences: int,
    teacher_sentences: int, pool: int, test: int, kept: int, nodes: int, finer: list[int], epsilon: float, steps: int,
    width: int,
) -> None:  # fmt: skip
    """E3: a Llama-like student, trained on few sentences, takes over a teacher's attributions where it errs.

    Args:
        draws: students (each with its own training set and edit set), all of one teacher. prompts: edit sentences.
        student_steps, teacher_steps, student_sentences, teacher_sentences: training. pool: sentences among which edit
            sentences are looked for: those that the teacher answers right and the student wrong. test: held-out ones.
        kept: training sentences whose answers' logits are preserved. nodes: of the quadrature. finer: more nodes,
            at which completeness is looked at too. epsilon: allowed difference. steps: of each trial of the trained
            editors. width: of student and teacher.
    Records, a method and draw: satisfied (share of tokens), sentences_met, mean_cosine, mean_iou (each with the head
    as edited and stored in bfloat16), accuracy (split edit, test), largest_change, edited, edit_seconds; once a draw
    linearity_gap, completeness_gap by nodes (C7), teacher_accuracy, student_accuracy.
    """
    teacher = AnswerLogits(_drawn(small_llama(VOCABULARY, width, 2, 4), ctx.derive("teacher")))
    tokens, labels = sentences(teacher_sentences, ctx.torch_generator("teacher sentences"))
    fit_answers(
        teacher,
        tokens,
        labels,
        steps=teacher_steps,
        rate=3e-3,
        generator=ctx.torch_generator("teacher batches"),
    )
    test_tokens, test_labels = sentences(test, ctx.torch_generator("test sentences"))
    by_teacher = answered(teacher, test_tokens, (NEGATIVE, POSITIVE)) == test_labels
    pool_tokens, pool_labels = sentences(pool, ctx.torch_generator("pool of edit sentences"))
    pool_right = answered(teacher, pool_tokens, (NEGATIVE, POSITIVE)) == pool_labels
    ctx.progress(0.2, "teacher")
    for draw in range(draws):
        student = AnswerLogits(_drawn(small_llama(VOCABULARY, width, 2, 4), ctx.derive("student", draw=draw)))
        own, own_labels = sentences(student_sentences, ctx.torch_generator("student sentences", draw=draw))
        g = ctx.torch_generator("student batches", draw=draw)
        fit_answers(student, own, own_labels, steps=student_steps, rate=3e-3, generator=g)
        right = answered(student, test_tokens, (NEGATIVE, POSITIVE)) == test_labels
        ctx.record("student_accuracy", float(right.double().mean()), unit="1", method="", draw=draw)
        ctx.record("teacher_accuracy", float(by_teacher.double().mean()), unit="1", method="", draw=draw)
        erred = answered(student, pool_tokens, (NEGATIVE, POSITIVE)) != pool_labels
        chosen = torch.nonzero(erred & pool_right)[:prompts, 0].tolist()
        if not chosen:
            raise ValueError("the student errs nowhere where the teacher is right: train it less")
        edit_prompts = [_as_prompt(pool_tokens[i], int(pool_labels[i])) for i in chosen]
        targets = [min_max(attributions(teacher, p, nodes)) for p in edit_prompts]
        _gaps(ctx, student, edit_prompts[:4], nodes, finer, draw)
        keep = torch.stack([body(student, student.embed(t[None])).detach()[0] for t in own[:kept]])
        task = language_task(student, edit_prompts, targets, keep, nodes, epsilon)
        _methods(
            ctx,
            student,
            task,
            edit_prompts,
            targets,
            nodes,
            steps,
            {"draw": draw},
            (test_tokens, test_labels),
        )
        ctx.progress(0.2 + 0.8 * (draw + 1) / draws, f"draw {draw}")


def _drawn(lm: Any, seed: int) -> Any:
    """Draw all weights afresh by the seed: normal, 0.02 as the library's own rule, embeddings 1 / sqrt(width)."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in lm.named_parameters():
            if p.dim() > 1:
                scale = 0.1 if "embed" in name else p.shape[1] ** -0.5
                p.copy_(torch.randn(p.shape, generator=g) * scale)
    return lm


def _as_prompt(tokens: Tensor, label: int) -> Prompt:
    answer, other = (POSITIVE, NEGATIVE) if label else (NEGATIVE, POSITIVE)
    return Prompt(tokens, tuple(range(len(tokens) - 1)), answer, other)


def _gaps(
    ctx: Context, model: AnswerLogits, prompts: Sequence[Prompt], nodes: int, finer: Sequence[int], draw: int
) -> None:
    """C7 in float64: ``W_t v_j`` against reverse mode, and the sum against the difference of the logits.

    The sum is exact but for the quadrature, so that it is also looked at with `finer` rules.
    """
    exact = copy.deepcopy(model).double()
    for i, p in enumerate(prompts):
        x, base = embedded(exact, p)
        v = token_features(lambda e: body(exact, e), x, base, p.inside, nodes)
        said = v @ exact.lm.lm_head.weight.detach()[p.answer]
        own = integrated_gradients(exact, x, base, p.answer, nodes)[list(p.inside)]
        gap = float((said - own).abs().max() / own.abs().max())
        at: dict[str, Any] = {"prompt": i, "draw": draw, "method": ""}
        ctx.record("linearity_gap", gap, unit="1", direction="lower", **at)
        for count in [nodes, *finer]:
            whole = completeness_gap(exact, p, count)
            ctx.record("completeness_gap", whole, unit="1", direction="lower", nodes=count, **at)


def completeness_gap(model: AnswerLogits, prompt: Prompt, nodes: int) -> float:
    """Return ``|sum_j IG_j - (y(x) - y(x_0))| / sum_j |IG_j|`` of the right answer's logit y."""
    x, base = embedded(model, prompt)
    own = integrated_gradients(model, x, base, prompt.answer, nodes)
    with torch.no_grad():
        ends = model(torch.stack([x, base]))[:, prompt.answer]
    return float((own.sum() - (ends[0] - ends[1])).abs() / own.abs().sum())


def _methods(
    ctx: Context, model: AnswerLogits, task: MapTask, prompts: Sequence[Prompt], targets: Sequence[np.ndarray],
    nodes: int, steps: int, at: dict[str, Any], held_out: tuple[list[Tensor], Tensor] | None,
) -> None:  # fmt: skip
    for name, method in ctx.methods.items():
        begin = time.perf_counter()
        found = method.edit(task, steps, ctx.torch_generator("editor", **at))
        here = {"method": name, **at}
        ctx.record("edit_seconds", time.perf_counter() - begin, unit="s", direction="lower", **here)
        maps = _evaluate(ctx, model, found, task, prompts, targets, nodes, here)
        if held_out is not None:
            edited = with_head(model, found, task.rows)
            right = answered(edited, held_out[0], (NEGATIVE, POSITIVE)) == held_out[1]
            ctx.record(
                "accuracy", float(right.double().mean()), unit="1", direction="higher", split="test", **here
            )
        if next(iter(at.values())) == 0:
            for i, own in enumerate(maps[:2]):
                shown = min_max(own) if np.ptp(own) > 0 else np.zeros(len(own))
                ctx.record_many("attribution", shown, unit="1", prompt=i, token=range(len(own)), **here)
    if next(iter(at.values())) == 0:
        for i, target in enumerate(targets[:2]):
            tokens = range(len(target))
            ctx.record_many(
                "attribution", target, unit="1", prompt=i, token=tokens, **{"method": "(target)", **at}
            )


# --- a real language model ------------------------------------------------------------------------------------

# The sentence comes first, so that a causal model sees nothing in front of it; {} is where it stands.
WORDINGS = {
    "election_tweets": (
        ("{}\nWho wrote this, Trump or Clinton? It was", "{}\nThis tweet was written by",
         "{}\n— a tweet by the candidate", "{}\nAuthor of this tweet, Clinton or Trump:"),
        {"HillaryClinton": " Clinton", "realDonaldTrump": " Trump"},
    ),
    "newsgroups_20": (
        ("{}\nIs this about space or cars? It is about", "{}\nThe topic of this text, cars or space, is",
         "{}\nThis text is about", "{}\nTopic:"),
        {"sci.space": " space", "rec.autos": " cars"},
    ),
}  # fmt: skip


def smollm2(
    ctx: Context, *, prompts: int, words: int, nodes: int, epsilon: float, steps: int, pool: int
) -> None:
    """E3': SmolLM2-135M answers who wrote a tweet, or what a text is about; its attributions are made independent of
    the wording of the question.

    Reference: the mean over four wordings of the normalised attributions of the right answer at the sentence's tokens:
    what the model relies on whatever way it is asked. The edit asks it of the first wording alone.

    Args:
        prompts: sentences a data set. words: of each sentence, at most. nodes: of the quadrature. pool: sentences
            looked at for such that the mean answer over wordings is right.
    Records as `tiny_llama` with coordinate dataset, and linearity_gap in the model's own float32.
    """
    model, tokenizer = ctx.dataset("smollm2_135m")
    model = AnswerLogits(untied(model)).eval().requires_grad_(False)
    model.lm.config._attn_implementation = "eager"
    names = [n for n in ctx.datasets if n in WORDINGS]
    for done, name in enumerate(names):
        chosen, targets = _worded(ctx, model, tokenizer, name, prompts, words, nodes, pool)
        rows = torch.tensor(sorted({t for p in chosen for t in (p.answer, p.other)}))
        keep = torch.stack([body(model, embedded(model, p)[0][None])[0] for p in chosen])
        task = language_task(model, chosen, targets, keep, nodes, epsilon, rows)
        for i, p in enumerate(chosen):
            own = attributions(model, p, nodes)
            said = task.v[i][task.valid[i]] @ task.weight[task.labels[i]]
            gap = float(np.abs(said.double().numpy() - own).max() / np.abs(own).max())
            ctx.record("linearity_gap", gap, unit="1", direction="lower", prompt=i, dataset=name, method="")
        task = replace(task, keep=torch.cat([task.keep, task.h]))
        _methods(ctx, model, task, chosen, targets, nodes, steps, {"index": done, "dataset": name}, None)
        ctx.progress((done + 1) / len(names), name)


def _worded(
    ctx: Context,
    model: AnswerLogits,
    tokenizer: Any,
    name: str,
    prompts: int,
    words: int,
    nodes: int,
    pool: int,
) -> tuple[list[Prompt], list[np.ndarray]]:
    """Return the first sentences whose mean answer is right, in the first wording, with their references."""
    wordings, answers = WORDINGS[name]
    data = ctx.dataset(name)["train"]
    names = data.features["label"].names
    wanted = {
        names.index(n): tokenizer(a, add_special_tokens=False)["input_ids"][0] for n, a in answers.items()
    }
    rng = ctx.generator("sentences", dataset=name)
    rows = [i for i in rng.permutation(len(data)).tolist() if data[i]["label"] in wanted][: 4 * pool]
    chosen: list[Prompt] = []
    targets: list[np.ndarray] = []
    for i in rows:
        text = " ".join(w for w in data[i]["text"].split() if "http" not in w and "/" not in w)
        text = " ".join(text.split()[:words])
        label = data[i]["label"]
        if len(text.split()) < words:
            continue
        other = next(k for k in wanted if k != label)
        worded = [_prompt(tokenizer, w, text, wanted[label], wanted[other]) for w in wordings]
        lead = 0.0
        for p in worded:
            logits = model(embedded(model, p)[0][None])[0]
            lead += float(logits[p.answer] - logits[p.other])
        if lead <= 0:
            continue
        maps = [min_max(attributions(model, p, nodes)) for p in worded]
        chosen.append(worded[0])
        targets.append(min_max(np.mean(maps, 0)))
        if len(chosen) == prompts:
            return chosen, targets
    if not chosen:
        raise ValueError(f"{name}: the model answers none of {len(rows)} sentences right over all wordings")
    return chosen, targets


def _prompt(tokenizer: Any, wording: str, text: str, answer: int, other: int) -> Prompt:
    before = tokenizer(text, add_special_tokens=False)["input_ids"]
    after = tokenizer(wording.format(""), add_special_tokens=False)["input_ids"]
    return Prompt(torch.tensor([*before, *after]), tuple(range(len(before))), answer, other)
