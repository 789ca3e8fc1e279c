"""Hypothesis generators of items, scenes, plans and prompts."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import strategies as st

from unigrpo.data.dataset import SPLITS
from unigrpo.worlds.shapes.edit_prompts import random_chain
from unigrpo.worlds.shapes.edits import EDITS, Edit
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import COLOURS, MARGIN, PLACES, QUADRANT, SHAPES, SIZES, Item, Scene
from unigrpo.worlds.shapes.judge import Sight
from unigrpo.worlds.shapes.prompts import TASKS, GenEvalPrompt, by_task
from unigrpo.worlds.shapes.rules import Found, objects_of
from unigrpo.worlds.shapes.stories import STEPS, Story, random_story
from unigrpo.worlds.shapes.things import Thing, found_things
from unigrpo.worlds.shapes.thinking import Plan, Planned


@st.composite
def items(draw: st.DrawFn, place: str) -> Item:
    size = draw(st.sampled_from(SIZES))
    left, top = PLACES[place]
    offset = st.integers(MARGIN, QUADRANT - MARGIN - size)
    return Item(
        draw(st.sampled_from(SHAPES)),
        draw(st.sampled_from(list(COLOURS))),
        place,
        size,
        left + draw(offset),
        top + draw(offset),
    )


def places(least: int = 1, most: int = 4) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(list(PLACES)), min_size=least, max_size=most, unique=True)


@st.composite
def scenes(draw: st.DrawFn, least: int = 1, most: int = 4) -> Scene:
    return Scene(tuple(draw(items(place)) for place in draw(places(least, most))))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    return tuple(
        Planned(place, draw(st.sampled_from([*COLOURS, None])), draw(st.sampled_from([*SHAPES, None])))
        for place in draw(places(0))
    )


@st.composite
def prompts(draw: st.DrawFn, *tags: str) -> GenEvalPrompt:
    tag = draw(st.sampled_from(tags or TASKS))
    every = by_task(draw(st.sampled_from(SPLITS)))[tag]
    return every[draw(st.integers(0, len(every) - 1))]


@st.composite
def right_scenes(draw: st.DrawFn, *tags: str) -> tuple[GenEvalPrompt, Scene]:
    """A prompt (of one of ``tags``) and a scene that meets it strictly."""
    prompt = draw(prompts(*tags))
    return prompt, satisfying_scene(prompt, random.Random(draw(st.integers(0, 2**32))))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[float, float, float, float]:
    """Boxes on a grid of half pixels, so that ties and boundaries occur."""
    left, top = (draw(st.integers(0, 40)) / 2 for _ in range(2))
    return left, top, left + draw(st.integers(2, 30)) / 2, top + draw(st.integers(2, 30)) / 2


@st.composite
def found(draw: st.DrawFn) -> Found:
    return Found(
        draw(st.sampled_from([*SHAPES, None])),
        draw(st.sampled_from([*COLOURS, None])),
        draw(boxes()),
        draw(st.integers(0, 10)) / 10,
    )


@st.composite
def things(draw: st.DrawFn) -> Thing:
    """Whole or in part unknown."""
    (thing,) = found_things(draw(scenes(most=1)).items)
    unknown = draw(st.sets(st.sampled_from(["shape", "colour", "place", "centre"])))
    return replace(thing, **dict.fromkeys(unknown))


@st.composite
def edits(draw: st.DrawFn, *kinds: str) -> tuple[Edit, Scene, Scene]:
    """An edit (of one of ``kinds``) with the scenes before and after it."""
    kind = draw(st.sampled_from(kinds or list(EDITS)))
    (edit,), chain = random_chain(
        draw(st.sampled_from(SPLITS)), (kind,), (1, 2, 3), random.Random(draw(st.integers(0, 2**32)))
    )
    return edit, *chain


@st.composite
def stories(draw: st.DrawFn) -> tuple[Story, tuple[Scene, ...]]:
    """A story and scenes that tell it."""
    split, steps = draw(st.sampled_from(SPLITS)), draw(st.sampled_from(STEPS))
    return random_story(split, steps, random.Random(draw(st.integers(0, 2**32))))


def sight(scene: Scene, distance_to_clean: float = 0.0) -> Sight:
    """What a perfect eye sees of a picture of ``scene``."""
    return Sight(tuple(objects_of(scene.items)), distance_to_clean)
