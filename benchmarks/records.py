"""JSON records of other programs: read with errors that name the file, the record and the field.

As wide as Python's own reader, on which the official programs rest (a byte order mark and line ends of any system
pass, and fields that nobody asks for), and stricter where that would mean something else than the file says: no key
comes twice in an object, and no entry twice in a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unigrpo.io import write_json, write_rows

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """One JSON object of a file."""

    where: str
    """File and number, for messages."""
    fields: Mapping[str, Any]

    def get(self, name: str, kind: type[T]) -> T:
        """The field ``name``.

        Raises:
            ValueError: it is missing, or not of ``kind``; true is no int, and half of a surrogate pair no text.
        """
        value = self._value(name, kind.__name__)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self.where}: {name}: expected {kind.__name__}, got {value!r:.80}")
        if isinstance(value, str) and not _is_unicode(value):
            raise ValueError(f"{self.where}: {name}: expected text that UTF-8 can hold, got {value!a:.80}")
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        """The field ``name``, None if it is null or missing.

        Raises:
            ValueError: it is of another kind.
        """
        return None if self.fields.get(name) is None else self.get(name, kind)

    def number(self, name: str, most: float) -> float:
        """The field ``name``, a number in [0, ``most``].

        Raises:
            ValueError: it is missing, no number, or outside.
        """
        expected = f"a number in [0, {most:g}]"
        value = self._value(name, expected)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError(f"{self.where}: {name}: expected {expected}, got {value!r:.80}")
        return float(value)

    def ordinal(self, name: str, first: int) -> int:
        """The field ``name``, a whole number from ``first``, which it is where it is null or missing.

        Raises:
            ValueError: it is of another kind or less.
        """
        value = self.optional(name, int)
        if value is None:
            return first
        if value < first:  # counted from elsewhere, it would be off by one from those of other files
            raise ValueError(f"{self.where}: {name}: expected a number from {first}, got {value!r:.80}")
        return value

    def objects(self, name: str) -> tuple[dict[str, Any], ...]:
        """The field ``name``, a list of objects.

        Raises:
            ValueError: it is missing, no list, or something else is in it.
        """
        items = self.get(name, list)
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise ValueError(f"{self.where}: {name}[{number}]: expected a JSON object, got {item!r:.80}")
        return tuple(items)

    def _value(self, name: str, expected: str) -> Any:
        if name not in self.fields:
            found = f"only {', '.join(self.fields):.80}" if self.fields else "no field"
            raise ValueError(f"{self.where}: {name}: expected {expected}, found {found}")
        return self.fields[name]


class Once:
    """Keys of which each may come once: an entry that comes again would weigh twice in every mean."""

    def __init__(self, name: str, what: str):
        self._name, self._what = name, what
        self._first: dict[Hashable, str] = {}

    def add(self, key: Hashable, where: str) -> None:
        """Take note of ``key``, found at ``where``.

        Raises:
            ValueError: it came before.
        """
        first = self._first.setdefault(key, where)
        if first != where:
            raise ValueError(
                f"{where}: {self._name}: expected one {self._what}, got {key!r:.80} again, first at {first}"
            )


def read_records(path: Path) -> Iterator[Record]:
    """The objects of a file: one per line if its name ends in ``.jsonl`` (blank lines are skipped), else of one list.

    Raises:
        ValueError: something else is in it.
    """
    if path.suffix.lower() == ".jsonl":
        yield from read_lines(path)
        return
    items = _parsed(str(path), _text(path))
    if not isinstance(items, list):
        raise ValueError(f"{path}: expected a JSON list, got {type(items).__name__}")
    for number, item in enumerate(items):
        yield _record(f"{path}[{number}]", item)


def read_lines(path: Path) -> Iterator[Record]:
    """The objects of a file with one per line, whatever its name; blank lines are skipped.

    Raises:
        ValueError: something else is in it.
    """
    # splitlines would also split within texts, at U+2028 for one
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield _record(where, _parsed(where, line))


def read_object(path: Path) -> Record:
    """The one object of a file, on one line or many.

    Raises:
        ValueError: something else is in it.
    """
    return _record(str(path), _parsed(str(path), _text(path)))


def read_once(path: Path, key: str, what: str, read: Callable[[Record], T]) -> list[T]:
    """What ``read`` makes of every record of a file, each the one ``what`` of its ``key``, a text.

    Raises:
        ValueError: a malformed record, or a key that comes twice, named by file and number.
    """
    once, found = Once(key, f"{what} per {key}"), []
    for record in read_records(path):
        found.append(read(record))
        once.add(record.get(key, str), record.where)
    return found


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write what ``read_records`` reads, in the form that the name of the file asks for."""
    if path.suffix.lower() == ".jsonl":
        write_rows(path, rows)
    else:
        write_json(path, list(rows))


def _text(path: Path) -> str:
    """The text of a file, lines ended by line feeds."""
    content = path.read_bytes()
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text (byte 0x{content[error.start]:02x})") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_every_key_once)
    except KeyError as error:
        raise ValueError(f"{where}: the key {error} comes twice in one object") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error


def _every_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:  # the reader would take the last, another the first
            raise KeyError(key)
        fields[key] = value
    return fields


def _record(where: str, item: Any) -> Record:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected a JSON object, got {item!r:.80}")
    return Record(where, item)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
