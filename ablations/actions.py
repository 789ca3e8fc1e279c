"""The actions that run no cell: plan, status, explain, cancel, gc."""

from __future__ import annotations

import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.arms import Cell
from ablations.cells import STALE, CellFolder, State
from ablations.costs import Cost, Estimates, cost_of
from ablations.display import duration
from ablations.foresight import foresight
from ablations.launchers import Launcher
from ablations.launchers.batches import Batches
from ablations.launchers.queue import Queue, SlurmDown
from ablations.launchers.slurm_session import cancel_jobs
from ablations.plan import Plan
from ablations.record import planned, sweep_folder
from ablations.worker import RUNNER, Job
from unigrpo.errors import ConfigError
from unigrpo.identity import flat
from unigrpo.io import read_json, write_text

#: Most differing keys that ``explain`` lists; further ones are counted.
MOST_KEYS = 12

#: Seconds for which ``gc`` keeps copies of the code and files of ``action=doctor``.
KEPT = 7 * 86400.0

#: A configuration as pairs of key and value text.
Traits = frozenset[tuple[str, str]]


def plan_text(plan: Plan, cells: Sequence[Cell], root: Path, launcher: Launcher) -> str:
    """The cells that would run, the state of every cell, and what the launcher would submit."""
    folders = {cell.id: CellFolder(root / "cells" / cell.id) for cell in cells}
    states = {cell_id: folder.state() for cell_id, folder in folders.items()}
    costs = {cell_id: cost_of(folder) for cell_id, folder in folders.items()}
    lines = [
        *_head(plan, root, launcher),
        *(f"  {states[cell.id].value:<8} {cell.id}  {cell.name}" for cell in cells),
        "",
        *_sum(cells, states, costs),
        *(f"power     {line}" for line in foresight(plan, root, _estimates(plan.cells(), states, costs))),
        *(f"refused   {arm.name}: {reason}" for arm in plan.arms for reason in arm.refused),
        *(f"note      {note}" for note in (*plan.notes, *launcher.notes())),
    ]
    missing = [cell for cell in cells if states[cell.id] is State.MISSING]
    jobs = [Job(folders[cell.id].path, {}, False, RUNNER, cell.name) for cell in missing]
    preview = launcher.preview(root, jobs) if jobs else ""
    return "\n".join([*lines, *([f"\n{preview}"] if preview else [])])


def status_text(plan: Plan, cells: Sequence[Cell], root: Path, launcher: Launcher) -> str:
    """The state and cost of every cell, and details of those that wait, run or failed."""
    folders = {cell.id: CellFolder(root / "cells" / cell.id) for cell in cells}
    states = {cell_id: folder.state() for cell_id, folder in folders.items()}
    queued = _queued(root, [cell_id for cell_id, state in states.items() if state in (State.MISSING, State.RUNNING)])
    costs = {cell_id: cost_of(folder) for cell_id, folder in folders.items()}
    lines = _head(plan, root, launcher)
    for cell in cells:
        cost = costs[cell.id]
        spent = f"  {cost.attempts} x, {duration(cost.seconds)}" if cost.attempts else ""
        told = _told(cell, folders[cell.id], states[cell.id], queued, plan.grid.primary["metric"])
        lines.append(f"  {states[cell.id].value:<8} {cell.id}  {cell.name}{spent}{f'  {told}' if told else ''}")
    return "\n".join([*lines, "", *_sum(cells, states, costs)])


def explain_text(cells: Sequence[Cell], root: Path) -> str:
    """Why each cell is done or not, and how it differs from the most similar finished cell."""
    finished = functools.cache(lambda: _Finished.of(root))  # read once, and only if needed
    folders = ((cell, CellFolder(root / "cells" / cell.id)) for cell in cells)
    return "\n".join(f"{cell.name} ({cell.id}): {_why(cell, folder, finished)}" for cell, folder in folders)


def cancel(plan: Plan, cells: Sequence[Cell], root: Path) -> str:
    """Stop everything of a sweep, on all machines: commands by a file, Slurm jobs by ``scancel``.

    Raises:
        SlurmDown: Slurm does not answer.
    """
    folder = sweep_folder(root, plan)
    if not folder.is_dir():
        return f"there is no sweep {folder}"
    # Its content does not matter: a command stops when the file changes.
    write_text(folder / "cancel", f"{time.time_ns()}\n")
    batches = Batches.of(root)
    tickets = [ticket for cell in cells if (ticket := batches.last(cell.id))]
    cancelled = 0
    if tickets:
        queue = Queue()
        queue.look([])
        cancelled = cancel_jobs({ticket for ticket in tickets if queue.alive(ticket.job, ticket.submitted)})
    return f"commands that run this sweep are told to end; {cancelled} Slurm jobs cancelled"


