"""Sweeps with a trainer that trains nothing, and a report that is only a file (reports have tests of their own)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import reports
from ablations.cells import CellFolder
from ablations.sweep import main
from tests.ablations.cluster import running_cluster

REPOSITORY = Path(__file__).parents[2]
#: Jobs run a copy of the code that is gone when the coverage is reported.
UNMEASURED = "launcher.setup=[unset COVERAGE_PROCESS_CONFIG COVERAGE_PROCESS_START]"
RUNNER = "tests.ablations.fake_trainer:run"
#: Seconds for what may take a while where everything else is busy.
PATIENCE = 300.0
CONTROLLER = f"""
import sys
from pathlib import Path
import reports
def write(folder):
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "report.html").write_text("report")
    return folder / "report" / "report.html"
reports.write = write
from ablations import tracking
from ablations.launchers import queue
from ablations.sweep import main
queue.QUEUE_EVERY = 1.0  # the cluster of a test serves nobody else
tracking.PATIENCE = {PATIENCE}  # a server may start slowly
if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], runner=sys.argv[1]))
"""


class Sandbox:
    """A root folder, and commands on it."""

    def __init__(self, root: Path, commands: list[subprocess.Popen[Any]]):
        self.root = root
        self.commands = commands

    def beside(self, name: str) -> Sandbox:
        """Another root of the same test."""
        return Sandbox(self.root.with_name(name), self.commands)

    def behave(self, **behaviour: object) -> None:
        self.root.mkdir(exist_ok=True)
        temporary = self.root / "behaviour.tmp"
        temporary.write_text(json.dumps(behaviour))
        temporary.replace(self.root / "behaviour.json")  # running cells read it

    def arguments(self, *arguments: str, grid: str = "kl_vs_mse", tracker: str = "none") -> list[str]:
        given = [f"grid={grid}", f"root={self.root}", f"tracker={tracker}", "optim.updates=4", *arguments]
        if grid == "kl_vs_mse":  # whose seeds start from several models, which tests of other things do without
            given.append("model.checkpoint=tiny-shapes")
        return [*given, UNMEASURED] if "launcher=slurm" in arguments else given

    def inline(self, *arguments: str, **options: str) -> int:
        return main(self.arguments("launcher=inline", *arguments, **options), runner=RUNNER)

    def controller(
        self, *arguments: str, gpus: str = "", runner: str = RUNNER, folder: Path = REPOSITORY, **options: str
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CONTROLLER, runner, *self.arguments(*arguments, **options)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        controller = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **pipes)
        self.commands.append(controller)
        return controller

    def finish(self, *arguments: str, code: int = 0, **options: str) -> str:
        """What a command of its own prints until it ends."""
        return outcome(self.controller(*arguments, **options), code)[0]

    def starts(self) -> list[str]:
        """``<cell_id> <first update>`` for every time that a cell began to train."""
        path = self.root / "starts.txt"
        return path.read_text().splitlines() if path.exists() else []

    def results(self) -> dict[str, bytes]:
        return {path.parent.name: path.read_bytes() for path in self.root.glob("cells/*/result.json")}

    def workers(self) -> list[int]:
        """Processes of the cells that run now."""
        claimed = (cell for cell in map(CellFolder, self.root.glob("cells/*")) if cell.claimed())
        holders = (holders[-1] for cell in claimed if (holders := cell.holders()))
        return [holder["pid"] for holder in holders if holder.get("worker")]

    def sweep(self) -> dict:
        (path,) = self.root.glob("sweeps/*/sweep.json")
        return json.loads(path.read_text())

    def cell(self, arm: str, seed: int) -> Path:
        (found,) = (entry for entry in self.sweep()["arms"] if entry["name"] == arm)
        return self.root / "cells" / found["cells"][str(seed)]


def outcome(controller: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What a command has printed, on both its streams, when it ends with ``code``."""
    output, errors = controller.communicate(timeout=PATIENCE)
    assert controller.returncode == code, output + errors
    return output, errors


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def kill(commands: list[subprocess.Popen[Any]]) -> None:
    """Kill commands that nobody has waited for, with all of their process groups."""
    for command in commands:
        with command:
            if command.returncode is None:  # else the number may be somebody else's by now
                os.killpg(command.pid, signal.SIGKILL)


@pytest.fixture
def commands():
    """Processes that a test starts, each with a group of its own; those that a failure leaves behind are killed."""
    started: list[subprocess.Popen[Any]] = []
    yield started
    kill(started)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """A database with MLflow's tables, which all workers copy: making them takes seconds, copying them does not."""
    from mlflow.tracking import MlflowClient

    shared = tmp_path_factory.getbasetemp().parent / f"mlflow-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    shared.mkdir(exist_ok=True)
    with FileLock(shared / "lock"):
        path = shared / "mlflow.db"
        if not path.exists():
            unfinished = path.with_name("unfinished.db")
            MlflowClient(tracking_uri=f"sqlite:///{unfinished}").search_experiments()
            unfinished.replace(path)
    return path


@pytest.fixture
def sandbox(commands, tmp_path, monkeypatch):
    def write(folder: Path) -> Path:
        (folder / "report").mkdir(exist_ok=True)
        page = folder / "report" / "report.html"
        page.write_text("report")
        return page

    monkeypatch.setattr(reports, "write", write)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Sandbox(tmp_path / "runs", commands)


@pytest.fixture
def store(sandbox, migrated):
    from mlflow.tracking import MlflowClient

    sandbox.root.mkdir()
    shutil.copy(migrated, sandbox.root / "mlflow.db")
    return MlflowClient(tracking_uri=f"sqlite:///{sandbox.root / 'mlflow.db'}")


@pytest.fixture
def shim(tmp_path, monkeypatch):
    """Puts a shell script in the place of a program; nothing else is on PATH but the shell's own tools."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\necho {name} >>{tmp_path}/calls\n{script}\n")
        path.chmod(0o755)

    put.calls = lambda: (tmp_path / "calls").read_text().split()
    return put


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Slurm cluster of four nodes; all tests of a process share it."""
    with running_cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def slurm(cluster, commands, tmp_path, monkeypatch):
    """A sandbox whose sweeps run on the cluster; whatever a test leaves there is taken away."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield Sandbox(tmp_path / "runs", commands)
    kill(commands)  # they would submit more
    cluster.clear()
