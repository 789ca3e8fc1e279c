"""Trackers: where a sweep's cells can be looked at (slot ``tracker``).

A tracker is a strategy that mirrors the cells that have ended.  It reads the cells' folders and decides nothing: what
it misses stays in the files, and the next command mirrors it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from ablations.plan import Plan
from ablations.trackers.mlflow import Mlflow
from ablations.trackers.none import Untracked
from ablations.trackers.tensorboard import TensorBoard
from ablations.trackers.wandb import Wandb

__all__ = ["Mirror", "Mlflow", "TensorBoard", "Tracker", "Untracked", "Wandb"]


class Mirror(Protocol):
    """Mirrors the cells of one sweep.  No fault of it stops the sweep; each is told in a line."""

    def wake(self, cell_id: str) -> None:
        """Report that a cell has ended; returns at once."""

    def finish(self, report: Path | None = None) -> None:
        """Mirror all cells that have ended and are not there yet, and the report; returns when that is done."""

    def how_to_look(self) -> str:
        """How to look at what was mirrored."""


class Tracker(Protocol):
    """A strategy of slot ``tracker``."""

    title: ClassVar[str]
    """What people call it."""

    def check(self, root: Path) -> None:
        """Check, before anything runs, that it can mirror the sweeps of ``root``.

        Raises:
            ConfigError: a package is missing, or the folder's name cannot be used.
        """

    def mirror(self, root: Path, folder: Path, plan: Plan, say: Callable[[str], None]) -> Mirror | None:
        """A mirror of one sweep; None mirrors nothing.

        Args:
            root: folder of the sweeps.
            folder: of this sweep's own files.
            plan: of the sweep.
            say: tells the user a line.
        """
