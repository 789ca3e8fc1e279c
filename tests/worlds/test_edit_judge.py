from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import edits, scenes, sight
from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart, TextPart
from unigrpo.worlds.shapes.dataset import edit_prompt
from unigrpo.worlds.shapes.edit_judge import judge_change, judge_edit, judge_edits
from unigrpo.worlds.shapes.edit_prompts import EditPrompt
from unigrpo.worlds.shapes.judge import see
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.things import found_things


def pictures(rows, turn, given=False) -> ImagePart:
    return ImagePart(torch.from_numpy(render(rows)), [True] * len(rows), given, turn)


def words(texts, turn, given=True) -> TextPart:
    return TextPart(texts, ["stop"] * len(texts), [len(text.split()) + 1 for text in texts], given, turn)


@given(edits(), scenes(least=0), st.floats(0, 1))
def test_scores_are_put_together_as_published(edited, shown, distance_to_clean):
    edit, before, _ = edited
    verdict = judge_edit(edit, sight(before), sight(shown, distance_to_clean))
    change = judge_change(edit, found_things(before.items), found_things(shown.items))
    assert (verdict.success, verdict.preserved) == (10 * change.success, 10 * change.preserved)
    assert min(verdict.success, verdict.preserved) == verdict.SC
    assert pytest.approx(math.sqrt(verdict.SC * verdict.PQ)) == verdict.O
    assert 0 <= verdict.SC <= 10
    assert 0 <= verdict.O <= 10
    assert pytest.approx(max(10 - 20 * distance_to_clean, 0) if shown.items else 0) == verdict.PQ
    assert (verdict.reason == "") == (verdict.SC == 10)


@given(st.lists(edits(), min_size=1, max_size=3), scenes())
def test_every_turn_of_a_transcript_is_judged_against_the_picture_before(edited, strayed):
    """Two turns with the same instruction, the second on a picture that is not what the first asked for."""
    prompts = [EditPrompt(before, (edit, edit)) for edit, before, _ in edited]
    befores, afters = ([each[k] for each in edited] for k in (1, 2))
    instructions = [prompt.prompt for prompt in prompts]
    stray = [strayed] * len(edited)
    parts = [pictures(befores, 0, given=True)]
    for turn, shown in enumerate((stray, afters)):
        parts += [words(instructions, turn), words(instructions, turn, given=False), pictures(shown, turn)]
    judged = judge_edits(DecodedEpisodes(list(map(edit_prompt, prompts)), tuple(parts)))
    assert len(judged) == 2
    for row, (prompt, before, after) in enumerate(zip(prompts, befores, afters, strict=True)):
        for turn, (one, other) in enumerate(((before, strayed), (strayed, after))):
            expected = judge_edit(prompt.edits[turn], sight(one), sight(other))
            assert judged[turn][row].success == pytest.approx(expected.success)
            assert judged[turn][row].preserved == pytest.approx(expected.preserved)
            assert judged[turn][row].PQ > 9.9


@given(edits(), st.integers(0, 2**32))
def test_noise_costs_quality_long_before_it_costs_consistency(edited, seed):
    edit, before, after = edited
    noise = 0.1 * np.random.default_rng(seed).standard_normal((2, 3, 32, 32))
    was, now = see(render([before, after]) + noise)
    verdict = judge_edit(edit, was, now)
    assert verdict.SC > 9.5
    assert 7.5 < verdict.PQ < 8.5


def test_pure_noise_and_an_empty_picture_have_no_quality():
    noise = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    empty = np.zeros((1, 3, 32, 32), dtype=np.float32)
    for picture in (noise, empty):
        (seen,) = see(picture)
        assert seen.quality == 0
    assert str(see(empty)[0]) == "nothing"
