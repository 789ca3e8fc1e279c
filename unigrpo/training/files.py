"""Files of a run's folder, written so that a kill at any moment leaves either the old or the new content."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content``: temporary file in the same folder, flushed to disk, then renamed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` by JSON with sorted keys, so that equal data are equal bytes."""
    write_atomic(path, (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace ``path`` by one JSON object per line."""
    write_atomic(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row; values that are not finite are left out, as neither JSON nor MLflow can hold them."""
    finite = {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}
    with path.open("a") as handle:
        handle.write(json.dumps(finite, allow_nan=False) + "\n")


def truncate_rows(path: Path, before: int) -> None:
    """Keep the rows with ``step < before``; what a killed run wrote after its last checkpoint is written again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the line that the kill cut off
            continue
        if row["step"] < before:
            kept.append(row)
    write_rows(path, kept)
