"""Reads the JSON files of runs; every fault is reported with the name of the file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_DECODER = json.JSONDecoder()
#: What JSON takes for blank.
_BLANK = " \t\r\n"


class BrokenSweepError(ValueError):
    """A sweep that cannot be read: the message names the file and what is wrong with it."""


def read_json(path: Path) -> Any:
    """The JSON in ``path``.

    Raises:
        BrokenSweepError: there is no such file, it is not JSON, or an object in it has a key twice.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise BrokenSweepError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenSweepError(f"{path}: cannot be read as JSON ({error})") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in ``path``; empty if there is no such file.

    Raises:
        BrokenSweepError: the file holds something else.
    """
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise BrokenSweepError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def read_rows(path: Path) -> tuple[list[dict[str, Any]], bool]:
    r"""The objects of a JSON-lines file, and whether its last line is cut off; no objects if there is no such file.

    Only ``\n`` ends a line: texts may hold other line separators, such as U+2028.

    Raises:
        BrokenSweepError: the file cannot be read, or a line before the last is not an object.
    """
    if not path.exists():
        return [], False
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise BrokenSweepError(f"{path}: cannot be read as text ({error})") from error
    lines = [stripped for line in lines if (stripped := line.strip(_BLANK))]
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row, end = _DECODER.raw_decode(line)  # json.loads takes half as long again, for a million rows
            if end != len(line):
                raise ValueError(f"more than one value, from character {end + 1}")
        except ValueError as error:
            if number == len(lines):
                return rows, True
            raise BrokenSweepError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise BrokenSweepError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
        rows.append(row)
    return rows, False


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of ``row``."""
    return {key: float(value) for key, value in row.items() if is_number(value)}


def not_numbers(row: Mapping[str, Any]) -> list[str]:
    """``key is value`` for every value of ``row`` that is no finite number."""
    return [f"{key} is {json.dumps(value)[:40]}" for key, value in row.items() if not is_number(value)]


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number; True and False are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found
