"""Prompt, thinking, picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unigrpo.episodes.episode import Episode, at_least_1
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.trajectory import Segment
    from unigrpo.walk import Draw, Walk


@register("episode", "single_round", source="UniGRPO (arXiv 2603.23500), section 3: prompt -> thinking -> image")
@dataclass(frozen=True)
class SingleRound(Episode):
    """One thinking text, if any, and one picture."""

    thinking: bool = True
    max_thinking: int = 24
    """Longest thinking in tokens, its end included."""

    def __post_init__(self) -> None:
        at_least_1(max_thinking=self.max_thinking)

    def __call__(self, walk: Walk, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Walk one batch: the prompts are given, then every row goes its own way."""
        walk.give(given[0])
        walk.repeat(group_size)
        if self.thinking:
            walk.say(self.max_thinking, draw)
        walk.paint(draw)

    def conflicts(self, config: Any) -> Iterator[str]:
        """Say why the text policy needs something to say."""
        if not self.thinking and config.modalities.text:
            yield "without thinking there is no text to train; use modalities=image_only"
