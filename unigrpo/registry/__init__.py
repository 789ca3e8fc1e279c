"""Slots and strategies: one decorator puts a frozen dataclass where a configuration can name it.

A *slot* is a place where one component is chosen (``regularizer``); a *strategy* is one choice for it
(``velocity_mse``).  A strategy's fields are its hyperparameters, its annotations their schema, its docstring the
documentation and its ``__call__`` the formula.  Modules that hold strategies import nothing heavy at the top, so that a
plan can be made, checked and printed without torch.

``python -m unigrpo.registry`` lists slots, strategies, fields and sources.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from unigrpo.errors import ConfigError
from unigrpo.io import JsonObject

T = TypeVar("T")

#: The package whose strategies are shipped.
_OURS = __name__.partition(".")[0]

#: Entry-point group through which other packages add strategies.
ENTRY_POINTS = "unigrpo.strategies"


class Configuration(Protocol):
    """A run's configuration, as strategies see it that import nothing of the library but this."""

    def __getattr__(self, name: str) -> Any:
        """A section or strategy by its key."""
        ...


class Strategy(Protocol):
    """What :func:`register` gives a class."""

    slot: ClassVar[str]
    name: ClassVar[str]
    source: ClassVar[str]


#: Slot -> the module that holds the shipped strategies.
SLOTS: dict[str, str] = {
    "dataset": "unigrpo.data",
    "metric": "unigrpo.metrics",
    "model": "unigrpo.models",
    "adapter": "unigrpo.models.adapters",
    "engine": "unigrpo.training.engines",
    "episode": "unigrpo.rollout.episodes",
    "reward": "unigrpo.rewards",
    "text_scorer": "unigrpo.rewards.scorers",
    "image_scorer": "unigrpo.rewards.scorers",
    "image_head": "unigrpo.rollout.heads",
    "guidance": "unigrpo.flow.guidance",
    "dynamics": "unigrpo.flow.dynamics",
    "window": "unigrpo.flow.window",
    "advantage": "unigrpo.objective.advantage",
    "credit": "unigrpo.objective.credit",
    "image_ratio": "unigrpo.objective.image_ratio",
    "text_ratio": "unigrpo.objective.text_ratio",
    "trust_region": "unigrpo.objective.trust_region",
    "aggregation": "unigrpo.objective.aggregation",
    "regularizer": "unigrpo.objective.regularizer",
    "text_kl": "unigrpo.objective.text_kl",
    "modalities": "unigrpo.objective.modalities",
    "algorithm": "unigrpo.algorithms",
}

#: Modules whose ``STRATEGIES`` name, for each slot, modules that add strategies.
PLUGINS = ("unigrpo.worlds",)

#: How much of a word must be that of another to be taken for a slip of the pen.
_CLOSE = 0.6

_strategies: dict[str, dict[str, type]] = {}
_loaded: set[str] = set()


def nearest(word: str, choices: Iterable[object]) -> str:
    """``"; did you mean 'x'?"`` for the closest of ``choices``, or a list of them when none is close."""
    names = sorted(map(str, choices))
    close = difflib.get_close_matches(word, names, n=1, cutoff=_CLOSE)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of: {', '.join(names) or 'none'}"


def where_looked(module: str) -> str:
    """In which folders ``module`` was looked for, if there is none of that name; empty if it was found."""
    top = module.partition(".")[0]
    if top in sys.modules or importlib.util.find_spec(top) is not None:
        return ""
    folders = dict.fromkeys(Path(folder).resolve() for folder in sys.path)
    installed = [Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)]
    own = [str(one) for one in folders if one.is_dir() and not any(map(one.is_relative_to, installed))]
    return f"; looked for {top}.py in {', '.join(own)}: go where it lies, or put its folder into PYTHONPATH"


