from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import edits, scenes
from unigrpo.worlds.shapes.edit_judge import judge_change
from unigrpo.worlds.shapes.edits import EDITS, MOST, Add, Count, Move, Recolour, Remove, Replace, apply_edit
from unigrpo.worlds.shapes.grammar import COLOURS, Item, Scene
from unigrpo.worlds.shapes.things import found_things
from unigrpo.worlds.shapes.vocabulary import vocabulary

WORDS = set(vocabulary())


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (Add("circle", "red"), "add a red circle"),
        (Remove("circle"), "remove the circle"),
        (Replace("circle", "blue", "cross"), "replace the circle with a blue cross"),
        (Recolour("circle", "green"), "turn the circle green"),
        (Move("circle", "top left"), "move the circle to the top left"),
        (Count("cross", 3), "make it three crosses"),
        (Count("circle", 1), "make it one circle"),
    ],
)
def test_edits_are_said_in_words_of_the_vocabulary(edit, text):
    assert str(edit) == text
    assert set(text.split()) <= WORDS


@given(edits())
def test_an_edit_changes_one_object_and_leaves_the_others_to_the_pixel(edited):
    edit, before, after = edited
    gone = set(before.items) - set(after.items)
    new = set(after.items) - set(before.items)
    numbers = {"add": (0, 1), "remove": (1, 0)}
    one_more = edit.kind == "count" and edit.count > len(before.items)
    expected = {**numbers, "count": (0, 1) if one_more else (1, 0)}.get(edit.kind, (1, 1))
    assert (len(gone), len(new)) == expected
    assert 1 <= len(after.items) <= MOST


@given(edits("recolour", "replace"))
def test_what_is_recoloured_or_replaced_stays_where_it_is(edited):
    edit, before, after = edited
    ((old,), (new,)) = (set(one.items) - set(other.items) for one, other in ((before, after), (after, before)))
    assert (old.place, old.size, old.x, old.y) == (new.place, new.size, new.x, new.y)
    assert old.shape == edit.shape
    assert new.colour == edit.colour


@given(edits())
def test_every_outcome_drawn_is_allowed_and_doing_nothing_is_not(edited):
    edit, before, after = edited
    was = found_things(before.items)
    done = judge_change(edit, was, found_things(after.items))
    assert (done.success, done.preserved, done.score) == (1, 1, 1)
    assert judge_change(edit, was, was).success < 1


@given(edits(), scenes(), st.integers(0, 2**32))
def test_an_edit_of_any_scene_can_be_drawn_and_does_what_it_can(edited, scene, seed):
    """After a wrong text the object of an edit may be missing, twice there, or in the way."""
    edit, _, _ = edited
    after = apply_edit(edit, scene, random.Random(seed))
    assert after.items
    already = [item.shape for item in scene.items].count(edit.shape)
    missing = {"add": 1, "remove": 0, "count": edit.count - already if edit.kind == "count" else 0}
    if edit.kind != "remove" and missing.get(edit.kind, 1 - min(already, 1)) <= len(scene.free_places):
        assert judge_change(edit, found_things(scene.items), found_things(after.items)).success == 1
    if edit.kind == "remove" and any(item.shape != edit.shape for item in scene.items):
        assert all(item.shape != edit.shape for item in after.items)


@given(scenes(), st.sampled_from(list(EDITS)), st.integers(0, 2**32))
def test_an_edit_is_proposed_only_where_it_makes_sense(scene, kind, seed):
    edit = EDITS[kind].propose(scene, random.Random(seed))
    shapes = [item.shape for item in scene.items]
    if edit is None:
        assert (
            max(map(shapes.count, shapes)) > 1
            or (len(shapes) > 1 and kind == "count")
            or (len(shapes) == 1 and kind == "remove")
            or len(shapes) >= MOST
        )
    elif kind in ("remove", "replace", "recolour", "move"):
        assert shapes.count(edit.shape) == 1
        assert kind != "move" or edit.place in scene.free_places
        assert kind != "replace" or edit.new_shape not in shapes
    elif kind == "add":
        assert edit.shape not in shapes
    else:
        assert set(shapes) == {edit.shape}
        assert abs(edit.count - len(shapes)) == 1
        assert 1 <= edit.count <= MOST


def test_an_object_moved_to_a_taken_place_does_not_take_over_the_size_and_position_there():
    scene = Scene((SQUARE, RED_CIRCLE))
    moved = [apply_edit(Move("square", "top left"), scene, random.Random(seed)) for seed in range(9)]
    assert all({item.shape: item.place for item in after.items}["square"] == "top left" for after in moved)
    assert len({after.items[0].box for after in moved}) > 1


