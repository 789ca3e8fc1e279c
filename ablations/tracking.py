"""Mirrors the files of a sweep to MLflow: one writer, whole cells at a time, no point twice; a fault stops no sweep.

A cell is mirrored into a run of its own when it has ended.  It is recorded in ``mlflow.json`` of the sweep's folder
after its last point was written.  A run in MLflow without such a record is incomplete: it is deleted and written again,
so no chart has a point twice.  A store that is down is tried again later.  A store that refuses is reported at once.
What a store missed stays in the files, and the next command mirrors it.  MLflow is imported only if there is something
to mirror.  If several roots share a store, each root finds its own runs by the random id in its ``mlflow.id``.  Texts
of a grid are never part of a query.
"""

from __future__ import annotations

import os
import queue
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ablations.arms import Cell
from ablations.cells import CellFolder, State
from ablations.plan import Plan
from ablations.store_faults import way_out
from ablations.store_memory import Memory
from ablations.store_text import public
from ablations.store_views import addresses
from ablations.store_writer import Writer, tree_digest
from unigrpo.io import locked

#: Seconds between two batches.
PAUSE = 3.0
#: Seconds until a failed store is tried again: the first time, and at most.
RETRY, MOST_RETRY = 5.0, 60.0
#: Seconds to wait at the end for a store that has worked before.
PATIENCE = 90.0


class Mirror:
    """Mirrors the cells of one sweep in a background thread; each outage is reported in one line."""

    def __init__(self, root: Path, folder: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self.root = root
        self.folder = folder
        self.plan = plan
        self.say = say
        self.uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or f"sqlite:///{(root / 'mlflow.db').resolve()}"
        self._cells = {cell.id: cell for cell in plan.cells()}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._due: set[str] = set(self._cells)
        """Cells that may have to be mirrored; at first all of them."""
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._writer: Writer | None = None
        self._worked = False
        """Whether the store has answered in this command."""
        self._down = False
        self._refused = False
        """Whether the store refuses, so that waiting does not help."""

    def wake(self, cell_id: str) -> None:
        """Report that a cell has ended; returns at once."""
        self._ended.put(cell_id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._wake.set()

    def finish(self, report: Path | None = None) -> None:
        """Mirror the remaining cells and the report; returns when that is done or has failed."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._due |= set(self._cells)  # cells that other commands have ended too
        done = self._sync(report)
        end = time.monotonic() + (PATIENCE if self._worked else 0.0)
        while not done and not self._refused and time.monotonic() < end:
            time.sleep(RETRY)
            done = self._sync(report)

    def how_to_look(self) -> str:
        """The command that opens the store, and the addresses of the pages with all cells."""
        memory = Memory(self.folder / "mlflow.json", self.uri)
        if not memory.experiment:
            return f"nothing was written to {public(self.uri)}"
        pages = addresses(memory.experiment, memory.views or ())
        if self.uri.startswith("http"):
            return "\n  ".join(public(self.uri).rstrip("/") + page for page in pages)
        if not self.uri.startswith("sqlite:"):
            return public(self.uri)
        command = f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"
        return "\n  then ".join([command, *(f"http://127.0.0.1:5000{page}" for page in pages)])

    def _work(self) -> None:
        pause = RETRY
        while not self._closed.is_set():
            self._wake.wait()
            self._wake.clear()
            if self._closed.is_set():
                return
            if self._sync(None):
                pause = RETRY
                self._closed.wait(PAUSE)
            elif self._refused:
                return  # it is tried once more at the end of the sweep
            else:
                self._wake.set()
                self._closed.wait(pause)
                pause = min(2 * pause, MOST_RETRY)

    def _sync(self, report: Path | None) -> bool:
        """Mirror what is due; returns whether the store accepted it."""
        while not self._ended.empty():
            self._due.add(self._ended.get())
        known = self._writer is not None
        try:
            with locked(self.root / "mlflow.lock"):
                self._mirror(Memory(self.folder / "mlflow.json", self.uri), report)
        except Exception as error:  # from MLflow, its database or its server
            self._writer = None
            advice = way_out(error)
            if advice and known:
                return self._sync(report)  # what it refers to may be deleted; a new writer looks for it again
            self._tell(error, advice)
            return False
        if self._down:
            self.say("MLflow is back")
        self._down = self._refused = False
        self._due.clear()
        return True

    def _mirror(self, memory: Memory, report: Path | None) -> None:
        todo = self._todo(memory)
        published = tree_digest(report) if report else memory.report
        if not todo and published == memory.report and memory.views is not None:
            return
        if self._writer is None:
            self._writer = Writer(self.plan, self.root, memory, self.say)
            self._worked = True
        if self._writer.open(memory):
            self._due = set(self._cells)
            todo = self._todo(memory)
        self._writer.write(memory, todo, report, published)

    def _tell(self, error: Exception, advice: str) -> None:
        """Warn once about an outage, and once more if it becomes a refusal."""
        if not self._down or (advice and not self._refused):
            first = public(next(iter(str(error).strip().splitlines()), ""))[:200]
            outlook = (
                f"; {advice}; then the same command mirrors it" if advice else "; the same command catches up later"
            )
            self.say(f"warning: MLflow{' refuses' if advice else ''}: {type(error).__name__}: {first}{outlook}")
        self._down, self._refused = True, bool(advice)

    def _todo(self, store: Memory) -> list[tuple[Cell, CellFolder]]:
        due = (self._cells[cell_id] for cell_id in self._cells if cell_id in self._due)
        folders = ((cell, CellFolder(self.root / "cells" / cell.id)) for cell in due)
        return [
            (cell, folder)
            for cell, folder in folders
            if folder.state() in (State.DONE, State.FAILED) and folder.signature() not in ("", store.cells.get(cell.id))
        ]
