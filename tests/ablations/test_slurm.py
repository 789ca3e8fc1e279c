"""Sweeps on a real Slurm cluster, which a fixture starts on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from ablations.cells import CellFolder, State
from tests.ablations.conftest import REPOSITORY, outcome, wait_for

SLURM = "launcher=slurm"
#: More than are made before the test lets the cells run at full speed.
MANY = 2000


@pytest.fixture(params=["accounting", "no accounting"])
def accounted(request, cluster, monkeypatch):
    """With a sacct that answers, and with Debian's, which says that accounting is disabled."""
    if request.param == "accounting":
        monkeypatch.setenv("PATH", f"{cluster.account()}:{os.environ['PATH']}")


def job_of(cell: Path) -> str:
    """The Slurm job of the cell's latest attempt."""
    return CellFolder(cell).holders()[-1]["worker"]["job"]


def first_updates(sandbox, cell: Path) -> list[int]:
    """At which update each attempt of a cell began."""
    return [int(line.split()[1]) for line in sandbox.starts() if line.startswith(cell.name)]


def submissions(sandbox) -> int:
    return len(list(sandbox.root.glob("slurm/*/jobs.json")))


def test_a_grid_runs_through_and_ends_in_the_bytes_of_a_local_one(slurm, sandbox):
    assert "7 cells: 7 done" in slurm.finish(SLURM, "seeds=2")
    local = sandbox.beside("local")
    local.inline("seeds=2")
    assert slurm.results() == local.results()
    assert set(Counter(slurm.starts()).values()) == {1}
    places = [json.loads(path.read_text()) for path in slurm.root.glob("cells/*/env.json")]
    assert {place["CUDA_VISIBLE_DEVICES"] for place in places} <= set("0123")
    assert {place["slurm_job"].partition("_")[2] for place in places} == set("0123456")
    # Nothing is left to do, and nothing is submitted for it.
    assert "7 cells: 7 done" in slurm.finish(SLURM, "seeds=2")
    assert submissions(slurm) == 1


@pytest.mark.usefixtures("accounted")
def test_whatever_befalls_a_cell_befalls_it_alone(slurm, cluster):
    slurm.behave(
        sleep=0.4,
        **{
            "none:0": "raise",
            "latent_kl:0": "die_once",
            "velocity_mse:0": "die",
            "none:1": "memory",
            "latent_kl:1": "stuck",
            "velocity_mse:1": "held",
        },
    )
    # With so short a promise, every notice means that the time is up.
    limits = ("launcher.signal_s=60", 'launcher.special={"latent_kl:1": {minutes: 2}}')
    controller = slurm.controller(SLURM, *limits, "seeds=2", "optim.updates=8")
    wait_for(lambda: len({line.split()[0] for line in slurm.starts()}) == 7)
    stuck, cancelled = slurm.cell("latent_kl", 1), slurm.cell("velocity_mse", 1)
    wait_for(lambda: CellFolder(cancelled).last_row())
    cluster.run("scancel", job_of(cancelled))
    with contextlib.suppress(subprocess.CalledProcessError):  # Slurm's own notice may have come before
        cluster.run("scancel", "--signal=USR2", job_of(stuck))
    output, _ = outcome(controller, code=1)
    assert "7 cells: 2 done, 5 failed" in output
    failed = [("none", 0), ("velocity_mse", 0), ("none", 1), ("latent_kl", 1), ("velocity_mse", 1)]
    failures = {name: CellFolder(slurm.cell(*name)).failure() for name in failed}
    causes = {name: failure["cause"] for name, failure in failures.items()}
    assert list(causes.values()) == ["exception", "killed", "oom", "timeout", "cancelled"]
    assert "fake_trainer" in failures["none", 0]["traceback"]
    assert "ended as FAILED" in failures["velocity_mse", 0]["message"]
    assert "its time limit came before a step was gained; raise launcher.minutes" in failures["latent_kl", 1]["message"]
    assert "ended as CANCELLED" in failures["velocity_mse", 1]["message"]
    assert first_updates(slurm, slurm.cell("latent_kl", 0)) == [0, 2]
    slurm.behave()
    assert "7 cells: 7 done" in slurm.finish(SLURM, "seeds=2", "optim.updates=8", "rerun=failed")
    assert first_updates(slurm, cancelled)[1] > 0


