"""Warnings about incomplete cells and differing machines: which runs a mean is really over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from reports.findings import Family
from reports.records import Arm, Sweep
from reports.runs import Cell

#: Most names in a warning.
_NAMED = 6


def gaps(sweep: Sweep) -> Iterator[str]:
    """A sentence for each reason why a mean is not over all cells."""
    done = [cell for cell in sweep.cells if cell.state == "done"]
    without = [name(cell) for cell in done if sweep.primary not in cell.metrics]
    if without:
        scored = sweep.schema.metric_phrase(sweep.primary)
        yield (
            f"{len(without)} of {len(done)} finished cells have no {scored}, count as missing, and have no part in its"
            f" means and pairs: {first(without)}."
        )
    faults: dict[str, list[str]] = {}
    for cell in done:
        for fault in cell.faults:
            faults.setdefault(fault, []).append(name(cell))
    for fault, cells in faults.items():
        yield f"Incomplete files, {first(cells)}: {fault}."
    remarks: dict[str, list[str]] = {}
    for cell in done:
        for remark in cell.remarks:
            remarks.setdefault(remark, []).append(name(cell))
    for remark, cells in remarks.items():
        yield f"Of the model of {first(cells)}: {remark}."
    if differing := sweep.schema.conflicts:
        yield f"Cells describe measures differently, and the first description counts: {first(differing)}."
    partial = [words for arm in sweep.trained for words in _partial(arm, sweep.primary)]
    if partial:
        yield f"Means over fewer cells than are done, with their n beside them: {first(partial)}."
    short = [words for arm in sweep.trained for words in _short(arm)]
    if short:
        yield f"Curves that end early or have holes, and with them their arm's mean: {first(short)}."
    unplanned = [f"{arm.name} {seeds}" for arm in sweep.trained if (seeds := _without(arm, sweep.seeds))]
    if unplanned:
        yield f"Seeds of the plan for which it has no cell: {first(unplanned)}."
    yield from _shared(sweep)


def machines(sweep: Sweep, families: Sequence[Family]) -> Iterator[str]:
    """Warnings if cells ran on several kinds of machine."""
    kinds = sweep.kinds
    if len(kinds) < 2:
        return
    listed = "; ".join(f"{kind} (n = {len(cells)}): {_by_arm(cells)}" for kind, cells in kinds.items())
    yield (
        f"Cells ran on {len(kinds)} kinds of machine. Bytes repeat on one kind only; another kind is another draw of"
        f" rounding, so that a seed ends elsewhere there, as another seed would. {listed}."
    )
    kind_of = {(cell.arm, cell.seed): kind for kind, cells in kinds.items() for cell in cells}
    trained = {arm.name for arm in sweep.trained}
    mixed: dict[frozenset[str], str] = {}
    for pair in (pair for family in families for pair in family.pairs if pair.arms <= trained):
        seeds = [seed for seed in pair.seeds if len({kind_of[arm, seed] for arm in pair.arms}) > 1]
        if seeds:
            mixed.setdefault(pair.arms, f"{pair.name}, seed {', '.join(map(str, seeds))}")
    if mixed:
        yield f"Paired by seed across kinds of machine, so that rounding differs too: {first([*mixed.values()], '; ')}."


def name(cell: Cell) -> str:
    """The name of a cell in a warning, ``arm/seed``."""
    return f"{cell.arm}/{cell.seed}"


def first(names: Sequence[str], separator: str = ", ") -> str:
    """The first few of ``names``."""
    return separator.join(names[:_NAMED]) + (f"{separator}…" if len(names) > _NAMED else "")


def _by_arm(cells: Iterable[Cell]) -> str:
    seeds: dict[str, list[str]] = {}
    for cell in cells:
        seeds.setdefault(cell.arm, []).append(str(cell.seed))
    return first([f"{arm} {' '.join(found)}" for arm, found in seeds.items()])


def _partial(arm: Arm, primary: str) -> Iterator[str]:
    for metric in sorted({metric for cell in arm.done for metric in cell.metrics} - {primary}):
        having = len(arm.values(metric))
        if having < len(arm.done):
            yield f"{arm.name}, {metric} ({having} of {len(arm.done)})"


def _short(arm: Arm) -> Iterator[str]:
    logged = {cell.seed: {step for s in cell.history.values() for step in s.steps.tolist()} for cell in arm.done}
    steps = set().union(*logged.values())
    for seed, found in logged.items():
        if len(found) < len(steps):
            yield f"{arm.name}/{seed} ({len(found)} of {len(steps)} updates)"


def _without(arm: Arm, seeds: Sequence[int]) -> str:
    return " ".join(str(seed) for seed in seeds if seed not in {cell.seed for cell in arm.cells})


def _shared(sweep: Sweep) -> Iterator[str]:
    """Arms that consist of the same runs."""
    arms: dict[str, list[str]] = {}
    for cell in sweep.cells:
        arms.setdefault(cell.identity, []).append(cell.arm)
    same = dict.fromkeys(" = ".join(names) for names in arms.values() if len(names) > 1)
    if same:
        yield f"Arms with the very same runs, whose difference is 0 by construction: {first([*same])}."
