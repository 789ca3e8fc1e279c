"""A sweep as typed, frozen records: its plan, its arms, and what was declared of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from reports.blocks import Blocks
from reports.metrics import Better, Schema
from reports.runs import Cell, EvaluationSize, Series
from reports.statistics import Correction

T = TypeVar("T")


@dataclass(frozen=True)
class Arm:
    """The cells that differ only in their seed."""

    name: str
    overrides: tuple[str, ...]
    untouched: bool
    cells: tuple[Cell, ...]
    factors: Mapping[str, str] = field(default_factory=dict)
    """Key of an axis -> its level there, in words."""
    against: str | None = None
    """The baseline at the same levels of the axes; None for the baseline and for arms that have none."""
    repeats: str | None = None
    """The arm whose configuration it repeats with other draws; None for all arms that are compared."""
    blocks: Blocks | None = None
    """What its seeds start from, where that is not the same for all."""

    @property
    def stem(self) -> str:
        """Its name in the grid file, which is that of all its levels."""
        return self.name.partition("@")[0] if self.factors else self.name

    @cached_property
    def done(self) -> tuple[Cell, ...]:
        """The finished cells, by seed."""
        return tuple(cell for cell in self.cells if cell.state == "done")

    @property
    def trained(self) -> bool:
        """Whether its cells made updates; an arm without updates is a fixed model: one cell, or one of each block."""
        return not self.untouched and all(cell.updates for cell in self.done)

    @property
    def unstable(self) -> bool:
        """Whether more than 1 in 5 of its seeds failed: such an arm is not averaged over its survivors.

        What is not trained has no seeds that could fail: of its blocks those that were evaluated count.
        """
        return self.trained and 5 * sum(cell.state == "failed" for cell in self.cells) > len(self.cells)

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of its first finished cell; empty if none."""
        return self.done[0].config if self.done else {}

    def by_start(self, seeds: Iterable[int]) -> list[list[int]]:
        """``seeds`` in groups that start from the same model: one group where all do."""
        groups: dict[str, list[int]] = {}
        for seed in seeds:
            groups.setdefault(self.blocks.of[seed] if self.blocks else "", []).append(seed)
        return [*groups.values()]

    def by_seed(self, table: Mapping[int, T], seeds: Iterable[int]) -> Mapping[int, T]:
        """``table``, which is by seeds of cells, by ``seeds``: what is not trained has one entry for all of a block."""
        if self.trained or not table:
            return table
        if self.blocks is None:
            return dict.fromkeys(seeds, next(iter(table.values())))
        of = {seed: entry for mine, entry in table.items() for seed in self.blocks.alike(mine)}
        return {seed: of[seed] for seed in seeds if seed in of}

    def weight(self, seed: int) -> int:
        """How many seeds the cell of ``seed`` tells of: of what is not trained, those of its block."""
        return 1 if self.trained or self.blocks is None else len(self.blocks.alike(seed))

    def values(self, metric: str) -> dict[int, float]:
        """Seed -> final value, for cells that have it."""
        return {cell.seed: cell.metrics[metric] for cell in self.done if metric in cell.metrics}

    def curves(self, metric: str) -> dict[int, Series]:
        """Seed -> logged series, for cells that have it."""
        return {cell.seed: cell.history[metric] for cell in self.done if metric in cell.history}


#: What is declared of a plan, by key, as JSON has it.
Content = Mapping[str, Any]


@dataclass(frozen=True)
class Revision:
    """What a command declared before its cells ran, where that was another content than before."""

    time: str
    hash: str
    finished: int
    """Cells of the sweep that had finished by then, of ``cells``."""
    done: tuple[str, ...]
    """Their names, ``arm/seed``."""
    cells: int
    looked: tuple[int, ...]
    """Numbers of complete seeds at the looks at results by then."""
    content: Content
    genuine: bool
    """Whether ``hash`` is that of ``content``."""


@dataclass(frozen=True)
class Look:
    """A report that showed new results."""

    time: str
    seeds: int
    """Seeds that all arms of the planned comparisons had finished."""
    results: str
    """Digest of the results."""


@dataclass(frozen=True)
class LeftOut:
    """A cell that has ended, that the sweep once had and that the present plan leaves out."""

    arm: str
    seed: int
    failed: bool = False
    """Whether it ended without a result."""


@dataclass(frozen=True)
class Contrast:
    """A planned comparison: for each seed, the mean over its couples of the first arm minus the second."""

    arm: str
    other: str
    couples: tuple[tuple[str, str], ...]
    """Arms that differ within a couple in nothing else; several are the levels of other factors."""
    summed: bool = False
    """Whether the couples are added up, for a difference of differences, and not averaged."""


@dataclass(frozen=True)
class Matched:
    """Comparisons of arms that are said to be of equal strength, in the measure in which that shows."""

    measure: str
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True)
class At:
    """Where ladders of arms are compared: at one level of a measure."""

    measure: str
    level: float
    ladders: Mapping[str, tuple[str, ...]]
    """Name -> its arms, the rungs."""


