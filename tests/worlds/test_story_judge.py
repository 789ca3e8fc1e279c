from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.worlds.scenes import plans, scenes, sight, stories
from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart, TextPart
from unigrpo.worlds.shapes.dataset import Shapes, story_prompt
from unigrpo.worlds.shapes.examples import misdraw
from unigrpo.worlds.shapes.grammar import COLOURS
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.story_judge import Said, Shown, StepVerdict, judge_stories, judge_story
from unigrpo.worlds.shapes.thinking import plan_of, write_thinking
from unigrpo.worlds.shapes.vocabulary import vocabulary

ASPECTS = ("text_quality", "perceptual_quality", "image_coherence", "text_image_coherence", "helpfulness")


def told(pictures) -> list[Said | Shown]:
    """The right events of a story."""
    events: list[Said | Shown] = []
    for turn, scene in enumerate(pictures):
        events += [Said(write_thinking(plan_of(scene)), "image", turn), Shown(sight(scene), turn)]
    return [*events, Said("", "stop", len(pictures))]


def aspects(verdict) -> dict[str, float]:
    return {name: getattr(verdict, name) for name in ASPECTS}


@given(stories())
def test_a_story_told_right_has_full_marks(story_and_scenes):
    story, pictures = story_and_scenes
    verdict = judge_story(story, told(pictures))
    assert verdict.steps == (StepVerdict(1, 1, 1, 1),) * story.steps
    assert [(step.text, step.visual) for step in verdict.steps] == [(1, 1)] * len(verdict.steps)
    assert (verdict.structure, verdict.mean, verdict.reason) == (1, 5, "")


@st.composite
def rambles(draw: st.DrawFn) -> list[Said | Shown]:
    """Whatever a policy may do: texts of any words, right or wrong pictures, any end."""
    events: list[Said | Shown] = []
    texts = st.lists(st.sampled_from(vocabulary()), max_size=12).map(" ".join) | plans().map(write_thinking)
    pictures = draw(st.integers(0, 4))
    for turn in range(pictures):
        events += [
            Said(draw(texts), "image", turn),
            Shown(sight(draw(scenes(least=0)), draw(st.floats(0, 1))), turn),
        ]
    return [*events, Said(draw(texts), draw(st.sampled_from(["stop", "image", "cut"])), pictures)]


@given(stories(), rambles())
def test_every_score_of_whatever_is_said_and_shown_is_in_range(story_and_scenes, events):
    story, _ = story_and_scenes
    verdict = judge_story(story, events)
    assert len(verdict.steps) == story.steps
    for step in verdict.steps:
        for score in (step.text, step.faithful, step.asked, step.coherence, step.visual):
            assert 0 <= score <= 1
    assert 0 <= verdict.structure <= 1
    assert all(0 <= score <= 5 for score in aspects(verdict).values())
    assert verdict.mean == pytest.approx(sum(aspects(verdict).values()) / 5)
    pictures = [event for event in events if isinstance(event, Shown)]
    well_formed = (
        len(pictures) == story.steps
        and events[-1] == Said("", "stop", story.steps)
        and all(event.plan for event in events[:-1:2])
    )
    assert (verdict.structure == 1) == well_formed
    assert sum(verdict.structure_gains) == pytest.approx(verdict.structure)
    for count in range(len(events) + 1):
        cut = judge_story(story, events[:count])
        assert verdict.structure_gains[:count] == cut.structure_gains, "what follows changes no gain"
    assert verdict.reason or verdict.structure == 1


@given(stories(), st.data())
def test_stopping_early_costs_the_missing_steps_and_structure(story_and_scenes, data):
    story, pictures = story_and_scenes
    alive = data.draw(st.integers(0, story.steps - 1))
    verdict = judge_story(story, told(pictures[:alive]))
    assert verdict.structure_gains[-1] == 0, "the end is worth nothing"
    assert verdict.steps == (StepVerdict(1, 1, 1, 1),) * alive + (StepVerdict(),) * (story.steps - alive)
    assert verdict.structure == pytest.approx(alive / (story.steps + 1))
    expected = dict.fromkeys(ASPECTS, 5.0 if alive else 0.0) | {"helpfulness": 5 * alive / story.steps}
    assert aspects(verdict) == pytest.approx(expected | {"image_coherence": 5.0 if alive > 1 else 0.0})


@given(stories())
def test_going_on_costs_structure_and_help(story_and_scenes):
    story, pictures = story_and_scenes
    verdict = judge_story(story, told([*pictures, pictures[-1]]))
    assert verdict.steps == (StepVerdict(1, 1, 1, 1),) * story.steps
    assert verdict.structure == pytest.approx(story.steps / (story.steps + 2))
    assert verdict.helpfulness == pytest.approx(5 * story.steps / (story.steps + 1))
    assert verdict.text_quality < 5
    assert verdict.text_image_coherence == verdict.image_coherence == verdict.perceptual_quality == 5


@pytest.mark.parametrize(
    "closing", [None, Said("", "cut", 9), Said("top left red circle .", "stop", 9), Said("", "image", 9)]
)
@given(stories())
def test_a_story_that_does_not_end_as_it_should_is_malformed(closing, story_and_scenes):
    story, pictures = story_and_scenes
    *events, _ = told(pictures)
    if closing:
        events.append(Said(closing.text, closing.end, story.steps))
    verdict = judge_story(story, events)
    assert verdict.structure == pytest.approx(story.steps / (story.steps + 1 + (closing is not None)))
    assert verdict.steps == (StepVerdict(1, 1, 1, 1),) * story.steps


