"""The plan of a sweep: which arms there are, which of them can run, and every cell with its identity."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import itertools
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ablations.grid import UNTOUCHED, Grid, check_seeds
from unigrpo.checkpoints import digest_of
from unigrpo.compose import Override, compose, known_keys, layered, parse, unknown_key
from unigrpo.config import RunConfig, slot_of
from unigrpo.registry import ConfigError

#: Part of every cell's identity: raise it when equal configurations stop giving equal results.
SCHEMA = 3


@dataclass(frozen=True)
class Cell:
    """One run: an arm with one seed."""

    arm: str
    config: RunConfig
    shared: Mapping[str, Any] | None = dataclasses.field(default=None, compare=False, repr=False)
    """The plain form that all cells of the arm share but for the seed; made when needed if it is not given."""

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits that the configuration and the weights it starts from decide, and nothing else."""
        weights = digest_of(self.config.model.checkpoint)
        plain = self.config.identity() if self.shared is None else {**self.shared, "seed": self.config.seed}
        return digest({"schema": SCHEMA, "config": plain, "weights": weights}, 12)

    @property
    def name(self) -> str:
        """``arm:seed``, what ``only=`` matches."""
        return f"{self.arm}:{self.config.seed}"


@dataclass(frozen=True)
class Arm:
    """One configuration, to be run with every seed; ``config`` has seed 0."""

    name: str
    overrides: tuple[str, ...]
    config: RunConfig
    refused: tuple[str, ...] = ()
    """Why it cannot run; empty if it can."""

    @property
    def untouched(self) -> bool:
        """Whether this is the model before training."""
        return self.name == UNTOUCHED

    @property
    def trained(self) -> bool:
        """Whether it makes updates; else it is a model as it came, and no seed changes what is measured of it."""
        return self.config.optim.updates > 0

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The identity of its configuration."""
        return self.config.identity()

    def cell(self, seed: int) -> Cell:
        """The cell with the given seed."""
        return Cell(self.name, dataclasses.replace(self.config, seed=seed), self.identity)


@dataclass(frozen=True)
class Plan:
    """A grid with everything resolved."""

    grid: Grid
    recipe: str
    baseline: str
    arms: tuple[Arm, ...]
    """All arms, the untouched model first, refused ones included."""
    seeds: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def comparisons(self) -> list[str]:
        """Names of the arms that are compared with the baseline as planned."""
        planned = self.grid.comparisons or tuple(self.grid.arms)
        runnable = [arm.name for arm in self.arms if not arm.untouched and not arm.refused]
        return [name for name in runnable if name.partition("@")[0] in planned and name != self.baseline]

    @cached_property
    def sweep_id(self) -> str:
        """``<grid>-<hash8>``, of the arms without their seeds: a sweep keeps its folder when seeds are added."""
        arms = {arm.name: arm.identity for arm in self.arms}
        return f"{self.grid.name}-{digest({'schema': SCHEMA, 'baseline': self.baseline, 'arms': arms}, 8)}"

    def cells_of(self, arm: Arm) -> list[Cell]:
        """The cells of one arm: one for each seed, or a single one where nothing is trained, which no seed changes."""
        return self._cells[arm.name]

    @cached_property
    def _cells(self) -> dict[str, list[Cell]]:
        # Made once, since a cell takes a while to find out its identity.
        seeds = {arm.name: () if arm.refused else self.seeds if arm.trained else (0,) for arm in self.arms}
        return {arm.name: [arm.cell(seed) for seed in seeds[arm.name]] for arm in self.arms}

    def cells(self, only: str = "*") -> list[Cell]:
        """Cells whose name matches the glob ``only``, seed by seed, so that a sweep that is stopped is balanced."""
        by_arm = [self.cells_of(arm) for arm in self.arms]
        return [
            cell
            for row in itertools.zip_longest(*by_arm)
            for cell in row
            if cell is not None and fnmatch.fnmatchcase(cell.name, only)
        ]


def digest(value: Any, length: int) -> str:
    """The first ``length`` hexadecimal digits of the SHA-256 of ``value`` as canonical JSON (sorted keys, no NaN)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a.b": 1}`` for ``{"a": {"b": 1}}``."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def make_plan(grid: Grid, overrides: Sequence[str] = (), seeds: tuple[int, ...] | None = None) -> Plan:
    """Resolve ``grid`` with the overrides of the command line.

    An override of a strategy's field (``regularizer.weight=3``) goes to the arms whose strategy has that field; one
    that fits no arm is an error.  A sweep (``a=1,2``) is one more axis of the grid.

    Raises:
        ConfigError: unknown keys or values, two arms that are one and the same, or no arm that can run.
    """
    parsed = [parse(text) for text in overrides]
    if any(override.key == "seed" for override in parsed):
        raise ConfigError("seed: the sweeper sets it; use seeds=5 or seeds=[3,4,7]")
    fixed = [override.text for override in parsed if not override.values]
    axes = {override.key: override.values for override in parsed if override.values}
    builder = _Builder(grid, fixed, axes)
    arms = [builder.untouched(), *itertools.chain.from_iterable(map(builder.arms, grid.arms))]
    builder.check_used()
    _check_distinct(arms)
    if all(arm.refused for arm in arms[1:]):
        reasons = (f"{arm.name}: {reason}" for arm in arms[1:] for reason in arm.refused)
        raise ConfigError("no arm can run; " + "; ".join(reasons))
    recipe = next((str(override.value) for override in reversed(parsed) if override.key == "recipe"), grid.recipe)
    candidates = [arm for arm in arms if arm.name.partition("@")[0] == grid.baseline]
    baseline = min(candidates, key=lambda arm: bool(arm.refused)).name
    plan = Plan(grid, recipe, baseline, tuple(arms), check_seeds(seeds or grid.seeds), ())
    return dataclasses.replace(plan, notes=tuple(_notes(plan)))


