"""The report: runs at hand joined with targets into verdicts, tables and figures; the gates over them."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from rich.console import Console
from rich.table import Table

from reproven.harness import accepted, audit, compose, page, paths, provenance, tables
from reproven.harness.errors import UserError
from reproven.harness.plan import Run, expand
from reproven.harness.samples import same
from reproven.harness.store import Result, Status, Store, frame, write_atomically
from reproven.harness.targets import Target, load_targets
from reproven.harness.verdicts import Row, decide

# A run's state, as the verdict of a target that rests on it.
STATE_VERDICT = {"blocked": "blocked", "running": "not-run", "interrupted": "not-run", "missing": "not-run"}


@dataclass
class Findings:
    """Everything that the runs of one paper say: its verdicts, its measurements, its cost."""

    paper: str
    rows: list[Row] = field(default_factory=list)
    data: dict[str, pd.DataFrame] = field(default_factory=dict)  # experiment -> measurements of every tier
    seconds: dict[tuple[str, str], float] = field(
        default_factory=dict
    )  # (tier, hardware) -> time of all runs
    figures: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    headline: dict[tuple[str, str], float] = field(default_factory=dict)
    samples: dict[str, dict[str, tuple[str, ...]]] = field(
        default_factory=dict
    )  # experiment -> metric -> axes
    comparisons: dict[str, list[tables.Comparison]] = field(default_factory=dict)  # experiment -> its tables
    targets: dict[tuple[str, str], Target] = field(default_factory=dict)  # (experiment, id) -> target
    runs: dict[tuple[str, str], tables.RunInfo] = field(
        default_factory=dict
    )  # (tier, run id) -> cost and state


def gather(store: Store, paper: str) -> Findings:
    """Join the runs of the present code and configuration with the paper's targets, tier by tier.

    Runs of older code are left alone. A run of a method from outside counts where it is comparable: the same
    experiment, data, budget and code, another method; it gets a column in the tables, and no target of the paper's.
    """
    statuses = {s.run_id: s for s in store.statuses(paper)}
    findings = Findings(paper)
    experiments = [e for e in compose.available("experiment") if e.startswith(f"{paper}/")]
    if not experiments:
        raise UserError(f"no experiments under {paper!r}; see `reproven plan`")
    for tier, hardware in sorted({(s.tier, s.hardware) for s in statuses.values()}):
        _gather_tier(store, findings, experiments, statuses, tier, hardware)
    for experiment, data in findings.data.items():
        findings.comparisons[experiment] = tables.comparisons(data, findings.samples.get(experiment))
    return findings


def _gather_tier(
    store: Store,
    findings: Findings,
    experiments: Sequence[str],
    statuses: Mapping[str, Status],
    tier: str,
    hardware: str,
) -> None:
    targets: list[Target] = []
    absent: dict[tuple[str, str], tuple[str, str]] = {}
    planned_data: list[pd.DataFrame] = []
    for experiment in experiments:
        node, runs = expand([f"experiment={experiment}", f"tier={tier}", f"hardware={hardware}"])
        printed = paths.experiments() / findings.paper / "printed"
        found = load_targets(experiment, node["targets"], printed)
        targets += found
        findings.figures[experiment] = node["figures"]
        findings.targets |= {(t.experiment, t.id): t for t in found}
        findings.headline |= {(t.experiment, t.id): t.regress_tol for t in found if t.headline}
        findings.samples[experiment] = {m: t.samples for t in found for m in t.metric}
        for target in found:
            gap = _gap(target, runs, statuses)
            if tier not in node["budgets"]:
                gap = ("reduced", f"the experiment does not run at the {tier} tier")
            if gap is not None:
                absent[experiment, target.id] = gap
        planned = _results(store, findings.paper, (r.run_id for r in runs), statuses)
        others = _results(store, findings.paper, _outsiders(runs, statuses), statuses)
        both = [*planned, *others]
        findings.runs |= {(tier, r["run_id"]): _done(r, tier) for r in both}
        findings.runs |= {
            (tier, r.run_id): _not_done(r, statuses[r.run_id])
            for r in runs
            if r.run_id in statuses and statuses[r.run_id].state != "done"
        }
        if not both:
            continue
        # A run whose budget two tiers share is one run; here it speaks for the tier that asks.
        everything = frame(both).assign(tier=tier, hardware=hardware)
        ids = {r.run_id for r in runs}
        planned_data.append(everything[everything["run"].isin(ids)])
        before = findings.data.get(experiment)
        findings.data[experiment] = (
            everything if before is None else pd.concat([before, everything], ignore_index=True)
        )
        spent = sum(r["seconds"] for r in both)
        findings.seconds[tier, hardware] = findings.seconds.get((tier, hardware), 0.0) + spent
    findings.seconds.setdefault((tier, hardware), 0.0)
    data = pd.concat(planned_data, ignore_index=True) if planned_data else frame([])
    findings.rows += decide(targets, data, tier=tier, hardware=hardware, absent=absent)


def _results(
    store: Store, paper: str, run_ids: Iterable[str], statuses: Mapping[str, Status]
) -> list[Result]:
    done = [i for i in run_ids if i in statuses and statuses[i].state == "done"]
    return [r for i in done if (r := store.result(paper, i)) is not None]


def _done(result: Result, tier: str) -> tables.RunInfo:
    return tables.RunInfo(
        run_id=result["run_id"],
        experiment=result["experiment"],
        methods=tuple(result["identity"].get("method") or ()),
        seed=result["seed"],
        tier=tier,
        hardware=result["hardware"],
        state=result["state"],
        reason="",
        seconds=result["seconds"],
        peak_memory_bytes=result["peak_memory_bytes"],
        commit=result["provenance"]["git"]["sha"] or "",
    )


def _not_done(run: Run, status: Status) -> tables.RunInfo:
    return tables.RunInfo(
        run_id=run.run_id,
        experiment=run.experiment,
        methods=tuple(run.methods),
        seed=run.seed,
        tier=run.tier,
        hardware=status.hardware,
        state=status.state,
        reason=status.reason,
        seconds=status.seconds or 0.0,
        peak_memory_bytes=0,
        commit="",
    )


def _outsiders(runs: Sequence[Run], statuses: Mapping[str, Status]) -> list[str]:
    comparable = {r.comparable for r in runs}
    planned = {r.run_id for r in runs}
    return sorted(i for i, s in statuses.items() if s.comparable in comparable and i not in planned)


def _gap(target: Target, runs: Sequence[Run], statuses: Mapping[str, Status]) -> tuple[str, str] | None:
    """Return the state and reason of runs that a target rests on and that are not done; None when all are."""
    needed = [r for r in runs if _concerns(target, r)]
    if not needed:
        return "not-run", "no run of this tier measures it"
    lost = [(r, statuses.get(r.run_id)) for r in needed]
    bad = [(r, s) for r, s in lost if s is None or s.state != "done"]
    if not bad:
        return None
    states = ["missing" if s is None else s.state for _, s in bad]
    worst = max(states, key=lambda s: {"failed": 2, "blocked": 1}.get(STATE_VERDICT.get(s, "failed"), 0))
    run, status = bad[states.index(worst)]
    why = status.reason if status is not None and status.reason else "not run yet"
    return STATE_VERDICT.get(worst, "failed"), f"{len(bad)} of {len(needed)} runs {worst}: {run.label}: {why}"


def _concerns(target: Target, run: Run) -> bool:
    """Tell whether a run can hold measurements at the target's coordinates."""
    fixed: dict[str, list[Any]] = {a: [v] for a, v in run.identity["axes"].items()}
    fixed |= {"seed": [run.seed]} if "seed" not in run.identity["batch"] else {}
    fixed |= {"method": list(run.methods)} if run.methods else {}
    fixed |= {"dataset": list(run.datasets)} if run.datasets else {}
    for name, wanted in target.where.items():
        if name in fixed and not same(pd.Series(fixed[name], dtype=object), wanted).any():
            return False
    return True


