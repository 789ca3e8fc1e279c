"""The hybrid reward of interleaved episodes: what the texts say, what the images show, whether the form is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.config import slot
from unigrpo.registry import register
from unigrpo.rewards.reward import RewardOutput

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.config import RunConfig
    from unigrpo.rewards.scorers import ImageTextScorer, TextScorer
    from unigrpo.rollout.decoded import DecodedEpisodes, ImagePart, TextPart
    from unigrpo.worlds.shapes.story_judge import StoryVerdict


@register("reward", "hybrid", source="unified interleaved GRPO (arXiv 2603.09538), hybrid and process-level rewards")
@dataclass(frozen=True)
class HybridReward:
    """Textual relevance, visual-text alignment and structural fidelity, each in [0, 1] before its weight.

    The outcome of a component is its mean over the steps that the prompt asked for, a missing one counting 0.  As
    process rewards each sits where its segment ends: textual relevance at texts, alignment at images, structural
    fidelity bit by bit where a segment adds to it, so that an episode which ends too soon earns nothing by its end.
    They add up to the outcome, so that how credit is given leaves the weights alone.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"story", "requests"})
    component_names: ClassVar[tuple[str, ...]] = ("text", "visual", "structure")

    text: float = 1.0
    """Weight of textual relevance: does each text state what its step asks?"""
    visual: float = 1.0
    """Weight of visual-text alignment: does each image show what its text says, and what the prompt asks?"""
    structure: float = 1.0
    """Weight of structural fidelity: is it text, image, text, image, ..., as often as asked, and then the end?"""
    text_scorer: TextScorer = slot("text_scorer", "exact")
    """Who says how relevant a text is; a learned scorer compares it with what its step asks."""
    image_scorer: ImageTextScorer = slot("image_scorer", "exact")
    """Who says how well image and text agree; a learned scorer sees the image and its own text."""
    image_range: tuple[float, float] = (0.0, 1.0)
    """Scores of a learned image scorer that count as 0 and as 1; what lies outside is cut off."""

    def __post_init__(self) -> None:
        if not any((self.text, self.visual, self.structure)):
            raise ValueError("text, visual and structure: expected at least one weight other than 0")
        if not self.image_range[0] < self.image_range[1]:
            raise ValueError(f"image_range={self.image_range}: expected a lower and a higher score")

    @property
    def component_weights(self) -> tuple[float, ...]:
        """The weights over the sum of their sizes: with fewer components the reward keeps its scale."""
        weights = (self.text, self.visual, self.structure)
        return tuple(weight / sum(map(abs, weights)) for weight in weights)

    def __call__(self, decoded: DecodedEpisodes) -> RewardOutput:
        """Judge B stories."""
        import torch

        from unigrpo.worlds.shapes.story_judge import judge_stories

        verdicts = decoded.judged(judge_stories)
        shape = len(verdicts), len(decoded.parts)
        text, visual, structure = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
        has_reward = torch.zeros(shape, dtype=torch.bool)
        for k, words in decoded.texts:
            has_reward[:, k] = torch.tensor(words.alive)
            text[:, k] = self._relevance(words, decoded, verdicts)
        for k, pictures in decoded.images:
            has_reward[:, k] = torch.tensor(pictures.alive)
            visual[:, k] = self._alignment(pictures, decoded, verdicts)
        # Row by row, the segments in their order: as the judge goes through them.
        structure[has_reward] = torch.tensor([gain for verdict in verdicts for gain in verdict.structure_gains])
        whole = torch.tensor([verdict.structure for verdict in verdicts])
        asked = torch.tensor([[len(verdict.steps)] for verdict in verdicts])
        outcome = torch.stack((text.sum(1) / asked[:, 0], visual.sum(1) / asked[:, 0], whole), -1)
        return RewardOutput(outcome, torch.stack((text / asked, visual / asked, structure), -1), has_reward)

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say where components would be compared with places that cannot earn them."""
        pools = getattr(config.credit, "pools_segments", False)
        if pools and getattr(config.advantage, "each_component", False):
            yield (
                "its components sit at different segments, and advantage=per_reward with credit=suffix_sum normalises"
                " each over all of them; use advantage=group or credit.scope=index"
            )

    def _relevance(self, words: TextPart, decoded: DecodedEpisodes, verdicts: Sequence[StoryVerdict]) -> Tensor:
        """Of one text of every row, [B]; 0 where it was not made or not asked for."""
        import torch

        wanted = [row for row, v in enumerate(verdicts) if words.alive[row] and words.turn < len(v.steps)]
        scores = torch.zeros(len(verdicts))
        if getattr(self.text_scorer, "exact", False):
            scores[wanted] = torch.tensor([verdicts[row].steps[words.turn].text for row in wanted])
        else:
            requests = [decoded.prompts[row].meta["requests"][words.turn] for row in wanted]
            scores[wanted] = self.text_scorer([words.texts[row] for row in wanted], requests)
        return scores

    def _alignment(self, pictures: ImagePart, decoded: DecodedEpisodes, verdicts: Sequence[StoryVerdict]) -> Tensor:
        """Of one image of every row with its text, [B]; 0 where it was not made or not asked for."""
        import torch

        wanted = [row for row, v in enumerate(verdicts) if pictures.alive[row] and pictures.turn < len(v.steps)]
        scores = torch.zeros(len(verdicts))
        if getattr(self.image_scorer, "exact", False):
            scores[wanted] = torch.tensor([verdicts[row].steps[pictures.turn].visual for row in wanted])
        else:
            words = next(part for _, part in decoded.texts if part.turn == pictures.turn)
            found = self.image_scorer(pictures.pixels[wanted], [words.texts[row] for row in wanted])
            low, high = self.image_range
            scores[wanted] = ((found - low) / (high - low)).clamp(0, 1)
        return scores
