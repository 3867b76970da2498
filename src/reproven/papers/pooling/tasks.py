"""The probing tasks of each modality, three kinds each, on cached token features of frozen backbones.

Text: classification (global), graded topical similarity (mixed), next character or token (local). Series:
classification (global), forecasting (local), imputation (local). Vision: classification, inpainting (global) and
foreground per pixel (local).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.data import provider
from reproven.papers.pooling import backbones
from reproven.papers.pooling.features import Tokens, dense, encode_texts, stored
from reproven.papers.pooling.pairs import PairTask
from reproven.papers.pooling.probes import Task

Loader = Callable[[str], Any]
Tell = Callable[[float], None]


@dataclass(frozen=True)
class Source:
    """Tasks of one modality, scores of references that use no pooling, and what making the features cost.

    references: (task, name) -> value in the task's metric. seconds: of extraction, when it was made.
    """

    tasks: Sequence[Task | PairTask]
    references: Mapping[tuple[str, str], float] = field(default_factory=dict)
    seconds: float = 0.0
    bytes: int = 0


def stratified(labels: Sequence[int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` sorted indices, classes in the proportions of `labels`; all of them where there are no more."""
    codes = np.asarray(labels)
    if count >= len(codes):
        return np.arange(len(codes))
    order = rng.permutation(len(codes))
    place = np.empty(len(codes))
    for c in np.unique(codes):  # equally spaced in each class, so that every beginning is stratified
        rows = order[codes[order] == c]
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.sort(np.argsort(place, kind="stable")[:count])


# ---------------------------------------------------------------- text


def text_tokens(
    load: Loader,
    model: str,
    texts: Sequence[str],
    described: Mapping[str, Any],
    tell: Tell | None,
    **setting: Any,
) -> tuple[Tokens, dict[str, Any]]:
    """Return the stored tokens of texts under a pretrained model (its card's name)."""
    specification = {"model": model, "model_digest": provider.digest(model), **described, **setting}

    def make() -> Tokens:
        net, tokenizer = load(model)
        net = getattr(net, "model", net)  # a causal language model's states are those of its body
        return encode_texts(net, tokenizer, texts, progress=tell, **setting)

    return stored(specification, make)