def register(slot: str, name: str, *, source: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: make a frozen dataclass the strategy ``name`` of ``slot``.

    Args:
        slot: where it can be chosen; a new slot comes into being with its first strategy.
        name: the word used in configurations.
        source: where the formula is from (paper and equation), shown in listings.

    Raises:
        TypeError: the class is not a frozen dataclass.
        ConfigError: the name is taken by another class.
    """

    def decorate(cls: type[T]) -> type[T]:
        params = getattr(cls, "__dataclass_params__", None)
        if params is None or not params.frozen:
            raise TypeError(f"{slot}={name}: a strategy is a frozen dataclass, {cls.__qualname__} is not")
        taken = _strategies.setdefault(slot, {}).get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"{cls.__module__}.{cls.__qualname__} registers {slot}={name}, which is already"
                f" {taken.__module__}.{taken.__qualname__}; give one of them another name"
            )
        cls.slot, cls.name, cls.source = slot, name, source  # type: ignore[attr-defined]
        _strategies[slot][name] = cls
        return cls

    return decorate


def name_of(strategy: object) -> str:
    """The word by which a configuration chooses a strategy, given an instance."""
    return str(getattr(strategy, "name", ""))


def is_shipped(strategy: object) -> bool:
    """Whether a strategy's class is part of this package."""
    return type(strategy).__module__.partition(".")[0] == _OURS


def user_sources(value: object) -> dict[str, str]:
    """``slot=name`` -> :func:`source_digest` of every strategy in a configuration, however deep, that is a user's."""
    found: dict[str, str] = {}
    if isinstance(value, tuple | list):
        for item in value:
            found |= user_sources(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "slot"):
            label = f"{value.slot}={getattr(value, 'name', '')}"
            if not is_shipped(value):
                found[label] = source_digest(value)
            for module in getattr(value, "sources", tuple)():
                found[f"{label} {module}"] = module_digest(module)
        inner = [getattr(value, f.name) for f in dataclasses.fields(value)]
        for part in (*inner, *getattr(value, "parts", ())):
            found |= user_sources(part)
    return found


def source_digest(strategy: object) -> str:
    """SHA-256 of the source that a strategy's results hang on, as far as it is its author's own.

    That is the module which defines its class, and those of its base classes outside this package; where a module lies
    in a package, all Python files of that package, and where it stands alone, the modules beside it that it imports,
    and theirs in turn.  No path is part of it, so that the code may move.  Installed packages that are merely imported
    are left to their versions, and data files to their author.

    Args:
        strategy: an instance of a registered class.

    Raises:
        ConfigError: the source is not to be found, as that of a class typed into an interpreter.
    """
    cls, found = type(strategy), dict[str, Path]()
    for base in cls.__mro__:
        top = base.__module__.partition(".")[0]
        if top not in sys.stdlib_module_names and top != _OURS:
            found |= _sources(base.__module__, f"{cls.__module__}.{cls.__qualname__}")
    return _digest_of(found)


def module_digest(module: str) -> str:
    """The same of a module, such as one that holds a function.

    Raises:
        ConfigError: the source is not to be found, or the module cannot be imported.
    """
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever it raises while it is imported
        raise ConfigError(f"{module}: cannot be imported ({type(error).__name__}: {error})") from error
    return _digest_of(_sources(module, module))


def _digest_of(files: Mapping[str, Path]) -> str:
    sha = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        sha.update(f"{name}:{len(content)}:".encode() + content)
    return sha.hexdigest()


def _sources(module: str, what: str) -> dict[str, Path]:
    """Name below the folder of the package or module -> file."""
    found: dict[str, Path] = {}
    top = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or not Path(file).is_file():
        raise ConfigError(f"{what}: its source is not to be found; put it in a file")
    folders = [Path(folder) for folder in getattr(sys.modules.get(top), "__path__", ())]
    for folder in reversed(folders):  # of two files of one name the first is imported
        found |= {f"{top}/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*.py")}
    if not folders:
        _add_imported(Path(file), Path(file).parent, found)
    return found


def _add_imported(path: Path, folder: Path, found: dict[str, Path]) -> None:
    """A module of ``folder`` and those of them that it imports, however deep."""
    name = path.relative_to(folder).as_posix()
    if name in found:
        return
    found[name] = path
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        module = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for alias in node.names:
            words = ".".join((*module, alias.name)).split(".")
            for length in range(1, len(words) + 1):
                stem = folder.joinpath(*words[:length])
                for file in (stem.with_suffix(".py"), stem / "__init__.py"):
                    if file.is_file():
                        _add_imported(file, folder, found)


def _load(slot: str) -> dict[str, type]:
    if slot not in _loaded:
        _loaded.add(slot)
        if slot in SLOTS:
            importlib.import_module(SLOTS[slot])
        for plugin in map(importlib.import_module, PLUGINS):
            for module in plugin.STRATEGIES.get(slot, ()):
                importlib.import_module(module)
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            if entry.name.partition(".")[0] == slot:
                entry.load()
    return _strategies.get(slot, {})


def slots() -> list[str]:
    """Names of all slots."""
    return sorted({*SLOTS, *_strategies})


def strategies(slot: str) -> dict[str, type]:
    """Name -> class of every strategy of ``slot``."""
    found = _load(slot)
    if slot not in slots():
        raise ConfigError(f"unknown slot {slot!r}{nearest(slot, slots())}")
    return dict(sorted(found.items()))


def find(slot: str, name: str) -> type:
    """The strategy class called ``name``: a registered name, or a dotted path ``package.module.Class``."""
    if name in _load(slot):
        return _strategies[slot][name]
    known = strategies(slot)
    module, _, attribute = name.rpartition(".")
    if module:
        try:
            cls: type = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{slot}={name}: cannot import it ({error}){where_looked(module)}") from error
        # A subclass that is not registered itself would be recorded under the name of its base.
        if cls not in strategies(slot).values():
            raise ConfigError(f"{slot}={name}: expected a registered dataclass of this slot, got {cls!r}")
        if not cls.__module__.startswith("unigrpo."):
            # By its path it can be found again from the plain form, in a process that never imported its module.
            cls.slot, cls.name = slot, name  # type: ignore[attr-defined]
        return cls
    raise ConfigError(f"unknown {slot} {name!r}{nearest(name, known)}")


def listing() -> list[JsonObject]:
    """One row per strategy: slot, name, summary, source and fields with their types and defaults."""
    rows: list[JsonObject] = []
    for slot in slots():
        for name, cls in strategies(slot).items():
            fields = {
                f.name: (f.type, None if f.default is dataclasses.MISSING else f.default)
                for f in dataclasses.fields(cls)
            }
            summary = (cls.__doc__ or "").strip().splitlines()[0]
            rows.append(
                {"slot": slot, "name": name, "summary": summary, "source": getattr(cls, "source", ""), "fields": fields}
            )
    return rows
