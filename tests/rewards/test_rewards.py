from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.episodes import OVER, plan, said, shown
from tests.worlds.scenes import prompts, scenes
from unigrpo import registry
from unigrpo.config import RunConfig, build_strategy
from unigrpo.errors import ConfigError
from unigrpo.objective.advantage import Group
from unigrpo.objective.credit import Broadcast, Outcome, PerTurn, StepRewards, SuffixSum
from unigrpo.rewards import EditReward, GenEvalReward, HybridReward, PictureReward, ProxyReward, WeightedReward
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.worlds import Shapes
from unigrpo.worlds.shapes.edit_prompts import edits_by_type
from unigrpo.worlds.shapes.edits import apply_edit
from unigrpo.worlds.shapes.examples import satisfying_scene
from unigrpo.worlds.shapes.grammar import PLACES, Scene, random_item
from unigrpo.worlds.shapes.prompts import by_task
from unigrpo.worlds.shapes.render import render
from unigrpo.worlds.shapes.stories import random_story

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
    decoded = DecodedEpisodes(chosen, (shown(*(satisfying_scene(prompt, rng) for prompt in chosen)),))
    judged = reward(decoded, WORLD)
    assert judged.outcome.shape == (6, len(reward.component_names))
    assert judged.outcome.dtype == judged.steps.dtype == torch.float32
    assert len(reward.component_names) == len(set(reward.component_names)) == len(reward.component_weights)
    assert not judged.outcome.requires_grad
    assert torch.equal(judged.steps[:, 0], judged.outcome), "one picture earns all"
    assert judged.has_reward.all()
    assert reward.families == ("images",)


@given(scenes(), prompts())
def test_geneval_components_are_the_verdicts_fields(scene, prompt):
    pictures = torch.from_numpy(render([scene]))
    (verdict,) = WORLD.judge(pictures, [prompt])
    strict = GenEvalReward("strict", "mixed").score(pictures, [prompt], WORLD)
    official = GenEvalReward("official", "mixed").score(pictures, [prompt], WORLD)
    assert strict.tolist() == [pytest.approx([float(verdict.strict), verdict.strict_soft])]
    assert official.tolist() == [pytest.approx([float(verdict.official), verdict.official_soft])]
    for kind, column in (("binary", 0), ("soft", 1)):
        assert torch.equal(GenEvalReward("strict", kind).score(pictures, [prompt], WORLD), strict[:, [column]])


def test_an_extra_object_costs_under_the_strict_reward_only():
    prompt = by_task("test")["colors"][0]
    rng = random.Random(1)
    scene = satisfying_scene(prompt, rng)
    crowded = scene.add(random_item(rng, scene.free_places[0], "cross"))
    pictures = torch.from_numpy(render([scene, crowded]))
    assert GenEvalReward("official").score(pictures, [prompt] * 2, WORLD).tolist() == [[1, 1], [1, 1]]
    assert GenEvalReward("strict").score(pictures, [prompt] * 2, WORLD).tolist() == [[1, 1], [0, 0.5]]


@pytest.mark.parametrize("reward", [GenEvalReward(), ProxyReward()], ids=str)
def test_no_pictures_have_no_scores(reward):
    assert reward.score(torch.zeros(0, 3, 32, 32), [], WORLD).shape == (0, len(reward.component_names))


@dataclass(frozen=True)
class Objects(PictureReward):
    """One component: how many objects there are."""

    component_names: ClassVar[tuple[str, ...]] = ("objects",)
    component_weights: ClassVar[tuple[float, ...]] = (1.0,)

    def score(self, pictures, prompts, world):
        return torch.tensor([[float(len(sight.objects))] for sight in world.see(pictures)])


