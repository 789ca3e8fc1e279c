"""The checks of ``action=doctor`` on a Slurm cluster, with a real job as a probe."""

from __future__ import annotations

import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from ablations.doctor import Check
from ablations.launchers import snapshot
from ablations.launchers.queue import SlurmDown, array_limit, ask
from ablations.launchers.slurm_jobs import SlurmJobs
from unigrpo.errors import ConfigError

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel")
#: Seconds that the probe may wait in the queue.
PATIENCE = 120.0
#: Seconds that a file or a signal may take.
LAG = 30.0


def checks_of_slurm(launcher: SlurmJobs, root: Path, runner: str) -> Iterator[Check]:
    """Commands, configuration and a probe job."""
    if absent := [name for name in COMMANDS if shutil.which(name) is None]:
        yield Check("commands", f"no {', '.join(absent)} on PATH", "run on a login node, or load the Slurm module")
        return
    yield Check("commands", ", ".join(COMMANDS))
    try:
        config = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", ask("scontrol", "show", "config"), re.MULTILINE))
    except SlurmDown as error:
        yield Check("slurmctld", str(error), "wait until it is back, or ask who runs the cluster")
        return
    yield Check("slurmctld", f"answers, Slurm {config.get('SLURM_VERSION', '?')}")
    yield _accounting()
    yield Check("arrays", f"of up to {array_limit()} tasks; larger sweeps are split")
    yield _requeue(config)
    yield from _probe(launcher, root, runner)


def _accounting() -> Check:
    try:
        ask("sacct", "--noheader", "--allocations", "--jobs=1")
    except (SlurmDown, ConfigError):
        return Check("accounting", "none: how a job ended is known for MinJobAge seconds only, which suffices")
    return Check("accounting", "sacct answers")


def _requeue(config: dict[str, str]) -> Check:
    preempts = config.get("PreemptType", "").partition("/")[2] not in ("", "none")
    if config.get("JobRequeue") == "0":
        return Check("requeue", "jobs say themselves that they are requeued (JobRequeue=0)")
    if preempts and "preempt_send_user_signal" not in config.get("SlurmctldParameters", ""):
        return Check("requeue", "allowed; preemption comes as SIGTERM, which cells answer with a checkpoint")
    return Check("requeue", "allowed")


def probe(folder: str) -> None:
    """A job that reports that it runs, whether it can requeue itself, and whether a signal reached it."""
    told = threading.Event()
    signal.signal(signal.SIGUSR2, lambda *_: told.set())
    if shutil.which("scontrol"):
        (Path(folder) / "scontrol").touch()
    (Path(folder) / "started").touch()
    if told.wait(LAG):
        (Path(folder) / "signalled").touch()


def _probe(launcher: SlurmJobs, root: Path, runner: str) -> Iterator[Check]:
    from submitit.core.utils import FailedJobError

    folder = root.resolve() / "slurm" / f"doctor-{uuid.uuid4().hex[:6]}"
    small = replace(launcher, minutes=5, signal_s=60, special={})
    code = snapshot.take(root, runner)
    try:
        (job,) = small.submit(folder, small.resources(""), code, [partial(probe, str(folder))])
    except FailedJobError as error:
        yield Check("sbatch", str(error).strip(), "change launcher.partition, account, qos, gpus, mem_gb or minutes")
        return
    yield Check("sbatch", f"took job {job}")
    try:
        if not _appears(folder / "started", PATIENCE):
            state = ask("squeue", "--noheader", f"--jobs={job}", "--states=all", "--Format=State:20,Reason:60").split()
            ended = "see the logs in " + str(folder)
            waits = "wait, or ask for less; the sweep itself can wait in the queue"
            fix = waits if state[:1] == ["PENDING"] else f"share {root} with the nodes; {ended}"
            yield Check("folder", f"nothing from job {job} after {PATIENCE:.0f} s, it is {' '.join(state)}", fix)
            return
        yield Check("folder", f"a job can write in {root}, and imports the code")
        if not (folder / "scontrol").exists():
            yield Check("container", "no scontrol where jobs run", "put Slurm's commands into launcher.container")
            return
        ask("scancel", "--signal=USR2", job)
        if not _appears(folder / "signalled", LAG):
            yield Check("signals", "SIGUSR2 did not reach a job", "without it a time limit costs what a kill does")
            return
        yield Check("signals", "SIGUSR2 reaches a job")
    finally:
        # After the signal the job ends by itself; its result is the last file that it writes.
        if (folder / "signalled").exists() and _appears(folder / f"{job}_0_result.pkl", LAG):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            ask("scancel", job)


def _appears(path: Path, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.2)
    return path.exists()
