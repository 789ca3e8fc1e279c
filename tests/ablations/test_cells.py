"""The cell store as a state machine: holders that claim, beat, die, wake up late, finish and fail, in any order."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ablations import worker
from ablations.cells import STALE, CellFolder, State

HOLDERS = st.integers(0, 3)


class Store(RuleBasedStateMachine):
    """Four holders of one cell, some of them on machines whose processes cannot be looked at."""

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp())
        self.cell = CellFolder(self.folder / "abc")
        self.held = {}
        self.alive = set()
        self.completions = 0
        self.history = 0

    def teardown(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def edit(self, claim, **changes):
        path = self.cell.path / "claims" / f"{claim.number}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return path

    def is_current(self, holder):
        return self.held[holder].number == self.cell.attempts()

    @rule(holder=HOLDERS, remote=st.booleans())
    def claim(self, holder, remote):
        was_free = self.cell.state() in (State.MISSING, State.FAILED)
        claim = self.cell.claim()
        assert (claim is not None) == was_free
        if claim is not None:
            assert not self.alive
            self.held[holder] = claim
            self.alive = {holder}
            if remote:
                self.edit(claim, host="elsewhere")

    @precondition(lambda self: self.alive)
    @rule()
    def die_here(self):
        (holder,) = self.alive
        self.edit(self.held[holder], host=os.uname().nodename, process="1")
        self.alive = set()

    @precondition(lambda self: self.alive)
    @rule(beats=st.booleans())
    def fall_silent_elsewhere(self, beats):
        (holder,) = self.alive
        path = self.edit(self.held[holder], host="elsewhere")
        os.utime(path, (0, time.time() - STALE - 1))
        if beats:
            self.held[holder].beat()
        else:
            self.alive = set()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def finish(self, data):
        holder = data.draw(st.sampled_from(sorted(self.held)))
        claim = self.held[holder]
        done_before = self.cell.is_done()
        if claim.lost or done_before:
            if claim.lost:
                with pytest.raises(RuntimeError):
                    claim.finish()
            assert self.cell.is_done() == done_before
            return
        (self.cell.path / "result.json").write_text(json.dumps({"attempt": claim.number}))
        claim.finish()
        self.completions += 1
        self.alive = set()
        del self.held[holder]

    @precondition(lambda self: self.alive)
    @rule(outcome=st.sampled_from(["fail", "stop", "storage"]))
    def give_up(self, outcome):
        (holder,) = self.alive
        claim = self.held.pop(holder)
        if outcome == "fail":
            claim.fail("exception", "it broke", "Traceback", 3)
            assert self.cell.failure()["cause"] == "exception"
        else:
            claim.forget_failure()
            claim.release(outcome)
        self.alive = set()

    @invariant()
    def a_live_holder_is_seen_by_everyone(self):
        assert self.cell.claimed() == bool(self.alive)

    @invariant()
    def a_cell_completes_once_and_stays_complete(self):
        assert self.completions <= 1
        assert self.cell.is_done() == (self.completions == 1)

    @invariant()
    def nothing_of_the_history_is_lost(self):
        attempts = self.cell.attempts()
        assert attempts >= self.history
        self.history = attempts
        assert len(list(self.cell.path.glob("claims/*.json"))) == attempts


Store.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestStore = Store.TestCase


def finished(path: Path) -> CellFolder:
    cell = CellFolder(path)
    claim = cell.claim()
    (path / "result.json").write_text("{}")
    claim.finish()
    return cell


def test_who_looked_before_another_one_claimed_gets_nothing(tmp_path, monkeypatch):
    """Two look at a free cell; one claims it before the other does, which must not take the attempt after that."""
    mkdir, claims = Path.mkdir, []

    def slowly(path, **given):
        monkeypatch.undo()
        mkdir(path, **given)
        claims.append(CellFolder(tmp_path / "abc").claim({}))

    monkeypatch.setattr(Path, "mkdir", slowly)
    assert CellFolder(tmp_path / "abc").claim({}) is None
    assert [claim.number for claim in claims] == [1]
    assert not claims[0].lost


def test_done_vouches_for_the_result_it_was_written_for(tmp_path):
    cell = finished(tmp_path / "abc")
    assert cell.state() is State.DONE
    (cell.path / "result.json").write_text('{"changed": 1}')
    assert cell.state() is State.MISSING
    (cell.path / "result.json").unlink()
    assert cell.state() is State.MISSING


def test_a_claim_cut_short_by_a_full_disk_binds_nobody_for_long(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    (cell.path / "claims").mkdir(parents=True)
    path = cell.path / "claims" / "1.json"
    path.touch()
    assert cell.claim() is None
    os.utime(path, (0, time.time() - STALE - 1))
    assert cell.claim().number == 2


def test_a_process_that_took_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    cell.claim()
    path = cell.path / "claims" / "1.json"
    assert cell.claimed()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"process": "12"}))
    assert not cell.claimed()


def test_an_end_that_is_taken_away_while_it_is_read_is_none(tmp_path, monkeypatch):
    cell = CellFolder(tmp_path / "abc")
    cell.claim().fail("exception", "it broke", "Traceback", 3)
    assert cell.signature() != ""
    assert cell.ended() > 0
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: path.unlink(missing_ok=True) or read(path))
    assert cell.signature() == ""
    assert cell.ended() == 0


def test_a_sign_of_life_that_fails_is_not_the_last(monkeypatch):
    ended, beats = threading.Event(), []

    class Flaky:
        def beat(self):
            beats.append(time.monotonic())
            if len(beats) == 3:
                ended.set()
            raise OSError(errno.ESTALE, "the server is away")

    monkeypatch.setattr(worker, "BEAT", 0.001)
    worker._beat(Flaky(), ended)
    assert len(beats) == 3


def test_a_fresh_start_keeps_the_history_only(tmp_path):
    cell = finished(tmp_path / "abc")
    (cell.path / "checkpoint").mkdir()
    (cell.path / "DONE").unlink()
    cell.claim().reset()
    assert sorted(path.name for path in cell.path.iterdir()) == ["claims", "events.jsonl"]
