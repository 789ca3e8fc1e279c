"""From a recipe and overrides to one :class:`~unigrpo.config.RunConfig`.

Everything happens on the plain form of a configuration: :class:`Draft` starts from a recipe and takes layers of
overrides, and the project's own frozen dataclass checks what comes out.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unigrpo import registry
from unigrpo.config import SILENT, RunConfig, slot_of
from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject, home_expanded
from unigrpo.overrides import Override, parse
from unigrpo.plain import Fields, class_of, fields_of, plain_form
from unigrpo.registry import nearest
from unigrpo.strict_yaml import load_yaml

RECIPES = Path(__file__).parent / "recipes"

#: What people look for among the keys -> where it is.
ELSEWHERE = {
    "device": (
        "a run takes a GPU where there is one, else the CPU; the environment variable ACCELERATE_TORCH_DEVICE=cpu (or"
        " cuda:1) chooses, CUDA_VISIBLE_DEVICES hides"
    ),
}

#: Stands in a draft for the value of a field that has no default.
_REQUIRED = ...


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> JsonObject:
    """The recipe file ``name`` (a shipped one, or a path that ends in .yaml), with ``config`` complete and checked.

    Raises:
        ConfigError: there is no such recipe, or its configuration is not valid.
    """
    path = Path(home_expanded("recipe", name)) if name.endswith(".yaml") else RECIPES / f"{name}.yaml"
    return _read_recipe(path, name)


@functools.cache
def _read_recipe(path: Path, name: str) -> JsonObject:
    if not path.is_file():
        raise ConfigError(f"unknown recipe {name!r}{nearest(name, recipes())}")
    try:
        data = load_yaml(path) or {}
        if not isinstance(data, dict):
            raise ConfigError(f"expected keys and values, got {data!r}")
        keys = {"source", "scaled_down", "config"}
        if unknown := sorted(set(map(str, data)) - keys):
            raise ConfigError(f"unknown key {unknown[0]!r}{nearest(unknown[0], keys)}")
        plain = RunConfig.from_dict(data.get("config") or {}).to_dict()
    except ConfigError as error:
        raise ConfigError(f"recipe {name}: {error}") from error
    return {**data, "config": plain | {"recipe": path.stem}}


def compose(overrides: Sequence[str] = (), recipe: str = "unigrpo") -> RunConfig:
    """The configuration that ``recipe`` and ``overrides`` describe.

    A strategy keeps the fields that the recipe gives it; choosing another one starts from that one's own defaults,
    whatever the order of the overrides.  Of two overrides of one key the later counts.  A mapping given whole replaces
    the one that is there; ``++a.b=1`` adds to it.

    Args:
        overrides: ``group=strategy``, ``a.b=value``, ``+a=value``, ``++a=value``, ``~a`` or ``recipe=name``; a
            strategy is a registered name or a dotted path ``package.module.Class``.
        recipe: the recipe to start from, unless an override names one.

    Raises:
        ConfigError: unknown recipe, key, strategy or value, naming the nearest valid one.
    """
    parsed = [parse(text) for text in overrides]
    draft = Draft(recipe_of(parsed, recipe))
    draft.apply(parsed)
    return draft.config()


def recipe_of(overrides: Sequence[Override], recipe: str) -> str:
    """The recipe that the last of ``recipe=`` among the overrides names; else ``recipe``.

    Raises:
        ConfigError: what it names is no word.
    """
    for override in overrides:
        if override.key == "recipe":
            if not isinstance(override.value, str):
                raise ConfigError(f"{override.text}: expected the name of one recipe{nearest('', recipes())}")
            recipe = override.value
    return recipe


class Draft:
    """The plain form of a configuration, on its way from a recipe to a :class:`RunConfig`.

    Attributes:
        plain: complete at all times.
        said: the overrides that decided it, without those that others replaced.
    """

    def __init__(self, recipe: str) -> None:
        # With the fields that the plain form leaves out, so that they can be changed.
        self._recipe: JsonObject = {**SILENT, **load_recipe(recipe)["config"]}
        self.plain: JsonObject = _copy(self._recipe)
        self.said: list[Override] = []

    def copy(self) -> Draft:
        """One that goes its own way from here."""
        other = object.__new__(Draft)
        other._recipe, other.plain, other.said = self._recipe, _copy(self.plain), list(self.said)
        return other

    def apply(self, layer: Sequence[Override], *, where_fitting: bool = False) -> list[Override]:
        """Make the changes of one layer: first the strategies it chooses, then all others in their order.

        Args:
            layer: overrides; ``recipe=`` changes nothing here, :func:`recipe_of` reads it.
            where_fitting: whether to leave out what changes a field that the chosen strategy does not have.

        Returns:
            The overrides that took effect.

        Raises:
            ConfigError: unknown key or strategy, a sweep.
        """
        used = [override for override in layer if override.key == "recipe"]
        self.said += used
        rest = [override for override in layer if override.key != "recipe"]
        while rest:
            picks = [override for override in rest if self._slot(override.key)]
            # A strategy comes before those that are fields of it.
            for override in sorted(picks, key=lambda pick: pick.key.count(".")) or rest:
                try:
                    self._change(override)
                except _UnknownKey:
                    if not (where_fitting and "." in override.key and slot_of(override.root)):
                        raise
                else:
                    used.append(override)
            rest = [override for override in rest if picks and override not in picks]
        return used

    def config(self) -> RunConfig:
        """The configuration.

        Raises:
            ConfigError: a value of the wrong type, or a field without one.
        """
        for key, value in _items(self.plain):
            if value is _REQUIRED:
                raise ConfigError(f"{key}: has no default, give it a value ({key}=...)")
        return RunConfig.from_dict(self.plain)

    def keys(self) -> set[str]:
        """Every key that can be set."""
        return {key for key, _ in _items(self.plain)}

    def _owner(self, path: Sequence[str]) -> tuple[JsonObject, Fields | None]:
        """The mapping at ``path``, and the fields it may have: None if any, none at all if there is no mapping."""
        node: Any = self.plain
        fields: Fields | None = fields_of(RunConfig)
        for part in path:
            field = fields.get(part) if fields else None
            node = node.get(part)
            if not isinstance(node, dict):
                return {}, {}
            cls = class_of(field, node) if field else None
            fields = fields_of(cls) if cls else None
        return node, fields

    def _slot(self, key: str) -> str | None:
        """The slot that ``key`` fills, given the strategies that are chosen now."""
        *path, last = key.split(".")
        field = (self._owner(path)[1] or {}).get(last)
        return field.metadata.get("slot") if field else None

    def _change(self, override: Override) -> None:
        """Make one change.

        Raises:
            _UnknownKey: there is no such key.
            ConfigError: no change that can be made to it.
        """
        if override.sweep:
            raise ConfigError(f"{override.text}: one run takes one value; python -m ablations.sweep takes several")
        *path, last = override.key.split(".")
        node, fields = self._owner(path)
        is_open, there = fields is None, last in (node if fields is None else fields)
        if not there and not (is_open and override.kind in ("add", "put")):
            raise _UnknownKey(unknown_key(override.key, self.keys()) + ("; ++ adds one" if is_open else ""))
        field, before = (fields or {}).get(last), node.get(last)
        slot = field.metadata.get("slot") if field else None
        if override.kind == "add" and there and not slot:
            raise ConfigError(f"{override.text}: it is there already; change it by {override.text.lstrip('+')}")
        if override.kind == "delete":
            if override.value not in (None, before, before.get("name") if slot and before else None):
                raise ConfigError(f"{override.text}: expected its value, which is {before!r}")
            node.pop(last, None)  # a silent field is not there
            if field:
                node[last] = _default(field)
        elif slot and field and (override.value is not None or field.default is not None):
            node[last] = self._strategy(override, slot, before)
        elif field and isinstance(override.value, dict) and (section := class_of(field, override.value)):
            node[last] = defaults(section) | _copy(override.value)
        else:
            node[last] = _copy(override.value)  # overrides are parsed once, for all configurations
        kept = bool(slot) and isinstance(before, dict) and (node[last] or {}).get("name") == before.get("name")
        self.said = [o for o in self.said if o.key != override.key and (kept or not _is_below(o.key, override.key))]
        self.said.append(override)

    def _strategy(self, override: Override, slot: str, before: object) -> JsonObject:
        """The plain form of the strategy that ``override`` chooses, in the place of ``before``."""
        if not isinstance(override.value, str):
            names = nearest("", registry.strategies(slot))
            raise ConfigError(f"{override.text}: expected the name of a strategy{names}")
        cls: Any = registry.find(slot, override.value)
        for known in (before, self._recipe.get(override.key)):
            if isinstance(known, dict) and known.get("name") == cls.name:
                return known if known is before else _copy(known)
        return {"name": cls.name} | defaults(cls)


class _UnknownKey(ConfigError):
    """There is no such key."""


def unknown_key(key: str, known: Collection[str]) -> str:
    """Says that ``key`` is none of ``known``, and which is nearest; a long list is cut to its first parts."""
    root, _, field = key.partition(".")
    if key in ELSEWHERE:
        return f"unknown key {key!r}: {ELSEWHERE[key]}"
    fields = [name.partition(".")[2] for name in known if name.startswith(f"{root}.")]
    if field and slot_of(root):
        return f"unknown key {key!r}: the strategy in {root} has no such field{nearest(field, fields)}"
    if field and fields:
        if close := difflib.get_close_matches(field, fields, n=1):
            return f"unknown key {key!r}; did you mean '{root}.{close[0]}'?"
        # lr is a part of text_lr and image_lr, though less than half of either.
        parts = [name for name in fields if field in name.split("_")]
        return f"unknown key {key!r}; choose one of: {', '.join(f'{root}.{name}' for name in sorted(parts or fields))}"
    close = difflib.get_close_matches(key, known, n=1)
    return f"unknown key {key!r}{nearest(key, close or {name.partition('.')[0] for name in known})}"


def defaults(cls: type) -> JsonObject:
    """The plain form of a dataclass with its defaults, ``...`` where a field has none."""
    return {name: _default(field) for name, field in fields_of(cls).items()}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return plain_form(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return plain_form(field.default_factory())
    return _REQUIRED


def _is_below(key: str, root: str) -> bool:
    return key.startswith(f"{root}.")


def _items(plain: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, but for the names of strategies, which their slot's key gives."""
    for key, value in plain.items():
        if not (prefix and key == "name"):
            yield prefix + key, value
        if isinstance(value, dict):
            yield from _items(value, f"{prefix}{key}.")


def _copy(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [*map(_copy, value)] if isinstance(value, list) else value
