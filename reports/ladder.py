"""Ladders of arms that are compared where another measure is held equal: each is read as if it were an arm.

A seed counts if the rungs of all ladders reach the level; one that does not has failed there.  So the rule for failed
seeds holds: with more than 1 in 5 of them nothing is said of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from reports import statistics
from reports.gaps import first
from reports.metrics import number
from reports.records import Arm, At, Sweep
from reports.runs import Cell, State

#: A seed whose rungs do not reach the level.
_UNREACHED: State = "failed"


def derived(arms: Sequence[Arm], at: At, primary: str, seeds: Sequence[int]) -> tuple[Arm, ...]:
    """An arm for each ladder, with the primary measure at the level as its only one."""
    by_name = {arm.name: arm for arm in arms}
    found = {}
    for name, rungs in at.ladders.items():
        if all(rung in by_name and not by_name[rung].unstable for rung in rungs):
            held, read = ([by_name[rung].values(metric) for rung in rungs] for metric in (at.measure, primary))
            found[name] = statistics.along(held, read, at.level)
    out = {seed for values in found.values() for seed, value in values.items() if not np.isfinite(value)}
    return tuple(_as_arm(name, values, primary, seeds, out) for name, values in found.items())


def _as_arm(name: str, values: Mapping[int, float], primary: str, seeds: Sequence[int], out: set[int]) -> Arm:
    cells = []
    for seed in seeds:
        cell = Cell(name, seed, f"{name}:{seed}", "missing", updates=1)
        if seed in out:
            cell = replace(cell, state=_UNREACHED)
        elif seed in values:
            cell = replace(cell, state="done", metrics={primary: values[seed]})
        cells.append(cell)
    return Arm(name, (), untouched=False, cells=tuple(cells))


def phrase(sweep: Sweep) -> str:
    """The primary measure inside a sentence, with the level that it is read at."""
    scored = sweep.schema.metric_phrase(sweep.primary)
    if sweep.at is None:
        return scored
    return f"{scored} where {sweep.schema.metric_phrase(sweep.at.measure)} is {sweep.at.level:g}"


def refusal(sweep: Sweep) -> str:
    """Why ladders are not compared, in a sentence; empty if they can be."""
    if sweep.at is None or not any(arm.unstable for arm in sweep.derived):
        return ""
    return f"{_reach(sweep)} More than 1 in 5 are missing, and the rest may be others than these: no verdict."


def warnings(sweep: Sweep) -> Iterator[str]:
    """A warning of the seeds that do not count."""
    if sweep.at is not None and _unreached(sweep) and not refusal(sweep):
        yield f"{_reach(sweep)} The verdict is of the others."


def _unreached(sweep: Sweep) -> list[int]:
    return sorted({cell.seed for arm in sweep.derived for cell in arm.cells if cell.state == _UNREACHED})


def _reach(sweep: Sweep) -> str:
    assert sweep.at is not None  # else there are no ladders
    seeds, held = _unreached(sweep), sweep.schema.metric_phrase(sweep.at.measure)
    return (
        f"Of {len(sweep.seeds)} seeds {len(seeds)} ({first([f'seed {seed}' for seed in seeds])}) have a ladder whose"
        f" rungs do not reach {held} of {number(sweep.at.level)}."
    )
