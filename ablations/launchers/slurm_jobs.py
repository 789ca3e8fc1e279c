"""Submits cells to Slurm: the options of the launcher, the jobs made of cells, and the call of sbatch."""

from __future__ import annotations

import io
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ablations.launchers import environment
from ablations.launchers.sbatch import check_gpus, check_text, from_environment, read_options
from ablations.launchers.task import Task
from ablations.worker import Job
from unigrpo.errors import ConfigError
from unigrpo.registry import nearest

#: A notice up to this many seconds early still means the time limit.
_EARLY = 60
#: Resource -> its smallest allowed value.
_LEAST = {"minutes": 1, "mem_gb": 0, "cpus": 1, "gpus": 0, "nodes": 1, "pack": 1}
#: Character that must not be in a path -> why.
_EXPANDED = {
    "%": "Slurm puts the number of the job, and the like, for what begins with it",
    "\\": "Slurm takes it for the sign that hides what follows",
    os.pathsep: "in PYTHONPATH it parts two folders, and the jobs would not find their code",
}


@dataclass(frozen=True)
class Resources:
    """Resources of one job; all jobs of an array have the same."""

    minutes: int
    mem_gb: float
    cpus: int
    gpus: int
    nodes: int
    pack: int


@dataclass(frozen=True)
class SlurmJobs:
    """The options of the launcher, and the jobs that it makes of cells."""

    minutes: int = 240
    """Time limit of a job; a cell that needs longer continues in the next one."""
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
        """Check the options.

        Raises:
            ConfigError: an option is not possible.
        """
        options = read_options(self.sbatch)
        for glob, changes in self.special.items():
            for name in changes:
                if name not in _LEAST:
                    raise ConfigError(f"launcher.special.{glob}: unknown resource {name!r}{nearest(name, _LEAST)}")
        for changes in ({}, *self.special.values()):
            resources = self._resources(changes)
            check_gpus(options, resources.gpus)
            if resources.mem_gb and (other := {"mem-per-cpu", "mem-per-gpu"} & options.keys()):
                raise ConfigError(f"launcher.sbatch.{min(other)}: launcher.mem_gb={resources.mem_gb:g} says it already")
        for name in ("partition", "account", "qos", "constraint"):
            check_text(f"launcher.{name}", getattr(self, name))
        for name in ("max_parallel", "max_queued"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"launcher.{name}={value}: expected 0 or more")

    def check(self, root: Path, names: Sequence[str]) -> None:
        """Check that Slurm can run the cells ``names`` (arm:seed) in ``root`` as the command says.

        Raises:
            ConfigError: it cannot.
        """
        where = str(root.resolve())
        for sign, why in _EXPANDED.items():
            if sign in where:
                raise ConfigError(f"root={root}: launcher=slurm cannot use {where}, for its {sign!r}: {why}; rename it")
        if not where.isprintable():
            raise ConfigError(f"root={str(root)!r}: launcher=slurm cannot use a path with signs that cannot be printed")
        for glob in self.special:
            if not any(_matches(name, glob) for name in names):
                raise ConfigError(f"launcher.special.{glob}: no cell is called so{nearest(glob, names)}")
        environment.check_clusters(os.environ)

    def chunks(self, jobs: Sequence[Job], limit: int) -> list[tuple[Resources, list[tuple[Job, ...]]]]:
        """Arrays of at most ``limit`` tasks with equal resources, each task with its cells; the order is kept."""
        alike: dict[Resources, list[Job]] = {}
        for job in jobs:
            alike.setdefault(self.resources(job.name), []).append(job)
        arrays = []
        for resources, same in alike.items():
            tasks = [tuple(task) for task in _split(same, resources.pack)]
            arrays += [(resources, part) for part in _split(tasks, limit)]
        return arrays

    def parameters(self, resources: Resources, code: Path, after: str) -> dict[str, Any]:
        """The parameters of submitit's Slurm executor.

        Args:
            resources: of each job.
            code: the snapshot that the jobs run.
            after: an array that must have ended before this one starts; empty for none.
        """
        several = resources.nodes > 1 or resources.gpus > 1
        cpus = resources.cpus * resources.pack
        options = {name: value for name, value in read_options(self.sbatch).items() if value is not False}
        asked = {
            "job_name": options.pop("job-name", "unigrpo"),
            "time": resources.minutes,
            # Without a value Slurm would give all memory.
            "mem": f"{max(1, int(resources.mem_gb * 1024))}MB" if resources.mem_gb else None,
            "nodes": resources.nodes,
            "ntasks_per_node": max(1, resources.gpus) if several else 1,
            "cpus_per_task": cpus,
            "gpus_per_node": options.pop("gpus-per-node", resources.gpus or None),
            "partition": self.partition or None,
            "account": self.account or None,
            "qos": self.qos or None,
            "constraint": self.constraint or None,
            "dependency": f"afterany:{after}" if after else None,
            "array_parallelism": self.max_parallel or 1_000_000,
            "signal_delay_s": self.signal_s,
            # If one process of a cell ends, all must.  srun of Slurm 22.05 to 23.02 takes one core if not told.
            # --export=ALL: srun passes on the environment of the script, which sets all that counts.
            "srun_args": [f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1", "--wait=60", "--export=ALL"],
            "setup": [
                *self.setup,
                # The current folder must not hide the snapshot.
                "export PYTHONSAFEPATH=1",
                f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
                *(f"export {name}={value}" for name, value in environment.THREADS.items()),
            ],
            "additional_parameters": {"requeue": True, **options},
        }
        # submitit sets a wckey by default, which the cluster may not know.
        return {"wckey": None} | {name: value for name, value in asked.items() if value is not None}

    def python(self) -> str:
        """The command that starts Python in a job."""
        return f"{self.container} {shlex.quote(sys.executable)}".strip()

    def task(self, resources: Resources, jobs: tuple[Job, ...]) -> Task:
        """The work of one job."""
        return Task(jobs, resources.gpus * resources.nodes, resources.minutes * 60 - self.signal_s - _EARLY)

    def resources(self, name: str) -> Resources:
        """The resources of the cell ``name`` (arm:seed).

        Raises:
            ConfigError: the values of several globs of ``special`` do not fit together.
        """
        changed: dict[str, float] = {}
        for glob, changes in self.special.items():
            if _matches(name, glob):
                changed |= changes
        return self._resources(changed)

    def from_environment(self) -> tuple[dict[str, str], dict[str, str]]:
        """Variables of sbatch that are passed on, and those that are not, as they would override the command."""
        said = set(read_options(self.sbatch))
        for changes in ({}, *self.special.values()):
            asked = self.parameters(self._resources(changes), Path(), "")
            said |= {name.replace("_", "-") for name, value in asked.items() if value is not None}
        return from_environment(os.environ, said)

    def submit(
        self, folder: Path, resources: Resources, code: Path, work: Sequence[Callable[[], None]], after: str = ""
    ) -> list[str]:
        """Submit an array with a job for each of ``work``; returns the ids of the jobs.

        Args:
            folder: for the sbatch file, what is pickled, and logs.
            resources: of each job.
            code: the snapshot that the jobs run.
            work: what the jobs call.
            after: an array that must have ended before this one starts; empty for none.

        Raises:
            submitit.core.utils.FailedJobError: sbatch fails.
        """
        from submitit import SlurmExecutor

        # The cells decide how often they continue, as they know their progress.
        executor = SlurmExecutor(folder, max_num_timeout=sys.maxsize, python=self.python())
        executor.update_parameters(**self.parameters(resources, code, after))
        passed = environment.of_slurm(os.environ) | self.from_environment()[0]
        # submitit prints sbatch's errors, which are reported by the caller.
        with environment.changed(passed), redirect_stderr(io.StringIO()):
            return [job.job_id for job in executor.submit_array(work)]

    def _resources(self, changes: Mapping[str, float]) -> Resources:
        """The resources with ``changes``."""
        asked = {name: changes.get(name, getattr(self, name)) for name in _LEAST}
        for name, value in asked.items():
            least, whole = _LEAST[name], name != "mem_gb"
            if not math.isfinite(value) or value < least or (whole and value != int(value)):
                expected = f"{'a whole number, ' if whole and value >= least else ''}{least} or more"
                raise ConfigError(f"launcher.{name}={value}: expected {expected}")
        resources = Resources(**{name: value if name == "mem_gb" else int(value) for name, value in asked.items()})
        if resources.pack > 1 and (resources.nodes > 1 or resources.gpus > 1):
            raise ConfigError(f"launcher.pack={resources.pack}: cells share at most one GPU; set nodes=1 and gpus=1")
        if not 1 <= self.signal_s < (limit := resources.minutes * 60):
            raise ConfigError(f"launcher.signal_s={self.signal_s}: expected 1 or more, below the limit of {limit} s")
        return resources


def _matches(name: str, glob: str) -> bool:
    """Whether ``glob`` matches the cell ``name``; an equal text matches too, as names may contain glob characters."""
    return name == glob or fnmatchcase(name, glob)


def _split(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
