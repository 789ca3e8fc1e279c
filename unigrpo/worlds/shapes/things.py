"""Things: objects as far as they are known or asked for, and how well some objects are what was asked for.

Plans, scenes and what the judge finds in an image all become things, so that one rule compares any two of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from unigrpo.worlds.shapes.grammar import PLACES, QUADRANT, Item
from unigrpo.worlds.shapes.rules import Found
from unigrpo.worlds.shapes.thinking import Planned

#: A centre that shifts by no more than the first has stayed where it was; by the second or more it has left (pixels).
STILL, LEFT = 1.0, 4.0


@dataclass(frozen=True, slots=True)
class Thing:
    """An object; None is unknown, and free where the thing is asked for."""

    shape: str | None = None
    colour: str | None = None
    place: str | None = None
    centre: tuple[float, float] | None = None
    """In pixels from the left and from the top."""


def planned_things(plan: Iterable[Planned]) -> tuple[Thing, ...]:
    """What a plan states; centres are unknown."""
    return tuple(Thing(planned.shape, planned.colour, planned.place) for planned in plan)


def found_things(objects: Iterable[Found | Item]) -> tuple[Thing, ...]:
    """What an image or a scene holds, in reading order of the places; the place is the quadrant of the centre."""
    things = []
    for found in objects:
        left, top, right, bottom = found.box
        x, y = (left + right) / 2, (top + bottom) / 2
        place = 2 * (y >= QUADRANT) + (x >= QUADRANT)
        things.append((place, x, y, Thing(found.shape, found.colour, tuple(PLACES)[place], (x, y))))
    return tuple(thing for *_, thing in sorted(things, key=lambda found: found[:3]))


def closeness(wanted: tuple[float, float], shown: tuple[float, float]) -> float:
    """1 where a centre stayed, 0 where it left, linear between; by the greater of the two shifts."""
    shift = max(abs(one - other) for one, other in zip(wanted, shown, strict=True))
    return min(max((LEFT - shift) / (LEFT - STILL), 0.0), 1.0)


def terms(wanted: Thing, shown: Thing) -> dict[str, float]:
    """How right ``shown`` is in each respect that ``wanted`` leaves not free, each in [0, 1].

    The centre of a thing that has none (of a plan) is no respect.
    """
    right: dict[str, float] = {}
    for name in ("shape", "colour", "place"):
        value = getattr(wanted, name)
        if value is not None:
            right[name] = float(getattr(shown, name) == value)
    if wanted.centre is not None and shown.centre is not None:
        right["centre"] = closeness(wanted.centre, shown.centre)
    return right


def resemblance(wanted: Thing, shown: Thing) -> float:
    """Mean of the terms, 0 for another shape, in [0, 1]."""
    right = terms(wanted, shown)
    if right.get("shape") == 0:
        return 0.0
    return sum(right.values()) / len(right) if right else 1.0


def assign(scores: Sequence[Sequence[float]]) -> list[int | None]:
    """The column assigned to each row, one to one, so that the sum of scores is greatest; None if none is left."""
    from scipy.optimize import linear_sum_assignment

    columns: list[int | None] = [None] * len(scores)
    if scores and scores[0]:
        for row, column in zip(*linear_sum_assignment(scores, maximize=True), strict=True):
            columns[row] = int(column)
    return columns


def match(wanted: Sequence[Thing], shown: Sequence[Thing]) -> float:
    """How well ``shown`` is ``wanted``, in [0, 1]: 1 exactly if every thing is there, as wanted, and no other.

    The mean resemblance under the best assignment, divided by one more than the number of things too many.
    """
    scores = [[resemblance(one, other) for other in shown] for one in wanted]
    matched = [scores[row][column] for row, column in enumerate(assign(scores)) if column is not None]
    extra = max(len(shown) - len(wanted), 0)
    return (math.fsum(matched) / len(wanted) if wanted else 1.0) / (1 + extra)