@pytest.mark.usefixtures("accounted")
def test_the_clusters_doings_cost_a_cell_at_most_a_step(slurm, cluster):
    slurm.behave(sleep=0.5)
    controller = slurm.controller(SLURM, "launcher.partition=low", "seeds=1", f"optim.updates={MANY}")
    wait_for(lambda: len(slurm.starts()) >= 4)
    cells = [slurm.cell(arm, 0) for arm in ("none", "latent_kl", "velocity_mse")]
    wait_for(lambda: all(CellFolder(cell).last_row() for cell in cells))
    # A more important job wants their nodes, mostly a single one, for itself.
    nodes = {cluster.node_of(job_of(cell)) for cell in cells}
    wanted = (f"--nodes={len(nodes)}", f"--nodelist={','.join(nodes)}", "--exclusive")
    cluster.run("sbatch", "--partition=high", *wanted, "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: all(len(first_updates(slurm, cell)) >= 2 for cell in cells))
    gained = {cell: len((cell / "metrics.jsonl").read_text().splitlines()) for cell in cells}
    wait_for(lambda: all(CellFolder(cell).last_row()["step"] > gained[cell] for cell in cells))
    cluster.restart_control(seconds=2.0)
    before = len(first_updates(slurm, cells[0]))
    node = cluster.node_of(job_of(cells[0]))
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    wait_for(lambda: len(first_updates(slurm, cells[0])) > before)
    slurm.behave()
    assert "4 cells: 4 done" in outcome(controller)[0]
    for cell in cells:
        starts = first_updates(slurm, cell)
        assert 0 == starts[0] < starts[1] <= starts[-1]
        updates = Counter(json.loads(row)["step"] for row in (cell / "metrics.jsonl").read_text().splitlines())
        assert sum(updates.values()) - MANY <= len(starts) - 1


def test_a_cell_longer_than_its_time_limit_goes_on_in_the_next(slurm):
    slurm.behave(sleep=0.5)
    # Slurm looks at time limits every 30 seconds, and sends its notice up to as much too early: here 20 to 50 seconds
    # after the start.  Before Python and submitit have begun, it would kill them.
    limits = ("launcher.minutes=2", "launcher.signal_s=70", f"optim.updates={MANY}", "only=none:0")
    controller = slurm.controller(SLURM, "seeds=1", *limits)
    wait_for(lambda: len(slurm.starts()) >= 2)
    slurm.behave()
    assert "1 done" in outcome(controller)[0]
    starts = first_updates(slurm, slurm.cell("none", 0))
    assert starts == sorted(set(starts))
    assert submissions(slurm) == 1


def test_ctrl_c_detaches_and_the_same_command_finds_its_jobs_again(slurm):
    slurm.behave(all="held")
    command = (SLURM, "seeds=1")
    controller = slurm.controller(*command)
    wait_for(lambda: len(slurm.starts()) >= 2)
    controller.send_signal(signal.SIGINT)
    output, errors = outcome(controller, code=130)
    assert "detaching: what was submitted stays with Slurm" in errors
    assert "cells stay with Slurm: squeue --jobs=" in output
    assert "action=status" in output
    assert "action=cancel" in output
    status = slurm.finish(*command, "action=status")
    assert "Slurm job" in status
    assert re.search(r"RUNNING on n\d", status)
    killed = slurm.controller(*command)
    wait_for(lambda: len(slurm.starts()) == 4)
    killed.kill()
    killed.communicate()
    slurm.behave()
    assert "4 cells: 4 done" in slurm.finish(*command)
    assert set(Counter(slurm.starts()).values()) == {1}
    assert submissions(slurm) == 1


def test_two_controllers_submit_every_cell_once(slurm):
    slurm.behave(sleep=0.1)
    controllers = [slurm.controller(SLURM, "seeds=2") for _ in range(2)]
    for controller in controllers:
        assert "7 cells: 7 done" in outcome(controller)[0]
    assert set(Counter(slurm.starts()).values()) == {1}
    assert submissions(slurm) == 1


def test_cancel_ends_jobs_and_commands_and_fails_no_cell(slurm, cluster):
    slurm.behave(all="held")
    command = (SLURM, "seeds=1")
    controller = slurm.controller(*command)
    wait_for(lambda: len(slurm.starts()) == 4)
    assert re.search("[34] Slurm jobs cancelled", slurm.finish(*command, "action=cancel"))
    outcome(controller, code=130)
    wait_for(lambda: not cluster.jobs("PENDING", "RUNNING", "COMPLETING"))
    states = Counter(CellFolder(path).state() for path in slurm.root.glob("cells/*"))
    assert set(states) <= {State.MISSING, State.DONE}
    slurm.behave()
    assert "4 cells: 4 done" in slurm.finish(*command)
    assert any(int(line.split()[1]) > 0 for line in slurm.starts())


@pytest.fixture
def on_its_own_host(tmp_path):
    """Makes the nodes of the cluster, which are all on this machine, machines of their own by name."""
    script = tmp_path / "on_its_own_host"
    script.write_text('#!/bin/sh\nexec unshare --uts sh -c \'hostname $SLURMD_NODENAME && exec "$@"\' sh "$@"\n')
    script.chmod(0o755)
    return f"launcher.container={script}"


def test_packed_cells_share_a_job_and_its_fate_only_where_they_must(slurm, on_its_own_host):
    slurm.behave(sleep=0.2, **{"none:0": "raise", "latent_kl:0": "die_once", "velocity_mse:0": "die"})
    options = ("launcher.pack=4", "launcher.max_parallel=1", "seeds=2", on_its_own_host)
    output = slurm.finish(SLURM, *options, code=1)
    assert "7 cells: 5 done, 2 failed" in output
    batches = [json.loads(path.read_text())["jobs"] for path in sorted(slurm.root.glob("slurm/*/jobs.json"))]
    assert [len(cells) for _, cells in batches[0]] == [4, 3]
    assert CellFolder(slurm.cell("velocity_mse", 0)).failure()["cause"] == "killed"
    first = [CellFolder(path).holders()[0] for path in slurm.root.glob("cells/*")]
    assert {holder["worker"]["gpus"] for holder in first} == {1 / 4, 1 / 3}
    assert {holder["host"] for holder in first} <= {"n1", "n2", "n3", "n4"}


def test_jobs_run_the_code_that_was_submitted(slurm, tmp_path, monkeypatch):
    # A trainer of the user's in the present folder, which changes while the first cell runs.
    trainer = tmp_path / "mine.py"
    source = (Path(__file__).parent / "fake_trainer.py").read_text()
    trainer.write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{REPOSITORY}")
    slurm.behave(sleep=0.2)
    controller = slurm.controller(SLURM, "seeds=1", "launcher.max_parallel=1", runner="mine:run", folder=tmp_path)
    wait_for(slurm.starts)
    trainer.write_text("raise RuntimeError('edited')")
    outcome(controller)
    assert len(slurm.results()) == 4


def test_several_nodes_train_one_cell_together(slurm):
    several = ("launcher.nodes=2", "launcher.gpus=0", "seeds=1", "only=none:0")
    slurm.behave(**{"none:0": "together"})
    assert "1 done" in slurm.finish(SLURM, *several)
    assert json.loads((slurm.cell("none", 0) / "ranks.json").read_text()) == {"sum": 1, "processes": 2}


def test_what_the_command_says_reaches_slurm_whatever_the_environment_says(slurm, cluster, monkeypatch):
    surroundings = {
        "SBATCH_PARTITION": "low", "SBATCH_TIMELIMIT": "2", "SBATCH_ARRAY_INX": "0-3", "SBATCH_NO_REQUEUE": "1",
        "SBATCH_EXPORT": "SLURM_CONF,PATH", "SLURM_HINT": "nomultithread", "SLURM_NTASKS": "3",
        "SLURM_MEM_PER_CPU": "9", "SLURM_MEM_PER_NODE": "9", "SRUN_CPUS_PER_TASK": "9", "SQUEUE_STATES": "PENDING",
        "SQUEUE_FORMAT": "%i", "SQUEUE_USERS": "nobody", "WORLD_SIZE": "8", "PMI_SIZE": "8", "OMP_NUM_THREADS": "7",
    }  # fmt: skip
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    said = ("launcher.partition=main", "launcher.minutes=5", "launcher.sbatch={J: mine}", "only=none:0", "seeds=1")
    output = slurm.finish(SLURM, *said)
    assert "sbatch takes from the environment: SBATCH_EXPORT=SLURM_CONF,PATH\n" in output
    cell = slurm.cell("none", 0)
    facts = dict(re.findall(r"(\w+)=(\S+)", cluster.run("scontrol", "show", "job", job_of(cell))))
    expected = {"Partition": "main", "TimeLimit": "00:05:00", "JobName": "mine", "Requeue": "1", "NumTasks": "1"}
    assert facts | expected == facts
    assert json.loads((cell / "env.json").read_text())["OMP_NUM_THREADS"] == "1"


def test_what_slurm_refuses_is_said_and_nothing_is_lost(slurm):
    _, errors = outcome(slurm.controller(SLURM, "seeds=1", "launcher.partition=nowhere"), code=2)
    assert "sbatch refuses the jobs: " in errors
    assert "partition" in errors
    assert slurm.starts() == []


def test_the_doctor_sends_a_job_through_and_a_signal_to_it(slurm):
    output = slurm.finish(SLURM, "action=doctor")
    assert "a job can write in" in output
    assert "SIGUSR2 reaches a job" in output
    assert "of up to 1001 tasks" in output
    assert output.endswith("all is well\n")
    assert not list(slurm.root.glob("slurm/doctor-*"))
    assert "change launcher.partition" in slurm.finish(SLURM, "launcher.partition=nowhere", "action=doctor", code=1)
