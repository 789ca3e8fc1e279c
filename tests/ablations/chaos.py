"""Random kills of a sweep with the real trainer: ``python -m tests.ablations.chaos FOLDER [KILLS]``.

Runs 10 small cells undisturbed, then again under SIGKILLs of workers, of commands and of whole process groups, with the
same command given again and again; and again, until there were as many kills as asked for.  Exit status 0 if all cells
are done, none was ever declared failed, and the results are the bytes of the undisturbed sweep.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from ablations.cells import CellFolder

COMMAND = [sys.executable, "-m", "ablations.sweep", "grid=kl_vs_mse", "preset=small", "seeds=3", "tracker=none"]
#: Cells that live longer than it takes to start a command: half a minute each.
SETTINGS = ["launcher.workers=1", "optim.updates=60"]


def main(folder: Path, kills: int = 50) -> int:
    """Compare a disturbed sweep with an undisturbed one; the exit status."""
    start(folder / "undisturbed").wait()
    expected = results(folder / "undisturbed")
    done, chance, good = Counter[str](), random.Random(7), len(expected) >= 7
    for number in itertools.count():
        root = folder / f"disturbed-{number}"
        done += disturb(root, kills - done.total(), chance)
        code, found = start(root).wait(), results(root)
        rows = [row for path in root.glob("cells/*/events.jsonl") for row in path.read_text().splitlines()]
        events = Counter(json.loads(row)["event"] for row in rows)
        good &= found == expected and events["failed"] == 0 and code == 0
        print(
            f"kills so far {dict(done)}; events {dict(events)}; {len(found)} cells, bytes equal: {found == expected},"
            f" last exit {code}",
            flush=True,
        )
        if done.total() >= kills:
            break
    return 0 if good else 1


def results(root: Path) -> dict[str, bytes]:
    """The result of each finished cell."""
    return {path.parent.name: path.read_bytes() for path in root.glob("cells/*/result.json")}


def start(root: Path) -> subprocess.Popen[bytes]:
    """Give the command; its output is of no interest."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "output.txt").open("ab") as output:
        command = [*COMMAND, *SETTINGS, f"root={root}"]
        return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)


def disturb(root: Path, kills: int, chance: random.Random) -> Counter[str]:
    """Kill whatever is hit, ``kills`` times or until the sweep is at its end; how often what was hit."""
    done: Counter[str] = Counter()
    command = start(root)
    while done.total() < kills:
        time.sleep(chance.uniform(3.0, 12.0))
        if command.poll() is not None:
            if command.returncode == 0:
                break
            command = start(root)
            continue
        kind = chance.choice(("worker", "command", "group"))
        if not (running := workers(root)):  # it has not begun yet
            continue
        targets = running if kind == "worker" else [command.pid]
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if kind == "group" else os.kill)(chance.choice(targets), signal.SIGKILL)
            done[kind] += 1
    if command.poll() is None:
        command.wait()
    return done


def workers(root: Path) -> list[int]:
    """Processes of the cells that run now."""
    cells = [cell for cell in map(CellFolder, root.glob("cells/*")) if cell.claimed()]
    return [cell.holders()[-1]["pid"] for cell in cells if cell.holders()[-1].get("worker")]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
