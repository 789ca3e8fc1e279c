from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from statistics import fmean

import pytest

from tests.worlds.scenes import sight
from unigrpo.data.prompt import ImageBlock, TextBlock
from unigrpo.worlds.shapes import sft_data
from unigrpo.worlds.shapes.edit_judge import judge_edit
from unigrpo.worlds.shapes.prompts import all_prompts
from unigrpo.worlds.shapes.reflection import parse_reflection
from unigrpo.worlds.shapes.rules import plan_satisfies, scene_satisfies
from unigrpo.worlds.shapes.sft_data import KINDS, Faults, episodes
from unigrpo.worlds.shapes.story_judge import Said, Shown, judge_story
from unigrpo.worlds.shapes.thinking import parse_thinking, plan_of
from unigrpo.worlds.shapes.vocabulary import vocabulary

CLEAN = Faults(0, 0, 0, 0, 0, 0)


@pytest.fixture
def drawn(monkeypatch):
    """The stories and edit prompts behind the episodes, in order."""
    prompts = []

    def remembered(draw, prompt_of):
        def drawing(*arguments):
            result = draw(*arguments)
            assert "train" in arguments
            prompts.append(prompt_of(result))
            return result

        return drawing

    for name, prompt_of in (("random_story", lambda told: told[0]), ("random_edit_prompt", lambda prompt: prompt)):
        monkeypatch.setattr(sft_data, name, remembered(getattr(sft_data, name), prompt_of))
    return prompts


def story_verdicts(prompts, faults, n=300):
    told = episodes("stories", random.Random(1), n, faults)
    return [
        judge_story(
            story,
            [
                Said(event.text, event.end, event.turn)
                if isinstance(event, TextBlock)
                else Shown(sight(event.image.scene), turn)
                for event in episode[1:]
                for turn in [event.turn]
            ],
        )
        for story, episode in zip(prompts, told, strict=True)
    ]


def edit_verdicts(prompts, faults, n=300):
    verdicts = []
    for prompt, episode in zip(prompts, episodes("edits", random.Random(1), n, faults), strict=True):
        pictures = [event for event in episode if isinstance(event, ImageBlock)]
        verdicts += [
            judge_edit(prompt.edits[turn], sight(before.image.scene), sight(after.image.scene))
            for turn, (before, after) in enumerate(itertools.pairwise(pictures))
        ]
    return verdicts


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_generator_gives_the_same_episodes_in_words_of_the_vocabulary(kind):
    one, other = (episodes(kind, random.Random(7), 50, Faults()) for _ in range(2))
    assert one == other
    assert episodes(kind, random.Random(8), 50, Faults()) != one
    texts = [event for episode in one for event in episode if isinstance(event, TextBlock)]
    assert {word for text in texts for word in text.text.split()} <= set(vocabulary())
    assert all(event.image.scene.items for episode in one for event in episode if isinstance(event, ImageBlock))


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("images", "T t p"),
        ("describe", "P T t"),
        ("stories", "T t> p t> p (t> p )*t"),
        ("edits", "P( T t p)+"),
        ("reflect", "T t p( t> p)*( t)?"),
    ],
)
def test_episodes_have_the_form_of_their_kind(kind, form):
    """Capital: given; > is a text that asks for a picture."""
    for episode in episodes(kind, random.Random(0), 200, CLEAN):
        letters = []
        for event in episode:
            letter = "t" if isinstance(event, TextBlock) else "p"
            letters.append(letter.upper() if event.given else letter)
            if isinstance(event, TextBlock) and event.end == "image":
                letters[-1] += ">"
        assert re.fullmatch(form, " ".join(letters))
        turns = [event.turn for event in episode]
        assert turns == sorted(turns)
        assert turns[0] == 0


def test_without_faults_every_plan_and_picture_is_right():
    train = {prompt.prompt: prompt for prompt in all_prompts("train")}
    for prompt, thinking, picture in episodes("images", random.Random(0), 200, CLEAN):
        assert scene_satisfies(picture.image.scene, train[prompt.text])
        assert parse_thinking(thinking.text) == plan_of(picture.image.scene)
    for picture, _, answer in episodes("describe", random.Random(0), 200, Faults()):
        assert parse_thinking(answer.text) == plan_of(picture.image.scene)
    for prompt, _, picture, reflection in episodes("reflect", random.Random(0), 100, CLEAN):
        parsed = parse_reflection(reflection.text)
        assert (parsed.seen, parsed.repair) == (plan_of(picture.image.scene), None)
        assert scene_satisfies(picture.image.scene, train[prompt.text])


def test_without_faults_every_story_is_perfect(drawn):
    for verdict in story_verdicts(drawn, CLEAN):
        assert (verdict.mean, verdict.structure, verdict.reason) == (5, 1, "")


