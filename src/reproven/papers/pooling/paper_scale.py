"""The paper's own protocol: its backbones and data by their public names, for Tables 1 to 10 at the ``paper`` tier.

Nothing is downloaded inside a run. Models and data of Hugging Face and timm come from the local Hugging Face cache,
torchvision's data and plain files from ``<cache>/paper/<name>``; what is absent ends the run as `blocked` and says what
to place where. What the paper does not define (dossier section 10) is `blocked` with that reason, never guessed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproven.data import provider
from reproven.data.hub import revision
from reproven.harness.context import Context
from reproven.harness.errors import Blocked, require
from reproven.papers.pooling.features import Tokens, dense, encode_texts, stored, token_ids
from reproven.papers.pooling.pairs import PairTask, fit_fixed_pairs, fit_learned_pairs
from reproven.papers.pooling.probes import Task, draw_seeds, fit_fixed, fit_learned, pooled
from reproven.papers.pooling.sensitive import LOSSES

# The paper names no checkpoints; these are the public ones of its names (dossier section 7), timm's by its defaults.
TIMM = {
    "vit_small": "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_base": "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
}
HUGGING_FACE = {
    "bert": "google-bert/bert-base-uncased",
    "qwen2_5": "Qwen/Qwen2.5-7B",
    "qwen2_5_14b": "Qwen/Qwen2.5-14B",
    "qwen2_5_32b": "Qwen/Qwen2.5-32B",
    "mistral_7b": "mistralai/Mistral-7B-v0.1",
    "mistral3_1_24b": "mistralai/Mistral-Small-3.1-24B-Base-2503",
    "llama3_8b": "meta-llama/Meta-Llama-3-8B",
}
UNPUBLISHED = {
    "gpt2": "the paper pre-trained its own GPT-2 and published no weights",
    "l2_gpt2": "the paper pre-trained its own L2-GPT-2 and published no weights",
    "lipsformer": "which LipsFormer-Swin weights the paper took is not stated; none ship with a package",
}
UNDEFINED = {
    "imagenet100": "the 100 classes of ImageNet-100 are not stated",
    "celeba": "how one pooled vector gives the masked pixels of CelebA, and which are masked, is not stated",
    "flowers102": "how one pooled vector gives the masked pixels of Flowers-102, and which are masked, is not stated",
    "pets": "how one pooled vector gives the masked pixels of Oxford-IIIT Pet, and which are masked, is not stated",
    "voc_cls": "how one pooled vector gives per-pixel classes of VOC (column Cls) is not stated",
    "voc_det": "how one pooled vector gives per-pixel classes of VOC (column Det) is not stated",
    "tinystories": "which 4,000 training batches and positions TinyStories is scored on is not stated",
}
CHANNELS = {
    "etth1": "OT",
    "etth2": "OT",
    "ettm1": "OT",
    "ettm2": "OT",
    "electricity": "OT",
    "traffic": "OT",
    "weather": "OT",
}


def folder_of(name: str) -> Path:
    """Return ``<cache>/paper/<name>``; Blocked where it is absent."""
    path = provider.cache_folder() / "paper" / name
    if not path.is_dir():
        raise Blocked(f"data {name!r} is absent: place it under <reproven cache>/paper/{name} and run again")
    return path


def table(
    ctx: Context, *, backbone: str, task: str, seed: list[int], epochs: int, batch: int, max_tokens: int = 128
) -> None:
    """Measure one column of a printed table: every pooling of the table on one backbone and task, arm P.

    backbone, task: as in the printed files. Metric ``printed``: percent for accuracies, else the table's own unit.
    Raises Blocked for what is absent, unpublished or undefined.
    """
    for known in (UNPUBLISHED.get(backbone), UNDEFINED.get(task)):
        if known is not None:
            raise Blocked(f"{backbone} on {task}: {known}")
    if backbone in TIMM:
        if task.startswith("fgsm_"):
            _fgsm(ctx, backbone, task, seed, epochs, batch)
            return
        made: Task | PairTask = image_task(backbone, task)
    elif backbone.startswith("moment_"):
        made = series_task(backbone, task)
    else:
        made = text_task(backbone, task, max_tokens)
    _arm_p(ctx, made, backbone, task, seed, epochs, batch)


def _arm_p(
    ctx: Context,
    made: Task | PairTask,
    backbone: str,
    task: str,
    seed: Sequence[int],
    epochs: int,
    batch: int,
) -> None:
    numbers = [ctx.derive("printed", task=task, copy=s) % 2**31 for s in seed]
    percent = isinstance(made, Task) and made.kind == "classes"
    for done, (name, pooling) in enumerate(ctx.methods.items()):
        ctx.progress(done / len(ctx.methods), name)
        if isinstance(made, PairTask):
            if pooling.learns:
                found = fit_learned_pairs(
                    made, pooling, numbers, width=made.tokens.width, epochs=epochs, batch=batch
                )
            else:
                x = pooled(pooling, made.tokens, np.arange(len(made.tokens)))
                found = fit_fixed_pairs(made, x, numbers, width=made.tokens.width, epochs=epochs, batch=batch)
        elif pooling.learns:
            found = fit_learned(made, pooling, draw_seeds(made, numbers, 0.0), epochs=epochs, batch=batch)
        else:
            x, outer = (pooled(pooling, made.tokens, i) for i in (made.pool, made.test))
            found = fit_fixed(made, x, outer, draw_seeds(made, numbers, 0.0), epochs=epochs, batch=batch)
        values = found.test.flatten().double() * (100 if percent else 1)
        ctx.record_many(
            "printed", values, unit="%" if percent else "1", method=name, backbone=backbone, task=task, seed=seed,
            dataset="",
        )  # fmt: skip


# ---------------------------------------------------------------- vision


def image_task(backbone: str, task: str) -> Task:
    """Return an image classification task on timm's pretrained ViT: CIFAR-10 and -100, CUB-200-2011, MiniPlaces."""
    train, test = _images(task)
    model, transform = vit(backbone)
    labels = torch.tensor([*_labels(train), *_labels(test)])

    def make() -> Tokens:
        return dense(np.concatenate([_image_states(model, transform, part) for part in (train, test)]))

    tokens, _ = stored({"backbone": TIMM[backbone], "task": task, "inputs": [len(train), len(test)]}, make)
    order = np.arange(len(labels))
    return Task(
        task, "global", "classes", tokens, labels, order[: len(train)], order[len(train) :],
        classes=int(labels.max()) + 1,
    )  # fmt: skip


