"""Random kills of workers and controllers on a real Slurm: nothing is lost, nothing runs to the end twice."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from pathlib import Path

from tests.ablations.conftest import PATIENCE, wait_for

#: So many that no cell reaches its end before the last kill, however long a command takes to start again.
UPDATES = 300


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def disturb(sandbox, kills: int, *arguments: str) -> int:
    """Run a sweep under so many kills, then to its end; how many of them hit a worker."""
    chance = random.Random(7)
    command = ("launcher=slurm", f"optim.updates={UPDATES}", "rerun=failed", *arguments)
    controller = sandbox.controller(*command)
    hit = done = 0
    while done < kills:
        goal = len(steps(sandbox)) + chance.randint(1, 6)
        wait_for(lambda goal=goal, it=controller: len(steps(sandbox)) >= goal or it.poll() is not None)
        assert controller.poll() != 0, "the sweep ended before the kills did"
        if controller.poll() is not None or chance.random() < 0.2:
            done += kill(controller.pid) if controller.poll() is None else 0
            controller.communicate(timeout=PATIENCE)
            controller = sandbox.controller(*command)
            continue
        if workers := sandbox.workers():
            struck = kill(chance.choice(workers))
            hit, done = hit + struck, done + struck
    sandbox.behave()
    controller.communicate(timeout=PATIENCE)
    sandbox.finish(*command)
    return hit


def steps(sandbox) -> list[str]:
    """A line for every update that any attempt made."""
    return [row for path in sandbox.root.glob("cells/*/metrics.jsonl") for row in path.read_text().splitlines()]


def check(sandbox, undisturbed: Path, hit: int) -> None:
    """The promises: same bytes, one completion each, at most one checkpoint interval lost per kill."""
    results = {path.parent.name: path.read_bytes() for path in undisturbed.glob("cells/*/result.json")}
    assert sandbox.results() == results
    for history in sandbox.root.glob("cells/*/events.jsonl"):
        events = Counter(json.loads(row)["event"] for row in history.read_text().splitlines())
        assert events["done"] <= 1  # a kill may come between the end and the row that tells of it
    trained = [
        path for path in sandbox.root.glob("cells/*/config.json") if json.loads(path.read_text())["optim"]["updates"]
    ]
    assert len(steps(sandbox)) - UPDATES * len(trained) <= hit


def test_random_kills_on_slurm_lose_nothing(slurm, sandbox):
    sandbox.inline("seeds=4", f"optim.updates={UPDATES}")
    slurm = slurm.beside("disturbed")
    slurm.behave(sleep=1.0)
    hit = disturb(slurm, 8, "seeds=4")
    assert len(slurm.results()) == 13
    check(slurm, sandbox.root, hit)