@given(stories(), st.data())
def test_a_malformed_text_says_nothing_but_its_picture_may_be_asked_for(story_and_scenes, data):
    story, pictures = story_and_scenes
    events = told(pictures)
    at = data.draw(st.integers(0, story.steps - 1))
    text = events[2 * at].text.rsplit(" ", 1)[0]
    events[2 * at] = Said(text, "image", at)
    verdict = judge_story(story, events)
    assert verdict.steps[at] == StepVerdict(0, 0, 1, 1)
    assert all(step.text == 1 for turn, step in enumerate(verdict.steps) if turn != at)
    assert verdict.structure == pytest.approx(story.steps / (story.steps + 1))
    assert verdict.text_quality == pytest.approx(verdict.text_image_coherence) == pytest.approx(5 - 5 / story.steps)
    assert verdict.helpfulness == 5


@given(stories())
def test_a_text_whose_picture_never_came_is_judged_alone(story_and_scenes):
    """Where an episode's limit is shorter than the story."""
    story, pictures = story_and_scenes
    *events, _, _ = told(pictures)
    verdict = judge_story(story, events)
    assert verdict.steps[-1] == StepVerdict(text=1)
    assert verdict.structure == pytest.approx((story.steps - 1) / (story.steps + 1))
    assert (verdict.text_quality, verdict.perceptual_quality) == (5, 5)
    assert verdict.text_image_coherence == pytest.approx(verdict.helpfulness) == pytest.approx(5 - 5 / story.steps)


@given(stories(), st.data())
def test_a_misdrawn_picture_is_neither_faithful_nor_asked_for_but_the_text_is(story_and_scenes, data):
    story, pictures = story_and_scenes
    at = data.draw(st.integers(0, story.steps - 1))
    events = told(pictures)
    events[2 * at + 1] = Shown(sight(misdraw(pictures[at], random.Random(data.draw(st.integers(0, 99))))), at)
    verdict = judge_story(story, events)
    assert verdict.steps[at].faithful < 1
    assert verdict.steps[at].asked < 1
    assert {step.text for step in verdict.steps} == {1}
    assert (verdict.structure, verdict.text_quality) == (1, 5)
    assert verdict.helpfulness == pytest.approx(5 * (1 - 1 / story.steps))
    assert f"picture {at + 1} shows" in verdict.reason


@given(stories(), st.data())
def test_a_step_is_asked_of_the_text_before_and_of_the_prompt_apart(story_and_scenes, data):
    """A story that goes wrong at the start and stays consistent is consistent, and yet not what was asked for."""
    story, pictures = story_and_scenes
    untouched = [item for item in pictures[0].items if all(item in scene.items for scene in pictures)]
    assume(untouched and all(edit.kind != "count" for edit in story.edits))
    one = data.draw(st.sampled_from(untouched))
    colour = data.draw(st.sampled_from([colour for colour in COLOURS if colour != one.colour]))
    verdict = judge_story(story, told([scene.change(one, colour=colour) for scene in pictures]))
    first, *later = verdict.steps
    assert first.text < 1
    assert all(step.text == 1 for step in later)
    assert all(step.asked < 1 and step.faithful == 1 and step.coherence == 1 for step in verdict.steps)
    assert (verdict.helpfulness, verdict.image_coherence, verdict.structure) == (0, 5, 1)


@given(stories())
def test_unclean_pictures_cost_perceptual_quality_only(story_and_scenes):
    story, pictures = story_and_scenes
    clean = told(pictures)
    unclean = [replace(e, sight=replace(e.sight, distance_to_clean=0.2)) if isinstance(e, Shown) else e for e in clean]
    verdict = judge_story(story, unclean)
    assert aspects(verdict) == pytest.approx(dict.fromkeys(ASPECTS, 5.0) | {"perceptual_quality": 3.0})
    assert verdict.steps == judge_story(story, clean).steps


@given(st.lists(st.tuples(stories(), st.booleans()), min_size=1, max_size=4))
def test_episodes_of_a_transcript_end_when_they_end(batch):
    """Pixels of pictures that were not made mean nothing, not even numbers."""
    cut = [(story, pictures[: story.steps - early]) for (story, pictures), early in batch]
    rows = [(story, told(pictures)) for story, pictures in cut]
    ones = [1] * len(rows)
    parts: list[TextPart | ImagePart] = [
        TextPart([story.prompt for story, _ in cut], ["stop"] * len(rows), ones, True, 0)
    ]
    for turn in range(4):
        said = [next((e for e in events if isinstance(e, Said) and e.turn == turn), None) for _, events in rows]
        alive = [turn < len(pictures) for _, pictures in cut]
        pixels = torch.full((len(rows), 3, 32, 32), float("nan"))
        for row, (_, pictures) in enumerate(cut):
            if alive[row]:
                pixels[row] = torch.from_numpy(render([pictures[turn]])[0])
        texts, ends = [one.text if one else "" for one in said], [one.end if one else None for one in said]
        parts += [TextPart(texts, ends, ones, False, turn), ImagePart(pixels, alive, False, turn)]
    judged = judge_stories(DecodedEpisodes([story_prompt(story) for story, _ in rows], tuple(parts)))
    for (story, events), verdict in zip(rows, judged, strict=True):
        alone = judge_story(story, events)
        assert (verdict.steps, verdict.structure, verdict.reason) == (alone.steps, alone.structure, alone.reason)
        assert aspects(verdict) == pytest.approx(aspects(alone), abs=1e-2)


def test_an_episode_that_never_paints_is_judged_too():
    story = Shapes("stories").prompts("test")["steps-2"][0]
    said = TextPart(["circle circle"], ["cut"], [24], False, 0)
    (verdict,) = judge_stories(DecodedEpisodes([story], (said,)))
    assert verdict.mean == verdict.structure == 0
    assert {(step.text, step.visual) for step in verdict.steps} == {(0, 0)}
    assert "picture 1 is missing" in verdict.reason