class _Builder:
    """Makes the arms of a grid, and remembers which overrides found a place."""

    def __init__(self, grid: Grid, fixed: Sequence[str], axes: Mapping[str, Sequence[str]]) -> None:
        self.grid = grid
        self.fixed = fixed
        axes = {key: [_spell(key, value) for value in values] for key, values in grid.axes.items()} | dict(axes)
        # Sorted, so that the names of the arms do not depend on the order of the overrides.
        self.choices: list[list[tuple[str, ...]]] = [[(text,) for text in axes[key]] for key in sorted(axes)]
        if grid.zip:
            rows = zip(*grid.zip.values(), strict=True)
            self.choices.append([tuple(map(_spell, grid.zip, row)) for row in rows])
        self.known: set[str] = set()
        self._composed: dict[tuple[str, ...], RunConfig] = {}

    def untouched(self) -> Arm:
        """The model before training, evaluated as all arms are."""
        overrides = self._fitting([self.grid.overrides], self.fixed)
        config = compose([*overrides, "optim.updates=0"], self.grid.recipe)
        return Arm(UNTOUCHED, (*overrides, "optim.updates=0"), config, tuple(config.conflicts()))

    def arms(self, name: str) -> Iterator[Arm]:
        """The arm ``name`` of the grid file, crossed with the axes that it has the keys for."""
        seen = set()
        for point in itertools.product(*self.choices):
            swept = list(itertools.chain(*point))
            overrides = self._fitting([self.grid.overrides, self.grid.arms[name]], [*self.fixed, *swept])
            used = [text for text in swept if text in overrides]
            full = name + ("@" + ",".join(_label(text, swept) for text in used) if used else "")
            if full in seen or self._excluded(name, used):
                continue
            seen.add(full)
            try:
                config = self._config(overrides, used)
            except ConfigError as error:
                raise ConfigError(f"arm {full}: {error}") from error
            yield Arm(full, tuple(overrides), config, tuple(config.conflicts()))

    def _config(self, overrides: Sequence[str], swept: Sequence[str]) -> RunConfig:
        """What :func:`compose` makes of ``overrides``; points of the axes share the composition of all the rest."""
        changes = [parse(text) for text in swept]
        rest = tuple(text for text in overrides if text not in swept)
        if not changes or not all(map(_is_plain, changes)):
            return compose(overrides, self.grid.recipe)
        try:
            if rest not in self._composed:
                self._composed[rest] = compose(rest, self.grid.recipe)
            plain = self._composed[rest].to_dict()
            for change in changes:
                *path, last = change.key.split(".")
                node = functools.reduce(operator.getitem, path, plain)
                node[last]  # must be there
                node[last] = change.value
        except (ConfigError, KeyError):  # the rest alone is no configuration: some field has no default
            return compose(overrides, self.grid.recipe)
        return RunConfig.from_dict(plain)

    def check_used(self) -> None:
        """Raise ConfigError for an override or an axis whose key no arm has."""
        texts = [*self.fixed, *(text for axis in self.choices for point in axis for text in point)]
        for override in map(parse, texts):
            if slot_of(override.root) and override.kind != "add" and override.key not in self.known:
                raise ConfigError(unknown_key(override.key, self.known))

    def _fitting(self, layers: Sequence[Sequence[str]], last: Sequence[str]) -> list[str]:
        """All layers in one list, ``last`` without the fields that the strategies chosen in the end do not have."""
        parsed = [parse(text) for text in last]
        always = [o.text for o in parsed if o.key == o.root or not slot_of(o.root)]
        known = known_keys(layered([*layers, always], self.grid.recipe), self.grid.recipe)
        self.known |= known
        return layered(
            [*layers, [o.text for o in parsed if o.text in always or o.key in known or o.kind == "add"]],
            self.grid.recipe,
        )

    def _excluded(self, name: str, used: Sequence[str]) -> bool:
        point = {"arm": name} | {override.key: override.value for override in map(parse, used)}
        return any(all(point.get(key) == value for key, value in rule.items()) for rule in self.grid.exclude)


