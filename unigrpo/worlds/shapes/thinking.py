"""The thinking text: one clause per object, place first and shape last, in reading order.

``top left red circle . bottom right some shape .`` is a plan for two objects, the second of which is vague in colour
and in shape.  Place first, because the place is known before the object is chosen; reading order, because it gives
every scene exactly one text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES, Scene

VAGUE_COLOUR, VAGUE_SHAPE, STOP = "some", "shape", "."
_CLAUSE = 5  # words: two for the place, colour, shape, stop


@dataclass(frozen=True, slots=True)
class Planned:
    """One clause of a plan; None is vague."""

    place: str
    colour: str | None
    shape: str | None


Plan = tuple[Planned, ...]


def plan_of(scene: Scene) -> Plan:
    """The plan that says all of ``scene`` (but sizes and exact positions, for which there are no words)."""
    return tuple(Planned(item.place, item.colour, item.shape) for item in scene.items)


def write_thinking(plan: Iterable[Planned]) -> str:
    """The text of ``plan``, clauses in reading order of their places."""
    order = list(PLACES)
    clauses = sorted(plan, key=lambda planned: order.index(planned.place))
    return " ".join(
        f"{planned.place} {planned.colour or VAGUE_COLOUR} {planned.shape or VAGUE_SHAPE} {STOP}" for planned in clauses
    )


def parse_thinking(text: str) -> Plan | None:
    """The plan that ``text`` states, or None if it is malformed; any order of clauses is understood.

    Never raises, whatever the words.
    """
    words = text.split()
    if len(words) % _CLAUSE:
        return None
    plan = []
    for start in range(0, len(words), _CLAUSE):
        vertical, horizontal, colour, shape, stop = words[start : start + _CLAUSE]
        known = (
            f"{vertical} {horizontal}" in PLACES
            and (colour == VAGUE_COLOUR or colour in COLOURS)
            and (shape == VAGUE_SHAPE or shape in SHAPES)
            and stop == STOP
        )
        if not known:
            return None
        plan.append(
            Planned(
                f"{vertical} {horizontal}",
                None if colour == VAGUE_COLOUR else colour,
                None if shape == VAGUE_SHAPE else shape,
            )
        )
    if len({planned.place for planned in plan}) < len(plan):
        return None
    return tuple(plan)
