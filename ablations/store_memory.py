"""Remembers in ``mlflow.json`` what each tracking store has of a sweep."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from unigrpo.io import read_json, write_json

#: Seconds between two writes of ``mlflow.json``.
NOTE = 2.0


class Memory:
    """The record in ``mlflow.json`` of what one store has."""

    def __init__(self, path: Path, uri: str) -> None:
        self.path = path
        self.uri = uri
        self._key = hashlib.sha256(uri.encode()).hexdigest()[:12]
        self._all: dict[str, Any] = read_json(path) or {}
        database = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and not database.exists():
            self._all.pop(self._key, None)
        own = {"experiment": "", "parent": "", "report": "", "cells": {}, **self._all.get(self._key, {})}
        self.cells: dict[str, str] = own["cells"]
        """Cell id -> signature of the mirrored files."""
        self.experiment: str = own["experiment"]
        self.parent: str = own["parent"]
        self.report: str = own["report"]
        """Digest of the report's files."""
        self.views: list[str] | None = own.get("views")
        """Keys of the sweep's views, empty if the store refuses them; None if they were never made."""
        self._saved = float("-inf")

    def save_at_times(self) -> None:
        """:meth:`save`, unless it was done just before: for thousands of cells it is slow."""
        if time.monotonic() - self._saved > NOTE:
            self.save()

    def save(self) -> None:
        """Write the record."""
        self._saved = time.monotonic()
        names = ("experiment", "parent", "report", "cells", "views")
        self._all[self._key] = {name: getattr(self, name) for name in names}
        write_json(self.path, self._all)
