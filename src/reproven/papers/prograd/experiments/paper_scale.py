"""Tables 1, 2 and 4 on the paper's own data and models, where they are at hand; else blocked, with what to place where.

Nothing of it is at hand in packages. Folders lie in the cache (``REPROVEN_CACHE``), in the publishers' own layout:

    imagenet/val/<wnid>/*.JPEG                      ILSVRC-2012 validation images in class folders
    imagenet_c/gaussian_noise/<1..5>/<wnid>/*.JPEG  ImageNet-C, noise.tar
    models/<name>/                                  a Hugging Face model folder (config, weights, tokeniser)
    torchvision/<name>.pth                          torchvision's ResNet152_Weights.IMAGENET1K_V1, and ResNet50's
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reproven.data.provider import cache_folder
from reproven.harness.context import Context
from reproven.harness.errors import Blocked, require
from reproven.papers.prograd.attribution import cosine, grad_cam, iou, satisfaction
from reproven.papers.prograd.experiments.gradcam import EditSet, Subject, map_task
from reproven.papers.prograd.experiments.language import Prompt, attributions, language_task, with_head
from reproven.papers.prograd.language import AnswerLogits, untied
from reproven.papers.prograd.nets import batched
from reproven.papers.prograd.rows import min_max

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NETWORKS = {"resnet152": "resnet152", "resnet50": "resnet50"}
LANGUAGE = {
    "llama_3_2_1b": ("Llama-3.2-1B-Instruct", "Llama-3.1-8B-Instruct"),
    "qwen3_1_7b": ("Qwen3-1.7B", "Qwen3-8B"),
}
WORDING = "Sentence: {}\nIs the sentiment of this sentence positive or negative? Answer:"


def needed(path: Path, what: str) -> Path:
    """Return a path in the cache, or raise Blocked with what to place there."""
    if not path.exists():
        raise Blocked(
            f"{what} is not at {path}: place it there (see experiments/prograd/README.md, paper tier)"
        )
    return path


class BottleneckHead(nn.Module):
    """What lies behind the last convolution of a torchvision ResNet: (n, 2 c, h, w) -> (n, classes).

    The input holds the convolution's result and the block's shortcut, one after the other in channels; `map` is the
    first (the paper's "pre-activation output of the last convolution"; which tensor was hooked is not stated).
    """

    def __init__(self, block: Any, fc: nn.Linear) -> None:
        super().__init__()
        self.map, self.norm, self.fc = nn.Identity(), block.bn3, fc

    def forward(self, both: Tensor) -> Tensor:
        z, shortcut = both.chunk(2, 1)
        z = torch.relu(self.norm(self.map(z)) + shortcut)
        return self.fc(nn.functional.adaptive_avg_pool2d(z, 1).flatten(1))


class BottleneckBody(nn.Module):
    """What lies in front of it: images -> the last convolution's result and the shortcut."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        parts = dict(model.named_children())
        stage = parts["layer4"]
        assert isinstance(stage, nn.Sequential)
        self.front = nn.Sequential(
            *(parts[n] for n in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")),
            *stage[:-1],
        )
        self.block: Any = stage[-1]

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self.block
        x = self.front(x)
        z = torch.relu(block.bn1(block.conv1(x)))
        z = block.conv3(torch.relu(block.bn2(block.conv2(z))))
        return torch.cat([z, x if block.downsample is None else block.downsample(x)], 1)


def resnet_subject(model: nn.Module) -> Subject:
    """Cut a torchvision ResNet of bottleneck blocks behind its last convolution."""
    body = BottleneckBody(model)
    head = BottleneckHead(body.block, model.fc)  # type: ignore[arg-type]
    return Subject(body.eval(), head.eval(), "fc", "map")


def image_files(folder: Path) -> list[tuple[Path, int]]:
    """Return (file, class) of a class-folder data set, classes and files in sorted order."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    return [(f, c) for c, p in enumerate(classes) for f in sorted(p.glob("*.JPEG"))]


def loaded(files: Sequence[Path]) -> Tensor:
    """Return images as ImageNet models take them: short side 256, centre 224, normalised. (n, 3, 224, 224)"""
    from torchvision.transforms import v2

    change = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    found = []
    for file in files:
        with Image.open(file) as image:
            found.append(change(image.convert("RGB")))
    return torch.stack(found)


def chunks(files: Sequence[tuple[Path, int]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of (images, classes)."""
    for start in range(0, len(files), size):
        part = files[start : start + size]
        yield loaded([f for f, _ in part]), torch.tensor([c for _, c in part])


def table_1(ctx: Context, *, network: str, images: int, steps: int, similar: int) -> None:
    """Table 1 (and 4): a ResNet's Grad-CAM maps on ImageNet-C, severity 1, edited to those of the clean images.

    images: 100 (of the first 50 classes, epsilon 1e-2) or 1,000 (of the first 200, 5e-2) that are wrong at top-1 and
    right at top-5. similar: images of other severities for Table 4, at epsilon 0.1. Records in %: satisfied,
    min_cosine, min_iou, accuracy; with split similar satisfied, mean_cosine, mean_iou.
    """
    import torchvision

    classes, epsilon = {100: (50, 1e-2), 1000: (200, 5e-2)}[images]
    root = cache_folder()
    weights = needed(root / "torchvision" / f"{network}.pth", f"torchvision's {network} (IMAGENET1K_V1)")
    clean = needed(root / "imagenet" / "val", "the ILSVRC-2012 validation set in class folders")
    noisy = needed(root / "imagenet_c" / "gaussian_noise" / "1", "ImageNet-C, Gaussian noise, severity 1")
    model = getattr(torchvision.models, NETWORKS[network])()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    model = model.eval().to(ctx.device)
    chosen = edit_files(model, noisy, clean, classes, images, ctx.device)
    subject = resnet_subject(model)
    x, y = loaded([f for f, _, _ in chosen]).to(ctx.device), torch.tensor([c for _, _, c in chosen])
    pairs = EditSet(x, loaded([f for _, f, _ in chosen]).to(ctx.device), y)
    task, targets = map_task(subject, pairs, pairs.clean[:1], epsilon, whole=False)
    others = _similar(root, chosen, similar)
    for name, method in ctx.methods.items():
        found = method.edit(task, steps, ctx.torch_generator("editor"))
        edited = subject.edited(found, task.rows)
        maps = grad_cam(edited, x, y, f"1.{subject.at}").flatten(1).double().numpy(force=True)
        values = {
            "satisfied": satisfaction(maps, targets, epsilon).mean(), "min_cosine": cosine(maps, targets).min(),
            "min_iou": iou(maps, targets, 75).min(), "accuracy": _accuracy(edited, clean, ctx.device),
        }  # fmt: skip
        for metric, value in values.items():
            at: dict[str, Any] = {"method": name, "network": network, "images": images, "split": "edit"}
            ctx.record(metric, 100 * float(value), unit="%", direction="higher", **at)
        _generalise(ctx, edited, subject, others, {"method": name, "network": network, "images": images})


def edit_files(
    model: nn.Module, noisy: Path, clean: Path, classes: int, images: int, device: str
) -> list[tuple[Path, Path, int]]:
    """Return (noisy, clean, class): clean right, noisy top-1 wrong and top-5 right, in sorted order."""
    found: list[tuple[Path, Path, int]] = []
    for file, c in image_files(noisy):
        if c >= classes or len(found) == images:
            break
        partner = clean / file.parent.name / file.name
        y = batched(model, loaded([partner, file]).to(device)).argsort(1, descending=True)
        if y[0, 0] == c and y[1, 0] != c and (y[1, :5] == c).any():
            found.append((file, partner, c))
    if not found:
        raise Blocked(
            f"no image under {noisy} is wrong where its clean one under {clean} is right: other files?"
        )
    return found


def _similar(root: Path, chosen: Sequence[tuple[Path, Path, int]], most: int) -> list[tuple[Path, Path, int]]:
    places = [root / "imagenet_c" / "gaussian_noise" / str(s) for s in range(2, 6)]
    pairs = [(p / n.parent.name / n.name, c, k) for p in places for n, c, k in chosen]
    return [pair for pair in pairs if pair[0].exists()][:most]


def _accuracy(model: nn.Module, folder: Path, device: str) -> float:
    right = total = 0
    for x, y in chunks(image_files(folder), 100):
        right += int((batched(model, x.to(device)).argmax(1).cpu() == y).sum())
        total += len(y)
    return right / total


def _generalise(
    ctx: Context, edited: nn.Module, subject: Subject, others: Sequence[tuple[Path, Path, int]], at: dict
) -> None:
    if not others:
        return
    original = nn.Sequential(subject.body, subject.head).eval()
    parts: dict[str, list[np.ndarray]] = {"satisfied": [], "mean_cosine": [], "mean_iou": []}
    for start in range(0, len(others), 50):
        part = others[start : start + 50]
        y = torch.tensor([c for _, _, c in part])
        noisy, clean = loaded([p[0] for p in part]), loaded([p[1] for p in part])
        maps, aims = (
            grad_cam(m, x.to(ctx.device), y, f"1.{subject.at}").flatten(1).double().numpy(force=True)
            for m, x in ((edited, noisy), (original, clean))
        )
        aims = min_max(aims)
        parts["satisfied"].append(satisfaction(maps, aims, 0.1))
        parts["mean_cosine"].append(cosine(maps, aims))
        parts["mean_iou"].append(iou(maps, aims, 75))
    for metric, values in parts.items():
        mean = 100 * float(np.concatenate(values).mean())
        ctx.record(metric, mean, unit="%", direction="higher", split="similar", **at)


def table_2(ctx: Context, *, network: str, sentences: int, steps: int, nodes: int) -> None:
    """Table 2: a student's Integrated Gradients on SST-2 edited to its teacher's.

    sentences: 100 (epsilon 5e-2) or 200 (1e-1), the first that the student gets wrong and the teacher right. The
    prompt is ours (`WORDING`); the paper does not give its own. Records in %: satisfied, mean_cosine, mean_iou,
    accuracy.
    """
    require("transformers", "prograd")
    import transformers

    epsilon = {100: 5e-2, 200: 1e-1}[sentences]
    small, large = (needed(cache_folder() / "models" / n, f"the model {n}") for n in LANGUAGE[network])
    data = ctx.dataset("sst2")

    def load(folder: Path) -> AnswerLogits:
        lm = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
        lm.config._attn_implementation = "eager"
        return AnswerLogits(untied(lm)).eval().requires_grad_(False).to(ctx.device)

    student, teacher = load(small), load(large)
    tokenizer = transformers.AutoTokenizer.from_pretrained(small, local_files_only=True)
    words = [tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in (" negative", " positive")]
    prompts, targets = [], []
    for row in data["train"]:
        p = sst2_prompt(tokenizer, row["text"], words, row["label"])
        if _lead(student, p, ctx.device) <= 0 < _lead(teacher, p, ctx.device):
            prompts.append(_placed(p, ctx.device))
            targets.append(min_max(attributions(teacher, prompts[-1], nodes)))
        if len(prompts) == sentences:
            break
    rows = torch.tensor(sorted(words))
    keep = torch.zeros((1, student.lm.lm_head.weight.shape[1]))
    task = language_task(student, prompts, targets, keep, nodes, epsilon, rows)
    for name, method in ctx.methods.items():
        edited = with_head(student, method.edit(task, steps, ctx.torch_generator("editor")), task.rows)
        maps = [attributions(edited, p, nodes) for p in prompts]
        sizes = np.array([len(m) for m in maps])
        shares = np.array([satisfaction(m[None], t[None], epsilon)[0] for m, t in zip(maps, targets)])
        right = [
            _lead(edited, sst2_prompt(tokenizer, r["text"], words, r["label"]), ctx.device) > 0
            for r in data["validation"]
        ]
        values = {
            "satisfied": shares @ sizes / sizes.sum(),
            "mean_cosine": np.mean([cosine(m[None], t[None])[0] for m, t in zip(maps, targets)]),
            "mean_iou": np.mean([iou(m[None], t[None], 50)[0] for m, t in zip(maps, targets)]),
            "accuracy": np.mean(right),
        }
        for metric, value in values.items():
            at: dict[str, Any] = {"method": name, "network": network, "sentences": sentences}
            ctx.record(metric, 100 * float(value), unit="%", direction="higher", **at)


def sst2_prompt(tokenizer: object, text: str, words: Sequence[int], label: int) -> Prompt:
    """Return a sentence in the template, with the positions of its own tokens."""
    encode = lambda s: tokenizer(s, add_special_tokens=False)["input_ids"]  # type: ignore[operator]  # noqa: E731
    before, after = WORDING.split("{}")
    a, b, c = encode(before), encode(text), encode(after)
    return Prompt(
        torch.tensor([*a, *b, *c]), tuple(range(len(a), len(a) + len(b))), words[label], words[1 - label]
    )


def _placed(p: Prompt, device: str) -> Prompt:
    return Prompt(p.tokens.to(device), p.inside, p.answer, p.other)


def _lead(model: AnswerLogits, p: Prompt, device: str) -> float:
    with torch.no_grad():
        logits = model(model.embed(p.tokens[None].to(device)))[0]
    return float(logits[p.answer] - logits[p.other])
