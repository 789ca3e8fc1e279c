"""One ended cell as one run of MLflow: tags, parameters, all points, files and pictures."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.cells import CellFolder
from ablations.costs import cost_of
from ablations.plan import SCHEMA, Cell, Plan
from ablations.store_text import NAME, TAG, VALUE, keys, text_of
from unigrpo.identity import flat
from unigrpo.io import read_json, read_rows

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

#: Configuration keys that every run shows as parameters, whether or not the arms differ in them.
HEADLINES = (
    "recipe", "optim.updates", "optim.text_lr", "optim.image_lr", "rollout.prompts", "rollout.group_size",
    "sampler.steps", "reward.name", "guidance.name", "dynamics.name", "window.name", "model.checkpoint",
)  # fmt: skip
#: Most metrics and parameters in one request; the total size of parameters is limited too.
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 25


class CellRuns:
    """Writes the runs of one sweep's cells; equal things have equal names in all of them."""

    def __init__(self, client: MlflowClient, plan: Plan, root_id: str, say: Callable[[str], None]) -> None:
        self.client = client
        self.plan = plan
        self.root_id = root_id
        self.say = say
        self.configs = {arm.name: flat(arm.config.to_dict()) for arm in plan.arms}
        names = set().union(*self.configs.values())
        trained = [self.configs[arm.name] for arm in plan.arms if not arm.untouched]
        self.shown = {n for n in names if len({str(config.get(n)) for config in trained}) > 1} | set(HEADLINES)

    def write(self, experiment: str, parent: str, cell: Cell, folder: CellFolder) -> None:
        """Mirror one cell that has ended into a new run under ``parent``."""
        from mlflow.entities import Param

        done = folder.is_done()
        name = text_of(f"{cell.arm}/s{cell.config.seed}", NAME)
        ended = folder.ended()
        begun = ended - folder.results().get("cost/wall_s", 0.0)
        tags = self._tags(parent, cell, folder)
        run = self.client.create_run(experiment, int(begun * 1000), tags, run_name=name)
        run_id = run.info.run_id
        config = self.configs[cell.arm]
        shown = {"arm": cell.arm, "seed": str(cell.config.seed)} | {
            k: str(config[k]) for k in self.shown if k in config
        }
        names = keys(shown)
        params = [Param(names[key], text_of(value, VALUE)) for key, value in sorted(shown.items())]
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=params[start : start + _PARAMS_PER_BATCH], synchronous=True)
        points = points_of(folder, cell.config.optim.updates)
        for start in range(0, len(points), _METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_BATCH], synchronous=True)
        for file in ("config.json", "env.json", "result.json", "evaluation.json", "failure.json", "log.txt"):
            if (folder.path / file).exists():
                self.client.log_artifact(run_id, str(folder.path / file))
        if done:
            self._images(run_id, folder.path, cell.config.optim.updates)
        self.client.set_terminated(run_id, "FINISHED" if done else "FAILED", int(ended * 1000))

    def _tags(self, parent: str, cell: Cell, folder: CellFolder) -> dict[str, str]:
        evaluation = read_json(folder.path / "evaluation.json") or {}
        environment = read_json(folder.path / "env.json") or {}
        tags = {
            "mlflow.parentRunId": parent,
            "arm": cell.arm,
            "seed": str(cell.config.seed),
            "cell_id": cell.id,
            "sweep_id": text_of(self.plan.sweep_id, TAG),
            "root_id": self.root_id,
            "kind": "cell",
            "baseline": str(cell.arm == self.plan.baseline).lower(),
            "git_sha": str(environment.get("git_sha", "")),
            "eval_set_hash": str(evaluation.get("eval_set_hash", "")),
            "schema_version": str(SCHEMA),
            "attempt": str(folder.attempts()),
        }
        failure = folder.failure()
        if failure:
            tags["status_detail"] = f"{failure['cause']}: {failure['message']}"[:1000]
        return {key: text_of(value, TAG) for key, value in tags.items()}

    def _images(self, run_id: str, folder: Path, step: int) -> None:
        from PIL import Image

        index = read_json(folder / "samples" / "index.json") or []
        made = (part for sample in index for part in sample["strip"] if "picture" in part and not part["given"])
        for path in (folder / "samples" / Path(str(part["picture"])).name for part in made):
            try:
                with Image.open(path) as image:
                    picture = image.convert("RGB")
            except Exception as error:  # a damaged picture; the rest of the cell is mirrored
                self.say(f"warning: MLflow: {path} is left out: {type(error).__name__}: {error}")
                continue
            key = re.sub(r"[^\w\-.]", "_", path.stem, flags=re.ASCII)[:200]
            self.client.log_image(run_id, picture, key=f"samples/{key}", step=step, synchronous=True)


def points_of(folder: CellFolder, updates: int) -> list[Metric]:
    """All numbers of a cell as MLflow metrics; of several values for one step and name the last counts."""
    from mlflow.entities import Metric

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
    names = keys({name for _, name in last})
    when = int(folder.ended() * 1000)
    return [Metric(names[name], value, when, step) for (step, name), value in sorted(last.items())]
