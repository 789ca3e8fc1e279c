"""Workers on this machine: what reaches them, and what must not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ablations.cells import CellFolder, State
from ablations.launchers import Local
from ablations.worker import Job, Outcome
from tests.ablations.conftest import PATIENCE, REPOSITORY, RUNNER, outcome, wait_for
from unigrpo.config import RunConfig

ONE = ("seeds=1", "only=none:0", "launcher.workers=1")


@pytest.fixture
def running(sandbox):
    """Begins a sweep of one cell, and waits until that trains."""

    def begin() -> subprocess.Popen[str]:
        sandbox.behave(all="held")
        controller = sandbox.controller(*ONE)
        wait_for(lambda: list(sandbox.root.glob("cells/*/metrics.jsonl")))
        return controller

    return begin


def events(sandbox) -> list[str]:
    (history,) = sandbox.root.glob("cells/*/events.jsonl")
    return [json.loads(row)["event"] for row in history.read_text().splitlines()]


def test_a_worker_hears_what_it_is_told_while_it_starts(sandbox, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    sandbox.behave(all="held")
    ended = []
    with Local(workers=1).session(sandbox.root, RUNNER, lambda: False) as session:
        session.start(Job(sandbox.root.resolve() / "cells" / "abc", RunConfig().to_dict(), runner=RUNNER))
        session.stop()
        wait_for(lambda: ended.extend(session.poll(0.2)) or ended)
    assert [end.outcome for _, end in ended] == [Outcome.STOPPED]


@contextmanager
def hanging_up(action: signal.Handlers) -> Iterator[None]:
    """What a process that is started meanwhile inherits, whatever these tests were started with."""
    before = signal.signal(signal.SIGHUP, action)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nohup_protects(sandbox, running):
    with hanging_up(signal.SIG_IGN):
        controller = running()
    os.killpg(controller.pid, signal.SIGHUP)
    sandbox.behave()
    outcome(controller)


def test_a_terminal_that_closes_asks_for_checkpoints(sandbox, running):
    with hanging_up(signal.SIG_DFL):
        controller = running()
    for _ in range(2):  # the terminal and its shell
        os.killpg(controller.pid, signal.SIGHUP)
    outcome(controller, code=130)
    assert events(sandbox) == ["claimed", "stopped"]


def test_an_end_that_nobody_can_read_of_is_orderly_all_the_same(sandbox, running):
    controller = running()
    controller.stdout.close()
    controller.stderr.close()
    controller.send_signal(signal.SIGTERM)
    assert controller.wait(PATIENCE) == 130
    assert events(sandbox) == ["claimed", "stopped"]


@pytest.mark.parametrize("code", [0, 1])
def test_a_worker_that_ends_while_it_imports_the_main_module_fails_its_cell(sandbox, tmp_path, code):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
if __name__ == "__mp_main__":
    import os; os._exit({code})
from ablations.sweep import main
sys.exit(main(sys.argv[1:], runner={RUNNER!r}))
"""
    )
    arguments = sandbox.arguments(*ONE)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    controller = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    sandbox.commands.append(controller)
    outcome(controller, code=1)
    cell = CellFolder(sandbox.cell("none", 0))
    assert cell.state() is State.FAILED
    assert f"ended with exit code {code} before the cell began" in cell.failure()["message"]
    assert cell.attempts() == 3 + 1  # and that of the command, which writes down that it failed


def test_workers_import_what_the_command_did_and_not_what_lies_in_the_present_folder(sandbox, tmp_path):
    """As an installed command is started in a folder that has another copy of the code."""
    script = tmp_path / "bin" / "unigrpo"
    script.parent.mkdir()
    script.write_text(f"""
import sys
from ablations.sweep import main
if __name__ == "__main__":
    sys.exit(main(runner={RUNNER!r}))
""")
    for package in ("ablations", "unigrpo"):
        (tmp_path / "here" / package).mkdir(parents=True)
        (tmp_path / "here" / package / "__init__.py").write_text("import os; os._exit(3)")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), *sandbox.arguments(*ONE)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    controller = subprocess.Popen(command, cwd=tmp_path / "here", env=environment, start_new_session=True, **pipes)
    sandbox.commands.append(controller)
    outcome(controller)
    assert CellFolder(sandbox.cell("none", 0)).state() is State.DONE
