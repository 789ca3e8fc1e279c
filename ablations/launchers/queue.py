"""The states of Slurm jobs: by ``squeue`` for recent jobs, by ``sacct`` for older ones.

``squeue`` shows a job for MinJobAge seconds (300 by default) after its end.  Later, only ``sacct`` knows it.  On a
cluster without accounting such a job is :data:`GONE`: it has very likely ended.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from ablations.launchers.environment import of_slurm
from unigrpo.errors import ConfigError

#: Seconds between two queries to Slurm, whose controller serves all users.
QUEUE_EVERY = 15.0
#: Seconds that an answer may take.
PATIENCE = 60.0
GONE = "GONE"

#: States of jobs that do not run and will not run again.
_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT", GONE,
}  # fmt: skip
#: State -> cause of a worker's death; any other is ``killed``.
_CAUSES = {
    "BOOT_FAIL": "node_failure", "NODE_FAIL": "node_failure", "CANCELLED": "cancelled", "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "oom", "PREEMPTED": "preempted", "TIMEOUT": "timeout",
}  # fmt: skip
#: SIGUSR2 and SIGTERM, Slurm's notices: they kill a worker that has not installed its handlers yet.
_NOTICES = (12, 15)
#: Columns of squeue and their widths.
_COLUMNS = {"JobArrayID": 40, "State": 20, "exit_code": 12, "Reason": 60, "NodeList": 80}


class SlurmDown(RuntimeError):
    """Slurm does not answer, or must be asked again later; nothing new is known about any job."""


class Refused(RuntimeError):
    """Slurm accepts no more jobs of a sweep; jobs that it has continue."""


@dataclass(frozen=True)
class Status:
    """One job, as Slurm sees it."""

    state: str
    """Slurm's name of the state."""
    reason: str = ""
    """Why it waits, or why it ended."""
    nodes: str = ""
    code: int = 0
    signal: int = 0

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.state in _ENDED

    @property
    def cause(self) -> str:
        """Why a worker died that did not report how it ended."""
        if self.state == "FAILED" and (self.signal in _NOTICES or self.code - 128 in _NOTICES):
            return "preempted"
        return _CAUSES.get(self.state, "killed")

    def __str__(self) -> str:
        how = f", signal {self.signal}" if self.signal else f", exit code {self.code}" if self.code else ""
        where = f" on {self.nodes}" if self.nodes else f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"{self.state}{how}{where}"


@dataclass
class Queue:
    """The jobs of this user at the last query."""

    seen: dict[str, Status] = field(default_factory=dict)
    """Job (``123``, ``123_4``) -> its state."""
    looked: float = float("-inf")
    """Monotonic time of the last query; jobs submitted later may be missing in ``seen``."""
    _asked: float = float("-inf")

    def due(self) -> bool:
        """Whether Slurm may be asked again."""
        return time.monotonic() - self._asked >= QUEUE_EVERY

    def look(self, jobs: Collection[str]) -> None:
        """Query Slurm; afterwards the state of each of ``jobs`` is known.

        Raises:
            SlurmDown: it does not answer; ``seen`` is as before.
        """
        self._asked = looked = time.monotonic()
        seen = dict(_squeue())
        if forgotten := [job for job in jobs if job not in seen]:
            seen |= dict.fromkeys(forgotten, Status(GONE)) | dict(_sacct(forgotten))
        self.seen, self.looked = seen, looked

    def alive(self, job: str, submitted: float) -> bool:
        """Whether ``job`` waits or runs, as far as is known; ``submitted`` is when its submission was known."""
        status = self.seen.get(job)
        return submitted >= self.looked if status is None else not status.ended


def ask(*command: str, patience: float = PATIENCE) -> str:
    """The output of a command of Slurm.

    Raises:
        SlurmDown: it fails.
        ConfigError: it is not installed.
    """
    try:
        done = subprocess.run(
            command,
            env=of_slurm(os.environ),
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=patience,
            start_new_session=True,  # keeps Ctrl-C of the terminal from Slurm's commands
        )
    except subprocess.CalledProcessError as error:
        raise SlurmDown(f"{command[0]}: {error.stderr.strip() or f'exit code {error.returncode}'}") from error
    except FileNotFoundError as error:
        raise ConfigError(f"launcher=slurm: no {command[0]} here; use a machine of the cluster") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmDown(f"{command[0]}: {error}") from error
    return done.stdout


def array_limit() -> int:
    """The largest number of tasks in an array on this cluster; 1000 if Slurm does not tell."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"), re.MULTILINE)
    except (SlurmDown, ConfigError):
        found = None
    return int(found[1]) if found else 1000


def _squeue() -> Iterator[tuple[str, Status]]:
    columns = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
    # By number: after sudo the environment may have the name of another user.
    answer = ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.geteuid()}", f"--Format={columns}")
    for line in answer.splitlines():
        if line.startswith("CLUSTER: "):  # a title, where SLURM_CLUSTERS names one
            continue
        cells, start = [], 0
        for width in _COLUMNS.values():
            cells.append(line[start : start + width].strip())
            start += width
        job, state, code, reason, nodes = cells
        yield job, _status(state, code, reason, nodes)


def _sacct(jobs: Collection[str]) -> Iterator[tuple[str, Status]]:
    """How ``jobs`` ended, as far as accounting knows.

    Accounting may have missed the end of a job and show it as running for ever; such jobs are skipped.
    """
    arrays = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    columns = "--format=JobID,State,ExitCode,Reason,NodeList"
    try:
        answer = ask("sacct", "--noheader", "--allocations", "--parsable2", columns, f"--jobs={arrays}")
    except (SlurmDown, ConfigError):
        return
    for line in answer.splitlines():
        job, state, code, reason, nodes = line.split("|")[:5]
        status = _status(state, code, reason, nodes)
        if job in jobs and status.ended:
            yield job, status


def _status(state: str, code: str, reason: str, nodes: str) -> Status:
    if ":" in code:
        number, signal = map(int, code.split(":"))
    else:  # squeue shows the status that wait() gave
        number, signal = int(code or 0) >> 8, int(code or 0) & 127
    # "CANCELLED by 1000" is a state of sacct.
    return Status(state.split()[0], reason, nodes, number, signal)
