"""What keywords a constructor takes, read from its source without importing it.

Importing a paper's modules costs seconds (torch); planning must not. Inside the package the definition is looked
up in the syntax tree, through re-exports; anything the tree cannot answer is imported and inspected.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reproven.harness.errors import UserError, did_you_mean
from reproven.harness.paths import PACKAGE


@dataclass(frozen=True)
class Signature:
    """Keywords of a callable: those it takes, those without a default, and whether it takes any other."""

    names: tuple[str, ...]
    required: frozenset[str]
    open: bool


@cache
def module_path(module: str) -> Path | None:
    """Return the file of a module of this package, or None for a module from outside."""
    top, *rest = module.split(".")
    if top != "reproven":
        return None
    base = PACKAGE.joinpath(*rest)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def signature(target: str) -> Signature:
    """Return the keywords of the callable at the dotted path `target`; UserError when there is none."""
    module, _, name = target.rpartition(".")
    node = _definition(module, name)
    found = _from_tree(node) if node is not None else None
    return found or _from_import(target)


def check(
    node: Mapping[str, Any], where: str, extra: Mapping[str, Any] | None = None, given: int = 0
) -> None:
    """Check a configuration node with ``_target_`` against the callable it names.

    extra: further keywords that the caller adds; given: leading positional arguments that the caller supplies.
    UserError on an unknown, missing or superfluous keyword, with the nearest known name.
    """
    target = node["_target_"]
    found = signature(target)
    names = found.names[given:]
    keys = [k for k in node if not k.startswith("_")] + list(extra or {})
    for key in keys:
        if key not in names and not found.open:
            raise UserError(f"{where}: {target} takes no keyword {key!r}{did_you_mean(key, names)}")
    doubled = {k for k in keys if keys.count(k) > 1}
    if doubled:
        raise UserError(
            f"{where}: {sorted(doubled)[0]!r} is given twice; keep one of task, budget, grid, batch"
        )
    if not node.get("_partial_"):
        missing = [n for n in names if n in found.required and n not in keys]
        if missing:
            raise UserError(f"{where}: {target} needs {missing[0]!r}, which nothing sets; add it to the file")
    for key, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            check(value, f"{where}.{key}")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _definition(module: str, name: str) -> ast.FunctionDef | ast.ClassDef | None:
    path = module_path(module)
    if path is None:
        return None
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(node.module, alias.name)
    return None


def _from_tree(node: ast.FunctionDef | ast.ClassDef) -> Signature | None:
    if isinstance(node, ast.FunctionDef):
        return _arguments(node.args)
    decorators = {ast.unparse(d).split("(")[0].rpartition(".")[2] for d in node.decorator_list}
    if "dataclass" in decorators and not node.bases:
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        names = tuple(n.target.id for n in fields if isinstance(n.target, ast.Name))
        required = frozenset(
            n.target.id for n in fields if n.value is None and isinstance(n.target, ast.Name)
        )
        return Signature(names, required, open=False)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            found = _arguments(item.args)
            return Signature(found.names[1:], found.required - {"self"}, found.open)
    return None


def _arguments(args: ast.arguments) -> Signature:
    positional = [a.arg for a in (*args.posonlyargs, *args.args)]
    bare = positional[: len(positional) - len(args.defaults)]
    keyword = [a.arg for a in args.kwonlyargs]
    bare += [a.arg for a, default in zip(args.kwonlyargs, args.kw_defaults) if default is None]
    return Signature(tuple(positional + keyword), frozenset(bare), args.kwarg is not None)


def _from_import(target: str) -> Signature:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        known = [n.name for n in _names(module)]
        raise UserError(f"no {target!r}: {error}{did_you_mean(name, known) if known else ''}") from None
    parameters = inspect.signature(found).parameters.values()
    plain = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return Signature(
        tuple(p.name for p in plain),
        frozenset(p.name for p in plain if p.default is p.empty),
        any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _names(module: str) -> list[ast.FunctionDef | ast.ClassDef]:
    path = module_path(module)
    return (
        [] if path is None else [n for n in _tree(path).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    )
