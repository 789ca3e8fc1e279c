"""The dataset of the world: what its prompts have, and how much of it each split holds."""

from __future__ import annotations

import numpy as np
import pytest

from unigrpo.data.dataset import SPLITS, select
from unigrpo.worlds.shapes.dataset import Shapes
from unigrpo.worlds.shapes.edit_prompts import TURNS, edits_by_type
from unigrpo.worlds.shapes.prompts import by_task, geneval_prompt
from unigrpo.worlds.shapes.render import render

TASKS = ("images", "stories", "edits")


@pytest.mark.parametrize("task", TASKS)
def test_every_prompt_has_what_the_dataset_offers_and_no_key_comes_twice(task):
    dataset, keys, meanings = Shapes(task), [], {}
    for split in SPLITS:
        for tag, prompts in dataset.prompts(split).items():
            assert len(prompts) >= 24, "as many as an evaluation asks for by default"
            assert {prompt.tag for prompt in prompts} == {tag}
            assert {prompt.offers for prompt in prompts[::50]} <= {dataset.offers}
            assert {len(prompt.turns) for prompt in prompts} == {dataset.turns}
            keys += [prompt.key for prompt in prompts]
            meanings.setdefault(split, set()).update(prompt.meaning for prompt in prompts)
    assert len(set(keys)) == len(keys)
    assert sum(map(len, meanings.values())) == len(set().union(*meanings.values())), "no meaning is in two splits"


def test_what_is_asked_of_a_task():
    assert [len(Shapes(task).prompts("test")) for task in TASKS] == [6, 2, 6]
    assert [Shapes(task).metrics[0] for task in TASKS] == ["geneval_mini", "shapes_interleaved", "shapes_edit"]
    assert [Shapes(task).turns for task in TASKS] == [0, 0, TURNS]
    assert len({Shapes(task).digest() for task in TASKS}) == 1
    assert [prompt.tag for prompt in select(Shapes("stories").prompts("test"), 2)] == ["steps-2"] * 2 + ["steps-3"] * 2


def test_a_prompt_of_genevals_survives_being_one_of_the_dataset():
    for found in by_task("validation").values():
        for original, prompt in zip(found, Shapes().prompts("validation")[found[0].tag], strict=True):
            assert geneval_prompt(prompt) == original
            assert prompt.key == original.key


def test_an_edit_begins_with_a_picture_of_its_source():
    for found in edits_by_type("test").values():
        prompt = Shapes("edits").prompts("test")[found[0].tag][0]
        (image,) = prompt.images
        np.testing.assert_array_equal(image.pixels(), render([found[0].source])[0])
        assert (prompt.text, prompt.turns) == (found[0].prompt, found[0].instructions)
        assert image.digest() == repr(found[0].source)
