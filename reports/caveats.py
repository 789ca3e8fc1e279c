"""What a reader should know before believing a report: cells that are missing, too few seeds, unequal compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from reports import statistics
from reports.findings import Family
from reports.gaps import first, gaps, machines, name
from reports.metrics import p_value
from reports.records import Sweep

#: Relative difference in velocity evaluations or CPU time from the baseline that is worth a warning.
_UNEQUAL_COMPUTE = 0.1

#: What a recorded commit ends with when files differed from it.
_DIRTY = ("+", "dirty")


def caveats(sweep: Sweep, families: Sequence[Family], shown: Sweep) -> Iterator[str]:
    """The warnings of a report, a sentence each; ``shown`` is what figures show of the sweep."""
    yield from _cell_warnings(sweep)
    yield from gaps(sweep)
    yield from machines(sweep, families)
    if shown is not sweep:
        scored = sweep.schema.phrase(sweep.primary)
        yield (
            f"{len(sweep.trained)} arms trained: figures, samples, configurations and exploratory measures are of the"
            f" baseline and the {len(shown.trained) - 1} best others on {scored}; scores are of all."
        )
    shas = {str(cell.environment.get("git_sha")) for cell in sweep.cells if cell.environment.get("git_sha")}
    for family in families:
        short = [pair for pair in family.pairs if pair.floor > sweep.alpha]
        if short and family.key == "baseline":
            n, m = min(len(pair.seeds) for pair in short), len(family.pairs)
            needed = statistics.seeds_needed(sweep.alpha, m, family.correction)
            rule = f" after Holm's correction over {m} comparisons" if m > 1 and family.correction == "holm" else ""
            floor = p_value(max(pair.floor for pair in short))
            yield (
                f"Under-powered, {family.title[0].lower()}{family.title[1:]}: with n = {n} the smallest possible"
                f" p{rule} is {floor}; {needed} seeds are needed to reach {sweep.alpha:g}."
            )
    if any(sha.endswith(_DIRTY) for sha in (sweep.git_sha, *shas)):
        yield "The working tree had uncommitted changes: the commit alone does not give this code back."
    if len(shas) > 1:
        yield f"Cells ran on {len(shas)} different commits: {', '.join(sorted(sha[:10] for sha in shas))}."
    yield from _compute_warnings(sweep)


def _cell_warnings(sweep: Sweep) -> Iterator[str]:
    wording = {
        "missing": "not run or not finished",
        "failed": "failed",
        "broken": "cannot be read",
        "excluded": "evaluated on another evaluation set than the rest: excluded, never paired",
    }
    for state, words in wording.items():
        cells = [cell for cell in sweep.cells if cell.state == state]
        if cells:
            names = first([name(cell) for cell in cells])
            yield f"{len(cells)} of {len(sweep.cells)} cells {words}: {names}."
    for arm in sweep.arms:
        if arm.unstable:
            yield f"{arm.name} is unstable (more than one seed failed): not averaged over its survivors."
    if sweep.untouched is None or not sweep.untouched.done:
        yield "The untouched model has no result: nothing says what training changed."


def _compute_warnings(sweep: Sweep) -> Iterator[str]:
    baseline = sweep.arm(sweep.baseline)
    for words, names in {
        "velocity evaluations in training": ("cost/nfe_rollout", "cost/nfe_train", "cost/nfe_reference"),
        "CPU time": ("cost/cpu_s",),
    }.items():
        spent = {
            arm.name: [
                sum(found) for cell in arm.done if (found := [cell.metrics[n] for n in names if n in cell.metrics])
            ]
            for arm in sweep.trained
        }
        cost = {arm: float(np.mean(found)) for arm, found in spent.items() if found}
        usual = cost.get(baseline.name, 0.0)
        unequal = {
            arm: value / usual for arm, value in cost.items() if usual and abs(value / usual - 1) > _UNEQUAL_COMPUTE
        }
        if unequal:
            listed = first([f"{arm} {ratio:.2f}×" for arm, ratio in unequal.items()])
            yield f"Unequal compute, {words} relative to {baseline.name}: {listed}."
