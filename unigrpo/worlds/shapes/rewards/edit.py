"""The reward of edited images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.registry import register
from unigrpo.rewards.reward import RewardOutput

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import DecodedEpisodes


@register("reward", "edit", source="VIEScore's two questions; one pair per turn as in MT-EditFlow (arXiv 2606.01985)")
@dataclass(frozen=True)
class EditReward:
    """Following the instruction and leaving the rest alone, each in [0, 1] before its weight.

    As process rewards both sit at the edited image of every turn; the outcome is their mean over turns.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"edits"})
    component_names: ClassVar[tuple[str, ...]] = ("following", "consistency")

    following: float = 0.5
    """Weight of success: is the edit there?"""
    consistency: float = 0.5
    """Weight of preservation: is everything else as it was?"""

    @property
    def component_weights(self) -> tuple[float, ...]:
        """The two weights."""
        return self.following, self.consistency

    def __call__(self, decoded: DecodedEpisodes) -> RewardOutput:
        """Judge B chains of edits."""
        import torch

        from unigrpo.worlds.shapes.edit_judge import judge_edits

        steps = torch.zeros(len(decoded.prompts), len(decoded.parts), 2)
        has_reward = torch.zeros(steps.shape[:2], dtype=torch.bool)
        found = []
        for (k, _), verdicts in zip(decoded.images, decoded.judged(judge_edits), strict=True):
            scores = torch.tensor([[verdict.success, verdict.preserved] for verdict in verdicts]) / 10
            steps[:, k], has_reward[:, k] = scores, True
            found.append(scores)
        return RewardOutput(torch.stack(found).mean(0), steps, has_reward)
