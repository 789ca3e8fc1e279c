"""What a Slurm job does with its cells, in this process; the environment says that it is one."""

from __future__ import annotations

import json
import signal

import pytest

from ablations.cells import CellFolder, State
from ablations.launchers import task
from ablations.launchers.end import End
from ablations.worker import Job, Outcome, run_cell
from unigrpo.config import RunConfig

RUNNER = "tests.ablations.fake_trainer:run"


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A cell, of which this process is job 7."""
    environment = {"SLURM_JOB_ID": "7", "SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_FOLDER": str(tmp_path)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(task, "run_logged", run_cell)  # the output is pytest's
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield Job(tmp_path / "cells" / "abc", RunConfig().to_dict(), runner=RUNNER)
    for number, handler in before.items():
        signal.signal(number, handler)


def ends(job: Job) -> dict[str, End]:
    left = json.loads((job.folder.parents[1] / "7_ends.json").read_text())
    return {cell_id: End.of_json(end) for cell_id, end in left.items()}


def attempt(job: Job, restart: int) -> None:
    """A worker of the job dies before it has a checkpoint."""
    cell = CellFolder(job.folder)
    claim = cell.claim({"gpus": 0, "job": "7", "restart": restart})
    path = job.folder / "claims" / f"{claim.number}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"process": "1"}))


def test_a_cell_of_several_processes_says_that_it_failed_before_it_ends_them(job, monkeypatch):
    how = {f"{RunConfig().regularizer.name}:{RunConfig().seed}": "raise"}
    (job.folder.parents[1] / "behaviour.json").write_text(json.dumps(how))
    for name, value in {"NTASKS": "2", "PROCID": "0", "LOCALID": "0", "NNODES": "2", "LAUNCH_NODE_IPADDR": ""}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")
    with pytest.raises(SystemExit) as ended:
        task.Task((job,), 0, 60.0)()
    assert ended.value.code == Outcome.FAILED
    assert ends(job) == {"abc": End(Outcome.FAILED)}


def test_a_job_that_is_started_again_leaves_its_failed_cells_alone(job, monkeypatch):
    claim = CellFolder(job.folder).claim({"gpus": 0, "job": "7", "restart": 0})
    claim.fail("exception", "it broke", "", 0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    task.Task((job,), 0, 60.0)()
    assert ends(job) == {"abc": End(Outcome.FAILED)}
    assert CellFolder(job.folder).attempts() == 1


def test_a_job_that_is_started_again_takes_away_what_it_has_said_before(job, monkeypatch):
    left = job.folder.parents[1] / "7_ends.json"
    left.write_text(json.dumps({"abc": End(Outcome.STOPPED).to_json()}))
    seen = []
    monkeypatch.setattr(task, "run_logged", lambda *_: seen.append(left.exists()) or Outcome.DONE)
    task.Task((job,), 0, 60.0)()
    assert seen == [False]
    assert ends(job) == {"abc": End(Outcome.DONE)}


@pytest.mark.parametrize("restarts", [2, 3])
def test_a_job_that_slurm_starts_again_and_again_without_gain_gives_its_cell_up(job, monkeypatch, restarts):
    for restart in range(restarts):
        attempt(job, restart)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    task.Task((job,), 0, 60.0)()
    cell = CellFolder(job.folder)
    if restarts == 2:
        assert cell.state() is State.DONE
        return
    assert ends(job) == {"abc": End(Outcome.FAILED)}
    assert cell.failure()["cause"] == "node_failure"
    assert "use a partition where it is left alone" in cell.failure()["message"]


@pytest.mark.parametrize(("state", "forced"), [("RUNNING", True), ("CANCELLED", False)])
def test_of_the_last_job_of_an_array_its_own_state_counts(job, shim, monkeypatch, state, forced):
    for name, value in {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    others = "JobId=8 ArrayJobId=7 ArrayTaskId=2 JobState=RUNNING"
    shim("scontrol", f"echo JobId=7 ArrayTaskId=3 JobState={state}; test $3 = 7_3 || echo {others}")
    notice = task.Notice()
    signal.raise_signal(signal.SIGTERM)
    assert notice.is_forced() == forced


def test_a_signal_without_slurms_commands_is_somebodys_wish(job, shim):
    notice = task.Notice()
    signal.raise_signal(signal.SIGTERM)
    assert notice.asked.is_set()
    assert not notice.is_forced()
