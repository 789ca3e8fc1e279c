"""The exact judge: reads an image pixel by pixel and applies GenEval's rules to what it finds.

Seeing works in three steps: every pixel goes to the nearest colour of the palette or to grey; connected pixels of one
colour are a component; a component is the shape whose stencil it overlaps best, if it overlaps it well, and a blob if
not.  Nothing is learnt, so nothing can be hacked short of drawing what was asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from unigrpo.data.prompt import Prompt
from unigrpo.worlds.shapes.grammar import COLOURS, PICTURE, QUADRANT, SHAPES, SIZES
from unigrpo.worlds.shapes.prompts import GenEvalPrompt, geneval_prompt
from unigrpo.worlds.shapes.render import PALETTE, Floats, bank, quadrants, stencil
from unigrpo.worlds.shapes.rules import Found, apply_rules
from unigrpo.worlds.shapes.things import Thing, found_things

if TYPE_CHECKING:
    from torch import Tensor

_Ints = NDArray[np.int64]

#: A pixel farther than this from every palette colour is background; below half the distance of two colours it would
#: punch holes into noisy shapes, and much above it orange would pass for red or yellow.
COLOUR_RADIUS = 0.95
#: Fewer pixels than this are a speck: half the area of the smallest shape (a diamond of 9 pixels covers 41).
MIN_AREA = 20
#: Overlap (intersection over union) with the best stencil from which a component counts as a shape.
MIN_OVERLAP = 0.75
#: Distance to the nearest clean image at which about half of the objects are no longer seen.
NO_QUALITY = 0.5
#: Side of the window in which a component is compared with stencils; a larger component is no shape.
_WINDOW = 15


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of one image; soft scores in [0, 1], 1 exactly where the verdict is true."""

    official: bool
    """GenEval's rule: everything asked for is there."""
    strict: bool
    """Official, and no object beyond those asked for."""
    official_soft: float
    strict_soft: float
    extra: int
    """Objects beyond those asked for."""
    reason: str
    """What is wrong, in words; empty if nothing is."""
    distance_to_clean: float
    """Root-mean-square distance, over pixels and channels, to the nearest clean image; lower is cleaner."""
    objects: tuple[Found, ...]

    @property
    def sight(self) -> Sight:
        """What was seen of the image."""
        return Sight(self.objects, self.distance_to_clean)


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of one image."""

    objects: tuple[Found, ...]
    distance_to_clean: float
    """Root-mean-square distance, over pixels and channels, to the nearest clean image; lower is cleaner."""

    @property
    def things(self) -> tuple[Thing, ...]:
        """The objects, with the places that they are in."""
        return found_things(self.objects)

    @property
    def quality(self) -> float:
        """1 for a clean image, falling with the distance to 0 at ``NO_QUALITY``; 0 where there is no object."""
        return max(1 - self.distance_to_clean / NO_QUALITY, 0.0) if self.objects else 0.0

    def __str__(self) -> str:
        return ", ".join(map(str, self.objects)) or "nothing"


def see(images: Tensor | Floats) -> list[Sight]:
    """What is seen of each image.

    Args:
        images: [B, 3, 32, 32] in [-1, 1] (values outside are clipped, as in a saved file), any device or float dtype.

    Raises:
        ValueError: wrong shape, or values that are not finite.
    """
    pixels = as_pixels(images)
    seen = zip(detect(pixels), distance_to_clean(pixels).tolist(), strict=True)
    return [Sight(tuple(objects), distance) for objects, distance in seen]


def judge_images(images: Tensor | Floats, prompts: Sequence[Prompt]) -> list[Verdict]:
    """One verdict per image, as :func:`judge`; GenEval's metadata are in the prompts' ``meta``."""
    return judge(images, list(map(geneval_prompt, prompts)))


def judge(images: Tensor | Floats, prompts: Sequence[GenEvalPrompt]) -> list[Verdict]:
    """One verdict per image.

    Args:
        images: as in :func:`see`.
        prompts: B prompts.

    Raises:
        ValueError: wrong shape, another number of prompts than images, or values that are not finite.
    """
    sights = see(images)
    if len(sights) != len(prompts):
        raise ValueError(f"expected one prompt per image, got {len(prompts)} prompts and {len(sights)} images")
    return [_verdict(sight, prompt) for sight, prompt in zip(sights, prompts, strict=True)]


def _verdict(sight: Sight, prompt: GenEvalPrompt) -> Verdict:
    outcome = apply_rules(sight.objects, prompt)
    reasons = [outcome.reason] if outcome.reason else []
    if outcome.extra:
        reasons.append(f"{outcome.extra} more than asked for, found {sight}")
    return Verdict(
        official=outcome.official,
        strict=outcome.strict,
        official_soft=outcome.official_soft,
        strict_soft=outcome.strict_soft,
        extra=outcome.extra,
        reason="; ".join(reasons),
        distance_to_clean=sight.distance_to_clean,
        objects=sight.objects,
    )


def as_pixels(images: object) -> Floats:
    """Images as a float32 array [B, 3, 32, 32] clipped to [-1, 1].

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    if hasattr(images, "detach"):
        images = images.detach().float().cpu().numpy()
    pixels = np.asarray(images, dtype=np.float32)
    if pixels.ndim != 4 or pixels.shape[1:] != (3, PICTURE, PICTURE):
        raise ValueError(f"images: expected [B, 3, {PICTURE}, {PICTURE}], got {list(pixels.shape)}")
    if not np.isfinite(pixels).all():
        raise ValueError("images: expected finite values, got NaN or infinity")
    return pixels.clip(-1, 1)


