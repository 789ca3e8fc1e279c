"""What an image holds: scenes of coloured shapes, at most one in each quadrant.

Everything here is immutable; an edit is a new scene.  Places are named in reading order.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

#: Side of an image and of one of its four quadrants, in pixels.
PICTURE, QUADRANT = 32, 16
#: Side of a shape's bounding box, and the free border that keeps two shapes from touching.
SIZES, MARGIN = (9, 10, 11), 1

SHAPES = ("circle", "square", "triangle", "cross", "diamond")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses", "diamond": "diamonds"}

#: RGB in [-1, 1]. Corners of the colour cube, drawn in a little so that noise is not clipped: at least 1.4 from grey
#: and 1.6 from each other. White and not black, which would be next to three of the others instead of two.
COLOURS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.9, -0.9, -0.9),
    "yellow": (0.9, 0.9, -0.9),
    "green": (-0.9, 0.9, -0.9),
    "blue": (-0.9, -0.9, 0.9),
    "purple": (0.7, -0.9, 0.9),
    "white": (0.9, 0.9, 0.9),
}

#: Place -> left and top pixel of its quadrant, in reading order.
PLACES: Mapping[str, tuple[int, int]] = {
    "top left": (0, 0),
    "top right": (QUADRANT, 0),
    "bottom left": (0, QUADRANT),
    "bottom right": (QUADRANT, QUADRANT),
}

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Item:
    """One shape: ``x`` and ``y`` are the left and top pixel of its bounding box of ``size`` pixels."""

    shape: str
    colour: str
    place: str
    size: int
    x: int
    y: int

    @property
    def box(self) -> Box:
        """Left, top, right, bottom; right and bottom exclusive."""
        return (self.x, self.y, self.x + self.size, self.y + self.size)


def random_item(rng: random.Random, place: str, shape: str | None = None, colour: str | None = None) -> Item:
    """An item of free size and position in ``place``; shape and colour are drawn where they are not given."""
    left, top = PLACES[place]
    size = rng.choice(SIZES)
    last = QUADRANT - MARGIN - size
    return Item(
        shape=shape or rng.choice(SHAPES),
        colour=colour or rng.choice(tuple(COLOURS)),
        place=place,
        size=size,
        x=left + rng.randint(MARGIN, last),
        y=top + rng.randint(MARGIN, last),
    )


@dataclass(frozen=True)
class Scene:
    """The items of an image, in reading order of their places.

    Raises:
        ValueError: two items in one place.
    """

    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        order = list(PLACES)
        if len({item.place for item in self.items}) < len(self.items):
            raise ValueError(f"at most one item in a place, got {[item.place for item in self.items]}")
        object.__setattr__(self, "items", tuple(sorted(self.items, key=lambda item: order.index(item.place))))

    @property
    def free_places(self) -> tuple[str, ...]:
        """The places that hold nothing, in reading order."""
        taken = {item.place for item in self.items}
        return tuple(place for place in PLACES if place not in taken)

    def add(self, item: Item) -> Scene:
        """The scene with ``item``, whose place must be free."""
        return Scene((*self.items, item))

    def remove(self, item: Item) -> Scene:
        """The scene without ``item``."""
        return Scene(tuple(other for other in self.items if other != item))

    def change(self, item: Item, *, shape: str | None = None, colour: str | None = None) -> Scene:
        """The scene in which ``item`` has another shape or colour and stays where it is."""
        changed = replace(item, shape=shape or item.shape, colour=colour or item.colour)
        return self.remove(item).add(changed)
