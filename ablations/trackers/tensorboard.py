"""Tracker ``tensorboard``: event files, one run for each cell, written without torch and TensorFlow."""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from ablations.arms import Cell
from ablations.cells import CellFolder
from ablations.plan import Plan
from ablations.trackers.contents import Settings, check_installed, numbers, pictures
from ablations.trackers.ended import EndedCells
from unigrpo.registry import register

#: Event files hold single precision.
_LARGEST = 3.4e38


@register("tracker", "tensorboard", source="tensorboard.dev")
@dataclass(frozen=True)
class TensorBoard:
    """TensorBoard: curves, samples and hyperparameters of each cell, in files under ``root/tensorboard``."""

    title: ClassVar[str] = "TensorBoard"

    def check(self, root: Path) -> None:
        """Check that the package is there."""
        check_installed("tensorboard", "tensorboard")

    def mirror(self, root: Path, folder: Path, plan: Plan, say: Callable[[str], None]) -> EndedCells:
        """A mirror that writes event files."""
        return EndedCells(root, plan, self.title, _Writer(root / "tensorboard" / plan.sweep_id, plan, say), say)


class _Writer:
    def __init__(self, folder: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.settings = Settings(plan)
        self.say = say

    def has(self, cell: Cell, signature: str) -> bool:
        noted = self._run(cell) / "signature"
        return noted.exists() and noted.read_text(encoding="utf-8") == signature

    def write(self, cell: Cell, folder: CellFolder, signature: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        run, when, updates = self._run(cell), folder.ended(), cell.config.optim.updates
        shutil.rmtree(run, ignore_errors=True)
        writer = EventFileWriter(str(run))
        settings = {key: _number(value) for key, value in self.settings.of(cell).items()}
        summaries = [(0, hparams_pb(settings, trial_id=cell.id, start_time_secs=when))]
        found = ((key, value) for key, value in numbers(folder, updates).items() if abs(value) <= _LARGEST)
        for step, row in groupby(found, key=lambda item: item[0][0]):
            values = [Summary.Value(tag=name, simple_value=value) for (_, name), value in row]
            summaries.append((step, Summary(value=values)))
        for name, image in pictures(folder.path, lambda what: self.say(f"warning: TensorBoard: {what}")):
            image.save(buffer := io.BytesIO(), "PNG")
            shown = Summary.Image(
                encoded_image_string=buffer.getvalue(), width=image.width, height=image.height, colorspace=3
            )
            summaries.append((updates, Summary(value=[Summary.Value(tag=f"samples/{name}", image=shown)])))
        for step, summary in summaries:
            writer.add_event(Event(wall_time=when, step=step, summary=summary))
        writer.close()
        (run / "signature").write_text(signature, encoding="utf-8")  # last: without it the run is written anew

    def how_to_look(self) -> str:
        return f"tensorboard --logdir {shlex.quote(str(self.folder))}"

    def _run(self, cell: Cell) -> Path:
        """The folder of a cell's run, called as TensorBoard shows it: ``arm/s0``."""
        plain = re.sub(r"[^\w\-.@=,]|^\.", "_", cell.arm, flags=re.ASCII)[:80]
        unique = plain if plain == cell.arm else f"{plain}-{hashlib.sha256(ascii(cell.arm).encode()).hexdigest()[:8]}"
        return self.folder / unique / f"s{cell.config.seed}"


def _number(text: str) -> str | float:
    """A setting as a number if it is one, so that it has an axis."""
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) else text
