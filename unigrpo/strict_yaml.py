"""YAML files that mean what they say: the core schema of YAML 1.2, and no key twice.

PyYAML follows YAML 1.1, where ``1e-4`` and ``no`` are not what they look like, and lets the last of two equal keys win.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from unigrpo.errors import ConfigError

_STR, _NULL, _BOOL, _INT, _FLOAT, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "null", "bool", "int", "float", "merge")
)
#: What an unquoted word is, the first that fits (YAML 1.2.2, 10.3.2); everything else is text.
_CORE_SCHEMA = [
    (_NULL, r"~|null|Null|NULL|"),
    (_BOOL, r"true|True|TRUE|false|False|FALSE"),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    (_FLOAT, r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    (_MERGE, r"<<"),
]


class _EveryKeyOnce:
    """A loader that takes no mapping with a key twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)  # type: ignore[misc]
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"line {line}: expected a word as a key, got a list or a mapping")
            if (name := (key.tag, key.value)) in lines:
                raise ConfigError(f"line {line}: the key {key.value!r} comes twice, first in line {lines[name]}")
            lines[name] = line
        return node


class _Loader(_EveryKeyOnce, yaml.SafeLoader):
    """PyYAML's own loader with other rules for plain words."""

    yaml_implicit_resolvers = {None: [(tag, re.compile(f"(?:{form})$")) for tag, form in _CORE_SCHEMA]}  # noqa: RUF012


class _TextLoader(_EveryKeyOnce, yaml.BaseLoader):
    """To which every word is text."""


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text, 10)


_Loader.add_constructor(_INT, _int)


def read_yaml(text: str, *, all_text: bool = False) -> Any:
    """What ``text`` says; with ``all_text`` every word in it is text, ``on`` and ``0123`` too.

    Raises:
        ConfigError: it is no YAML, or a mapping has a key twice; names the line.
    """
    try:
        return yaml.load(text, _TextLoader if all_text else _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{where}not valid YAML ({getattr(error, 'problem', None) or error})") from error


def load_yaml(path: Path) -> Any:
    """What the file says.

    Raises:
        ConfigError: it cannot be read as text, is no YAML, or has a key twice.
    """
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})") from error