def vit(backbone: str) -> tuple[Any, Callable[[Any], Tensor]]:
    """Return timm's pretrained ViT and its transform without augmentation; Blocked where its weights are absent."""
    require("timm", "prograd")
    import timm

    try:
        model = timm.create_model(f"hf-hub:{TIMM[backbone]}@{revision(TIMM[backbone])}", pretrained=True)
    except Exception as error:  # the hub raises many kinds where it is offline
        raise Blocked(
            f"weights of {_pinned(TIMM[backbone])} are not in the local Hugging Face cache ({type(error).__name__}):"
            " fetch them there first"
        ) from None
    data = timm.data.resolve_data_config({}, model=model)
    return model.eval(), timm.data.create_transform(**data, is_training=False)


def _images(task: str) -> tuple[Any, Any]:
    import torchvision

    if task in ("cifar10", "cifar100"):
        kind = torchvision.datasets.CIFAR10 if task == "cifar10" else torchvision.datasets.CIFAR100
        root = str(folder_of(task))
        try:
            return kind(root, train=True), kind(root, train=False)
        except RuntimeError:
            raise Blocked(
                f"{task}: <reproven cache>/paper/{task} holds no whole copy as torchvision keeps it"
            ) from None
    if task in ("cub200", "miniplaces"):
        root = str(folder_of(task))
        parts = [Path(root) / part for part in ("train", "test")]
        if not all(p.is_dir() for p in parts):
            raise Blocked(
                f"{task}: sort its images into <reproven cache>/paper/{task}/train/<class> and test/<class>"
            )
        first, second = (torchvision.datasets.ImageFolder(str(p)) for p in parts)
        return first, second
    raise Blocked(f"no loader for the task {task!r}")


