"""Where things are. Nothing else builds a path to the project's own folders."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parents[1]


def is_checkout() -> bool:
    """Tell whether the package runs from a checkout rather than from an installed wheel."""
    return (CHECKOUT / "conf" / "config.yaml").is_file()


def home() -> Path:
    """Return the folder that holds ``conf/`` and ``experiments/``."""
    return CHECKOUT if is_checkout() else PACKAGE / "_shipped"


def conf() -> Path:
    """Return the folder of Hydra's groups."""
    return home() / "conf"


def experiments() -> Path:
    """Return the folder of the papers' cards, experiments and printed tables."""
    return home() / "experiments"


def results(chosen: str | None = None) -> Path:
    """Return the results folder: `chosen`, else REPROVEN_RESULTS, else the checkout's, else ``./results``."""
    name = chosen or os.environ.get("REPROVEN_RESULTS")
    if name:
        return Path(name).expanduser().absolute()
    return (CHECKOUT if is_checkout() else Path.cwd()) / "results"


def accepted() -> Path:
    """Return the committed folder of accepted values."""
    return results() / "accepted"