def test_every_picture_earns_its_score_and_the_last_is_the_outcome():
    """The rows: paint again; stop; be cut off after the first picture; have a thinking that was cut off."""
    rng = random.Random(0)
    one, two, three = (Scene(tuple(random_item(rng, place) for place in tuple(PLACES)[:count])) for count in (1, 2, 3))
    thoughts = said(("a", "stop"), ("b", "stop"), ("c", "stop"), ("d", "cut"))
    parts = (
        said(*[("x", "stop")] * 4, given=True),
        thoughts,
        shown(one, two, one, three),
        said(("a", "paint"), ("b", "stop"), ("c", "cut"), ("d", "paint"), turn=1),
        shown(three, OVER, OVER, two, turn=1),
        said(("a", "stop"), OVER, OVER, ("d", "cut"), turn=2),
    )
    judged = Objects()(DecodedEpisodes("wxyz", parts), WORLD)
    assert judged.outcome[:, 0].tolist() == [3, 2, 1, 2]
    assert judged.steps[..., 0].tolist() == [
        [0, 0, 1, 0, 3, 0], [0, 0, 2, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 3, 0, 2, 0],
    ]  # fmt: skip
    has_reward = [[2, 4], [2], [2, 3], [2, 4, 5]]
    assert [row.nonzero().flatten().tolist() for row in judged.has_reward] == has_reward, (
        "to be cut off earns 0, to stop nothing"
    )


@pytest.fixture
def told():
    """One story told four ways: as asked; one picture short; one too many; a text that was cut off at once."""
    story, (first, second) = random_story("test", 2, random.Random(3))
    one, two, end = (plan(first), "paint"), (plan(second), "paint"), ("", "stop")
    parts = (
        said(*[(story.prompt, "stop")] * 4, given=True),
        said(one, one, one, ("top left", "cut")),
        shown(first, first, first, OVER),
        said(two, end, two, OVER, turn=1),
        shown(second, OVER, second, OVER, turn=1),
        said(end, OVER, two, OVER, turn=2),
        shown(OVER, OVER, second, OVER, turn=2),
        said(OVER, OVER, end, OVER, turn=3),
    )
    return DecodedEpisodes([story] * 4, parts)


class Longer:
    """A text scorer that likes long texts, and notes what they were compared with."""

    name = "longer"

    def __init__(self):
        self.asked = []

    def __call__(self, texts, references):
        self.asked += references
        return torch.tensor([len(text) / 100 for text in texts])


class Brighter:
    """A picture scorer that likes bright pictures, and notes their texts."""

    name = "brighter"

    def __init__(self):
        self.asked = []

    def __call__(self, pictures, texts):
        self.asked += texts
        return pictures.flatten(1).mean(1)


