"""Launcher ``local``: a process for every cell, on this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver as forkserver
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from ablations.doctor import Check
from ablations.launchers import environment
from ablations.launchers.end import End
from ablations.launchers.environment import of_worker
from ablations.worker import Job, run_in_process
from unigrpo.errors import ConfigError
from unigrpo.registry import register

#: Signals that the workers' server process ignores.
_FOR_THE_SESSION = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


@register("launcher", "local", source="own pool; submitit's local executor has no limit on parallel jobs")
@dataclass(frozen=True)
class Local:
    """A pool of processes, one thread and at most one GPU each."""

    workers: int = 0
    """Cells at a time; 0 means one for each visible GPU, or without GPUs one for each usable CPU core."""

    def __post_init__(self) -> None:
        """Check the number of workers.

        Raises:
            ConfigError: it is negative.
        """
        if self.workers < 0:
            raise ConfigError(f"launcher.workers={self.workers}: expected 0 or more")

    def session(self, root: Path, runner: str, interrupted: Callable[[], bool]) -> LocalSession:
        """Start the server that workers are forked from."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([runner.partition(":")[0], "ablations.worker"])
        _start_server()
        gpus: list[str | None] = [*visible_gpus()] or [None]
        capacity = self.capacity()
        share = min(1.0, len(visible_gpus()) / capacity)
        return LocalSession(context, [gpus[i % len(gpus)] for i in range(capacity)], share)

    def capacity(self) -> int:
        """How many cells run at a time."""
        return self.workers or len(visible_gpus()) or usable_cores()

    def describe(self) -> str:
        """How many cells run at a time, and on what."""
        gpus = len(visible_gpus())
        return f"local: {self.capacity()} at a time, {f'{gpus} GPUs' if gpus else 'on CPU'}"

    def check(self, root: Path, names: Sequence[str]) -> None:
        """There is nothing to check."""

    def notes(self) -> list[str]:
        """No notes."""
        return []

    def checks(self, root: Path, runner: str) -> Iterator[Check]:
        """The hardware that cells run on."""
        yield Check("launcher", self.describe())

    def preview(self, root: Path, jobs: Sequence[Job]) -> str:
        """Nothing is submitted."""
        return ""

    def on_interrupt(self) -> str:
        """What Ctrl-C does."""
        return "stopping: running cells write a checkpoint; Ctrl-C again kills them"


@dataclass
class LocalSession:
    """A pool of worker processes; ``slots`` holds the GPU of each free slot (None on a CPU)."""

    context: multiprocessing.context.ForkServerContext
    slots: list[str | None]
    share: float = 0.0
    """GPUs per slot."""
    jobs: dict[ForkServerProcess, tuple[Job, str | None]] = field(default_factory=dict)
    stopping: bool = False

    def free_slots(self) -> int:
        """Slots without a worker."""
        return len(self.slots)

    def start(self, job: Job) -> None:
        """Fork a worker for the job."""
        gpu = self.slots.pop(0)
        variables = of_worker(os.environ) | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        job = replace(job, gpus=self.share)
        process = self.context.Process(target=run_in_process, args=(job, variables), name=job.cell_id)
        _start_server()  # again, if it was killed
        process.start()
        self.jobs[process] = (job, gpu)

    def running(self) -> int:
        """Workers that are alive or not yet collected."""
        return len(self.jobs)

    def poll(self, seconds: float) -> list[tuple[Job, End]]:
        """Collect workers that ended."""
        if not self.jobs:
            time.sleep(seconds)
            return []
        if self.stopping:  # again, as a worker that was just forked still ignores signals, like the server
            self._signal(signal.SIGTERM)
        wait([process.sentinel for process in self.jobs], timeout=seconds)
        ended = []
        for process in [process for process in self.jobs if process.exitcode is not None]:
            job, gpu = self.jobs.pop(process)
            self.slots.append(gpu)
            ended.append((job, End.of_exit(process.exitcode or 0, process.pid or 0)))
            process.close()
        return ended

    def detach(self) -> str:
        """Stop all workers, as none outlives the command."""
        self.stop()
        return ""

    def stop(self) -> None:
        """Send SIGTERM from now on; workers then write a checkpoint and end."""
        self.stopping = True

    def kill(self) -> None:
        """Send SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for process in self.jobs:
            if process.exitcode is None and process.pid is not None:
                os.kill(process.pid, number)

    def __enter__(self) -> LocalSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for process in self.jobs:
            process.join()


def _start_server() -> None:
    """Start the process that workers are forked from, unless it is running.

    Raises:
        ConfigError: it cannot be reached.
    """
    # Libraries read these variables when they are imported, which happens in the server.  The server must import from
    # the same folders as this process; Python's -c would search the current folder first.
    folders = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    variables = of_worker(os.environ) | {"PYTHONSAFEPATH": "1", "PYTHONPATH": folders}
    # Ctrl-C, a closing terminal, and signals that Slurm sends to all processes of a job must not end the server; this
    # process decides what they mean for the workers.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _FOR_THE_SESSION}
    try:
        with environment.changed(variables):
            forkserver.ensure_running()
    except OSError as error:
        where = tempfile.gettempdir()
        raise ConfigError(f"launcher=local: {error}; its workers are reached by way of TMPDIR={where}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Identifiers of the GPUs that this process may use, without importing torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [gpu.strip() for gpu in listed.split(",") if gpu.strip() and gpu.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    # A GPU's own line starts with it; those of its MIG instances are indented.
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in answer.stdout.splitlines()))]
