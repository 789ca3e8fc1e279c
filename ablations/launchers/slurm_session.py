"""A session of launcher ``slurm``: submits jobs, finds earlier ones again, and collects their ends.

A job writes a file that says how its cells ended.  Slurm is asked only about jobs that left no such file.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ablations.cells import CellFolder
from ablations.launchers import snapshot
from ablations.launchers.batches import Batches, Ticket
from ablations.launchers.end import End
from ablations.launchers.queue import GONE, Queue, Refused, SlurmDown, array_limit, ask
from ablations.launchers.slurm_jobs import Resources, SlurmJobs
from ablations.worker import Job, Outcome
from unigrpo.errors import ConfigError
from unigrpo.io import read_json

#: Seconds between two looks for files of jobs; these do not burden Slurm.
LOOK = 1.0
#: Messages of sbatch after which it is tried again.
_PASSING = re.compile(
    r"unable to contact|timed out|connection (refused|reset)|zero bytes|transport endpoint|temporarily", re.I
)
#: Messages of sbatch about too many submitted jobs, such as QOSMaxSubmitJobPerUserLimit.
_TOO_MANY = re.compile(r"submit\w* ?limit", re.I)


class SlurmSession:
    """Cells that wait to be submitted, and jobs that Slurm has, which outlive the session."""

    def __init__(self, launcher: SlurmJobs, root: Path, runner: str) -> None:
        self.launcher = launcher
        self.root = root.resolve()
        self.runner = runner
        self.queue = Queue()
        self.batches = Batches.of(root)
        self._waiting: list[Job] = []
        self._mine: dict[Ticket, list[Job]] = {}
        self._spent: set[tuple[Ticket, str]] = set()
        """(job, cell) of the ends that were reported."""
        self._silent: set[Ticket] = set()
        self._held: set[Ticket] = set()
        self._fault = ""
        self._stopping = False
        self._looked = float("-inf")
        self._code: Path | None = None

    def free_slots(self) -> int:
        """Cells that can be submitted under ``max_queued``; without it there is no limit."""
        most, pack = self.launcher.max_queued, self.launcher.pack
        return (most - len(self._mine)) * pack - len(self._waiting) if most else sys.maxsize

    def start(self, job: Job) -> None:
        """Accept a cell; the next poll submits it, or finds its job in the queue."""
        self._waiting.append(job)

    def running(self) -> int:
        """Cells that wait to be submitted or that Slurm has."""
        return len(self._waiting) + sum(map(len, self._mine.values()))

    def poll(self, seconds: float) -> list[tuple[Job, End]]:
        """Submit waiting cells; collect ended ones.

        Raises:
            ConfigError: Slurm refuses what was asked for, and has no job of it.
            Refused: it takes no more.
            OSError: the folder cannot be written.
        """
        asked = self.running() > 0 and self.queue.due() and self._talk()
        if not asked and time.monotonic() - self._looked < LOOK:
            time.sleep(seconds)
            return []
        self._looked = time.monotonic()
        return [*self._results(), *(self._deaths() if asked else ())]

    def detach(self) -> str:
        """Leave the submitted jobs to Slurm; drop cells that were not submitted."""
        count, jobs = sum(map(len, self._mine.values())), sorted({t.job.partition("_")[0] for t in self._mine})
        self._waiting.clear()
        self._mine.clear()
        return f"{count} cells stay with Slurm: squeue --jobs={','.join(jobs)}" if jobs else ""

    def stop(self) -> None:
        """Cancel the jobs; running cells write a checkpoint."""
        self._stopping = True
        self._waiting.clear()
        cancel_jobs(self._mine)

    def kill(self) -> None:
        """Nothing to do: jobs of Slurm outlive the command."""

    def __enter__(self) -> SlurmSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _talk(self) -> bool:
        """Ask Slurm about all jobs, then submit waiting cells; returns whether Slurm answered."""
        answered, before, self._fault = False, self._fault, ""
        try:
            self.queue.look([ticket.job for ticket in self._mine])
            answered = True
            self._tell_of_held()
            if self._waiting:
                self._submit()
        except SlurmDown as error:
            self._fault = str(error)
            if self._fault != before:
                print(f"Slurm is asked again later: {error}", file=sys.stderr, flush=True)
        return answered

    def _tell_of_held(self) -> None:
        """Report jobs that Slurm holds until somebody releases them."""
        for ticket in self._mine:
            status = self.queue.seen.get(ticket.job)
            if status and status.state == "PENDING" and "held" in status.reason.lower() and ticket not in self._held:
                self._held.add(ticket)
                print(f"Slurm holds job {ticket.job} ({status.reason}); to let it go: scontrol release {ticket.job}")

    def _submit(self) -> None:
        """Submit the waiting cells, except for those that a controller has already submitted.

        Raises:
            SlurmDown: Slurm does not answer; cells that were not submitted still wait.
            ConfigError: it refuses the first jobs.
            Refused: it refuses more jobs.
        """
        with self.batches.lock():
            self._waiting = [job for job in self._waiting if not self._adopt(job)]
            room, first, after = self._room(), not self._mine, ""
            if not self._waiting or not room:
                return
            for resources, tasks in self.launcher.chunks(self._waiting, array_limit()):
                if tasks := tasks[:room]:
                    room -= len(tasks)
                    array = self._send(resources, tasks, after)
                    after = array if first and self.launcher.max_parallel else ""
                    sent = {job.cell_id for task in tasks for job in task}
                    self._waiting = [job for job in self._waiting if job.cell_id not in sent]

    def _room(self) -> int:
        """How many more jobs may be submitted now."""
        # Slurm applies max_parallel within one array only; for later submissions it is applied here.
        limits = (self.launcher.max_queued, self.launcher.max_parallel if self._mine else 0)
        return max(0, min((limit - len(self._mine) for limit in limits if limit), default=sys.maxsize))

    def _adopt(self, job: Job) -> bool:
        """Whether a Slurm job has the cell already, or had it and ended unobserved; if so, follow that job."""
        ticket = self.batches.last(job.cell_id)
        if ticket is None or (ticket, job.cell_id) in self._spent:
            return False
        folder = CellFolder(job.folder)
        holders = folder.holders()
        worker = holders[-1].get("worker") if holders and "released" not in holders[-1] else None
        finished = folder.is_done(job.fresh)
        if self.queue.alive(ticket.job, ticket.submitted) or (worker or {}).get("job") == ticket.job or finished:
            self._mine.setdefault(ticket, []).append(job)
            return True
        return False

    def _send(self, resources: Resources, tasks: Sequence[tuple[Job, ...]], after: str) -> str:
        """Submit one array, which starts after the array ``after``; returns its job number.

        Raises:
            SlurmDown: Slurm does not answer.
            ConfigError: it refuses the first jobs.
            Refused: it refuses more jobs.
        """
        from submitit.core.utils import FailedJobError

        if self._code is None or not self._code.exists():  # action=gc may have removed it
            self._code = snapshot.take(self.root, self.runner)
        folder = self.batches.folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        tasks = [tuple(replace(job, ended_job=self._before(job)) for job in task) for task in tasks]
        work = [self.launcher.task(resources, task) for task in tasks]
        cells = [[job.cell_id for job in task] for task in tasks]
        try:
            with _undisturbed():
                names = self.launcher.submit(folder, resources, self._code, work, after)
                self.batches.add(folder, list(zip(names, cells, strict=True)), self.launcher.from_environment()[0])
        except FailedJobError as error:
            raise self._refusal(str(error).strip()) from error
        for task in tasks:
            for job in task:
                ticket = self.batches.last(job.cell_id)
                assert ticket is not None
                self._mine.setdefault(ticket, []).append(job)
        return names[0].partition("_")[0]

    def _refusal(self, answer: str) -> Exception:
        """The exception for sbatch's failure ``answer``."""
        too_many = _TOO_MANY.search(answer)
        # What is too much now may be possible when other jobs have ended.
        if _PASSING.search(answer) or (too_many and self._mine):
            return SlurmDown(answer)
        way_out = "\nlauncher.max_queued=N submits only so many at a time" if too_many else ""
        if self._mine or self._spent:
            return Refused(f"sbatch refuses more jobs: {answer}{way_out}")
        return ConfigError(f"sbatch refuses the jobs: {answer}{way_out}")

    def _before(self, job: Job) -> str:
        """The job that had the cell before, if its end was seen here; for other jobs the claim tells."""
        ticket = self.batches.last(job.cell_id)
        return ticket.job if ticket and (ticket, job.cell_id) in self._spent else ""

    def _results(self) -> Iterator[tuple[Job, End]]:
        """The ends that jobs have written."""
        there = {folder: set(os.listdir(folder)) for folder in {ticket.folder for ticket in self._mine}}
        for ticket in [ticket for ticket in self._mine if ticket.ends.name in there[ticket.folder]]:
            ends = read_json(ticket.ends)
            if ends is None:
                continue  # listed, but not yet readable from this machine
            for job in self._mine.pop(ticket):
                end = replace(End.of_json(ends[job.cell_id]), job=ticket.job)
                if end.outcome is Outcome.STOPPED and not self._stopping:  # the job's state tells who stopped it
                    self._mine.setdefault(ticket, []).append(job)
                else:
                    self._spent.add((ticket, job.cell_id))
                    yield job, end

    def _deaths(self) -> Iterator[tuple[Job, End]]:
        """Jobs that have ended without writing how."""
        for ticket in list(self._mine):
            status = self.queue.seen.get(ticket.job)
            if status is None or not status.ended:
                continue
            if status.state == GONE and any(CellFolder(job.folder).claimed() for job in self._mine[ticket]):
                continue  # Slurm does not show it, but its worker gives signs of life
            if status.state in ("COMPLETED", GONE) and ticket not in self._silent:
                self._silent.add(ticket)  # its file may become visible here later
                continue
            ends = read_json(ticket.ends) or {}
            for job in self._mine.pop(ticket):
                self._spent.add((ticket, job.cell_id))
                stopped = job.cell_id in ends and End.of_json(ends[job.cell_id]).outcome is Outcome.STOPPED
                if ticket.cancelled or (stopped and status.cause != "cancelled"):
                    yield job, End(Outcome.STOPPED, job=ticket.job)
                else:
                    message = f"its Slurm job {ticket.job} ended as {status}"
                    yield job, End(None, status.cause, message, ticket.log_tail(), ticket.job)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold back signals of the terminal, for sbatch too, so that every submitted array is recorded."""
    numbers = (signal.SIGINT, signal.SIGHUP)
    held: list[int] = []
    # sbatch inherits the blocked signals.  Here another thread may get them; the main thread then runs the handler.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    handlers = {number: signal.signal(number, lambda came, _: held.append(came)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for came in held:
            signal.raise_signal(came)


def cancel_jobs(tickets: Iterable[Ticket]) -> int:
    """Cancel jobs; their ends will not count as failures of their cells. Returns the number of jobs.

    Raises:
        SlurmDown: Slurm does not answer.
    """
    tickets = list(tickets)
    for folder in {ticket.folder for ticket in tickets}:
        with (folder / "withdrawn").open("a", encoding="utf-8") as file:
            file.writelines(f"{ticket.job}\n" for ticket in tickets if ticket.folder == folder)
    jobs = [ticket.job for ticket in tickets]
    for start in range(0, len(jobs), 500):
        ask("scancel", *jobs[start : start + 500])
    return len(jobs)
