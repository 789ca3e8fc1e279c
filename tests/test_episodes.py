"""Episodes: which segments they are made of, and in what order."""

from __future__ import annotations

import pytest

from tests.models import tiny
from tests.walks import Protocol, roll, rules
from unigrpo.config import RunConfig
from unigrpo.episodes import SingleRound
from unigrpo.trajectory import ImageScore, ImageSegment, TextScore, TextSegment

POLICY = tiny.policy()


def kinds(trajectory) -> list[tuple[str, bool]]:
    names = {TextSegment: "text", ImageSegment: "image"}
    return [(names[type(segment)], segment.given) for segment in trajectory.segments]


def test_a_single_round_is_prompt_thinking_picture():
    trajectory = roll(POLICY, rules(), keys="abc", group=2)
    assert kinds(trajectory) == [("text", True), ("text", False), ("image", False)]
    assert trajectory.segments[0].tokens.shape[0] == 3, "the prompt is kept once per group"
    assert trajectory.segments[1].tokens.shape[0] == trajectory.image.latents.shape[0] == 6
    assert [type(score) for score in trajectory.scores] == [type(None), TextScore, ImageScore]


def test_without_thinking_it_is_prompt_and_picture():
    trajectory = roll(POLICY, rules(), episode=SingleRound(thinking=False))
    assert kinds(trajectory) == [("text", True), ("image", False)]
    assert trajectory.thinking is None


def test_the_picture_is_painted_from_what_was_thought():
    """The same prompt and noise, another thought: another picture."""

    def other_words(what, drawn):
        return 1 - drawn if what[1] == "text" else drawn

    one, two = roll(POLICY, rules()), roll(POLICY, rules(), alter=other_words)
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
    assert roll(spy, rules(), episode=SingleRound(max_thinking=limit)).thinking.tokens.shape[1] <= limit


def test_thinking_of_no_length_is_refused():
    with pytest.raises(ValueError, match="max_thinking=0: expected 1 or more"):
        SingleRound(max_thinking=0)


@pytest.mark.parametrize(("thinking", "modalities", "runs"), [
    (True, "joint", True), (True, "image_only", True), (False, "image_only", True),
    (False, "joint", False), (False, "text_only", False),
])  # fmt: skip
def test_text_is_trained_only_where_there_is_some(thinking, modalities, runs):
    config = RunConfig.from_dict({"episode": {"name": "single_round", "thinking": thinking}, "modalities": modalities})
    assert (config.conflicts() == []) == runs
