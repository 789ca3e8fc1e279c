from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import boxes, found, prompts, right_scenes
from unigrpo.worlds.shapes.grammar import PLACES, SHAPES
from unigrpo.worlds.shapes.prompts import RELATIONS, GenEvalPrompt
from unigrpo.worlds.shapes.rules import (
    MAX_PER_CLASS,
    Found,
    apply_rules,
    objects_of,
    plan_satisfies,
    relations,
    scene_satisfies,
)
from unigrpo.worlds.shapes.thinking import plan_of

BOX = (0.0, 0.0, 10.0, 10.0)


def shifted(dx: float, dy: float, size: float = 10.0) -> tuple[float, float, float, float]:
    return (dx, dy, dx + size, dy + size)


def clause(shape: str, count: int = 1, **more: object) -> dict[str, object]:
    return {"class": shape, "count": count, **more}


def asking(*include: dict[str, object], exclude: tuple[dict[str, object], ...] = ()) -> GenEvalPrompt:
    return GenEvalPrompt("any", include, exclude, "any")


def formula(subject, reference):
    """GenEval's position rule, written down a second time, with arrays."""
    (a, b), (c, d) = (np.array(box).reshape(2, 2) for box in (subject, reference))
    offset = (a + b) / 2 - (c + d) / 2
    revised = np.maximum(np.abs(offset) - 0.1 * ((b - a) + (d - c)), 0) * np.sign(offset)
    if not revised.any():
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    rules = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, holds in rules.items() if holds}


@given(boxes(), boxes())
def test_relations_are_the_formula(subject, reference):
    assert relations(subject, reference) == formula(subject, reference)


@given(boxes(), boxes())
def test_relations_are_converse(subject, reference):
    assert {RELATIONS[relation] for relation in relations(subject, reference)} == relations(reference, subject)


def test_the_margin_and_the_direction_threshold_are_where_the_rule_puts_them():
    assert relations(shifted(2, 0), BOX) == set()  # offset 2 = 0.1 * (10 + 10): nothing is left
    assert relations(shifted(3, 0), BOX) == set()  # 1 / 3
    assert relations(shifted(4, 0), BOX) == set()  # 2 / 4 is not above one half
    assert relations(shifted(4.1, 0), BOX) == {"right of"}
    # divided by the original offset: 14 / 22.6 on both axes; by the reduced one it would be .71
    assert relations(shifted(-16, 16), BOX) == {"left of", "below"}
    # 9 / 23.7: the reduced offset would give 9 / 21.0, and a smaller margin more
    assert relations(shifted(11, 21), BOX) == {"below"}


@given(right_scenes())
def test_what_was_asked_for_passes(right):
    prompt, scene = right
    outcome = apply_rules(objects_of(scene.items), prompt)
    assert outcome.strict
    assert scene_satisfies(scene, prompt)
    assert (outcome.official_soft, outcome.strict_soft, outcome.extra, outcome.reason) == (1.0, 1.0, 0, "")


@given(right_scenes(), st.data())
def test_dropping_an_object_fails(right, data):
    prompt, scene = right
    outcome = apply_rules(objects_of(scene.remove(data.draw(st.sampled_from(scene.items))).items), prompt)
    assert not outcome.official
    assert outcome.official_soft < 1
    assert "expected" in outcome.reason


@given(right_scenes("single_object", "two_object", "colors", "position", "color_attr"), boxes(), st.data())
def test_adding_an_object_flips_strict_and_not_official(right, box, data):
    prompt, scene = right
    objects = objects_of(scene.items)
    added = [Found(data.draw(st.sampled_from(SHAPES)), "red", box, 0.1) for _ in range(data.draw(st.integers(1, 3)))]
    outcome = apply_rules([*added, *objects], prompt)
    assert outcome.official
    assert not outcome.strict
    assert outcome.extra == len(added)
    assert outcome.strict_soft == 1 / (1 + len(added))


@given(right_scenes("counting"), boxes())
def test_counting_alone_demands_exactness_of_the_official_rule(right, box):
    prompt, scene = right
    shape = prompt.include[0]["class"]
    other = next(name for name in SHAPES if name != shape)
    assert not apply_rules([*objects_of(scene.items), Found(shape, "red", box)], prompt).official
    assert apply_rules([*objects_of(scene.items), Found(other, "red", box)], prompt).official


