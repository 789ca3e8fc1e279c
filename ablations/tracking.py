"""Mirrors the files of a sweep to MLflow: one writer, whole cells at a time, no point twice; a fault stops no sweep.

A cell is mirrored into a run of its own when it has ended.  It is recorded in ``mlflow.json`` of the sweep's folder
after its last point was written.  A run in MLflow without such a record is incomplete: it is deleted and written again,
so no chart has a point twice.  A store that is down is tried again later.  A store that refuses is reported at once.
What a store missed stays in the files, and the next command mirrors it.  MLflow is imported only if there is something
to mirror.  If several roots share a store, each root finds its own runs by the random id in its ``mlflow.id``.  Texts
of a grid are never part of a query.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import shlex
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ablations import declaration
from ablations.cells import CellFolder, State
from ablations.costs import cost_of
from ablations.plan import SCHEMA, Cell, Plan
from ablations.store_faults import try_database, way_out
from ablations.store_text import keys, public, text_of
from unigrpo.identity import flat
from unigrpo.io import locked, read_json, read_rows, write_json, write_text

#: Seconds between two batches.
PAUSE = 3.0
#: Seconds until a failed store is tried again: the first time, and at most.
RETRY, MOST_RETRY = 5.0, 60.0
#: Seconds to wait at the end for a store that has worked before.
PATIENCE = 90.0
#: Seconds between two writes of ``mlflow.json``.
NOTE = 2.0
#: Configuration keys that every run shows as parameters, whether or not the arms differ in them.
HEADLINES = (
    "recipe", "optim.updates", "optim.text_lr", "optim.image_lr", "rollout.prompts", "rollout.group_size",
    "sampler.steps", "reward.name", "guidance.name", "dynamics.name", "window.name", "model.checkpoint",
)  # fmt: skip
#: The page of an experiment with its cells side by side.  By default MLflow folds them under the sweep's run.  Ordered
#: by seed, the ten runs that it draws at first are from all arms.
VIEW = "/#/experiments/{}/runs?searchFilter=params.arm%20!%3D%20%22%22&orderByKey=tags.%60seed%60&orderByAsc=true"
#: Most metrics and parameters in one request; the total size of parameters is limited too.
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 25
#: Most characters of a name, a parameter and a tag in MLflow or its database.
_NAME, _VALUE, _TAG = 250, 6000, 5000
#: Up to this many cells are looked up one by one; for more, all runs of the sweep are listed.
_MOST_ASKED = 20


class Mirror:
    """Mirrors the cells of one sweep in a background thread; each outage is reported in one line."""

    def __init__(self, root: Path, folder: Path, plan: Plan, say: Callable[[str], None]) -> None:
        self.root = root
        self.folder = folder
        self.plan = plan
        self.say = say
        self.uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or f"sqlite:///{(root / 'mlflow.db').resolve()}"
        self._cells = {cell.id: cell for cell in plan.cells()}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._due: set[str] = set(self._cells)
        """Cells that may have to be mirrored; at first all of them."""
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._writer: _Writer | None = None
        self._worked = False
        """Whether the store has answered in this command."""
        self._down = False
        self._refused = False
        """Whether the store refuses, so that waiting does not help."""

    def wake(self, cell_id: str) -> None:
        """Report that a cell has ended; returns at once."""
        self._ended.put(cell_id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        self._wake.set()

    def finish(self, report: Path | None = None) -> None:
        """Mirror the remaining cells and the report; returns when that is done or has failed."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._due |= set(self._cells)  # cells that other commands have ended too
        done = self._sync(report)
        end = time.monotonic() + (PATIENCE if self._worked else 0.0)
        while not done and not self._refused and time.monotonic() < end:
            time.sleep(RETRY)
            done = self._sync(report)

    def how_to_look(self) -> str:
        """The command that opens the store, and the address of a page with all cells."""
        experiment = _Memory(self.folder / "mlflow.json", self.uri).experiment
        if not experiment:
            return f"nothing was written to {public(self.uri)}"
        if self.uri.startswith("sqlite:"):
            return f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}\n  then http://127.0.0.1:5000{VIEW.format(experiment)}"
        return public(self.uri) + (VIEW.format(experiment) if self.uri.startswith("http") else "")

    def _work(self) -> None:
        pause = RETRY
        while not self._closed.is_set():
            self._wake.wait()
            self._wake.clear()
            if self._closed.is_set():
                return
            if self._sync(None):
                pause = RETRY
                self._closed.wait(PAUSE)
            elif self._refused:
                return  # it is tried once more at the end of the sweep
            else:
                self._wake.set()
                self._closed.wait(pause)
                pause = min(2 * pause, MOST_RETRY)

    def _sync(self, report: Path | None) -> bool:
        """Mirror what is due; returns whether the store accepted it."""
        while not self._ended.empty():
            self._due.add(self._ended.get())
        known = self._writer is not None
        try:
            with locked(self.root / "mlflow.lock"):
                self._mirror(_Memory(self.folder / "mlflow.json", self.uri), report)
        except Exception as error:  # from MLflow, its database or its server
            self._writer = None
            advice = way_out(error)
            if advice and known:
                return self._sync(report)  # what it refers to may be deleted; a new writer looks for it again
            self._tell(error, advice)
            return False
        if self._down:
            self.say("MLflow is back")
        self._down = self._refused = False
        self._due.clear()
        return True

    def _mirror(self, memory: _Memory, report: Path | None) -> None:
        todo = self._todo(memory)
        published = _tree_digest(report) if report else memory.report
        if not todo and published == memory.report:
            return
        if self._writer is None:
            self._writer = _Writer(self.plan, self.root, self.uri, self.say)
            self._worked = True
        if self._writer.open(memory):
            self._due = set(self._cells)
            todo = self._todo(memory)
        self._writer.write(memory, todo, report, published)

    def _tell(self, error: Exception, advice: str) -> None:
        """Warn once about an outage, and once more if it becomes a refusal."""
        if not self._down or (advice and not self._refused):
            first = public(next(iter(str(error).strip().splitlines()), ""))[:200]
            outlook = (
                f"; {advice}; then the same command mirrors it" if advice else "; the same command catches up later"
            )
            self.say(f"warning: MLflow{' refuses' if advice else ''}: {type(error).__name__}: {first}{outlook}")
        self._down, self._refused = True, bool(advice)

    def _todo(self, store: _Memory) -> list[tuple[Cell, CellFolder]]:
        due = (self._cells[cell_id] for cell_id in self._cells if cell_id in self._due)
        folders = ((cell, CellFolder(self.root / "cells" / cell.id)) for cell in due)
        return [
            (cell, folder)
            for cell, folder in folders
            if folder.state() in (State.DONE, State.FAILED) and folder.signature() not in ("", store.cells.get(cell.id))
        ]


