"""The cell store: a cell's folder says everything about the cell, and a chain of claims says whose it is.

Attempt n of a cell is the file ``claims/n.json``.  Creating it exclusively is the only way to get attempt n, and
nothing deletes it, so of any number of processes, on any number of machines, exactly one gets each attempt.  A later
attempt is allowed when the last one was released or is stale: its process is dead (same machine), its Slurm job is
known to have ended, or it has not touched its file for :data:`STALE` seconds.  A cell is done when ``DONE`` holds the
digest of ``result.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ablations.provenance import now
from unigrpo.io import append_row, last_row, read_json, write_json, write_text

#: Seconds between two signs of life of a running cell.
BEAT = 20.0
#: Seconds without one after which another process may take the cell over.
STALE = 4 * BEAT

#: Deaths in a row, without a new checkpoint, by which a cell has failed; a time limit would only be met again.
MOST_DEATHS = 3
_MOST_DEATHS = {"timeout": 1}

#: What outlives a fresh start of a cell: the history of its attempts.
_HISTORY = ("claims", "events.jsonl", "log.txt")
#: The files of which one says how a cell ended.
_ENDS = ("DONE", "failure.json")


class State(StrEnum):
    """Where a cell stands, read from its folder."""

    MISSING = "missing"
    """To be run, from its checkpoint if there is one."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class CellFolder:
    """The folder of one cell; it need not exist yet."""

    path: Path
    ended_job: str = ""
    """A Slurm job that is known to have ended: a claim of it is over, however short ago its last sign of life."""

    def state(self) -> State:
        """Where the cell stands."""
        if self.is_done():
            return State.DONE
        if self.claimed():
            return State.RUNNING
        return State.FAILED if (self.path / "failure.json").exists() else State.MISSING

    def is_done(self, since: float = 0.0) -> bool:
        """Whether ``DONE`` vouches for ``result.json``, and has done so only after ``since``."""
        done = self.path / "DONE"
        try:
            vouched = done.read_text(encoding="utf-8").strip() == _digest(self.path / "result.json")
            return vouched and done.stat().st_mtime > since
        except FileNotFoundError:
            return False

    def claimed(self) -> bool:
        """Whether a living process has the cell."""
        return not self._over(self.attempts())

    def attempts(self) -> int:
        """How many attempts there have been, the present one included."""
        try:
            names = os.listdir(self.path / "claims")
        except FileNotFoundError:
            return 0
        return max((int(stem) for name in names if (stem := name.partition(".")[0]).isdigit()), default=0)

    def claim(self, worker: Mapping[str, Any] | None = None, since: float = 0.0) -> Claim | None:
        """Get the next attempt, or None if the cell is done or another process has it.

        Args:
            worker: what a worker says of itself (``gpus``, and under Slurm ``job`` and ``restart``); None for a
                controller, which only writes down how the cell ended.
            since: the time up to which results do not count, for a fresh start.

        Raises:
            OSError: the folder cannot be written.
        """
        # The attempt after the one that was found to be over, not after the latest: that may have begun meanwhile.
        last = self.attempts()
        if self.is_done(since) or not self._over(last):
            return None
        number = last + 1
        (self.path / "claims").mkdir(parents=True, exist_ok=True)
        holder = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "process": _process(os.getpid()),
            "since": time.time(),
            "checkpoint": 0 if self.is_void(since) else self.checkpoint(),
            "worker": None if worker is None else dict(worker),
        }
        try:
            file = self._claim_path(number).open("x", encoding="utf-8")
        except FileExistsError:
            return None
        try:
            with file:
                json.dump(holder, file)
        except OSError:  # a full disk: nobody may wait for an attempt that never began
            self._claim_path(number).unlink(missing_ok=True)
            raise
        claim = Claim(self, number)
        if self.is_done(since):  # it was finished between the look and the claim
            claim.release("not needed")
            return None
        self.event("claimed", number)
        return claim

    def event(self, event: str, attempt: int, **details: Any) -> None:
        """Add a row to the cell's history."""
        row = {"time": now(), "event": event, "attempt": attempt, "pid": os.getpid(), **details}
        append_row(self.path / "events.jsonl", row)

    def failure(self) -> dict[str, Any] | None:
        """What ``failure.json`` says, if the last attempt failed."""
        found: dict[str, Any] | None = read_json(self.path / "failure.json")
        return found

    def signature(self) -> str:
        """Changes whenever the cell is finished or fails anew; empty while it has done neither."""
        return self._end()[0]

    def ended(self) -> float:
        """When the cell was finished or failed, in seconds since 1970; 0 while it has done neither."""
        return self._end()[1]

    def is_void(self, since: float) -> bool:
        """Whether the cell ended, but not after ``since``, so that all that it left is to go."""
        return 0 < self.ended() <= since

    def _end(self) -> tuple[str, float]:
        """Digest and time of the file that says how the cell ended; a worker may take it away at any moment."""
        for path in (self.path / name for name in _ENDS):
            with contextlib.suppress(FileNotFoundError):
                return _digest(path), path.stat().st_mtime
        return "", 0.0

    def holders(self) -> list[dict[str, Any]]:
        """What the holders of all claims said of themselves, oldest first; ``last_sign`` is their last sign of life."""
        paths = map(self._claim_path, range(1, self.attempts() + 1))
        return [(read_json(path) or {}) | {"last_sign": path.stat().st_mtime} for path in paths]

    def workers(self) -> list[dict[str, Any]]:
        """What the workers among them said of themselves."""
        return [holder["worker"] for holder in self.holders() if holder.get("worker")]

    def died(self, cause: str, *, job: str = "", pid: int = 0, after: int = 0) -> bool:
        """Note that a worker was seen to die, in its claim of the cell, if it had one.

        Only whoever started the worker can see that.  Of one that died with its command, or whose command died before,
        nobody knows whether the cell is to blame, and its claim stays as it is.

        Args:
            cause: of the death.
            job: the worker's Slurm job; else it was a process of this machine:
            pid: its number, 0 for the present process;
            after: a claim that is older than the worker.
        """
        pid, present = pid or os.getpid(), self.checkpoint()
        holders = list(enumerate(self.holders(), 1))[0 if job else after :]
        workers = [(number, holder) for number, holder in holders if holder.get("worker")]
        # Of a job that Slurm has started again there are several.
        own = [(n, it) for n, it in workers if (it["worker"].get("job") == job if job else it["pid"] == pid)]
        for number, holder in own:
            released, gained = holder.get("released"), holder.get("checkpoint") != present
            # Where the server of the workers was killed, they seem dead and are not.
            alive = not (job or released) and holder["process"] and _process(pid) == holder["process"]
            if not (alive or released in ("done", "failed", "died") or (released and gained)):
                Claim(self, number).die(cause, holder["last_sign"])
        return bool(own)

    def deaths(self) -> int:
        """How many workers in a row, the last one included, were seen to die without a checkpoint of their own."""
        present = self.checkpoint()
        holders = reversed(self.holders())
        vain = (holder.get("died") and holder.get("checkpoint") == present for holder in holders)
        return sum(1 for _ in itertools.takewhile(bool, vain))

    def may_go_on(self, cause: str) -> bool:
        """Whether another attempt is worth its time after the last one died by ``cause``."""
        return self.deaths() < _MOST_DEATHS.get(cause, MOST_DEATHS)

    def checkpoint(self) -> int:
        """Which checkpoint there is, as a time stamp of the file system; 0 if there is none."""
        latest = 0
        for folder, _, files in os.walk(self.path / "checkpoint"):
            if "state.json" in files:
                with contextlib.suppress(FileNotFoundError):  # the worker takes old ones away meanwhile
                    latest = max(latest, Path(folder, "state.json").stat().st_mtime_ns)
        return latest

    def results(self) -> dict[str, float]:
        """The final metrics and costs, by name."""
        final = read_json(self.path / "result.json") or {}
        spent = read_json(self.path / "cost.json") or {}
        return {**final.get("metrics", {}), **final.get("cost", {}), **spent}

    def last_row(self) -> dict[str, Any]:
        """The latest row of ``metrics.jsonl``."""
        return last_row(self.path / "metrics.jsonl")

    def _over(self, attempt: int) -> bool:
        """Whether an attempt has ended; 0 is none at all."""
        return attempt == 0 or _is_over(self._claim_path(attempt), self.ended_job)

    def _claim_path(self, number: int) -> Path:
        return self.path / "claims" / f"{number}.json"


