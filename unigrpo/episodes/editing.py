"""Source picture, then instruction, thinking and edited picture, once or several times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from unigrpo.episodes.episode import Episode, Family, at_least_1
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.trajectory import Segment
    from unigrpo.walk import Draw, Walk


@register("episode", "editing", source="MT-EditFlow (arXiv 2606.01985), with UniGRPO's thinking before each edit")
@dataclass(frozen=True)
class Editing(Episode):
    """Chained edits: turn k edits the model's own picture of turn k - 1."""

    family: ClassVar[Family] = "edits"

    turns: int = 1
    test_turns: int = 3
    """Turns of an episode in evaluations."""
    max_thinking: int = 24
    """Longest thinking in tokens, its end included."""

    def __post_init__(self) -> None:
        at_least_1(turns=self.turns, test_turns=self.test_turns, max_thinking=self.max_thinking)

    def __call__(self, walk: Walk, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Walk one batch: the source picture and the first instruction are read once per group."""
        source, *instructions = given
        walk.give(source)
        for turn, instruction in enumerate(instructions[: self.turns]):
            walk.turn = turn
            walk.give(instruction)
            if turn == 0:
                walk.repeat(group_size)
            walk.say(self.max_thinking, draw)
            walk.paint(draw)

    def tested(self) -> Self:
        """The episode of evaluations."""
        return replace(self, turns=self.test_turns)

    def conflicts(self, config: Any) -> Iterator[str]:
        """Say how many instructions the prompts have."""
        longest = config.world.edit_turns
        for name in ("turns", "test_turns"):
            if getattr(self, name) > longest:
                yield f"{name}={getattr(self, name)}: the world's prompts have {longest} instructions; use no more"
