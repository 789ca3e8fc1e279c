"""Episodes: which segments they are made of, in what order and turns, and what they cannot live with."""

from __future__ import annotations

import pytest

from tests.models import tiny
from tests.rollouts import Protocol, roll, spec
from unigrpo.config import RunConfig
from unigrpo.rollout.episodes import Editing, Interleaved, Reflect, SingleRound
from unigrpo.rollout.trajectory import ImageScore, ImageSegment, TextScore, TextSegment, Trajectory

POLICY = tiny.policy()


def form(trajectory: Trajectory) -> list[str]:
    """Each segment as its kind and turn; what was given is in brackets."""
    names = {TextSegment: "text", ImageSegment: "picture"}
    said = [(f"{names[type(segment)]} {segment.turn}", segment.given) for segment in trajectory.segments]
    return [f"({name})" if given else name for name, given in said]


def test_a_single_round_is_prompt_thinking_picture():
    trajectory = roll(POLICY, spec(), keys="abc", group=2)
    assert form(trajectory) == ["(text 0)", "text 0", "picture 0"]
    assert trajectory.segments[0].tokens.shape[0] == 3, "the prompt is kept once per group"
    assert trajectory.segments[1].tokens.shape[0] == trajectory.image.latents.shape[0] == 6
    assert [type(score) for score in trajectory.scores] == [type(None), TextScore, ImageScore]


def test_without_thinking_it_is_prompt_and_picture():
    trajectory = roll(POLICY, spec(), episode=SingleRound(thinking=False))
    assert form(trajectory) == ["(text 0)", "picture 0"]
    assert trajectory.thinking is None


def test_the_picture_is_painted_from_what_was_thought():
    """The same prompt and noise, another thought: another picture."""

    def other_words(what, drawn):
        return 1 - drawn if what[1] == "text" else drawn

    one, two = roll(POLICY, spec()), roll(POLICY, spec(), alter=other_words)
    assert one.thinking.tokens.tolist() != two.thinking.tokens.tolist()
    changed = (one.image.latents - two.image.latents).flatten(1).abs().amax(1)
    same = [a == b for a, b in zip(said(one), said(two), strict=True)]
    assert all((difference > 1e-3) != equal for difference, equal in zip(changed.tolist(), same, strict=True))


def said(trajectory) -> list[list[int]]:
    text = trajectory.thinking
    return [row[mask].tolist() for row, mask in zip(text.tokens, text.mask, strict=True)]


@pytest.mark.parametrize("limit", [1, 3])
def test_thinking_is_no_longer_than_its_limit(limit):
    spy = Protocol(POLICY)
    assert roll(spy, spec(), episode=SingleRound(max_thinking=limit)).thinking.tokens.shape[1] <= limit


def test_a_story_takes_turns():
    trajectory = roll(POLICY, spec(), keys="abcd", episode=Interleaved(max_pictures=2, max_text=8))
    whole = ["(text 0)", "text 0", "picture 0", "text 1", "picture 1", "text 2"]
    assert form(trajectory) == whole
    assert [segment.rows for segment in trajectory.segments] == [4, 12, 12, 12, 12, 12]


def test_a_story_of_a_policy_that_never_asks_for_a_picture_is_a_text():
    """Cut at one token, unless that happens to be ``<image>``: on this seed it is in no row."""
    trajectory = roll(POLICY, spec(), keys="a", group=2, episode=Interleaved(max_text=1))
    assert form(trajectory) == ["(text 0)", "text 0"]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_an_edit_starts_from_the_source_and_goes_on_from_the_own_picture(turns):
    spy = Protocol(POLICY)
    trajectory = roll(spy, spec(), episode=Editing(turns=turns, max_thinking=3))
    chain = [f"{name} {turn}" for turn in range(turns) for name in ("(text", "text", "picture")]
    assert form(trajectory) == ["(picture 0)", *(name + ")" * (name[0] == "(") for name in chain)]
    rows = [segment.rows for segment in trajectory.segments]
    assert rows == [2, 2, *[6] * (3 * turns - 1)], "source and first instruction are read once per group"
    assert spy.texts[0][0] == 2
    assert all(segment.alive.all() for segment in trajectory.segments)


def test_later_instructions_are_repeated_for_the_group():
    trajectory = roll(POLICY, spec(), episode=Editing(turns=2, max_thinking=3))
    second = trajectory.segments[4]
    assert second.given
    assert second.tokens[0].tolist() == second.tokens[2].tolist() != second.tokens[3].tolist()


def test_edits_are_tested_in_their_own_number_of_turns():
    assert Editing(turns=1, test_turns=2).for_evaluation() == Editing(turns=2, test_turns=2)
    assert Interleaved().for_evaluation() == Interleaved()


def test_a_reflection_follows_each_picture_but_the_last():
    trajectory = roll(POLICY, spec(), keys="abcd", episode=Reflect(rounds=3, max_thinking=3, max_reflection=8))
    assert form(trajectory) == ["(text 0)", "text 0", "picture 0", "text 1", "picture 1", "text 2", "picture 2"]
    alive = [int(segment.alive.sum()) for segment in trajectory.segments[1:]]
    assert alive[:3] == [12, 12, 12], "every row paints, thinks and reflects once"
    assert alive == sorted(alive, reverse=True)


def test_a_reflection_of_one_round_is_a_single_round():
    one, other = (roll(POLICY, spec(), episode=kind) for kind in (Reflect(rounds=1), SingleRound()))
    assert form(one) == form(other)
    assert one.image.latents.equal(other.image.latents)


def test_alternating_starts_are_single_rounds_and_trees_by_turns():
    """And own pictures in evaluations."""
    episode = Reflect(rounds=2, max_thinking=3, max_reflection=8, start="alternate")
    even, odd = (roll(POLICY, spec(update=update), episode=episode) for update in (2, 3))
    assert form(even) == ["(text 0)", "text 0", "picture 0"]
    assert [segment.rows for segment in even.segments] == [2, 6, 6]
    assert [segment.rows for segment in odd.segments[:4]] == [2, 2, 2, 6]
    assert episode.for_evaluation().start == "own"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (SingleRound, "max_thinking"), (Interleaved, "max_pictures"), (Interleaved, "max_text"), (Editing, "turns"),
        (Editing, "test_turns"), (Editing, "max_thinking"), (Reflect, "rounds"), (Reflect, "max_thinking"),
        (Reflect, "max_reflection"),
    ],
)  # fmt: skip
def test_limits_below_1_are_refused(kind, field):
    with pytest.raises(ValueError, match=f"{field}=0: expected 1 or more"):
        kind(**{field: 0})


@pytest.mark.parametrize(("thinking", "modalities", "runs"), [
    (True, "joint", True), (True, "image_only", True), (False, "image_only", True),
    (False, "joint", False), (False, "text_only", False),
])  # fmt: skip
def test_text_is_trained_only_where_there_is_some(thinking, modalities, runs):
    config = RunConfig.from_dict({"episode": {"name": "single_round", "thinking": thinking}, "modalities": modalities})
    assert (config.conflicts() == []) == runs


EDITS = {"name": "shapes", "task": "edits"}


@pytest.mark.parametrize("field", ["turns", "test_turns"])
def test_more_edits_than_the_prompts_have_are_refused(field):
    config = RunConfig.from_dict({"dataset": EDITS, "episode": {"name": "editing", field: 4}, "reward": "edit"})
    (said_of_it,) = config.conflicts()
    assert f"{field}=4: the dataset's prompts have 3 instructions" in said_of_it