def detect(pixels: Floats) -> list[list[Found]]:
    """The objects of each image of [B, 3, 32, 32], most confident first."""
    if len(pixels) == 0:
        return []
    masks = _segment(pixels)
    owners, areas, boxes = _components(masks)
    found: list[list[Found]] = [[] for _ in pixels]
    shapes, whole_boxes, overlaps = _recognise(masks, owners, areas, boxes)
    colours = tuple(COLOURS)
    for row, (picture, colour) in enumerate(owners):
        known = overlaps[row] >= MIN_OVERLAP
        left, top, right, bottom = map(float, (whole_boxes if known else boxes)[row])
        shape = SHAPES[shapes[row]] if known else None
        found[picture].append(Found(shape, colours[colour], (left, top, right, bottom), float(overlaps[row])))
    return [sorted(objects, key=lambda one: -one.score) for objects in found]


def _segment(pixels: Floats) -> NDArray[np.bool_]:
    """Which pixels have which palette colour, [B, 6, 32, 32]: nearer to it than to grey and all others, and near."""
    flat = pixels.reshape(len(pixels), 3, PICTURE**2)
    # |p|^2 - |p - c|^2: greatest for the nearest colour, and 0 for grey
    closeness = 2 * (PALETTE @ flat) - (PALETTE**2).sum(1)[None, :, None]
    best = closeness.max(1)
    near = (best > 0) & ((flat**2).sum(1) - best <= COLOUR_RADIUS**2)
    masks: NDArray[np.bool_] = (closeness == best[:, None]) & near[:, None]
    return masks.reshape(len(pixels), len(PALETTE), PICTURE, PICTURE)


def _components(masks: NDArray[np.bool_]) -> tuple[_Ints, _Ints, _Ints]:
    """(image, colour) [M, 2], areas [M] and boxes [M, 4] of all components that are no specks."""
    from scipy import ndimage

    # one labelling of all masks: neighbours within a mask only, diagonal ones too
    neighbourhood = np.zeros((3, 3, 3), dtype=bool)
    neighbourhood[1] = True
    stack = masks.reshape(-1, PICTURE, PICTURE)
    occupied = np.flatnonzero(stack.any((1, 2)))
    labels, count = ndimage.label(stack[occupied], neighbourhood)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    slices = ndimage.find_objects(labels) if count else []
    areas[0] = 0  # the background
    kept = np.flatnonzero(areas >= MIN_AREA)
    owners = np.zeros((len(kept), 2), dtype=np.int64)
    boxes = np.zeros((len(kept), 4), dtype=np.int64)
    for row, label in enumerate(kept):
        plane, rows, columns = slices[label - 1]
        owners[row] = divmod(occupied[plane.start], masks.shape[1])
        boxes[row] = (columns.start, rows.start, columns.stop, rows.stop)
    return owners, areas[kept], boxes


