from __future__ import annotations

import itertools
import json
import random

import pytest

from unigrpo.data.dataset import SPLITS
from unigrpo.worlds.shapes.dataset import Shapes
from unigrpo.worlds.shapes.edit_prompts import PROMPTS, TURNS, distinct, edits_by_type, random_edit_prompt
from unigrpo.worlds.shapes.edits import EDITS, MOST, apply_edit
from unigrpo.worlds.shapes.stories import random_story, stories_by_length
from unigrpo.worlds.shapes.vocabulary import vocabulary


def meanings(scene, edits) -> set[tuple[object, str]]:
    """(What a scene holds, places apart; the edit) at each turn."""
    found = set()
    rng = random.Random(0)
    for edit in edits:
        found.add((tuple(sorted((item.colour, item.shape) for item in scene.items)), str(edit)))
        scene = apply_edit(edit, scene, rng)
    return found


def test_every_type_has_its_prompts_and_every_prompt_its_turns():
    for split, count in PROMPTS.items():
        by_type = edits_by_type(split)
        assert list(by_type) == ["add", "remove", "replace", "recolour", "move", "count"]
        for kind, prompts in by_type.items():
            assert len(set(prompts)) == len({prompt.key for prompt in prompts}) == count
            for prompt in prompts:
                assert prompt.tag == prompt.types[0] == kind
                assert len(prompt.instructions) == len(prompt.types) == TURNS == Shapes("edits").turns
                assert prompt.prompt == prompt.instructions[0]
                assert 1 <= len(prompt.source.items) <= MOST


def test_later_turns_are_of_every_type():
    for turn in (1, 2):
        types = [prompt.types[turn] for prompts in edits_by_type("train").values() for prompt in prompts]
        assert all(types.count(kind) > 0.05 * len(types) for kind in EDITS)


def test_every_instruction_makes_sense_after_the_ones_before():
    for prompt in edits_by_type("test")["add"]:
        scene = prompt.source
        for edit in prompt.edits:
            shapes = [item.shape for item in scene.items]
            assert edit.kind in ("add", "count") or edit.shape in shapes
            assert edit.kind != "add" or edit.shape not in shapes
            scene = apply_edit(edit, scene, random.Random(0))


@pytest.fixture(scope="module")
def edited():
    """Split -> every edit of objects in it, at any turn."""
    return {
        split: set().union(*(meanings(p.source, p.edits) for prompts in edits_by_type(split).values() for p in prompts))
        for split in PROMPTS
    }


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(SPLITS, 2)])
def test_two_splits_share_no_edit_of_the_same_objects_at_any_turn(one, other, edited):
    assert edited[one]
    assert not edited[one] & edited[other]


def test_nor_do_stories_share_one_with_stories_or_edits_of_another_split(edited):
    def told_in(split):
        rng = random.Random(split)
        drawn = [random_story(split, 3, rng) for _ in range(400)]
        return set().union(*(meanings(scenes[0], story.edits) for story, scenes in drawn))

    told = {split: told_in(split) for split in SPLITS}
    texts = {
        split: {story.prompt for found in stories_by_length(split).values() for story in found} for split in SPLITS
    }
    for one, other in itertools.permutations(SPLITS, 2):
        assert told[one]
        assert not told[one] & (told[other] | edited[other])
        assert not texts[one] & texts[other]


def test_prompts_are_the_same_whenever_they_are_drawn():
    one, other = (distinct("test", "edits move", lambda rng: random_edit_prompt("test", "move", rng)) for _ in range(2))
    assert one == other == edits_by_type("test")["move"]


def test_a_line_of_a_prompt_file_says_all():
    prompt = edits_by_type("test")["replace"][0]
    line = json.loads(prompt.to_json())
    assert line["instructions"] == list(prompt.instructions)
    assert (line["tag"], line["prompt"]) == ("replace", prompt.prompt)
    assert [tuple(item.values()) for item in line["source"]] == [
        (item.shape, item.colour, item.place, item.size, item.x, item.y) for item in prompt.source.items
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_instructions_are_short_and_in_words_of_the_vocabulary(split):
    texts = [text for prompts in edits_by_type(split).values() for prompt in prompts for text in prompt.instructions]
    assert {word for text in texts for word in text.split()} <= set(vocabulary())
    assert max(len(text.split()) for text in texts) <= 7
