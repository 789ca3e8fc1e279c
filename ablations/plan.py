"""The plan of a sweep: which arms there are, which of them can run, and every cell with its identity."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ablations.arms import SCHEMA, Arm, Cell, digest
from ablations.blocks import Blocks
from ablations.builder import ArmBuilder
from ablations.contrasts import Contrast, contrasts, partners
from ablations.grid import Grid, check_seeds
from ablations.ladder import Ladder, ladders
from ablations.measures import check_alike, check_primary, unmeasured
from ablations.tuning import candidates
from unigrpo.compose import recipe_of
from unigrpo.errors import ConfigError
from unigrpo.overrides import Override, parse


@dataclass(frozen=True)
class Plan:
    """A grid with everything resolved."""

    grid: Grid
    recipe: str
    baseline: str
    arms: tuple[Arm, ...]
    """All arms, untouched models first, refused ones included."""
    seeds: tuple[int, ...]
    notes: tuple[str, ...]
    blocks: Blocks | None = None
    """The grid's, unless the command names a model."""
    tuning: str | None = None
    """Id of the sweep that tries the settings of its arms; None if the grid has none to try."""

    @cached_property
    def comparisons(self) -> list[Contrast]:
        """What is compared as planned; nothing where settings are tried."""
        if self.grid.candidates:
            return []
        if self.grid.at is not None:
            first, *others = self.grid.at.ladders
            return contrasts(self.ladders, first, others)
        planned = self.grid.comparisons or tuple(name for name in self.grid.arms if name != self.grid.baseline)
        return contrasts(self._runnable, self.grid.baseline, planned)

    @cached_property
    def ladders(self) -> list[Ladder]:
        """What is compared in the place of arms, if the grid says so."""
        return [] if self.grid.at is None else [*ladders(self.grid.at, self._runnable)]

    @cached_property
    def partners(self) -> dict[str, str]:
        """Arm -> the baseline at its levels of the axes."""
        return partners(self._runnable, self.grid.baseline)

    @cached_property
    def replicates(self) -> dict[str, str]:
        """Repetition of the baseline -> the baseline at its levels of the axes."""
        alike = [arm for arm in self.arms if not arm.refused and (arm.replicate or arm.stem == self.grid.baseline)]
        found = partners(alike, self.grid.baseline)
        return {arm.name: found[arm.name] for arm in alike if arm.replicate}

    @cached_property
    def matched(self) -> list[Contrast]:
        """The arms that are said to be matched, each against the first of them."""
        if self.grid.matched is None:
            return []
        first, *others = self.grid.matched.arms
        return contrasts(self._runnable, first, others)

    @property
    def _runnable(self) -> list[Arm]:
        return [arm for arm in self.arms if not (arm.untouched or arm.replicate or arm.refused)]

    @property
    def planned_seeds(self) -> list[int]:
        """All seeds that the design may come to; of a group-sequential one a command may run the first of them."""
        return sorted(self.grid.seeds if self.grid.looks else self.seeds)

    @cached_property
    def sweep_id(self) -> str:
        """``<grid>-<hash8>``, of the arms without their seeds: a sweep keeps its folder when seeds are added."""
        arms = {arm.name: [*arm.identities] if self.blocks else arm.identities[0] for arm in self.arms}
        return f"{self.grid.name}-{digest({'schema': SCHEMA, 'baseline': self.baseline, 'arms': arms}, 8)}"

    def cells_of(self, arm: Arm) -> list[Cell]:
        """The cells of one arm: one for each seed, or for each block where nothing is trained and no seed matters."""
        seeds = () if arm.refused else dict.fromkeys(map(arm.seed_of, self.seeds))
        return [arm.cell(seed) for seed in (seeds if arm.trained else sorted(seeds))]

    def cells(self, only: str = "*") -> list[Cell]:
        """Cells whose name is or matches the glob ``only``, seed by seed: a sweep that is stopped is balanced."""
        by_arm = [self.cells_of(arm) for arm in self.arms]
        return [
            cell
            for row in itertools.zip_longest(*by_arm)
            for cell in row
            if cell is not None and (cell.name == only or fnmatch.fnmatchcase(cell.name, only))
        ]


