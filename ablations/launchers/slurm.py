"""Launcher ``slurm``: a Slurm job for every cell, in arrays."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ablations.doctor import Check
from ablations.launchers.queue import array_limit
from ablations.launchers.slurm_session import SlurmSession
from ablations.launchers.task import Task
from ablations.worker import Job
from unigrpo.errors import ConfigError
from unigrpo.registry import nearest, register

#: A notice that comes up to this many seconds before it is due means a time-out all the same.
_EARLY = 60
#: Variables of Slurm's that are the user's to set, in a job too; and those that begin with SBATCH_.
_OF_THE_USER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")


@dataclass(frozen=True)
class Resources:
    """What one job of the cluster takes; jobs of one array take the same."""

    minutes: int
    mem_gb: float
    cpus: int
    gpus: int
    nodes: int
    pack: int


@register("launcher", "slurm", source="submitit's AutoExecutor; arrays, requeue and status as README.md says")
@dataclass(frozen=True)
class Slurm:
    """Cells as jobs of a Slurm cluster; the command may end, the jobs go on."""

    minutes: int = 240
    """Time limit of an attempt; a cell that needs longer goes on in the next one."""
    mem_gb: float = 0.0
    """Memory per node; 0 leaves it to the partition."""
    cpus: int = 2
    """CPU cores per process."""
    gpus: int = 1
    """GPUs per node, one process each."""
    nodes: int = 1
    """Nodes per cell."""
    pack: int = 1
    """Cells that run side by side in one job, for cells that leave a GPU idle."""
    max_parallel: int = 0
    """Jobs at a time; 0 leaves it to the cluster."""
    max_queued: int = 0
    """Jobs that wait or run at a time, where a site lets one submit only so many; 0 is no limit."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    signal_s: int = 120
    """Seconds before the time limit at which a cell is told to write its checkpoint."""
    setup: tuple[str, ...] = ()
    """Shell commands before the start, such as ``module load cuda``."""
    container: str = ""
    """What to put before ``python``, such as ``apptainer exec --nv image.sif``."""
    sbatch: Mapping[str, str] = field(default_factory=dict)
    """Any other options of sbatch by name, ``true`` for one without a value: ``{nice: 100, exclusive: true}``."""
    special: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Other resources for some cells, by a glob on arm:seed: ``{"untouched:*": {minutes: 20}}``."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one of them cannot be asked for.
        """
        known = [f.name for f in fields(Resources)]
        for glob, changes in self.special.items():
            for name in changes:
                if name not in known:
                    raise ConfigError(f"launcher.special.{glob}: unknown resource {name!r}{nearest(name, known)}")
        for changes in ({}, *self.special.values()):
            self._resources(changes)
        for name in ("max_parallel", "max_queued"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"launcher.{name}={value}: expected 0 or more")

    def session(self, root: Path, runner: str, interrupted: Callable[[], bool]) -> SlurmSession:
        """Open a session; nothing is submitted yet."""
        return SlurmSession(self, root, runner)

    def places(self) -> int:
        """How many cells run at a time, 0 where that is for the cluster to say."""
        return self.max_parallel * self.pack

    def describe(self) -> str:
        """Say what is asked for."""
        asked = f"{self.nodes} x {self.gpus} GPUs" if self.nodes > 1 else f"{self.gpus} GPUs"
        packed = f", {self.pack} cells a job" if self.pack > 1 else ""
        where = f" on partition {self.partition}" if self.partition else ""
        return f"slurm: jobs of {asked}, {self.cpus} cores, {self.minutes} min{packed}{where}"

    def on_interrupt(self) -> str:
        """Say what Ctrl-C does."""
        return "detaching: what was submitted stays with Slurm"

    def checks(self, root: Path, runner: str) -> Iterator[Check]:
        """What is amiss on the cluster."""
        from ablations.launchers.slurm_doctor import checks_of_slurm

        return checks_of_slurm(self, root, runner)

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

    def chunks(self, jobs: Sequence[Job], limit: int) -> list[tuple[Resources, list[tuple[Job, ...]]]]:
        """Arrays of at most ``limit`` tasks that take the same resources, each task with its cells; order is kept."""
        alike: dict[Resources, list[Job]] = {}
        for job in jobs:
            alike.setdefault(self.resources(job.name), []).append(job)
        arrays = []
        for resources, same in alike.items():
            tasks = [tuple(task) for task in _split(same, resources.pack)]
            arrays += [(resources, part) for part in _split(tasks, limit)]
        return arrays

    def parameters(self, resources: Resources, code: Path, after: str) -> dict[str, Any]:
        """What submitit's Slurm executor is told.

        Args:
            resources: of each job.
            code: the snapshot that the jobs run.
            after: an array that must have ended before this one starts; empty for none.
        """
        several = resources.nodes > 1 or resources.gpus > 1
        cpus = resources.cpus * resources.pack
        asked = {
            "job_name": "unigrpo",
            "time": resources.minutes,
            "mem": f"{int(resources.mem_gb * 1024)}MB" if resources.mem_gb else None,
            "nodes": resources.nodes,
            "ntasks_per_node": max(1, resources.gpus) if several else 1,
            "cpus_per_task": cpus,
            "gpus_per_node": resources.gpus or None,
            "partition": self.partition or None,
            "account": self.account or None,
            "qos": self.qos or None,
            "constraint": self.constraint or None,
            "dependency": f"afterany:{after}" if after else None,
            "array_parallelism": self.max_parallel or 1_000_000,
            "signal_delay_s": self.signal_s,
            # A cell's processes live and die together.  From Slurm 22.05 to 23.02 srun asks for one core if not told.
            "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1", "--wait=60"],
            "setup": [
                *self.setup,
                # The present folder must not hide the snapshot.
                "export PYTHONSAFEPATH=1",
                f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
                "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}",
            ],
            "additional_parameters": {
                "requeue": True,
                **{name: True if value == "true" else value for name, value in self.sbatch.items()},
            },
        }
        return {name: value for name, value in asked.items() if value is not None}

    def python(self) -> str:
        """The command that starts Python in a job."""
        return f"{self.container} {shlex.quote(sys.executable)}".strip()

    def task(self, resources: Resources, jobs: tuple[Job, ...]) -> Task:
        """The work of one job."""
        return Task(jobs, resources.gpus * resources.nodes, resources.minutes * 60 - self.signal_s - _EARLY)

    def resources(self, name: str) -> Resources:
        """What the cell ``name`` (arm:seed) takes.

        Raises:
            ConfigError: what several globs of ``special`` ask for it does not go together.
        """
        changed: dict[str, float] = {}
        for glob, changes in self.special.items():
            if fnmatchcase(name, glob):
                changed |= changes
        return self._resources(changed)

    def submit(
        self, folder: Path, resources: Resources, code: Path, work: Sequence[Callable[[], None]], after: str = ""
    ) -> list[str]:
        """Submit an array, a job for each of ``work``; the names of its jobs.

        Args:
            folder: for the sbatch file, what is pickled, and logs.
            resources: of each job.
            code: the snapshot that the jobs run.
            work: what they do.
            after: an array that must have ended before this one starts; empty for none.

        Raises:
            submitit.core.utils.FailedJobError: sbatch fails.
        """
        import submitit

        # How often a cell may go on is for the cells to say, who know what they gained.
        options = {"slurm_max_num_timeout": sys.maxsize, "slurm_python": self.python()}
        executor = submitit.AutoExecutor(folder, cluster="slurm", **options)
        parameters = self.parameters(resources, code, after)
        executor.update_parameters(**{f"slurm_{name}": value for name, value in parameters.items()})
        with _outside_of_jobs(), redirect_stderr(io.StringIO()):  # submitit repeats what is said of a refusal
            return [job.job_id for job in executor.submit_array(work)]

    def _resources(self, changes: Mapping[str, float]) -> Resources:
        """What is asked for, with ``changes``."""
        asked = {f.name: changes.get(f.name, getattr(self, f.name)) for f in fields(Resources)}
        resources = Resources(**{name: value if name == "mem_gb" else int(value) for name, value in asked.items()})
        for name, least in {"minutes": 1, "mem_gb": 0, "cpus": 1, "gpus": 0, "nodes": 1, "pack": 1}.items():
            if (value := getattr(resources, name)) < least:
                raise ConfigError(f"launcher.{name}={value}: expected {least} or more")
        if resources.pack > 1 and (resources.nodes > 1 or resources.gpus > 1):
            raise ConfigError(f"launcher.pack={resources.pack}: cells share at most one GPU; set nodes=1 and gpus=1")
        if not 1 <= self.signal_s < (limit := resources.minutes * 60):
            raise ConfigError(f"launcher.signal_s={self.signal_s}: expected 1 or more, below the limit of {limit} s")
        return resources


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide from sbatch the job that this process may be part of: it would pass on what that one has and is."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    kept = {name: os.environ[name] for name in os.environ if name in _OF_THE_USER or name.startswith("SBATCH_")}
    with clean_env():
        os.environ.update(kept)
        yield


def _split(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
