"""``python -m ablations.sweep grid=kl_vs_mse``: from one command to trained cells, MLflow runs and a report."""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablations import actions
from ablations import request as requests
from ablations.arms import Cell
from ablations.cells import State
from ablations.controller import Controller
from ablations.display import make_view, unfailing_output
from ablations.doctor import checks_of_folder
from ablations.doctor import report as report_checks
from ablations.launchers.environment import of_worker
from ablations.launchers.queue import Refused, SlurmDown
from ablations.needs import needs_lines
from ablations.plan import Plan, make_plan
from ablations.record import declare, state_digest, write_sweep
from ablations.request import Request
from ablations.trackers import Mirror
from ablations.worker import RUNNER
from unigrpo import console, surroundings
from unigrpo.errors import ConfigError
from unigrpo.io import read_json, write_json

DONE, INCOMPLETE, MISTAKE, OVER_BUDGET, BROKEN_CONDITION, INTERRUPTED = 0, 1, 2, 3, 4, 130

#: Actions that ask a launcher for something.
_OF_THE_LAUNCHER = ("run", "plan", "doctor")


class Interrupt:
    """Ctrl-C: the first asks for an orderly end, the second raises KeyboardInterrupt."""

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning
        self.asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether the end was asked for."""
        return self.asked

    def _handle(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGHUP:
            return  # a terminal that closes sends it, and so does its shell
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print(f"\n{self.meaning}", file=sys.stderr, flush=True)

    def __enter__(self) -> Interrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class CancelFlag:
    """Whether ``action=cancel`` was given for a sweep since this command began."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "cancel"
        self._before = self._stamp()

    def __call__(self) -> bool:
        """Whether it was."""
        return self._stamp() != self._before

    def _stamp(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0


class Rerun:
    """When ``rerun=`` began: ends that are older do not count.

    By the clock of the file system, as theirs are.  An unfinished ``rerun=all`` is resumed with what it has.
    With ``failed``, failures since the last command are run again too, as they may have been fixed.
    """

    def __init__(self, folder: Path, which: str) -> None:
        self._path = folder / f"rerun-{which}"
        self.since = 0.0
        if which in ("failed", "all"):
            if which == "all" and self._path.exists():
                print(f"note: this goes on with the rerun=all that was not ended; delete {self._path} to begin anew")
            else:
                self._path.touch()
            self.since = self._path.stat().st_mtime

    def end(self) -> None:
        """Note that every cell has reached its end."""
        self._path.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None, runner: str = RUNNER) -> int:
    """Run the command and return its exit code (see ``--help``).

    Args:
        arguments: the command line, by default that of the process.
        runner: ``module:function`` that trains and evaluates a cell.
    """
    console.prepare()
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
        if request.action in _OF_THE_LAUNCHER:
            surroundings.check(of_worker(os.environ))  # else every cell would say it for itself
            request.launcher.check(request.root, _names(plan))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    command = shlex.join(["python", "-m", "ablations.sweep", *arguments])
    with unfailing_output():
        try:
            return _act(request, plan, cells, command, runner)
        except (ConfigError, SlurmDown) as error:
            print(f"error: {error}", file=sys.stderr)
            return MISTAKE if isinstance(error, ConfigError) else INCOMPLETE
        except OSError as error:
            print(f"error: {error}\nNothing that was finished is lost; to go on:\n  {command}", file=sys.stderr)
            return INCOMPLETE
        except KeyboardInterrupt:
            print(f"\ninterrupted; to go on:\n  {command}", file=sys.stderr)
            return INTERRUPTED


def _names(plan: Plan) -> list[str]:
    """Of all cells, those of refused arms included: a glob that means one of them is no mistake."""
    refused = (f"{arm.name}:{seed}" for arm in plan.arms if arm.refused for seed in plan.seeds)
    return [*(cell.name for cell in plan.cells()), *refused]


