"""What sbatch is told: what the command says arrives, whatever it is called and whatever the environment says."""

from __future__ import annotations

import json
import re

import pytest

from ablations import request
from ablations.launchers import Slurm
from ablations.launchers.batches import Batches
from ablations.launchers.environment import of_slurm, of_worker
from ablations.sweep import main
from ablations.worker import Job
from unigrpo.errors import ConfigError

GRID = ["grid=kl_vs_mse", "launcher=slurm", "tracker=none"]


def launcher(*arguments: str) -> Slurm:
    return request.read([*GRID, *arguments]).launcher


def told(tmp_path, *arguments: str) -> dict[str, list[str]]:
    """Option -> its values in the sbatch file that a dry run shows."""
    text = launcher(*arguments).preview(tmp_path, [Job(tmp_path / "cells" / "a", {}, name="none:0")])
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture(autouse=True)
def _without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("SBATCH_PARTITION", "SLURM_CLUSTERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ("{job-name: abl-kl}", "job-name", "abl-kl"),
        ("{job_name: abl-kl}", "job-name", "abl-kl"),
        ("{J: abl-kl}", "job-name", "abl-kl"),
        ("{--job-name: abl-kl}", "job-name", "abl-kl"),
        ("{-J: abl-kl}", "job-name", "abl-kl"),
        ("{mail_type: END}", "mail-type", "END"),
        ("{x: 'n[1-3]'}", "exclude", "'n[1-3]'"),
        ("{exclusive: true}", "exclusive", ""),
        ("{exclusive: user}", "exclusive", "user"),
        ("{gpus-per-node: a100:1}", "gpus-per-node", "a100:1"),
        ("{gres: 'lscratch:20'}", "gres", "lscratch:20"),
        ("{mem-per-cpu: 4G}", "mem-per-cpu", "4G"),
        ("{wckey: lab}", "wckey", "lab"),
        ("{D: /data/it's}", "chdir", "'/data/it'\"'\"'s'"),
    ],
)
def test_an_option_arrives_once_under_whatever_name(tmp_path, given, name, value):
    assert told(tmp_path, f"launcher.sbatch={given}")[name] == [value]


