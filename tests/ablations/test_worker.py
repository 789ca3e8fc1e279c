"""One cell in this process: what it makes of a folder that others have, and of faults of it."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import time
from dataclasses import replace

import pytest
import torch

from ablations.cells import STALE, CellFolder
from ablations.worker import Job, Outcome, run_cell
from tests.ablations import fake_trainer
from tests.ablations.conftest import RUNNER
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError, NonFiniteLoss, Stopped


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "cells" / "abc", RunConfig().to_dict(), runner=RUNNER)


def never():
    return False


def test_of_two_that_start_a_cell_afresh_the_second_leaves_the_result_alone(job):
    assert run_cell(job, never) is Outcome.DONE
    cell = CellFolder(job.folder)
    job = replace(job, fresh=cell.ended())
    assert run_cell(job, never) is Outcome.DONE
    assert run_cell(job, never) is Outcome.BUSY
    starts = (job.folder.parents[1] / "starts.txt").read_text().splitlines()
    assert starts == ["abc 0", "abc 0"]


def test_an_end_that_another_one_takes_away_first_is_no_fault_of_the_storage(job, monkeypatch):
    assert run_cell(job, never) is Outcome.DONE
    is_done = CellFolder.is_done

    def look(cell, *since):
        done = is_done(cell, *since)
        (cell.path / "DONE").unlink(missing_ok=True)
        return done

    monkeypatch.setattr(CellFolder, "is_done", look)
    assert run_cell(replace(job, fresh=time.time()), never) is not Outcome.STORAGE


def test_whoever_has_lost_a_cell_writes_no_checkpoint_into_it(job, monkeypatch):
    def overtaken(config, folder, *, progress, stop):
        first = folder / "claims" / "1.json"
        first.write_text(json.dumps(json.loads(first.read_text()) | {"machine": "elsewhere", "host": "elsewhere"}))
        os.utime(first, (0, time.time() - STALE - 1))
        assert CellFolder(folder).claim({"gpus": 0}) is not None
        progress({"update": 1})
        (folder / "checkpoint").mkdir()  # as trainers do every few updates, and when they are stopped

    monkeypatch.setattr(fake_trainer, "run", overtaken)
    assert run_cell(job, never) is Outcome.BUSY
    assert not (job.folder / "checkpoint").exists()
    assert CellFolder(job.folder).claimed()


class Diverged(NonFiniteLoss):
    """As a user's strategy may raise."""


@pytest.mark.parametrize(
    ("error", "outcome", "cause"),
    [
        (Stopped("as asked"), Outcome.STOPPED, None),
        (type("Stopped", (Exception,), {})("a timer of the user's"), Outcome.FAILED, "exception"),
        (Diverged("the loss is nan"), Outcome.FAILED, "non_finite"),
        (type("NonFiniteLoss", (Exception,), {})("a name is no class"), Outcome.FAILED, "exception"),
        (torch.OutOfMemoryError("CUDA out of memory"), Outcome.FAILED, "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Outcome.FAILED, "oom"),
        (ConfigError("cannot run"), Outcome.FAILED, "config"),
    ],
)
def test_how_a_cell_ended_is_told_by_the_class_of_the_error(job, monkeypatch, error, outcome, cause):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(fake_trainer, "run", fail)
    assert run_cell(job, never) is outcome
    assert (CellFolder(job.folder).failure() or {}).get("cause") == cause


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/data/private/weights"), Outcome.FAILED),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/block"), Outcome.FAILED),
        (OSError(errno.EIO, "Input/output error"), Outcome.FAILED),
        (OSError(errno.ENOSPC, "No space left on device"), Outcome.STORAGE),
        (OSError(errno.EROFS, "Read-only file system", "metrics.jsonl"), Outcome.STORAGE),
    ],
)
def test_a_fault_is_of_the_storage_only_if_the_folder_is_to_blame(job, monkeypatch, fault, outcome):
    def fail(config, folder, **_):
        if fault.filename and not fault.filename.startswith("/"):
            fault.filename = str(folder / fault.filename)
        raise fault

    monkeypatch.setattr(fake_trainer, "run", fail)
    assert run_cell(job, never) is outcome
    assert (CellFolder(job.folder).failure() is None) == (outcome is Outcome.STORAGE)


def test_a_write_that_failed_somewhere_is_blamed_on_a_folder_that_takes_nothing(job, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fake_trainer, "run", fail)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", fail)
    assert run_cell(job, never) is Outcome.STORAGE