@dataclass(frozen=True)
class Sweep:
    """Everything that a report is made from."""

    name: str
    grid: str
    question: str
    recipe: str
    baseline: str
    primary: str
    higher_is_better: bool
    secondary: tuple[str, ...]
    planned: tuple[Contrast, ...]
    """The comparisons that were planned; others are exploratory."""
    alpha: float
    correction: Correction
    command: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    """The baseline first, the untouched model second, then in the order of the grid."""
    refused: tuple[tuple[str, str], ...]
    created: str
    git_sha: str
    schema: Schema
    """The descriptions of measures."""
    test: str = "sign_flip"
    margin: float | None = None
    """Differences of the primary measure that are smaller do not matter; None if none was declared."""
    design: str = "fixed"
    looks: tuple[int, ...] = ()
    """Numbers of seeds at which a group-sequential design looks at results; the last is its maximum."""
    content: Content = field(default_factory=dict)
    """What the present plan would be declared as."""
    revisions: tuple[Revision, ...] = ()
    """What was declared, oldest first."""
    looked_at: tuple[Look, ...] = ()
    """All looks at results, oldest first; that at the present ones is among them once a report is written."""
    left_out: tuple[LeftOut, ...] = ()
    matched: Matched | None = None
    at: At | None = None
    derived: tuple[Arm, ...] = ()
    """What stands for its ladders in the planned comparisons (:mod:`reports.ladder`); none of them has run."""
    blocks: Blocks | None = None
    """The models that seeds start from in turn; None where all start from one."""
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a sweep that tries settings: arm -> the arms that try its settings."""
    tuning_id: str = ""
    """The sweep that tries the settings of this one's arms; empty if the grid has none to try."""
    tuning: Sweep | None = None
    """That sweep, if it lies beside this one."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, arm by arm."""
        return tuple(cell for arm in self.arms for cell in arm.cells)

    @property
    def counted(self) -> tuple[Cell, ...]:
        """The finished cells with the primary measure: without it a cell has no part in the verdict."""
        return tuple(cell for cell in self.cells if cell.state == "done" and self.primary in cell.metrics)

    @cached_property
    def complete_seeds(self) -> tuple[int, ...]:
        """The seeds that the baseline and all arms of the planned comparisons have finished, with the primary measure.

        An arm that does not train has one cell, which counts for all seeds (of its block); without it none is complete.
        """
        rungs = {} if self.at is None else self.at.ladders
        sides = {name for contrast in self.planned for couple in contrast.couples for name in couple}
        planned = {arm for name in sides for arm in rungs.get(name, (name,))}
        compared = [arm for arm in self.arms if arm.name in {self.baseline, *planned}]
        found = [{*arm.by_seed(arm.values(self.primary), self.seeds)} for arm in compared]
        return tuple(sorted(set.intersection(*found))) if any(arm.trained for arm in compared) else ()

    @property
    def earlier_looks(self) -> tuple[Look, ...]:
        """Looks at other results than the present ones, so that a page is the same before and after its own look."""
        return tuple(look for look in self.looked_at if look.results != self.results)

    @property
    def looked(self) -> tuple[int, ...]:
        """Numbers of complete seeds at looks at other results than the present ones, ascending, each once."""
        lost = {n for revision in self.revisions for n in revision.looked} - {look.seeds for look in self.looked_at}
        return tuple(sorted(({look.seeds for look in self.earlier_looks} | lost) - {0}))

    @cached_property
    def results(self) -> str:
        """A digest of the final metrics of all finished cells; empty if there is none."""
        found = sorted((cell.identity, sorted(cell.metrics.items())) for cell in self.cells if cell.state == "done")
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] if found else ""

    @property
    def trained(self) -> tuple[Arm, ...]:
        """The arms that train."""
        return tuple(arm for arm in self.arms if arm.trained)

    @property
    def untouched(self) -> Arm | None:
        """The model before training."""
        return next((arm for arm in self.arms if arm.untouched), None)

    def better(self, name: str) -> Better:
        """Which direction is better: for the primary metric as the grid says, for others as the schema says."""
        if name == self.primary:
            return "higher" if self.higher_is_better else "lower"
        return self.schema.metric(name).better

    def arm(self, name: str) -> Arm:
        """The arm called ``name``, or what stands for a ladder of that name."""
        return next(arm for arm in (*self.arms, *self.derived) if arm.name == name)

    @property
    def kinds(self) -> dict[str, list[Cell]]:
        """Kind of machine -> the finished cells that ran on it."""
        done = [cell for cell in self.cells if cell.state == "done"]
        return {kind: [cell for cell in done if cell.kind == kind] for kind in sorted({cell.kind for cell in done})}

    @cached_property
    def evaluated(self) -> EvaluationSize:
        """How much the finished cells were evaluated on; of several sizes the commonest counts."""
        sizes = [cell.evaluated for cell in self.cells if cell.state == "done" and cell.evaluated.prompts]
        return max(sizes, key=sizes.count, default=EvaluationSize())

    @property
    def eval_set_hash(self) -> str:
        """The hash of the evaluation set that all counted cells share; empty if there is none."""
        return next((cell.eval_set_hash for cell in self.cells if cell.state == "done"), "")
