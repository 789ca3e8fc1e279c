"""JSON records of other programs: read with errors that name the file, the record and the field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unigrpo.files import write_json, write_rows

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
            ValueError: it is missing, or not of ``kind`` (true and false are no numbers).
        """
        value = self._value(name, kind.__name__)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(name, kind.__name__, value)
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
            raise self.error(name, expected, value)
        return float(value)

    def each(self, name: str) -> Iterator[Record]:
        """The objects of the list ``name``; none if it is null or missing.

        Raises:
            ValueError: it is no list, or something else is in it.
        """
        for number, item in enumerate(self.optional(name, list) or ()):
            yield as_record(f"{self.where}: {name}[{number}]", item)

    def error(self, name: str, expected: str, value: Any) -> ValueError:
        """What to raise of a wrong field."""
        return ValueError(f"{self.where}: {name}: expected {expected}, got {value!r:.80}")

    def _value(self, name: str, expected: str) -> Any:
        if name not in self.fields:
            found = ", ".join(self.fields) or "no field"
            raise ValueError(f"{self.where}: {name}: expected {expected}, found only {found}")
        return self.fields[name]


def as_record(where: str, item: Any) -> Record:
    """A parsed value as a record.

    Raises:
        ValueError: it is no JSON object.
    """
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected a JSON object, got {item!r:.80}")
    return Record(where, item)


def read_records(path: Path) -> Iterator[Record]:
    """The objects of a file: one per line if its name ends in ``.jsonl``, else of one list.

    Raises:
        ValueError: something else is in it.
    """
    if path.suffix.lower() == ".jsonl":
        yield from read_lines(path)
        return
    items = parse(str(path), read_text(path))
    if not isinstance(items, list):
        raise ValueError(f"{path}: expected a JSON list, got {type(items).__name__}")
    for number, item in enumerate(items):
        yield as_record(f"{path}[{number}]", item)


def read_lines(path: Path) -> Iterator[Record]:
    r"""The objects of a file that has one per line; lines end in ``\n`` alone, blank ones are skipped.

    Raises:
        ValueError: something else is in it.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines would also split within texts
        if line.strip():
            yield as_record(f"{path}:{number}", parse(f"{path}:{number}", line))


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without the mark of its byte order and with its line ends as they are.

    Raises:
        ValueError: it is not UTF-8.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: expected UTF-8, got byte 0x{content[error.start]:02x}") from error


def parse(where: str, text: str) -> Any:
    """A JSON text.

    Raises:
        ValueError: it is none, names a field of an object twice, or holds half of a surrogate pair.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once_each)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: expected Unicode texts, got half of a surrogate pair") from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:  # Python would take the last without a word
            raise ValueError(f"field {name!r} twice in one object")
        fields[name] = value
    return fields


def unique(records: Iterable[Record], what: str, **keys: Any) -> Iterator[Record]:
    """Pass on ``records``, of which no two may agree in all of the fields ``keys``: one would weigh twice in a mean.

    Args:
        records: of one file or several.
        what: they are called.
        keys: field -> what it is where it is missing or null.

    Raises:
        ValueError: two of them agree, both named.
    """
    seen: dict[str, str] = {}
    for record in records:
        values = {
            name: default if record.fields.get(name) is None else record.fields[name] for name, default in keys.items()
        }
        key = repr([*values.values()])
        if key in seen:
            names = ", ".join(values)
            given = ", ".join(f"{value!r:.80}" for value in values.values() if value is not None)
            raise ValueError(
                f"{record.where}: {names}: expected one {what} per {names}, got {given} again, first at {seen[key]}"
            )
        seen[key] = record.where
        yield record


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write what ``read_records`` reads, in the form that the name of the file asks for."""
    if path.suffix.lower() == ".jsonl":
        write_rows(path, rows)
    else:
        write_json(path, list(rows))
