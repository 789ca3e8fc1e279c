from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import plans, scenes, things
from unigrpo.worlds.shapes.grammar import COLOURS, Item
from unigrpo.worlds.shapes.rules import Found, objects_of
from unigrpo.worlds.shapes.things import Thing, assign, closeness, found_things, match, planned_things, resemblance
from unigrpo.worlds.shapes.thinking import plan_of

SOME_THINGS = st.lists(things(), max_size=4)


@given(scenes(least=0), st.randoms(use_true_random=False))
def test_scenes_pictures_and_plans_hold_the_same_things_in_reading_order(scene, rng):
    found = found_things(rng.sample(objects_of(scene.items), len(scene.items)))
    assert found == found_things(scene.items)
    assert [thing.place for thing in found] == [item.place for item in scene.items]
    assert planned_things(plan_of(scene)) == tuple(replace(thing, centre=None) for thing in found)
    assert match(planned_things(plan_of(scene)), found) == match(found, planned_things(plan_of(scene))) == 1


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), max_size=4))
def test_no_assignment_is_better_than_the_one_found(scores):
    columns = assign(scores)
    taken = [column for column in columns if column is not None]
    assert len(taken) == len(set(taken)) == min(len(scores), 3)
    every = itertools.permutations([0, 1, 2, *([None] * len(scores))], len(scores))
    best = max(sum(row[c] for row, c in zip(scores, columns, strict=True) if c is not None) for columns in every)
    assert sum(row[c] for row, c in zip(scores, columns, strict=True) if c is not None) == pytest.approx(best)


@given(SOME_THINGS, SOME_THINGS, st.randoms(use_true_random=False))
def test_a_match_is_a_share_and_knows_no_order(wanted, shown, rng):
    score = match(wanted, shown)
    assert 0 <= score <= 1
    assert match(rng.sample(wanted, len(wanted)), rng.sample(shown, len(shown))) == pytest.approx(score)


@given(scenes(), st.data())
def test_only_the_very_scene_matches_in_full(scene, data):
    found = found_things(scene.items)
    at = data.draw(st.integers(0, len(found) - 1))
    one = found[at]
    colour = data.draw(st.sampled_from([colour for colour in COLOURS if colour != one.colour]))
    for other in (replace(one, colour=colour), replace(one, shape="blob"), replace(one, centre=(16.0, 16.0))):
        assert match(found, (*found[:at], other, *found[at + 1 :])) < 1
    assert match(found, (*found[:at], *found[at + 1 :])) < 1
    assert match(found, (*found, one)) == pytest.approx(1 / 2)


@given(plans(), scenes())
def test_what_is_free_is_met_by_anything(plan, scene):
    found = found_things(scene.items)
    assert match([Thing()] * len(found), found) == 1
    free = [replace(thing, colour=None, place=None) for thing in planned_things(plan)]
    assert match(free, planned_things(plan)) == 1


@given(things(), things())
def test_another_shape_is_another_thing(wanted, shown):
    if wanted.shape is not None and wanted.shape != shown.shape:
        assert resemblance(wanted, shown) == 0


def test_a_thing_is_as_right_as_its_terms():
    wanted = Thing("circle", "red", "top left", (8.0, 8.0))
    assert resemblance(wanted, Thing("circle", "blue", "top left", (8.0, 8.0))) == pytest.approx(3 / 4)
    assert resemblance(wanted, Thing("circle", "red", "top left", (10.5, 8.0))) == pytest.approx(3.5 / 4)
    assert resemblance(wanted, Thing("circle", "red", "top left", None)) == 1
    assert match([], []) == 1
    assert match([], [wanted]) == pytest.approx(1 / 2)
    assert match([wanted], []) == 0


@pytest.mark.parametrize(("shift", "score"), [((0, 0), 1), ((1, -1), 1), ((-2.5, 1), 0.5), ((1, 4), 0), ((30, 0), 0)])
def test_a_centre_stays_within_a_pixel_and_leaves_at_four(shift, score):
    assert closeness((10, 10), (10 + shift[0], 10 + shift[1])) == pytest.approx(score)


def test_a_found_object_is_in_the_quadrant_of_its_centre():
    (thing,) = found_things([Found("circle", "red", (10, 20, 21, 31))])
    assert (thing.place, thing.centre) == ("bottom left", (15.5, 25.5))
    (thing,) = found_things([Item("circle", "red", "top right", 10, 17, 3)])
    assert (thing.place, thing.centre) == ("top right", (22, 8))