@given(st.lists(found(), max_size=8), prompts())
def test_soft_scores_are_in_the_unit_interval_and_1_exactly_where_the_verdict_is_true(objects, prompt):
    outcome = apply_rules(objects, prompt)
    for soft, verdict in ((outcome.official_soft, outcome.official), (outcome.strict_soft, outcome.strict)):
        assert 0 <= soft <= 1
        assert (soft == 1) == verdict
    assert outcome.official == (outcome.reason == "")
    assert not outcome.strict or len(objects) == sum(one["count"] for one in prompt.include)


@given(st.lists(found(), max_size=6, unique_by=lambda one: one.score), prompts(), st.randoms(use_true_random=False))
def test_order_does_not_matter_where_confidence_decides(objects, prompt, rng):
    shuffled = list(objects)
    rng.shuffle(shuffled)
    assert apply_rules(objects, prompt) == apply_rules(shuffled, prompt)


def test_the_most_confident_objects_are_the_ones_looked_at():
    prompt = asking(clause("circle", color="red"))
    blue, red = Found("circle", "blue", BOX, 0.9), Found("circle", "red", BOX, 0.8)
    assert not apply_rules([red, blue], prompt).official
    assert apply_rules([red], prompt).official
    assert "found colour blue" in apply_rules([red, blue], prompt).reason


def test_at_most_sixteen_objects_of_a_class_count():
    crowd = [Found("circle", "red", BOX) for _ in range(20)]
    assert apply_rules(crowd, asking(clause("circle", MAX_PER_CLASS))).official
    assert not apply_rules(crowd, asking(clause("circle", MAX_PER_CLASS + 1))).official
    assert apply_rules(crowd, asking(clause("circle"), exclude=(clause("circle", 17),))).official


def test_a_wrong_position_is_worth_nothing():
    """The public server adds a 1 beside the 0 of a wrong position; here the terms are two counts and the 0."""
    prompt = asking(clause("circle"), clause("square", position=["left of", 0]))
    objects = [Found("circle", "red", BOX), Found("square", "red", shifted(20, 0))]
    outcome = apply_rules(objects, prompt)
    assert outcome.official_soft == pytest.approx(2 / 3)
    assert outcome.reason == "expected square left of circle"


def test_too_many_objects_do_not_give_negative_scores():
    """The public server's term 1 - |n - found| / n falls below 0 from 2n + 1 objects on."""
    prompt = asking(clause("circle", 2), exclude=(clause("circle", 3),))
    softs = [apply_rules([Found("circle", "red", BOX)] * n, prompt).official_soft for n in range(9)]
    assert softs == [0.5, 0.75, 1.0, 0.75, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_a_reference_that_failed_fails_the_position():
    prompt = asking(clause("circle", color="red"), clause("square", position=["right of", 0]))
    objects = [Found("circle", "blue", BOX), Found("square", "red", shifted(20, 0))]
    outcome = apply_rules(objects, prompt)
    assert outcome.official_soft == pytest.approx(2 / 4)  # both counts, neither colour nor position
    assert "no right circle" in outcome.reason


def test_every_taken_object_must_stand_right_to_every_reference():
    prompt = asking(clause("circle", 2), clause("square", position=["right of", 0]))
    circles = [Found("circle", "red", BOX), Found("circle", "red", shifted(40, 0))]
    outcome = apply_rules([*circles, Found("square", "red", shifted(20, 0))], prompt)
    assert not outcome.official
    assert outcome.official_soft == pytest.approx((1 + 1 + 0.5) / 3)


def test_a_blob_stands_for_a_missing_object_and_is_an_extra_one_after_that():
    blob, circle, prompt = Found(None, "red", BOX), Found("circle", "red", BOX), asking(clause("circle"))
    assert apply_rules([blob], prompt).extra == 0
    assert apply_rules([blob, blob], prompt).extra == 1
    assert apply_rules([circle, blob], prompt).extra == 1
    assert apply_rules([circle, circle], prompt).extra == 1


@given(right_scenes("single_object", "two_object", "counting", "colors", "color_attr"))
def test_the_plan_of_a_right_scene_satisfies(right):
    prompt, scene = right
    assert plan_satisfies(plan_of(scene), prompt)
    assert not plan_satisfies(plan_of(scene)[1:], prompt)
    assert not plan_satisfies(None, prompt)


def test_a_plan_is_judged_with_its_objects_in_the_middle_of_their_places():
    """Diagonal places are in both relations: (16 - 2) / 22.6 = 0.62."""
    corners = [(x + 3.0, y + 3.0, x + 13.0, y + 13.0) for x, y in PLACES.values()]
    assert relations(corners[3], corners[0]) == {"right of", "below"}
    assert relations(corners[1], corners[0]) == {"right of"}
