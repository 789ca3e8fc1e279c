"""The work of one Slurm job: it runs its cells side by side and answers the signals of Slurm.

Slurm announces the end of a job.  It sends SIGUSR2 before the time limit or at a preemption.  It sends SIGTERM at
``scancel``, or at a preemption on clusters that do not send SIGUSR2.  submitit requeues the job at once when SIGUSR2
arrives.  Here the requeue waits until every cell has written its checkpoint.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from ablations.cells import STALE, CellFolder, State
from ablations.launchers.batches import ends_of
from ablations.launchers.end import End
from ablations.launchers.environment import is_of_a_group
from ablations.launchers.local import Local
from ablations.launchers.queue import SlurmDown, ask
from ablations.worker import Job, Outcome, had_before, join_cell, run_logged, slurm_job
from unigrpo.errors import ConfigError
from unigrpo.io import write_json

#: Cause of the end of attempts without progress -> the message for a cell that is given up, and what to do.
_GIVEN_UP = {
    "timeout": ("its time limit came before a step was gained", "raise launcher.minutes"),
    "preempted": ("it was preempted before a step was gained", "use a partition where it is left alone"),
    "node_failure": ("Slurm broke it off too often before a step was gained", "use a partition where it is left alone"),
}


@dataclass(frozen=True)
class Task:
    """The work of one Slurm job; submitit pickles and calls it."""

    jobs: tuple[Job, ...]
    """Cells that run side by side."""
    gpus: int
    """Of the whole job, on all nodes."""
    promised_s: float
    """Guaranteed run time in seconds; a notice after it means that the time limit is near."""

    def __call__(self) -> None:
        """Run the cells and record how each ended.

        A job that continues later does not return: submitit requeues it and ends the process.
        """
        notice = Notice()
        # Several processes for one cell: the others follow the first.
        rank = _distributed(self.gpus > 0)
        alone = rank < 0
        if rank > 0:
            join_cell(self.jobs[0], notice.asked.is_set)
            return
        # Remove the ends that an earlier start of this same job wrote.
        _ends().unlink(missing_ok=True)
        for job in self.jobs:
            _wait_for_predecessor(CellFolder(job.folder, job.ended_job))
        ends = {job.cell_id: end for job in self.jobs if (end := _given_up(job))}
        ends |= self._run([job for job in self.jobs if job.cell_id not in ends], notice)
        if any(end.outcome is Outcome.FAILED for end in ends.values()) and not alone:
            _leave(ends)
            # The other processes of the cell wait for this one; its exit code makes srun end them.
            raise SystemExit(int(Outcome.FAILED))
        if notice.asked.is_set() and notice.is_forced():
            ends |= {job.cell_id: _refuse(job, notice.cause(self.promised_s)) for job in self._stuck(ends, notice)}
            if any(end.outcome is Outcome.STOPPED for end in ends.values()):
                notice.requeue()
        _leave(ends)

    def checkpoint(self) -> Any:
        """For submitit: the requeued job runs the same task."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self, jobs: Sequence[Job], notice: Notice) -> dict[str, End]:
        """Run cells to their ends or until a notice; a single cell in this process, several in one process each."""
        if not jobs:
            return {}
        if len(self.jobs) > 1:
            return self._packed(jobs, notice)
        (job,) = jobs
        return {job.cell_id: End(run_logged(replace(job, gpus=float(self.gpus)), notice.asked.is_set))}

    def _packed(self, jobs: Sequence[Job], notice: Notice) -> dict[str, End]:
        ends: dict[str, End] = {}
        first = jobs[0]
        root = first.folder.parent.parent
        with Local(workers=len(jobs)).session(root, first.runner, notice.asked.is_set) as session:
            session.share = self.gpus / len(jobs)
            for job in jobs:
                session.start(job)
            told = False
            while session.running():
                if notice.asked.is_set() and not told:
                    told = True
                    session.stop()
                ends |= {job.cell_id: end for job, end in session.poll(1.0)}
        return ends

    def _stuck(self, ends: dict[str, End], notice: Notice) -> list[Job]:
        """Stopped cells that are given up, as further attempts would make no progress."""
        cause = notice.cause(self.promised_s)
        stopped = [job for job in self.jobs if ends[job.cell_id].outcome is Outcome.STOPPED]
        for job in stopped:
            CellFolder(job.folder).died(cause, job=slurm_job()["job"])
        return [job for job in stopped if not CellFolder(job.folder).may_go_on(cause)]


