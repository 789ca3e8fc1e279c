"""What trajectories and decoded episodes say about themselves."""

from __future__ import annotations

import torch

from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart, TextPart
from unigrpo.rollout.trajectory import Cost, ImageSegment, TextSegment, Trajectory


def text(given: bool) -> TextSegment:
    return TextSegment(torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1, dtype=torch.bool), given)


def picture() -> ImageSegment:
    return ImageSegment((), torch.zeros(4, 1, 1, 1), torch.ones(4, dtype=torch.bool))


def test_rows_are_prompt_major():
    assert Trajectory(("a", "b"), 2, (), ()).row_prompts == ["a", "a", "b", "b"]


def test_the_thinking_is_the_first_text_of_the_policys_own():
    first, second = text(given=False), text(given=False)
    assert Trajectory("ab", 2, (text(given=True), first, picture(), second), (None,) * 4).thinking is first
    assert Trajectory("ab", 2, (text(given=True), picture()), (None,) * 2).thinking is None


def test_the_image_is_the_last_picture():
    first, last = picture(), picture()
    assert Trajectory("ab", 2, (first, text(given=False), last, text(given=False)), (None,) * 4).image is last


def test_a_text_was_made_where_a_token_was_said():
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    segment = TextSegment(torch.zeros(3, 2, dtype=torch.long), mask)
    assert segment.alive.tolist() == [True, False, True]
    assert segment.rows == 3


def test_costs_add_up():
    assert Cost(nfe=2, tokens=3) + Cost(nfe=5) == Cost(nfe=7, tokens=3)


class TestTranscript:
    def shown(self, level: float, alive: list[bool], given: bool = False) -> ImagePart:
        return ImagePart(torch.full((3, 3, 2, 2), level), alive, given, 0)

    def test_a_text_was_made_where_it_has_an_end(self):
        assert TextPart(["a", "", ""], ["cut", None, "stop"], [1, 0, 1], False, 0).alive == [True, False, True]

    def test_the_policys_own_parts_know_their_segment(self):
        given, said = (TextPart(["a"], ["stop"], [2], given, 0) for given in (True, False))
        source, painted = self.shown(0.0, [True] * 3, given=True), self.shown(1.0, [True] * 3)
        decoded = DecodedEpisodes("xyz", (source, given, said, painted))
        assert decoded.images == [(3, painted)]
        assert decoded.texts == [(2, said)]

    def test_the_last_picture_is_that_of_each_row(self):
        parts = (
            self.shown(9.0, [True] * 3, given=True),
            self.shown(1.0, [True, True, False]),
            self.shown(float("nan"), [False] * 3),
            self.shown(3.0, [True, False, False]),
        )
        assert DecodedEpisodes("xyz", parts).last_images()[:, 0, 0, 0].tolist() == [3.0, 1.0, 0.0]
