"""C13, C14: what the printed tables say about themselves. No model is run."""

from __future__ import annotations

import csv
import hashlib

import numpy as np

from reproven.harness import paths
from reproven.harness.context import Context
from reproven.harness.errors import UserError

SENTENCES = 872  # of the SST-2 validation set
CONSTANT = (444, 428)  # right answers of the two constant predictors
FILES = ("table_1_min_iou.csv", "table_2_accuracy.csv")


def audit(ctx: Context, *, printed_sha256: str) -> None:
    """Compare printed cells with the values that their own definitions allow.

    Records: iou_distance, how far (percentage points) each minimum IoU of Table 1 lies from the nearest IoU of two
    masks of a side x side map whose entries lie strictly above the 75th percentile (side 7 and 14);
    accuracy_distance of each SST-2 accuracy from a multiple of 1/872; constant, whether an accuracy of SFT or DPO is
    within one sentence of a constant predictor's.
    """
    folder = paths.experiments() / "prograd" / "printed"
    found = hashlib.sha256(b"".join((folder / name).read_bytes() for name in FILES)).hexdigest()
    if found != printed_sha256:
        raise UserError(
            f"printed cells of prograd have sha256 {found}, the experiment expects {printed_sha256}: set it there"
        )
    for cell in _cells(FILES[0]):
        for side in (7, 14):
            possible = possible_ious(side * side, 75)
            distance = float(np.abs(possible - cell["value"]).min())
            ctx.record("iou_distance", distance, unit="%", direction="lower", cell=cell["id"], side=side)
    for cell in _cells(FILES[1]):
        count = cell["value"] / 100 * SENTENCES
        distance = 100 * abs(count - round(count)) / SENTENCES
        ctx.record("accuracy_distance", distance, unit="%", direction="lower", cell=cell["id"])
        if cell["method"] in ("lm_sft", "lm_dpo"):
            near = min(abs(round(count) - c) for c in CONSTANT) <= 1
            ctx.record("constant", near, unit="1", cell=cell["id"])
    cells = [c for c in _cells(FILES[1]) if c["method"] in ("lm_sft", "lm_dpo")]
    collapsed = sum(min(abs(round(c["value"] / 100 * SENTENCES) - k) for k in CONSTANT) <= 1 for c in cells)
    ctx.record("collapsed_cells", collapsed, unit="cells")


def possible_ious(entries: int, percentile: float) -> np.ndarray:
    """Return all IoUs (%) of two masks of the entries strictly above a percentile: ``i / (2 k - i)``."""
    selected = int((np.arange(entries) > np.percentile(np.arange(entries), percentile)).sum())
    i = np.arange(selected + 1)
    return 100 * i / (2 * selected - i)


def _cells(name: str) -> list[dict]:
    with (paths.experiments() / "prograd" / "printed" / name).open(encoding="utf-8", newline="") as file:
        return [{**row, "value": float(row["value"])} for row in csv.DictReader(file)]
