"""Makes the arms of a grid, at all points of its axes and in all blocks of its seeds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ablations.arms import Arm
from ablations.grid import UNTOUCHED, Grid
from unigrpo.compose import Draft, recipe_of, unknown_key
from unigrpo.config import OF_A_MODEL
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject
from unigrpo.overrides import Override, parse, spell
from unigrpo.plain import plain_form
from unigrpo.registry import nearest


class ArmBuilder:
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
        known = [_start_of(arm) for arm in arms if not arm.trained]
        trained = [arm for arm in arms if arm.trained]
        able = [arm for arm in trained if not arm.refused] or trained
        able.sort(key=lambda arm: arm.stem != self.grid.baseline)
        for arm in able:
            start, listed = _start_of(arm), arm.stem
            if start not in known:
                known.append(start)
                # An axis may give one arm of the file several models.
                alike = all(_start_of(o) == start for o in able if o.name.partition("@")[0] == listed)
                yield self._before(arm, UNTOUCHED if arm is able[0] else f"{UNTOUCHED}@{listed if alike else arm.name}")

    def _before(self, arm: Arm, name: str) -> Arm:
        """The model of ``arm`` before training, evaluated as all arms are."""
        draft, _ = self._draft(UNTOUCHED, ())
        plain = arm.config.to_dict()
        shared = (self.blocks.in_block(draft) if self.blocks else draft).plain
        if _start_of(arm) != _start(shared["model"], shared.get("adapter")):
            others = {key: value for key, value in draft.plain.items() if key not in OF_A_MODEL}
            draft.plain = others | {key: plain[key] for key in OF_A_MODEL if key in plain}
            own = [override for override in map(parse, arm.overrides) if override.root in OF_A_MODEL]
            draft.said = [*(override for override in draft.said if override.root not in OF_A_MODEL), *own]
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


def _start_of(arm: Arm) -> tuple[JsonObject, str]:
    return _start(arm.config.model, arm.config.adapter)


def _start(model: object, adapter: object) -> tuple[JsonObject, str]:
    """The model that a run starts from, and where the adapter in it comes from; an average starts as what it is of."""
    plain = plain_form(adapter) or {}
    return plain_form(model), plain.get("inner", plain).get("start", "")


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
