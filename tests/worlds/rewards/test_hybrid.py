from __future__ import annotations

import random

import pytest
import torch

from tests.episodes import OVER, plan, said, shown
from unigrpo.config import RunConfig
from unigrpo.objective.advantage import Group
from unigrpo.objective.credit import Broadcast, Outcome, PerTurn, StepRewards, SuffixSum
from unigrpo.rollout.decoded import DecodedEpisodes
from unigrpo.worlds.shapes.dataset import story_prompt
from unigrpo.worlds.shapes.rewards import HybridReward
from unigrpo.worlds.shapes.stories import random_story


@pytest.fixture
def told():
    """One story told four ways: as asked; one picture short; one too many; a text that was cut off at once."""
    story, (first, second) = random_story("test", 2, random.Random(3))
    one, two, end = (plan(first), "image"), (plan(second), "image"), ("", "stop")
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
    return DecodedEpisodes([story_prompt(story)] * 4, parts)


class Longer:
    """A text scorer that likes long texts, and notes what they were compared with."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts, references):
        self.asked += references
        return torch.tensor([len(text) / 100 for text in texts])


class Brighter:
    """A picture scorer that likes bright pictures, and notes their texts."""

    def __init__(self):
        self.asked = []

    def __call__(self, pictures, texts):
        self.asked += texts
        return pictures.flatten(1).mean(1)


class TestHybrid:
    """Where the three components of a story belong."""

    def test_outcomes_are_means_over_the_steps_asked_for(self, told):
        judged = HybridReward()(told)
        structure = [3 / 3, 1 / 3, 2 / 4, 0.0]
        expected = [[1.0, 1.0], [0.5, 0.5], [1.0, 1.0], [0.0, 0.0]]
        torch.testing.assert_close(judged.outcome[:, :2], torch.tensor(expected))
        torch.testing.assert_close(judged.outcome[:, 2], torch.tensor(structure))

    def test_each_component_is_placed_where_its_segment_ends(self, told):
        judged = HybridReward()(told)
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
        judged = HybridReward()(told)
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
        judged = HybridReward()(told)
        torch.testing.assert_close(judged.steps.sum(1), judged.outcome)

    def test_components_at_different_segments_are_not_normalised_over_all_of_them(self):
        settings = {
            "model": {"name": "mot", "checkpoint": "tiny-interleaved"},
            "episode": "interleaved",
            "reward": "hybrid",
        }
        settings |= {"dataset": {"name": "shapes", "task": "stories"}}
        refused = {"advantage": "per_reward", "credit": "suffix_sum"}
        (reason,) = RunConfig.from_dict(settings | refused).conflicts()
        assert "use advantage=group or credit.scope=index" in reason
        index = {"name": "suffix_sum", "scope": "index"}
        for key, other in (("advantage", "group"), ("credit", "per_turn"), ("credit", index)):
            assert not RunConfig.from_dict(settings | refused | {key: other}).conflicts()

    def test_learned_scorers_are_asked_about_what_was_asked_for(self, told):
        """Of texts against their requests, of pictures with their own texts; the structure stays the world's."""
        learned = HybridReward(text_scorer=Longer(), image_scorer=Brighter(), image_range=(-1.0, 1.0))
        judged, exact = learned(told), HybridReward()(told)
        requests = told.prompts[0].meta["requests"]
        words = [[len(told.parts[k].texts[row]) / 200 for k in (1, 3)] for row in range(4)]
        assert learned.text_scorer.asked == [*[requests[0]] * 4, *[requests[1]] * 3]
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
