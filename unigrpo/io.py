"""Files written so that a reader, or a kill at any moment, finds either the old content or the new."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unigrpo.errors import ConfigError

#: A mapping as JSON has it.
JsonObject = dict[str, Any]


def home_expanded(key: str, path: str) -> str:
    """``path`` with the home folder in the place of ``~``, as a script may pass it.

    Args:
        key: what the path was given for, for messages.
        path: of a file or folder.

    Raises:
        ConfigError: there is no path, or nobody has that home.
    """
    found = os.path.expanduser(path)
    if not path:
        raise ConfigError(f"{key}=: expected a path, got nothing")
    if path.startswith("~") and found == path:
        raise ConfigError(f"{key}={path}: there is no such home; write the path in full, or ./{path}")
    return found


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: temporary file in the same folder, flushed to disk, then renamed.

    Raises:
        OSError: the folder cannot be written; the old content stays.
    """
    # Not by the number of the process: two machines that write here may both have it.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``."""
    write_atomic(path, text.encode())


def write_json(path: Path, data: object) -> None:
    """Replace ``path`` by JSON with sorted keys, so that equal data are equal bytes."""
    write_text(path, json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace ``path`` by one JSON object per line."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row, in one write, so that writers on one machine do not mix theirs.

    Values that are not finite are left out, as neither JSON nor MLflow can hold them.
    """
    finite = {key: value for key, value in row.items() if not isinstance(value, float) or math.isfinite(value)}
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(finite, allow_nan=False) + "\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only process that has the file ``path`` locked, which is made if it is not there; others wait."""
    import fcntl

    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_json(path: Path) -> Any:
    """The JSON in ``path``; None if there is no such file or it does not hold JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def read_rows(path: Path) -> list[JsonObject]:
    """The rows of a JSON-lines file; a row that a kill cut short is left out."""
    try:
        return list(_rows(path.read_text(encoding="utf-8", errors="replace").split("\n")))
    except FileNotFoundError:
        return []


def last_row(path: Path, most: int = 8192) -> JsonObject:
    """The last whole row of a JSON-lines file that may be long; empty if there is none within ``most`` bytes."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - most))
            lines = handle.read().decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return {}
    return next(_rows(reversed(lines)), {})


def truncate_rows(path: Path, before: int) -> None:
    """Keep the rows with ``step < before``; what a killed run wrote after its last checkpoint is written again."""
    if path.is_file():
        write_rows(path, [row for row in read_rows(path) if row["step"] < before])


def _rows(lines: Iterable[str]) -> Iterator[JsonObject]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