def _is_plain(override: Override) -> bool:
    """Whether the override only puts a value into a field that is there."""
    text = json.dumps(override.value, default=lambda _: "${}")
    return override.kind == "set" and slot_of(override.key) is None and "${" not in text


def _spell(key: str, value: Any) -> str:
    """The override that gives ``key`` the value ``value`` of a YAML file."""
    return f"{key}={_spelled(value)}"


def _spelled(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_spelled(item)}" for key, item in value.items()) + "}"
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)


def _label(text: str, texts: Sequence[str]) -> str:
    """``weight=3`` for ``regularizer.weight=3``; the whole key where another axis ends in the same word."""
    key, _, value = text.partition("=")
    last = key.rpartition(".")[2]
    alone = sum(other.partition("=")[0].rpartition(".")[2] == last for other in texts) == 1
    return f"{last if alone else key}={value}"


def _check_distinct(arms: Sequence[Arm]) -> None:
    first: dict[str, str] = {}
    for arm in arms:
        same = first.setdefault(arm.cell(0).id, arm.name)
        if same != arm.name:
            raise ConfigError(f"arms {same!r} and {arm.name!r} are one and the same configuration")


def _notes(plan: Plan) -> Iterator[str]:
    """What one should know before spending time on the plan."""
    trained = [arm for arm in plan.arms if not arm.untouched and not arm.refused]
    names = {arm.name for arm in trained}
    if plan.baseline not in names:
        yield f"the baseline {plan.baseline} is refused: there is nothing to compare with"
    elif plan.baseline != plan.grid.baseline:
        yield f"an axis splits the baseline; every comparison is with {plan.baseline}"
    comparisons = len(plan.comparisons)
    factor = comparisons if plan.grid.correction == "holm" else 1
    seeds = len(plan.seeds)
    smallest = 2 / 2**seeds
    if comparisons > 0 and smallest * factor > plan.grid.alpha:
        enough = next(n for n in itertools.count(seeds) if factor * 2 / 2**n <= plan.grid.alpha)
        corrected = f", {smallest * factor:.3g} after {plan.grid.correction} over {comparisons} comparisons"
        yield (
            f"with {seeds} seeds the smallest p that an exact paired test can give is {smallest:.3g}"
            f"{corrected if factor > 1 else ''}, above alpha = {plan.grid.alpha:g}: the test cannot show any"
            f" difference; seeds={enough} could"
        )
