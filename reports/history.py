"""What a sweep's folder remembers beside its plan: declarations, looks at results, and cells that are left out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports.files import BrokenSweepError, read_json
from reports.records import Content, LeftOut, Look, Revision, Sweep

#: Layout of ``declaration.json`` that this package reads.
DECLARATION_SCHEMA = 1

_DECLARATION, _LOOKS, _CELLS = "declaration.json", "looks.jsonl", "cells.jsonl"

#: Keys of what is declared, as a reader asks for them.
_KEYS = (
    "question", "primary", "baseline", "comparisons", "margin", "test", "alpha", "correction", "design", "looks",
    "seeds", "evaluation",
)  # fmt: skip


def content_of(plan: Mapping[str, Any]) -> Content:
    """What the plan in ``sweep.json`` would be declared as; lists whose order means nothing are sorted."""
    plan = {
        **plan,
        "comparisons": sorted(one["words"] for one in plan["comparisons"]),
        "seeds": sorted(plan["planned_seeds"]),
    }
    further = {key: plan[key]["words"] for key in ("matched", "at", "blocks") if plan.get(key)}
    return {key: plan[key] for key in _KEYS} | further


def revisions(folder: Path) -> tuple[Revision, ...]:
    """What was declared, oldest first; empty if nothing was.

    Raises:
        BrokenSweepError: ``declaration.json`` holds something else.
    """
    path = folder / _DECLARATION
    if not path.exists():
        return ()
    found = read_json(path)
    try:
        if found["schema"] != DECLARATION_SCHEMA:
            raise ValueError(f"expected schema {DECLARATION_SCHEMA}, got {found['schema']!r}")
        return tuple(_revision(one) for one in found["revisions"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BrokenSweepError(
            f"{path}: missing or malformed entry ({type(error).__name__}: {error}); restore the file, or move it away:"
            " then the sweep counts as not declared"
        ) from error


def _revision(one: Mapping[str, Any]) -> Revision:
    content = {key: one["content"][key] for key in sorted(one["content"], key=(*_KEYS, *one["content"]).index)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return Revision(
        time=str(one["time"]),
        hash=str(one["hash"]),
        finished=int(one["finished"]),
        done=tuple(map(str, one["done"])),
        cells=int(one["cells"]),
        looked=tuple(int(seeds) for seeds in one["looked"]),
        content=content,
        genuine=hashlib.sha256(text.encode()).hexdigest() == one["hash"],
    )


def looks(folder: Path) -> tuple[Look, ...]:
    """The looks at results so far, oldest first.

    Raises:
        BrokenSweepError: a row of ``looks.jsonl`` is malformed.
    """
    try:
        return tuple(
            Look(str(row["time"]), int(row["seeds"]), str(row["results"])) for row in _whole_rows(folder / _LOOKS)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenSweepError(
            f"{folder / _LOOKS}: missing or malformed entry ({type(error).__name__}: {error})"
        ) from error


def add_look(folder: Path, sweep: Sweep) -> None:
    """Note that a report of ``sweep`` is written, if it shows results that no report before it showed."""
    if not sweep.results or sweep.results in {look.results for look in looks(folder)}:
        return
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    row = json.dumps({"time": when, "seeds": len(sweep.complete_seeds), "results": sweep.results})
    path = folder / _LOOKS
    torn = path.exists() and not path.read_text(encoding="utf-8").endswith("\n")
    with path.open("a", encoding="utf-8") as file:  # in one write, as others may append too
        file.write(("\n" if torn else "") + row + "\n")


def _whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that is only ever appended to. A row that a kill cut short may have others after it."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            if isinstance(row := json.loads(line), dict):
                yield row


def left_out(folder: Path, root: Path, present: Collection[str]) -> tuple[LeftOut, ...]:
    """Finished and failed cells that the sweep once had and that are not among the ``present`` ids of its plan.

    Args:
        folder: of the sweep.
        root: of the cells.
        present: ids of the plan's cells.
    """
    found: dict[str, LeftOut] = {}
    for row in _whole_rows(folder / _CELLS):
        named = row["cells"] if isinstance(row["cells"], dict) else {}  # a former layout has no names
        found |= {str(identity): LeftOut(str(arm), int(seed)) for identity, (arm, seed) in named.items()}
    gone = {identity: cell for identity, cell in found.items() if identity not in present}
    finished = [cell for identity, cell in gone.items() if (root / identity / "DONE").exists()]
    failed = [replace(cell, failed=True) for identity, cell in gone.items() if _failed(root / identity)]
    return tuple(sorted((*finished, *failed), key=lambda cell: (cell.arm, cell.seed)))


def _failed(cell: Path) -> bool:
    """Whether its last attempt failed; a failure before a success counts as little as in the plan."""
    return (cell / "failure.json").exists() and not (cell / "DONE").exists()