def _labels(data: Any) -> list[int]:
    return list(data.targets)


def _image_states(model: Any, transform: Callable[[Any], Tensor], data: Any, batch: int = 64) -> np.ndarray:
    out = []
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            x = torch.stack(
                [transform(data[i][0].convert("RGB")) for i in range(start, min(start + batch, len(data)))]
            )
            out.append(model.forward_features(x).half().numpy())
    return np.concatenate(out)


def _fgsm(
    ctx: Context, backbone: str, task: str, seed: Sequence[int], epochs: int, batch: int, attacked: int = 1000
) -> None:
    """Table 10: FGSM by cross-entropy in pixel space on initially correct images."""
    _, name, budget = task.split("_")
    made = image_task(backbone, name)
    model, transform = vit(backbone)
    _, test = _images(name)
    x = torch.stack([transform(test[i][0].convert("RGB")) for i in range(attacked)])
    deviation = torch.tensor(model.default_cfg["std"]).view(3, 1, 1)
    y = made.targets[made.test][:attacked]
    numbers = [ctx.derive("printed", task=task, copy=s) % 2**31 for s in seed]
    for method, pooling in ctx.methods.items():
        if pooling.learns:
            found = fit_learned(made, pooling, draw_seeds(made, numbers, 0.0), epochs=epochs, batch=batch)
        else:
            parts = [pooled(pooling, made.tokens, i) for i in (made.pool, made.test)]
            found = fit_fixed(
                made, parts[0], parts[1], draw_seeds(made, numbers, 0.0), epochs=epochs, batch=batch
            )
        assert found.head is not None
        for i, copy in enumerate(seed):
            w, b = found.head.weight, found.head.bias
            w, b = (w[i, :, 0], b[i, 0, 0]) if pooling.learns else (w[0, :, i], b[0, 0, i])
            p = {k: v[i] for k, v in found.parameters.items()}
            function = lambda z: pooling(model.forward_features(z), None, p) @ w + b  # noqa: B023, E731
            success = fgsm_success(function, x, y, int(budget) / 255 / deviation)
            ctx.record(
                "printed",
                100 * success,
                unit="%",
                method=method,
                backbone=backbone,
                task=task,
                seed=copy,
                dataset="",
            )


def fgsm_success(
    function: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, size: Tensor, batch: int = 32
) -> float:
    """Return the share of initially correct inputs that one signed step of `size` (a channel) turns."""
    right, turned = 0, 0
    for part, wanted in zip(x.split(batch), y.split(batch)):
        part = part.clone().requires_grad_()
        logits = function(part)
        gradient = torch.autograd.grad(LOSSES["cross_entropy"](logits, wanted).sum(), part)[0]
        good = logits.argmax(dim=1) == wanted
        with torch.no_grad():
            moved = function(part + size * gradient.sign()).argmax(dim=1)
        right += int(good.sum())
        turned += int((good & (moved != wanted)).sum())
    if right == 0:
        raise ValueError("no input is initially correct; a success rate has no denominator")
    return turned / right


# ---------------------------------------------------------------- text


def text_task(backbone: str, task: str, max_tokens: int) -> Task | PairTask:
    """Return Banking77, Tweet (tweet_eval, sentiment), STS-B or HellaSwag on a Hugging Face model of the local
    cache."""
    if task.startswith("hellaswag"):
        raise Blocked(
            f"{task}: the paper's F1 over four endings (averaging, threshold) and its training pairs are not stated"
        )
    if task == "stsb":
        data = _hub_data("mteb/stsbenchmark-sts", None)
        texts, left, right, score, sizes = sts_pairs(data)
        tokens = _text_tokens(backbone, task, texts, max_tokens)
        order = np.arange(len(score))
        return PairTask(
            task, "mixed", tokens, left, right, torch.tensor(score / 5, dtype=torch.float32), order[: sizes[0]],
            order[sizes[0] :],
        )  # fmt: skip
    names = {"banking77": ("PolyAI/banking77", None), "tweet": ("cardiffnlp/tweet_eval", "sentiment")}
    if task not in names:
        raise Blocked(f"no loader for the task {task!r}")
    data = _hub_data(*names[task])
    texts = [*data["train"]["text"], *data["test"]["text"]]
    labels = torch.tensor([*data["train"]["label"], *data["test"]["label"]])
    tokens = _text_tokens(backbone, task, texts, max_tokens)
    order, count = np.arange(len(texts)), len(data["train"])
    return Task(
        task, "global", "classes", tokens, labels, order[:count], order[count:], classes=int(labels.max()) + 1
    )


