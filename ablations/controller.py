"""The main loop of a sweep: starts missing cells, waits for those of other commands, and survives failures."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ablations.arms import Cell
from ablations.cells import MOST_DEATHS, CellFolder, State
from ablations.costs import Budget, Ledger
from ablations.launchers import End, Session
from ablations.worker import RUNNER, Job, Outcome

#: Seconds between two looks at a cell that another controller runs.
LOOK = 1.0
#: Most such looks in one round; thousands of them would keep the machine busy.
MOST_LOOKS = 20

#: ``rerun=`` -> the states that do not count if they were reached before it.
_REDONE = {"failed": (State.FAILED,), "all": (State.FAILED, State.DONE)}


class View(Protocol):
    """Shows the controller's progress."""

    def refresh(self, controller: Controller) -> None:
        """Called several times a second."""

    def settled(self, cell: Cell, controller: Controller) -> None:
        """Called when a cell is done or has failed."""

    def say(self, text: str) -> None:
        """One line for the user."""


@dataclass
class Controller:
    """Runs cells through a session until each is done or has failed, the user stops it, or the disk is full."""

    cells: Sequence[Cell]
    root: Path
    """Folder of the cells' folders."""
    view: View
    interrupted: Callable[[], bool]
    """Whether the user interrupted the command. Jobs that can outlive it continue."""
    cancelled: Callable[[], bool] = lambda: False
    """Whether the whole sweep was cancelled, with all its jobs."""
    on_end: Callable[[str], None] = lambda _: None
    """Called with the id of a cell that is done or has failed."""
    rerun: str = "missing"
    """``missing``, ``failed`` (those too), ``all`` (done ones too) or ``none``."""
    since: float = 0.0
    """When the rerun began: cells that ended later count."""
    runner: str = RUNNER
    budget: Budget = field(default_factory=Budget)
    states: dict[str, State] = field(default_factory=dict)
    """Cell id -> its state for this sweep."""
    over_budget: bool = False
    """Whether cells were not started because of the budget."""
    storage_fault: bool = False
    """Whether a worker could not write."""
    started: dict[str, float] = field(default_factory=dict)
    """Cell id -> when this controller started it (monotonic seconds)."""
    seconds: list[float] = field(default_factory=list)
    """Durations of the cells that finished here."""
    mine: set[str] = field(default_factory=set)
    """Cells that run in this controller's session."""

    def __post_init__(self) -> None:
        self.by_id: Mapping[str, Cell] = {cell.id: cell for cell in self.cells}
        self.ledger = Ledger(self.budget, self.cells)
        self._deadline = time.monotonic() + self.budget.wall_s
        self._ended_jobs: dict[str, str] = {}
        self._looked: dict[str, float] = {}
        # Cell id -> how many attempts there had been when it was started here.
        self._attempts: dict[str, int] = {}
        self._fresh = self.since if self.rerun == "all" else 0.0
        for cell_id in self.by_id:
            self._stand(cell_id, self._state(cell_id))

    def folder(self, cell_id: str) -> CellFolder:
        """The folder of a cell."""
        return CellFolder(self.root / cell_id, self._ended_jobs.get(cell_id, ""))

    def pending(self) -> list[str]:
        """Cells that are neither done nor failed, in order."""
        return [cell_id for cell_id, state in self.states.items() if state in (State.MISSING, State.RUNNING)]

    def counts(self) -> str:
        """How many cells are in which state, in words."""
        counted = Counter(state.value for state in self.states.values())
        return f"{len(self.states)} cells: " + ", ".join(f"{number} {state}" for state, number in counted.items())

    def run(self, session: Session) -> None:
        """Work until no cell is pending, nothing runs and the rest is over budget, or a stop was requested."""
        asked = False
        while self.pending():
            asked = asked or self._told(session)
            if not asked:
                self._start(session)
            if asked and not session.running():
                return
            # Running cells may still fail or be cheaper than expected, which frees budget.
            if self.over_budget and State.RUNNING not in self.states.values():
                return
            for job, end in session.poll(0.2):
                self._collect(job.cell_id, end, asked)
            self.view.refresh(self)

    def _told(self, session: Session) -> bool:
        """Whether a stop is requested; if so, tells the workers."""
        late = time.monotonic() > self._deadline
        self.over_budget = self.over_budget or late
        if late or self.cancelled():
            session.stop()
        elif self.interrupted() or self.storage_fault:
            if where := session.detach():
                self.view.say(where)
        else:
            return False
        return True

    def _start(self, session: Session) -> None:
        """Start cells in free slots; record what other controllers did with the rest."""
        self.over_budget = False
        for cell_id in self._due():
            startable = session.free_slots() > 0 and not self.over_budget
            if startable and not self.ledger.affords(cell_id):
                self.over_budget, startable = True, False
            if startable or self.states[cell_id] is State.RUNNING:
                self._look(cell_id, session if startable else None)

    def _due(self) -> list[str]:
        """Cells to look at now, in order; of cells that run elsewhere, those not looked at for longest."""
        recent = time.monotonic() - LOOK
        looked = {cell_id: self._looked.get(cell_id, -math.inf) for cell_id in self.pending()}
        due = [cell_id for cell_id, when in looked.items() if cell_id not in self.mine and when <= recent]
        elsewhere = [cell_id for cell_id in due if self.states[cell_id] is State.RUNNING]
        left = set(sorted(elsewhere, key=looked.__getitem__)[MOST_LOOKS:])
        return [cell_id for cell_id in due if cell_id not in left]

    def _look(self, cell_id: str, session: Session | None) -> None:
        """Settle a cell that another controller ended; start it in ``session`` if it is free."""
        state = self._state(cell_id)
        if state is State.MISSING and session is not None:
            self.mine.add(cell_id)
            self.started[cell_id] = time.monotonic()
            self._stand(cell_id, State.RUNNING)
            cell, folder = self.by_id[cell_id], self.folder(cell_id)
            self._attempts[cell_id] = folder.attempts()
            session.start(Job(folder.path.resolve(), cell.config.to_dict(), self._fresh, self.runner, cell.name))
            return
        self._looked[cell_id] = time.monotonic()
        self._settle(cell_id, state)

    def _collect(self, cell_id: str, end: End, stopping: bool) -> None:
        """Record how a worker ended."""
        self.mine.discard(cell_id)
        # A worker that found the cell taken tells nothing about the worker that has it.
        if end.job and end.outcome is not Outcome.BUSY:
            self._ended_jobs[cell_id] = end.job
        if end.outcome is Outcome.STORAGE:
            self.storage_fault = True
        if not (stopping or self.interrupted() or self.cancelled()) and self._in_vain(cell_id, end):
            self._died(cell_id, end)
        state = self._state(cell_id)
        if state is State.DONE:
            self.seconds.append(time.monotonic() - self.started[cell_id])
        self._settle(cell_id, state)

    def _in_vain(self, cell_id: str, end: End) -> bool:
        """Whether a worker ended without a trace in its cell's folder: started again and again, it would never end."""
        if end.outcome is None:
            return True
        if end.outcome is Outcome.STOPPED:  # nobody requested it; of jobs of a cluster, the job itself reports why
            return not end.job
        return end.outcome in (Outcome.DONE, Outcome.FAILED) and not self._began(cell_id, end.job)

    def _died(self, cell_id: str, end: End) -> None:
        """Start a cell again whose worker died, unless that has happened too often in a row."""
        if self._state(cell_id) in (State.DONE, State.FAILED):
            return  # it died after it had written its result
        folder, message = self.folder(cell_id), end.message or "it stopped although nobody had asked for that"
        if not folder.died(end.cause, job=end.job, pid=end.pid, after=self._attempts[cell_id]):
            unknown = "its log is empty" if end.job else "what it said is in the output of this command"
            message = f"{message} before the cell began: {end.last_words or unknown}"
            # It counts as an attempt, so that a cell that cannot begin is given up at some point.
            if attempt := folder.claim({"gpus": 0.0}, self._fresh):
                attempt.forget(self._fresh)
                attempt.die(end.cause, time.time())
        deaths = folder.deaths()
        if end.cause not in ("oom", "cancelled") and folder.may_go_on(end.cause):
            again = f"it is started again, {deaths} of {MOST_DEATHS} times without a new checkpoint"
            how = again if deaths else "it goes on from its checkpoint"
            self.view.say(f"{self.by_id[cell_id].name}: {message}; {how}")
        elif claim := folder.claim():
            often = f"; the last {deaths} attempts ended so without a new checkpoint" if deaths > 1 else ""
            claim.fail(end.cause, message + often, end.log, int(folder.last_row().get("step", 0)))

    def _began(self, cell_id: str, job: str) -> bool:
        """Whether the worker had claimed its cell before it ended."""
        folder = self.folder(cell_id)
        if job:  # possibly before this command began
            return any(worker.get("job") == job for worker in folder.workers())
        return folder.attempts() > self._attempts[cell_id]

    def _state(self, cell_id: str) -> State:
        """A cell's state for this sweep; an end that ``rerun=`` repeats does not count."""
        folder = self.folder(cell_id)
        state = folder.state()
        since = self.since if state in _REDONE.get(self.rerun, ()) else 0.0
        # Another command may just have removed the end; then it has no time.
        if state in (State.DONE, State.FAILED) and folder.ended() <= since:
            return State.RUNNING if folder.claimed() else State.MISSING
        return state

    def _stand(self, cell_id: str, state: State) -> None:
        """Record a cell's state."""
        self.states[cell_id] = state
        self.ledger.note(cell_id, self.folder(cell_id), state)

    def _settle(self, cell_id: str, state: State) -> None:
        before = self.states[cell_id]
        self._stand(cell_id, state)
        if state is not before and state in (State.DONE, State.FAILED):
            self.view.settled(self.by_id[cell_id], self)
            self.on_end(cell_id)
