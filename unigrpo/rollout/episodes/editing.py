"""Source image, then instruction, thinking and edited image, once or several times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from unigrpo.registry import register
from unigrpo.rollout.episodes.episode import Episode, at_least_1

if TYPE_CHECKING:
    from unigrpo.config import RunConfig
    from unigrpo.models.policy import Modality
    from unigrpo.noise import Draw
    from unigrpo.rollout.rollout import Rollout
    from unigrpo.rollout.trajectory import Segment


@register("episode", "editing", source="MT-EditFlow (arXiv 2606.01985), with UniGRPO's thinking before each edit")
@dataclass(frozen=True)
class Editing(Episode):
    """Chained edits: turn k edits the model's own image of turn k - 1."""

    needs: ClassVar[frozenset[str]] = frozenset({"images", "turns"})
    one_request: ClassVar[bool] = False
    reads_images: ClassVar[frozenset[Modality]] = frozenset({"image"})

    turns: int = 1
    test_turns: int = 3
    """Turns of an episode in evaluations."""
    thinking: bool = True
    """Whether a text stands before each edit."""
    max_thinking: int = 24
    """Longest thinking in tokens, its end included."""

    def __post_init__(self) -> None:
        at_least_1(turns=self.turns, test_turns=self.test_turns, max_thinking=self.max_thinking)

    @property
    def writes_texts(self) -> bool:
        """With thinking."""
        return self.thinking

    def __call__(self, rollout: Rollout, given: Sequence[Segment], group_size: int, draw: Draw) -> None:
        """Roll out one batch: the source image and the first instruction are read once per group."""
        source, *instructions = given
        rollout.condition_on(source)
        for turn, instruction in enumerate(instructions[: self.turns]):
            rollout.turn = turn
            rollout.condition_on(instruction)
            if turn == 0:
                rollout.repeat(group_size)
            if self.thinking:
                rollout.generate_text(self.max_thinking, draw)
            rollout.generate_image(draw)

    def for_evaluation(self) -> Self:
        """The episode of evaluations."""
        return replace(self, turns=self.test_turns)

    def conflicts(self, config: RunConfig) -> Iterator[str]:
        """Say how many instructions the prompts have."""
        yield from super().conflicts(config)
        longest = config.dataset.turns
        for name in ("turns", "test_turns"):
            if getattr(self, name) > longest:
                yield f"{name}={getattr(self, name)}: the dataset's prompts have {longest} instructions; use no more"
