"""Episodes: what is generated for one prompt (slot ``episode``).

An episode drives a :class:`~unigrpo.walk.Walk`: it gives segments, lets the policy say and paint, and decides what
comes next from what came before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.trajectory import TextSegment
    from unigrpo.walk import Draw, Walk


@register("episode", "single_round", source="UniGRPO (arXiv 2603.23500), section 3: prompt -> thinking -> image")
@dataclass(frozen=True)
class SingleRound:
    """One thinking text, if any, and one picture."""

    thinking: bool = True
    max_thinking: int = 24
    """Longest thinking in tokens, its end included."""

    def __post_init__(self) -> None:
        if self.max_thinking < 1:
            raise ValueError(f"max_thinking={self.max_thinking}: expected 1 or more; thinking=false leaves it out")

    def __call__(self, walk: Walk, prompts: TextSegment, group_size: int, draw: Draw) -> None:
        """Walk one batch of episodes: ``prompts`` [P, L] are given, then every row goes its own way."""
        walk.give(prompts)
        walk.repeat(group_size)
        if self.thinking:
            walk.say(self.max_thinking, draw)
        walk.paint(draw)

    def conflicts(self, config: Any) -> Iterator[str]:
        """Say why the text policy needs something to say."""
        if not self.thinking and config.modalities.text:
            yield "without thinking there is no text to train; use modalities=image_only"