def test_without_faults_every_edit_is_perfect_and_its_thinking_is_the_picture(drawn):
    assert all((verdict.O, verdict.reason) == (10, "") for verdict in edit_verdicts(drawn, CLEAN))
    for episode in episodes("edits", random.Random(2), 100, CLEAN):
        for thinking, picture in zip(episode[2::3], episode[3::3], strict=True):
            assert parse_thinking(thinking.text) == plan_of(picture.image.scene)


def test_without_false_verdicts_wrong_pictures_are_mended_and_right_ones_left():
    train = {prompt.prompt: prompt for prompt in all_prompts("train")}
    rounds = []
    for prompt, _, first, reflection, *more in episodes("reflect", random.Random(0), 300, replace(CLEAN, misdrawn=0.5)):
        asked = train[prompt.text]
        parsed = parse_reflection(reflection.text)
        assert parsed.seen == plan_of(first.image.scene)
        assert (parsed.repair is None) == scene_satisfies(first.image.scene, asked) == (not more)
        assert (reflection.end == "stop") == (not more)
        if more:
            assert plan_satisfies(parsed.repair, asked) or asked.tag == "position"
            if plan_of(more[0].image.scene) == parsed.repair:
                # what was right is not painted anew
                right = [i for i, one in zip(first.image.scene.items, parsed.seen, strict=True) if one in parsed.repair]
                assert set(right) <= set(more[0].image.scene.items)
        rounds.append(len(more))
    assert {0, 1, 2} <= set(rounds)


def test_each_fault_of_stories_comes_in_its_share_and_costs_what_it_should(drawn):
    def verdicts(**faults):
        drawn.clear()
        return story_verdicts(drawn, replace(CLEAN, **faults), 400)

    malformed = verdicts(malformed=0.3)
    assert fmean(verdict.structure < 1 for verdict in malformed) == pytest.approx(0.3, abs=0.05)
    assert all(verdict.helpfulness == 5 for verdict in malformed if verdict.structure == 1)
    misdrawn = verdicts(misdrawn=0.3)
    assert all(verdict.structure == 1 for verdict in misdrawn)
    assert all(step.text == 1 for verdict in misdrawn for step in verdict.steps)
    faithful = [step.faithful == 1 for verdict in misdrawn for step in verdict.steps]
    assert fmean(faithful) == pytest.approx(0.7, abs=0.04)
    displaced = verdicts(displaced=0.3)
    assert all(verdict.steps[0].asked == 1 for verdict in displaced)  # any place will do
    coherent = [step.coherence == 1 for verdict in displaced for step in verdict.steps[1:]]
    assert 0.4 < fmean(coherent) < 0.75
    wrong = verdicts(wrong_step=0.2)
    texts = [step.text == 1 for verdict in wrong for step in verdict.steps[:1]]
    assert fmean(texts) == pytest.approx(1 - 0.2 * 6 / 7, abs=0.05)  # another place is as right
    # a right text after a wrong one goes on from there
    assert fmean(verdict.steps[1].text == 1 for verdict in wrong) > 0.73


def test_a_wrong_text_leaves_the_other_objects_where_they_are():
    stayed = []
    for episode in episodes("edits", random.Random(0), 100, replace(CLEAN, wrong_step=1)):
        pictures = [event.image.scene for event in episode if isinstance(event, ImageBlock)]
        for before, after in itertools.pairwise(pictures):
            same = set(plan_of(before)) & set(plan_of(after))
            old, new = (
                {item for item, one in zip(scene.items, plan_of(scene), strict=True) if one in same}
                for scene in (before, after)
            )
            stayed.append(old == new)
    assert fmean(stayed) > 0.95


def test_faults_of_edits_and_verdicts_come_in_their_shares(drawn):
    assert fmean(v.SC < 10 for v in edit_verdicts(drawn, replace(CLEAN, misdrawn=0.3))) == pytest.approx(0.3, abs=0.05)
    drawn.clear()
    assert fmean(v.preserved < 10 for v in edit_verdicts(drawn, replace(CLEAN, displaced=0.3))) > 0.12
    train = {prompt.prompt: prompt for prompt in all_prompts("train")}
    told = episodes("reflect", random.Random(0), 600, replace(CLEAN, wrong_verdict=0.3))
    false = [(event[3].end == "stop") != scene_satisfies(event[2].image.scene, train[event[0].text]) for event in told]
    assert fmean(false) == pytest.approx(0.3, abs=0.05)


def test_a_model_that_copies_the_data_has_room_on_every_count(drawn):
    verdicts = story_verdicts(drawn, Faults(), 600)
    for name in ("text_quality", "image_coherence", "text_image_coherence", "helpfulness"):
        assert 2.5 < fmean(getattr(verdict, name) for verdict in verdicts) < 4.5
    drawn.clear()
    assert 0.4 < fmean(verdict.SC == 10 for verdict in edit_verdicts(drawn, Faults(), 600)) < 0.7


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="expected one of images, describe, stories, edits, reflect, got 'songs'"):
        episodes("songs", random.Random(0), 1, Faults())
