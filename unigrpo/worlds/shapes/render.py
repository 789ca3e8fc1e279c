"""Scenes to images: a bank of antialiased stencils, one gather and one product for a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from unigrpo.worlds.shapes.grammar import COLOURS, MARGIN, PICTURE, PLACES, QUADRANT, SHAPES, SIZES, Scene

Floats = NDArray[np.float32]

#: Sub-pixels per pixel and axis from which coverage is counted.
_OVERSAMPLING = 8

#: RGB of every colour, [6, 3].
PALETTE: Floats = np.array(list(COLOURS.values()), dtype=np.float32)

#: Every (size, x, y) inside a quadrant, and the row of each in the bank.
PLACEMENTS = tuple(
    (size, x, y)
    for size in SIZES
    for y in range(MARGIN, QUADRANT - MARGIN - size + 1)
    for x in range(MARGIN, QUADRANT - MARGIN - size + 1)
)
_ROW = {placement: row for row, placement in enumerate(PLACEMENTS)}
_SHAPE = {shape: row for row, shape in enumerate(SHAPES)}
_COLOUR = {colour: row for row, colour in enumerate(COLOURS)}
_PLACE = {place: row for row, place in enumerate(PLACES)}


@cache
def stencil(shape: str, size: int) -> Floats:
    """Coverage in [0, 1] of each pixel of the bounding box of ``shape``, [size, size]."""
    n = size * _OVERSAMPLING
    axis = (np.arange(n) + 0.5) * 2 / n - 1
    u, v = axis[None, :], axis[:, None]
    inside = {
        "circle": u**2 + v**2 <= 1,
        "square": np.ones((n, n), dtype=bool),
        "triangle": np.abs(u) <= (v + 1) / 2,
        "cross": (np.abs(u) <= 0.4) | (np.abs(v) <= 0.4),
        "diamond": np.abs(u) + np.abs(v) <= 1,
    }[shape]
    coverage: Floats = inside.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING).mean((1, 3), dtype=np.float32)
    coverage.setflags(write=False)
    return coverage


@cache
def bank() -> Floats:
    """Coverage of a quadrant by every shape in every placement, [5, placements, 16, 16]."""
    stencils = np.zeros((len(SHAPES), len(PLACEMENTS), QUADRANT, QUADRANT), dtype=np.float32)
    for row, shape in enumerate(SHAPES):
        for column, (size, x, y) in enumerate(PLACEMENTS):
            stencils[row, column, y : y + size, x : x + size] = stencil(shape, size)
    stencils.setflags(write=False)
    return stencils


def quadrants(pictures: Floats) -> Floats:
    """[B, 3, 32, 32] -> [B, 4, 3, 16, 16], places in reading order (a copy)."""
    split = pictures.reshape(-1, 3, 2, QUADRANT, 2, QUADRANT)
    joined: Floats = split.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 4, 3, QUADRANT, QUADRANT)
    return joined


def render(scenes: Sequence[Scene]) -> Floats:
    """Images [B, 3, 32, 32] in [-1, 1] of ``scenes`` on grey (0)."""
    parts = np.zeros((len(scenes), 4, 3, QUADRANT, QUADRANT), dtype=np.float32)
    index = [
        (row, _PLACE[item.place], _SHAPE[item.shape], _COLOUR[item.colour], _placement(item.size, item.x, item.y))
        for row, scene in enumerate(scenes)
        for item in scene.items
    ]
    if index:
        row, place, shape, colour, placement = np.array(index).T
        parts[row, place] = PALETTE[colour][:, :, None, None] * bank()[shape, placement][:, None]
    grid = parts.reshape(-1, 2, 2, 3, QUADRANT, QUADRANT).transpose(0, 3, 1, 4, 2, 5)
    pictures: Floats = grid.reshape(-1, 3, PICTURE, PICTURE)
    return pictures


def _placement(size: int, x: int, y: int) -> int:
    return _ROW[size, x % QUADRANT, y % QUADRANT]
