from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds.scenes import prompts, scenes
from unigrpo import registry
from unigrpo.config import RunConfig, build_strategy
from unigrpo.registry import ConfigError
from unigrpo.rewards import GenEvalReward, ProxyReward, WeightedReward
from unigrpo.worlds import Shapes
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import random_item
from unigrpo.worlds.shapes.prompts import by_task
from unigrpo.worlds.shapes.render import render

WORLD = Shapes()
REWARDS = [
    *(GenEvalReward(verdict, kind) for verdict in ("strict", "official") for kind in ("binary", "soft", "mixed")),
    ProxyReward(),
    WeightedReward(),
    WeightedReward({"proxy": 2.0, "geneval": -1.0}),
]


@pytest.mark.parametrize("reward", REWARDS, ids=str)
def test_components_names_and_weights_agree(reward):
    rng = random.Random(0)
    chosen = [tests[0] for tests in by_task("test").values()]
    pictures = torch.from_numpy(render([satisfying_scene(prompt, rng) for prompt in chosen]))
    components = reward(pictures, chosen, WORLD)
    assert components.shape == (6, len(reward.component_names))
    assert components.dtype == torch.float32
    assert len(reward.component_names) == len(set(reward.component_names)) == len(reward.component_weights)
    assert not components.requires_grad
    assert reward(pictures[:0], [], WORLD).shape == (0, len(reward.component_names))


@given(scenes(), prompts())
def test_geneval_components_are_the_verdicts_fields(scene, prompt):
    pictures = torch.from_numpy(render([scene]))
    (verdict,) = WORLD.judge(pictures, [prompt])
    strict = GenEvalReward("strict", "mixed")(pictures, [prompt], WORLD)
    official = GenEvalReward("official", "mixed")(pictures, [prompt], WORLD)
    assert strict.tolist() == [pytest.approx([float(verdict.strict), verdict.strict_soft])]
    assert official.tolist() == [pytest.approx([float(verdict.official), verdict.official_soft])]
    for kind, column in (("binary", 0), ("soft", 1)):
        assert torch.equal(GenEvalReward("strict", kind)(pictures, [prompt], WORLD), strict[:, [column]])


def test_an_extra_object_costs_under_the_strict_reward_only():
    prompt = by_task("test")["colors"][0]
    rng = random.Random(1)
    scene = satisfying_scene(prompt, rng)
    crowded = scene.add(random_item(rng, scene.free_places[0], "cross"))
    pictures = torch.from_numpy(render([scene, crowded]))
    assert GenEvalReward("official")(pictures, [prompt] * 2, WORLD).tolist() == [[1, 1], [1, 1]]
    assert GenEvalReward("strict")(pictures, [prompt] * 2, WORLD).tolist() == [[1, 1], [0, 0.5]]


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_a_weighted_sum_keeps_components_apart(one, other):
    reward = WeightedReward({"geneval": one, "proxy": other})
    assert reward.component_names == ("geneval/strict", "geneval/strict_soft", "proxy/proxy")
    assert reward.component_weights == (one / 2, one / 2, other)
    prompt = by_task("train")["single_object"][0]
    pictures = torch.from_numpy(render([satisfying_scene(prompt, random.Random(0))]))
    parts = [part(pictures, [prompt], WORLD) for part in (GenEvalReward(), ProxyReward())]
    assert torch.equal(reward(pictures, [prompt], WORLD), torch.cat(parts, 1))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "at least one reward"),
        ({"weighted": 1.0}, "cannot hold itself"),
        ({"genevall": 1.0}, "did you mean 'geneval'"),
        ({"proxy": float("nan")}, "finite"),
    ],
)
def test_impossible_weights_are_refused(weights, message):
    with pytest.raises(ConfigError, match=message):
        WeightedReward(weights)


def test_rewards_are_registered_and_built_from_plain_forms():
    assert set(registry.strategies("reward")) >= {"geneval", "proxy", "weighted"}
    assert build_strategy("reward", {"name": "geneval", "kind": "soft"}, "reward") == GenEvalReward(kind="soft")
    plain = {"name": "weighted", "weights": {"proxy": 1}}
    assert build_strategy("reward", plain, "reward") == WeightedReward({"proxy": 1.0})
    with pytest.raises(ConfigError, match="did you mean 'strict'"):
        build_strategy("reward", {"name": "geneval", "verdict": "strikt"}, "reward")


def test_the_proxy_is_refused_in_another_world():
    class Other:
        name = "other"

    class Config:
        world = Other()

    assert "reward=geneval" in next(ProxyReward().conflicts(Config()))
    assert not list(ProxyReward().conflicts(RunConfig()))