def stale_paths(root: Path) -> list[tuple[Path, str]]:
    """Paths that are no longer needed, with the reason: cells of no sweep, old copies of the code, old logs."""
    wanted = set[str]().union(*map(planned, root.glob("sweeps/*/")))
    unwanted = (path for path in sorted(root.glob("cells/*")) if path.name not in wanted)
    found = [(path, "a cell of no sweep") for path in unwanted if not CellFolder(path).claimed()]
    for pattern in ("cells/*/*.tmp", "sweeps/*/*.tmp", "code/*.tmp"):
        found += [(path, "left by a killed process") for path in root.glob(pattern) if _age(path) > STALE]
    return found + _stale_of_slurm(root, wanted)


def _stale_of_slurm(root: Path, wanted: set[str]) -> list[tuple[Path, str]]:
    batches = Batches.of(root)
    latest = {ticket.folder for cell_id in wanted if (ticket := batches.last(cell_id))}
    tickets = [ticket for tickets in batches.tickets.values() for ticket in tickets]
    queue = Queue()
    if tickets:
        queue.look([])
    alive = {ticket.folder for ticket in tickets if queue.alive(ticket.job, ticket.submitted)}
    old = sorted({ticket.folder for ticket in tickets} - latest - alive)
    # A command may be about to use a recent one.
    code = [] if alive else [path for path in root.glob("code/*") if path.suffix != ".tmp" and _age(path) > KEPT]
    probes = [path for path in root.glob("slurm/doctor-*") if _age(path) > KEPT]
    return [
        *((folder, "logs of Slurm jobs that were followed by others") for folder in old),
        *((path, "code of jobs that have ended") for path in sorted(code)),
        *((path, "left by action=doctor") for path in sorted(probes)),
    ]


def remove(found: Sequence[tuple[Path, str]]) -> None:
    """Delete what :func:`stale_paths` found."""
    for path, _ in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def stale_text(found: Sequence[tuple[Path, str]], removed: bool) -> str:
    """A line for each path, and their total size."""
    size = sum(file.stat().st_size for path, _ in found for file in [path, *path.rglob("*")] if file.is_file())
    lines = [f"  {path}: {reason}" for path, reason in found]
    return "\n".join([*lines, f"{len(found)} {'removed' if removed else 'to remove'}, {size / 2**20:.1f} MiB"])


def _head(plan: Plan, root: Path, launcher: Launcher) -> list[str]:
    grid = plan.grid
    return [
        f"question  {grid.question}",
        f"compares  {grid.primary['metric']} ({grid.primary['direction']}) {_compared(plan)},"
        f" paired by seed, test {grid.test}, alpha {grid.alpha:g}, correction {grid.correction}"
        + (f", margin {grid.margin:g}" if grid.margin is not None else "")
        + (f", looks at {', '.join(map(str, grid.looks))} seeds" if grid.looks else ""),
        *([f"blocks    {plan.blocks.in_words(plan.seeds)}"] if plan.blocks else []),
        f"recipe    {plan.recipe}",
        f"folder    {sweep_folder(root, plan)}",
        f"launcher  {launcher.describe()}",
        "",
    ]


def _compared(plan: Plan) -> str:
    """With what, and where."""
    if (at := plan.grid.at) is None:
        return f"with {plan.baseline}"
    first, *_ = at.ladders
    return f"of ladders with {first} at {at.measure} = {at.level:g}"


def _sum(cells: Sequence[Cell], states: Mapping[str, State], costs: Mapping[str, Cost]) -> Iterator[str]:
    """Counts, costs so far and the estimated cost of the rest."""
    counts = ", ".join(f"{number} {state.value}" for state, number in Counter(states.values()).items())
    yield f"{len(cells)} cells: {counts or 'none'}"
    estimates, spent, rest = _estimates(cells, states, costs), Cost(), Cost()
    for cell in cells:
        spent += costs[cell.id]
    left = [cell for cell in cells if states[cell.id] in (State.MISSING, State.RUNNING)]
    guesses = {cell.arm: estimates.of(cell) for cell in left}
    for cell in left:
        rest += guesses[cell.arm] or Cost()
    if spent.attempts:
        yield f"spent so far: {_worth(spent)} in {spent.attempts} attempts, {duration(spent.wasted_s)} of it wasted"
    if rest.attempts:
        yield f"the rest may take {_worth(rest)}, as finished cells did"


