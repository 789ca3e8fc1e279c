"""One ended cell as one run of MLflow: tags, parameters, all points, files and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.arms import SCHEMA, Cell
from ablations.cells import CellFolder
from ablations.plan import Plan
from ablations.store_text import NAME, TAG, VALUE, keys, text_of
from ablations.trackers.contents import Settings, numbers, pictures
from unigrpo.io import read_json

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

#: Most metrics and parameters in one request; the total size of parameters is limited too.
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 25


class CellRuns:
    """Writes the runs of one sweep's cells; equal things have equal names in all of them."""

    def __init__(self, client: MlflowClient, plan: Plan, root_id: str, say: Callable[[str], None]) -> None:
        self.client = client
        self.plan = plan
        self.root_id = root_id
        self.say = say
        self.settings = Settings(plan)

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
        shown = self.settings.of(cell)
        names = keys(shown)
        params = [Param(names[key], text_of(value, VALUE)) for key, value in shown.items()]
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
        for name, picture in pictures(folder, lambda what: self.say(f"warning: MLflow: {what}")):
            key = re.sub(r"[^\w\-.]", "_", name, flags=re.ASCII)[:200]
            self.client.log_image(run_id, picture, key=f"samples/{key}", step=step, synchronous=True)


def points_of(folder: CellFolder, updates: int) -> list[Metric]:
    """All numbers of a cell as MLflow metrics."""
    from mlflow.entities import Metric

    found = numbers(folder, updates)
    names = keys({name for _, name in found})
    when = int(folder.ended() * 1000)
    return [Metric(names[name], value, when, step) for (step, name), value in found.items()]
