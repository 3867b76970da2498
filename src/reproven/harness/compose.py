"""Composition: Hydra's groups into one checked configuration. Nobody else composes or instantiates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reproven.harness import paths
from reproven.harness.errors import UserError, did_you_mean

OmegaConf.register_new_resolver("reproven_results", lambda: str(paths.results()), replace=True)

GROUPS = ("experiment", "method", "dataset", "hardware", "tier", "tracker")


_own_folder: list[Path] = []  # a user's own folder of groups, if there is one


@contextmanager
def hydra_ready(config_dir: str | None = None) -> Iterator[None]:
    """Initialise Hydra on ``conf/`` unless it already is; `config_dir` adds a user's own folder of groups."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    _composed.cache_clear()
    _group.cache_clear()
    available.cache_clear()
    _own_folder.clear()
    if config_dir is not None:
        folder = Path(config_dir).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(
                f"--config-dir {config_dir!r} is no folder; give one that holds method/ or dataset/"
            )
        _own_folder.append(folder)
    with initialize_config_dir(version_base="1.3", config_dir=str(paths.conf()), job_name="reproven"):
        yield


def _search() -> list[str]:
    """Return Hydra's override that puts the user's own folder on the search path."""
    return [f"hydra.searchpath=['file://{folder}']" for folder in _own_folder]


def composed(overrides: Sequence[str]) -> Mapping[str, Any]:
    """Compose the root configuration as plain values; UserError in one line for anything the user got wrong.

    The same overrides are composed once: a sweep over seeds or methods shares one composition.
    """
    return _composed(tuple(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        cfg = compose("config", overrides=[*_search(), *overrides])
        node: Mapping[str, Any] = plain(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from None
    root = set(OmegaConf.load(paths.conf() / "config.yaml")) | set(GROUPS)
    for key in node:
        if key not in root:
            raise UserError(
                f"{node.get('name', 'configuration')}: unknown key {key!r}{did_you_mean(str(key), root)}"
            )
    return node


def explain(error: Exception) -> str:
    """Return one line for an error of Hydra's: what was named, and the nearest thing that exists."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).partition("/")
        if group in GROUPS:
            return f"no {group} {name!r}{did_you_mean(name, available(group))}"
    if isinstance(error, OverrideParseException):
        return f"cannot read the override {error.override!r}; write key=value"
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) else None
    text = str(cause or error).strip().splitlines()
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    if key:
        root = OmegaConf.load(paths.conf() / "config.yaml")
        return f"unknown key {str(key)!r}{did_you_mean(str(key), [str(k) for k in root] + list(GROUPS))}"
    return " ".join(line.strip() for line in text if line.strip())


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides by Hydra's own grammar."""
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise UserError(explain(error)) from None


@cache
def available(group: str) -> tuple[str, ...]:
    """Return every name in a group, also in nested folders and on the user's own search path."""
    if not GlobalHydra.instance().is_initialized():
        with hydra_ready():
            return available.__wrapped__(group)
    loader = GlobalHydra.instance().config_loader()

    def options(prefix: str, kind: ObjectType) -> list[str]:
        return loader.get_group_options(prefix, kind, config_name="config", overrides=_search())

    def walk(prefix: str) -> Iterator[str]:
        for name in options(prefix, ObjectType.CONFIG):
            yield f"{prefix}/{name}".removeprefix(f"{group}/")
        for name in options(prefix, ObjectType.GROUP):
            if name != "printed":  # a paper's tables and their audit, which are no experiments
                yield from walk(f"{prefix}/{name}")

    return tuple(sorted(walk(group)))


def entry(group: str, name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain node of one method or data set by its name; UserError with the nearest when unknown.

    overrides: those of the command line that reach into it, such as ``method.alpha=0.1``.
    """
    return dict(_group(group, name, tuple(overrides)))


@cache
def _group(group: str, name: str, overrides: tuple[str, ...]) -> Mapping[str, Any]:
    alone = None if overrides else _file(group, name)
    if alone is not None:
        return alone
    try:
        cfg = compose("entry", overrides=[*_search(), f"{group}={name}", *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from None
    node: Mapping[str, Any] = plain(cfg[group])
    return node


def _file(group: str, name: str) -> Mapping[str, Any] | None:
    """Return a group's file as it stands, where it needs no composing: fifty methods cost fifty reads, not seconds."""
    path = GlobalHydra.instance().config_loader().get_search_path().get_path()
    folders = [*_own_folder, *(Path(str(element.path).removeprefix("file://")) for element in path)]
    for folder in folders:
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            node = OmegaConf.load(file)
            needs_hydra = "defaults" in node or "@package" in file.read_text(encoding="utf-8")
            return None if needs_hydra else plain(node)
    return None


def plain(node: Any) -> Any:
    """Return a configuration node as plain dicts, lists and scalars, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def instantiate(node: Mapping[str, Any], **keywords: Any) -> Any:
    """Build what ``_target_`` names. The one place that calls Hydra's `instantiate`."""
    import hydra.utils

    return hydra.utils.instantiate(OmegaConf.create(dict(node)), _convert_="all", **keywords)
