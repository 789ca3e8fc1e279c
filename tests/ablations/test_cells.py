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

from ablations import cells, worker
from ablations.cells import STALE, CellFolder, State
from unigrpo.io import write_text

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
                self.edit(claim, machine="elsewhere")

    @precondition(lambda self: self.alive)
    @rule()
    def die_here(self):
        (holder,) = self.alive
        self.edit(self.held[holder], machine=cells._machine(), process="1")
        self.alive = set()

    @precondition(lambda self: self.alive)
    @rule(beats=st.booleans())
    def fall_silent_elsewhere(self, beats):
        (holder,) = self.alive
        path = self.edit(self.held[holder], machine="elsewhere")
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
            claim.forget()
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


def test_a_process_is_looked_up_only_where_it_has_its_number(tmp_path):
    """Machines may share a name; only the boot and the container tell whose process number it is."""
    cell = CellFolder(tmp_path / "abc")
    cell.claim()
    path = cell.path / "claims" / "1.json"
    dead = json.loads(path.read_text()) | {"process": "1"}
    path.write_text(json.dumps(dead | {"machine": "another boot or container"}))
    assert cell.claimed()
    path.write_text(json.dumps(dead | {"host": "another name"}))
    assert not cell.claimed()


def test_a_claim_of_which_nobody_can_say_where_it_was_made_lasts_until_it_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "_machine", lambda: "")  # no /proc
    monkeypatch.setattr(cells, "_process", lambda number: "")
    cell = CellFolder(tmp_path / "abc")
    cell.claim()
    assert cell.claimed()
    os.utime(cell.path / "claims" / "1.json", (0, time.time() - STALE - 1))
    assert not cell.claimed()


def test_a_claim_that_cannot_be_opened_is_left_to_whoever_has_it(tmp_path, monkeypatch):
    opened = Path.open

    def fail(path, mode="r", **given):
        opened(path, mode, **given).close()
        raise OSError(errno.EIO, "the answer of the server was lost")

    cell = CellFolder(tmp_path / "abc")
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="was lost"):
        cell.claim()
    assert cell.attempts() == 1


def test_a_checkpoint_that_is_taken_away_while_it_is_looked_at_is_none(tmp_path, monkeypatch):
    cell = CellFolder(tmp_path / "abc")
    for name in ("1", "2"):
        (cell.path / "checkpoint" / name).mkdir(parents=True)
        (cell.path / "checkpoint" / name / "state.json").touch()
    latest = cell.checkpoint()
    stat = Path.stat

    def look(path, **given):
        if path.parent.name == "1":
            shutil.rmtree(path.parent, ignore_errors=True)
        return stat(path, **given)

    monkeypatch.setattr(Path, "exists", lambda path: os.path.exists(path))
    monkeypatch.setattr(Path, "stat", look)
    assert cell.checkpoint() == latest
    assert not (cell.path / "checkpoint" / "1").exists()


def test_writers_with_one_process_number_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    def sync(descriptor):
        monkeypatch.undo()
        write_text(tmp_path / "cancel", "the other one's")

    monkeypatch.setattr(os, "fsync", sync)
    write_text(tmp_path / "cancel", "mine")
    assert (tmp_path / "cancel").read_text() == "mine"
    assert os.listdir(tmp_path) == ["cancel"]


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
    assert cell.claim(since=cell.ended() - 1) is None
    cell.claim(since=cell.ended()).forget(cell.ended())
    assert sorted(path.name for path in cell.path.iterdir()) == ["claims", "events.jsonl"]


def test_a_fresh_start_that_was_cut_short_is_made_again(tmp_path, monkeypatch):
    cell = finished(tmp_path / "abc")
    since, unlink = cell.ended(), Path.unlink

    def cut_short(path, **given):
        unlink(path, **given)
        raise KeyboardInterrupt

    claim = cell.claim(since=since)
    monkeypatch.setattr(Path, "unlink", cut_short)
    with pytest.raises(KeyboardInterrupt):
        claim.forget(since)
    monkeypatch.undo()
    (cell.path / "checkpoint").mkdir()  # as if that had been left
    claim.forget(since)
    assert sorted(path.name for path in cell.path.iterdir()) == ["claims", "events.jsonl"]
    assert cell.ended() == 0


def test_a_new_failure_counts_whatever_the_end_was_that_its_attempt_found(tmp_path):
    cell = finished(tmp_path / "abc")
    (cell.path / "result.json").unlink()
    since = cell.ended()
    os.utime(cell.path / "DONE", (0, since - 1))
    claim = cell.claim()
    claim.forget()
    claim.fail("exception", "it broke", "Traceback", 3)
    assert cell.ended() > since - 1
    assert cell.signature() == cells._digest(cell.path / "failure.json")


def attempts(cell: CellFolder, course: str) -> None:
    """Workers of a cell one after the other: d dies, c writes a checkpoint and dies, s is stopped, o is an orphan."""
    for i, end in enumerate(course):
        claim = cell.claim({"gpus": 0})
        path = cell.path / "claims" / f"{claim.number}.json"
        if end == "c":
            (cell.path / "checkpoint").mkdir(exist_ok=True)
            state = cell.path / "checkpoint" / "state.json"
            state.write_text("{}")
            os.utime(state, ns=(0, i + 1))
        if end == "s":
            claim.release("stopped")
            continue
        path.write_text(json.dumps(json.loads(path.read_text()) | {"process": "1"}))  # it is dead
        if end != "o":
            assert cell.died("killed", after=claim.number - 1)


@pytest.mark.parametrize(
    ("course", "deaths"),
    [
        ("", 0),
        ("d", 1),
        ("dd", 2),
        ("ddd", 3),
        ("ddc", 0),
        ("cd", 1),
        ("ddo", 0),
        ("ddod", 1),
        ("ddsd", 1),
        ("cdds", 0),
    ],
)
def test_deaths_count_that_were_seen_in_a_row_and_gained_nothing(tmp_path, course, deaths):
    cell = CellFolder(tmp_path / "abc")
    attempts(cell, course)
    assert CellFolder(cell.path).deaths() == deaths  # whichever process asks
    assert cell.may_go_on("killed") == cell.may_go_on("preempted") == (deaths < 3)
    assert cell.may_go_on("timeout") == (deaths < 1)


def test_a_failure_ends_the_row(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    attempts(cell, "ddd")
    cell.claim().fail("killed", "", "", 0)
    attempts(cell, "d")
    assert cell.deaths() == 1


def test_a_worker_that_only_seems_dead_keeps_its_cell(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    cell.claim({"gpus": 0})
    assert cell.died("killed")  # says a server of workers that is itself dead; the worker is this process
    assert cell.claimed()
    assert cell.deaths() == 0


def test_of_a_death_before_the_claim_no_claim_tells(tmp_path):
    cell = CellFolder(tmp_path / "abc")
    attempts(cell, "o")
    assert not cell.died("killed", after=1)
    assert not cell.died("killed", job="7")
    assert cell.deaths() == 0