class TestHybrid:
    """Where the three components of a story belong."""

    def test_outcomes_are_means_over_the_steps_asked_for(self, told):
        judged = HybridReward()(told, WORLD)
        structure = [3 / 3, 1 / 3, 2 / 4, 0.0]
        expected = [[1.0, 1.0], [0.5, 0.5], [1.0, 1.0], [0.0, 0.0]]
        torch.testing.assert_close(judged.outcome[:, :2], torch.tensor(expected))
        torch.testing.assert_close(judged.outcome[:, 2], torch.tensor(structure))

    def test_each_component_is_placed_where_its_segment_ends(self, told):
        judged = HybridReward()(told, WORLD)
        texts, pictures = [1, 3, 5, 7], [2, 4, 6]
        alive = torch.tensor([part.alive for part in told.parts]).T
        alive[:, 0] = False
        assert torch.equal(judged.has_reward, alive)
        assert not judged.steps[~alive].any()
        assert not judged.steps[:, pictures, 0].any()
        assert not judged.steps[:, texts, 1].any()
        assert judged.steps[0, :, 0].tolist() == [0, 1 / 2, 0, 1 / 2, 0, 0, 0, 0]
        assert judged.steps[0, :, 1].tolist() == [0, 0, 1 / 2, 0, 1 / 2, 0, 0, 0]
        assert judged.steps[2, 5:, :2].tolist() == [[0, 0]] * 3, "a step that nobody asked for earns nothing"
        structure = [[1 / 3, 1 / 3, 1 / 3], [1 / 3, 0, 0], [1 / 3, 1 / 3, 2 / 4 - 2 / 3], [0, 0, 0]]
        torch.testing.assert_close(judged.steps[:, [2, 4, 5], 2], torch.tensor(structure))
        assert not judged.steps[:, [1, 3, 6, 7], 2].any(), (
            "texts before their picture, and what follows a turn too many"
        )

    @pytest.mark.parametrize("credit", [Outcome(), SuffixSum(), SuffixSum("index"), PerTurn(), Broadcast()])
    def test_no_credit_pays_for_an_end_too_soon(self, told, credit):
        """Of members alike up to a segment, who ends there is worth less than who goes on and does it well."""
        judged = HybridReward()(told, WORLD)
        both = [0, 1] * 2  # told to the end, and ended after the first picture
        rewards = StepRewards(
            steps=judged.steps[both][None],
            has_reward=judged.has_reward[both][None],
            alive=judged.has_reward[both][None],
            turns=tuple(part.turn for part in told.parts),
            outcome=judged.outcome[both][None],
            weights=torch.tensor([0.1, 0.1, 0.8]),  # structure above all, which most tempts to an end
        )
        whole, ended = credit(rewards, Group())[0, :2, 3]
        assert ended < 0 < whole

    def test_process_rewards_add_up_to_the_outcome(self, told):
        judged = HybridReward()(told, WORLD)
        torch.testing.assert_close(judged.steps.sum(1), judged.outcome)

    def test_components_at_different_segments_are_not_normalised_over_all_of_them(self):
        settings = {"model": {"checkpoint": "tiny-interleaved"}, "episode": "interleaved", "reward": "hybrid"}
        settings |= {"evaluation": {"prompts_per_task": [1, 1]}}
        refused = {"advantage": "per_reward", "credit": "suffix_sum"}
        (reason,) = RunConfig.from_dict(settings | refused).conflicts()
        assert "use advantage=group or credit.scope=index" in reason
        index = {"name": "suffix_sum", "scope": "index"}
        for key, other in (("advantage", "group"), ("credit", "per_turn"), ("credit", index)):
            assert not RunConfig.from_dict(settings | refused | {key: other}).conflicts()

    def test_learned_scorers_are_asked_about_what_was_asked_for(self, told):
        """Of texts against their requests, of pictures with their own texts; the structure stays the world's."""
        learned = HybridReward(text_scorer=Longer(), image_scorer=Brighter(), image_range=(-1.0, 1.0))
        judged, exact = learned(told, WORLD), HybridReward()(told, WORLD)
        story = told.prompts[0]
        words = [[len(told.parts[k].texts[row]) / 200 for k in (1, 3)] for row in range(4)]
        assert learned.text_scorer.asked == [*[story.requests[0]] * 4, *[story.requests[1]] * 3]
        assert judged.steps[0, [1, 3], 0].tolist() == pytest.approx(words[0])
        assert judged.steps[1, [1, 3], 0].tolist() == pytest.approx(words[1])
        assert learned.image_scorer.asked == [told.parts[1].texts[0]] * 3 + [told.parts[3].texts[0]] * 2
        bright = [(float(told.parts[k].pixels[0].mean()) + 1) / 4 for k in (2, 4)]
        assert judged.steps[0, [2, 4], 1].tolist() == pytest.approx(bright, rel=1e-5)
        assert judged.outcome[0, 1].item() == pytest.approx(sum(bright), rel=1e-5)
        assert judged.outcome[1, 1].item() == pytest.approx(bright[0], rel=1e-5), "the missing picture counts 0"
        assert torch.equal(judged.steps[..., 2], exact.steps[..., 2])
        assert torch.equal(judged.has_reward, exact.has_reward)

    def test_an_empty_range_of_scores_is_refused(self):
        with pytest.raises(ValueError, match="image_range="):
            HybridReward(image_range=(1.0, 1.0))

    @pytest.mark.parametrize(
        ("weights", "expected"),
        [((1, 1, 1), (1 / 3, 1 / 3, 1 / 3)), ((0, 0, 2), (0, 0, 1)), ((3, 0, -1), (0.75, 0, -0.25))],
    )
    def test_weights_are_of_one_scale(self, weights, expected):
        assert HybridReward(*weights).component_weights == pytest.approx(expected)

    def test_no_weight_at_all_is_refused(self):
        with pytest.raises(ValueError, match="at least one weight other than 0"):
            HybridReward(0.0, 0.0, 0.0)


