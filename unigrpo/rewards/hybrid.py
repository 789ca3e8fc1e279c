"""The hybrid reward of interleaved episodes: what the texts say, what the pictures show, whether the form is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unigrpo.registry import register
from unigrpo.rewards.reward import Judged

if TYPE_CHECKING:
    from unigrpo.transcript import Transcript


@register("reward", "hybrid", source="unified interleaved GRPO (arXiv 2603.09538), hybrid and process-level rewards")
@dataclass(frozen=True)
class HybridReward:
    """Textual relevance, visual-text alignment and structural fidelity, each in [0, 1] before its weight.

    The outcome of a component is its mean over the steps that the prompt asked for, a missing one counting 0.  As
    process rewards each sits where its segment ends: textual relevance at texts, alignment at pictures, structural
    fidelity where the episode ended.
    """

    families: ClassVar[tuple[str, ...]] = ("stories",)
    component_names: ClassVar[tuple[str, ...]] = ("text", "visual", "structure")

    text: float = 1.0
    """Weight of textual relevance: does each text state what its step asks?"""
    visual: float = 1.0
    """Weight of visual-text alignment: does each picture show what its text says, and what the prompt asks?"""
    structure: float = 1.0
    """Weight of structural fidelity: is it text, picture, text, picture, ..., as often as asked, and then the end?"""

    def __post_init__(self) -> None:
        if not any((self.text, self.visual, self.structure)):
            raise ValueError("text, visual and structure: expected at least one weight other than 0")

    @property
    def component_weights(self) -> tuple[float, ...]:
        """The weights over the sum of their sizes: with fewer components the reward keeps its scale."""
        weights = (self.text, self.visual, self.structure)
        return tuple(weight / sum(map(abs, weights)) for weight in weights)

    def __call__(self, transcript: Transcript, world: Any) -> Judged:
        """Judge B stories by the world's exact judge."""
        import torch

        verdicts = world.judge_stories(transcript)
        steps = torch.zeros(len(verdicts), len(transcript.parts), 3)
        placed = torch.zeros(steps.shape[:2], dtype=torch.bool)
        for k, words in transcript.words:
            for row, verdict in enumerate(verdicts):
                if words.made[row]:
                    placed[row, k] = True
                    if words.turn < len(verdict.steps):
                        steps[row, k, 0] = verdict.steps[words.turn].text
        for k, pictures in transcript.pictures:
            for row, verdict in enumerate(verdicts):
                if pictures.made[row]:
                    placed[row, k] = True
                    if pictures.turn < len(verdict.steps):
                        steps[row, k, 1] = verdict.steps[pictures.turn].visual
        for row, verdict in enumerate(verdicts):
            last = int(placed[row].nonzero()[-1])
            steps[row, last, 2] = verdict.structure
        outcome = torch.tensor([[verdict.text, verdict.visual, verdict.structure] for verdict in verdicts])
        return Judged(outcome, steps, placed)
