"""The plain form of dataclasses, which is JSON, and dataclasses from it.

A strategy is ``{"name": ..., **fields}`` there.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from unigrpo import registry
from unigrpo.errors import ConfigError
from unigrpo.registry import nearest

#: Name -> dataclass field.
Fields = Mapping[str, "dataclasses.Field[Any]"]


@functools.cache
def fields_of(cls: type) -> Fields:
    """The fields of a dataclass by name."""
    return {f.name: f for f in dataclasses.fields(cls)}


def class_of(f: dataclasses.Field[Any], plain: Mapping[str, object]) -> type | None:
    """The dataclass whose plain form ``plain`` in field ``f`` is: a strategy or a section; None: it is a mapping."""
    if "slot" in f.metadata:
        return registry.find(f.metadata["slot"], str(plain["name"]))
    owner = f.default_factory
    return owner if isinstance(owner, type) and dataclasses.is_dataclass(owner) else None


def plain_form(value: object) -> Any:
    """``value`` as JSON has it: a dataclass as a mapping (a strategy with its name), a tuple as a list."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, tuple | list):
        return [plain_form(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain_form(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {"name": getattr(value, "name", "")} if hasattr(value, "slot") else {}
        return named | {name: plain_form(getattr(value, name)) for name in fields_of(type(value))}
    return value


@functools.cache
def hint_of(cls: type, key: str) -> Any:
    """The annotation of one field: those of slots name protocols that are imported for type checkers alone."""
    owner = next(base for base in cls.__mro__ if key in inspect.get_annotations(base))
    hint = inspect.get_annotations(owner)[key]
    return eval(hint, dict(vars(sys.modules[owner.__module__]))) if isinstance(hint, str) else hint


def build_field(cls: type, key: str, value: object, path: str) -> Any:
    """The value of the field ``key`` of ``cls`` from its plain form."""
    metadata = fields_of(cls)[key].metadata
    if "slots" in metadata:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        return tuple(build_strategy(metadata["slots"], item, f"{path}[{i}]") for i, item in enumerate(value))
    if "slot" not in metadata:
        return _convert(hint_of(cls, key), value, path)
    if value is None and fields_of(cls)[key].default is None:
        return None
    return build_strategy(metadata["slot"], value, path)


def build(cls: type, data: object, path: str = "") -> Any:
    """A dataclass from its plain form.

    Raises:
        ConfigError: unknown key, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or cls.__name__}: expected a mapping, got {data!r}")
    fields = fields_of(cls)
    values = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise ConfigError(f"unknown key {where!r}{nearest(str(key), fields)}")
        values[key] = build_field(cls, key, value, where)
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path or cls.__name__}: {error}") from error


def build_strategy(slot_name: str, value: object, path: str) -> Any:
    """A strategy from its name, its plain form, or an instance.

    Raises:
        ConfigError: unknown strategy or field, or a value of the wrong type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(f"{path}: expected a strategy name or a mapping with 'name', got {value!r}")
    cls = registry.find(slot_name, value["name"])
    return build(cls, {key: item for key, item in value.items() if key != "name"}, path)


def _convert(hint: object, value: object, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is typing.Literal:
        if not any(type(value) is type(arg) and value == arg for arg in args):  # True == 1 == 1.0
            raise ConfigError(f"{path}: expected one of {', '.join(map(str, args))}, got {value!r}{_near(value, args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f"{path}: expected {len(args)} items, got {len(value)}")
        return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {value!r}")
        return {str(key): _convert(args[1], item, f"{path}.{key}") for key, item in value.items()}
    return _scalar(hint, value, path)


def _near(value: object, args: tuple[object, ...]) -> str:
    return nearest(str(value), args) if isinstance(value, str) else ""


def _scalar(hint: object, value: object, path: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            raise ConfigError(f"{path}: expected a finite number, got {value}")
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise ConfigError(f"{path}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
