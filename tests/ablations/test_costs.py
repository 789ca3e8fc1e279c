"""Costs, estimates and budgets."""

from __future__ import annotations

import json
import math
import os

import pytest

from ablations.cells import CellFolder, State
from ablations.costs import Budget, Cost, Estimates, Ledger, cost_of
from ablations.grid import load_grid
from ablations.plan import make_plan
from unigrpo.errors import ConfigError


def attempt(cell, number, since, until=None, checkpoint=0.0, gpus=2.0, sign=None, **holder):
    """An attempt in the history of a cell."""
    path = cell.path / "claims" / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"since": since, "checkpoint": int(checkpoint * 1e9), "worker": {"gpus": gpus}} | holder
    path.write_text(json.dumps(record | ({} if until is None else {"until": until})))
    os.utime(path, (0, sign or until))


def test_attempts_add_up_and_what_was_not_saved_is_wasted(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    attempt(cell, 1, since=100.0, sign=160.0)  # died with its last checkpoint at 145
    attempt(cell, 2, since=200.0, until=230.0, checkpoint=145.0, released="stopped")  # saved at the end
    attempt(cell, 3, since=300.0, until=310.0, checkpoint=230.0, released="failed")  # saved nothing
    attempt(cell, 4, since=400.0, until=400.0, checkpoint=230.0, worker=None, released="failed")  # a controller's
    attempt(cell, 5, since=500.0, until=540.0, checkpoint=230.0, released="done")
    assert cost_of(cell) == Cost(attempts=4, seconds=140.0, gpu_seconds=280.0, wasted_s=15.0 + 0.0 + 10.0)
    assert cost_of(CellFolder(tmp_path / "none")) == Cost()


def test_a_claim_that_was_cut_short_costs_nothing_and_hides_nothing(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    attempt(cell, 1, since=100.0, until=160.0, released="stopped")
    attempt(cell, 2, since=200.0, until=200.0)
    (cell.path / "claims" / "2.json").write_text("")
    attempt(cell, 3, since=300.0, until=310.0, checkpoint=145.0, released="done")
    assert cost_of(cell) == Cost(attempts=2, seconds=70.0, gpu_seconds=140.0, wasted_s=15.0)


def test_in_a_copy_of_a_folder_attempts_end_when_they_said_so(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    attempt(cell, 1, since=100.0, until=110.0, sign=90000.0, released="done")
    assert cost_of(cell) == Cost(attempts=1, seconds=10.0, gpu_seconds=20.0)


def cells():
    return make_plan(load_grid("kl_vs_mse"), ["model.checkpoint=tiny-shapes"], (0, 1, 2)).cells()


def test_estimates_prefer_the_same_arm_and_never_mix_in_the_untouched_model():
    untouched, none, latent, *_ = cells()
    estimates = Estimates(cells())
    assert estimates.of(none) is None
    estimates.learn(untouched, Cost(1, 1.0, 1.0))
    assert estimates.of(none) is None
    estimates.learn(none, Cost(3, 10.0, 20.0, 5.0))
    assert estimates.of(latent) == estimates.of(none) == Cost(1, 10.0, 20.0)
    estimates.learn(latent, Cost(1, 30.0, 60.0))
    assert estimates.of(latent) == Cost(1, 30.0, 60.0)


def test_a_ledger_starts_one_of_a_kind_and_then_what_it_can_pay(tmp_path):
    plan = cells()
    untouched, none, latent, _, none_1, latent_1, *_ = plan
    ledger = Ledger(Budget(gpu_hours=0.2), plan)
    for cell in plan:
        ledger.note(cell.id, CellFolder(tmp_path / cell.id), State.MISSING)
    for cell in (untouched, none, latent):
        assert ledger.affords(cell.id)
        ledger.note(cell.id, CellFolder(tmp_path / cell.id), State.RUNNING)
    assert not ledger.affords(none_1.id)
    folder = CellFolder(tmp_path / none.id)
    attempt(folder, 1, since=0.0, until=100.0, released="done")
    ledger.note(none.id, folder, State.DONE)
    # Of 720 GPU-seconds 200 are spent, 200 are ahead, and 200 more would be.
    assert ledger.affords(latent_1.id)
    ledger.note(latent_1.id, CellFolder(tmp_path / latent_1.id), State.RUNNING)
    assert not ledger.affords(none_1.id)
    assert ledger.affords(latent_1.id)  # it is counted, whoever goes on with it
    # What a running cell has spent, here 140, is part of the 200 that it is thought to cost.
    folder = CellFolder(tmp_path / latent_1.id)
    attempt(folder, 1, since=0.0, until=70.0, released="stopped")
    ledger.note(latent_1.id, folder, State.RUNNING)
    assert not ledger.affords(none_1.id)
    ledger.note(latent.id, CellFolder(tmp_path / latent.id), State.FAILED)
    assert ledger.affords(none_1.id)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"gpu_hours": "1.5"}, Budget(gpu_hours=1.5)),
        ({"cells": "12"}, Budget(cells=12)),
        ({"wall": "90"}, Budget(wall_s=90)),
        ({"wall": "45min"}, Budget(wall_s=2700)),
        ({"wall": "1.5h"}, Budget(wall_s=5400)),
    ],
)
def test_budgets_are_read(values, expected):
    assert Budget.read(values) == expected
    assert math.isinf(Budget.read({}).gpu_hours)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"wall": "soon"}, "budget.wall: expected a number above 0, as 90s, 45min or 2h, got 'soon'"),
        ({"wall": "2y"}, "budget.wall: expected a number above 0"),
        ({"cells": "2h"}, "budget.cells: expected a number above 0, got '2h'"),
        ({"gpu_hours": "0"}, "budget.gpu_hours: expected a number above 0"),
    ],
)
def test_budgets_that_are_none_are_refused(values, expected):
    with pytest.raises(ConfigError) as refusal:
        Budget.read(values)
    assert expected in str(refusal.value)


def test_a_budget_of_cells_ends_a_sweep_in_balance(sandbox, capsys):
    assert sandbox.inline("seeds=2", "budget.cells=4") == 3
    assert "the budget is used up" in capsys.readouterr().out
    done = [json.loads((path.parent / "config.json").read_text()) for path in sandbox.root.glob("cells/*/DONE")]
    assert sorted(config["regularizer"]["name"] for config in done if config["optim"]["updates"]) == [
        "latent_kl", "none", "velocity_mse",
    ]  # fmt: skip
    assert sandbox.inline("seeds=2", "budget.cells=4") == 3
    assert len(sandbox.starts()) == 4
    assert sandbox.inline("seeds=2") == 0


def test_a_budget_of_gpu_hours_counts_what_was_spent(sandbox, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert sandbox.inline("seeds=3", "budget.gpu_hours=1e-9") == 2  # not how a number is written here
    assert sandbox.inline("seeds=3", "budget.gpu_hours=.000000001") == 3
    assert len(sandbox.starts()) == 2  # the untouched model and the first arm told what a cell costs
    assert sandbox.inline("seeds=3", "budget.gpu_hours=100") == 0


def test_a_budget_of_time_ends_with_checkpoints(sandbox):
    sandbox.behave(all="held")
    output = sandbox.finish("seeds=1", "launcher.workers=2", "budget.wall=5s", code=3)
    assert "the budget is used up" in output
    states = {CellFolder(path).state() for path in sandbox.root.glob("cells/*")}
    assert states <= {State.MISSING, State.DONE}
    assert list(sandbox.root.glob("cells/*/checkpoint/state.json"))
