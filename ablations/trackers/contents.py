"""What a cell has that trackers show: settings, numbers by step, pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.arms import Cell
from ablations.cells import CellFolder
from ablations.costs import cost_of
from ablations.plan import Plan
from unigrpo.errors import ConfigError
from unigrpo.identity import flat
from unigrpo.io import read_json, read_rows

if TYPE_CHECKING:
    from PIL.Image import Image

#: Configuration keys that every cell shows, whether or not the arms differ in them.
HEADLINES = (
    "recipe", "optim.updates", "optim.text_lr", "optim.image_lr", "rollout.prompts", "rollout.group_size",
    "sampler.steps", "reward.name", "guidance.name", "dynamics.name", "window.name", "model.checkpoint",
)  # fmt: skip


class Settings:
    """The settings that a sweep's cells show: arm, seed, some of all grids, and those in which its arms differ."""

    def __init__(self, plan: Plan) -> None:
        trained = [flat(config.to_dict()) for arm in plan.arms if not arm.untouched for config in arm.configs]
        names = set().union(*trained)
        self._shown = {n for n in names if len({str(config.get(n)) for config in trained}) > 1} | set(HEADLINES)

    def of(self, cell: Cell) -> dict[str, str]:
        """Key -> value of one cell, by key."""
        config = flat(cell.config.to_dict())
        found = {"arm": cell.arm, "seed": str(cell.config.seed)} | {
            key: str(config[key]) for key in self._shown if key in config
        }
        return dict(sorted(found.items()))


def numbers(folder: CellFolder, updates: int) -> dict[tuple[int, str], float]:
    """(Step, name) -> finite number of a cell, by step; of several values for one step and name the last counts.

    Final metrics and costs stand at step ``updates``.
    """
    last: dict[tuple[int, str], float] = {}
    rows = [row for name in ("metrics.jsonl", "timing.jsonl") for row in read_rows(folder.path / name)]
    cost = cost_of(folder)
    total = {"attempts": cost.attempts, "total_s": cost.seconds, "gpu_s": cost.gpu_seconds, "wasted_s": cost.wasted_s}
    spent = {f"cost/{name}": value for name, value in total.items()} if cost.attempts else {}
    for row in [*rows, {"step": updates} | folder.results() | spent]:
        step = int(row.get("step", 0))
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and abs(value) <= sys.float_info.max:
                last[step, name] = float(value)
    return dict(sorted(last.items()))


def pictures(folder: Path, warn: Callable[[str], None]) -> Iterator[tuple[str, Image]]:
    """(Name, image) of what a finished cell generated as its samples; of a damaged file ``warn`` is told."""
    from PIL import Image

    index = read_json(folder / "samples" / "index.json") or []
    made = (part for sample in index for part in sample["strip"] if "picture" in part and not part["given"])
    for path in (folder / "samples" / Path(str(part["picture"])).name for part in made):
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except Exception as error:  # a damaged picture; the rest of the cell is mirrored
            warn(f"{path} is left out: {type(error).__name__}: {error}")
            continue
        yield path.stem, picture


def check_installed(tracker: str, package: str) -> None:
    """Check that a tracker's package is there, without importing it.

    Raises:
        ConfigError: it is not.
    """
    if find_spec(package) is None:
        raise ConfigError(
            f"tracker={tracker}: the package {package} is not installed; pip install {package}, or give tracker=mlflow"
            " or none"
        )
