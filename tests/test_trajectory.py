"""What a trajectory says about itself."""

from __future__ import annotations

import torch

from unigrpo.trajectory import Cost, ImageSegment, TextSegment, Trajectory


def text(given: bool) -> TextSegment:
    return TextSegment(torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1, dtype=torch.bool), given)


def picture() -> ImageSegment:
    return ImageSegment((), torch.zeros(4, 1, 1, 1))


def test_rows_are_prompt_major():
    assert Trajectory(("a", "b"), 2, (), ()).row_prompts == ["a", "a", "b", "b"]


def test_the_thinking_is_the_first_text_of_the_policys_own():
    first, second = text(given=False), text(given=False)
    assert Trajectory("ab", 2, (text(given=True), first, picture(), second), (None,) * 4).thinking is first
    assert Trajectory("ab", 2, (text(given=True), picture()), (None,) * 2).thinking is None


def test_the_image_is_the_last_picture():
    first, last = picture(), picture()
    assert Trajectory("ab", 2, (first, text(given=False), last, text(given=False)), (None,) * 4).image is last


def test_costs_add_up():
    assert Cost(nfe=2, tokens=3) + Cost(nfe=5) == Cost(nfe=7, tokens=3)
