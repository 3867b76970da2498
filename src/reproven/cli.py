"""The command line: Hydra's entry point for runs, and sub-commands for what surrounds them.

``reproven experiment=zero_one/official method=gcn tier=smoke`` composes and runs; ``-m`` sweeps.
``reproven <command> --help`` tells of the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from omegaconf import DictConfig

from reproven.harness import compose, paths
from reproven.harness.errors import Blocked, UserError, did_you_mean
from reproven.harness.executor import Interrupted, RunsFailed, execute, raise_on_failure
from reproven.harness.plan import Run, expand, plan
from reproven.harness.store import Store
from reproven.harness.supervisor import start_server

COMMANDS = {
    "reproduce": "run a paper or an experiment (all papers when none is named), then report",
    "plan": "say what would run, what is done or blocked and why, and how long it will take",
    "status": "list runs and their states",
    "report": "write tables and figures from the runs at hand",
    "verify": "recompute every table from run folders and compare",
    "accept": "write the present values to results/accepted/ (a reviewed diff)",
    "regress": "rerun the headline subset and compare with the accepted values; exit 1 when one moved",
    "audit": "check the papers' printed numbers against themselves, from the printed tables alone",
    "contract": "ask a method of your own what every method answers: --config-dir <folder> method= experiment=",
    "data": "fetch and verify data ahead of the runs; `data list` says what there is",
    "bench": "run the benchmarks: ratios against peers measured in the same run",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; errors of the user's end as one line and a non-zero status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
    except (UserError, Blocked) as error:
        status = _complain(str(error), 2)
    except RunsFailed as error:
        status = _complain(str(error), 1)
    except (Interrupted, KeyboardInterrupt) as error:
        status = _complain(str(error) or "stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output has gone: not an error
        status = 0
    sys.exit(status)


def _complain(message: str, status: int) -> int:
    print(f"reproven: {message}", file=sys.stderr)
    return status


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else "--help"
    if first in ("--help", "-h", "help") and len(arguments) <= 1:
        print(_usage())
        return 0
    if first == "--version":
        from reproven import __version__

        print(__version__)
        return 0
    if first in COMMANDS:
        from reproven import commands

        options = _parser(first).parse_intermixed_args(arguments[1:])
        with compose.hydra_ready(options.config_dir):
            return commands.TABLE[first](options)
    if not first.startswith("-") and "=" not in first:
        raise UserError(f"no command {first!r}{did_you_mean(first, COMMANDS)}")
    return _hydra(arguments)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    first = "usage: reproven experiment=<paper>/<name> [method= dataset= hardware= tier= seed=] [-m]"
    return "\n".join([first, "       reproven <command> [...]", "", *lines])


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"reproven {command}", description=COMMANDS[command])
    named = "`list`, papers, experiments or cards" if command == "data" else "papers, experiments"
    help_text = f"{named}, and overrides such as tier=smoke hardware=cuda jobs=1"
    parser.add_argument("words", nargs="*", metavar="word", help=help_text)
    parser.add_argument(
        "--config-dir", help="a folder of your own with method/, dataset/ or experiment/ files"
    )
    if command == "accept":
        parser.add_argument("--reason", required=True, help="why the values may move; kept beside them")
    if command == "regress":
        within = "of the cpu tier, rerun the experiments that take at most so many seconds"
        parser.add_argument("--within", type=float, metavar="SECONDS", help=within)
    if command in ("reproduce", "bench", "regress"):
        parser.add_argument("--no-report", action="store_true", help="write no tables")
    return parser


def _hydra(arguments: list[str]) -> int:
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are, and leave as one line
    start_server()  # it imports torch while we compose
    entry = hydra.main(version_base="1.3", config_path=str(paths.conf()), config_name="config")(_task)
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        entry()
    except (HydraException, OmegaConfBaseException) as error:
        GlobalHydra.instance().clear()
        with compose.hydra_ready(_config_dir(arguments)):
            raise UserError(compose.explain(error)) from None
    finally:
        sys.argv = before
    if _outcome:
        raise _outcome.pop()
    return 0


def _config_dir(arguments: Sequence[str]) -> str | None:
    """Return the user's own folder of groups, which Hydra reads by itself, for our error messages."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd")
    return parser.parse_known_args(arguments)[0].config_dir


_outcome: list[Exception] = []


def _task(_cfg: DictConfig) -> dict[str, int]:
    """Run what one composition means; every launcher calls this, so isolation holds under each."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    config = HydraConfig.get()
    try:
        return dict(run_all([list(config.overrides.task)]))
    except (UserError, RunsFailed, Interrupted) as error:
        if config.mode != RunMode.RUN:
            raise  # Hydra's sweeper collects it from wherever the job ran
        _outcome.append(error)  # raised once Hydra is out of the way, which prints a block of its own
        return {}


def run_all(jobs: Sequence[Sequence[str]]) -> Counter[str]:
    """Expand the overrides of each job, run all their runs isolated; RunsFailed when any ended badly."""
    runs: list[Run] = []
    settings: Mapping[str, Any] = {}
    for overrides in jobs:
        node, found = expand(overrides)
        if not found:
            tier = node["tier"]["name"]
            raise UserError(
                f"{node['name']} has no budget for tier {tier!r}{did_you_mean(tier, node['budgets'])}"
            )
        settings = node
        runs += found
    store = Store(paths.results(settings["results"]))
    counts = execute(plan(runs, store, retry=settings["retry"]), store, jobs=settings["jobs"])
    print(", ".join(f"{n} {state}" for state, n in sorted(counts.items())))
    raise_on_failure(counts)
    return counts
