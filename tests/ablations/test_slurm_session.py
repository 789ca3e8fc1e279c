"""A session of the launcher ``slurm``, with programs in Slurm's place that answer what a test wants."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from ablations import actions, doctor
from ablations.cells import STALE, CellFolder
from ablations.launchers import Slurm, batches, slurm_doctor, slurm_session, snapshot
from ablations.launchers.end import End
from ablations.launchers.queue import Refused
from ablations.launchers.slurm_doctor import checks_of_slurm
from ablations.sweep import Interrupt, main
from ablations.worker import Job, Outcome
from tests.ablations.test_queue import answer, row
from unigrpo.errors import ConfigError

LIMIT = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


class FakeSlurm:
    """A cluster on which jobs do what a test says; sessions ask it as often as they like."""

    def __init__(self, root: Path, shim):
        self.root, self.shim = root, shim
        shim("srun", "true")
        shim("scontrol", "echo 'MaxArraySize = 1001'")
        shim("sacct", "exit 1")
        self.accept()
        self.show()

    def accept(self) -> None:
        """Number the jobs from 1, and take no more than nine; each has something in its log."""
        log = "echo 'ImportError: no torch\nsrun: error: exit code 1' >$(dirname $1)/$(wc -l <taken)_0_log.err"
        take = "echo >>taken; test $(wc -l <taken) -lt 10 && echo Submitted batch job $(wc -l <taken)"
        self.shim("sbatch", f"cd {self.root.parent}; {take} && {log}")

    def refuse(self, words: str) -> None:
        self.shim("sbatch", f'echo "sbatch: error: {words}" >&2; exit 1')

    def show(self, **jobs: str) -> None:
        """What squeue says: j1="RUNNING"."""
        self.shim("squeue", answer(*(row(job[1:], state) for job, state in jobs.items())) if jobs else "true")

    def session(self, **arguments) -> slurm_session.SlurmSession:
        return slurm_session.SlurmSession(Slurm(**arguments), self.root, "runner:run")

    def submissions(self) -> int:
        return self.shim.calls().count("sbatch")

    def cell(self, name: str = "a") -> CellFolder:
        return CellFolder(self.root / "cells" / name)

    def job(self, name: str = "a") -> Job:
        return Job(self.cell(name).path, {}, name=f"{name}:0")

    def claim_elsewhere(self, job: str, name: str = "a") -> Path:
        """A worker of ``job`` on another machine claims the cell; returns the file that it touches."""
        cell = self.cell(name)
        path = cell.path / "claims" / f"{cell.claim({'gpus': 1, 'job': job, 'restart': 0}).number}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "elsewhere"}))
        return path

    def leave(self, job: str, **ends: End) -> None:
        """The job writes how its cells ended."""
        ended = {cell: end.to_json() for cell, end in ends.items()}
        batches.ends_of(self.submission(job), job).write_text(json.dumps(ended))

    def submission(self, job: str) -> Path:
        """The folder of the submission that a job is of."""
        (folder,) = (path.parent for path in self.root.glob("slurm/*/jobs.json") if f'"{job}"' in path.read_text())
        return folder

    def options(self, job: str) -> str:
        """What sbatch was told of the array of a job."""
        return (self.submission(job) / f"{job.partition('_')[0]}_submission.sh").read_text()

    def sent(self, job: str) -> tuple[Job, ...]:
        """The cells in the pickle of a job."""
        (path,) = self.root.glob(f"slurm/*/{job}_submitted.pkl")
        return pickle.loads(path.read_bytes()).function.jobs  # noqa: S301


@pytest.fixture
def fake(tmp_path, shim, monkeypatch):
    monkeypatch.setattr(slurm_session, "LOOK", 0.0)
    monkeypatch.setattr("ablations.launchers.queue.QUEUE_EVERY", 0.0)
    monkeypatch.setattr(snapshot, "take", lambda root, runner: root / "code")
    return FakeSlurm(tmp_path / "runs", shim)


def test_a_job_that_came_after_the_look_is_followed_whatever_the_clocks_say(fake, monkeypatch):
    first, second = fake.session(), fake.session()
    first.start(fake.job())
    second.start(fake.job())
    look, clock = second.queue.look, time.time

    def look_too_early(jobs):
        look(jobs)
        monkeypatch.setattr(time, "time", lambda: clock() - 5.0)  # the other one's machine is late
        first.poll(0.0)
        monkeypatch.setattr(time, "time", clock)

    second.queue.look = look_too_early
    second.poll(0.0)
    assert (fake.submissions(), second.running()) == (1, 1)
    fake.leave("1", a=End(Outcome.DONE))
    assert [(job.cell_id, end.outcome) for job, end in second.poll(0.0)] == [("a", Outcome.DONE)]


def test_a_cell_that_was_finished_in_the_meantime_is_not_submitted_again(fake):
    first, second = fake.session(), fake.session()
    first.start(fake.job())
    first.poll(0.0)
    second.start(fake.job())
    claim = fake.cell().claim({"gpus": 1, "job": "1", "restart": 0})
    (fake.cell().path / "result.json").write_text("{}")
    claim.finish()
    fake.leave("1", a=End(Outcome.DONE))
    fake.show(j1="COMPLETED")
    assert [end.outcome for _, end in second.poll(0.0)] == [Outcome.DONE]
    assert fake.submissions() == 1


def test_a_job_that_slurm_does_not_show_lives_while_its_worker_does(fake):
    session = fake.session()
    session.start(fake.job())
    session.poll(0.0)
    sign = fake.claim_elsewhere("1")
    assert [session.poll(0.0) for _ in range(4)] == [[]] * 4
    os.utime(sign, (0, time.time() - STALE - 1))
    assert session.poll(0.0) == []  # a file may take a while to be seen
    ((_, end),) = session.poll(0.0)
    assert (end.outcome, end.job, end.message) == (None, "1", "its Slurm job 1 ended as GONE")


def test_a_job_takes_a_cell_over_only_from_one_whose_end_was_seen(fake):
    first, second = fake.session(), fake.session()
    first.start(fake.job())
    first.poll(0.0)
    second.batches.refresh()
    second.start(fake.job())
    second.poll(0.0)  # for Slurm shows no such job
    assert [job.ended_job for job in fake.sent("2")] == [""]
    fake.show(j2="NODE_FAIL")
    ((job, _),) = second.poll(0.0)
    second.start(job)
    second.poll(0.0)
    assert [job.ended_job for job in fake.sent("3")] == ["2"]


def test_a_job_that_is_over_is_over_for_its_dead_workers_too(fake):
    session = fake.session(pack=2)
    for name in "ab":
        session.start(fake.job(name))
    session.poll(0.0)
    fake.leave("1", a=End(Outcome.DONE), b=End.of_exit(-9))
    ends = {job.cell_id: end for job, end in session.poll(0.0)}
    assert ends["a"].outcome is Outcome.DONE
    assert (ends["b"].outcome, ends["b"].job, ends["b"].message) == (None, "1", End.of_exit(-9).message)


def test_what_a_job_left_is_read_when_it_can_be(fake):
    session = fake.session()
    session.start(fake.job())
    session.poll(0.0)
    fake.show(j1="RUNNING")
    (folder,) = (path.parent for path in fake.root.glob("slurm/*/jobs.json"))
    batches.ends_of(folder, "1").write_text("")
    assert session.poll(0.0) == []
    # It was told to stop, and Slurm starts it again; then it runs to its end.
    fake.leave("1", a=End(Outcome.STOPPED))
    assert session.poll(0.0) == session.poll(0.0) == []
    assert session.running() == 1
    fake.leave("1", a=End(Outcome.DONE))
    assert [end.outcome for _, end in session.poll(0.0)] == [Outcome.DONE]
    assert session.running() == 0


def test_only_so_many_jobs_are_submitted_as_the_user_says(fake):
    session = fake.session(max_queued=2, pack=2)
    assert session.free_slots() == 4
    for name in "abcd":
        session.start(fake.job(name))
    assert session.free_slots() == 0
    session.poll(0.0)
    assert session.free_slots() == 0
    fake.leave("1_0", a=End(Outcome.DONE), b=End(Outcome.DONE))
    fake.show(j1_1="RUNNING")
    session.poll(0.0)
    assert session.free_slots() == 2
    assert fake.session().free_slots() > 10_000


def test_no_more_jobs_than_allowed_are_submitted_of_cells_that_pack_less_well(fake):
    session = fake.session(max_queued=2, pack=4, special={"untouched:*": {"pack": 1}})
    for name in ("untouched", *"abcdefg"):
        session.start(fake.job(name))
    session.poll(0.0)
    assert [len(fake.sent(job)) for job in ("1", "2")] == [1, 4]
    fake.leave("1", untouched=End(Outcome.DONE))
    fake.show(j2="RUNNING")
    session.poll(0.0)
    session.poll(0.0)
    assert [job.cell_id for job in fake.sent("3")] == list("efg")


def test_cells_that_are_sent_again_wait_for_places_not_for_each_other(fake):
    session = fake.session(max_parallel=3)
    for name in "abcde":
        session.start(fake.job(name))
    session.poll(0.0)
    assert "--array=0-4%3" in fake.options("1_0")
    fake.show(j1_0="FAILED", j1_1="FAILED", j1_2="RUNNING", j1_3="RUNNING", j1_4="RUNNING")
    for job, _ in session.poll(0.0):
        session.start(job)
    session.poll(0.0)
    assert (fake.submissions(), session.running()) == (1, 5)
    for number, name in {2: "c", 3: "d"}.items():
        fake.leave(f"1_{number}", **{name: End(Outcome.DONE)})
    fake.show(j1_4="RUNNING")
    assert len(session.poll(0.0)) == 2
    session.poll(0.0)
    assert [job.cell_id for number in range(2) for job in fake.sent(f"2_{number}")] == ["a", "b"]
    assert "--dependency" not in fake.options("2_0")


def test_another_session_counts_the_jobs_that_it_finds(fake):
    first, second = fake.session(max_parallel=2), fake.session(max_parallel=2)
    for name in "abc":
        first.start(fake.job(name))
    first.poll(0.0)
    fake.show(j1_0="RUNNING", j1_1="RUNNING", j1_2="PENDING")
    for name in "abcd":
        second.start(fake.job(name))
    second.poll(0.0)
    assert (fake.submissions(), second.running()) == (1, 4)


def test_arrays_of_one_submission_wait_for_each_other_where_so_many_must_not_run_at_once(fake):
    session = fake.session(max_parallel=2, special={"c:*": {"minutes": 300}})
    for name in "abcd":
        session.start(fake.job(name))
    session.poll(0.0)
    assert "--dependency" not in fake.options("1_0")
    assert "--dependency=afterany:1" in fake.options("2")


def test_jobs_beyond_a_sites_limit_wait_for_the_others(fake, capsys):
    session = fake.session()
    session.start(fake.job("a"))
    fake.refuse(LIMIT)
    with pytest.raises(ConfigError, match=r"launcher.max_queued=N"):
        session.poll(0.0)
    fake.accept()
    session.poll(0.0)
    fake.show(j1="RUNNING")
    fake.refuse(LIMIT)
    session.start(fake.job("b"))
    assert session.poll(0.0) == session.poll(0.0) == []
    assert capsys.readouterr().err.count("job submit limit") == 1
    assert session.running() == 2
    fake.accept()
    session.poll(0.0)
    assert [job.cell_id for job in fake.sent("2")] == ["b"]


def test_a_refusal_on_the_way_is_no_mistake_of_the_command(fake):
    session = fake.session()
    session.start(fake.job("a"))
    session.poll(0.0)
    fake.show(j1="RUNNING")
    fake.refuse("invalid partition specified: gone")
    session.start(fake.job("b"))
    with pytest.raises(Refused, match="invalid partition"):
        session.poll(0.0)
    assert "1 cells stay with Slurm: squeue --jobs=1" in session.detach()


@pytest.mark.parametrize(("state", "jobs"), [("FAILED", 3), ("NODE_FAIL", 3), ("TIMEOUT", 1), ("OUT_OF_MEMORY", 1)])
def test_a_cell_that_cannot_even_begin_fails_after_as_many_jobs_as_any_other(fake, sandbox, state, jobs):
    fake.show(**{f"j{job}": state for job in range(1, 10)})
    assert main(sandbox.arguments("launcher=slurm", "only=none:0"), runner="tests.ablations.fake_trainer:run") == 1
    failure = CellFolder(sandbox.cell("none", 0)).failure()
    assert fake.submissions() == jobs
    begun = f"its Slurm job {jobs} ended as {state} before the cell began: ImportError: no torch"
    often = "; the last 3 attempts ended so without a new checkpoint" if jobs > 1 else ""
    assert failure["message"] == begun + often


def test_a_sweep_that_is_refused_on_the_way_reports_what_it_has(fake, sandbox, capsys):
    fake.shim("sbatch", f"cd {fake.root.parent}; mkdir taken && echo Submitted batch job 1")
    arguments = ["launcher=slurm", "seeds=1", "launcher.special={'untouched:*': {minutes: 300}}"]
    assert main(sandbox.arguments(*arguments), runner="tests.ablations.fake_trainer:run") == 1
    output, errors = capsys.readouterr()
    assert "sbatch refuses more jobs" in errors
    assert "cells stay with Slurm: squeue --jobs=1" in output
    assert "report.html" in output


def test_ctrl_c_while_a_job_is_submitted_ends_neither_sbatch_nor_what_is_known_of_it(fake):
    # As a terminal does, which sends it to the command and its child; dash would not keep what is held back for it.
    fake.shim("sbatch", "exec bash -c 'kill -INT $PPID $$; sleep 0.1; echo Submitted batch job 1'")
    session = fake.session()
    session.start(fake.job())
    with Interrupt("stopping") as interrupt:
        session.poll(0.0)
        assert interrupt.asked
    assert "1 cells stay with Slurm" in session.detach()


def test_a_second_ctrl_c_waits_for_a_submission_even_if_another_thread_takes_it(fake, monkeypatch):
    def add(*arguments):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        remember(*arguments)

    remember = batches.Batches.add
    monkeypatch.setattr(batches.Batches, "add", add)
    session, over = fake.session(), threading.Event()
    session.start(fake.job())
    thread = threading.Thread(target=over.wait)
    thread.start()
    with Interrupt("stopping"), pytest.raises(KeyboardInterrupt):
        session.poll(0.0)
    over.set()
    thread.join()
    assert fake.session().batches.last("a").job == "1"


def test_a_command_inside_of_a_job_does_not_pass_on_what_that_job_is(fake, monkeypatch):
    outer = {"JOB_ID": "7", "ARRAY_JOB_ID": "6", "ARRAY_TASK_ID": "3", "MEM_PER_CPU": "50", "CPU_BIND": "none"}
    outer = {f"SLURM_{name}": value for name, value in outer.items()} | {"RANK": "1"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "lab"}
    for name, value in {**outer, **kept}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm_doctor, "PATIENCE", 0.0)
    fake.shim("scancel", "true")
    passed = fake.root.parent / "environment"
    fake.shim("sbatch", f"env >{passed}; echo Submitted batch job 1")
    session = fake.session()
    session.start(fake.job())
    for submit in (lambda: session.poll(0.0), lambda: list(checks_of_slurm(Slurm(), fake.root, "runner:run"))):
        submit()
        names = dict(line.partition("=")[::2] for line in passed.read_text().splitlines())
        assert not outer.keys() & names.keys()
        assert kept.items() <= names.items()
        passed.unlink()
    assert {name: os.environ[name] for name in outer} == outer


def test_the_latest_submission_is_the_one_written_last_whatever_the_clock_of_its_machine_said(tmp_path):
    for name, job, written in [("20260102-000000-a", "1", 100), ("20260101-000000-b", "2", 200)]:
        path = tmp_path / "slurm" / name / "jobs.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"jobs": [[job, ["a"]]]}))
        os.utime(path, (written, written))
    assert batches.Batches.of(tmp_path).last("a").job == "2"


@pytest.mark.parametrize("started_again", [False, True])
def test_what_a_job_left_before_it_was_started_again_does_not_explain_its_end(fake, started_again):
    session = fake.session()
    session.start(fake.job())
    session.poll(0.0)
    fake.show(j1="RUNNING")
    fake.leave("1", a=End(Outcome.STOPPED))
    assert session.poll(0.0) == []
    if started_again:
        batches.ends_of(fake.submission("1"), "1").unlink()  # as a job does when it begins
    fake.show(j1="OUT_OF_MEMORY")
    ((_, end),) = session.poll(0.0)
    assert (end.outcome, end.cause) == ((None, "oom") if started_again else (Outcome.STOPPED, "killed"))


def test_gc_leaves_the_code_and_the_probes_alone_that_somebody_may_need(fake):
    session = fake.session()
    session.start(fake.job())
    session.poll(0.0)
    fake.show(j1="FAILED")
    session.poll(0.0)
    for name in ("code/new", "code/old", "slurm/doctor-new", "slurm/doctor-old"):
        (fake.root / name).mkdir(parents=True)
        if name.endswith("old"):
            os.utime(fake.root / name, (0, time.time() - 8 * 86400))
    found = {f"{path.parent.name}/{path.name}" for path, _ in actions.stale_paths(fake.root)}
    assert {name for name in found if name.startswith(("code/", "slurm/doctor"))} == {"code/old", "slurm/doctor-old"}


def test_code_that_was_taken_away_meanwhile_is_copied_again(fake, monkeypatch):
    code = fake.root / "code" / "abc"
    monkeypatch.setattr(snapshot, "take", lambda *_: code.mkdir(parents=True, exist_ok=True) or code)
    session = fake.session()
    session.start(fake.job())
    session.poll(0.0)
    fake.show(j1="FAILED")
    ((job, _),) = session.poll(0.0)
    code.rmdir()
    session.start(job)
    session.poll(0.0)
    assert fake.submissions() == 2
    assert code.is_dir()


def test_the_doctor_waits_until_its_job_has_written_all_before_it_tidies_up(fake, monkeypatch):
    fake.shim("sbatch", "touch $(dirname $1)/started $(dirname $1)/scontrol; echo Submitted batch job 1")
    folder = f"{fake.root}/slurm/doctor-*"
    fake.shim(
        "scancel", f"touch $(echo {folder})/signalled; (sleep 0.5; touch $(echo {folder})/1_0_result.pkl) >&- 2>&- &"
    )
    left = []

    def rmtree(path, **options):
        left.extend(file.name for file in path.iterdir())
        remove(path, **options)

    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    # The limit of the probe has nothing to do with that of the cells.
    *_, last = checks_of_slurm(Slurm(signal_s=600), fake.root, "runner:run")
    assert (last.what, last.fix) == ("signals", "")
    assert "1_0_result.pkl" in left
    assert not list(fake.root.glob("slurm/doctor-*"))


def test_the_doctor_finds_a_container_in_which_a_job_cannot_queue_itself_again(fake):
    fake.shim("scancel", "true")
    fake.shim("sbatch", "touch $(dirname $1)/started; echo Submitted batch job 1")
    *_, last = checks_of_slurm(Slurm(), fake.root, "runner:run")
    assert (last.what, last.fix) == ("container", "put Slurm's commands into launcher.container")


def test_the_doctor_finds_a_folder_whose_files_cannot_be_locked(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    fixes = {check.what: check.fix for check in doctor.checks_of_folder(tmp_path / "runs")}
    assert "Lustre: mount -o flock" in fixes["locks"]
    assert fixes["claims"] == ""