def files(findings: Findings) -> dict[str, str]:
    """Return the tables of one paper: relative path -> text."""
    paper = findings.paper
    made = {f"{paper}/verdicts.csv": tables.verdicts_csv(findings.rows)}
    made[f"{paper}/verdicts.md"] = tables.verdicts_markdown(findings.rows)
    made[f"{paper}/verdicts.tex"] = tables.verdicts_latex(findings.rows)
    made[f"{paper}/cost.csv"] = tables.cost_csv(findings.runs.values())
    for experiment, found in findings.comparisons.items():
        name = experiment.partition("/")[2].replace("/", "-")
        made[f"{paper}/{name}.csv"] = tables.raw_csv(findings.data[experiment])
        made[f"{paper}/{name}.md"] = tables.comparison_markdown(experiment, found)
        made[f"{paper}/{name}.tex"] = tables.comparison_latex(experiment, found)
    audited = audit.audit(paths.experiments() / paper / "printed")
    if audited:
        made[f"{paper}/printed_consistency.csv"] = audit.findings_csv(audited)
    return made


def _section(store: Store, findings: Findings) -> str:
    """Return the paper's section of the report page."""
    card = paths.experiments() / findings.paper / "README.md"
    return page.section(
        findings.paper,
        findings.rows,
        findings.targets,
        findings.comparisons,
        [f for f, _ in _figures(store, findings) if f.path.is_file()],
        list(findings.runs.values()),
        card.read_text(encoding="utf-8") if card.is_file() else "",
        audit.audit(card.parent / "printed"),
    )


