"""The plan of a sweep: which arms there are, which of them can run, and every cell with its identity."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ablations.blocks import Blocks
from ablations.contrasts import Contrast, Factors, contrasts, partners
from ablations.grid import UNTOUCHED, Grid, check_seeds
from ablations.ladder import Ladder, ladders
from ablations.measures import check_alike, check_primary, unmeasured
from ablations.tuning import candidates
from unigrpo.compose import Draft, recipe_of, unknown_key
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError
from unigrpo.identity import identity_of
from unigrpo.overrides import Override, parse, spell
from unigrpo.plain import plain_form
from unigrpo.registry import nearest

#: Part of every cell's identity: raise it when equal configurations stop giving equal results.
SCHEMA = 5

#: Keys that say which model there is and what it needs to be evaluated.
_OF_A_MODEL = ("model", "dataset", "episode", "image_head")


@dataclass(frozen=True)
class Cell:
    """One run: an arm with one seed."""

    arm: str
    config: RunConfig
    shared: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)
    """The identity that the cells of an arm and block share but for the seed; made when needed if it is not given."""

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits of all that decides its result (:func:`~unigrpo.identity.identity_of`)."""
        whole = identity_of(self.config) if self.shared is None else {**self.shared, "seed": self.config.seed}
        return digest({"schema": SCHEMA, "identity": whole}, 12)

    @property
    def name(self) -> str:
        """``arm:seed``, what ``only=`` matches."""
        return f"{self.arm}:{self.config.seed}"


@dataclass(frozen=True)
class Arm:
    """One configuration, to be run with every seed."""

    name: str
    overrides: tuple[str, ...]
    configs: tuple[RunConfig, ...]
    """The configuration in each block of seeds, with seed 0; a single one where there are no blocks."""
    refused: tuple[str, ...] = ()
    """Why it cannot run; empty if it can."""
    factors: Factors = dataclasses.field(default_factory=dict)
    """Key of an axis -> its level there, such as ``weight=3``."""
    replicate: bool = False
    """Whether this is the baseline again, with other draws."""

    @property
    def stem(self) -> str:
        """Its name in the grid file."""
        return self.name.partition("@")[0]

    @property
    def untouched(self) -> bool:
        """Whether this is a model before training, which is there without being listed."""
        return self.stem == UNTOUCHED

    @property
    def trained(self) -> bool:
        """Whether it makes updates; else it is a model as it came, and no seed changes what is measured of it."""
        return self.config.optim.updates > 0

    @property
    def config(self) -> RunConfig:
        """The configuration of seed 0, which that of other blocks differs from in the model alone."""
        return self.configs[0]

    @cached_property
    def identities(self) -> tuple[dict[str, Any], ...]:
        """The identity of the configuration in each block."""
        return tuple(map(identity_of, self.configs))

    def seed_of(self, seed: int) -> int:
        """The seed of the cell that tells of ``seed``: of what is not trained, the first of the block."""
        return seed if self.trained else seed % len(self.configs)

    def cell(self, seed: int) -> Cell:
        """The cell with the given seed."""
        if seed not in self._cells:
            block = seed % len(self.configs)
            config = dataclasses.replace(self.configs[block], seed=seed)
            self._cells[seed] = Cell(self.name, config, self.identities[block])
        return self._cells[seed]

    @cached_property
    def _cells(self) -> dict[int, Cell]:
        # A cell takes a while to find out its identity.
        return {}


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