@dataclass(frozen=True)
class Claim:
    """The right to work on a cell: attempt ``number``.  Only its holder writes in the cell's folder."""

    cell: CellFolder
    number: int

    @property
    def lost(self) -> bool:
        """Whether a later attempt has begun, so that this one must not write any more."""
        return self.cell.attempts() != self.number

    def beat(self) -> None:
        """Give a sign of life."""
        os.utime(self.cell._claim_path(self.number))

    def check(self) -> None:
        """See to it that this attempt may still write.

        Raises:
            RuntimeError: the claim was lost, so that another process may be at work in the folder.
        """
        if self.lost:
            raise RuntimeError(f"attempt {self.number} of {self.cell.path.name} was taken over")

    def forget(self, since: float = 0.0) -> None:
        """Take the end of former attempts away; if it is not of after ``since``, all that they left but the history."""
        if self.cell.is_void(since):
            for path in self.cell.path.iterdir():
                if path.name not in (*_HISTORY, *_ENDS):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in _ENDS:  # last, so that what was cut short here is done again
            (self.cell.path / name).unlink(missing_ok=True)

    def finish(self) -> None:
        """Vouch for ``result.json``, the last act of an attempt that succeeded.

        Raises:
            RuntimeError: the claim was lost.
        """
        self.check()
        write_text(self.cell.path / "DONE", _digest(self.cell.path / "result.json") + "\n")
        self.release("done")

    def fail(self, cause: str, message: str, traceback: str, step: int) -> None:
        """Write ``failure.json`` and give the cell up.

        Args:
            cause: ``exception``, ``non_finite``, ``oom``, ``config``, ``killed``, ``timeout``, ``preempted``,
                ``node_failure`` or ``cancelled``.
            message: one line for tables.
            traceback: the full story.
            step: the last update that was reported.
        """
        if not self.lost:
            failure = {"cause": cause, "message": message, "traceback": traceback, "step": step, "attempt": self.number}
            write_json(self.cell.path / "failure.json", failure)
        self.release("failed", cause=cause, message=message)

    def release(self, outcome: str, **details: Any) -> None:
        """End the attempt, so that the cell can be claimed again at once."""
        self.cell.event(outcome, self.number, **details)
        self._note(released=outcome, until=time.time())

    def die(self, cause: str, until: float) -> None:
        """Note the death of the worker that had the attempt, whose last sign of life was at the time ``until``."""
        self.cell.event("died", self.number, cause=cause)
        self._note(released="died", until=until, died=cause)

    def _note(self, **facts: Any) -> None:
        path = self.cell._claim_path(self.number)
        write_json(path, (read_json(path) or {}) | facts)


def _is_over(path: Path, ended_job: str) -> bool:
    """Whether the attempt in the file ``path`` was released, is stale, or belonged to ``ended_job``."""
    holder = read_json(path) or {}
    if "released" in holder or (ended_job and (holder.get("worker") or {}).get("job") == ended_job):
        return True
    if holder.get("machine") == _machine() and holder.get("process"):
        # The machine knows, however long a suspended laptop gave no sign of life; the start time tells a living
        # process from a stranger with the same number.
        return _process(int(holder["pid"])) != holder["process"]
    try:
        return time.time() - path.stat().st_mtime > STALE
    except FileNotFoundError:
        return False


def _machine() -> str:
    """What tells apart where processes have their numbers: machines may share a name, and containers a machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process(pid: int) -> str:
    """The start time of the living process ``pid``; empty if there is none, or the system does not tell (no /proc)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
