from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import scenes
from unigrpo.worlds.shapes.grammar import COLOURS, PLACES, SHAPES, Scene, random_item
from unigrpo.worlds.shapes.render import PALETTE, quadrants, render, stencil


@given(scenes(), st.randoms(use_true_random=False))
def test_items_stand_in_reading_order_whatever_the_order_they_came_in(scene, rng):
    shuffled = list(scene.items)
    rng.shuffle(shuffled)
    assert Scene(tuple(shuffled)) == scene
    assert [item.place for item in scene.items] == [place for place in PLACES if place not in scene.free_places]


def test_two_items_in_one_place_are_refused():
    rng = random.Random(0)
    with pytest.raises(ValueError, match="at most one item"):
        Scene((random_item(rng, "top left"), random_item(rng, "top left")))


@given(scenes(most=3), st.integers(0, 2**32))
def test_edits_give_new_scenes_and_undo_each_other(scene, seed):
    item = random_item(random.Random(seed), scene.free_places[0])
    grown = scene.add(item)
    assert len(grown.items) == len(scene.items) + 1
    assert grown.remove(item) == scene
    other = next(shape for shape in SHAPES if shape != item.shape)
    changed = grown.change(item, shape=other)
    assert [new.shape for new in changed.items if new.place == item.place] == [other]
    assert changed.remove(next(new for new in changed.items if new.place == item.place)) == scene


@given(scenes())
def test_a_picture_is_grey_outside_the_boxes_and_in_range(scene):
    (picture,) = render([scene])
    assert picture.shape == (3, 32, 32)
    assert picture.dtype == np.float32
    assert np.abs(picture).max() <= 1
    for item in scene.items:
        left, top, right, bottom = map(int, item.box)
        inside = picture[:, top:bottom, left:right]
        assert inside.any(axis=0).any()
        # the middle of every shape has its pure colour
        assert inside[:, item.size // 2, item.size // 2] == pytest.approx(COLOURS[item.colour])
        picture[:, top:bottom, left:right] = 0
    assert not picture.any()


@given(scenes())
def test_quadrants_never_touch(scene):
    border = quadrants(render([scene]))[0]
    for edge in (border[..., 0], border[..., -1], border[..., 0, :], border[..., -1, :]):
        assert not edge.any()


@given(st.lists(scenes(), max_size=4))
def test_a_batch_is_its_pictures_one_by_one(batch):
    together = render(batch)
    assert together.shape == (len(batch), 3, 32, 32)
    for picture, scene in zip(together, batch, strict=True):
        np.testing.assert_array_equal(picture, render([scene])[0])


def test_an_empty_scene_is_grey():
    assert not render([Scene(())]).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_mirror_symmetric_and_differ(shape):
    drawn = stencil(shape, 10)
    np.testing.assert_array_equal(drawn, drawn[:, ::-1])
    for other in SHAPES:
        if other != shape:
            shared = np.minimum(drawn, stencil(other, 10)).sum()
            assert shared / np.maximum(drawn, stencil(other, 10)).sum() < 0.85


def test_colours_are_far_from_each_other_and_from_grey():
    points = np.concatenate([PALETTE, np.zeros((1, 3), dtype=np.float32)])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    assert distances[~np.eye(7, dtype=bool)].min() > 1.4