def write_page(store: Store) -> Path:
    """Put the sections at hand together to the report page; return its path."""
    path = store.root / "report" / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _page(store))
    return path


def _page(store: Store) -> str:
    names = dict.fromkeys(e.partition("/")[0] for e in compose.available("experiment"))
    papers: dict[str, tuple[str, str | None]] = {}
    summaries: list[dict[str, str]] = []
    summary = store.root / "tables" / "summary.csv"
    spent = (
        {(r["paper"], r["tier"], r["hardware"]): r["seconds"] for r in _csv(summary)}
        if summary.is_file()
        else {}
    )
    for paper in names:
        card = paths.experiments() / paper / "README.md"
        made = store.root / "report" / paper / "section.html"
        verdicts = store.root / "tables" / paper / "verdicts.csv"
        text = made.read_text(encoding="utf-8") if made.is_file() and verdicts.is_file() else None
        title = page.title_of(card.read_text(encoding="utf-8")) if card.is_file() else ""
        if text is not None or card.is_file():  # benchmarks are no paper; they stand here where they have run
            papers[paper] = (title, text)
        if text is not None:
            seconds = {(t, h): s for (p, t, h), s in spent.items() if p == paper}
            summaries += page.front_rows(verdicts.read_text(encoding="utf-8"), seconds)
    return page.index(papers, summaries)


def write(
    store: Store, paper: str, *, console: Console, show_tiers: set[str] | None = None, again: bool = True
) -> None:
    """Write the tables and figures of one paper and its rows of ``summary.csv``, and show its verdicts.

    show_tiers: whose verdicts are shown; None: of all tiers; an empty set shows nothing.
    again: write them also when nothing that they rest on has changed since they were written.
    """
    store.check_writable()
    root = store.root / "tables"
    stamp, now = root / paper / ".stamp", _stamp(store, paper)
    if again or not stamp.is_file() or stamp.read_text(encoding="utf-8") != now:
        stamp.unlink(missing_ok=True)
        findings = gather(store, paper)
        tables.write(root, files(findings))
        with FileLock(root / ".summary.lock"):  # another paper's report may be writing its rows
            tables.write(root, {"summary.csv": _summary(root, findings)})
        _draw(store, findings)
        tables.write(store.root / "report", {f"{paper}/section.html": _section(store, findings)})
        write_atomically(stamp, now)
    if show_tiers is not None and not show_tiers:
        return
    _show(root, paper, console, show_tiers)
    folder = store.root / "report" / paper
    figures = len(list(folder.glob("*.png"))) if folder.is_dir() else 0
    console.print(f"tables in {root / paper}, {figures} figures in {folder}", soft_wrap=True, highlight=False)


