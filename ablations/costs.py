"""What cells cost, over all their attempts, and what the rest of a sweep may cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from ablations.cells import CellFolder, State
from ablations.plan import Cell
from unigrpo.errors import ConfigError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Cost:
    """The cost of one cell so far; costs add up."""

    attempts: int = 0
    seconds: float = 0.0
    """Wall time of all attempts, up to their last sign of life where they died."""
    gpu_seconds: float = 0.0
    wasted_s: float = 0.0
    """Seconds after the last checkpoint of attempts that did not finish, which had to be done again."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.attempts + other.attempts,
            self.seconds + other.seconds,
            self.gpu_seconds + other.gpu_seconds,
            self.wasted_s + other.wasted_s,
        )


def cost_of(cell: CellFolder) -> Cost:
    """The cost of all attempts of a cell."""
    holders = cell.holders()
    total = Cost()
    for i, holder in enumerate(holders):
        if (worker := holder.get("worker")) is None:
            continue
        # A copied folder may have lost the times of its files: they count only where nothing else tells.
        begun, end = holder["since"], holder.get("until", holder["last_sign"])
        running = i + 1 == len(holders) and "released" not in holder and cell.claimed()
        # What the next attempt found, this one had saved; a claim that was cut short does not say what it found.
        saved = next((later["checkpoint"] for later in holders[i + 1 :] if "checkpoint" in later), cell.checkpoint())
        kept = running or holder.get("released") == "done"
        wasted = 0.0 if kept else end - min(max(saved / 1e9, begun), end)
        total += Cost(1, end - begun, (end - begun) * worker["gpus"], wasted)
    return total


class Estimates:
    """Guesses from finished cells: those of the same arm, or else those of all trained arms."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.trained = {cell.arm: cell.config.optim.updates > 0 for cell in cells}
        self._known: dict[str, dict[str, Cost]] = {}

    def learn(self, cell: Cell, cost: Cost) -> None:
        """Take a finished cell into account."""
        self._known.setdefault(cell.arm, {})[cell.id] = cost

    def of(self, cell: Cell) -> Cost | None:
        """What a cell may cost; None while there is nothing to tell from."""
        alike = self._known.get(cell.arm) or {
            cell_id: cost
            for arm, costs in self._known.items()
            if self.trained[arm] == self.trained[cell.arm]
            for cell_id, cost in costs.items()
        }
        if not alike:
            return None
        costs = alike.values()
        return Cost(1, fmean(cost.seconds for cost in costs), fmean(cost.gpu_seconds for cost in costs))


@dataclass(frozen=True)
class Budget:
    """What a sweep may take; infinity is no limit."""

    gpu_hours: float = math.inf
    """GPU-hours of all cells of the sweep, over all commands."""
    cells: float = math.inf
    """Cells of the sweep that may be done, over all commands."""
    wall_s: float = math.inf
    """Seconds of this command."""

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Budget:
        """From the keys ``gpu_hours``, ``cells`` and ``wall`` (``90`` seconds, ``45min``, ``2h``).

        Raises:
            ConfigError: not a number above 0.
        """
        read = {}
        for key, text in values.items():
            found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip())
            unit = _UNITS.get(found[2]) if found and (key == "wall" or not found[2]) else None
            if found is None or unit is None or float(found[1]) <= 0:
                raise ConfigError(f"budget.{key}: expected a number above 0{_example(key)}, got {text!r}")
            read["wall_s" if key == "wall" else key] = float(found[1]) * unit
        return cls(**read)


def _example(key: str) -> str:
    return ", as 90s, 45min or 2h" if key == "wall" else ""


class Ledger:
    """Says whether a sweep can afford its next cell."""

    def __init__(self, budget: Budget, cells: Iterable[Cell]) -> None:
        self.budget = budget
        self.cells = {cell.id: cell for cell in cells}
        self.estimates = Estimates(self.cells.values())
        self._spent: dict[str, float] = {}
        """Cell id -> GPU-seconds so far."""
        self._running: set[str] = set()
        self._done: set[str] = set()

    def note(self, cell_id: str, folder: CellFolder, state: State) -> None:
        """Take into account where a cell stands, whichever command brought it there."""
        self._running.discard(cell_id)
        self._done.discard(cell_id)
        if state is State.RUNNING:
            self._running.add(cell_id)
        elif state is State.DONE:
            self._done.add(cell_id)
        if math.isfinite(self.budget.gpu_hours):
            cost = cost_of(folder)
            self._spent[cell_id] = cost.gpu_seconds
            if cell_id in self._done:
                self.estimates.learn(self.cells[cell_id], cost)

    def affords(self, cell_id: str) -> bool:
        """Whether the cell can be started, if those that run cost what similar ones did."""
        if cell_id in self._running:  # elsewhere: whoever goes on with it, it is counted
            return True
        if len(self._done) + len(self._running) >= self.budget.cells:
            return False
        if math.isinf(self.budget.gpu_hours):
            return True
        cell = self.cells[cell_id]
        estimate = self.estimates.of(cell)
        running = {self.cells[it].arm: self.cells[it] for it in self._running}
        if estimate is None:  # the first of its kind tells what the others cost
            return cell.arm not in running
        guesses = {arm: self.estimates.of(example) or Cost() for arm, example in running.items()}
        ahead = sum(max(guesses[self.cells[it].arm].gpu_seconds - self._spent[it], 0.0) for it in self._running)
        return sum(self._spent.values()) + ahead + estimate.gpu_seconds <= self.budget.gpu_hours * 3600