def classification(
    load: Loader,
    dataset: str,
    *,
    model: str = "minilm_l6",
    documents: int,
    test_documents: int,
    max_tokens: int,
    precision: str,
    seed: int = 0,
    tell: Tell | None = None,
) -> tuple[Task, dict[str, Any]]:
    """Text classification on at most so many stratified documents of each part; a part held out where none is
    published."""
    data = load(dataset)
    rng = np.random.default_rng(seed)
    train = data["train"]
    if "test" in data:
        pool = stratified(train["label"], documents, rng)
        test = stratified(data["test"]["label"], test_documents, rng)
        texts = [*train.select(pool)["text"], *data["test"].select(test)["text"]]
        labels = [*train.select(pool)["label"], *data["test"].select(test)["label"]]
    else:
        chosen = rng.permutation(stratified(train["label"], documents + test_documents, rng))
        test_size = min(test_documents, len(chosen) // 3)
        pool, test = chosen[test_size:], chosen[:test_size]
        texts, labels = (train.select([*pool, *test])[c] for c in ("text", "label"))
    described = {
        "data": dataset, "data_digest": provider.digest(dataset), "documents": [len(pool), len(test)], "seed": seed,
    }  # fmt: skip
    tokens, record = text_tokens(
        load, model, list(texts), described, tell, max_tokens=max_tokens, precision=precision
    )
    task = Task(
        name=dataset if model == "minilm_l6" else f"{dataset}_{model}",
        scope="global",
        kind="classes",
        tokens=tokens,
        targets=torch.tensor(list(labels)),
        pool=np.arange(len(pool)),
        test=np.arange(len(pool), len(texts)),
        classes=len(train.features["label"].names),
    )
    return task, record


def topical_similarity(task: Task, names: Sequence[str], pairs: int, seed: int = 0) -> PairTask:
    """Pairs of newsgroup posts: 1 where the group is the same, 1/2 where only the hierarchy (comp, rec, ...)
    is, else 0."""
    rng = np.random.default_rng(seed)
    top = np.unique([n.split(".")[0] for n in names], return_inverse=True)[1]
    label = task.targets.numpy()
    parts, sizes = [], []
    for part, count in ((task.pool, pairs), (task.test, pairs // 2)):
        left = rng.choice(part, count)
        right = np.empty_like(left)
        for i, a in enumerate(left):
            same_group = part[label[part] == label[a]]
            same_top = part[(top[label[part]] == top[label[a]]) & (label[part] != label[a])]
            other = part[top[label[part]] != top[label[a]]]
            choices = [same_group, same_top if len(same_top) else other, other]
            right[i] = rng.choice(choices[i % 3])
        parts.append((left, right))
        sizes.append(count)
    left, right = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    same_top = top[label[left]] == top[label[right]]
    target = np.where(label[left] == label[right], 1.0, np.where(same_top, 0.5, 0.0))
    return PairTask(
        "topical_similarity", "mixed", task.tokens, left, right, torch.tensor(target, dtype=torch.float32),
        np.arange(sizes[0]), np.arange(sizes[0], sum(sizes)),
    )  # fmt: skip


def next_character(
    load: Loader,
    dataset: str,
    *,
    steps: int,
    examples: int,
    test_examples: int,
    context: int = 32,
    seed: int = 0,
) -> Source:
    """Next character after `context` characters, from the states of a frozen character model trained on other texts.

    Also the same with tokens shuffled within each input: the control that a local task must not survive.
    """
    texts = list(load(dataset)["train"]["text"])
    half = len(texts) // 2
    specification = {
        "kind": "char_lm", "data": dataset, "digest": provider.digest(dataset), "steps": steps, "context": context,
        "seed": seed,
    }  # fmt: skip
    line = backbones.characters(texts[:half])
    model = backbones.trained(
        specification,
        lambda: backbones.CharLM(context=context),
        lambda m: backbones.train_char_lm(m, line, steps=steps, batch=64, length=context, seed=seed),
    )
    g = torch.Generator().manual_seed(seed + 1)
    rest = backbones.characters(texts[half:])
    cut = backbones.windows(rest, context + 1, examples + test_examples, g)
    tokens = dense(backbones.states(model, torch.from_numpy(cut[:, :-1])).astype(np.float16))
    order = np.arange(len(cut))
    task = Task(
        "next_character", "local", "classes", tokens, torch.from_numpy(cut[:, -1]), order[:examples],
        order[examples:], classes=len(backbones.ALPHABET), top=10,
    )  # fmt: skip
    shuffled = replace(
        task,
        name="next_character_shuffled",
        scope="control",
        tokens=tokens.permuted(np.random.default_rng(seed)),
    )
    with torch.inference_mode():
        logits = model.net(input_ids=torch.from_numpy(cut[examples:, :-1])).logits[:, -1]
    own = logits.topk(10, dim=-1).indices == torch.from_numpy(cut[examples:, -1])[:, None]
    return Source([task, shuffled], {("next_character", "own_head"): float(own.any(dim=1).double().mean())})


def next_token(
    task: Task, load: Loader, dataset: str, model: str, texts: Sequence[str], *, window: int, vocabulary: int,
    seed: int = 0,
    max_tokens: int,
) -> Task:  # fmt: skip
    """Next token after windows of `window` tokens of a causal model's states, among the `vocabulary` most
    frequent ones.

    The states are those of `task` (the same texts, in order); documents of its test part give the test windows.
    """
    from reproven.papers.pooling.features import token_ids

    _, tokenizer = load(model)
    ids = token_ids(tokenizer, texts, max_tokens)
    rows, targets, documents = [], [], []
    for i, row in enumerate(ids):
        start = int(task.tokens.offsets[i])
        for end in range(window, len(row), window // 2):
            rows.append(start + end - window)
            targets.append(row[end])
            documents.append(i)
    seen, counts = np.unique(targets, return_counts=True)
    frequent = seen[np.argsort(-counts, kind="stable")[:vocabulary]]
    code = {int(t): c for c, t in enumerate(frequent)}
    keep = [k for k, t in enumerate(targets) if t in code]
    values = np.stack([task.tokens.values[rows[k] : rows[k] + window] for k in keep])
    is_test = np.isin([documents[k] for k in keep], task.test)
    return Task(
        f"next_token_{model}", "local", "classes", dense(values), torch.tensor([code[targets[k]] for k in keep]),
        np.flatnonzero(~is_test), np.flatnonzero(is_test), classes=len(frequent), top=10,
    )  # fmt: skip


# ---------------------------------------------------------------- series

LONGEST = 60  # patches; longer series are thinned out evenly


def cut_series(values: np.ndarray, patch: int) -> np.ndarray:
    """Return series (count, length) normalised one by one, thinned to LONGEST patches, cut at the front to
    whole ones."""
    step = -(-values.shape[1] // (LONGEST * patch))
    values = values[:, ::step]
    values = values[:, values.shape[1] % patch :]
    deviation = values.std(axis=1, keepdims=True)
    return (values - values.mean(axis=1, keepdims=True)) / np.where(deviation > 1e-8, deviation, 1.0)


def period_of(series: np.ndarray, longest: int = 600) -> int:
    """Return the lag (8 or more) of the highest peak of the autocorrelation of a series (length,)."""
    x = series - series.mean()
    longest = min(longest, len(x) // 2)
    spectrum = np.fft.rfft(x, 2 * len(x))
    auto = np.fft.irfft(spectrum * spectrum.conj())[: longest + 1]
    lags = np.arange(8, longest)
    peaks = lags[(auto[lags] >= auto[lags - 1]) & (auto[lags] >= auto[lags + 1])]
    return int(peaks[np.argmax(auto[peaks])]) if len(peaks) else longest


@dataclass(frozen=True)
class Windows:
    """Windows of one long series: inputs (count, length) and futures (count, horizon), both normalised by the
    input's mean and deviation; naive forecasts in the same units; train: which end before the split."""

    inputs: np.ndarray
    futures: np.ndarray
    seasonal: np.ndarray
    last: np.ndarray
    filled: np.ndarray
    train: np.ndarray
    period: int


def long_windows(
    series: np.ndarray, *, length: int, horizon: int, count: int, gap: np.ndarray, share: float = 0.6
) -> Windows:
    """Cut evenly spaced windows; those of the first `share` are for training, none straddles the split.

    gap: places within a window that imputation hides; `filled` are their values one period earlier.
    """
    split = int(share * len(series))
    period = period_of(series[:split])
    before = max(0, period * -(-horizon // period) - length)
    starts = np.linspace(before, len(series) - length - horizon, count).astype(int)
    ends = starts + length + horizon
    starts = starts[(ends <= split) | (starts >= split)]
    x = series[starts[:, None] + np.arange(length)]
    y = series[starts[:, None] + length + np.arange(horizon)]
    lag = period * (1 + np.arange(horizon) // period)
    seasonal = series[starts[:, None] + length + np.arange(horizon) - lag]
    mean, deviation = x.mean(axis=1, keepdims=True), x.std(axis=1, keepdims=True)
    deviation = np.where(deviation > 1e-8, deviation, 1.0)
    at = starts[:, None] + gap - period
    filled = series[np.where(at >= 0, at, at + 2 * period)]

    def scaled(values: np.ndarray) -> np.ndarray:
        return ((values - mean) / deviation).astype(np.float32)

    last = np.repeat(x[:, -1:], horizon, axis=1)
    return Windows(
        scaled(x), scaled(y), scaled(seasonal), scaled(last), scaled(filled), starts + length + horizon <= split, period
    )  # fmt: skip


def series_source(
    load: Loader,
    *,
    archives: Sequence[str],
    long: Mapping[str, Sequence[int]],
    steps: int,
    windows: int,
    length: int = 128,
    horizon: int = 24,
    patch: int = 8,
    seed: int = 0,
) -> Source:
    """All series tasks on one masked-patch encoder, trained on the training parts alone.

    archives: classification sets. long: data set -> channels, for forecasting and imputation (hidden patches 5, 6, 11).
    """
    sets = {name: load(name) for name in archives}
    hidden = np.array([5, 6, 11])
    gap = (hidden[:, None] * patch + np.arange(patch)).ravel()
    cuts: dict[str, list[Windows]] = {}
    for name, channels in long.items():
        values = load(name).values
        cuts[name] = [
            long_windows(values[c], length=length, horizon=horizon, count=windows // len(channels), gap=gap)
            for c in channels
        ]
    train = [cut_series(s.train.values[:, 0], patch) for s in sets.values()]
    train += [np.concatenate([w.inputs[w.train] for w in parts]) for parts in cuts.values()]
    specification = {
        "kind": "series_encoder", "sets": [*archives], "long": {k: [*v] for k, v in long.items()},
        "digests": [provider.digest(n) for n in (*archives, *long)], "steps": steps, "windows": windows,
        "length": length, "horizon": horizon, "patch": patch, "seed": seed,
    }  # fmt: skip
    model = backbones.trained(
        specification,
        lambda: backbones.SeriesEncoder(patch),
        lambda m: backbones.train_series_encoder(m, train, steps=steps, batch=32, seed=seed),
    )
    tasks: list[Task | PairTask] = []
    references: dict[tuple[str, str], float] = {}
    for name, parts in sets.items():
        x = np.concatenate(
            [cut_series(part.values[:, 0], patch) for part in (parts.train, parts.test)]
        ).astype(np.float32)
        y = np.concatenate([parts.train.targets, parts.test.targets])
        count = len(parts.train)
        tasks.append(
            Task(
                name, "global", "classes", dense(backbones.states(model, torch.from_numpy(x))),
                torch.from_numpy(y), np.arange(count), np.arange(count, len(x)), classes=len(parts.train.classes),
            )
        )  # fmt: skip
        majority = np.bincount(parts.train.targets).argmax()
        references[name, "majority"] = float((parts.test.targets == majority).mean())
    for name, cut in cuts.items():
        tasks += _forecasts(name, cut, model, hidden, gap, references)
    return Source(tasks, references)


def _forecasts(
    name: str,
    cut: Sequence[Windows],
    model: backbones.SeriesEncoder,
    hidden: np.ndarray,
    gap: np.ndarray,
    references: dict[tuple[str, str], float],
) -> list[Task]:
    """Return the forecasting and imputation tasks of one data set, and note its naive controls."""
    inputs = np.concatenate([w.inputs for w in cut])
    futures = np.concatenate([w.futures for w in cut])
    is_train = np.concatenate([w.train for w in cut])
    pool, test = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    x = torch.from_numpy(inputs)
    masked = torch.zeros(len(x), x.shape[1] // model.patch, dtype=torch.bool)
    masked[:, hidden] = True
    forecast, impute = f"forecast_{name}", f"impute_{name}"
    for label, guess in (("seasonal_naive", "seasonal"), ("last_value", "last")):
        values = np.concatenate([getattr(w, guess) for w in cut])
        references[forecast, label] = float(((values - futures)[test] ** 2).mean())
    references[forecast, "mean"] = float((futures[test] ** 2).mean())
    values = np.concatenate([w.filled for w in cut])
    references[impute, "seasonal_naive"] = float(((values - inputs[:, gap])[test] ** 2).mean())
    references[impute, "mean"] = float((inputs[:, gap][test] ** 2).mean())
    return [
        Task(forecast, "local", "values", dense(backbones.states(model, x)), torch.from_numpy(futures), pool, test),
        Task(
            impute, "local", "values", dense(backbones.states(model, x, masked)),
            torch.from_numpy(inputs[:, gap].copy()), pool, test,
        ),
    ]  # fmt: skip


# ---------------------------------------------------------------- vision


def small_vit(
    load: Loader, dataset: str, *, steps: int, train: int, seed: int = 0
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the masked-patch ViT, the images (n, 28, 28) in [0, 1] in random order, and their labels.

    The first `train` images train the backbone and are the pool of every probe.
    """
    images = load(dataset)
    order = np.random.default_rng(seed).permutation(len(images))
    x = (images.data[order] / images.peak).astype(np.float32)
    specification = {
        "kind": "vit", "data": dataset, "digest": provider.digest(dataset), "steps": steps, "train": train,
        "seed": seed,
    }  # fmt: skip
    model = backbones.trained(
        specification,
        backbones.SmallViT,
        lambda m: backbones.train_vit(m, x[:train], steps=steps, batch=64, seed=seed),
    )
    return model, x, images.targets[order]


CENTRE = np.array(
    [7 * row + column for row in (2, 3, 4) for column in (2, 3, 4)]
)  # hidden patches of inpainting


def vision_source(load: Loader, dataset: str, *, steps: int, train: int, test: int, seed: int = 0) -> Source:
    """Digits: class, the hidden central patches, and which pixels are ink, each from one pooled vector."""
    model, x, labels = small_vit(load, dataset, steps=steps, train=train, seed=seed)
    x, labels = x[: train + test], labels[: train + test]
    pool, held = np.arange(train), np.arange(train, len(x))
    images = torch.from_numpy(x)
    masked = torch.zeros(len(x), 49, dtype=torch.bool)
    masked[:, CENTRE] = True
    patches = model.patches(images)[:, CENTRE].flatten(1)
    plain = dense(backbones.states(model, images))
    ink = (images.flatten(1) > 0.5).float()
    tasks: list[Task | PairTask] = [
        Task("digit", "global", "classes", plain, torch.from_numpy(labels), pool, held, classes=10),
        Task(
            "inpainting",
            "global",
            "values",
            dense(backbones.states(model, images, masked)),
            patches,
            pool,
            held,
        ),
        Task("segmentation", "local", "pixels", plain, ink, pool, held),
    ]
    mean_patch = float((patches[held] - patches[pool].mean(dim=0)).square().mean())
    common = (ink[pool].mean(dim=0) > 0.5).float()
    references = {
        ("inpainting", "mean"): mean_patch,
        ("segmentation", "majority"): float((ink[held] == common).double().mean()),
    }
    return Source(tasks, references)


def inputs_of(tokens: Tokens, count: int) -> Tensor:
    """Return the first inputs' tokens as one tensor (count, n, d); all must be of one length."""
    x, mask = tokens.batch(np.arange(count))
    if mask is not None:
        raise ValueError("inputs of different lengths make no tensor; take tokens of one length")
    return x
