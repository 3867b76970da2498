"""The launcher `isolated`: expands every job by the planner and schedules one process a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

# It has no settings of its own: how many runs go at a time is ``jobs=`` and the runs' own threads.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="isolated",
    node={"_target_": "hydra_plugins.reproven_isolated_launcher.IsolatedLauncher"},
    provider="reproven_isolated_launcher",
)


class IsolatedLauncher(Launcher):
    """Runs all jobs of a sweep through `harness.executor`, which isolates, watches and resumes each run."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from reproven import cli
        from reproven.harness.errors import UserError

        if not job_overrides:
            raise UserError(
                "the sweep expands to no job at all; name experiments, without glob(*) over folders"
            )
        error: Exception | None = None
        counts: Any = None
        try:
            counts = cli.run_all(job_overrides)
        except cli.RunsFailed as failed:
            error = failed
        status = JobStatus.FAILED if error else JobStatus.COMPLETED
        returned = []
        for index, overrides in enumerate(job_overrides, start=initial_job_idx):
            job = JobReturn(overrides=list(overrides), status=status)
            job.return_value = error or counts
            job.task_name = f"{index}"
            returned.append(job)
        return returned
