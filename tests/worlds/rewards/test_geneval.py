from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given

from tests.worlds.scenes import prompts, scenes
from unigrpo.worlds.shapes.dataset import image_prompt
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import random_item
from unigrpo.worlds.shapes.judge import judge
from unigrpo.worlds.shapes.prompts import by_task
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.rewards import GenEvalReward, ProxyReward


@given(scenes(), prompts())
def test_geneval_components_are_the_verdicts_fields(scene, prompt):
    pictures = torch.from_numpy(render([scene]))
    (verdict,) = judge(pictures, [prompt])
    asked = [image_prompt(prompt)]
    strict = GenEvalReward("strict", "mixed").score(pictures, asked)
    official = GenEvalReward("official", "mixed").score(pictures, asked)
    assert strict.tolist() == [pytest.approx([float(verdict.strict), verdict.strict_soft])]
    assert official.tolist() == [pytest.approx([float(verdict.official), verdict.official_soft])]
    for kind, column in (("binary", 0), ("soft", 1)):
        assert torch.equal(GenEvalReward("strict", kind).score(pictures, asked), strict[:, [column]])


def test_an_extra_object_costs_under_the_strict_reward_only():
    prompt = by_task("test")["colors"][0]
    rng = random.Random(1)
    scene = satisfying_scene(prompt, rng)
    crowded = scene.add(random_item(rng, scene.free_places[0], "cross"))
    pictures, asked = torch.from_numpy(render([scene, crowded])), [image_prompt(prompt)] * 2
    assert GenEvalReward("official").score(pictures, asked).tolist() == [[1, 1], [1, 1]]
    assert GenEvalReward("strict").score(pictures, asked).tolist() == [[1, 1], [0, 0.5]]


@pytest.mark.parametrize("reward", [GenEvalReward(), ProxyReward()], ids=str)
def test_no_pictures_have_no_scores(reward):
    assert reward.score(torch.zeros(0, 3, 32, 32), []).shape == (0, len(reward.component_names))
