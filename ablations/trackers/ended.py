"""Gives each cell that has ended to a writer, once: for trackers that write a cell at a time and have no server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ablations.arms import Cell
from ablations.cells import CellFolder, State
from ablations.plan import Plan
from unigrpo.io import locked


class Writer(Protocol):
    """Writes cells to one tracker."""

    def has(self, cell: Cell, signature: str) -> bool:
        """Whether the cell is there as it ended."""

    def write(self, cell: Cell, folder: CellFolder, signature: str) -> None:
        """Write the cell, in place of what is there of it."""

    def how_to_look(self) -> str:
        """How to look at what was written."""


class EndedCells:
    """A mirror that writes in a background thread; a fault is told once, and stops no sweep."""

    def __init__(self, root: Path, plan: Plan, title: str, writer: Writer, say: Callable[[str], None]) -> None:
        self._root = root
        self._cells = {cell.id: cell for cell in plan.cells()}
        self._title = title
        self._writer = writer
        self._say = say
        self._ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def wake(self, cell_id: str) -> None:
        """Report that a cell has ended; returns at once."""
        self._ended.put(cell_id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def finish(self, report: Path | None = None) -> None:
        """Write all cells that have ended and are not there; returns when that is done or has failed."""
        del report  # it stays where it is
        if self._thread is not None:
            self._ended.put(None)
            self._thread.join()
        try:
            for cell in self._cells.values():
                self._write(cell)
        except Exception as error:  # from the tracker's package, or the disk
            first = next(iter(str(error).strip().splitlines()), "")[:200]
            self._say(
                f"warning: {self._title}: {type(error).__name__}: {first}; the same command mirrors what is missing"
            )

    def how_to_look(self) -> str:
        """How to look at what was written."""
        return self._writer.how_to_look()

    def _work(self) -> None:
        try:
            while (cell_id := self._ended.get()) is not None:
                self._write(self._cells[cell_id])
        except Exception:  # it is tried again, and told, at the end of the sweep
            return

    def _write(self, cell: Cell) -> None:
        folder = CellFolder(self._root / "cells" / cell.id)
        signature = folder.signature()
        if not signature or folder.state() not in (State.DONE, State.FAILED):
            return
        with locked(self._root / "tracker.lock"):  # of two commands at once, neither writes what the other writes
            if not self._writer.has(cell, signature):
                self._writer.write(cell, folder, signature)
