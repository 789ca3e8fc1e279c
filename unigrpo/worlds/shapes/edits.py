"""Edits: what they say, and what they demand of the image after them.

An edit names its object by the shape.  What it demands is a set of allowed *targets* rather than one image: a new
object may go to any free place, and of three like objects any may go.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from unigrpo.worlds.shapes.grammar import COLOURS, PLURALS, SHAPES, Scene, random_item
from unigrpo.worlds.shapes.prompts import COUNT_WORDS
from unigrpo.worlds.shapes.things import Thing, found_things

#: Most objects of a scene that edits lead to: one of the four places stays free to move or add to.
MOST = 3


@dataclass(frozen=True, slots=True)
class Aim:
    """One object of the image after an edit, and in which respects (fields of ``Thing``) the edit changes it."""

    thing: Thing
    edited: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tally:
    """How many objects of a shape there are to be after an edit, and how far from it the image before was (>= 1)."""

    shape: str
    count: int
    distance: int


@dataclass(frozen=True, slots=True)
class Target:
    """One allowed outcome of an edit."""

    aims: tuple[Aim, ...]
    tally: Tally | None = None


_NEW = frozenset({"shape", "colour"})


def _keep(things: Sequence[Thing]) -> tuple[Aim, ...]:
    return tuple(map(Aim, things))


def _referents(things: Sequence[Thing], shape: str) -> list[tuple[Thing, tuple[Thing, ...]]]:
    """Each thing that 'the ``shape``' may mean, with all the others."""
    return [(one, (*things[:i], *things[i + 1 :])) for i, one in enumerate(things) if one.shape == shape]


def _unique(scene: Scene) -> list[str]:
    """Shapes of which there is exactly one."""
    shapes = [item.shape for item in scene.items]
    return [shape for shape in shapes if shapes.count(shape) == 1]


def _absent(scene: Scene) -> list[str]:
    shapes = {item.shape for item in scene.items}
    return [shape for shape in SHAPES if shape not in shapes]


@dataclass(frozen=True)
class Add:
    """A new object, anywhere."""

    kind: ClassVar[str] = "add"
    shape: str
    colour: str

    def __str__(self) -> str:
        return f"add a {self.colour} {self.shape}"

    def targets(self, before: Sequence[Thing]) -> list[Target]:
        """All that was there, and the new object."""
        return [Target((*_keep(before), Aim(Thing(self.shape, self.colour), _NEW)))]

    @classmethod
    def propose(cls, scene: Scene, rng: random.Random) -> Add | None:
        """A random one that makes sense in ``scene``; None if none does (the same of all edits)."""
        if len(scene.items) >= MOST:
            return None
        return cls(rng.choice(_absent(scene)), rng.choice(tuple(COLOURS)))


@dataclass(frozen=True)
class Remove:
    """One object goes."""

    kind: ClassVar[str] = "remove"
    shape: str

    def __str__(self) -> str:
        return f"remove the {self.shape}"

    def targets(self, before: Sequence[Thing]) -> list[Target]:
        """All that was there but objects of the shape."""
        others = [thing for thing in before if thing.shape != self.shape]
        return [Target(_keep(others), Tally(self.shape, 0, max(len(before) - len(others), 1)))]

    @classmethod
    def propose(cls, scene: Scene, rng: random.Random) -> Remove | None:
        """A random one that leaves something."""
        shapes = _unique(scene)
        return cls(rng.choice(shapes)) if shapes and len(scene.items) > 1 else None


@dataclass(frozen=True)
class Replace:
    """Another object where one was."""

    kind: ClassVar[str] = "replace"
    shape: str
    colour: str
    new_shape: str

    def __str__(self) -> str:
        return f"replace the {self.shape} with a {self.colour} {self.new_shape}"

    def targets(self, before: Sequence[Thing]) -> list[Target]:
        """The new object in place of the old one; anywhere if there is no old one."""
        return [
            Target((*_keep(others), Aim(replace(old, shape=self.new_shape, colour=self.colour), _NEW)))
            for old, others in _referents(before, self.shape) or [(Thing(), tuple(before))]
        ]

    @classmethod
    def propose(cls, scene: Scene, rng: random.Random) -> Replace | None:
        """A random one, by a shape that is not there."""
        shapes = _unique(scene)
        if not shapes:
            return None
        return cls(rng.choice(shapes), rng.choice(tuple(COLOURS)), rng.choice(_absent(scene)))


@dataclass(frozen=True)
class Recolour:
    """One object in another colour."""

    kind: ClassVar[str] = "recolour"
    shape: str
    colour: str

    def __str__(self) -> str:
        return f"turn the {self.shape} {self.colour}"

    def targets(self, before: Sequence[Thing]) -> list[Target]:
        """The object in the new colour where it was; anywhere if it was not there."""
        targets = [
            Target((*_keep(others), Aim(replace(old, colour=self.colour), frozenset({"colour"}))))
            for old, others in _referents(before, self.shape)
        ]
        return targets or [Target((*_keep(before), Aim(Thing(self.shape, self.colour), _NEW)))]

    @classmethod
    def propose(cls, scene: Scene, rng: random.Random) -> Recolour | None:
        """A random one that changes the colour."""
        shapes = _unique(scene)
        if not shapes:
            return None
        shape = rng.choice(shapes)
        (now,) = (item.colour for item in scene.items if item.shape == shape)
        return cls(shape, rng.choice([colour for colour in COLOURS if colour != now]))


@dataclass(frozen=True)
class Move:
    """One object in another place."""

    kind: ClassVar[str] = "move"
    shape: str
    place: str

    def __str__(self) -> str:
        return f"move the {self.shape} to the {self.place}"

    def targets(self, before: Sequence[Thing]) -> list[Target]:
        """The object in its new place; what else was in that place may go anywhere."""
        targets = []
        for old, others in _referents(before, self.shape) or [(Thing(self.shape), tuple(before))]:
            rest = [replace(one, place=None, centre=None) if one.place == self.place else one for one in others]
            edited = frozenset({"place"} if old in before else {"place", "shape"})
            targets.append(Target((*_keep(rest), Aim(replace(old, place=self.place, centre=None), edited))))
        return targets

    @classmethod
    def propose(cls, scene: Scene, rng: random.Random) -> Move | None:
        """A random one to a free place."""
        shapes = _unique(scene)
        return cls(rng.choice(shapes), rng.choice(scene.free_places)) if shapes and scene.free_places else None


@dataclass(frozen=True)
class Count:
    """One more, or one fewer, of a scene of like objects."""

    kind: ClassVar[str] = "count"
    shape: str
    count: int

    def __str__(self) -> str:
        name = self.shape if self.count == 1 else PLURALS[self.shape]
        return f"make it {COUNT_WORDS.get(self.count, 'one')} {name}"

    def targets(self, before: Sequence[Thing]) -> list[Target]:
        """As many as there were to be, any of the old ones and new ones like them."""
        old = [thing for thing in before if thing.shape == self.shape]
        others = [thing for thing in before if thing.shape != self.shape]
        like = Thing(self.shape, old[0].colour if old else None)
        tally = Tally(self.shape, self.count, max(abs(self.count - len(old)), 1))
        new = (Aim(like, _NEW),) * (self.count - len(old))
        kept = itertools.combinations(old, min(self.count, len(old)))
        return [Target((*_keep((*others, *some)), *new), tally) for some in kept]

    @classmethod
    def propose(cls, scene: Scene, rng: random.Random) -> Count | None:
        """A random one, where all objects are alike."""
        if len({(item.shape, item.colour) for item in scene.items}) != 1:
            return None
        now = len(scene.items)
        return cls(scene.items[0].shape, rng.choice([n for n in (now - 1, now + 1) if 1 <= n <= MOST]))


Edit = Add | Remove | Replace | Recolour | Move | Count
#: Type -> edit, in the order of reports.
EDITS: Mapping[str, type[Edit]] = {edit.kind: edit for edit in (Add, Remove, Replace, Recolour, Move, Count)}


def apply_edit(edit: Edit, scene: Scene, rng: random.Random) -> Scene:
    """A random allowed outcome: what the edit leaves free is drawn, all else stays to the pixel.

    A new object for which there is no place is left out, and the last object is not removed.
    """
    target = rng.choice(edit.targets(found_things(scene.items)))
    here = {item.place: item for item in scene.items}
    after = Scene(())
    # objects with a place first, so that the others know what is free
    for aim in sorted(target.aims, key=lambda aim: aim.thing.place is None):
        thing = aim.thing
        if thing.place in here and "place" not in aim.edited:
            old = here[thing.place]
            after = after.add(replace(old, shape=thing.shape or old.shape, colour=thing.colour or old.colour))
        elif thing.place or after.free_places:
            place = thing.place or rng.choice(after.free_places)
            after = after.add(random_item(rng, place, thing.shape, thing.colour))
    return after if after.items else scene
