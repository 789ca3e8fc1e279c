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
            ValueError: it is missing, or not of ``kind``.
        """
        value = self._value(name, kind.__name__)
        if not isinstance(value, kind):
            raise ValueError(f"{self.where}: {name}: expected {kind.__name__}, got {value!r:.80}")
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

    def _value(self, name: str, expected: str) -> Any:
        if name not in self.fields:
            found = ", ".join(self.fields) or "no field"
            raise ValueError(f"{self.where}: {name}: expected {expected}, found only {found}")
        return self.fields[name]


def read_records(path: Path) -> Iterator[Record]:
    """The objects of a file: one per line if its name ends in ``.jsonl`` (blank lines are skipped), else of one list.

    Raises:
        ValueError: something else is in it.
    """
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would also split within texts
        texts = [(f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
        found = [(where, _parsed(where, text)) for where, text in texts]
    else:
        items = _parsed(str(path), path.read_text(encoding="utf-8"))
        if not isinstance(items, list):
            raise ValueError(f"{path}: expected a JSON list, got {type(items).__name__}")
        found = [(f"{path}[{number}]", item) for number, item in enumerate(items)]
    for where, item in found:
        if not isinstance(item, dict):
            raise ValueError(f"{where}: expected a JSON object, got {item!r:.80}")
        yield Record(where, item)


def write_records(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write what ``read_records`` reads, in the form that the name of the file asks for."""
    if path.suffix == ".jsonl":
        write_rows(path, rows)
    else:
        write_json(path, list(rows))


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
