"""Launchers: where cells run (slot ``launcher``).

A launcher is a strategy whose ``session`` starts workers.  The controller asks a session for free slots, starts jobs
and collects their ends.  The result of a cell is read from the cell's folder, never from the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ablations.doctor import Check
from ablations.launchers.end import End
from ablations.launchers.inline import Inline
from ablations.launchers.local import Local
from ablations.launchers.slurm import Slurm
from ablations.worker import Job

__all__ = ["End", "Inline", "Launcher", "Local", "Session", "Slurm"]


class Session(Protocol):
    """Running workers. A context manager: at its end no worker is left, except for jobs of a cluster."""

    def free_slots(self) -> int:
        """How many more jobs can start now."""

    def start(self, job: Job) -> None:
        """Start a job; needs a free slot."""

    def running(self) -> int:
        """How many jobs are started and not yet collected."""

    def poll(self, seconds: float) -> list[tuple[Job, End]]:
        """Jobs that ended; waits for the first one up to ``seconds``."""

    def detach(self) -> str:
        """The user interrupts: jobs that cannot outlive the command write a checkpoint and end.

        Returns a sentence about the jobs that continue, empty if there are none.
        """

    def stop(self) -> None:
        """Ask all jobs to write a checkpoint and end."""

    def kill(self) -> None:
        """Kill all jobs that cannot outlive the command."""

    def __enter__(self) -> Session: ...

    def __exit__(self, *_: object) -> None: ...


class Launcher(Protocol):
    """A strategy of slot ``launcher``."""

    def session(self, root: Path, runner: str, interrupted: Callable[[], bool]) -> Session:
        """Open a session.

        Args:
            root: folder of the sweeps.
            runner: ``module:function`` that runs the cells; its imports can be shared between workers.
            interrupted: whether the user interrupted the command.
        """

    def capacity(self) -> int:
        """How many cells run at a time; 0 if it is unknown."""

    def describe(self) -> str:
        """Where cells will run, for the plan."""

    def check(self, root: Path, names: Sequence[str]) -> None:
        """Check, before anything runs, that cells will run as the command says.

        Args:
            root: folder of the sweeps.
            names: names of all cells of the plan, ``arm:seed``.

        Raises:
            ConfigError: they would not.
        """

    def notes(self) -> list[str]:
        """Notes for the user on what in the environment changes how cells run."""

    def checks(self, root: Path, runner: str) -> Iterator[Check]:
        """The checks of ``action=doctor`` for this launcher."""

    def preview(self, root: Path, jobs: Sequence[Job]) -> str:
        """What would be submitted for ``jobs``; empty if nothing is submitted."""

    def on_interrupt(self) -> str:
        """A sentence on what the first Ctrl-C does."""
