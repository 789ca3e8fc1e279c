"""Text, picture, text, picture, ... until the policy stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.episodes.episode import Episode, Family, at_least_1
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.trajectory import Segment
    from unigrpo.walk import Draw, Walk


@register("episode", "interleaved", source="unified interleaved GRPO (arXiv 2603.09538), section 3")
@dataclass(frozen=True)
class Interleaved(Episode):
    """The policy tells a story: every text ends by asking for a picture or for good, as the policy chooses.

    Nothing is repaired: a text that reaches neither end within its limit ends the episode, and so does asking for one
    picture too many.
    """

    family: ClassVar[Family] = "stories"

    max_pictures: int = 4
    max_text: int = 24
    """Longest text in tokens, its end included."""

    def __post_init__(self) -> None:
        at_least_1(max_pictures=self.max_pictures, max_text=self.max_text)

    def __call__(self, walk: Walk, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Walk one batch: the prompts are given, then every row tells its story."""
        walk.give(given[0])
        walk.repeat(group_size)
        while walk.say_and_choose(self.max_text, draw) and walk.turn < self.max_pictures:
            walk.paint(draw)
            walk.turn += 1