def make_plan(grid: Grid, overrides: Sequence[str] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """Resolve ``grid`` with the overrides of the command line.

    An override of a strategy's field (``regularizer.weight=3``) goes to the arms whose strategy has that field; one
    that fits no arm is an error.  A sweep (``a=1,2``) is one more axis of the grid.

    Raises:
        ConfigError: unknown keys or values, two arms that are one and the same, or no arm that can run.
    """
    parsed = [parse(text) for text in overrides]
    builder = ArmBuilder(grid, parsed)
    listed = [*itertools.chain.from_iterable(map(builder.arms, (*grid.arms, *grid.replicates)))]
    arms = [*builder.untouched(listed), *listed]
    builder.check_used()
    _check_distinct(arms)
    if all(arm.refused for arm in listed):
        shared = [reason for reason in listed[0].refused if all(reason in arm.refused for arm in listed)]
        own = (f"arm {arm.name}: {reason}" for arm in listed for reason in arm.refused if reason not in shared)
        raise ConfigError("no arm can run: " + "; ".join((*shared, *own)))
    check_alike({arm.name: config for arm in listed if not arm.refused for config in arm.configs})
    able = [config for arm in arms if not arm.refused for config in arm.configs]
    check_primary(able, grid.primary["metric"])
    if grid.at is not None:
        check_primary(able, grid.at.measure, "at.measure")
    recipe = recipe_of([override for override in parsed if not override.sweep], grid.recipe)
    candidates = [arm for arm in arms if arm.stem == grid.baseline]
    if not candidates:
        raise ConfigError(f"exclude: leaves nothing of the baseline {grid.baseline}")
    baseline = min(candidates, key=lambda arm: bool(arm.refused)).name
    grid.check_part(chosen := check_seeds(seeds or grid.seeds))
    plan = Plan(grid, recipe, baseline, tuple(arms), chosen, (), builder.blocks)
    tuning = _tuning(grid, parsed) if grid.tune else None
    return dataclasses.replace(plan, notes=(*builder.notes, *_notes(plan)), tuning=tuning)


def _tuning(grid: Grid, overrides: Sequence[Override]) -> str:
    """The id of the sweep that tries settings under the same overrides; a further axis is none of its."""
    return make_plan(candidates(grid), [override.text for override in overrides if not override.sweep]).sweep_id


def _check_distinct(arms: Sequence[Arm]) -> None:
    first: dict[str, str] = {}
    for arm in arms:
        for block in range(len(arm.configs)):
            same = first.setdefault(arm.cell(block).id, arm.name)
            if same != arm.name:
                raise ConfigError(
                    f"arms {same!r} and {arm.name!r} are one and the same configuration; replicate: 1 repeats the"
                    " baseline with other draws"
                )


def _notes(plan: Plan) -> Iterator[str]:
    """What one should know before spending time on the plan."""
    trained = [arm for arm in plan.arms if not arm.untouched and not arm.refused]
    names = {arm.name for arm in trained}
    if plan.baseline not in names:
        yield f"the baseline {plan.baseline} is refused: there is nothing to compare with"
    matched = () if plan.grid.matched is None else (plan.grid.matched.measure,)
    measures = (plan.grid.primary["metric"], *plan.grid.secondary, *matched)
    yield from unmeasured([arm.config for arm in trained], measures)
    if plan.grid.at is not None and not plan.comparisons:
        yield "at: at no point of the axes are all rungs of two ladders, so that nothing is compared"
    if plan.grid.looks and len(plan.seeds) not in plan.grid.looks:
        looks = ", ".join(map(str, plan.grid.looks))
        yield f"looks are planned at {looks} seeds: a report of {len(plan.seeds)} will count as one that was not"
    if plan.blocks:
        yield from plan.blocks.notes(plan.seeds)
    comparisons = len(plan.comparisons)
    factor = comparisons if plan.grid.correction == "bonferroni" else 1
    seeds = len(plan.seeds)
    smallest = min(1.0, 2 / 2**seeds)
    if plan.grid.test == "sign_flip" and comparisons > 0 and smallest * factor > plan.grid.alpha:
        enough = next(n for n in itertools.count(seeds) if factor * 2 / 2**n <= plan.grid.alpha)
        corrected = f", {min(1, smallest * factor):.3g} corrected for {comparisons} comparisons"
        yield (
            f"with {seeds} seed{'s' * (seeds > 1)} the smallest p that an exact paired test can give is {smallest:.3g}"
            f"{corrected if factor > 1 else ''}, above alpha = {plan.grid.alpha:g}: the test cannot show any"
            f" difference; seeds={enough} could"
        )
