"""A trainer that trains nothing: the contract of ``unigrpo.training.runner.run`` in a few milliseconds a cell.

What a cell does is told by a JSON file beside the cells' folder, ``behaviour.json``: sleep per update, cells that fail.
A cell that is ``held`` has one update and makes no other until it is let go, or told to stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from unigrpo.errors import NonFiniteLoss, Stopped


def _write(path: Path, value: Any) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


def _behaviour(folder: Path, cell: str) -> tuple[float, str | None]:
    """What the test wants of the cell at this moment: seconds of sleep, and what is special about it."""
    path = folder.parent.parent / "behaviour.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    return told.get("sleep", 0.0), told.get(cell, told.get("all"))


def run(config, folder, *, progress=None, stop=None):
    if os.environ.get("RANK", "0") != "0":  # only the main process of a cell writes, as in the real trainer
        _meet(folder)
        return {}
    _write(folder / "config.json", config.to_dict())
    state = folder / "checkpoint" / "state.json"
    state.parent.mkdir(exist_ok=True)
    saved = json.loads(state.read_text()) if state.exists() else {"update": 0, "digest": config.regularizer.name}
    update, digest = saved["update"], saved["digest"]
    with (folder.parent.parent / "starts.txt").open("a") as file:
        file.write(f"{folder.name} {update}\n")
    cell = f"{config.regularizer.name}:{config.seed}"
    while update < config.optim.updates:
        sleep, how = _behaviour(folder, cell)
        time.sleep(sleep)
        while how == "held" and update > 0 and not stop():
            time.sleep(0.1)
            _, how = _behaviour(folder, cell)
        if how == "stuck":
            while not stop():
                time.sleep(0.1)
            raise Stopped
        _misbehave(how, update, folder)
        digest = hashlib.sha256(f"{digest} {config.seed} {update}".encode()).hexdigest()
        row = {"step": update, "train/reward": int(digest[:4], 16) / 65536}
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        update += 1
        _write(state, {"update": update, "digest": digest})
        if progress is not None:
            progress({"update": update, "updates": config.optim.updates, "metrics": row})
        if stop is not None and stop():
            raise Stopped
    score = int(hashlib.sha256(digest.encode()).hexdigest()[:4], 16) / 65536
    result = {"metrics": {"geneval/strict": score}, "cost": {"cost/wall_s": 1.0}, "updates": update}
    _write(folder / "evaluation.json", {"metrics": result["metrics"], "eval_set_hash": "e5", "guidance_scale": 2.0})
    _write(folder / "result.json", result)
    return result


def _misbehave(how: str | None, update: int, folder: Path) -> None:
    if how == "raise":
        raise ValueError("told to <fail>")
    if how == "together" and update == 0:
        _meet(folder)
    if how == "nan" and update == 1:
        raise NonFiniteLoss("the loss is nan")
    if how == "full":
        with open("/dev/full", "w") as file:
            file.write("x")
    if how == "memory":
        raise MemoryError("told to need more than there is")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "die_once" and update == 2 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _meet(folder: Path) -> None:
    """Add up the ranks of all processes of the cell, as accelerate and torch see them; the main one writes it down."""
    import torch
    from accelerate import Accelerator

    state = Accelerator().state
    total = torch.tensor(state.process_index)
    torch.distributed.all_reduce(total)
    if state.is_main_process:
        _write(folder / "ranks.json", {"sum": int(total), "processes": state.num_processes})
