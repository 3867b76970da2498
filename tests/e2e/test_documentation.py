"""The documentation: its snippets run, and the README's."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from reproven.harness import paths

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
