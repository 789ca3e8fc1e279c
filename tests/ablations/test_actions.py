"""The actions that look and tidy up."""

from __future__ import annotations

import json
import re
import shutil

from ablations.cells import CellFolder, State
from tests.ablations.conftest import outcome, wait_for


def test_status_says_what_failed_and_what_was_spent(sandbox, capsys):
    sandbox.behave(**{"none:0": "raise"})
    sandbox.inline("seeds=1")
    capsys.readouterr()
    assert sandbox.inline("seeds=2", "action=status") == 0
    output = capsys.readouterr().out
    assert re.search(r"none:0  1 x, \d+ s  exception: ValueError: told to <fail>", output)
    assert "geneval/strict 0." in output
    assert "7 cells: 3 done, 1 failed, 3 missing" in output
    assert re.search(r"spent so far: \d+ s in 4 attempts, \d+ s of it wasted", output)
    assert re.search(r"the rest may take \d+ s, as finished cells did", output)


def test_explain_names_the_difference_to_the_nearest_finished_cell(sandbox, capsys):
    sandbox.inline("seeds=1", "only=latent_kl:0")
    capsys.readouterr()
    assert sandbox.inline("seeds=1", "only=latent_kl:0", "action=explain") == 0
    assert "it is used as it is" in capsys.readouterr().out
    changed = ("seeds=1", "only=latent_kl:0", "sampler.steps=6", "action=explain")
    assert sandbox.inline(*changed) == 0
    output = capsys.readouterr().out
    assert "not there; " in output
    assert "is the finished cell most like it: sampler.steps: 8 -> 6\n" in output
    sandbox.inline("seeds=1", "only=none:0")
    capsys.readouterr()
    assert sandbox.inline("seeds=[1]", "only=latent_kl:1", "action=explain") == 0
    nearest = sandbox.cell("latent_kl", 0).name
    assert f"{nearest} is the finished cell most like it: seed: 0 -> 1" in capsys.readouterr().out


def test_gc_takes_what_no_sweep_needs_and_says_so_before(sandbox, capsys):
    sandbox.inline("seeds=2")
    (record,) = sandbox.root.glob("sweeps/*")
    sandbox.inline("seeds=1", "sampler.steps=6")
    shutil.rmtree(record)
    capsys.readouterr()
    assert sandbox.inline("seeds=1", "sampler.steps=6", "action=gc", "dry_run=true") == 0
    assert "7 to remove" in capsys.readouterr().out
    assert len(sandbox.results()) == 11
    assert sandbox.inline("seeds=1", "sampler.steps=6", "action=gc") == 0
    output = capsys.readouterr().out
    assert output.count(": a cell of no sweep") == 7
    assert "7 removed" in output
    assert len(sandbox.results()) == 4


def test_gc_keeps_the_cells_of_seeds_that_the_last_command_left_out(sandbox, capsys):
    sandbox.inline("seeds=3")
    sandbox.inline("seeds=[0,5]")
    sandbox.inline("seeds=1", "action=report")
    capsys.readouterr()
    assert sandbox.inline("seeds=1", "action=gc") == 0
    assert "0 removed" in capsys.readouterr().out
    assert len(sandbox.results()) == 1 + 3 * 4


def test_gc_keeps_what_a_sweep_had_before_it_kept_account(sandbox, capsys):
    sandbox.inline("seeds=2")
    (account,) = sandbox.root.glob("sweeps/*/cells.jsonl")
    account.unlink()
    sandbox.inline("seeds=1", "action=report")
    assert sandbox.inline("seeds=1", "action=gc") == 0
    assert len(sandbox.results()) == 7


def test_cancel_ends_a_command_elsewhere_as_ctrl_c_would(sandbox):
    sandbox.behave(all="held")
    command = ("seeds=1", "launcher.workers=2")
    controller = sandbox.controller(*command)
    wait_for(lambda: len(sandbox.starts()) >= 2)
    assert "are told to end" in sandbox.finish(*command, "action=cancel")
    outcome(controller, code=130)
    states = {CellFolder(path).state() for path in sandbox.root.glob("cells/*")}
    assert states <= {State.MISSING, State.DONE}


def test_cancelling_what_never_ran_says_so(sandbox, capsys):
    assert sandbox.inline("seeds=1", "action=cancel") == 0
    assert "there is no sweep" in capsys.readouterr().out


def test_the_doctor_finds_a_folder_that_cannot_be_used(sandbox, capsys):
    assert sandbox.inline("action=doctor") == 0
    assert "are created exclusively" in capsys.readouterr().out
    sandbox.root.rename(sandbox.root.with_name("elsewhere"))
    sandbox.root.write_text("a file")
    assert sandbox.inline("action=doctor") == 1
    output = capsys.readouterr().out
    assert "fix   folder      cannot write in" in output
    assert "-> choose another root=" in output


def test_the_claim_of_a_job_that_has_ended_binds_nobody(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    claim = cell.claim({"gpus": 0, "job": "7_1", "restart": 0})
    path = cell.path / "claims" / "1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
    assert CellFolder(cell.path, ended_job="7_2").claim({}) is None
    later = CellFolder(cell.path, ended_job="7_1").claim({"gpus": 0, "job": "8", "restart": 0})
    assert later.number == 2
    assert claim.lost