def _stamp(store: Store, paper: str) -> str:
    """Return a hash of all that the tables and figures of a paper rest on."""
    runs = [(s.run_id, s.state, s.result_sha256) for s in store.statuses(paper)]
    readers = [f"{n}.py" for n in provenance.READERS]
    sources = [paths.PACKAGE / "papers" / paper / n for n in readers]
    sources += [*(paths.PACKAGE / "harness").glob("*.py"), *(paths.experiments() / paper).rglob("*")]
    sources += [*paths.conf().glob("*/*.yaml")]
    texts = [p.read_text(encoding="utf-8") for p in sorted(sources) if p.is_file()]
    return provenance.digest([runs, texts])


def differences(store: Store, paper: str) -> list[str]:
    """Return what of a paper's published tables the run folders do not bear out."""
    findings = gather(store, paper)
    root = store.root / "tables"
    made = files(findings)
    stray = [p for p in (root / paper).glob("[!.]*") if f"{paper}/{p.name}" not in made]
    found = [f"{p}: no run at hand stands behind it; delete it" for p in stray]
    found += tables.differences(root, {**made, "summary.csv": _summary(root, findings)})
    shown = {f"{paper}/section.html": _section(store, findings), "index.html": _page(store)}
    return found + tables.differences(store.root / "report", shown)


def accept(store: Store, paper: str, reason: str, tier: str | None) -> int:
    """Accept the present rows of a paper (of one tier, when given), and renew the README's table."""
    store.check_writable()
    findings = gather(store, paper)
    rows = _rows(findings, tier)
    if not rows:
        raise UserError(
            f"{paper} has no runs{f' at tier {tier}' if tier else ''} to accept; reproduce it first"
        )
    unfit = [r for r in rows if r.verdict in ("not-run", "failed")]
    if unfit:
        first = unfit[0]
        raise UserError(
            f"{first.experiment} {first.target} is {first.verdict} ({first.reason}); nothing was accepted"
        )
    root = store.root / "accepted"
    count = accepted.accept(root, rows, reason, provenance.git_state()["sha"], findings.headline)
    renew_readme(store)
    return count


def renew_readme(store: Store) -> None:
    """Write the README's verdict table from the accepted values, where the store is the checkout's own."""
    readme, root = paths.CHECKOUT / "README.md", store.root / "accepted"
    if readme.is_file() and root == paths.CHECKOUT / "results" / "accepted":
        text = accepted.with_table(readme.read_text(encoding="utf-8"), accepted.readme_table(root))
        readme.write_text(text, encoding="utf-8")


def regressions(store: Store, paper: str, scopes: Collection[tuple[str, str, str]]) -> tuple[list[str], int]:
    """Return what has moved against the accepted values, and how many headline rows were compared.

    scopes: (experiment, tier, hardware) of what was rerun; rows of the rest are not compared.
    """
    findings = gather(store, paper)
    at = {(tier, hardware) for _, tier, hardware in scopes}
    rows = [r for r in findings.rows if (r.tier, r.hardware) in at]
    reran = [r for r in rows if (r.experiment, r.tier, r.hardware) in scopes]
    watched = [r for r in reran if (r.experiment, r.target) in findings.headline and r.verdict != "reduced"]
    root = store.root / "accepted"
    return [
        *accepted.dropped(root, rows, findings.headline),
        *accepted.compare(root, reran, findings.headline),
    ], len(watched)


