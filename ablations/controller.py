"""The loop of a sweep: starts what is missing, waits for what others run, isolates what fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ablations.cells import CellFolder, State
from ablations.launchers import Session
from ablations.plan import Cell
from ablations.worker import RUNNER, Job, Outcome

#: Seconds between looks at cells that another controller has.
LOOK = 1.0

#: ``rerun=`` -> the ends that do not count.
_REDONE = {"failed": (State.FAILED,), "all": (State.FAILED, State.DONE)}


class View(Protocol):
    """What the controller tells about its progress."""

    def refresh(self, controller: Controller) -> None:
        """Called several times a second."""

    def settled(self, cell: Cell, controller: Controller) -> None:
        """Called when a cell reached its end: done, or failed."""

    def say(self, text: str) -> None:
        """One line for the user."""


@dataclass
class Controller:
    """Runs cells through a session until each is done or failed, or the user or a full disk puts an end to it."""

    cells: Sequence[Cell]
    root: Path
    """Folder of the cells' folders."""
    view: View
    interrupted: Callable[[], bool]
    on_end: Callable[[], None] = lambda: None
    """Called when a cell reached its end."""
    rerun: str = "missing"
    """``missing``, ``failed`` (those too), ``all`` (done ones too) or ``none``."""
    runner: str = RUNNER
    states: dict[str, State] = field(default_factory=dict)
    """Cell id -> where it stands for this sweep."""
    storage_fault: bool = False
    """Whether a worker could not write."""
    started: dict[str, float] = field(default_factory=dict)
    """Cell id -> when this controller started it (monotonic seconds)."""
    seconds: list[float] = field(default_factory=list)
    """How long the cells took that finished here."""
    mine: set[str] = field(default_factory=set)
    """Cells that run in this controller's session."""

    def __post_init__(self) -> None:
        self.by_id: Mapping[str, Cell] = {cell.id: cell for cell in self.cells}
        self._retried: set[str] = set()
        self._looked: dict[str, float] = {}
        # Cell id -> signature of an end that does not count, since it is to be tried again.
        self._redo: dict[str, str] = {}
        for cell_id in self.by_id:
            folder = self.folder(cell_id)
            state = folder.state()
            if state in _REDONE.get(self.rerun, ()):
                self._redo[cell_id] = folder.signature()
                state = State.MISSING
            self.states[cell_id] = state

    def folder(self, cell_id: str) -> CellFolder:
        """The folder of a cell."""
        return CellFolder(self.root / cell_id)

    def pending(self) -> list[str]:
        """Cells that have not reached their end, in order."""
        return [cell_id for cell_id, state in self.states.items() if state in (State.MISSING, State.RUNNING)]

    def counts(self) -> str:
        """How many cells are in which state, in words."""
        counted = Counter(state.value for state in self.states.values())
        return f"{len(self.states)} cells: " + ", ".join(f"{number} {state}" for state, number in counted.items())

    def run(self, session: Session) -> None:
        """Work until nothing is pending, or until the end is asked for and all workers have ended."""
        asked = False
        while self.pending():
            if not asked and (self.interrupted() or self.storage_fault):
                asked = True
                session.stop()
            if asked and not session.running():
                return
            if not asked:
                self._start(session)
            for job, code in session.poll(0.2):
                self._collect(job.cell_id, code, asked)
            self.view.refresh(self)

    def _start(self, session: Session) -> None:
        """Start cells in free places; note what other controllers did with the rest."""
        now = time.monotonic()
        for cell_id in self.pending():
            if cell_id in self.mine or now - self._looked.get(cell_id, -LOOK) < LOOK:
                continue
            if session.free():
                self._look(cell_id, session)
            elif self.states[cell_id] is State.RUNNING:
                self._look(cell_id, None)

    def _look(self, cell_id: str, session: Session | None) -> None:
        """Settle a cell that another controller ended; start it in ``session`` if it is to be had."""
        folder = self.folder(cell_id)
        state = folder.state()
        if state in (State.DONE, State.FAILED) and folder.signature() == self._redo.get(cell_id):
            state = State.MISSING
        if state is State.MISSING and session is not None:
            self.mine.add(cell_id)
            self.started[cell_id] = time.monotonic()
            self.states[cell_id] = State.RUNNING
            fresh = self.rerun == "all" and cell_id in self._redo
            session.start(Job(folder.path, self.by_id[cell_id].config.to_dict(), fresh, self.runner))
            return
        self._looked[cell_id] = time.monotonic()
        self._settle(cell_id, state)

    def _collect(self, cell_id: str, code: int, stopping: bool) -> None:
        """Note how a worker ended."""
        self.mine.discard(cell_id)
        folder = self.folder(cell_id)
        if code == Outcome.STORAGE:
            self.storage_fault = True
        known = code in set(Outcome)
        if not known and not stopping:
            self._died(cell_id, code)
        elif known and code != Outcome.BUSY:
            self._redo.pop(cell_id, None)
        state = folder.state()
        if state is State.DONE:
            self.seconds.append(time.monotonic() - self.started[cell_id])
        self._settle(cell_id, state)

    def _died(self, cell_id: str, code: int) -> None:
        """A worker ended without saying why: try again once if it got somewhere, else the cell has failed."""
        folder = self.folder(cell_id)
        again = cell_id not in self._retried and folder.got_further()
        claim = folder.claim()
        if claim is None:
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if again:
            self._retried.add(cell_id)
            self._redo.pop(cell_id, None)
            claim.release("killed")
            self.view.say(f"{self.by_id[cell_id].name}: its process {how}; it goes on from its checkpoint")
        else:
            claim.fail("killed", f"its process {how}", "", int(folder.last_row().get("step", 0)))

    def _settle(self, cell_id: str, state: State) -> None:
        before, self.states[cell_id] = self.states[cell_id], state
        if state is not before and state in (State.DONE, State.FAILED):
            self.view.settled(self.by_id[cell_id], self)
            self.on_end()
