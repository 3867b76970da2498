"""Pretrained networks whose weights ship inside packages: verified files, no code of those packages."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import torch

from reproven.data import provider
from reproven.harness.errors import require

if TYPE_CHECKING:
    from torch import nn

IMAGE_MEAN = IMAGE_STD = 0.5  # EfficientNet-Lite0 takes (pixels / 255 - mean) / std

_SUMS = "sha256.json"


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in evaluation mode: (n, 3, 224, 224) -> (n, 1000) logits.

    ReLU6, no squeeze-and-excitation. Pixels in [0, 1] are shifted by `IMAGE_MEAN` and divided by `IMAGE_STD`.
    The file names its tensors in its own way but lists them in the order of timm's `tf_efficientnet_lite0`.
    """
    require("timm", "prograd")
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    ours = model.state_dict()
    theirs = torch.load(provider.locate("efficientnet_lite0"), map_location="cpu", weights_only=True)
    shapes = [tuple(tensor.shape) for tensor in ours.values()]
    if shapes != [tuple(tensor.shape) for tensor in theirs.values()]:
        raise ValueError(
            "the weights of efficientnet_lite0 do not fit timm's tf_efficientnet_lite0: other timm?"
        )
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return model.eval()


def smollm2_135m(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct as (transformers' causal language model in evaluation mode, tokeniser).

    Llama architecture, 30 layers of 9 heads with 3 key-value heads, 8,192 positions. The weights are stored
    with 4 bits (GGUF Q4_1) and expanded to `dtype`: a real language model, not the one published in 16 bits.
    """
    for package in ("transformers", "gguf", "accelerate"):
        require(package, "pooling")
    import transformers

    folder = _expanded(provider.locate("smollm2_135m"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype)
    return model.eval(), tokenizer


def minilm_l6(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """all-MiniLM-L6-v2 as (transformers' BERT encoder in evaluation mode, tokeniser).

    6 layers of 12 heads, width 384, 512 positions; trained with mean pooling over the tokens.
    """
    require("transformers", "pooling")
    import transformers

    folder = provider.locate("minilm_l6")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype)
    return model.eval(), tokenizer


def _expanded(path: Path) -> Path:
    """Folder with a GGUF file's float32 weights and tokeniser, made once beside it and verified at each use.

    Reading GGUF through transformers takes about 20 s, this copy a second. It belongs to the version of
    transformers that made it.
    """
    import transformers

    home = path.parent.with_name(f"{path.parent.name}-expanded-{transformers.__version__}")
    with filelock.FileLock(home.with_name(f".{home.name}.lock")):
        if not _whole(home):
            partial = home.with_name(f".partial-{home.name}")
            for left in (partial, home):
                shutil.rmtree(left, ignore_errors=True)
            transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(
                partial
            )
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32
            )
            config = copy.deepcopy(model.config)
            del config.quantization_config  # the weights are plain now; transformers saves no quantised model
            plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            plain.load_state_dict(model.state_dict())
            plain.save_pretrained(partial)
            sums = {file.name: provider.file_digest(file) for file in partial.iterdir()}
            (partial / _SUMS).write_text(json.dumps(sums), encoding="utf-8")
            os.replace(partial, home)
    return home


def _whole(folder: Path) -> bool:
    """Whether a folder holds what its list of digests says."""
    if not (folder / _SUMS).is_file():
        return False
    sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
    return all(
        (folder / name).is_file() and provider.file_digest(folder / name) == sums[name] for name in sums
    )