@cache
def _templates() -> tuple[Floats, _Ints]:
    """Stencils as masks, of every size and shifted by up to a pixel from the middle of the window, [T, 225].

    And [T, 4]: shape, left, top (of the bounding box, in the window) and size of each.
    """
    masks, parameters = [], []
    for (row, shape), size in itertools.product(enumerate(SHAPES), SIZES):
        for down, right in itertools.product((-1, 0, 1), repeat=2):
            window = np.zeros((_WINDOW, _WINDOW), dtype=np.float32)
            left, top = (_WINDOW // 2 - size // 2 + shift for shift in (right, down))
            window[top : top + size, left : left + size] = stencil(shape, size) >= 0.5
            masks.append(window.ravel())
            parameters.append((row, left, top, size))
    return np.stack(masks), np.array(parameters)


def _recognise(masks: NDArray[np.bool_], owners: _Ints, areas: _Ints, boxes: _Ints) -> tuple[_Ints, _Ints, Floats]:
    """The best matching shape of each component [M], its box [M, 4] and the overlap with it [M].

    The box is that of the whole shape, whose faint tips are no part of the component.  Pixels of other components of
    the same colour count if they reach into the window: so near they spoil the shape, and clean images have none.
    """
    middle = _WINDOW // 2
    padded = np.pad(masks, ((0, 0), (0, 0), (middle, middle), (middle, middle)))
    corners = (boxes[:, :2] + boxes[:, 2:]) // 2  # of the window, in the padded image
    steps = np.arange(_WINDOW)
    columns, rows = corners[:, 0, None, None] + steps[None, None, :], corners[:, 1, None, None] + steps[None, :, None]
    windows = padded[owners[:, 0, None, None], owners[:, 1, None, None], rows, columns]
    templates, parameters = _templates()
    shared = windows.reshape(len(owners), _WINDOW**2).astype(np.float32) @ templates.T
    overlap = shared / (areas[:, None] + templates.sum(1)[None, :] - shared)
    best = overlap.argmax(1)
    shapes, left, top, size = parameters[best].T
    start = corners - middle + np.stack((left, top), 1)
    return shapes, np.concatenate((start, start + size[:, None]), 1), overlap[np.arange(len(best)), best]


def distance_to_clean(pixels: Floats) -> Floats:
    """Root-mean-square distance of [B, 3, 32, 32] to the nearest clean image, [B]: exact, quadrant by quadrant.

    A clean image here holds any shape, size, position and colour of the grammar, or nothing, in each quadrant.
    """
    parts = quadrants(pixels).reshape(len(pixels) * 4, 3, QUADRANT**2)
    stencils = bank().reshape(-1, QUADRANT**2)
    shared = (parts.reshape(-1, QUADRANT**2) @ stencils.T).reshape(len(parts), 3, len(stencils))
    # |q - a c|^2 = |q|^2 - 2 c.(a q) + |c|^2 |a|^2 for coverage a and colour c; |q|^2 for the empty quadrant
    change = (PALETTE**2).sum(1)[None, :, None] * (stencils**2).sum(1)[None, None, :] - 2 * (PALETTE @ shared)
    squared = (parts**2).sum((1, 2)) + change.min((1, 2)).clip(max=0)
    distance: Floats = np.sqrt(squared.reshape(-1, 4).sum(1).clip(min=0) / (3 * PICTURE**2))
    return distance
