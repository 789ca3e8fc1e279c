"""From a recipe and overrides to one :class:`~unigrpo.config.RunConfig`; the only module that knows Hydra.

Hydra is used as a library: its override grammar and its Compose API, with config groups made from the registry.  What
comes out is the project's own frozen dataclass, so nothing else depends on Hydra or OmegaConf.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unigrpo import registry
from unigrpo.config import RunConfig, slot_of
from unigrpo.registry import ConfigError, nearest

RECIPES = Path(__file__).parent / "recipes"
_PRIMARY = "unigrpo_run"
_VERSION = "1.3"


@dataclass(frozen=True)
class Override:
    """One parsed override.

    ``values`` are the overrides that a sweep (``a=1,2``, ``choice()``, ``range()``) stands for; empty for a plain one.
    """

    text: str
    key: str
    kind: str
    """``set`` (``a=1``), ``add`` (``+a=1``) or ``delete`` (``~a``)."""
    value: Any
    values: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """First part of the key: the name of a field of RunConfig."""
        return self.key.partition(".")[0]


def recipes() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """The recipe file ``name`` (a shipped one, or a path that ends in .yaml), with ``config`` complete and checked.

    Raises:
        ConfigError: there is no such recipe, or its configuration is not valid.
    """
    path = Path(name) if name.endswith(".yaml") else RECIPES / f"{name}.yaml"
    return _read_recipe(path, name)


@functools.cache
def _read_recipe(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"unknown recipe {name!r}{nearest(name, recipes())}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name}: not valid YAML ({error})") from error
    keys = {"source", "scaled_down", "config"}
    if unknown := sorted(set(data) - keys):
        raise ConfigError(f"recipe {name}: unknown key {unknown[0]!r}{nearest(unknown[0], keys)}")
    try:
        plain = RunConfig.from_dict(data.get("config") or {}).to_dict()
    except ConfigError as error:
        raise ConfigError(f"recipe {name}: {error}") from error
    return {**data, "config": plain | {"recipe": path.stem}}


@functools.cache
def parse(text: str) -> Override:
    """Parse one override.

    Raises:
        ConfigError: it is not in Hydra's override grammar.
    """
    from hydra.errors import HydraException

    try:
        parsed = _parser().parse_override(text)
        values = tuple(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else ()
        kind = "delete" if parsed.is_delete() else "add" if parsed.is_add() or parsed.is_force_add() else "set"
    except HydraException as error:
        raise ConfigError(f"cannot read the override {text!r}: {_first_line(error)}") from error
    key = parsed.get_key_element().lstrip("+~")
    spelled = tuple(f"{parsed.get_key_element()}={value}" for value in values)
    return Override(text, key, kind, None if values else parsed.value(), spelled)


@functools.cache
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create()


def compose(overrides: Sequence[str] = (), recipe: str | None = None) -> RunConfig:
    """The configuration that ``recipe`` and ``overrides`` describe.

    A strategy keeps the fields that the recipe gives it; choosing another one starts from that one's own defaults,
    whatever the order of the overrides.  Of two overrides of one key the later counts.

    Args:
        overrides: ``group=strategy``, ``a.b=value``, ``+a=value``, ``~a`` or ``recipe=name``; a strategy is a
            registered name or a dotted path ``package.module.Class``.
        recipe: the recipe to start from, unless an override names one; ``unigrpo`` by default.

    Raises:
        ConfigError: unknown recipe, key, strategy or value, naming the nearest valid one.
    """
    name, parsed = _split(overrides, recipe)
    for override in parsed:
        if override.values:
            raise ConfigError(f"{override.text}: one run takes one value; python -m ablations.sweep takes several")
    plain = load_recipe(name)["config"]
    chosen = _chosen(plain, parsed)
    known = set(_flat_keys(chosen))
    for override in parsed:
        if override.kind != "add" and override.key not in known:
            raise ConfigError(unknown_key(override.key, known))
    return _compose(name, plain, chosen, parsed)


def unknown_key(key: str, known: Collection[str]) -> str:
    """Says that ``key`` is none of ``known``, and which is nearest; a long list is cut to its first parts."""
    root, _, field = key.partition(".")
    if field and slot_of(root):
        fields = [name.partition(".")[2] for name in known if name.startswith(f"{root}.")]
        return f"unknown key {key!r}: the strategy in {root} has no such field{nearest(field, fields)}"
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"unknown key {key!r}{nearest(key, close or {name.partition('.')[0] for name in known})}"


def known_keys(overrides: Sequence[str] = (), recipe: str | None = None) -> set[str]:
    """Every key that can be overridden once the strategies chosen by ``overrides`` are in their slots."""
    name, parsed = _split(overrides, recipe)
    return set(_flat_keys(_chosen(load_recipe(name)["config"], parsed)))


def layered(layers: Sequence[Sequence[str]], recipe: str) -> list[str]:
    """Overrides of several layers in one list, later layers winning.

    Where a later layer puts another strategy into a slot, what earlier layers said about the fields of the former one
    is dropped with it.
    """
    kept: list[Override] = []
    for layer in layers:
        parsed = [parse(text) for text in layer]
        name, before = _split([override.text for override in kept], recipe)
        current = _chosen(load_recipe(name)["config"], before)
        picked = _chosen(current, parsed)
        gone = {key for key in picked if slot_of(key) and picked[key]["name"] != current[key]["name"]}
        kept = [o for o in kept if o.root not in gone] + parsed
    return [override.text for override in kept]


def _split(overrides: Sequence[str], recipe: str | None) -> tuple[str, list[Override]]:
    """The recipe's name, and the other overrides with only the last of each key."""
    last: dict[str, Override] = {}
    name = recipe or "unigrpo"
    for override in map(parse, overrides):
        if override.key == "recipe":
            name = str(override.value)
        else:
            last.pop(override.key, None)
            last[override.key] = override
    return name, list(last.values())


