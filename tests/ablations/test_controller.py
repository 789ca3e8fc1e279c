"""The loop of a sweep beside others that run cells of it: what they do is seen, counted and taken over."""

from __future__ import annotations

import json

import pytest

from ablations import controller as controllers
from ablations.cells import CellFolder, State
from ablations.controller import Controller
from ablations.costs import Budget
from ablations.display import LiveView
from ablations.grid import load_grid
from ablations.launchers import Inline
from ablations.plan import make_plan
from tests.ablations.conftest import RUNNER


class Places:
    """A session that starts jobs and never ends them."""

    def __init__(self, free: int):
        self.places = free
        self.started = []

    def free(self):
        return self.places - len(self.started)

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
        cells = make_plan(load_grid("kl_vs_mse"), ["optim.updates=1"], tuple(range(seeds))).cells()
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
    monkeypatch.setattr(CellFolder, "signature", lambda cell: "")  # gone between the look and the reading
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