def test_each_edit_earns_at_its_picture():
    """The rows: both edits done; nothing changed; all wiped away."""
    prompt = edits_by_type("test")["recolour"][0]
    rng = random.Random(0)
    one = apply_edit(prompt.edits[0], prompt.source, rng)
    two = apply_edit(prompt.edits[1], one, rng)
    nothing = Scene(())
    parts = (
        shown(*[prompt.source] * 3, given=True),
        said(*[(prompt.instructions[0], "stop")] * 3, given=True),
        said(*[(plan(one), "stop")] * 3),
        shown(one, prompt.source, nothing),
        said(*[(prompt.instructions[1], "stop")] * 3, given=True, turn=1),
        said(*[("", "cut")] * 3, turn=1),
        shown(two, prompt.source, nothing, turn=1),
    )
    decoded = DecodedEpisodes([prompt] * 3, parts)
    judged = EditReward()(decoded, WORLD)
    assert judged.has_reward.tolist() == [[False, False, False, True, False, False, True]] * 3
    assert judged.outcome[0].tolist() == [1, 1]
    assert judged.steps[0, [3, 6]].tolist() == [[1, 1], [1, 1]]
    assert judged.steps[1, 3, 0] < 1
    assert judged.steps[1, 3, 1] == 1, "what is left as it was is preserved"
    assert judged.steps[2, 3].tolist() == [0, 0]
    torch.testing.assert_close(judged.outcome, judged.steps[:, [3, 6]].mean(1))
    verdicts = WORLD.judge_edits(decoded)
    for turn, k in enumerate((3, 6)):
        expected = [[verdict.success / 10, verdict.preserved / 10] for verdict in verdicts[turn]]
        torch.testing.assert_close(judged.steps[:, k], torch.tensor(expected))
    assert EditReward(following=2.0).component_weights == (2.0, 0.5)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_a_weighted_sum_keeps_components_apart(one, other):
    reward = WeightedReward({"geneval": one, "proxy": other})
    assert reward.component_names == ("geneval/strict", "geneval/strict_soft", "proxy/proxy")
    assert reward.component_weights == (one / 2, one / 2, other)
    prompt = by_task("train")["single_object"][0]
    scene = satisfying_scene(prompt, random.Random(0))
    decoded = DecodedEpisodes([prompt], (shown(scene), said(("", "cut"))))
    parts = [part(decoded, WORLD) for part in (GenEvalReward(), ProxyReward())]
    judged = reward(decoded, WORLD)
    assert torch.equal(judged.outcome, torch.cat([part.outcome for part in parts], 1))
    assert torch.equal(judged.steps, torch.cat([part.steps for part in parts], 2))
    assert judged.has_reward.tolist() == [[True, True]]


def test_a_weighted_sum_judges_what_all_its_parts_judge():
    assert WeightedReward({"hybrid": 1.0}).families == ("stories",)
    assert WeightedReward({"hybrid": 1.0, "geneval": 1.0}).families == ()
    config = RunConfig.from_dict({"reward": {"name": "weighted", "weights": {"hybrid": 1.0, "edit": 1.0}}})
    assert any("reward=weighted: judges nothing, but episode=single_round" in said for said in config.conflicts())


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


def test_the_proxy_is_refused_in_another_world():
    class Other:
        name = "other"

    class Config:
        world = Other()

    assert "reward=geneval" in next(ProxyReward().conflicts(Config()))
    assert not list(ProxyReward().conflicts(RunConfig()))
