"""The progress display of a sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO, cast

from ablations.arms import Cell
from ablations.cells import State
from ablations.controller import Controller

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

#: Seconds between two lines about running cells, without a live table.
QUIET = 30.0
#: Running cells that are shown at a time.
MOST_SHOWN = 8


def duration(seconds: float) -> str:
    """``75 s``, ``12 min`` or ``3.2 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def time_left(controller: Controller, capacity: int) -> str:
    """The estimated time for the rest, from the cells that finished here; empty before the first.

    ``capacity`` is how many cells run at a time, 0 if it is unknown.
    """
    if not controller.seconds or not capacity:
        return ""
    each = sum(controller.seconds) / len(controller.seconds)
    now = time.monotonic()
    begun = sum(min(each, now - controller.started[cell_id]) for cell_id in controller.mine)
    return f"about {duration((each * len(controller.pending()) - begun) / capacity)} left"


class PlainView:
    """A line for each cell that ends, and sometimes a line about the running cells."""

    def __init__(self, metric: str, capacity: int) -> None:
        self.metric = metric
        self.capacity = capacity
        self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)
        self._spoke = time.monotonic()

    def settled(self, cell: Cell, controller: Controller) -> None:
        """Print how a cell ended."""
        ended = len(controller.states) - len(controller.pending())
        self.say(f"[{ended}/{len(controller.states)}] {cell.name} {_ending(cell, controller, self.metric)}")

    def refresh(self, controller: Controller) -> None:
        """Print the running cells, if nothing was printed for a while."""
        if time.monotonic() - self._spoke > QUIET:
            running = _running(controller.mine, controller) or ("queued" if controller.mine else "waiting for others")
            self.say("; ".join(filter(None, [running, time_left(controller, self.capacity)])))

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class LiveView:
    """A table of arms and states that stays in place, with failures printed above it."""

    def __init__(self, metric: str, capacity: int) -> None:
        self.metric = metric
        self.capacity = capacity
        self._live: Live | None = None
        self._drawn = 0.0
        self._controller: Controller | None = None
        self._scores: dict[str, float | None] = {}
        """Cell id -> score of a cell that is done."""

    def say(self, text: str) -> None:
        """Print a line above the table."""
        if self._live is None:  # there was nothing to run
            print(text, flush=True)
        else:
            self._live.console.print(text, markup=False, highlight=False)

    def settled(self, cell: Cell, controller: Controller) -> None:
        """Print a failure."""
        if controller.states[cell.id] is State.FAILED:
            self.say(f"{cell.name} {_ending(cell, controller, self.metric)}")

    def refresh(self, controller: Controller) -> None:
        """Draw the table anew, once a second."""
        self._controller = controller
        if self._live is not None and time.monotonic() - self._drawn > 1:
            self._drawn = time.monotonic()
            self._live.update(self._table(controller), refresh=True)

    def _table(self, controller: Controller) -> Table:
        from rich.markup import escape
        from rich.table import Table

        ended = len(controller.states) - len(controller.pending())
        left = time_left(controller, self.capacity)
        table = Table("arm", *(state.value for state in State), self.metric, "running now")
        table.caption = f"{ended} of {len(controller.states)} cells" + (f", {left}" if left else "")
        for arm, cells in _by_arm(controller):
            counts = Counter(controller.states[cell.id] for cell in cells)
            done = [cell.id for cell in cells if controller.states[cell.id] is State.DONE]
            scores = [score for cell_id in done if (score := self._score(cell_id, controller)) is not None]
            table.add_row(
                escape(arm),
                *(str(counts[state] or "") for state in State),
                f"{sum(scores) / len(scores):.3f}" if scores else "",
                escape(_running([cell.id for cell in cells if cell.id in controller.mine], controller)),
            )
        return table

    def _score(self, cell_id: str, controller: Controller) -> float | None:
        """The score of a cell that is done, read once: the table is drawn every second."""
        if cell_id not in self._scores:
            self._scores[cell_id] = controller.folder(cell_id).results().get(self.metric)
        return self._scores[cell_id]

    def __enter__(self) -> LiveView:
        from rich.live import Live

        self._live = Live(auto_refresh=False)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._live is not None
        if self._controller is not None:
            self._live.update(self._table(self._controller))
        self._live.stop()


@contextmanager
def unfailing_output() -> Iterator[None]:
    """Discard output once it can no longer be written.

    A closed terminal, or an ended ``| tee``, must not stop the running cells.
    """
    output, errors = (cast("TextIO", _Unfailing(stream)) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            yield
        finally:  # otherwise Python does it at exit, and reports an error
            output.flush()
            errors.flush()


class _Unfailing:
    """A text stream to which writing never fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write if that is possible."""
        with self._deaf():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that is possible."""
        with self._deaf():
            self._stream.flush()

    @contextmanager
    def _deaf(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # By the descriptor, so that what the stream has buffered is discarded too.
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_view(metric: str, capacity: int) -> PlainView | LiveView:
    """The live table on a terminal, plain lines otherwise."""
    return LiveView(metric, capacity) if sys.stdout.isatty() else PlainView(metric, capacity)


def _by_arm(controller: Controller) -> Iterator[tuple[str, list[Cell]]]:
    arms: dict[str, list[Cell]] = {}
    for cell in controller.cells:
        arms.setdefault(cell.arm, []).append(cell)
    yield from arms.items()


def _running(cell_ids: Iterable[str], controller: Controller) -> str:
    """The progress of the first few cells that have begun."""
    begun = (cell_id for cell_id in cell_ids if (controller.root / cell_id / "claims").exists())
    shown = [_progress(cell_id, controller) for cell_id in islice(begun, MOST_SHOWN + 1)]
    return ", ".join(shown[:MOST_SHOWN] + ["..."] * (len(shown) > MOST_SHOWN))


def _progress(cell_id: str, controller: Controller) -> str:
    cell = controller.by_id[cell_id]
    row = controller.folder(cell_id).last_row()
    reward = f" reward {row['train/reward']:.2f}" if "train/reward" in row else ""
    return f"{cell.name} {row.get('step', 0)}/{cell.config.optim.updates}{reward}"


def _ending(cell: Cell, controller: Controller, metric: str) -> str:
    if controller.states[cell.id] is State.FAILED:
        failure: dict[str, Any] = controller.folder(cell.id).failure() or {}
        return f"failed ({failure.get('cause')}): {failure.get('message')}; see {controller.root / cell.id}"
    score = controller.folder(cell.id).results().get(metric)
    took = f" in {duration(time.monotonic() - controller.started[cell.id])}" if cell.id in controller.started else ""
    return "done" + ("" if score is None else f", {metric} {score:.3f}") + took