def test_what_nobody_asked_for_is_not_written(tmp_path):
    options = told(tmp_path, "launcher.sbatch={exclusive: false}")
    assert not {"exclusive", "wckey", "partition"} & options.keys()
    assert all(len(values) == 1 for values in options.values())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{time: 30}", "launcher.sbatch.time: use launcher.minutes"),
        ("{t: 30}", "launcher.sbatch.t: use launcher.minutes"),
        ("{-p: low}", "use launcher.partition"),
        ("{part: low}", "launcher.sbatch.part: sbatch may read it as partition; write the whole name"),
        ("{jo: mine}", "sbatch may read it as job-name"),
        ("{no-req: true}", "sbatch may read it as no-requeue"),
        ("{A: lab}", "use launcher.account"),
        ("{cpus_per_task: 3}", "use launcher.cpus"),
        ("{mem: 4G}", "use launcher.mem_gb"),
        ("{N: 2}", "use launcher.nodes"),
        ("{G: 2}", "use launcher.gpus"),
        ("{ntasks: 2}", "launcher.gpus and launcher.nodes"),
        ("{tasks-per-node: 2}", "launcher.gpus and launcher.nodes"),
        ("{gpus-per-node: a100:2}", "expected TYPE:1, as launcher.gpus=1 says"),
        ("{gpus-per-node: 2}", "expected TYPE:1, as launcher.gpus=1 says"),
        ("{gres: 'lscratch:20,gpu:a100:1'}", "launcher.gpus asks for GPUs"),
        ("{gres: gpu}", "launcher.gpus asks for GPUs"),
        ("{no-requeue: true}", "launcher.sbatch.no-requeue: jobs are always queued again"),
        ("{no_requeue: true}", "jobs are always queued again"),
        ("{requeue: false}", "jobs are always queued again"),
        ("{output: /tmp/x}", "is in its log.txt"),
        ("{o: /tmp/x}", "is in its log.txt"),
        ("{open-mode: truncate}", "is in its log.txt"),
        ("{array: 0-3}", "the sweeper makes the arrays; launcher.max_parallel=N"),
        ("{signal: USR1@10}", "use launcher.signal_s"),
        ("{d: 'afterok:7'}", "begin=TIME starts the jobs later"),
        ("{M: other}", "set SLURM_CLUSTERS"),
        ("{wait: true}", "reads what sbatch answers"),
        ("{Q: true}", "reads what sbatch answers"),
        ("{Z: 1}", "launcher.sbatch.Z: no option of sbatch"),
        ("{J: a, job-name: b}", "--job-name is given twice"),
        ("{'comment=x': y}", "expected the name of an option"),
        ('{comment: "a\\nb"}', "expected one line of text without backslashes"),
        ("{comment: 'a\\b'}", "expected one line of text without backslashes"),
    ],
)
def test_what_the_launcher_must_have_for_itself_is_refused_with_the_way_out(given, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        launcher(f"launcher.sbatch={given}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["launcher.mem_gb=4", "launcher.sbatch={mem-per-cpu: 4G}"], "launcher.mem_gb=4 says it already"),
        (["launcher.partition='a\\b'"], "launcher.partition='a\\\\b': expected one line of text"),
        (['launcher.account="a\\nrm"'], "expected one line of text"),
        (["launcher.special={'none:*': {minutes: 9.5}}"], "launcher.minutes=9.5: expected a whole number, 1 or more"),
        (["launcher.special={'none:*': {minutes: .inf}}"], "minutes: expected a finite number"),
        (["launcher.mem_gb=.nan"], "launcher.mem_gb: expected a finite number"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(arguments, expected):
    with pytest.raises(ConfigError, match=re.escape(expected)):
        launcher(*arguments)


@pytest.mark.parametrize("action", ["dry_run=true", "action=doctor", "action=run"])
def test_a_mistake_is_told_before_anything_is_submitted(tmp_path, capsys, action):
    mistakes = {
        "10%noise": ("launcher.cpus=2", "launcher=slurm cannot use"),
        "runs": ("launcher.special={'nnoe:*': {minutes: 9}}", "launcher.special.nnoe:*: no cell is called so; did you"),
    }
    for name, (option, expected) in mistakes.items():
        assert main([*GRID, f"root={tmp_path / name}", action, option]) == 2
        assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("glob", "minutes"), [("a[1]:0", 9), ("a*", 9), ("b:0", 240), ("a[1]", 240)])
def test_a_glob_means_cells_and_a_name_itself(tmp_path, glob, minutes):
    slurm = Slurm(special={glob: {"minutes": 9.0}})
    assert slurm.resources("a[1]:0").minutes == minutes
    if minutes == 9:
        slurm.check(tmp_path, ["a[1]:0", "c:0"])
    else:
        with pytest.raises(ConfigError, match="no cell is called so; did you mean"):
            slurm.check(tmp_path, ["a[1]:0", "c:0"])


def test_a_glob_may_mean_an_arm_that_cannot_run(tmp_path):
    options = ("dynamics=flow_sde,ode", "launcher.special={'none@dynamics=ode:*': {minutes: 9}}", "launcher.signal_s=9")
    assert main([*GRID, f"root={tmp_path / 'runs'}", "dry_run=true", *options]) == 0


@pytest.mark.parametrize(
    ("name", "sign"),
    [("10%noise", "%"), ("%j", "%"), ("a\\b", "\\"), ("a:b", ":"), ("a\nb", "printed"), ("a\x7fb", "printed")],
)
def test_a_path_of_which_slurm_would_make_another_is_refused_by_name(tmp_path, name, sign):
    with pytest.raises(ConfigError, match=r"launcher=slurm cannot use") as refused:
        Slurm().check(tmp_path / name, [])
    assert sign in str(refused.value).replace(str(tmp_path / name), "")


@pytest.mark.parametrize("name", ["a b", "it's", "ä=ö", "#1", "$HOME", "~", "[1]", "a,b;c"])
def test_other_paths_are_taken_as_they_are(tmp_path, name):
    Slurm().check(tmp_path / name, [])


def test_less_than_a_megabyte_is_not_all_there_is(tmp_path):
    assert told(tmp_path, "launcher.mem_gb=0.0001")["mem"] == ["1MB"]


SAID = {"PARTITION": "low", "TIMELIMIT": "2", "NO_REQUEUE": "1", "ARRAY_INX": "0-3", "OUTPUT": "x", "WAIT": "1",
        "GPUS": "2", "GRES": "gpu:2", "MEM_PER_CPU": "9", "JOB_NAME": "x", "CPUS_PER_GPU": "9", "EXCLUSIVE": "1",
        "SIGNAL": "9"}  # fmt: skip
UNSAID = {"ACCOUNT": "lab", "QOS": "long", "EXPORT": "NONE", "RESERVATION": "course", "WCKEY": "w"}


def test_what_the_command_says_beats_the_environment_which_is_told(tmp_path, monkeypatch, capsys):
    for name, value in (SAID | UNSAID).items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    options = ["launcher.partition=main", "launcher.mem_gb=4", "launcher.sbatch={exclusive: false}"]
    assert main([*GRID, f"root={tmp_path / 'runs'}", "dry_run=true", *options]) == 0
    notes = [line.split(": ") for line in capsys.readouterr().out.splitlines() if "environment" in line]
    listed = {what.split()[1]: set(variables.split()) for what, variables in notes}
    assert listed == {
        "sbatch": {f"SBATCH_{name}={value}" for name, value in UNSAID.items()},
        "not": {f"SBATCH_{name}={value}" for name, value in SAID.items()},
    }


def test_what_the_command_leaves_open_is_left_to_the_site(monkeypatch):
    given = {"SBATCH_PARTITION": "low", "SBATCH_MEM_PER_NODE": "4G", "SBATCH_CONSTRAINT": "fast"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    kept, beating = Slurm().from_environment()
    assert given.items() <= kept.items()
    assert not beating.keys() & given.keys()


def test_a_jobs_own_variables_reach_neither_slurms_programs_nor_a_worker():
    cluster = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "one"}
    rest = {"PATH": "/bin", "HOME": "/root", "RANKING": "1"}
    slurm = {"SLURM_JOB_ID": "7", "SLURM_HINT": "nomultithread", "SRUN_CPUS_PER_TASK": "1", "SQUEUE_FORMAT": "%i"}
    slurm |= {"SACCT_FORMAT": "User", "SLURM_TIME_FORMAT": "%s", "SCANCEL_STATE": "PENDING", "SALLOC_PARTITION": "x"}
    group = {"RANK": "1", "WORLD_SIZE": "8", "PMI_SIZE": "8", "OMPI_COMM_WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "x"}
    threads = {"OMP_NUM_THREADS": "8"}
    whole = cluster | rest | slurm | group | threads
    assert of_slurm(whole) == cluster | rest | threads
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    assert of_worker(whole) == cluster | rest | slurm | one


@pytest.mark.parametrize(
    ("name", "value"), [("SBATCH_CLUSTERS", "two"), ("SLURM_CLUSTERS", "one,two"), ("SLURM_CLUSTERS", "all")]
)
def test_jobs_are_sent_where_they_are_looked_for(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="SLURM_CLUSTERS"):
        Slurm().check(tmp_path, [])


def test_what_sbatch_took_from_the_environment_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    Batches.of(tmp_path).add(tmp_path, [("1", ["a"])], Slurm().from_environment()[0])
    assert json.loads((tmp_path / "jobs.json").read_text())["environment"] == {"SBATCH_ACCOUNT": "lab"}
