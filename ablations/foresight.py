"""What a plan can show before it costs anything: the smallest effect, the seeds for its margin, and their hours.

By the test, level and number of seeds of the planned comparisons, and by how much their differences vary from seed to
seed: in finished cells of this root, or in an earlier run that the grid tells of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.arms import Arm
from ablations.cells import CellFolder
from ablations.contrasts import Contrast
from ablations.costs import Cost, Estimates
from ablations.display import duration
from ablations.ladder import Ladder
from ablations.plan import Plan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Finished cells count from so many degrees of freedom on: four seeds of one comparison.
_FEWEST = 3

#: Arm -> seed -> the primary measure.
Scores = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Known:
    """A standard deviation of the differences by seed, in units of the primary measure, and where it is from."""

    sd: float
    df: int
    """Degrees of freedom, by which it is uncertain."""
    words: str


def foresight(plan: Plan, root: Path, estimates: Estimates) -> Iterator[str]:
    """What the planned comparisons can show, a line for each thing; nothing if there is none that can be made.

    Args:
        plan: of the sweep.
        root: whose finished cells tell the spread.
        estimates: what cells cost.
    """
    if not plan.comparisons:
        return
    known = known_spread(plan, root)
    if known is None:
        yield (
            "how large an effect these seeds can show is not known: finished cells here tell no spread from seed to"
            " seed, and the grid records none. A pilot tells, which is no look at this sweep: the same command with"
            " seeds=4 root=pilot, then with action=plan"
        )
        return
    from reports.statistics import power

    grid, seeds, level = plan.grid, len(plan.planned_seeds), _level(plan)
    smallest = power.smallest_effect(grid.test, seeds, level)
    low, high = power.spread_range(known.sd, known.df)
    judged = f"by {grid.test} at level {level:.3g}{' of the last look' if grid.looks else ''}"
    if smallest is None:
        yield f"{seeds} seeds cannot show an effect of any size, {judged}"
    else:
        ranged = f" ({smallest * low:.2g} to {smallest * high:.2g} over the range of the spread)"
        yield (
            f"{seeds} seeds show a difference of {smallest * known.sd:.2g} with 80 % power{ranged}, {judged}"
            f"{_price(plan, seeds, estimates)}"
        )
    if grid.margin is not None:
        needed = power.seeds_for_margin(grid.test, grid.margin / known.sd, level)
        counted = "more than 1,000 seeds" if needed is None else f"{needed} seeds"
        price = "" if needed is None else _price(plan, needed, estimates)
        yield f"equal arms are found equal within {grid.margin:g} with 80 % power from {counted} on{price}"
    yield f"by a spread from seed to seed of {known.sd:.3g}, 95 % range {low:.2g} to {high:.2g}, {known.words}"


def _level(plan: Plan) -> float:
    """The level of each planned test, at the last look."""
    alpha = plan.grid.alpha
    if plan.grid.looks:
        from reports.statistics.sequential import nominal_levels

        alpha = nominal_levels(alpha, plan.grid.looks)[-1]
    # Where one effect alone is there, Benjamini and Hochberg's procedure shows it at the level of Bonferroni's.
    return alpha if plan.grid.correction == "none" else alpha / len(plan.comparisons)


def known_spread(plan: Plan, root: Path) -> Known | None:
    """The spread of the planned comparisons in finished cells; of too few cells, that of the grid's record."""
    if (observed := _observed(plan, root)) or (spread := plan.grid.spread) is None:
        return observed
    return Known(spread.sd, spread.seeds - 1, f"as {spread.source} has it from {spread.seeds} seeds")


def _observed(plan: Plan, root: Path) -> Known | None:
    """The pooled standard deviation of the planned comparisons; of two independent arms where these are not paired.

    None if too few cells have finished, or if they do not vary.
    """
    names = {name for each in plan.comparisons for couple in each.couples for name in couple}
    members: tuple[Arm | Ladder, ...] = (*plan.arms, *plan.ladders)
    arms = {one.name: one for one in members if one.name in names}
    primary = plan.grid.primary["metric"]
    scores = {
        name: _along(one, plan, root) if isinstance(one, Ladder) else _scores(one, plan, root, primary)
        for name, one in arms.items()
    }
    if not any(scores.values()):
        return None
    total, df, compared, most = 0.0, 0, 0, 0
    for each in plan.comparisons:
        sides = _sides(each, arms, scores)
        n = sides.shape[1]
        if n > 1:
            values = sides if plan.grid.test == "unpaired" else sides[:1] - sides[1:]
            total += float(values.var(axis=1, ddof=1).sum()) * (n - 1)
            df, compared, most = df + n - 1, compared + 1, max(most, n)
    if df < _FEWEST or not total:
        return None
    # Comparisons with one baseline correlate by a half, so that k of them tell as much as 4k / (k + 3).
    told = max(1, 4 * df // (compared + 3))
    counted = f"of finished cells of this root ({most} seeds{f', {compared} comparisons' * (compared > 1)})"
    return Known(math.sqrt(total / df), told, counted)


def _along(ladder: Ladder, plan: Plan, root: Path) -> dict[int, float]:
    """The primary measure at the level of the other one, of the seeds whose rungs reach it."""
    from reports.statistics import along

    assert plan.grid.at is not None  # else there is no ladder
    rungs = [arm for arm in plan.arms if arm.name in ladder.arms]
    held, read = (
        [_scores(arm, plan, root, metric) for arm in rungs]
        for metric in (plan.grid.at.measure, plan.grid.primary["metric"])
    )
    found = along(held, read, plan.grid.at.level)
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def _scores(arm: Arm, plan: Plan, root: Path, metric: str) -> dict[int, float]:
    found = {}
    for seed in plan.planned_seeds:
        folder = CellFolder(root / "cells" / arm.cell(arm.seed_of(seed)).id)
        score = folder.results().get(metric) if folder.is_done() else None
        if score is not None and math.isfinite(score):
            found[seed] = score
    return found


def _sides(contrast: Contrast, arms: Mapping[str, Arm | Ladder], scores: Scores) -> NDArray[np.float64]:
    """Both sides [2, n] of a comparison, by seed: of n seeds that all of its arms have finished."""
    import numpy as np

    members = [arms[name] for couple in contrast.couples for name in couple]
    if not any(arm.trained for arm in members):
        return np.zeros((2, 0))
    seeds = sorted(set.intersection(*(set(scores[arm.name]) for arm in members)))
    by_seed = {arm.name: [scores[arm.name][seed] for seed in seeds] for arm in members}
    return np.array([[by_seed[couple[side]] for couple in contrast.couples] for side in (0, 1)], dtype=np.float64).mean(
        axis=1
    )


def _price(plan: Plan, seeds: int, estimates: Estimates) -> str:
    """What all cells take with that many seeds; empty if no cell like them has finished."""
    total = Cost()
    for arm in plan.arms:
        if arm.refused:
            continue
        each = estimates.of(arm.cell(arm.seed_of(plan.seeds[0])))
        if each is None and arm.trained:
            return ""
        for _ in range(seeds if arm.trained else min(seeds, len(arm.configs))):
            total += each or Cost()
    if total.gpu_seconds:
        return f"; its cells take {total.gpu_seconds / 3600:.2g} GPU-hours"
    return f"; its cells take {duration(total.seconds)} of one CPU worker"
