"""Pages that the site makes from the project itself: the README, CONTRIBUTING, one page a paper, the reference.

A hook of mkdocs. A paper's page is its card followed by its targets, experiment by experiment; the reference is one
page for the harness that users import and one a paper.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(p.parent.name for p in ROOT.glob("experiments/*/README.md"))
HARNESS = ("context", "claims", "decision", "targets", "audit", "store")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the generated pages in the navigation."""
    nav = [
        {"Papers": [{title(p): f"papers/{p}.md"} for p in PAPERS]} if "Papers" in entry
        else {"Reference": [f"reference/{n}.md" for n in ("harness", *PAPERS)]} if "Reference" in entry
        else entry
        for entry in config.nav or []
    ]  # fmt: skip
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"index.md": relinked((ROOT / "README.md").read_text(encoding="utf-8"))}
    pages["adding.md"] = relinked((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    for paper in PAPERS:
        pages[f"papers/{paper}.md"] = paper_page(paper)
        pages[f"reference/{paper}.md"] = f"# {paper}\n\n::: reproven.papers.{paper}\n"
    modules = "\n\n".join(f"::: reproven.harness.{name}" for name in HARNESS)
    pages["reference/harness.md"] = f"# The harness\n\n{modules}\n"
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def title(paper: str) -> str:
    """First heading of a paper's card."""
    return next(line[2:] for line in card(paper).splitlines() if line.startswith("# "))


def card(paper: str) -> str:
    return (ROOT / "experiments" / paper / "README.md").read_text(encoding="utf-8")


def paper_page(paper: str) -> str:
    """Return a paper's card with the list of its targets."""
    lines = [card(paper).rstrip(), "", "## Every target", ""]
    for path in sorted((ROOT / "experiments" / paper).glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        lines += [f"### {path.stem}", "", f"Tiers: {', '.join(node['budgets'])}.", ""]
        lines += ["| target | kind | what the paper says | source |", "|---|---|---|---|"]
        for target in node.get("targets", []):
            if "printed" in target:
                cells = [
                    f"all of `{target['printed']}`",
                    "value",
                    str(target.get("metric")),
                    "each row's own",
                ]
            else:
                said = target.get("statement") or target.get("value", "")
                cells = [
                    f"`{target['id']}`",
                    target.get("kind", "value"),
                    str(said),
                    str(target.get("source", "")),
                ]
            lines.append("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |")
        lines.append("")
    return "\n".join(lines) + "\n"


def relinked(text: str) -> str:
    """Return a page of the repository with its links to others pointing at their pages of the site."""
    text = text.replace("(CONTRIBUTING.md)", "(adding.md)")
    return re.sub(r"\(experiments/(\w+)/README\.md\)", r"(papers/\1.md)", text)
