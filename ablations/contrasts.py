"""What is compared with what: arms at equal other factors, averaged over them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

#: Of an arm: key of an axis -> its level there, in words.
Factors = Mapping[str, str]


class Point(Protocol):
    """An arm of a grid at one point of its axes."""

    @property
    def name(self) -> str:
        """The arm's whole name."""
        ...

    @property
    def stem(self) -> str:
        """Its name in the grid file, which all points share."""
        ...

    @property
    def factors(self) -> Factors:
        """Where it lies on the axes that it has the keys for."""
        ...


@dataclass(frozen=True)
class Contrast:
    """One planned comparison: for each seed, the mean over the couples of their first arm minus their second.

    Attributes:
        arm: name of what is compared.
        other: name of what it is compared with.
        couples: names of the arms, which differ within a couple in nothing else.
    """

    arm: str
    other: str
    couples: tuple[tuple[str, str], ...]

    @property
    def words(self) -> str:
        """The whole of it on a line."""
        if len(self.couples) == 1:
            return f"{self.arm} − {self.other}"
        return f"{self.arm} − {self.other}, the mean of {', '.join(f'{one} − {two}' for one, two in self.couples)}"


def contrasts(points: Sequence[Point], baseline: str, planned: Sequence[str]) -> list[Contrast]:
    """The planned comparisons of a grid.

    Each planned arm of the file is compared with the baseline at equal levels of the axes that both have: one
    comparison, the main effect, averaged over these levels.  An axis that only the planned arm has makes a comparison
    of each of its levels; on an axis that only the baseline has, its first level counts.  If the file has the baseline
    alone, its axes are the question: each further level of an axis is compared with the first.

    Args:
        points: the arms that can run, in the order of the grid.
        baseline: name of an arm of the file.
        planned: names of arms of the file that are to be compared with it.
    """
    bases = [point for point in points if point.stem == baseline]
    if not bases:
        return []
    if any(point.stem != baseline for point in points):
        found = (_of_arm(name, [point for point in points if point.stem == name], bases) for name in planned)
    else:
        found = (_of_axis(key, bases) for key in bases[0].factors)
    return [*itertools.chain.from_iterable(found)]


def partners(points: Sequence[Point], baseline: str) -> dict[str, str]:
    """Arm -> the baseline that it is held against in every measure, at equal levels of the axes that both have.

    Another level of the baseline itself is held against the first if it differs in one axis.
    """
    bases = [point for point in points if point.stem == baseline]
    found = {}
    for point in points:
        if point.stem != baseline:
            for _, two in itertools.chain.from_iterable(c.couples for c in _of_arm(point.stem, [point], bases)):
                found[point.name] = two
        elif sum(point.factors[key] != bases[0].factors[key] for key in point.factors) == 1:
            found[point.name] = bases[0].name
    return found


def _of_arm(name: str, points: Sequence[Point], bases: Sequence[Point]) -> Iterator[Contrast]:
    if not points or not bases:
        return
    shared = [key for key in points[0].factors if key in bases[0].factors]
    first = {key: level for key, level in bases[0].factors.items() if key not in shared}
    partners = {_levels(base, shared): base for base in bases if first.items() <= base.factors.items()}
    own: dict[tuple[str, ...], list[tuple[Point, Point]]] = {}
    for point in points:
        partner = partners.get(_levels(point, shared))
        rest = tuple(level for key, level in point.factors.items() if key not in shared)
        if partner is not None:
            own.setdefault(rest, []).append((point, partner))
    for rest, couples in own.items():
        suffix = f"@{','.join(rest)}" if rest else ""
        yield _contrast(f"{name}{suffix}", bases[0].stem, couples)


def _of_axis(key: str, points: Sequence[Point]) -> Iterator[Contrast]:
    others = [other for other in points[0].factors if other != key]
    levels = [*dict.fromkeys(point.factors[key] for point in points)]
    at = {level: {_levels(p, others): p for p in points if p.factors[key] == level} for level in levels}
    for level in levels[1:]:
        couples = [(point, at[levels[0]][rest]) for rest, point in at[level].items() if rest in at[levels[0]]]
        if couples:
            yield _contrast(level, levels[0], couples)


def _contrast(arm: str, other: str, couples: Sequence[tuple[Point, Point]]) -> Contrast:
    names = tuple((one.name, two.name) for one, two in couples)
    return Contrast(*names[0], names) if len(names) == 1 else Contrast(arm, other, names)


def _levels(point: Point, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(point.factors[key] for key in keys)