def _chosen(plain: Mapping[str, Any], parsed: Sequence[Override]) -> dict[str, Any]:
    """``plain`` with the strategies that the overrides put into its slots, each with its default fields."""
    chosen = dict(plain)
    for override in parsed:
        slot = slot_of(override.key)
        if slot is None or override.values or override.kind == "delete":
            continue
        if not isinstance(override.value, str):
            names = nearest("", registry.strategies(slot))
            raise ConfigError(f"{override.text}: expected the name of a strategy{names}")
        strategy: Any = registry.find(slot, override.value)
        if chosen[override.key]["name"] != strategy.name:
            chosen[override.key] = _node(strategy)
    return chosen


def _flat_keys(plain: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in plain.items():
        yield prefix + key
        if isinstance(value, Mapping):
            yield from (k for k in _flat_keys(value, f"{prefix}{key}.") if prefix or k != f"{key}.name")


def _node(strategy: Any) -> dict[str, Any]:
    """The plain form of a strategy with its defaults; a field without one is Hydra's ``???``."""
    node: dict[str, Any] = {"name": strategy.name}
    for field in dataclasses.fields(strategy):
        if field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = "???"
        node[field.name] = list(value) if isinstance(value, tuple) else value
    return node


def _compose(recipe: str, plain: Mapping[str, Any], chosen: Mapping[str, Any], parsed: Sequence[Override]) -> RunConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    _store(plain, chosen, {o.key for o in parsed if slot_of(o.key)})
    # By its own name, whether a path named it; and `+group=x` means `group=x`, since a group always has a choice.
    picked = {o.key for o in parsed if slot_of(o.key) and o.kind != "delete"}
    texts = [f"{o.key}={chosen[o.key]['name']}" if o.key in picked else o.text for o in parsed]
    try:
        with initialize(version_base=_VERSION, config_path=None):
            composed = hydra_compose(_PRIMARY, texts)
        data: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: has no default, give it a value ({error.full_key}=...)") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_line(error.__cause__ or error)) from error
    return RunConfig.from_dict(data | {"recipe": Path(recipe).stem})


def _store(plain: Mapping[str, Any], chosen: Mapping[str, Any], groups: Collection[str]) -> None:
    """Put the recipe where Hydra looks for it, with a config group for each slot that an override speaks of.

    A group holds what can be reached: the recipe's own option (with its fields) and the chosen one.  The other slots
    are plain values, since the time of a composition goes into its groups, and a plan makes one for every arm.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for key in groups:
        for node in (chosen[key], plain[key]):
            store.store(group=key, name=node["name"], node=_open(node))
    defaults = [{key: plain[key]["name"]} for key in groups]
    rest = {key: _open(value) for key, value in plain.items() if key not in groups}
    store.store(name=_PRIMARY, node={"defaults": [*defaults, "_self_"], **rest})


def _open(value: Any) -> Any:
    """An OmegaConf node that takes new keys: a reward's weights need them, and RunConfig names unknown ones better."""
    from omegaconf import OmegaConf

    return OmegaConf.create(dict(value), flags={"struct": False}) if isinstance(value, Mapping) else value


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
