"""What one Slurm job does: its cells, side by side, and what to make of the signals that Slurm sends.

Slurm announces the end of a job: SIGUSR2 some time before its time limit or at a preemption, SIGTERM at a preemption on
clusters that do not send the former, and at ``scancel``.  submitit's answer to SIGUSR2 is to put the job into the queue
again, at once and in the middle of whatever runs.  Here that answer waits until every cell has written its checkpoint.
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

#: Why Slurm ended an attempt that gained nothing -> how a cell that is given up for that tells it, and the way out.
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
    """Seconds that Slurm lets it run; a notice after them means that its time is up."""

    def __call__(self) -> None:
        """Run the cells and write down how each ended.

        A job that is to go on does not return: submitit puts it into the queue again and ends the process.
        """
        notice = Notice()
        # Several processes for one cell: the others follow the first.
        rank = _distributed(self.gpus > 0)
        alone = rank < 0
        if rank > 0:
            join_cell(self.jobs[0], notice.asked.is_set)
            return
        # What this very job left before Slurm started it again says nothing about how it will end.
        _ends().unlink(missing_ok=True)
        for job in self.jobs:
            _wait_for_predecessor(CellFolder(job.folder, job.ended_job))
        ends = {job.cell_id: end for job in self.jobs if (end := _given_up(job))}
        ends |= self._run([job for job in self.jobs if job.cell_id not in ends], notice)
        if any(end.outcome is Outcome.FAILED for end in ends.values()) and not alone:
            _leave(ends)
            # The other processes of the cell wait for this one: a bad exit code makes srun end them.
            raise SystemExit(int(Outcome.FAILED))
        if notice.asked.is_set() and notice.is_forced():
            ends |= {job.cell_id: _refuse(job, notice.cause(self.promised_s)) for job in self._stuck(ends, notice)}
            if any(end.outcome is Outcome.STOPPED for end in ends.values()):
                notice.requeue()
        _leave(ends)

    def checkpoint(self) -> Any:
        """What goes on in the requeued job, for submitit: the same cells."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self, jobs: Sequence[Job], notice: Notice) -> dict[str, End]:
        """Run cells to their ends, or until there is notice: one in this process, several in processes of their own."""
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
        """Cells that were stopped, and for which another attempt is not worth its time."""
        cause = notice.cause(self.promised_s)
        stopped = [job for job in self.jobs if ends[job.cell_id].outcome is Outcome.STOPPED]
        for job in stopped:
            CellFolder(job.folder).died(cause, job=slurm_job()["job"])
        return [job for job in stopped if not CellFolder(job.folder).may_go_on(cause)]


class Notice:
    """Slurm's announcement that the job is about to end, kept until the cells have their checkpoints."""

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
        """Whether the cluster ends the job, so that it is to go on later; ``scancel`` is somebody's wish."""
        if self._number == signal.SIGUSR2:
            return True
        try:
            # By this name: SLURM_JOB_ID of the last task of an array is that of the array, some other of which may run.
            answer = ask("scontrol", "show", "job", slurm_job()["job"])
        except (SlurmDown, ConfigError):
            return False
        return "JobState=RUNNING" in answer

    def cause(self, promised_s: float) -> str:
        """``timeout`` or ``preempted``."""
        return "timeout" if time.monotonic() - self._started >= promised_s else "preempted"

    def requeue(self) -> None:
        """Put the job into the queue again; does not return."""
        self._requeue(signal.SIGUSR2, None)


def _leave(ends: Mapping[str, End]) -> None:
    """Write how the cells ended beside the logs of this job: what submitit keeps of a job is a pickle."""
    write_json(_ends(), {cell_id: end.to_json() for cell_id, end in ends.items()})


def _ends() -> Path:
    from submitit import JobEnvironment

    return ends_of(JobEnvironment().paths.folder, slurm_job()["job"])


def _refuse(job: Job, cause: str) -> End:
    """Write down that a cell is not worth another attempt."""
    cell = CellFolder(job.folder)
    why, way_out = _GIVEN_UP[cause]
    if claim := cell.claim():
        claim.fail(cause, f"{why}; {way_out}, then rerun=failed", "", int(cell.last_row().get("step", 0)))
    return End(Outcome.FAILED)


def _given_up(job: Job) -> End | None:
    """The end of a cell that this job has had before and is not to run again: it failed, or gains nothing."""
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
    """Wait until a worker that this very job had before Slurm started it again has fallen silent.

    On another node, whose connection to Slurm broke, it may still be alive.
    """
    end = time.monotonic() + 2 * STALE
    while had_before(cell) and cell.claimed() and time.monotonic() < end:
        time.sleep(1.0)


def _distributed(gpus: bool) -> int:
    """Tell torch and accelerate about the processes of this job; the rank of this one, or -1 if there is but one."""
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