def test_of_like_objects_any_may_go():
    items = tuple(
        Item("circle", "red", place, 9, x, 3) for place, x in (("top left", 3), ("top right", 20), ("bottom left", 3))
    )
    items = (*items[:2], Item("circle", "red", "bottom left", 9, 3, 20))
    was = found_things(items)
    for gone in items:
        left = found_things(Scene(items).remove(gone).items)
        assert judge_change(Count("circle", 2), was, left).score == 1
    assert judge_change(Count("circle", 2), was, was[:1]).success == 0
    assert judge_change(Count("circle", 1), was, was[:2]).success == pytest.approx(1 / 2)


RED_CIRCLE = Item("circle", "red", "top left", 9, 3, 3)
BLUE_CIRCLE = Item("circle", "blue", "bottom right", 9, 20, 20)
SQUARE = Item("square", "blue", "top right", 9, 20, 3)
MOVED_SQUARE = Item("square", "blue", "bottom left", 9, 3, 20)
SQUARE_LEFT = Item("square", "blue", "top left", 9, 3, 3)
RED_CIRCLE_BELOW = Item("circle", "red", "bottom left", 9, 3, 20)
GREEN_CIRCLE = Item("circle", "green", "top left", 9, 3, 3)
CROSS = Item("cross", "green", "top left", 9, 3, 3)


@pytest.mark.parametrize(
    ("edit", "before", "after", "success", "preserved"),
    [
        # the object is not there: what can still be demanded
        (Recolour("circle", "green"), (SQUARE,), (SQUARE, GREEN_CIRCLE), 1, 1),
        (Recolour("circle", "green"), (SQUARE,), (SQUARE,), 0, 1),
        (Replace("circle", "green", "cross"), (SQUARE,), (SQUARE, CROSS), 1, 1),
        (Move("circle", "top left"), (SQUARE,), (SQUARE, RED_CIRCLE), 1, 1),
        (Remove("circle"), (SQUARE,), (SQUARE,), 1, 1),
        # two that may be meant: either
        (Recolour("circle", "green"), (RED_CIRCLE, BLUE_CIRCLE), (GREEN_CIRCLE, BLUE_CIRCLE), 1, 1),
        # the target is taken: what is there makes way
        (Move("square", "top left"), (SQUARE, RED_CIRCLE), (SQUARE_LEFT,), 1, 0.5),
        (Move("square", "top left"), (SQUARE, RED_CIRCLE), (SQUARE_LEFT, RED_CIRCLE_BELOW), 1, 1),
        # one like it is there already: another one
        (Add("circle", "red"), (RED_CIRCLE,), (RED_CIRCLE,), 0, 1),
        # right colour, wrong place
        (
            Recolour("circle", "green"),
            (RED_CIRCLE, SQUARE),
            (Item("circle", "green", "bottom left", 9, 3, 20), SQUARE),
            1,
            0.5,
        ),
        # right edit, over-edited
        (Recolour("circle", "green"), (RED_CIRCLE, SQUARE), (GREEN_CIRCLE, MOVED_SQUARE), 1, 0.5),
        (Recolour("circle", "green"), (RED_CIRCLE, SQUARE), (GREEN_CIRCLE,), 1, 0.5),
        (Recolour("circle", "green"), (RED_CIRCLE,), (GREEN_CIRCLE, SQUARE), 1, 0.5),
        (Remove("circle"), (RED_CIRCLE, SQUARE), (MOVED_SQUARE,), 1, 0),
        # an object of the new shape is the new one, whatever is in its place
        (Replace("circle", "blue", "square"), (RED_CIRCLE,), (GREEN_CIRCLE, SQUARE), 1, 0),
        # not done, and that only
        (Remove("circle"), (RED_CIRCLE, SQUARE), (RED_CIRCLE, SQUARE), 0, 1),
        (Add("cross", "green"), (SQUARE,), (SQUARE, Item("cross", "red", "top left", 9, 3, 3)), 0.5, 1),
        (Replace("circle", "green", "cross"), (RED_CIRCLE,), (GREEN_CIRCLE,), 0, 1),
    ],
)
def test_success_and_preservation_are_told_apart(edit, before, after, success, preserved):
    change = judge_change(edit, found_things(before), found_things(after))
    assert (change.success, change.preserved) == (pytest.approx(success), pytest.approx(preserved))


@given(edits(), st.randoms(use_true_random=False))
def test_a_recoloured_bystander_is_over_editing(edited, rng):
    edit, before, after = edited
    bystanders = sorted(set(before.items) & set(after.items), key=lambda item: item.place)
    if bystanders:
        one = rng.choice(bystanders)
        spoilt = after.change(one, colour=rng.choice([colour for colour in COLOURS if colour != one.colour]))
        change = judge_change(edit, found_things(before.items), found_things(spoilt.items))
        assert change.score < 1
