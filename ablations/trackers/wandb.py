"""Tracker ``wandb``: a run of Weights & Biases for each cell; without a key in files, and nobody is asked for one."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal

from ablations.arms import Cell
from ablations.cells import CellFolder
from ablations.plan import Plan
from ablations.store_text import text_of
from ablations.trackers.contents import Settings, check_installed, numbers, pictures
from ablations.trackers.ended import EndedCells
from unigrpo.io import read_json, write_json
from unigrpo.registry import register

#: Most characters of a name there.
_NAME = 120


@register("tracker", "wandb", source="wandb.ai")
@dataclass(frozen=True)
class Wandb:
    """Weights & Biases: runs grouped by arm, with curves, final metrics, settings and samples."""

    title: ClassVar[str] = "Weights & Biases"

    def check(self, root: Path) -> None:
        """Check that the package is there."""
        check_installed("wandb", "wandb")

    def mirror(self, root: Path, folder: Path, plan: Plan, say: Callable[[str], None]) -> EndedCells:
        """A mirror that writes runs: to the server if ``WANDB_API_KEY`` is set, else to ``root/wandb``."""
        return EndedCells(root, plan, self.title, _Writer(root, folder, plan, say), say)


class _Writer:
    def __init__(self, root: Path, folder: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self.root = root
        self.memory = folder / "wandb.json"
        self.plan = plan
        self.settings = Settings(plan)
        self.say = say
        # The package would ask for a key where there is none.
        online = os.environ.get("WANDB_API_KEY", "").strip() and os.environ.get("WANDB_MODE") != "offline"
        self.mode: Literal["online", "offline"] = "online" if online else "offline"

    def has(self, cell: Cell, signature: str) -> bool:
        return self._id(cell, signature) in (read_json(self.memory) or {}).get(self.mode, ())

    def write(self, cell: Cell, folder: CellFolder, signature: str) -> None:
        import wandb

        run = wandb.init(
            project=re.sub(r"[^\w\-.]", "_", self.plan.sweep_id, flags=re.ASCII)[:_NAME],
            group=text_of(cell.arm, _NAME),
            name=text_of(f"{cell.arm}/s{cell.config.seed}", _NAME),
            id=self._id(cell, signature),
            config=dict(self.settings.of(cell)),
            dir=str(self.root),
            mode=self.mode,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
        updates = cell.config.optim.updates
        found = numbers(folder, updates)
        for step, row in groupby(found.items(), key=lambda item: item[0][0]):
            run.log({name: value for (_, name), value in row}, step=step)
        made = pictures(folder.path, lambda what: self.say(f"warning: Weights & Biases: {what}"))
        shown = {f"samples/{name}": wandb.Image(image) for name, image in made}
        run.log(shown, step=max([updates, *(step for step, _ in found)]))
        run.finish(exit_code=0 if folder.is_done() else 1)
        known = read_json(self.memory) or {}
        write_json(self.memory, known | {self.mode: [*known.get(self.mode, ()), self._id(cell, signature)]})

    def how_to_look(self) -> str:
        runs = self.root / "wandb"
        return f"wandb sync {shlex.quote(str(runs))}/offline-run-*" if self.mode == "offline" else "https://wandb.ai"

    def _id(self, cell: Cell, signature: str) -> str:
        return hashlib.sha256(f"{self.plan.sweep_id} {cell.id} {signature}".encode()).hexdigest()[:16]