def _estimates(cells: Sequence[Cell], states: Mapping[str, State], costs: Mapping[str, Cost]) -> Estimates:
    estimates = Estimates(cells)
    for cell in cells:
        if states.get(cell.id) is State.DONE:
            estimates.learn(cell, costs[cell.id])
    return estimates


def _worth(cost: Cost) -> str:
    gpus = f" ({cost.gpu_seconds / 3600:.2f} GPU-hours)" if cost.gpu_seconds else ""
    return f"{duration(cost.seconds)}{gpus}"


def _queued(root: Path, cell_ids: Sequence[str]) -> dict[str, str]:
    """Cell id -> the state of its job in Slurm, for cells that have a job."""
    batches = Batches.of(root)
    tickets = {cell_id: ticket for cell_id in cell_ids if (ticket := batches.last(cell_id))}
    if not tickets:
        return {}
    queue = Queue()
    try:
        queue.look([])
    except (SlurmDown, ConfigError) as error:
        return dict.fromkeys(tickets, f"in Slurm, which does not answer ({error})")
    known = {cell_id: (ticket.job, queue.seen.get(ticket.job)) for cell_id, ticket in tickets.items()}
    return {
        cell_id: f"Slurm job {job} {status}" for cell_id, (job, status) in known.items() if status and not status.ended
    }


def _told(cell: Cell, folder: CellFolder, state: State, queued: Mapping[str, str], metric: str) -> str:
    """Details of a cell for ``action=status``."""
    if state is State.DONE:
        score = folder.results().get(metric)
        return "" if score is None else f"{metric} {score:.3f}"
    if state is State.FAILED:
        failure = folder.failure() or {}
        return f"{failure.get('cause')}: {failure.get('message')}"
    if state is State.RUNNING:
        holder = folder.holders()[-1]
        where = queued.get(cell.id) or f"process {holder.get('pid')} on {holder.get('host')}"
        return f"step {folder.last_row().get('step', 0)}/{cell.config.optim.updates}, {where}"
    return queued.get(cell.id, "")


def _why(cell: Cell, folder: CellFolder, finished: Callable[[], _Finished]) -> str:
    """Why a cell is done or not."""
    state = folder.state()
    if state is State.DONE:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.ended()))
        made = (read_json(folder.path / "env.json") or {}).get("git_sha", "")
        return f"done on {when}{f' by commit {made[:12]}' if made else ''}; it is used as it is"
    if state is State.FAILED:
        failure = folder.failure() or {}
        return f"failed ({failure.get('cause')}): {failure.get('message')}; rerun=failed tries again"
    begun = f"attempt {folder.attempts()} is at work" if state is State.RUNNING else ""
    begun = begun or ("to be continued from its checkpoint" if folder.checkpoint() else "not there")
    if not finished().own:
        return f"{begun}; no finished cell to compare with"
    nearest, found = finished().nearest(_traits(cell.config.identity()))
    if not found:
        return f"{begun}; {nearest} has the same configuration, but other weights or another version of the sweeper"
    shown = "; ".join(f"{key}: {old} -> {new}" for key, (old, new) in sorted(found.items())[:MOST_KEYS])
    more = f" and {len(found) - MOST_KEYS} more" if len(found) > MOST_KEYS else ""
    return f"{begun}; {nearest} is the finished cell most like it: {shown}{more}"


def _traits(config: Mapping[str, Any]) -> Traits:
    return frozenset((key, repr(value)) for key, value in flat(config).items() if key != "recipe")


@dataclass(frozen=True)
class _Finished:
    """The configurations of finished cells; their common part is kept apart, so that thousands compare quickly."""

    shared: Traits
    own: Mapping[str, Traits]
    """Cell id -> the rest of its configuration."""

    @classmethod
    def of(cls, root: Path) -> _Finished:
        """Those in ``root``."""
        paths = (path for path in root.glob("cells/*/config.json") if CellFolder(path.parent).is_done())
        configs = {path.parent.name: _traits(read_json(path) or {}) for path in paths}
        shared = frozenset.intersection(*configs.values()) if configs else frozenset()
        return cls(shared, {cell_id: config - shared for cell_id, config in configs.items()})

    def nearest(self, wanted: Traits) -> tuple[str, dict[str, tuple[str, str]]]:
        """The cell most similar to ``wanted``, and key -> (its value, the wanted value) where they differ."""
        rest = wanted - self.shared
        cell_id = min(self.own, key=lambda cell_id: len(rest ^ self.own[cell_id]))
        found = self.shared | self.own[cell_id]
        old, new = dict(found), dict(wanted)
        return cell_id, {key: (old.get(key, "absent"), new.get(key, "absent")) for key, _ in found ^ wanted}


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime
