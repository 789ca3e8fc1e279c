from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.episodes import OVER, said, shown
from unigrpo import registry
from unigrpo.config import RunConfig
from unigrpo.errors import ConfigError
from unigrpo.plain import build_strategy
from unigrpo.rewards import ImageReward, WeightedReward
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.worlds.shapes.dataset import Shapes
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import PLACES, Scene, random_item
from unigrpo.worlds.shapes.judge import see
from unigrpo.worlds.shapes.prompts import geneval_prompt
from unigrpo.worlds.shapes.rewards import GenEvalReward, ProxyReward

REWARDS = [
    *(GenEvalReward(verdict, kind) for verdict in ("strict", "official") for kind in ("binary", "soft", "mixed")),
    ProxyReward(),
    WeightedReward(),
    WeightedReward({"proxy": 2.0, "geneval": -1.0}),
]


@pytest.mark.parametrize("reward", REWARDS, ids=str)
def test_components_names_and_weights_agree(reward):
    rng = random.Random(0)
    chosen = [tests[0] for tests in Shapes().prompts("test").values()]
    decoded = DecodedEpisodes(chosen, (shown(*(satisfying_scene(geneval_prompt(prompt), rng) for prompt in chosen)),))
    judged = reward(decoded)
    assert judged.outcome.shape == (6, len(reward.component_names))
    assert judged.outcome.dtype == judged.steps.dtype == torch.float32
    assert len(reward.component_names) == len(set(reward.component_names)) == len(reward.component_weights)
    assert not judged.outcome.requires_grad
    assert torch.equal(judged.steps[:, 0], judged.outcome), "one picture earns all"
    assert judged.has_reward.all()
    assert reward.needs == {"include"} <= chosen[0].offers


@dataclass(frozen=True)
class Objects(ImageReward):
    """One component: how many objects there are."""

    component_names: ClassVar[tuple[str, ...]] = ("objects",)
    component_weights: ClassVar[tuple[float, ...]] = (1.0,)

    def score(self, images, prompts):
        return torch.tensor([[float(len(sight.objects))] for sight in see(images)])


def test_every_picture_earns_its_score_and_the_last_is_the_outcome():
    """The rows: paint again; stop; be cut off after the first picture; have a thinking that was cut off."""
    rng = random.Random(0)
    one, two, three = (Scene(tuple(random_item(rng, place) for place in tuple(PLACES)[:count])) for count in (1, 2, 3))
    thoughts = said(("a", "stop"), ("b", "stop"), ("c", "stop"), ("d", "cut"))
    parts = (
        said(*[("x", "stop")] * 4, given=True),
        thoughts,
        shown(one, two, one, three),
        said(("a", "image"), ("b", "stop"), ("c", "cut"), ("d", "image"), turn=1),
        shown(three, OVER, OVER, two, turn=1),
        said(("a", "stop"), OVER, OVER, ("d", "cut"), turn=2),
    )
    judged = Objects()(DecodedEpisodes("wxyz", parts))
    assert judged.outcome[:, 0].tolist() == [3, 2, 1, 2]
    assert judged.steps[..., 0].tolist() == [
        [0, 0, 1, 0, 3, 0], [0, 0, 2, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 3, 0, 2, 0],
    ]  # fmt: skip
    has_reward = [[2, 4], [2], [2, 3], [2, 4, 5]]
    assert [row.nonzero().flatten().tolist() for row in judged.has_reward] == has_reward, (
        "to be cut off earns 0, to stop nothing"
    )


def test_episodes_without_an_image_earn_nothing_and_those_beside_them_their_own():
    """Interleaved episodes may end before they show anything, in some rows of a batch or in all."""
    scene = Scene((random_item(random.Random(0), next(iter(PLACES))),))
    words = said(("a", "image"), ("b", "stop"))
    some = Objects()(DecodedEpisodes("xy", (words, shown(scene, OVER, turn=1))))
    assert some.outcome.tolist() == [[1], [0]]
    assert some.steps[..., 0].tolist() == [[0, 1], [0, 0]]
    assert some.has_reward.tolist() == [[False, True], [False, False]]
    none = WeightedReward({"geneval": 0.5, "proxy": 0.5})(DecodedEpisodes("xy", (said(("a", "stop"), ("b", "cut")),)))
    assert none.outcome.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert none.steps.tolist() == [[[0, 0, 0]], [[0, 0, 0]]]
    assert none.has_reward.tolist() == [[False], [True]], "to be cut off earns 0"


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_a_weighted_sum_keeps_components_apart(one, other):
    reward = WeightedReward({"geneval": one, "proxy": other})
    assert reward.component_names == ("geneval/strict", "geneval/strict_soft", "proxy/proxy")
    assert reward.component_weights == (one / 2, one / 2, other)
    prompt = Shapes().prompts("train")["single_object"][0]
    scene = satisfying_scene(geneval_prompt(prompt), random.Random(0))
    decoded = DecodedEpisodes([prompt], (shown(scene), said(("", "cut"))))
    parts = [part(decoded) for part in (GenEvalReward(), ProxyReward())]
    judged = reward(decoded)
    assert torch.equal(judged.outcome, torch.cat([part.outcome for part in parts], 1))
    assert torch.equal(judged.steps, torch.cat([part.steps for part in parts], 2))
    assert judged.has_reward.tolist() == [[True, True]]


def test_a_weighted_sum_reads_what_any_of_its_parts_reads():
    assert WeightedReward({"hybrid": 1.0}).needs == {"story", "requests"}
    assert WeightedReward({"hybrid": 1.0, "geneval": 1.0}).needs == {"story", "requests", "include"}
    config = RunConfig.from_dict({"reward": {"name": "weighted", "weights": {"hybrid": 1.0, "edit": 1.0}}})
    (reason,) = config.conflicts()
    assert reason.startswith(
        "reward=weighted: needs the fields 'edits', 'requests', 'story' of every prompt, which dataset=shapes"
    )


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
    assert set(registry.strategies("reward")) >= {"geneval", "proxy", "weighted", "hybrid", "edit"}
    assert build_strategy("reward", {"name": "geneval", "kind": "soft"}, "reward") == GenEvalReward(kind="soft")
    plain = {"name": "weighted", "weights": {"proxy": 1}}
    assert build_strategy("reward", plain, "reward") == WeightedReward({"proxy": 1.0})
    with pytest.raises(ConfigError, match="did you mean 'strict'"):
        build_strategy("reward", {"name": "geneval", "verdict": "strikt"}, "reward")
