"""Think, generate an image, reflect on it, repair it or stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from unigrpo.registry import register
from unigrpo.rollout.episodes.episode import Episode, at_least_1

if TYPE_CHECKING:
    from unigrpo.noise import Draw
    from unigrpo.rollout.rollout import Rollout
    from unigrpo.rollout.trajectory import Segment


@register("episode", "reflect", source="R3 (arXiv 2602.15772)")
@dataclass(frozen=True)
class Reflect(Episode):
    """The policy reads its own image, writes whether and what to repair, and generates again, or stops."""

    rounds: int = 2
    """Most images of an episode."""
    start: Literal["own", "shared", "alternate"] = "own"
    """``own``: every member of a group generates its first image.  ``shared``: the group goes on from one and the same
    first image (a tree), which is then not trained; the baseline of the reflection is exact, for no member started
    from an easier image.  ``alternate``, as R3: by turns an update of single rounds and one of shared starts."""
    max_thinking: int = 24
    """Longest thinking in tokens, its end included."""
    max_reflection: int = 44
    """Longest reflection in tokens, its end included."""

    def __post_init__(self) -> None:
        at_least_1(rounds=self.rounds, max_thinking=self.max_thinking, max_reflection=self.max_reflection)

    def __call__(self, rollout: Rollout, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Roll out one batch; groups part before the first thinking, or after the first image."""
        shared = self.start == "shared" or (self.start == "alternate" and rollout.spec.update % 2 == 1)
        rollout.condition_on(given[0])
        if not shared:
            rollout.repeat(group_size)
        rollout.generate_text(self.max_thinking, draw)
        rollout.generate_image(draw)
        if shared:
            rollout.repeat(group_size)
        for turn in range(1, self.rounds if shared or self.start == "own" else 1):
            rollout.turn = turn
            if not rollout.generate_text_or_stop(self.max_reflection, draw):
                break
            rollout.generate_image(draw)

    def for_evaluation(self) -> Self:
        """Every episode with a first image of its own."""
        return replace(self, start="own")
