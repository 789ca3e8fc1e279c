"""Text, image, text, image, ... until the policy stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.registry import register
from unigrpo.rollout.episodes.episode import Episode, at_least_1

if TYPE_CHECKING:
    from unigrpo.noise import Draw
    from unigrpo.rollout.rollout import Rollout
    from unigrpo.rollout.trajectory import Segment


@register("episode", "interleaved", source="unified interleaved GRPO (arXiv 2603.09538), section 3")
@dataclass(frozen=True)
class Interleaved(Episode):
    """The policy tells a story: every text ends by asking for an image or for good, as the policy chooses.

    Nothing is repaired: a text that reaches neither end within its limit ends the episode, and so does asking for one
    image too many.
    """

    one_request: ClassVar[bool] = False

    max_pictures: int = 4
    max_text: int = 24
    """Longest text in tokens, its end included."""

    def __post_init__(self) -> None:
        at_least_1(max_pictures=self.max_pictures, max_text=self.max_text)

    def __call__(self, rollout: Rollout, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Roll out one batch: the prompts are given, then every row tells its story."""
        rollout.condition_on(given[0])
        rollout.repeat(group_size)
        while rollout.generate_text_or_stop(self.max_text, draw) and rollout.turn < self.max_pictures:
            rollout.generate_image(draw)
            rollout.turn += 1
