"""Runs one cell: claims it, trains and evaluates, and leaves in its folder what came of it.

Nothing that goes wrong in a cell leaves this module as an exception; the outcome is an exit code for the controller,
the details are in the cell's folder.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from ablations.cells import BEAT, CellFolder, Claim
from ablations.provenance import git_sha
from unigrpo import console, surroundings
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError, NonFiniteLoss, Stopped
from unigrpo.io import write_json

#: The function that trains and evaluates one run.
RUNNER = "unigrpo.training.runner:run"

#: Faults of the place that is written to, not of the cell.
_FULL = {errno.ENOSPC, errno.EDQUOT}
_STORAGE = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class Outcome(IntEnum):
    """How an attempt ended, as the exit code of a worker."""

    DONE = 0
    FAILED = 10
    STOPPED = 11
    """It was asked to stop, and has written a checkpoint."""
    BUSY = 12
    """Another process has the cell, or has finished it."""
    STORAGE = 13
    """The folder cannot be written: disk full or read-only."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; picklable."""

    folder: Path
    config: Mapping[str, Any]
    """The plain form of the cell's RunConfig."""
    fresh: float = 0.0
    """The time up to which an end of the cell does not count: what it left is thrown away."""
    runner: str = RUNNER
    """``module:function`` with the signature of ``unigrpo.training.runner.run``."""
    name: str = ""
    """``arm:seed``."""
    gpus: float = 0.0
    """GPUs that the cell occupies, for its cost."""
    ended_job: str = ""
    """The Slurm job that had the cell before and is known to have ended."""

    @property
    def cell_id(self) -> str:
        """The name of the cell's folder."""
        return self.folder.name


def run_cell(job: Job, stop: Callable[[], bool]) -> Outcome:
    """Run one cell in this process.

    Args:
        job: the cell.
        stop: polled after each update; true asks for a checkpoint and an end.
    """
    cell = CellFolder(job.folder, job.ended_job)
    try:
        claim = cell.claim({"gpus": job.gpus} | slurm_job(), job.fresh)
        return Outcome.BUSY if claim is None else _attempt(claim, job, stop)
    except OSError as error:
        print(f"cell {job.cell_id}: {error}", file=sys.stderr, flush=True)
        return Outcome.STORAGE


def join_cell(job: Job, stop: Callable[[], bool]) -> None:
    """Work on a cell as one more process beside the one that claims it; nothing but that one's word counts."""
    cell, mine = CellFolder(job.folder), slurm_job()
    while not any(mine.items() <= worker.items() for worker in cell.workers()):
        time.sleep(0.2)
    try:
        _load(job.runner)(RunConfig.from_dict(job.config), cell.path, stop=stop)
    except Exception as error:  # an exit code would end the other process before it has written down what happened
        traceback.print_exception(error)


def run_in_process(job: Job, variables: Mapping[str, str]) -> None:
    """Entry point of a worker process; exits with an :class:`Outcome`.

    SIGTERM asks for a checkpoint and an end.  SIGINT is ignored: Ctrl-C reaches the whole process group, and what it
    means is for the controller to say.
    """
    asked = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    os.environ.clear()  # of what the server was started with
    os.environ.update(variables)
    sys.exit(run_logged(job, asked.is_set))


def run_logged(job: Job, stop: Callable[[], bool]) -> Outcome:
    """:func:`run_cell`, with all that this process prints in the cell's ``log.txt`` from now on."""
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        log = os.open(job.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
    except OSError:
        return Outcome.STORAGE
    console.prepare()  # what a strategy prints may be more than this terminal could show
    return run_cell(job, stop)


def slurm_job() -> dict[str, Any]:
    """``job`` and ``restart`` of the Slurm job that this process belongs to; empty outside of Slurm."""
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job else os.environ.get("SLURM_JOB_ID")
    return {"job": name, "restart": int(os.environ.get("SLURM_RESTART_COUNT", 0))} if name else {}


def had_before(cell: CellFolder) -> bool:
    """Whether the Slurm job of this process had the cell before Slurm started it again."""
    mine = slurm_job()
    workers = cell.workers() if mine else []
    return any(it.get("job") == mine["job"] and it["restart"] < mine["restart"] for it in workers)


def _attempt(claim: Claim, job: Job, stop: Callable[[], bool]) -> Outcome:
    reached = {"step": 0}
    ended = threading.Event()

    def progress(report: Mapping[str, Any]) -> None:
        claim.check()  # not by way of stop, which would write a checkpoint into the folder of whoever has it now
        reached.update(step=int(report["update"]))

    threading.Thread(target=_beat, args=(claim, ended), daemon=True).start()
    try:
        claim.forget(job.fresh)
        write_json(claim.cell.path / "env.json", environment())
        run = _load(job.runner)
        run(RunConfig.from_dict(job.config), claim.cell.path, progress=progress, stop=stop)
        claim.finish()
        return Outcome.DONE
    except BaseException as error:
        return _explain(claim, error, reached["step"])
    finally:
        ended.set()


def _explain(claim: Claim, error: BaseException, step: int) -> Outcome:
    """Write down why an attempt ended early."""
    if isinstance(error, Stopped | KeyboardInterrupt):
        claim.release("stopped")
        return Outcome.STOPPED
    if claim.lost:
        return Outcome.BUSY
    traceback.print_exception(error)
    if isinstance(error, OSError) and _is_of_storage(error, claim.cell.path):
        claim.release("storage")
        return Outcome.STORAGE
    message = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    claim.fail(_cause(error), message, "".join(traceback.format_exception(error)), step)
    return Outcome.FAILED


def _is_of_storage(error: OSError, folder: Path) -> bool:
    """Whether it is a fault of the cell's folder, not of a file elsewhere, which may be this cell's alone."""
    if error.errno not in _STORAGE:
        return False
    if isinstance(error.filename, str | bytes):
        return Path(os.fsdecode(error.filename)).resolve().is_relative_to(folder.resolve())
    # A write does not say to which file.  A disk that was too full for a large one takes a small one still; any other
    # fault would meet that one, too.
    if error.errno in _FULL:
        return True
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError:
        return True
    return False


def _cause(error: BaseException) -> str:
    if isinstance(error, NonFiniteLoss):
        return "non_finite"
    # Whoever raises torch's error has imported torch; this module does not.
    of_gpu = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    if isinstance(error, (MemoryError, of_gpu)) or "can't allocate memory" in str(error):
        return "oom"
    return "config" if isinstance(error, ConfigError) else "exception"


def _beat(claim: Claim, ended: threading.Event) -> None:
    """Give signs of life until the attempt has ended; one that the storage does not take is followed by others."""
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            claim.beat()


def environment() -> dict[str, Any]:
    """What a result may depend on besides its configuration, and where it was made; a run adds its kind of machine."""
    found = surroundings.place() | {"variables": surroundings.variables()}
    return {"git_sha": git_sha(), "slurm_job": slurm_job().get("job", "")} | found


def _load(runner: str) -> Callable[..., dict[str, Any]]:
    module, _, function = runner.partition(":")
    loaded: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
    return loaded