class _Memory:
    """The record in ``mlflow.json`` of what one store has."""

    def __init__(self, path: Path, uri: str) -> None:
        self.path = path
        self._key = hashlib.sha256(uri.encode()).hexdigest()[:12]
        self._all: dict[str, Any] = read_json(path) or {}
        database = Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and not database.exists():
            self._all.pop(self._key, None)
        own = self._all.get(self._key) or {"experiment": "", "parent": "", "report": "", "cells": {}}
        self.cells: dict[str, str] = own["cells"]
        """Cell id -> signature of the mirrored files."""
        self.experiment: str = own["experiment"]
        self.parent: str = own["parent"]
        self.report: str = own["report"]
        self._saved = float("-inf")

    def save_at_times(self) -> None:
        """:meth:`save`, unless it was done just before: for thousands of cells it is slow."""
        if time.monotonic() - self._saved > NOTE:
            self.save()

    def save(self) -> None:
        """Write the record."""
        self._saved = time.monotonic()
        names = ("experiment", "parent", "report", "cells")
        self._all[self._key] = {name: getattr(self, name) for name in names}
        write_json(self.path, self._all)


class _Writer:
    """All calls to MLflow, by a client with explicit run ids."""

    def __init__(self, plan: Plan, root: Path, uri: str, say: Callable[[str], None]) -> None:
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
        self.sweep_tag = text_of(plan.sweep_id, _TAG)
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.restored = False
        self.experiment = self._experiment(uri)
        self.configs = {arm.name: flat(arm.config.to_dict()) for arm in plan.arms}
        names = set().union(*self.configs.values())
        trained = [self.configs[arm.name] for arm in plan.arms if not arm.untouched]
        self.shown = {n for n in names if len({str(config.get(n)) for config in trained}) > 1} | set(HEADLINES)

    def open(self, memory: _Memory) -> bool:
        """Find or make the run of the sweep; returns whether the store has lost the mirrored cells."""
        memory.experiment = self.experiment
        if self.restored:
            # Restoring brought back all deleted runs, also old versions of this sweep's cells.
            for run in [*self._search("tags.kind = 'cell'"), *self._search("tags.kind = 'sweep'")]:
                if (run.data.tags.get("root_id"), run.data.tags.get("sweep_id")) == (self.root_id, self.sweep_tag):
                    self.client.delete_run(run.info.run_id)
            self.restored = False
        return self._find_parent(memory)

    def write(self, memory: _Memory, cells: list[tuple[Cell, CellFolder]], report: Path | None, published: str) -> None:
        """Mirror ``cells`` and the report."""
        # Runs of cells that are not recorded: a writer was interrupted.
        leftovers = self._children(memory, [cell.id for cell, _ in cells])
        try:
            for cell, folder in cells:
                for run_id in leftovers.get(cell.id, ()):
                    self.client.delete_run(run_id)
                signature = folder.signature()
                self._cell(memory, cell, folder)
                memory.cells[cell.id] = signature
                memory.save_at_times()
        finally:
            memory.save()
        if report is not None and published != memory.report:
            self.client.log_artifacts(memory.parent, str(report), "report")
            memory.report = published
            memory.save()
        self.client.set_terminated(memory.parent)

    def _experiment(self, uri: str) -> str:
        name = text_of(f"unigrpo/{self.plan.grid.name}", _NAME)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            # Beside the database, not in whatever folder the command was started from.
            artifacts = (self.root / "mlartifacts").resolve().as_uri() if uri.startswith("sqlite:") else None
            tags = {"grid.question": self.plan.grid.question, "primary_metric": self.plan.grid.primary["metric"]}
            tags = {key: text_of(value, _TAG) for key, value in tags.items()}
            return str(self.client.create_experiment(name, artifact_location=artifacts, tags=tags))
        if found.lifecycle_stage == "deleted":
            # No other experiment can have its name until it is deleted permanently.
            self.client.restore_experiment(found.experiment_id)
            self.restored = True
            self.say(f"MLflow: the experiment {name!r} was deleted; it is restored, and this sweep written to it anew")
        return str(found.experiment_id)

    def _find_parent(self, memory: _Memory) -> bool:
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
                "baseline": text_of(self.plan.baseline, _TAG),
            }
            run = self.client.create_run(self.experiment, run_name=text_of(self.plan.sweep_id, _NAME), tags=tags)
            found = [run.info.run_id]
        memory.parent = memory.parent or found[0]
        folder = memory.path.parent
        for name in ("sweep.json", declaration.FILE):
            if (folder / name).exists():
                self.client.log_artifact(memory.parent, str(folder / name))
        if declared := declaration.revisions(folder):
            self.client.set_tag(memory.parent, "declaration_hash", declared[-1]["hash"])
        return lost

    def _children(self, memory: _Memory, cell_ids: list[str]) -> dict[str, list[str]]:
        """Cell id -> its runs under the parent run, which belongs to this root."""
        children: dict[str, list[str]] = {}
        under = f"tags.`mlflow.parentRunId` = '{memory.parent}'"
        few = len(cell_ids) <= _MOST_ASKED
        for query in [f"{under} and tags.cell_id = '{cell_id}'" for cell_id in cell_ids] if few else [under]:
            for run in self._search(query):
                children.setdefault(run.data.tags.get("cell_id", ""), []).append(run.info.run_id)
        return children

    def _search(self, query: str) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment], query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _cell(self, memory: _Memory, cell: Cell, folder: CellFolder) -> None:
        from mlflow.entities import Param

        done = folder.is_done()
        name = text_of(f"{cell.arm}/s{cell.config.seed}", _NAME)
        ended = folder.ended()
        begun = ended - folder.results().get("cost/wall_s", 0.0)
        run = self.client.create_run(
            self.experiment, int(begun * 1000), self._tags(memory, cell, folder), run_name=name
        )
        run_id = run.info.run_id
        config = self.configs[cell.arm]
        shown = {"arm": cell.arm, "seed": str(cell.config.seed)} | {
            k: str(config[k]) for k in self.shown if k in config
        }
        names = keys(shown)
        params = [Param(names[key], text_of(value, _VALUE)) for key, value in sorted(shown.items())]
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=params[start : start + _PARAMS_PER_BATCH], synchronous=True)
        points = _points(folder, cell.config.optim.updates)
        for start in range(0, len(points), _METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_BATCH], synchronous=True)
        for file in ("config.json", "env.json", "result.json", "evaluation.json", "failure.json", "log.txt"):
            if (folder.path / file).exists():
                self.client.log_artifact(run_id, str(folder.path / file))
        if done:
            self._images(run_id, folder.path, cell.config.optim.updates)
        self.client.set_terminated(run_id, "FINISHED" if done else "FAILED", int(ended * 1000))

    def _tags(self, memory: _Memory, cell: Cell, folder: CellFolder) -> dict[str, str]:
        evaluation = read_json(folder.path / "evaluation.json") or {}
        environment = read_json(folder.path / "env.json") or {}
        tags = {
            "mlflow.parentRunId": memory.parent,
            "arm": cell.arm,
            "seed": str(cell.config.seed),
            "cell_id": cell.id,
            "sweep_id": self.sweep_tag,
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
        return {key: text_of(value, _TAG) for key, value in tags.items()}

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


def _points(folder: CellFolder, updates: int) -> list[Any]:
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


def _root_id(root: Path) -> str:
    """The random id of ``root``, made when it is first needed."""
    path = root / "mlflow.id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex + "\n")
    return path.read_text(encoding="utf-8").strip()


def _tree_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = "".join(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
    return hashlib.sha256(state.encode()).hexdigest()[:16]
