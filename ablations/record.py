"""The sweep's own folder: ``sweep.json`` for the report and the mirror, and the list of all its cells so far."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.cells import CellFolder
from ablations.plan import Plan, digest
from ablations.provenance import git_sha, now
from unigrpo.io import append_row, read_json, read_rows, write_json

#: Layout of ``sweep.json``; ``reports`` reads this one.
LAYOUT = 1


def sweep_folder(root: Path, plan: Plan) -> Path:
    """The folder of the sweep's own files."""
    return root / "sweeps" / plan.sweep_id


def write_sweep(root: Path, plan: Plan, command: str) -> Path:
    """Write ``sweep.json`` and return its folder.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = sweep_folder(root, plan)
    folder.mkdir(parents=True, exist_ok=True)
    (root / "cells").mkdir(exist_ok=True)
    before = read_json(folder / "sweep.json") or {}
    grid = plan.grid
    record = {
        "schema": LAYOUT,
        "grid": grid.name,
        "question": grid.question,
        "recipe": plan.recipe,
        "baseline": plan.baseline,
        "primary": dict(grid.primary),
        "secondary": list(grid.secondary),
        "comparisons": list(plan.comparisons),
        "alpha": grid.alpha,
        "correction": grid.correction,
        "seeds": list(plan.seeds),
        "notes": list(plan.notes),
        "arms": [
            {
                "name": arm.name,
                "overrides": list(arm.overrides),
                "untouched": arm.untouched,
                "cells": {str(cell.config.seed): cell.id for cell in plan.cells_of(arm)},
            }
            for arm in plan.arms
        ],
        "refused": [{"arm": arm.name, "reason": "; ".join(arm.refused)} for arm in plan.arms if arm.refused],
        "root": os.path.relpath(root / "cells", folder),
    }
    # An unchanged sweep keeps its first date and command, so that its report is not made again.
    same = {key: value for key, value in before.items() if key not in _OCCASION} == record
    occasion = before if same else {"command": shlex.split(command), "created": now(), "git_sha": git_sha()}
    record |= {key: occasion[key] for key in _OCCASION}
    _remember(folder, _cells_in(before) | _cells_in(record))
    if record != before:
        write_json(folder / "sweep.json", record)
    return folder


_OCCASION = ("command", "created", "git_sha")


def planned(folder: Path) -> set[str]:
    """Ids of all cells that the sweep in ``folder`` ever had; a later command for fewer seeds removes none."""
    return _remembered(folder) | _cells_in(read_json(folder / "sweep.json") or {})


def _remember(folder: Path, cell_ids: set[str]) -> None:
    # Append only, so that commands that run at the same time do not overwrite each other.
    if new := cell_ids - _remembered(folder):
        append_row(folder / "cells.jsonl", {"cells": sorted(new)})


def _remembered(folder: Path) -> set[str]:
    return {cell_id for row in read_rows(folder / "cells.jsonl") for cell_id in row["cells"]}


def _cells_in(record: Mapping[str, Any]) -> set[str]:
    return {cell_id for arm in record.get("arms", ()) for cell_id in arm["cells"].values()}


def state_digest(folder: Path, cells: Sequence[CellFolder]) -> str:
    """A digest that changes whenever the sweep or the result of one of its cells does."""
    return digest({"sweep": read_json(folder / "sweep.json"), "cells": [cell.signature() for cell in cells]}, 16)
