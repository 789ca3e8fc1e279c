"""The sweep's own folder: ``sweep.json`` for the report and the mirror, and the list of all its cells so far."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations import declaration
from ablations.arms import digest
from ablations.cells import CellFolder
from ablations.contrasts import Contrast
from ablations.grid import UNTOUCHED
from ablations.plan import Plan
from ablations.provenance import git_sha, now
from unigrpo.io import JsonObject, append_row, read_json, read_rows, write_json

#: Layout of ``sweep.json``; ``reports`` reads this one.
LAYOUT = 2


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
    record = _content(root, folder, plan)
    # An unchanged sweep keeps its first date and command, so that its report is not made again.
    told = {key: value for key, value in before.items() if key not in (*_OCCASION, "schema")}
    same = bool(told) and all(record.get(key) == value for key, value in told.items())
    occasion = before if same else {"command": shlex.split(command), "created": now(), "git_sha": git_sha()}
    record |= {key: occasion[key] for key in _OCCASION}
    _remember(folder, {**_cells_in(before), **_cells_in(record)})
    if record != before:
        write_json(folder / "sweep.json", record)
    return folder


def _content(root: Path, folder: Path, plan: Plan) -> JsonObject:
    """What ``sweep.json`` says of the plan, whenever and by whatever command it is written."""
    grid = plan.grid
    cells = {arm.name: {str(cell.config.seed): cell.id for cell in plan.cells_of(arm)} for arm in plan.arms}
    # A model before training may have another seed of its block.
    seeds = {*plan.planned_seeds, *(int(seed) for own in cells.values() for seed in own)}
    return {
        **(content := declaration.content_of(plan)),
        "schema": LAYOUT,
        "grid": grid.name,
        "recipe": plan.recipe,
        "secondary": list(grid.secondary),
        "comparisons": [_plain(each) for each in plan.comparisons],
        "matched": grid.matched
        and {
            "measure": grid.matched.measure,
            "comparisons": [_plain(each) for each in plan.matched],
            "words": content["matched"],
        },
        "at": grid.at
        and {
            "measure": grid.at.measure,
            "level": grid.at.level,
            "ladders": {ladder.name: list(ladder.arms) for ladder in plan.ladders},
            "words": content["at"],
        },
        **({"blocks": plan.blocks.record(seeds)} if plan.blocks else {}),
        "candidates": {arm: list(names) for arm, names in grid.candidates.items()},
        "tuning": plan.tuning,
        "seeds": list(plan.seeds),
        "planned_seeds": content["seeds"],
        "notes": list(plan.notes),
        "arms": [
            {
                "name": arm.name,
                "overrides": list(arm.overrides),
                "untouched": arm.untouched,
                "factors": dict(arm.factors),
                "against": plan.partners.get(arm.name),
                "repeats": plan.replicates.get(arm.name),
                "cells": cells[arm.name],
            }
            for arm in plan.arms
        ],
        "refused": [{"arm": arm.name, "reason": "; ".join(arm.refused)} for arm in plan.arms if arm.refused],
        "root": os.path.relpath(root / "cells", folder),
    }


def _plain(contrast: Contrast) -> JsonObject:
    couples = [*map(list, contrast.couples)]
    return {"arm": contrast.arm, "other": contrast.other, "couples": couples, "words": contrast.words}


_OCCASION = ("command", "created", "git_sha")

#: Arm and seed of a cell.
Name = list[str | int]


def declare(root: Path, folder: Path, plan: Plan) -> str:
    """Declare the plan of the sweep in ``folder`` (:func:`ablations.declaration.declare`); returns a note, or nothing.

    Raises:
        ConfigError: the present declaration cannot be read.
        OSError: the folder cannot be written.
    """
    # A model before training is shared by all grids of a folder, and says nothing of what is compared.
    named = {
        cell_id: f"{name[0]}/{name[1]}" if name else cell_id
        for cell_id, name in _planned(folder).items()
        if not name or str(name[0]).partition("@")[0] != UNTOUCHED
    }
    return declaration.declare(
        folder, plan, {name: CellFolder(root / "cells" / cell_id) for cell_id, name in named.items()}
    )


def planned(folder: Path) -> set[str]:
    """Ids of all cells that the sweep in ``folder`` ever had; a later command for fewer seeds removes none."""
    return {*_planned(folder)}


def _planned(folder: Path) -> dict[str, Name | None]:
    return {**_remembered(folder), **_cells_in(read_json(folder / "sweep.json") or {})}


def _remember(folder: Path, cells: Mapping[str, Name]) -> None:
    # Append only, so that commands that run at the same time do not overwrite each other.
    known = _remembered(folder)
    if new := {cell_id: name for cell_id, name in sorted(cells.items()) if not known.get(cell_id)}:
        append_row(folder / "cells.jsonl", {"cells": new})


def _remembered(folder: Path) -> dict[str, Name | None]:
    """Cell id -> its arm and seed; None where a former layout of the file holds no more than the id."""
    found: dict[str, Name | None] = {}
    for row in read_rows(folder / "cells.jsonl"):
        found |= row["cells"] if isinstance(row["cells"], dict) else dict.fromkeys(row["cells"])
    return found


def _cells_in(record: Mapping[str, Any]) -> dict[str, Name]:
    cells = ((arm["name"], seed, cell_id) for arm in record.get("arms", ()) for seed, cell_id in arm["cells"].items())
    return {cell_id: [name, int(seed)] for name, seed, cell_id in cells}


def state_digest(root: Path, folder: Path) -> str:
    """A digest that changes whenever the sweep, its declaration or the result of a cell that it ever had does."""
    cells = (CellFolder(root / "cells" / cell_id) for cell_id in sorted(planned(folder)))
    files = {name: read_json(folder / name) for name in ("sweep.json", declaration.FILE)}
    return digest({"files": files, "cells": [cell.signature() for cell in cells]}, 16)
