"""Launcher ``slurm``: a Slurm job for every cell, in arrays."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations.doctor import Check
from ablations.launchers.queue import array_limit
from ablations.launchers.slurm_doctor import checks_of_slurm
from ablations.launchers.slurm_jobs import SlurmJobs
from ablations.launchers.slurm_session import SlurmSession
from ablations.worker import Job
from unigrpo.registry import register


@register("launcher", "slurm", source="submitit's executor; arrays, requeue and status as README.md says")
@dataclass(frozen=True)
class Slurm(SlurmJobs):
    """Cells as jobs of a Slurm cluster; the command may end, the jobs go on."""

    def session(self, root: Path, runner: str, interrupted: Callable[[], bool]) -> SlurmSession:
        """Open a session; nothing is submitted yet."""
        return SlurmSession(self, root, runner)

    def capacity(self) -> int:
        """How many cells run at a time; 0 if the cluster decides."""
        return self.max_parallel * self.pack

    def describe(self) -> str:
        """The requested resources."""
        asked = f"{self.nodes} x {self.gpus} GPUs" if self.nodes > 1 else f"{self.gpus} GPUs"
        packed = f", {self.pack} cells a job" if self.pack > 1 else ""
        where = f" on partition {self.partition}" if self.partition else ""
        return f"slurm: jobs of {asked}, {self.cpus} cores, {self.minutes} min{packed}{where}"

    def notes(self) -> list[str]:
        """Variables of sbatch that take effect beside the command, and those that are ignored."""
        told = ("sbatch takes from the environment", "not from the environment, since the command says it")
        variables = (" ".join(map("=".join, part.items())) for part in self.from_environment())
        return [f"{what}: {found}" for what, found in zip(told, variables, strict=True) if found]

    def on_interrupt(self) -> str:
        """What Ctrl-C does."""
        return "detaching: what was submitted stays with Slurm"

    def checks(self, root: Path, runner: str) -> Iterator[Check]:
        """Checks of the environment and of the cluster."""
        yield from (Check("environment", note) for note in self.notes())
        yield from checks_of_slurm(self, root, runner)

    def preview(self, root: Path, jobs: Sequence[Job]) -> str:
        """The sbatch file of each array that ``jobs`` would make."""
        from submitit.slurm.slurm import _make_sbatch_string

        folder, code = root.resolve() / "slurm" / "BATCH", root.resolve() / "code" / "SNAPSHOT"
        texts = []
        for resources, chunk in self.chunks(jobs, array_limit()):
            count = {"map_count": len(chunk)} if len(chunk) > 1 else {}
            command = f"{self.python()} -u -m submitit.core._submit {shlex.quote(str(folder))}"
            texts.append(_make_sbatch_string(command, folder, **(self.parameters(resources, code, "") | count)))
        return "\n".join(texts)
