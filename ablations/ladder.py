"""Ladders: arms of one method at several strengths, which are compared where another measure is held equal.

For each seed the primary measure is read, along the seed's own rungs, at one declared level of that measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ablations.contrasts import Factors, Point
from unigrpo.errors import ConfigError
from unigrpo.registry import nearest


@dataclass(frozen=True)
class At:
    """Where ladders are compared.

    Attributes:
        measure: that is held equal.
        level: of it, in its own unit.
        ladders: name -> its arms, the rungs; all others are compared with the first.
    """

    measure: str
    level: float
    ladders: Mapping[str, tuple[str, ...]]

    def check(self, arms: Iterable[str], comparisons: Sequence[str]) -> None:
        """See to it that there are ladders to compare, and nothing else is planned.

        Raises:
            ConfigError: naming what stands in the way.
        """
        known = [*arms]
        if not math.isfinite(self.level):
            raise ConfigError(f"at.level: expected a finite number, in units of {self.measure}, got {self.level}")
        if len(self.ladders) < 2:
            raise ConfigError(f"at.ladders: expected two or more to compare, got {len(self.ladders)}")
        for name, rungs in self.ladders.items():
            if name in known:
                raise ConfigError(f"at.ladders: {name!r} is the name of an arm; give the ladder another one")
            if "@" in name or not name.isprintable() or name != name.strip():
                raise ConfigError(f"at.ladders: expected a name of printable characters without '@', got {name!r}")
            for rung in rungs:
                if rung not in known:
                    raise ConfigError(f"at.ladders.{name}: no arm is called {rung!r}{nearest(rung, known)}")
            if len({*rungs}) < max(2, len(rungs)):
                raise ConfigError(f"at.ladders.{name}: expected two arms or more, each once, got {[*rungs]}")
        if comparisons:
            raise ConfigError(f"comparisons: with at, its ladders are compared; leave out {[*comparisons]}")


@dataclass(frozen=True)
class Ladder:
    """A ladder at one point of the axes: what is compared in the place of an arm.

    Attributes:
        stem: its name in the grid file.
        factors: where its rungs lie on the axes.
        arms: names of the rungs.
    """

    stem: str
    factors: Factors
    arms: tuple[str, ...]

    #: As of an arm that trains: each seed has a value of its own.
    trained: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Named as an arm at that point would be."""
        return f"{self.stem}@{','.join(self.factors.values())}" if self.factors else self.stem


def ladders(at: At, points: Sequence[Point]) -> Iterator[Ladder]:
    """The ladders of a grid, at each point of the axes at which all of their rungs are."""
    for stem, rungs in at.ladders.items():
        found: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
        for point in points:
            if point.stem in rungs:
                found.setdefault(tuple(point.factors.items()), {})[point.stem] = point.name
        for factors, named in found.items():
            if len(named) == len(rungs):
                yield Ladder(stem, dict(factors), tuple(named[rung] for rung in rungs))


def in_words(at: At, primary: str, found: Sequence[Ladder]) -> str:
    """The whole of it on a line, for the declaration."""
    listed = "; ".join(f"{ladder.name}: {', '.join(sorted(ladder.arms))}" for ladder in found)
    return f"{primary} where {at.measure} is {at.level:g}, along {listed}"
