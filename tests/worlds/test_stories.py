from __future__ import annotations

import json

import pytest
from hypothesis import given

from tests.worlds.scenes import stories
from unigrpo.worlds.shapes.edit_prompts import PROMPTS
from unigrpo.worlds.shapes.edits import Add, Count, Move, Recolour, Remove, Replace
from unigrpo.worlds.shapes.stories import Story, stories_by_length
from unigrpo.worlds.shapes.things import Thing, found_things, match
from unigrpo.worlds.shapes.vocabulary import vocabulary

CIRCLE, SQUARE = Thing("circle", "red"), Thing("square", "blue")


@pytest.mark.parametrize(
    ("story", "prompt", "wanted"),
    [
        (
            Story((CIRCLE, SQUARE), (Remove("circle"), Recolour("square", "green"))),
            "tell in three pictures a red circle and a blue square then remove the circle then turn the square green",
            [(CIRCLE, SQUARE), (SQUARE,), (Thing("square", "green"),)],
        ),
        (
            Story((CIRCLE, CIRCLE), (Count("circle", 3),)),
            "tell in two pictures two red circles then make it three circles",
            [(CIRCLE, CIRCLE), (CIRCLE, CIRCLE, CIRCLE)],
        ),
        (
            Story((CIRCLE,), (Move("circle", "top left"), Add("square", "blue"))),
            "tell in three pictures a red circle then move the circle to the top left then add a blue square",
            [(CIRCLE,), (Thing("circle", "red", "top left"),), (Thing("circle", "red", "top left"), SQUARE)],
        ),
        (
            Story((CIRCLE,), (Replace("circle", "blue", "square"),)),
            "tell in two pictures a red circle then replace the circle with a blue square",
            [(CIRCLE,), (SQUARE,)],
        ),
    ],
)
def test_a_story_in_words_and_what_each_picture_is_to_show(story, prompt, wanted):
    assert story.prompt == prompt
    assert story.wanted == tuple(wanted)
    assert story.steps == len(wanted)
    assert story.tag == f"steps-{len(wanted)}"
    assert story.key.startswith(story.tag)
    assert json.loads(story.to_json()) == {"tag": story.tag, "steps": len(wanted), "prompt": prompt}


@given(stories())
def test_scenes_that_tell_a_story_show_what_is_wanted(told):
    story, scenes = told
    assert len(scenes) == story.steps
    for scene, wanted in zip(scenes, story.wanted, strict=True):
        assert match(wanted, found_things(scene.items)) == 1


@given(stories())
def test_an_edit_of_a_story_never_has_to_choose(told):
    story, _ = told
    for edit, before in zip(story.edits, story.wanted, strict=False):
        outcomes = [sorted(map(repr, (aim.thing for aim in target.aims))) for target in edit.targets(before)]
        assert all(outcome == outcomes[0] for outcome in outcomes)


def test_every_length_has_its_stories_in_words_of_the_vocabulary():
    for split, count in PROMPTS.items():
        by_length = stories_by_length(split)
        assert list(by_length) == ["steps-2", "steps-3"]
        for tag, told in by_length.items():
            assert len({story.key for story in told}) == len({story.prompt for story in told}) == count
            assert {story.tag for story in told} == {tag}
            assert {word for story in told for word in story.prompt.split()} <= set(vocabulary())
            assert {edit.kind for story in told for edit in story.edits} == {
                "add",
                "remove",
                "replace",
                "recolour",
                "move",
                "count",
            }