def digest(value: Any, length: int) -> str:
    """The first ``length`` hexadecimal digits of the SHA-256 of ``value`` as canonical JSON (sorted keys, no NaN)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def make_plan(grid: Grid, overrides: Sequence[str] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """Resolve ``grid`` with the overrides of the command line.

    An override of a strategy's field (``regularizer.weight=3``) goes to the arms whose strategy has that field; one
    that fits no arm is an error.  A sweep (``a=1,2``) is one more axis of the grid.

    Raises:
        ConfigError: unknown keys or values, two arms that are one and the same, or no arm that can run.
    """
    parsed = [parse(text) for text in overrides]
    builder = _Builder(grid, parsed)
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


class _Builder:
    """Makes the arms of a grid, and remembers which overrides and rules found a place.

    Attributes:
        notes: what the command left without effect in the grid.
    """

    def __init__(self, grid: Grid, command: Sequence[Override]) -> None:
        self.grid = grid
        self.shared = [*map(parse, grid.overrides)]
        self.own = {name: [*map(parse, texts)] for name, texts in grid.arms.items()}
        salts = {name: Override.of("salt", number) for number, name in enumerate(grid.replicates, 1)}
        self.own |= {name: [*self.own[grid.baseline], salt] for name, salt in salts.items()}
        self.fixed = [override for override in command if not override.sweep]
        said = {override.key for override in command}
        # What the command says of a key replaces what the grid varies there.
        axes = {key: [Override.of(key, value) for value in values] for key, values in grid.axes.items()}
        axes = {key: axis for key, axis in axes.items() if key not in said}
        axes |= {o.key: [Override.of(o.key, value) for value in o.sweep] for o in command if o.sweep}
        columns = {key: values for key, values in grid.zip.items() if key not in said}
        rows = [[*map(Override.of, columns, row)] for row in zip(*columns.values(), strict=True)]
        # Sorted, so that the names of the arms do not depend on the order of the overrides.
        self.choices = [*([[override] for override in axes[key]] for key in sorted(axes)), *([rows] if rows else [])]
        self.varied = {*axes, *columns}
        swept = [override for points in self.choices for point in points for override in point]
        self.unused = {override.text: override for override in (*self.fixed, *swept)}
        self.notes: list[str] = []
        self._drafts: dict[tuple[str, str], Draft] = {}
        self._idle = list(grid.exclude)
        self._replaced = said & {*grid.axes, *grid.zip}
        self.blocks = grid.blocks
        if grid.blocks and (instead := grid.blocks.replaced_by(command)):
            self.blocks = None
            self.notes.append(f"blocks: replaced by {instead.text} of the command")
        self._check(swept)

    def _check(self, swept: Sequence[Override]) -> None:
        for override in (*self.fixed, *swept, *self.shared, *itertools.chain(*self.own.values())):
            if override.key == "seed":
                raise ConfigError(f"{override.text}: the sweeper sets it; use seeds=5 or seeds=[3,4,7]")
        if self.blocks:
            self.blocks.check({"overrides": self.shared, **{f"arm {name}": own for name, own in self.own.items()}})
        for points in self.choices:
            texts = [[override.text for override in point] for point in points]
            if twice := next((text for k, text in enumerate(texts) if text in texts[:k]), None):
                raise ConfigError(f"{' '.join(twice)}: comes twice among the values of its axis")
        for rule in self.grid.exclude:
            for key in rule:
                if key not in {"arm", *self.varied, *self._replaced}:
                    raise ConfigError(f"exclude: no axis is called {key!r}{nearest(key, ['arm', *self.varied])}")

    def untouched(self, arms: Sequence[Arm]) -> Iterator[Arm]:
        """The models that ``arms`` start from, before training: that of the baseline and, where others differ, theirs.

        An arm that makes no updates is such a model already.
        """
        known = [plain_form(arm.config.model) for arm in arms if not arm.trained]
        trained = [arm for arm in arms if arm.trained]
        able = [arm for arm in trained if not arm.refused] or trained
        able.sort(key=lambda arm: arm.stem != self.grid.baseline)
        for arm in able:
            model, listed = plain_form(arm.config.model), arm.stem
            if model not in known:
                known.append(model)
                # An axis may give one arm of the file several models.
                alike = all(plain_form(o.config.model) == model for o in able if o.name.partition("@")[0] == listed)
                yield self._before(arm, UNTOUCHED if arm is able[0] else f"{UNTOUCHED}@{listed if alike else arm.name}")

    def _before(self, arm: Arm, name: str) -> Arm:
        """The model of ``arm`` before training, evaluated as all arms are."""
        draft, _ = self._draft(UNTOUCHED, ())
        plain = arm.config.to_dict()
        if plain["model"] != (self.blocks.in_block(draft) if self.blocks else draft).plain["model"]:
            draft.plain |= {key: plain[key] for key in _OF_A_MODEL}
            own = [override for override in map(parse, arm.overrides) if override.root in _OF_A_MODEL]
            draft.said = [*(override for override in draft.said if override.root not in _OF_A_MODEL), *own]
        draft.apply([Override.of("optim.updates", 0)])
        return self._arm(name, draft)

    def arms(self, name: str) -> Iterator[Arm]:
        """The arm ``name`` of the grid file, crossed with the axes that it has the keys for."""
        points: dict[str, list[str]] = {}
        for point in itertools.product(*self.choices):
            swept = [*itertools.chain(*point)]
            try:
                draft, used = self._draft(name, swept)
                mine = [override for override in swept if override.key in used]
                full = name + ("@" + ",".join(_label(override, swept) for override in mine) if mine else "")
                texts = [override.text for override in mine]
                if full in points and points[full] != texts:
                    raise ConfigError(f"{texts} and {points[full]} would both be called {full}")
                if full in points or self._excluded(name, mine):
                    continue
                points[full] = texts
                factors = {override.key: _label(override, swept) for override in mine}
                repeats = name in self.grid.replicates
                arm = dataclasses.replace(self._arm(full, draft), factors=factors, replicate=repeats)
                if arm.replicate and not arm.trained:
                    raise ConfigError("it makes no updates, so that nothing of it can be repeated; give no replicate")
                yield arm
            except ConfigError as error:
                raise ConfigError(f"arm {name}: {error}") from error

    def check_used(self) -> None:
        """Raise ConfigError for an override or an axis that fits no arm, and for a rule that leaves out no point."""
        for override in self.unused.values():
            known = set[str]().union(*(self._draft(name, ())[0].keys() for name in self.grid.arms))
            raise ConfigError(unknown_key(override.key, known))
        for rule in self._idle:
            if not self._replaced & set(rule):
                raise ConfigError(f"exclude: {spell(dict(rule))} matches no point of the grid{self._values(rule)}")
            self.notes.append(f"exclude: {spell(dict(rule))} matches no point: the command replaces an axis of it")

    def _draft(self, name: str, swept: Sequence[Override]) -> tuple[Draft, set[str]]:
        """An arm's configuration at one point of the axes, and the keys that found a place in it."""
        own = self.own.get(name, [])
        recipe = recipe_of([*self.shared, *own, *self.fixed, *swept], self.grid.recipe)
        if (recipe, name) not in self._drafts:
            self._drafts[recipe, name] = Draft(recipe)
            self._drafts[recipe, name].apply(self.shared)
            self._drafts[recipe, name].apply(own)
        draft = self._drafts[recipe, name].copy()
        used = draft.apply([*self.fixed, *swept], where_fitting=True)
        for override in used:
            self.unused.pop(override.text, None)
        return draft, {override.key for override in used}

    def _arm(self, name: str, draft: Draft) -> Arm:
        said = tuple(override.text for override in draft.said)
        if self.blocks is None:
            config = draft.config()
            return Arm(name, said, (config,), tuple(config.conflicts()))
        configs = self.blocks.configs(draft)
        return Arm(name, said, configs, self.blocks.conflicts(configs))

    def _excluded(self, name: str, used: Sequence[Override]) -> bool:
        arm = self.grid.baseline if name in self.grid.replicates else name
        point = {"arm": arm} | {override.key: override.value for override in used}
        matching = [rule for rule in self.grid.exclude if all(_same(point.get(key), rule[key]) for key in rule)]
        self._idle = [rule for rule in self._idle if rule not in matching]
        return bool(matching)

    def _values(self, rule: Mapping[str, Any]) -> str:
        """What the axes have for the keys of a rule."""
        axes: dict[str, dict[str, None]] = {}
        for override in (override for points in self.choices for point in points for override in point):
            axes.setdefault(override.key, {})[spell(override.value)] = None
        return "".join(f"; {key} has {', '.join(axes[key])}" for key in rule if key in axes)


def _same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal: 1 is 1.0, but not true."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _label(override: Override, overrides: Sequence[Override]) -> str:
    """``weight=3`` for ``regularizer.weight=3``; the whole key where another axis ends in the same word."""
    last = override.key.rpartition(".")[2]
    alone = sum(other.key.rpartition(".")[2] == last for other in overrides) == 1
    value = override.value if isinstance(override.value, str) else spell(override.value)
    return f"{last if alone else override.key}={value}"


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
