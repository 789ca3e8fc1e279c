"""What the Slurm launcher would submit; no cluster is needed for that."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations import request
from ablations.launchers import Slurm, snapshot
from ablations.sweep import main
from ablations.worker import Job
from unigrpo.errors import ConfigError


def jobs_of(names: list[str]) -> list[Job]:
    return [Job(Path(f"cells/{i}"), {}, name=name) for i, name in enumerate(names)]


@given(
    names=st.lists(st.sampled_from(["small:0", "small:1", "large:0", "large:1"]), max_size=40),
    pack=st.integers(1, 5),
    limit=st.integers(1, 7),
)
def test_every_cell_is_in_one_task_of_an_array_of_its_like(names, pack, limit):
    launcher = Slurm(pack=pack, special={"large:*": {"pack": 1, "mem_gb": 80.5, "minutes": 900}})
    jobs = jobs_of(names)
    arrays = launcher.chunks(jobs, limit)
    assert sorted(job.cell_id for _, tasks in arrays for task in tasks for job in task) == sorted(
        j.cell_id for j in jobs
    )
    for resources, tasks in arrays:
        assert 1 <= len(tasks) <= limit
        assert all(1 <= len(task) <= resources.pack for task in tasks)
        large = {job.name.startswith("large") for task in tasks for job in task}
        assert large == {resources.mem_gb == 80.5} == {resources.minutes == 900}
        order = [int(job.cell_id) for task in tasks for job in task]
        assert order == sorted(order)


def test_a_dry_run_prints_what_sbatch_would_get_without_slurm_or_a_trace(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["grid=kl_vs_mse", "seeds=2", f"root={tmp_path / 'runs'}", "launcher=slurm", "dry_run=true"]
    arguments.append("model.checkpoint=tiny-shapes")
    settings = {
        "partition": "gpu", "account": "lab", "qos": "high", "constraint": "h100", "minutes": "90", "mem_gb": "32",
        "nodes": "2", "gpus": "4", "max_parallel": "3", "setup": "['module load cuda']",
        "container": "apptainer exec image.sif", "sbatch": "{nice: 100, exclusive: true}", "cpus": "3",
        "special": "{'untouched:*': {nodes: 1, gpus: 1}}",
    }  # fmt: skip
    assert main([*arguments, *(f"launcher.{name}={value}" for name, value in settings.items())]) == 0
    text = capsys.readouterr().out
    small, large = text[text.index("#!/bin/bash") :].split("#!/bin/bash")[1:]
    for line in ("--partition=gpu", "--account=lab", "--qos=high", "--constraint=h100", "--time=90", "--mem=32768MB",
                 "--nice=100", "--exclusive",
                 "--cpus-per-task=3", "--signal=USR2@120", "--requeue", "--open-mode=append"):  # fmt: skip
        assert f"#SBATCH {line}\n" in small
        assert f"#SBATCH {line}\n" in large
    assert "--array" not in small
    for line in ("--array=0-5%3", "--nodes=2", "--gpus-per-node=4", "--ntasks-per-node=4"):
        assert f"#SBATCH {line}\n" in large
    assert "module load cuda\nexport PYTHONSAFEPATH=1\n" in large
    assert "--cpus-per-task=3 --kill-on-bad-exit=1 --wait=60 --export=ALL apptainer exec image.sif /" in large
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"minutes": 0}, "launcher.minutes=0: expected 1 or more"),
        ({"gpus": -1}, "launcher.gpus=-1: expected 0 or more"),
        ({"pack": 2, "nodes": 2}, "launcher.pack=2: cells share at most one GPU"),
        ({"signal_s": 600, "minutes": 10}, "launcher.signal_s=600: expected 1 or more, below the limit of 600 s"),
        ({"max_parallel": -1}, "launcher.max_parallel=-1: expected 0 or more"),
        ({"max_queued": -1}, "launcher.max_queued=-1: expected 0 or more"),
        ({"special": {"a:*": {"gpu": 2}}}, "launcher.special.a:*: unknown resource 'gpu'; did you mean 'gpus'?"),
        ({"special": {"a:*": {"nodes": 0}}}, "launcher.nodes=0: expected 1 or more"),
        ({"special": {"a:*": {"minutes": 2}}}, "launcher.signal_s=120: expected 1 or more, below the limit of 120 s"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(arguments, expected):
    with pytest.raises(ConfigError, match=r".*") as refusal:
        Slurm(**arguments)
    assert expected in str(refusal.value)


def test_globs_that_meet_in_one_cell_must_go_together_there():
    launcher = Slurm(special={"a:*": {"pack": 4}, "*:0": {"nodes": 2}})
    assert len(launcher.chunks(jobs_of(["a:1", "b:0"]), 9)) == 2
    with pytest.raises(ConfigError, match=r"launcher.pack=4: cells share at most one GPU"):
        launcher.chunks(jobs_of(["a:1", "a:0"]), 9)


@pytest.mark.parametrize(("resources", "cpus"), [({"cpus": 3}, 3), ({"cpus": 2, "pack": 4}, 8)])
def test_srun_asks_for_the_cores_of_the_job(tmp_path, resources, cpus):
    launcher = Slurm(**resources)
    parameters = launcher.parameters(launcher.resources("a:0"), tmp_path, "")
    assert parameters["cpus_per_task"] == cpus
    assert f"--cpus-per-task={cpus}" in parameters["srun_args"]


def test_what_is_text_for_slurm_is_text_on_the_command_line():
    given = {"account": "0123", "partition": "on", "qos": "'12'", "setup": "[export A=1, 7]", "sbatch": "{nice: 100}"}
    arguments = [f"launcher.{name}={value}" for name, value in given.items()]
    launcher = request.read(["grid=kl_vs_mse", *arguments, "launcher.cpus=4", "launcher=slurm"]).launcher
    assert (launcher.account, launcher.partition, launcher.qos) == ("0123", "on", "12")
    assert (launcher.setup, launcher.sbatch) == (("export A=1", "7"), {"nice": "100"})
    assert launcher.cpus == 4
    with pytest.raises(ConfigError, match=r"launcher.setup: line 1: not valid YAML"):
        request.read(["grid=kl_vs_mse", "launcher=slurm", "launcher.setup=[module"])


def test_arrays_that_must_not_run_at_once_wait_for_each_other(tmp_path):
    launcher = Slurm(max_parallel=2)
    parameters = launcher.parameters(launcher.resources("a:0"), tmp_path, "17")
    assert (parameters["dependency"], parameters["array_parallelism"]) == ("afterany:17", 2)
    assert "dependency" not in launcher.parameters(launcher.resources("a:0"), tmp_path, "")


def test_a_snapshot_is_made_once_for_each_state_of_the_code(tmp_path, monkeypatch):
    mine = tmp_path / "user" / "mine.py"
    mine.parent.mkdir()
    mine.write_text("A = 1\n")
    monkeypatch.syspath_prepend(mine.parent)
    monkeypatch.chdir(tmp_path)
    first = snapshot.take(tmp_path / "runs", "mine:run")
    assert snapshot.take(tmp_path / "runs", "mine:run") == first
    assert (first / "mine.py").read_text() == "A = 1\n"
    assert (first / "ablations" / "grids" / "kl_vs_mse.yaml").exists()
    assert (first / "unigrpo" / "checkpoints" / "tiny-shapes" / "config.json").exists()
    mine.write_text("A = 2\n")
    second = snapshot.take(tmp_path / "runs", "mine:run")
    assert second != first
    assert (first / "mine.py").read_text() == "A = 1\n"
    assert sorted(path.name for path in (tmp_path / "runs" / "code").iterdir()) == sorted([first.name, second.name])


def test_what_is_installed_in_the_present_folder_is_not_the_users_code(monkeypatch):
    monkeypatch.chdir("/")  # everything is below it: this project, the environment, the standard library
    users = snapshot._users()
    assert {"tests", "ablations"} <= users
    assert not {"pytest", "hypothesis", "yaml", "json", "threading"} & users


@pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
def test_what_a_user_has_installed_at_home_is_not_copied(tmp_path, monkeypatch, folder):
    installed = tmp_path / ".local" / "lib" / "python3" / folder
    installed.mkdir(parents=True)
    module = f"installed_in_{folder.partition('-')[0]}"
    for path in (installed / f"{module}.py", tmp_path / f"mine_{module}.py"):
        path.write_text("")
        monkeypatch.syspath_prepend(path.parent)
        importlib.import_module(path.stem)
    nowhere = ModuleType("torch.ops")
    nowhere.__file__ = "_ops.py"
    monkeypatch.setitem(sys.modules, "torch.ops", nowhere)
    monkeypatch.chdir(tmp_path)
    assert snapshot._users() == {f"mine_{module}"}
