"""All calls to MLflow for one sweep: opening the store, the experiment, the sweep's own run, and what is under it."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ablations import declaration
from ablations.arms import Cell
from ablations.cells import CellFolder
from ablations.plan import Plan
from ablations.store_cells import CellRuns
from ablations.store_faults import try_database, way_out
from ablations.store_memory import Memory
from ablations.store_text import NAME, TAG, text_of
from ablations.store_views import KIND, NOTE, TRAINING, is_kind_open, missing_tags, note_of, view_keys, views
from unigrpo.io import write_text

if TYPE_CHECKING:
    from mlflow.entities import Run

#: Up to this many cells are looked up one by one; for more, all runs of the sweep are listed.
_MOST_ASKED = 20


class Writer:
    """All calls to MLflow, by a client with explicit run ids."""

    def __init__(self, plan: Plan, root: Path, memory: Memory, say: Callable[[str], None]) -> None:
        uri = memory.uri
        # Set before the import, which would send telemetry; and a server that is down must be noticed soon.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.tracking import MlflowClient

        # It prints tracebacks; here a fault is reported in one line.
        logging.getLogger("mlflow.store").setLevel(logging.CRITICAL)
        try_database(uri)
        self.plan = plan
        self.root = root
        self.say = say
        self.root_id = _root_id(root)
        self.sweep_tag = text_of(plan.sweep_id, TAG)
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.restored = False
        self.experiment = self._experiment(uri, memory)
        self.cells = CellRuns(self.client, plan, self.root_id, say)

    def open(self, memory: Memory) -> bool:
        """Find or make the run of the sweep; returns whether the store has lost the mirrored cells."""
        memory.experiment = self.experiment
        if self.restored:
            # Restoring brought back all deleted runs, also old versions of this sweep's cells.
            for run in [*self._search("tags.kind = 'cell'"), *self._search("tags.kind = 'sweep'")]:
                if (run.data.tags.get("root_id"), run.data.tags.get("sweep_id")) == (self.root_id, self.sweep_tag):
                    self.client.delete_run(run.info.run_id)
            self.restored = False
        lost = self._find_parent(memory)
        self._show(memory)
        return lost

    def write(self, memory: Memory, cells: list[tuple[Cell, CellFolder]], report: Path | None, published: str) -> None:
        """Mirror ``cells`` and the report."""
        # Runs of cells that are not recorded: a writer was interrupted.
        leftovers = self._children(memory, [cell.id for cell, _ in cells])
        try:
            for cell, folder in cells:
                for run_id in leftovers.get(cell.id, ()):
                    self.client.delete_run(run_id)
                signature = folder.signature()
                self.cells.write(self.experiment, memory.parent, cell, folder)
                memory.cells[cell.id] = signature
                memory.save_at_times()
        finally:
            memory.save()
        if report is not None and published != memory.report:
            self.client.log_artifacts(memory.parent, str(report), "report")
            self.client.set_tag(memory.parent, NOTE, note_of(self.plan, report))
            memory.report = published
            memory.save()
        self.client.set_terminated(memory.parent)

    def _experiment(self, uri: str, memory: Memory) -> str:
        """The id of the experiment: the one that has the sweep's run, whatever it is called now, or one by name."""
        if memory.parent and (kept := self._experiment_of(memory.parent)) == memory.experiment:
            return kept
        name = text_of(f"unigrpo/{self.plan.grid.name}", NAME)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # Beside the database, not in whatever folder the command was started from.
            artifacts = (self.root / "mlartifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
            tags = {"grid.question": self.plan.grid.question, "primary_metric": self.plan.grid.primary["metric"]}
            tags = {key: text_of(value, TAG) for key, value in tags.items()}
            return str(self.client.create_experiment(name, artifact_location=artifacts, tags=tags))
        if found.lifecycle_stage == "deleted":
            # No other experiment can have its name until it is deleted permanently.
            self.client.restore_experiment(found.experiment_id)
            self.restored = True
            self.say(f"MLflow: the experiment {name!r} was deleted; it is restored, and this sweep written to it anew")
        return str(found.experiment_id)

    def _experiment_of(self, run_id: str) -> str:
        """The experiment that has a run; empty if the run or its experiment is deleted or unknown."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
            experiment = self.client.get_experiment(run.info.experiment_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        stages = {run.info.lifecycle_stage, experiment.lifecycle_stage}
        return str(experiment.experiment_id) if stages == {"active"} else ""

    def _find_parent(self, memory: Memory) -> bool:
        """Find the run of the sweep: the recorded one, one that was made but not recorded, or a new one.

        Returns:
            Whether the recorded run is gone, and with it all mirrored cells.
        """
        own = [run for run in self._search("tags.kind = 'sweep'") if run.data.tags.get("sweep_id") == self.sweep_tag]
        runs = [(run.info.run_id, run.data.tags.get("root_id")) for run in own]
        found = [run_id for run_id, root_id in runs if run_id == memory.parent or root_id == self.root_id]
        lost = memory.parent not in found
        if lost:
            memory.parent, memory.report, memory.cells = "", "", {}
        if not found:
            tags = {
                "sweep_id": self.sweep_tag,
                "root_id": self.root_id,
                "kind": "sweep",
                NOTE: note_of(self.plan, None),
                "baseline": text_of(self.plan.baseline, TAG),
            }
            run = self.client.create_run(self.experiment, run_name=text_of(self.plan.sweep_id, NAME), tags=tags)
            found = [run.info.run_id]
        memory.parent = memory.parent or found[0]
        folder = memory.path.parent
        for name in ("sweep.json", declaration.FILE):
            if (folder / name).exists():
                self.client.log_artifact(memory.parent, str(folder / name))
        if declared := declaration.revisions(folder):
            self.client.set_tag(memory.parent, "declaration_hash", declared[-1]["hash"])
        return lost

    def _show(self, memory: Memory) -> None:
        """Give the experiment its kind and the sweep's views; a store that refuses them is used without."""
        present = self.client.get_experiment(self.experiment).tags
        keys = view_keys(self.root_id, self.plan.sweep_id)
        begun = self.client.get_run(memory.parent).info.start_time / 1000
        wanted = views(self.plan, memory.parent, keys, begun)
        memory.views = []
        try:
            if is_kind_open(present.get(KIND)):
                self.client.set_experiment_tag(self.experiment, KIND, TRAINING)
            for key, value in missing_tags(wanted, present).items():
                self.client.set_experiment_tag(self.experiment, key, value)
        except Exception as error:  # from MLflow, its database or its server
            if not way_out(error):
                raise  # an outage, after which it is tried again
            return
        memory.views = list(keys)

    def _children(self, memory: Memory, cell_ids: list[str]) -> dict[str, list[str]]:
        """Cell id -> its runs under the parent run, which belongs to this root."""
        children: dict[str, list[str]] = {}
        under = f"tags.`mlflow.parentRunId` = '{memory.parent}'"
        few = len(cell_ids) <= _MOST_ASKED
        for query in [f"{under} and tags.cell_id = '{cell_id}'" for cell_id in cell_ids] if few else [under]:
            for run in self._search(query):
                children.setdefault(run.data.tags.get("cell_id", ""), []).append(run.info.run_id)
        return children

    def _search(self, query: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _root_id(root: Path) -> str:
    """The random id of ``root``, made when it is first needed."""
    path = root / "mlflow.id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text(encoding="utf-8").strip()


def tree_digest(folder: Path) -> str:
    """A digest of all files under ``folder``, by name and content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = "".join(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
    return hashlib.sha256(state.encode()).hexdigest()[:16]
