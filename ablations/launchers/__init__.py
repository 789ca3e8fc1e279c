"""Launchers: where cells run (slot ``launcher``).

A launcher is a strategy whose ``session`` starts workers.  The controller asks a session for free places, starts jobs
in them and collects their outcomes; what became of a cell is read from the cell's folder, never from the session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ablations.launchers.inline import Inline
from ablations.launchers.local import Local
from ablations.worker import Job

__all__ = ["Inline", "Launcher", "Local", "Session"]


class Session(Protocol):
    """Workers at work; used as a context manager, whose end leaves none behind."""

    def free(self) -> int:
        """How many more jobs can start now."""

    def start(self, job: Job) -> None:
        """Start a job; needs a free place."""

    def running(self) -> int:
        """How many jobs were started and not yet collected."""

    def poll(self, seconds: float) -> list[tuple[Job, int]]:
        """Jobs that ended, each with its :class:`~ablations.worker.Outcome`, or another exit code, or minus a signal.

        Waits for the first one up to ``seconds``.
        """

    def stop(self) -> None:
        """Ask all jobs to write a checkpoint and end."""

    def kill(self) -> None:
        """End all jobs at once."""

    def __enter__(self) -> Session: ...

    def __exit__(self, *_: object) -> None: ...


class Launcher(Protocol):
    """The strategy that a configuration names."""

    def session(self, runner: str, interrupted: Callable[[], bool]) -> Session:
        """Open a session.

        Args:
            runner: ``module:function`` that will run the cells, so that its imports can be shared.
            interrupted: whether the user asked for the end.
        """

    def places(self) -> int:
        """How many cells run at a time."""

    def describe(self) -> str:
        """Where cells will run, for the plan."""
