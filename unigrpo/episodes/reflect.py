"""Think, paint, look, mend or stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from unigrpo.episodes.episode import Episode, at_least_1
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.trajectory import Segment
    from unigrpo.walk import Draw, Walk


@register("episode", "reflect", source="R3 (arXiv 2602.15772)")
@dataclass(frozen=True)
class Reflect(Episode):
    """The policy looks at its own picture, says whether and what to mend, and paints again, or stops."""

    rounds: int = 2
    """Most pictures of an episode."""
    start: Literal["own", "shared", "alternate"] = "own"
    """``own``: every member of a group paints its first picture.  ``shared``: the group goes on from one and the same
    first picture (a tree), which is then not trained; the baseline of the reflection is exact, for no member started
    from an easier picture.  ``alternate``, as R3: by turns an update of single rounds and one of shared starts."""
    max_thinking: int = 24
    """Longest thinking in tokens, its end included."""
    max_reflection: int = 44
    """Longest reflection in tokens, its end included."""

    def __post_init__(self) -> None:
        at_least_1(rounds=self.rounds, max_thinking=self.max_thinking, max_reflection=self.max_reflection)

    def __call__(self, walk: Walk, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Walk one batch: the prompts are given; groups part before the first thinking, or after the first picture."""
        shared = self.start == "shared" or (self.start == "alternate" and walk.rules.update % 2 == 1)
        walk.give(given[0])
        if not shared:
            walk.repeat(group_size)
        walk.say(self.max_thinking, draw)
        walk.paint(draw)
        if shared:
            walk.repeat(group_size)
        for turn in range(1, self.rounds if shared or self.start == "own" else 1):
            walk.turn = turn
            if not walk.say_and_choose(self.max_reflection, draw):
                break
            walk.paint(draw)

    def tested(self) -> Self:
        """Every episode with a first picture of its own."""
        return replace(self, start="own")
