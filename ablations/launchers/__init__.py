"""Launchers: where cells run (slot ``launcher``).

A launcher is a strategy whose ``session`` starts workers.  The controller asks a session for free places, starts jobs
in them and collects their ends; what became of a cell is read from the cell's folder, never from the session.
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
    """Workers at work; used as a context manager, whose end leaves none behind but those of a cluster."""

    def free_slots(self) -> int:
        """How many more jobs can start now."""

    def start(self, job: Job) -> None:
        """Start a job; needs a free place."""

    def running(self) -> int:
        """How many jobs were started and not yet collected."""

    def poll(self, seconds: float) -> list[tuple[Job, End]]:
        """Jobs that ended; waits for the first one up to ``seconds``."""

    def detach(self) -> str:
        """The user goes: what cannot outlive the command writes a checkpoint and ends; says where the rest is."""

    def stop(self) -> None:
        """Ask all jobs to write a checkpoint and end."""

    def kill(self) -> None:
        """End all jobs that cannot outlive the command at once."""

    def __enter__(self) -> Session: ...

    def __exit__(self, *_: object) -> None: ...


class Launcher(Protocol):
    """The strategy that a configuration names."""

    def session(self, root: Path, runner: str, interrupted: Callable[[], bool]) -> Session:
        """Open a session.

        Args:
            root: folder of the sweeps.
            runner: ``module:function`` that will run the cells, so that its imports can be shared.
            interrupted: whether the user asked for the end.
        """

    def capacity(self) -> int:
        """How many cells run at a time."""

    def describe(self) -> str:
        """Where cells will run, for the plan."""

    def check(self, root: Path, names: Sequence[str]) -> None:
        """See to it that cells run as the command says, before anything runs.

        Args:
            root: folder of the sweeps.
            names: of all cells of the plan, ``arm:seed``.

        Raises:
            ConfigError: they would not.
        """

    def notes(self) -> list[str]:
        """What of the surroundings changes how cells run, for the user to know."""

    def checks(self, root: Path, runner: str) -> Iterator[Check]:
        """What ``action=doctor`` finds where cells will run."""

    def preview(self, root: Path, jobs: Sequence[Job]) -> str:
        """What would be submitted for ``jobs``; empty where nothing is."""

    def on_interrupt(self) -> str:
        """What the first Ctrl-C does, in words."""