def sts_pairs(data: Any) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Return all sentences of train and test, the two sides' indices, scores (0 to 5) and the sizes of the parts."""
    first, second, score, sizes = [], [], [], []
    for part in ("train", "test"):
        first += list(data[part]["sentence1"])
        second += list(data[part]["sentence2"])
        score += list(data[part]["score"])
        sizes.append(len(data[part]))
    count = len(first)
    return (
        [*first, *second],
        np.arange(count),
        count + np.arange(count),
        np.array(score),
        (sizes[0], sizes[1]),
    )


def _pinned(name: str) -> str:
    """Return a repository's name as it is to be fetched."""
    return f"{name}@{revision(name)}"


def _hub_data(name: str, config: str | None) -> Any:
    import datasets

    try:
        return datasets.load_dataset(name, config, revision=revision(name))
    except Exception as error:  # the hub raises many kinds where it is offline
        raise Blocked(
            f"data set {_pinned(name)} is not in the local Hugging Face cache ({type(error).__name__}):"
            " fetch it there first"
        ) from None


def _text_tokens(backbone: str, task: str, texts: Sequence[str], max_tokens: int) -> Tokens:
    require("transformers", "pooling")
    import transformers

    name = HUGGING_FACE.get(backbone)
    if name is None:
        raise Blocked(f"no public checkpoint is known for the backbone {backbone!r}")
    try:
        pin = {"revision": revision(name), "local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **pin)
        model = transformers.AutoModel.from_pretrained(name, **pin)
    except Exception as error:  # the hub raises many kinds where it is offline
        raise Blocked(
            f"model {_pinned(name)} is not in the local Hugging Face cache ({type(error).__name__}):"
            " fetch it there first"
        ) from None
    token_ids(tokenizer, texts[:1], max_tokens)
    return stored(
        {
            "backbone": name,
            "revision": revision(name),
            "task": task,
            "texts": len(texts),
            "max_tokens": max_tokens,
        },
        lambda: encode_texts(model, tokenizer, texts, max_tokens=max_tokens),
    )[0]


# ---------------------------------------------------------------- series


def series_task(backbone: str, task: str) -> Task:
    """Return a UCR classification, forecasting or imputation task on MOMENT's encoder."""
    if task.startswith("impute_"):
        raise Blocked(
            f"{task}: the paper's mask ratio, and how one vector gives the masked values, are not stated"
        )
    if task.startswith("forecast_"):
        values = csv_channel(folder_of("long_series") / f"{_FILES[task[9:]]}.csv", CHANNELS[task[9:]])
        x, y, count = forecast_windows(values)
        targets: Tensor = torch.from_numpy(y)
        kind, classes = "values", 0
    else:
        x, labels, count = ucr(folder_of("ucr"), task)
        targets, kind, classes = torch.from_numpy(labels), "classes", int(labels.max()) + 1
    encoder = moment(backbone)
    tokens, _ = stored(
        {"backbone": backbone, "task": task, "inputs": len(x)}, lambda: moment_tokens(encoder, x)
    )
    order = np.arange(len(x))
    return Task(
        task,
        "local" if kind == "values" else "global",
        kind,
        tokens,
        targets,
        order[:count],
        order[count:],
        classes,
    )


_FILES = {
    "etth1": "ETTh1", "etth2": "ETTh2", "ettm1": "ETTm1", "ettm2": "ETTm2", "electricity": "electricity",
    "traffic": "traffic", "weather": "weather",
}  # fmt: skip
_UCR = {
    "ecg200": "ECG200", "electric_devices": "ElectricDevices", "ford_a": "FordA", "ford_b": "FordB",
    "small_kitchen_appliances": "SmallKitchenAppliances", "swedish_leaf": "SwedishLeaf",
}  # fmt: skip


def moment(backbone: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return MOMENT's frozen encoder, (series (batch, 512), mask) -> patch states (batch, 64, d)."""
    try:
        from momentfm import MOMENTPipeline
    except ImportError:
        raise Blocked("package 'momentfm' is not installed; it is no part of this project's extras") from None
    name = f"AutonLab/MOMENT-1-{backbone.removeprefix('moment_')}"
    try:
        model = MOMENTPipeline.from_pretrained(
            name, revision=revision(name), model_kwargs={"task_name": "embedding"}, local_files_only=True
        )
    except Exception as error:  # the hub raises many kinds where it is offline
        raise Blocked(
            f"{_pinned(name)} is not in the local Hugging Face cache ({type(error).__name__}): fetch it there first"
        ) from None
    model.init()

    def encode(x: Tensor, mask: Tensor) -> Tensor:
        return model.embed(x_enc=x[:, None], input_mask=mask, reduction="none").embeddings[:, 0]

    return encode


def moment_tokens(
    encode: Callable[[Tensor, Tensor], Tensor],
    x: np.ndarray,
    length: int = 512,
    patch: int = 8,
    batch: int = 64,
) -> Tokens:
    """Left-pad series (count, n) to `length` as MOMENT does, and keep the states of patches that are real alone.

    Longer series are cut to their last `length` points.
    """
    x = x[:, -length:]
    real = -(-x.shape[1] // patch)
    padded = np.zeros((len(x), length), dtype=np.float32)
    padded[:, length - x.shape[1] :] = x
    mask = torch.zeros(length)
    mask[length - x.shape[1] :] = 1
    out = []
    with torch.inference_mode():
        for part in torch.from_numpy(padded).split(batch):
            out.append(encode(part, mask.expand(len(part), -1))[:, -real:].half().numpy())
    return dense(np.concatenate(out))


def ucr(folder: Path, task: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Read ``<name>_TRAIN.txt`` or ``.tsv`` and its TEST twin: (series, labels from 0, size of the training part)."""
    parts = []
    for part in ("TRAIN", "TEST"):
        found = [folder / f"{_UCR[task]}_{part}.{ending}" for ending in ("txt", "tsv")]
        path = next((p for p in found if p.is_file()), None)
        if path is None:
            raise Blocked(f"{found[0].name} is absent: place it under <reproven cache>/paper/ucr")
        parts.append(np.loadtxt(path, ndmin=2))
    rows = np.concatenate(parts)
    labels = np.unique(rows[:, 0], return_inverse=True)[1]
    return rows[:, 1:].astype(np.float32), labels.astype(np.int64), len(parts[0])


def csv_channel(path: Path, column: str) -> np.ndarray:
    """Return one column of a CSV with a header."""
    if not path.is_file():
        raise Blocked(f"{path.name} is absent: place it under <reproven cache>/paper/long_series")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames is None or column not in rows.fieldnames:
            raise Blocked(f"{path.name} has no column {column!r}; it has {rows.fieldnames}")
        return np.array([float(row[column]) for row in rows])


def forecast_windows(
    values: np.ndarray, length: int = 512, horizon: int = 96, stride: int = 16, share: float = 0.7
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return windows, futures standardised by the training part, and how many windows end within that part."""
    split = int(share * len(values))
    if split < length + horizon or len(values) - split < length + horizon:
        raise ValueError(
            f"a series of {len(values)} points holds no window of {length} + {horizon} on both sides"
        )
    values = ((values - values[:split].mean()) / values[:split].std()).astype(np.float32)
    starts = np.arange(0, len(values) - length - horizon + 1, stride)
    ends = starts + length + horizon
    starts = np.concatenate([starts[ends <= split], starts[starts >= split]])
    count = int((starts + length + horizon <= split).sum())
    x = values[starts[:, None] + np.arange(length)]
    y = values[starts[:, None] + length + np.arange(horizon)]
    return x, y, count
