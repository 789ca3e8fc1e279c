"""What is made of Slurm's answers, with programs in its place that answer what a test wants."""

from __future__ import annotations

import os

import pytest

from ablations.launchers import queue
from ablations.launchers.queue import GONE, Queue, SlurmDown, Status, array_limit
from unigrpo.errors import ConfigError


def row(job: str, state: str, code: str = "0", reason: str = "None", nodes: str = "") -> str:
    return f"{job:<40}{state:<20}{code:<12}{reason:<60}{nodes:<80}"


def answer(*rows: str) -> str:
    return "cat <<END\n" + "\n".join(rows) + "\nEND"


def test_the_controller_tells_what_it_remembers_and_accounting_the_rest(shim):
    rows = [row("7_0", "PENDING", reason="Resources"), row("7_1", "RUNNING", nodes="n1"), row("8", "FAILED", "35072")]
    shim("squeue", answer(*rows))
    shim(
        "sacct", answer("7_2|CANCELLED by 1000|0:15|None|n2", "7_3|OUT_OF_MEMORY|0:125|None|n2", "7_9|COMPLETED|0:0||")
    )
    seen = Queue()
    seen.look(["7_0", "7_1", "7_2", "7_3", "8", "9"])
    assert {job: status.state for job, status in seen.seen.items()} == {
        "7_0": "PENDING", "7_1": "RUNNING", "7_2": "CANCELLED", "7_3": "OUT_OF_MEMORY", "8": "FAILED", "9": GONE,
    }  # fmt: skip
    assert str(seen.seen["7_0"]) == "PENDING (Resources)"
    assert str(seen.seen["7_1"]) == "RUNNING on n1"
    assert (seen.seen["8"].code, seen.seen["8"].signal) == (137, 0)
    assert shim.calls() == ["squeue", "sacct"]


def test_without_accounting_a_forgotten_job_is_gone(shim):
    shim("squeue", answer(row("7", "RUNNING")))
    shim("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    seen = Queue()
    seen.look(["6", "7"])
    assert seen.seen == {"7": Status("RUNNING", "None"), "6": Status(GONE)}
    assert not seen.alive("6", submitted=0.0)
    assert seen.alive("7", submitted=0.0)
    assert seen.alive("99", submitted=seen.looked + 1)


@pytest.mark.parametrize("accounting", ["", answer("6|RUNNING|0:0|None|n1")])
def test_only_the_end_of_a_job_is_taken_from_accounting(shim, accounting):
    shim("squeue", "true")
    if accounting:
        shim("sacct", accounting)
    seen = Queue()
    seen.look(["6"])
    assert seen.seen == {"6": Status(GONE)}


def test_jobs_are_those_of_the_process_whatever_the_environment_says(shim, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "somebody")
    shim("squeue", f'echo "$@" >{tmp_path}/asked')
    Queue().look([])
    assert f"--user={os.geteuid()} " in (tmp_path / "asked").read_text()


def test_while_slurm_is_down_nothing_is_concluded(shim):
    shim("squeue", answer(row("7", "RUNNING")))
    seen = Queue()
    seen.look(["7"])
    shim("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmDown, match="squeue: Unable to contact slurm controller"):
        seen.look(["7"])
    assert seen.alive("7", submitted=0.0)


def test_no_slurm_at_all_is_a_mistake_of_the_command(shim):
    with pytest.raises(ConfigError, match="no squeue here; use a machine of the cluster"):
        Queue().look([])
    assert array_limit() == 1000


def test_slurm_is_asked_only_so_often(shim, monkeypatch):
    shim("squeue", "true")
    now = [100.0]
    monkeypatch.setattr(queue.time, "monotonic", lambda: now[0])
    seen = Queue()
    assert seen.due()
    seen.look([])
    now[0] += queue.QUEUE_EVERY - 0.1
    assert not seen.due()
    now[0] += 0.1
    assert seen.due()
    assert queue.QUEUE_EVERY >= 15


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (Status("FAILED", code=1), "killed"),
        (Status("FAILED", code=137), "killed"),
        (Status("FAILED", signal=12), "preempted"),
        (Status("FAILED", code=143), "preempted"),
        (Status("NODE_FAIL"), "node_failure"),
        (Status("TIMEOUT"), "timeout"),
        (Status("CANCELLED", signal=15), "cancelled"),
        (Status("OUT_OF_MEMORY"), "oom"),
        (Status(GONE), "killed"),
    ],
)
def test_the_state_of_a_dead_job_tells_the_cause(status, cause):
    assert status.ended
    assert status.cause == cause


def test_the_size_of_arrays_is_that_of_the_cluster(shim):
    shim("scontrol", "echo 'MaxArraySize            = 5001'")
    assert array_limit() == 5001
    assert os.environ["PATH"].endswith("bin")
