"""The cost of cells over all attempts, and an estimate for the rest of a sweep."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from ablations.arms import Cell
from ablations.cells import CellFolder, State
from unigrpo.errors import ConfigError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Cost:
    """The cost of one cell so far; costs add up."""

    attempts: int = 0
    seconds: float = 0.0
    """Wall time of all attempts; of one that died, up to its last sign of life."""
    gpu_seconds: float = 0.0
    wasted_s: float = 0.0
    """Seconds after the last checkpoint of unfinished attempts, which had to be repeated."""

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
        # Copying a folder may change the times of its files, so they are used only if nothing else is known.
        begun, end = holder["since"], holder.get("until", holder["last_sign"])
        running = i + 1 == len(holders) and "released" not in holder and cell.claimed()
        # The checkpoint that the next attempt found was saved by this one; an incomplete claim does not record it.
        saved = next((later["checkpoint"] for later in holders[i + 1 :] if "checkpoint" in later), cell.checkpoint())
        kept = running or holder.get("released") == "done"
        wasted = 0.0 if kept else end - min(max(saved / 1e9, begun), end)
        total += Cost(1, end - begun, (end - begun) * worker["gpus"], wasted)
    return total


class Estimates:
    """Cost estimates from finished cells: of the same arm, or else of all arms that train."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.trained = {cell.arm: cell.config.optim.updates > 0 for cell in cells}
        self._known: dict[str, dict[str, Cost]] = {}

    def learn(self, cell: Cell, cost: Cost) -> None:
        """Take a finished cell into account."""
        self._known.setdefault(cell.arm, {})[cell.id] = cost

    def of(self, cell: Cell) -> Cost | None:
        """The estimated cost of a cell; None if no similar cell has finished."""
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
    """Limits of a sweep; infinity means no limit."""

    gpu_hours: float = math.inf
    """GPU-hours of all cells of the sweep, over all commands."""
    cells: float = math.inf
    """Most cells of the sweep that are done, over all commands."""
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
    """Decides whether the budget allows the next cell."""

    def __init__(self, budget: Budget, cells: Iterable[Cell]) -> None:
        self.budget = budget
        self.cells = {cell.id: cell for cell in cells}
        self.estimates = Estimates(self.cells.values())
        self._spent: dict[str, float] = {}
        """Cell id -> GPU-seconds so far."""
        self._running: set[str] = set()
        self._done: set[str] = set()

    def note(self, cell_id: str, folder: CellFolder, state: State) -> None:
        """Record the state of a cell, whichever command ran it."""
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
        """Whether the budget allows the cell, if running cells cost as much as similar finished ones."""
        if cell_id in self._running:  # it runs elsewhere, and is counted already
            return True
        if len(self._done) + len(self._running) >= self.budget.cells:
            return False
        if math.isinf(self.budget.gpu_hours):
            return True
        cell = self.cells[cell_id]
        estimate = self.estimates.of(cell)
        running = {self.cells[it].arm: self.cells[it] for it in self._running}
        if estimate is None:  # wait for the first cell of the arm, which shows what the others cost
            return cell.arm not in running
        guesses = {arm: self.estimates.of(example) or Cost() for arm, example in running.items()}
        ahead = sum(max(guesses[self.cells[it].arm].gpu_seconds - self._spent[it], 0.0) for it in self._running)
        return sum(self._spent.values()) + ahead + estimate.gpu_seconds <= self.budget.gpu_hours * 3600
