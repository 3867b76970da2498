"""What a result rests on: source, versions, machine. Hashes that decide whether a run is still the same run."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from reproven.harness import paths
from reproven.harness.signatures import module_path

# These only read measurements, or time methods; a change to them reruns nothing of the paper's experiments.
READERS = ("claims", "figures", "benchmarks")

# What these hand on is fixed by the digests of the data, which are in a run's identity on their own.
FETCHERS = ("reproven.data.cards", "reproven.data.provider")


def digest(value: Any) -> str:
    """Return a 16-digit hash of a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_digest(targets: Iterable[str]) -> str:
    """Return the hash of the code that dotted `targets` of this package rest on.

    That is: the syntax trees, docstrings removed, of each ``papers/<slug>`` folder named, of the ``data`` and
    ``nets`` modules these import, and of ``harness/seeds``. Readers of measurements are left out unless a
    target lies in them; so are the modules that fetch data and check their digests.
    """
    modules: set[str] = {"reproven.harness.seeds"}
    for target in targets:
        module = target.rpartition(".")[0]
        if module.startswith("reproven.papers."):
            slug = module.split(".")[2]
            folder = paths.PACKAGE / "papers" / slug
            names = {
                p.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
                for p in folder.rglob("*.py")
            }
            modules |= {f"reproven.papers.{slug}.{n}" for n in names if n not in READERS}
        modules.add(module)
    # A package and its __init__ are one module, whichever way it was named: methods from outside are compared by this.
    modules = {m.removesuffix(".__init__") for m in modules}
    modules = {m for m in modules if module_path(m) is not None}
    return digest(sorted((m, _tree_digest(m)) for m in _with_imports(modules)))


def outside_digest(targets: Iterable[str]) -> str | None:
    """Return the hash of the modules outside this package that `targets` lie in, or None when there are none."""
    modules = {t.rpartition(".")[0] for t in targets if not t.startswith("reproven.")}
    trees = []
    for module in sorted(modules):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            trees.append((module, _file_digest(Path(spec.origin))))
    return digest(trees) if trees else None


def _with_imports(modules: set[str]) -> set[str]:
    todo, seen = set(modules), set()
    while todo:
        module = todo.pop()
        seen.add(module)
        todo |= {m for m in _shared_imports(module) if m not in seen and m not in FETCHERS}
    return seen


@cache
def _shared_imports(module: str) -> frozenset[str]:
    """Return the modules of ``reproven.data`` and ``reproven.nets`` that a module imports."""
    path = module_path(module)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path else ():
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{a.name}" for a in node.names] + [node.module]
        for name in names:
            if name.startswith(("reproven.data.", "reproven.nets.")) and module_path(name) is not None:
                found.add(name)
    return frozenset(found)


def _tree_digest(module: str) -> str:
    path = module_path(module)
    return _file_digest(path) if path else ""


@cache
def _file_digest(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(_dump(tree).encode()).hexdigest()[:16]


def _dump(tree: ast.Module) -> str:
    """Return the tree as text that every supported Python writes alike, so that run ids do not depend on it.

    3.12 added `type_params`, empty for code that 3.11 can read; 3.13 leaves empty lists out unless asked.
    """
    for node in ast.walk(tree):
        if vars(node).get("type_params") == []:
            del vars(node)["type_params"]
    return ast.dump(tree, **({"show_empty": True} if sys.version_info >= (3, 13) else {}))


@cache
def torch_version() -> str:
    """Return torch's major.minor, without importing it."""
    return ".".join(metadata.version("torch").split(".")[:2])


@cache
def environment() -> dict[str, Any]:
    """Return the machine, the versions and the state of the source, gathered once a process."""
    names = (
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "pandas",
        "scikit-learn",
        "hydra-core",
        "omegaconf",
        "datasets",
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": {n: _version(n) for n in names},
        "git": git_state(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


@cache
def git_state() -> dict[str, str | None]:
    """Return the commit and, where the tree differs from it, a hash of the difference."""
    if not (paths.CHECKOUT / ".git").exists():
        return {"sha": None, "dirty": None}
    try:
        sha = _git("rev-parse", "HEAD").strip()
        difference = _git("diff", "HEAD", "--", "src", "conf", "experiments")
        untracked = _git("ls-files", "--others", "--exclude-standard", "--", "src", "conf", "experiments")
    except (OSError, subprocess.CalledProcessError):
        return {"sha": None, "dirty": None}
    dirty = (
        hashlib.sha256((difference + untracked).encode()).hexdigest()[:16]
        if difference or untracked
        else None
    )
    return {"sha": sha, "dirty": dirty}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(paths.CHECKOUT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
