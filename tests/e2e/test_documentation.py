"""The documentation: its snippets run, and the README's."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from reproven.cli import COMMANDS
from reproven.harness import compose, paths

PAGES = [paths.CHECKOUT / "README.md", paths.CHECKOUT / "docs" / "library.md"]
SNIPPETS = [
    (f"{page.name}-{i}", code)
    for page in PAGES
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
]


@pytest.mark.parametrize("code", [c for _, c in SNIPPETS], ids=[n for n, _ in SNIPPETS])
def test_a_snippet_runs_as_it_stands(code, tmp_path):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


TEXTS = [paths.CHECKOUT / n for n in ("README.md", "CONTRIBUTING.md")]
TEXTS += [*sorted((paths.CHECKOUT / "docs").glob("*.md")), *sorted(paths.experiments().glob("*/README.md"))]


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: str(p.relative_to(paths.CHECKOUT)))
def test_what_a_page_tells_to_run_exists(page):
    parts = page.read_text(encoding="utf-8").split("```")
    inline = [word for part in parts[::2] for word in re.findall(r"`[^`\n]+`", part)]
    code = "\n".join([*parts[1::2], *inline])
    targets = re.findall(r"^([a-z%-]+):", (paths.CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.M)
    papers = {e.partition("/")[0] for e in compose.available("experiment")}
    for words in re.findall(r"\bmake ((?:[a-z_-]+[ `\n])+)", code):
        for target in words.replace("`", " ").split():
            assert target in targets or target.removeprefix("reproduce-") in papers, f"no `make {target}`"
    for word in re.findall(r"\breproven ([a-z]+)[ `\n]", code):
        assert word in COMMANDS, f"no `reproven {word}`"
    for name in re.findall(r"\bexperiment=([a-z]\w*/\w+)", code):
        assert name in compose.available("experiment"), f"no experiment {name}"
    for name in re.findall(r"\breproven (?:reproduce|regress|report|plan) ([a-z]\w*(?:/\w+)?)", code):
        assert name in papers or name in compose.available("experiment"), f"no {name}"
