"""Sweeps with a trainer that trains nothing, and a report that is only a file (reports have tests of their own)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import reports
from ablations.sweep import main

REPOSITORY = Path(__file__).parents[2]
RUNNER = "tests.ablations.fake_trainer:run"
CONTROLLER = f"""
import sys
from pathlib import Path
import reports
def write(folder):
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "report.html").write_text("report")
    return folder / "report" / "report.html"
reports.write = write
from ablations.sweep import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], runner={RUNNER!r}))
"""


class Sandbox:
    """A root folder, and commands on it."""

    def __init__(self, root: Path):
        self.root = root

    def behave(self, **behaviour: object) -> None:
        self.root.mkdir(exist_ok=True)
        (self.root / "behaviour.json").write_text(json.dumps(behaviour))

    def arguments(self, *arguments: str, grid: str = "kl_vs_mse", tracker: str = "none") -> list[str]:
        return [f"grid={grid}", f"root={self.root}", f"tracker={tracker}", "optim.updates=4", *arguments]

    def inline(self, *arguments: str, **options: str) -> int:
        return main(self.arguments("launcher=inline", *arguments, **options), runner=RUNNER)

    def controller(self, *arguments: str, gpus: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CONTROLLER, *self.arguments(*arguments)]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpus}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True, **pipes)

    def starts(self) -> list[str]:
        """``<cell_id> <first update>`` for every time that a cell began to train."""
        path = self.root / "starts.txt"
        return path.read_text().splitlines() if path.exists() else []

    def results(self) -> dict[str, bytes]:
        return {path.parent.name: path.read_bytes() for path in self.root.glob("cells/*/result.json")}

    def sweep(self) -> dict:
        (path,) = self.root.glob("sweeps/*/sweep.json")
        return json.loads(path.read_text())

    def cell(self, arm: str, seed: int) -> Path:
        (found,) = (entry for entry in self.sweep()["arms"] if entry["name"] == arm)
        return self.root / "cells" / found["cells"][str(seed)]


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    def write(folder: Path) -> Path:
        (folder / "report").mkdir(exist_ok=True)
        page = folder / "report" / "report.html"
        page.write_text("report")
        return page

    monkeypatch.setattr(reports, "write", write)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Sandbox(tmp_path / "runs")
