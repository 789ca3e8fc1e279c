"""A real Slurm cluster on this machine: one slurmctld and several slurmd, without cgroups, munge or a database."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "slurm-wlm"
COMMANDS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun", "sacct")
NODES = 4
#: Seconds between SIGTERM and SIGKILL.
KILL_WAIT = 4
#: Seconds that Slurm's programs wait for an answer, and that a test waits for one of them: all of it may be slow.
ANSWER = 60
PATIENCE = 180.0
CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
KillWait={kill_wait}
MinJobAge=300
MaxArraySize=1001
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdTimeout=300
MessageTimeout={answer}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=10
PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP DefMemPerCPU=10
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP DefMemPerCPU=10
"""
#: What accounting says, for a cluster that has none: the three columns of submitit and those of the launcher.
SACCT = """\
#!/usr/bin/env python3
import re, subprocess, sys
jobs = next(word.partition("=")[2] for word in sys.argv if word.startswith("--jobs")).split(",")
for job in jobs:
    shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True).stdout
    for line in shown.splitlines():
        fact = dict(re.findall(r"(\\w+)=(\\S*)", line))
        name = fact["JobId"]
        if "ArrayTaskId" in fact:
            name = fact["ArrayJobId"] + "_" + fact["ArrayTaskId"]
        print(name, fact["JobState"], fact["ExitCode"], fact["Reason"], fact["NodeList"], sep="|")
"""


class Cluster:
    """Runs until :meth:`stop`; clients find it through ``SLURM_CONF``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        # As it is now: tests change theirs, and the thread below does not stop for that.
        self._whole_environment = {**os.environ, **self.environment}
        self._made: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    def start(self) -> None:
        for name in ("state", "spool", "log", "dev", "bin"):
            (self.folder / name).mkdir()
        for gpu in range(4):
            os.mknod(self.folder / "dev" / f"gpu{gpu}", 0o666 | 0o020000, os.makedev(1, 3))
        host = socket.gethostname().partition(".")[0]
        ports = free_ports(1 + NODES)
        nodes = "\n".join(
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i]} CPUs=8 RealMemory=8000 Gres=gpu:4"
            for i in range(1, NODES + 1)
        )
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(folder=self.folder, ports=ports, nodes=nodes, kill_wait=KILL_WAIT, answer=ANSWER)
        )
        (self.folder / "gres.conf").write_text(f"NodeName=n[1-{NODES}] Name=gpu File={self.folder}/dev/gpu[0-3]\n")
        self.control()
        for i in range(1, NODES + 1):
            self._spawn("slurmd", "-D", "-N", f"n{i}")
        self.wait_for_idle()
        threading.Thread(target=self._hurry, daemon=True).start()

    def _hurry(self) -> None:
        """Start requeued jobs when their node is rid of them, not after the two minutes that Slurm makes them wait."""
        since: dict[str, float] = {}
        while not self._over.wait(0.5):
            # Whatever goes wrong once: without this thread every requeued job would be late.
            with contextlib.suppress(Exception):
                columns = "--Format=JobArrayID:40,Reason:40"
                waiting = self.run("squeue", "--noheader", "--array", "--states=PENDING", columns).splitlines()
                jobs = [line.split()[0] for line in waiting if line.split()[1] == "BeginTime"]
                since = {job: since.get(job, time.monotonic()) for job in jobs}
                for job in (job for job in jobs if time.monotonic() - since[job] > 2 * KILL_WAIT):
                    self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def control(self) -> None:
        """Start slurmctld."""
        self.slurmctld = self._spawn("slurmctld", "-D")

    def restart_control(self, seconds: float) -> None:
        """Take slurmctld away for a while."""
        self.slurmctld.terminate()
        self.slurmctld.wait(PATIENCE)
        time.sleep(seconds)
        self.control()
        self.run("squeue")  # Slurm's programs wait until it is there

    def wait_for_idle(self) -> None:
        """Until all nodes are there."""
        end = time.monotonic() + PATIENCE
        states: list[str] = []
        while states != ["idle"] * NODES:
            if time.monotonic() > end:
                raise RuntimeError(f"nodes are {states}; see {self.folder}/log")
            time.sleep(0.2)
            with contextlib.suppress(subprocess.SubprocessError):
                states = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--Format=StateLong").split()

    def run(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            command, env=self._whole_environment, check=True, capture_output=True, text=True, timeout=PATIENCE
        )
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """Jobs in one of ``states``."""
        shown = self.run("squeue", "--noheader", "--array", f"--states={','.join(states)}", "--Format=JobArrayID:40")
        return shown.split()

    def node_of(self, job: str) -> str:
        """Where a job runs."""
        return self.run("squeue", "--noheader", f"--jobs={job}", "--Format=NodeList:20").strip()

    def clear(self) -> None:
        """End all jobs, and their processes; returns when the nodes are free of them."""
        self._end_jobs()
        for i in range(1, NODES + 1):
            # Of a node that is not down Slurm may not like to hear it.
            with contextlib.suppress(subprocess.SubprocessError):
                self.run("scontrol", "update", f"NodeName=n{i}", "State=IDLE")
        self.wait_for_idle()

    def account(self) -> Path:
        """A folder for PATH with a ``sacct`` that knows what slurmctld knows."""
        tool = self.folder / "bin" / "sacct"
        tool.write_text(SACCT)
        tool.chmod(0o755)
        return tool.parent

    def stop(self) -> None:
        self._over.set()
        self._end_jobs()
        for process in reversed(self._made):
            process.terminate()
        for process in self._made:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def _end_jobs(self) -> None:
        """End the jobs, and what they leave behind: their processes know this cluster by their environment."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.run("scancel", "--user=root")
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                environment = (entry / "environ").read_bytes()
                if f"SLURM_CONF={self.folder}/".encode() in environment and b"SLURM_JOB_ID=" in environment:
                    os.kill(int(entry.name), signal.SIGKILL)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        log = (self.folder / "log" / f"{'-'.join(command).replace('/', '_')}.out").open("ab")
        process = subprocess.Popen(command, env=self._whole_environment, stdout=log, stderr=log, start_new_session=True)
        self._made.append(process)
        return process


def free_ports(count: int) -> list[int]:
    """Ports for servers that may go and come back: none of those that Linux gives to whoever asks for any."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(10000, 20000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no ports are free")


def missing() -> str:
    """Why no cluster can be started here; empty if it can. Debian's packages are installed where that is possible."""
    if os.geteuid() != 0:
        return "a test cluster needs root, for slurmd and for the devices of its GPUs"
    if all(map(shutil.which, COMMANDS)):
        return ""
    if shutil.which("apt-get") is None:
        return f"no Slurm here ({PACKAGE}), and no apt-get to install it with"
    with (Path(tempfile.gettempdir()) / "unigrpo-slurm-install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", PACKAGE]):
            if not all(map(shutil.which, COMMANDS)):
                environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
                subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    return "" if all(map(shutil.which, COMMANDS)) else f"apt-get could not install {PACKAGE}"


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster for as long as the context lasts; the test is skipped where there can be none."""
    if reason := missing():
        pytest.skip(reason)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