def _act(request: Request, plan: Plan, cells: list[Cell], command: str, runner: str) -> int:
    if request.action != "run" or request.dry_run:
        return _look(request, plan, cells, command, runner)
    try:
        folder = write_sweep(request.root, plan, command)
        late = declare(request.root, folder, plan)
    except OSError as error:
        print(f"error: cannot write in root={request.root}: {error}", file=sys.stderr)
        return MISTAKE
    for note in (*plan.notes, *request.launcher.notes(), *([late] if late else [])):
        print(f"note: {note}")
    cancelled = CancelFlag(folder)
    rerun = Rerun(folder, request.rerun)
    with Interrupt(request.launcher.on_interrupt()) as interrupt:
        controller, mirror = _run(request, plan, cells, folder, runner, interrupt, cancelled, rerun.since)
    if not controller.pending():
        rerun.end()
    if interrupt.asked or cancelled():
        print(f"interrupted: {controller.counts()}; to go on:\n  {command}")
        print(f"to look:\n  {command} action=status\nto end what still runs:\n  {command} action=cancel")
        return INTERRUPTED
    return _conclude(request, plan, folder, controller, mirror)


def _look(request: Request, plan: Plan, cells: list[Cell], command: str, runner: str) -> int:
    """The actions that run no cell."""
    root, action = request.root, request.action
    if action == "doctor":
        checks = [checks_of_folder(root), request.launcher.checks(root, runner)]
        return DONE if report_checks(itertools.chain.from_iterable(checks)) else INCOMPLETE
    if action == "estimate":
        for line in needs_lines(cells):
            print(line, flush=True)
    elif action == "gc":
        found = actions.stale_paths(root)
        if not request.dry_run:
            actions.remove(found)
        print(actions.stale_text(found, not request.dry_run))
    elif action == "status":
        print(actions.status_text(plan, cells, root, request.launcher))
    elif action == "explain":
        print(actions.explain_text(cells, root))
    elif action == "cancel" and not request.dry_run:
        print(actions.cancel(plan, cells, root))
    elif action == "report" and not request.dry_run:
        folder = write_sweep(root, plan, command)
        report = _report(root, folder, anew=True)
        print(f"report: {report}")
        return _gate(folder, request.fail_if) if report else INCOMPLETE
    else:
        print(actions.plan_text(plan, cells, root, request.launcher))
    return DONE


def _gate(folder: Path, fail_if: str) -> int:
    """The exit code of a report under a condition."""
    from reports.gate import GateError, broken

    try:
        reasons = broken(folder, fail_if)
    except GateError as error:
        raise ConfigError(str(error)) from error
    for reason in reasons:
        print(f"fail_if: {reason}", file=sys.stderr)
    return BROKEN_CONDITION if reasons else DONE


def _run(
    request: Request,
    plan: Plan,
    cells: list[Cell],
    folder: Path,
    runner: str,
    interrupt: Interrupt,
    cancelled: CancelFlag,
    since: float,
) -> tuple[Controller, Mirror | None]:
    """Run what is missing, to the end or to the second Ctrl-C."""
    capacity = request.launcher.capacity()
    view = make_view(request.grid.primary["metric"], capacity)
    mirror = request.tracker.mirror(request.root, folder, plan, view.say)
    on_end = mirror.wake if mirror else lambda _: None
    controller = Controller(
        cells,
        request.root / "cells",
        view,
        interrupted=interrupt,
        cancelled=cancelled,
        on_end=on_end,
        rerun=request.rerun,
        since=since,
        runner=runner,
        budget=request.budget,
    )
    if controller.pending() and request.rerun != "none":
        with view, request.launcher.session(request.root, runner, interrupt) as session:
            try:
                controller.run(session)
            except KeyboardInterrupt:
                session.kill()
            except (Refused, SlurmDown) as error:
                print(f"error: {error}", file=sys.stderr)
                if where := session.detach():
                    print(where)
    return controller, mirror


def _conclude(request: Request, plan: Plan, folder: Path, controller: Controller, mirror: Mirror | None) -> int:
    """Write the report, mirror what is left, and sum up."""
    report = _report(request.root, folder)
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
        print(f"{request.tracker.title}: {mirror.how_to_look()}")
    if controller.over_budget and controller.pending():
        print("the budget is used up; the same command with a larger one goes on")
        return OVER_BUDGET
    return DONE if report and states == {State.DONE} else INCOMPLETE


def _report(root: Path, folder: Path, anew: bool = False) -> Path | None:
    """The report of the sweep, written if the one that is there is of other results; None if that fails."""
    digest = state_digest(root, folder)
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
