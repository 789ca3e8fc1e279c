from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import right_scenes, scenes
from unigrpo.worlds.shapes.examples import corrupt_plan, draw_plan, faulty_examples, misdraw
from unigrpo.worlds.shapes.judge import judge
from unigrpo.worlds.shapes.prompts import all_prompts
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.rules import scene_satisfies
from unigrpo.worlds.shapes.thinking import parse_thinking, plan_of


def share(flags) -> float:
    return sum(flags) / len(flags)


def test_the_same_generator_gives_the_same_examples():
    one, other = (faulty_examples(np.random.default_rng(7), 40) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert (a.prompt, a.thinking, a.scene) == (b.prompt, b.thinking, b.scene)
        np.testing.assert_array_equal(a.picture, b.picture)
    assert faulty_examples(np.random.default_rng(8), 40)[0].scene != one[0].scene


def test_without_faults_every_example_is_right():
    examples = faulty_examples(np.random.default_rng(0), 300, plan_corruption=0, misdrawn=0)
    train = set(all_prompts("train"))
    for example in examples:
        assert example.prompt in train
        assert scene_satisfies(example.scene, example.prompt)
        assert parse_thinking(example.thinking) == plan_of(example.scene)
        np.testing.assert_array_equal(example.picture, render([example.scene])[0])
    assert all(
        verdict.strict for verdict in judge(np.stack([e.picture for e in examples]), [e.prompt for e in examples])
    )
    assert len({example.prompt.tag for example in examples}) == 6


def test_faults_come_in_the_stated_proportions():
    examples = faulty_examples(np.random.default_rng(0), 2000, plan_corruption=0, misdrawn=0.2)
    assert share([scene_satisfies(e.scene, e.prompt) for e in examples]) > 0.8  # some faults do not matter
    departed = [parse_thinking(e.thinking) != plan_of(e.scene) for e in examples]
    assert share(departed) == pytest.approx(0.2, abs=0.03)
    examples = faulty_examples(np.random.default_rng(0), 2000, plan_corruption=0.4, misdrawn=0)
    vague = [" some " in e.thinking or " shape ." in e.thinking for e in examples]
    assert share(vague) == pytest.approx(0.4 * 2 / 7, abs=0.03)


@given(right_scenes(), st.randoms(use_true_random=False))
def test_a_corrupted_plan_differs_and_can_still_be_written(right, rng):
    _, scene = right
    plan = plan_of(scene)
    corrupted = corrupt_plan(plan, rng)
    assert corrupted != plan or len(plan) > 1  # two like objects may trade places unseen
    assert len({planned.place for planned in corrupted}) == len(corrupted)
    assert abs(len(corrupted) - len(plan)) <= 1


@given(right_scenes(), st.integers(0, 2**32))
def test_a_picture_follows_its_plan_where_the_plan_is_clear(right, seed):
    _, scene = right
    rng = random.Random(seed)
    plan = corrupt_plan(plan_of(scene), rng)
    drawn = {item.place: item for item in draw_plan(plan, rng).items}
    assert drawn.keys() == {planned.place for planned in plan}
    for planned in plan:
        assert planned.colour in (None, drawn[planned.place].colour)
        assert planned.shape in (None, drawn[planned.place].shape)


@given(scenes(), scenes(), st.randoms(use_true_random=False))
def test_a_picture_drawn_after_another_keeps_what_the_plan_says_of_it(scene, before, rng):
    plan = plan_of(scene)
    drawn = draw_plan(plan, rng, before)
    assert plan_of(drawn) == plan
    stated = [item for item, one in zip(before.items, plan_of(before), strict=True) if one in plan]
    assert set(stated) <= set(drawn.items)


@given(scenes(), st.randoms(use_true_random=False))
def test_a_misdrawn_picture_has_one_item_wrong(scene, rng):
    wrong = misdraw(scene, rng)
    before, after = ({item.place: item for item in each.items} for each in (scene, wrong))
    changed = [place for place in before.keys() | after.keys() if before.get(place) != after.get(place)]
    assert len(changed) == 1
    assert wrong.items
