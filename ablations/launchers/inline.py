"""Launcher ``inline``: cells run one after another in this process, for a debugger and for tests."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ablations.doctor import Check
from ablations.launchers.end import End
from ablations.launchers.environment import changed, of_worker
from ablations.launchers.local import visible_gpus
from ablations.worker import Job, run_cell
from unigrpo.registry import register


@register("launcher", "inline", source="submitit's debug executor, without the debugger")
@dataclass(frozen=True)
class Inline:
    """One cell at a time, in this process; its output goes to the terminal."""

    def session(self, root: Path, runner: str, interrupted: Callable[[], bool]) -> InlineSession:
        """Open a session."""
        return InlineSession(interrupted)

    def capacity(self) -> int:
        """One."""
        return 1

    def describe(self) -> str:
        """Where cells run."""
        return "inline: in this process, one after another"

    def check(self, root: Path, names: Sequence[str]) -> None:
        """There is nothing to check."""

    def notes(self) -> list[str]:
        """No notes."""
        return []

    def checks(self, root: Path, runner: str) -> Iterator[Check]:
        """Where cells run."""
        yield Check("launcher", self.describe())

    def preview(self, root: Path, jobs: Sequence[Job]) -> str:
        """Nothing is submitted."""
        return ""

    def on_interrupt(self) -> str:
        """What Ctrl-C does."""
        return "stopping: the running cell writes a checkpoint; Ctrl-C again ends it at once"


@dataclass
class InlineSession:
    """Runs jobs one at a time: a job has ended when ``start`` returns."""

    interrupted: Callable[[], bool]
    ended: list[tuple[Job, End]] = field(default_factory=list)

    def free_slots(self) -> int:
        """One, unless a job waits to be collected."""
        return 0 if self.ended else 1

    def start(self, job: Job) -> None:
        """Run the job to its end."""
        job = replace(job, gpus=min(1.0, len(visible_gpus())))
        with changed(of_worker(os.environ)):
            self.ended.append((job, End(run_cell(job, self.interrupted))))

    def running(self) -> int:
        """Jobs that ended and were not collected."""
        return len(self.ended)

    def poll(self, seconds: float) -> list[tuple[Job, End]]:
        """Collect jobs that ended. If there are none, another controller has the cells; then wait."""
        if not self.ended:
            time.sleep(seconds)
        ended, self.ended = self.ended, []
        return ended

    def detach(self) -> str:
        """Nothing to do: the running job polls ``interrupted``."""
        return ""

    def stop(self) -> None:
        """Nothing to do: the running job polls ``interrupted``."""

    def kill(self) -> None:
        """Nothing to do: a second Ctrl-C raises KeyboardInterrupt in the job itself."""

    def __enter__(self) -> InlineSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass
