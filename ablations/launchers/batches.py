"""What was submitted to Slurm: a folder of ``root/slurm`` for each submission, with ``jobs.json`` and logs."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from unigrpo.io import read_json, write_json


@dataclass(frozen=True)
class Ticket:
    """A Slurm job that was asked to run a cell."""

    job: str
    """``123``, or ``123_4`` in an array."""
    folder: Path
    submitted: float
    """When this process knew of it, by its monotonic clock: Slurm had it by then, whatever other clocks say."""

    @property
    def cancelled(self) -> bool:
        """Whether its end was asked for by a command of the sweeper, so that it says nothing about the cell."""
        try:
            return self.job in (self.folder / "withdrawn").read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return False

    @property
    def ends(self) -> Path:
        """Where the job writes how its cells ended."""
        return ends_of(self.folder, self.job)

    def log_tail(self, characters: int = 2000) -> str:
        """The end of what the job printed on stderr."""
        try:
            with (self.folder / f"{self.job}_0_log.err").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - characters))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""


@dataclass
class Batches:
    """All submissions of a root, by whatever controller."""

    folder: Path
    tickets: dict[str, list[Ticket]] = field(default_factory=dict)
    """Cell id -> the jobs that were asked to run it, oldest first."""
    _read: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, root: Path) -> Batches:
        """Those of the sweeps in ``root``, read from disk."""
        batches = cls(root.resolve() / "slurm")
        batches.refresh()
        return batches

    def refresh(self) -> None:
        """Read what others have submitted since the last time."""
        unread = [path for path in self.folder.glob("*/jobs.json") if path.parent.name not in self._read]
        for path in sorted(unread, key=_written):
            if record := read_json(path):
                self._note(path.parent, record["jobs"])

    def add(
        self, folder: Path, jobs: Sequence[tuple[str, Sequence[str]]], environment: Mapping[str, str] | None = None
    ) -> None:
        """Remember a submission: each job, which Slurm has by now, with its cells; what sbatch took from elsewhere."""
        write_json(folder / "jobs.json", {"jobs": jobs, "environment": environment or {}})
        self._note(folder, jobs)

    def last(self, cell_id: str) -> Ticket | None:
        """The latest job that was asked to run the cell."""
        return next(reversed(self.tickets.get(cell_id, [])), None)

    def _note(self, folder: Path, jobs: Sequence[tuple[str, Sequence[str]]]) -> None:
        self._read.add(folder.name)
        now = time.monotonic()
        for job, cells in jobs:
            ticket = Ticket(job, folder, now)
            for cell_id in cells:
                self.tickets.setdefault(cell_id, []).append(ticket)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One submits at a time, so that no cell is submitted twice."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.refresh()
            yield


def _written(path: Path) -> float:
    """When that was, by the clock of the storage: those of the machines that submit may differ."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # action=gc was faster
        return 0.0


def ends_of(folder: Path, job: str) -> Path:
    """Where a job of the submission in ``folder`` writes how its cells ended."""
    return folder / f"{job}_ends.json"
