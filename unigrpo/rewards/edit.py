"""The reward of edited pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unigrpo.registry import register
from unigrpo.rewards.reward import Judged

if TYPE_CHECKING:
    from unigrpo.transcript import Transcript


@register("reward", "edit", source="VIEScore's two questions; one pair per turn as in MT-EditFlow (arXiv 2606.01985)")
@dataclass(frozen=True)
class EditReward:
    """Following the instruction and leaving the rest alone, each in [0, 1] before its weight.

    As process rewards both sit at the edited picture of every turn; the outcome is their mean over turns.
    """

    families: ClassVar[tuple[str, ...]] = ("edits",)
    component_names: ClassVar[tuple[str, ...]] = ("following", "consistency")

    following: float = 0.5
    """Weight of success: is the edit there?"""
    consistency: float = 0.5
    """Weight of preservation: is everything else as it was?"""

    @property
    def component_weights(self) -> tuple[float, ...]:
        """The two weights."""
        return self.following, self.consistency

    def __call__(self, transcript: Transcript, world: Any) -> Judged:
        """Judge B chains of edits by the world's exact judge."""
        import torch

        steps = torch.zeros(len(transcript.prompts), len(transcript.parts), 2)
        placed = torch.zeros(steps.shape[:2], dtype=torch.bool)
        found = []
        for (k, _), verdicts in zip(transcript.pictures, transcript.judged(world.judge_edits), strict=True):
            scores = torch.tensor([[verdict.success, verdict.preserved] for verdict in verdicts]) / 10
            steps[:, k], placed[:, k] = scores, True
            found.append(scores)
        return Judged(torch.stack(found).mean(0), steps, placed)
