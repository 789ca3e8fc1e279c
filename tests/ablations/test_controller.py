"""The loop of a sweep beside others that run cells of it: what they do is seen, counted and taken over."""

from __future__ import annotations

import json
import os
import signal

import pytest

from ablations import controller as controllers
from ablations.cells import CellFolder, State
from ablations.controller import Controller
from ablations.costs import Budget
from ablations.display import LiveView
from ablations.grid import load_grid
from ablations.launchers import End, Inline
from ablations.launchers.inline import InlineSession
from ablations.plan import make_plan
from ablations.worker import Outcome
from tests.ablations.conftest import RUNNER


class Places:
    """A session that starts jobs and never ends them."""

    def __init__(self, free: int):
        self.slots = free
        self.started = []

    def free_slots(self):
        return self.slots - len(self.started)

    def start(self, job):
        self.started.append(job.cell_id)


class Onlooker:
    """A view that calls ``act`` at every refresh."""

    def __init__(self, act=lambda: None):
        self.act = act

    def refresh(self, controller):
        self.act()

    def settled(self, cell, controller):
        pass

    def say(self, text):
        pass


@pytest.fixture
def control(tmp_path, monkeypatch):
    """Makes controllers of kl_vs_mse that look at every cell every time."""
    monkeypatch.setattr(controllers, "LOOK", 0.0)

    def make(seeds, view=None, **budget):
        overrides = ["optim.updates=1", "model.checkpoint=tiny-shapes"]
        cells = make_plan(load_grid("kl_vs_mse"), overrides, tuple(range(seeds))).cells()
        (tmp_path / "cells").mkdir(exist_ok=True)
        options = {"runner": RUNNER, "budget": Budget(**budget)}
        return Controller(cells, tmp_path / "cells", view or Onlooker(), lambda: False, **options)

    return make


def taken(controller, number):
    """The claims of another command on the first cells."""
    return [controller.folder(cell.id).claim({"gpus": 0}) for cell in controller.cells[:number]]


def finish(claim):
    (claim.cell.path / "result.json").write_text("{}")
    claim.finish()


def test_cells_that_others_run_or_finish_count_for_the_budget(control):
    controller, session = control(2, cells=3), Places(5)
    first, second = taken(controller, 2)
    controller._start(session)
    assert session.started == [controller.cells[2].id]
    assert controller.over_budget
    finish(first)
    controller._start(session)
    assert len(session.started) == 1
    second.fail("exception", "it broke", "", 0)
    controller._start(session)
    assert len(session.started) == 2


def test_a_budget_is_not_used_up_while_others_may_leave_some_of_it(control):
    def fail():
        if claims:
            assert State.DONE not in controller.states.values()
            claims.pop().fail("exception", "it broke", "", 0)

    controller = control(1, Onlooker(fail), cells=1)
    claims = taken(controller, 1)
    controller.run(Inline().session(controller.root, RUNNER, lambda: False))
    assert list(controller.states.values()).count(State.DONE) == 1
    assert controller.over_budget


def test_every_cell_of_others_is_looked_at_in_time(control, monkeypatch):
    monkeypatch.setattr(controllers, "MOST_LOOKS", 2)
    claims = taken(control(2), 7)
    controller, session = control(2), Places(1)
    assert set(controller.states.values()) == {State.RUNNING}
    claims[-1].release("stopped")
    finish(claims[-2])
    for _ in range(4):
        controller._start(session)
    assert session.started == [controller.cells[-1].id]
    assert controller.states[controller.cells[-2].id] is State.DONE


def test_an_end_that_another_command_takes_away_is_no_end(control, monkeypatch):
    controller, session = control(1), Places(1)
    folder = controller.folder(controller.cells[0].id)
    folder.claim({"gpus": 0}).fail("exception", "it broke", "", 0)
    monkeypatch.setattr(CellFolder, "ended", lambda cell: 0.0)  # gone between the look and the reading
    controller._look(folder.path.name, session)
    assert session.started == [folder.path.name]


def test_the_table_reads_the_score_of_a_cell_once(control, monkeypatch):
    controller = control(1)
    for claim in taken(controller, 3):
        (claim.cell.path / "result.json").write_text(json.dumps({"metrics": {"geneval/strict": 0.25}}))
        claim.finish()
    controller = control(1)
    read, results = [], CellFolder.results
    monkeypatch.setattr(CellFolder, "results", lambda cell: read.append(cell.path.name) or results(cell))
    view = LiveView("geneval/strict", 1)
    for _ in range(3):
        table = view._table(controller)
    assert sorted(read) == sorted(cell.id for cell in controller.cells[:3])
    assert list(table.columns[-2].cells).count("0.250") == 3


@pytest.mark.parametrize("job", ["", "77"])
@pytest.mark.parametrize("rerun", ["missing", "all"])
def test_a_worker_that_dies_before_its_cell_begins_is_an_attempt_without_gain(sandbox, monkeypatch, job, rerun):
    if rerun == "all":
        sandbox.inline("seeds=1")
    started, trained = [], sandbox.starts()

    def die(session, job_):
        started.append(job_.cell_id)
        assert len(started) <= 4 * 3, "it is started again for ever"
        session.ended.append((job_, End(None, message="its process was killed by signal 9", job=job)))

    monkeypatch.setattr(InlineSession, "start", die)
    assert sandbox.inline("seeds=1", f"rerun={rerun}") == 1
    assert sandbox.starts() == trained
    assert sandbox.results() == {}  # the former ones would pass for those of this command
    failure = CellFolder(sandbox.cell("none", 0)).failure()
    where = "its log is empty" if job else "what it said is in the output of this command"
    begun = f"its process was killed by signal 9 before the cell began: {where}"
    assert failure["message"] == f"{begun}; the last 3 attempts ended so without a new checkpoint"


def test_a_rerun_of_all_that_is_interrupted_goes_on(sandbox, monkeypatch, capsys):
    sandbox.inline("seeds=1")
    collect, ended = Controller._collect, []

    def interrupt(controller, cell_id, *end):
        collect(controller, cell_id, *end)
        ended.append(cell_id)
        if len(ended) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Controller, "_collect", interrupt)
    assert sandbox.inline("seeds=1", "rerun=all") == 130
    capsys.readouterr()
    assert sandbox.inline("seeds=1", "rerun=all") == 0
    assert "goes on with the rerun=all that was not ended" in capsys.readouterr().out
    assert len(sandbox.starts()) == 4 + 4
    # It came to its end, so the next one is a new one.
    assert sandbox.inline("seeds=1", "rerun=all") == 0
    assert len(sandbox.starts()) == 4 + 4 + 4


def test_a_folder_that_cannot_be_written_does_not_make_a_former_result_a_new_one(sandbox, monkeypatch, capsys):
    sandbox.inline("seeds=1", "only=none:0")
    monkeypatch.setattr(InlineSession, "start", lambda session, job: session.ended.append((job, End(Outcome.STORAGE))))
    assert sandbox.inline("seeds=1", "only=none:0", "rerun=all") == 1
    assert "1 cells: 1 missing" in capsys.readouterr().out
