"""Records of submissions to Slurm: each has a folder in ``root/slurm`` with ``jobs.json`` and logs."""

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
    """A Slurm job that was submitted for a cell."""

    job: str
    """``123``, or ``123_4`` in an array."""
    folder: Path
    submitted: float
    """Monotonic time of this process at which the submission was known."""

    @property
    def cancelled(self) -> bool:
        """Whether a command of the sweeper cancelled it, so that its end is no failure of the cell."""
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
    """All submissions of a root, by any controller."""

    folder: Path
    tickets: dict[str, list[Ticket]] = field(default_factory=dict)
    """Cell id -> the jobs that were submitted for it, oldest first."""
    _read: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, root: Path) -> Batches:
        """The submissions of the sweeps in ``root``, read from disk."""
        batches = cls(root.resolve() / "slurm")
        batches.refresh()
        return batches

    def refresh(self) -> None:
        """Read submissions of others since the last refresh."""
        unread = [path for path in self.folder.glob("*/jobs.json") if path.parent.name not in self._read]
        for path in sorted(unread, key=_written):
            if record := read_json(path):
                self._note(path.parent, record["jobs"])

    def add(
        self, folder: Path, jobs: Sequence[tuple[str, Sequence[str]]], environment: Mapping[str, str] | None = None
    ) -> None:
        """Record a submission: each job with its cells, and the variables that sbatch took from the environment."""
        write_json(folder / "jobs.json", {"jobs": jobs, "environment": environment or {}})
        self._note(folder, jobs)

    def last(self, cell_id: str) -> Ticket | None:
        """The latest job that was submitted for the cell."""
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
        """Lock submissions, so that no cell is submitted twice."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.refresh()
            yield


def _written(path: Path) -> float:
    """Time of the file by the storage's clock: clocks of the submitting machines may differ."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # action=gc has just removed it
        return 0.0


def ends_of(folder: Path, job: str) -> Path:
    """Where a job of the submission in ``folder`` writes how its cells ended."""
    return folder / f"{job}_ends.json"