class Notice:
    """Slurm's notice that the job is about to end; it is kept until the cells have written checkpoints."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._number = 0
        self._started = time.monotonic()
        self._requeue: Callable[[int, FrameType | None], Any] = lambda *_: None
        answer = signal.signal(signal.SIGUSR2, self._note)
        if callable(answer):
            self._requeue = answer
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self.asked.set()

    def is_forced(self) -> bool:
        """Whether the cluster ends the job, so that it must continue later; False after ``scancel`` by a user."""
        if self._number == signal.SIGUSR2:
            return True
        try:
            # Not by SLURM_JOB_ID: for the last task of an array it is the array's id, of which other tasks may run.
            answer = ask("scontrol", "show", "job", slurm_job()["job"])
        except (SlurmDown, ConfigError):
            return False
        return "JobState=RUNNING" in answer

    def cause(self, promised_s: float) -> str:
        """``timeout`` or ``preempted``."""
        return "timeout" if time.monotonic() - self._started >= promised_s else "preempted"

    def requeue(self) -> None:
        """Requeue the job; does not return."""
        self._requeue(signal.SIGUSR2, None)


def _leave(ends: Mapping[str, End]) -> None:
    """Write the ends of the cells beside the logs of this job; submitit's own result is a pickle."""
    write_json(_ends(), {cell_id: end.to_json() for cell_id, end in ends.items()})


def _ends() -> Path:
    from submitit import JobEnvironment

    return ends_of(JobEnvironment().paths.folder, slurm_job()["job"])


def _refuse(job: Job, cause: str) -> End:
    """Record that a cell is given up."""
    cell = CellFolder(job.folder)
    why, way_out = _GIVEN_UP[cause]
    if claim := cell.claim():
        claim.fail(cause, f"{why}; {way_out}, then rerun=failed", "", int(cell.last_row().get("step", 0)))
    return End(Outcome.FAILED)


def _given_up(job: Job) -> End | None:
    """The end of a cell that an earlier start of this job ran and that must not run again; None if it may run."""
    cell = CellFolder(job.folder)
    state = cell.state() if had_before(cell) else None
    if state is State.FAILED:
        return End(Outcome.FAILED)
    if state is State.MISSING:
        if "released" not in cell.holders()[-1]:  # Slurm has seen it die
            cell.died("node_failure", job=slurm_job()["job"])
        if not cell.may_go_on("node_failure"):
            return _refuse(job, "node_failure")
    return None


def _wait_for_predecessor(cell: CellFolder) -> None:
    """Wait until a worker of an earlier start of this same job gives no more signs of life.

    It may still run on a node that lost its connection to Slurm.
    """
    end = time.monotonic() + 2 * STALE
    while had_before(cell) and cell.claimed() and time.monotonic() < end:
        time.sleep(1.0)


def _distributed(gpus: bool) -> int:
    """Set the variables of torch and accelerate for several processes; returns the rank, -1 for a single process."""
    for name in filter(is_of_a_group, list(os.environ)):
        del os.environ[name]
    processes = int(os.environ.get("SLURM_NTASKS", 1))
    if processes == 1:
        return -1
    rank = int(os.environ["SLURM_PROCID"])
    # Jobs that share a node must not share a port.
    port = 20000 + int(re.sub(r"\D", "", slurm_job()["job"])) % 40000
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(processes // int(os.environ["SLURM_NNODES"])),
        "MASTER_ADDR": os.environ["SLURM_LAUNCH_NODE_IPADDR"],  # srun runs on the first node
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": str(not gpus).lower(),
    }
    return rank
