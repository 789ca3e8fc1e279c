"""``python -m ablations.sweep grid=kl_vs_mse``: from one command to trained cells, MLflow runs and a report."""

from __future__ import annotations

import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablations import request as requests
from ablations.cells import CellFolder, State
from ablations.controller import Controller
from ablations.display import make_view, plan_text
from ablations.plan import Cell, Plan, make_plan
from ablations.record import state_digest, write_sweep
from ablations.request import Request
from ablations.tracking import Mirror
from ablations.worker import RUNNER
from unigrpo.files import read_json, write_json
from unigrpo.registry import ConfigError

DONE, INCOMPLETE, MISTAKE, INTERRUPTED = 0, 1, 2, 130


class Interrupt:
    """Ctrl-C: the first asks for an orderly end, the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether the end was asked for."""
        return self.asked

    def _handle(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping: running cells write a checkpoint; Ctrl-C again kills them", file=sys.stderr, flush=True)

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None, runner: str = RUNNER) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        arguments: the command line, by default that of the process.
        runner: ``module:function`` that trains and evaluates a cell.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "--help" in arguments or "-h" in arguments:
        print(requests.help_text())
        return DONE
    try:
        if "--list" in arguments:
            print(requests.list_text())
            return DONE
        request = requests.read(arguments)
        plan = make_plan(request.grid, request.overrides, request.seeds)
        cells = plan.cells(request.only)
        if not cells:
            raise ConfigError(f"only={request.only} matches no cell; a cell is called arm:seed, as untouched:0")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    command = shlex.join(["python", "-m", "ablations.sweep", *arguments])
    try:
        return _act(request, plan, cells, command, runner)
    except OSError as error:
        print(f"error: {error}\nNothing that was finished is lost; to go on:\n  {command}", file=sys.stderr)
        return INCOMPLETE
    except KeyboardInterrupt:
        print(f"\ninterrupted; to go on:\n  {command}", file=sys.stderr)
        return INTERRUPTED


def _act(request: Request, plan: Plan, cells: list[Cell], command: str, runner: str) -> int:
    if request.action in ("plan", "status"):
        print(plan_text(plan, cells, request.root, request.launcher.describe()))
        return DONE
    try:
        folder = write_sweep(request.root, plan, command)
    except OSError as error:
        print(f"error: cannot write in root={request.root}: {error}", file=sys.stderr)
        return MISTAKE
    if request.action == "report":
        report = _report(request.root, plan, folder, anew=True)
        print(f"report: {report}")
        return DONE if report else INCOMPLETE
    for note in plan.notes:
        print(f"note: {note}")
    with Interrupt() as interrupt:
        controller, mirror = _run(request, plan, cells, folder, runner, interrupt)
    if interrupt.asked:
        print(f"interrupted: {controller.counts()}; to go on:\n  {command}")
        return INTERRUPTED
    return _conclude(request, plan, folder, controller, mirror)


def _run(
    request: Request, plan: Plan, cells: list[Cell], folder: Path, runner: str, interrupt: Interrupt
) -> tuple[Controller, Mirror | None]:
    """Run what is missing, to the end or to the second Ctrl-C."""
    places = request.launcher.places()
    view = make_view(request.grid.primary["metric"], places)
    mirror = Mirror(request.root, folder, plan, view.say) if request.tracker == "mlflow" else None
    on_end = mirror.wake if mirror else lambda: None
    controller = Controller(cells, request.root / "cells", view, interrupt, on_end, request.rerun, runner)
    if controller.pending() and request.rerun != "none":
        with view, request.launcher.session(runner, interrupt) as session:
            try:
                controller.run(session)
            except KeyboardInterrupt:
                session.kill()
    return controller, mirror


def _conclude(request: Request, plan: Plan, folder: Path, controller: Controller, mirror: Mirror | None) -> int:
    """Write the report, mirror what is left, and sum up."""
    report = _report(request.root, plan, folder)
    if mirror:
        mirror.finish(report.parent if report else None)
    print(controller.counts())
    states = set(controller.states.values())
    if controller.storage_fault:
        print(f"error: a worker could not write in {request.root} (disk full or read-only?)", file=sys.stderr)
    if State.FAILED in states:
        print("failed cells are left alone by the same command; rerun=failed tries them again")
    if report:
        print(f"report: {report}")
    if mirror:
        print(f"MLflow: {mirror.how_to_look()}")
    return DONE if report and states == {State.DONE} else INCOMPLETE


def _report(root: Path, plan: Plan, folder: Path, anew: bool = False) -> Path | None:
    """The report of the sweep, written if the one that is there is of other results; None if that fails."""
    digest = state_digest(folder, [CellFolder(root / "cells" / cell.id) for cell in plan.cells()])
    written = read_json(folder / "report.json") or {}
    if not anew and written.get("digest") == digest and Path(written["path"]).exists():
        return Path(written["path"])
    try:
        import reports

        path = reports.write(folder)
    except Exception as error:  # the cells are done, whatever goes wrong in their report
        traceback.print_exc()
        print(f"error: the report failed: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    write_json(folder / "report.json", {"digest": digest, "path": str(path)})
    return path


if __name__ == "__main__":
    sys.exit(main())
