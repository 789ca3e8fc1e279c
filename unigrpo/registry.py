"""Slots and strategies: one decorator puts a frozen dataclass where a configuration can name it.

A *slot* is a place where one component is chosen (``regularizer``); a *strategy* is one choice for it
(``velocity_mse``).  A strategy's fields are its hyperparameters, its annotations their schema, its docstring the
documentation and its ``__call__`` the formula.  Modules that hold strategies import nothing heavy at the top, so that a
plan can be made, checked and printed without torch.

``python -m unigrpo.registry`` lists slots, strategies, fields and sources.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from unigrpo.errors import ConfigError

T = TypeVar("T")

#: Entry-point group through which other packages add strategies.
ENTRY_POINTS = "unigrpo.strategies"

#: Slot -> the module that holds the shipped strategies.
SLOTS: dict[str, str] = {
    "world": "unigrpo.worlds",
    "episode": "unigrpo.episodes",
    "reward": "unigrpo.rewards",
    "text_scorer": "unigrpo.rewards.scorers",
    "image_scorer": "unigrpo.rewards.scorers",
    "image_head": "unigrpo.heads",
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
}

_strategies: dict[str, dict[str, type]] = {}
_loaded: set[str] = set()


def nearest(word: str, choices: Any) -> str:
    """``"; did you mean 'x'?"`` for the closest of ``choices``, or a list of them when none is close."""
    names = sorted(map(str, choices))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; choose one of: {', '.join(names) or 'none'}"


def register(slot: str, name: str, *, source: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: make a frozen dataclass the strategy ``name`` of ``slot``.

    Args:
        slot: where it can be chosen; a new slot comes into being with its first strategy.
        name: the word used in configurations.
        source: where the formula is from (paper and equation), shown in listings.

    Raises:
        TypeError: the class is not a frozen dataclass.
        ValueError: the name is taken by another class.
    """

    def decorate(cls: type[T]) -> type[T]:
        params = getattr(cls, "__dataclass_params__", None)
        if params is None or not params.frozen:
            raise TypeError(f"{slot}={name}: a strategy is a frozen dataclass, {cls.__qualname__} is not")
        taken = _strategies.setdefault(slot, {}).get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{slot}={name} is already {taken.__module__}.{taken.__qualname__}")
        cls.slot, cls.name, cls.source = slot, name, source  # type: ignore[attr-defined]
        _strategies[slot][name] = cls
        return cls

    return decorate


def _load(slot: str) -> dict[str, type]:
    if slot not in _loaded:
        _loaded.add(slot)
        if slot in SLOTS:
            importlib.import_module(SLOTS[slot])
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
            raise ConfigError(f"{slot}={name}: cannot import it ({error})") from error
        # A subclass that is not registered itself would be recorded under the name of its base.
        if cls not in strategies(slot).values():
            raise ConfigError(f"{slot}={name}: expected a registered dataclass of this slot, got {cls!r}")
        if not cls.__module__.startswith("unigrpo."):
            # By its path it can be found again from the plain form, in a process that never imported its module.
            cls.slot, cls.name = slot, name  # type: ignore[attr-defined]
        return cls
    raise ConfigError(f"unknown {slot} {name!r}{nearest(name, known)}")


def listing() -> list[Mapping[str, Any]]:
    """One row per strategy: slot, name, summary, source and fields with their types and defaults."""
    rows: list[Mapping[str, Any]] = []
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


def main() -> None:
    """Print every slot with its strategies."""
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    names = (Column("slot", no_wrap=True), Column("strategy", no_wrap=True))
    table = Table(*names, "fields = defaults", "what", "source")
    last = ""
    for row in listing():
        fields = "\n".join(f"{name}: {kind} = {default!r}" for name, (kind, default) in row["fields"].items())
        if last and row["slot"] != last:
            table.add_section()
        table.add_row(row["slot"] if row["slot"] != last else "", row["name"], fields, row["summary"], row["source"])
        last = row["slot"]
    console.print(table)


if __name__ == "__main__":
    # `python -m` runs a second copy of this module; the strategies register with the imported one.
    from unigrpo.registry import main as imported_main

    imported_main()
