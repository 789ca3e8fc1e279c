from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.worlds.scenes import plans, right_scenes, scenes, sight
from unigrpo.worlds.shapes.grammar import Item, Scene
from unigrpo.worlds.shapes.prompts import by_task
from unigrpo.worlds.shapes.reflection import Reflection, ReflectionVerdict, judge_reflection, parse_reflection
from unigrpo.worlds.shapes.rules import plan_satisfies, scene_satisfies
from unigrpo.worlds.shapes.thinking import parse_thinking, plan_of, write_thinking
from unigrpo.worlds.shapes.vocabulary import vocabulary


@given(plans(), plans() | st.none())
def test_reflections_round_trip_in_words_of_the_vocabulary(seen, repair):
    assume(repair != ())
    text = str(Reflection(seen, repair))
    parsed = parse_reflection(text)
    assert parsed is not None
    assert str(parsed) == text
    assert parsed.seen == parse_thinking(write_thinking(seen))
    assert (parsed.repair is None) == (repair is None)
    assert set(text.split()) <= set(vocabulary())


@given(st.lists(st.sampled_from(vocabulary()), max_size=24).map(" ".join) | st.text())
def test_the_parser_never_raises_and_accepts_only_what_can_be_written(text):
    parsed = parse_reflection(text)
    assert parsed is None or sorted(str(parsed).split()) == sorted(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "see",
        "fine",
        "see top left red circle .",
        "top left red circle . fine",
        "see top left red circle . fine fine",
        "see top left red circle . fine top left red circle .",
        "see top left red circle . wrong",
        "see top left red . fine",
        "see top left red circle . wrong top left red .",
        "see fine wrong top left red circle .",
    ],
)
def test_malformed_reflections_say_nothing(text):
    assert parse_reflection(text) is None
    prompt = by_task("test")["single_object"][0]
    for end in ("stop", "image", "cut"):
        assert judge_reflection(prompt, text, end, sight(Scene(()))) == ReflectionVerdict()


@given(right_scenes(), scenes())
def test_a_true_reflection_is_right_in_every_respect(right, shown):
    prompt, ideal = right
    fine = scene_satisfies(shown, prompt)
    reflection = Reflection(plan_of(shown), None if fine else plan_of(ideal))
    verdict = judge_reflection(prompt, str(reflection), "stop" if fine else "image", sight(shown))
    assert verdict.well_formed
    assert verdict.verdict
    assert verdict.description == 1
    assert verdict.repair == (not fine and plan_satisfies(plan_of(ideal), prompt))


@given(right_scenes(), scenes())
def test_a_false_verdict_is_false_whatever_is_seen(right, shown):
    prompt, ideal = right
    fine = scene_satisfies(shown, prompt)
    reflection = Reflection(plan_of(shown), plan_of(ideal) if fine else None)
    verdict = judge_reflection(prompt, str(reflection), "image" if fine else "stop", sight(shown))
    assert verdict.well_formed
    assert not verdict.verdict


def test_the_end_must_fit_the_verdict_and_vague_words_describe_nothing():
    prompt = next(p for p in by_task("test")["single_object"] if p.include[0]["class"] == "circle")
    shown = sight(Scene((Item("circle", "red", "top left", 9, 3, 3),)))
    assert judge_reflection(prompt, "see top left red circle . fine", "image", shown) == ReflectionVerdict()
    vague = judge_reflection(prompt, "see top left some circle . fine", "stop", shown)
    assert (vague.verdict, vague.description) == (True, pytest.approx(2 / 3))
    wrong = judge_reflection(prompt, "see top left red square . wrong top left red circle .", "image", shown)
    assert (wrong.verdict, wrong.description, wrong.repair) == (False, 0, True)
