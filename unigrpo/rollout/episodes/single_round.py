"""Prompt, thinking, image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.registry import register
from unigrpo.rollout.episodes.episode import Episode, at_least_1

if TYPE_CHECKING:
    from unigrpo.models.policy import Modality
    from unigrpo.noise import Draw
    from unigrpo.rollout.rollout import Rollout
    from unigrpo.rollout.trajectory import Segment


@register("episode", "single_round", source="UniGRPO (arXiv 2603.23500), section 3: prompt -> thinking -> image")
@dataclass(frozen=True)
class SingleRound(Episode):
    """One thinking text, if any, and one image."""

    reads_images: ClassVar[frozenset[Modality]] = frozenset()

    thinking: bool = True
    max_thinking: int = 24
    """Longest thinking in tokens, its end included."""

    def __post_init__(self) -> None:
        at_least_1(max_thinking=self.max_thinking)

    @property
    def writes_texts(self) -> bool:
        """With thinking."""
        return self.thinking

    def __call__(self, rollout: Rollout, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Roll out one batch: the prompts are given, then every row goes its own way."""
        rollout.condition_on(given[0])
        rollout.repeat(group_size)
        if self.thinking:
            rollout.generate_text(self.max_thinking, draw)
        rollout.generate_image(draw)