def watches(store: Store, node: Mapping[str, Any], run: Run) -> bool:
    """Tell whether the gate has accepted headlines to compare with at the tier and hardware class of `run`."""
    known = accepted.load(store.root / "accepted", run.paper)
    printed = paths.experiments() / run.paper / "printed"
    headline = [t for t in load_targets(run.experiment, node["targets"], printed) if t.headline]
    return any(f"{t.experiment}:{t.id}:{run.tier}:{run.hardware['name']}" in known for t in headline)


def accepted_papers(store: Store, tier: str | None) -> list[str]:
    """Return the papers that have accepted values (at `tier`, when given): those the gate must see."""
    root = store.root / "accepted"
    stems = sorted(p.stem for p in root.glob("*.json"))
    return [p for p in stems if any(tier in (None, k.split(":")[-2]) for k in accepted.load(root, p))]


def _rows(findings: Findings, tier: str | None) -> list[Row]:
    return [r for r in findings.rows if tier is None or r.tier == tier]


def _summary(root: Path, findings: Findings) -> str:
    """Return ``summary.csv`` with this paper's rows renewed and the other papers' as they stand."""
    path = root / "summary.csv"
    rows: list[Mapping[str, object]] = []
    if path.is_file():
        rows += [r for r in _csv(path) if r["paper"] != findings.paper]
    rows += tables.summary_rows(findings.rows, findings.seconds)
    return tables.summary_csv(
        sorted(rows, key=lambda r: (str(r["paper"]), str(r["tier"]), str(r["hardware"])))
    )


def _figures(store: Store, findings: Findings) -> list[tuple[page.Figure, partial[Any]]]:
    """Return every figure with the function that draws it, tier by tier: no figure mixes tiers or hardware."""
    folder = store.root / "report" / findings.paper
    found = []
    for experiment, data in findings.data.items():
        for node in findings.figures[experiment]:
            draw: partial[Any] = compose.instantiate({**node, "_partial_": True})
            said = (inspect.getdoc(draw.func) or "").partition("\n")[0]
            for tier, hardware in sorted(set(zip(data["tier"], data["hardware"]))):
                name = f"{experiment.partition('/')[2]}-{draw.func.__name__}-{tier}-{hardware}.png"
                path = folder / name.replace("/", "-")
                found.append((page.Figure(path, experiment, tier, hardware, said), draw))
    return found


def _draw(store: Store, findings: Findings) -> None:
    """Draw the figures of every experiment, and remove those that no experiment draws any more."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder = store.root / "report" / findings.paper
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    for figure, draw in _figures(store, findings):
        data = findings.data[figure.experiment]
        here = (data["tier"] == figure.tier) & (data["hardware"] == figure.hardware)
        drawn = draw(data[here])
        drawn.savefig(figure.path, dpi=140, bbox_inches="tight", metadata={"Software": None})
        pyplot.close(drawn)


def _show(root: Path, paper: str, console: Console, tiers: set[str] | None) -> None:
    """Print a paper's verdicts as they stand in its tables."""
    wide = console if console.is_terminal else Console(width=200)
    table = Table("verdict", "experiment", "target", "ours", "paper", "why", title=paper, box=None)
    for row in _csv(root / paper / "verdicts.csv"):
        if tiers is None or row["tier"] in tiers:
            ours, printed = (f"{float(row[k]):.4g}" if row[k] else "" for k in ("ours", "paper_value"))
            table.add_row(row["verdict"], row["experiment"], row["target"], ours, printed, row["reason"])
    wide.print(table)
    for row in _csv(root / "summary.csv"):
        if row["paper"] == paper and (tiers is None or row["tier"] in tiers):
            claims = f"{row['claims_hold']} of {row['claims_total']} claims hold, {row['claims_violated']} violated"
            values = f"{row['values_reproduced']} of {row['values_total']} values reproduced"
            rest = f"{row['blocked']} blocked, {row['failed']} failed, {row['seconds']} s"
            wide.print(
                f"{paper}, {row['tier']}, {row['hardware']}: {claims}; {values}; {rest}", highlight=False
            )


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
