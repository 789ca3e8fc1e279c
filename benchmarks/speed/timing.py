"""Paired timing: variants take turns within one run, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Clock = Literal["cpu", "wall"]


@dataclass(frozen=True)
class Spent:
    """Seconds of one call: of the process on all its threads, and on the wall."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Quartiles:
    """Median and interquartile range of a few numbers."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """The quartiles of at least two values, interpolated between them."""
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def spent_by(call: Callable[[], object]) -> Spent:
    """Time one call, work that it left on a GPU included."""
    stop = stopwatch()
    call()
    return stop()


def stopwatch() -> Callable[[], Spent]:
    """Begin to count; what comes back tells the seconds since."""
    cpu, wall = time.process_time(), time.perf_counter()

    def stop() -> Spent:
        _wait_for_gpu()
        return Spent(time.process_time() - cpu, time.perf_counter() - wall)

    return stop


def take_turns(variants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[Spent]]:
    """Time every variant ``repeats`` times, after one round that does not count.

    The order is reversed from round to round: nobody always goes first.
    """
    found: dict[str, list[Spent]] = {name: [] for name in variants}
    for turn in range(repeats + 1):
        for name in list(variants)[:: 1 if turn % 2 else -1]:
            spent = spent_by(variants[name])
            if turn:
                found[name].append(spent)
    return found


def ratio(numerator: Sequence[Spent], denominator: Sequence[Spent], clock: Clock) -> Quartiles:
    """Quartiles of the ratios within each round."""
    return Quartiles.of([getattr(a, clock) / getattr(b, clock) for a, b in zip(numerator, denominator, strict=True)])


def _wait_for_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
