"""What every reward offers: components for whole episodes, and at the segments that earned them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.transcript import Transcript


@dataclass(frozen=True)
class Judged:
    """Rewards of a batch of B episodes with S segments, K components each.

    Attributes:
        outcome: [B, K] fp32, of whole episodes.
        steps: [B, S, K] fp32, what each segment earned where it ended (process rewards); 0 where nothing is placed.
        placed: [B, S] bool, where a reward is placed.
    """

    outcome: Tensor
    steps: Tensor
    placed: Tensor


class Reward(Protocol):
    """What a strategy of slot ``reward`` offers."""

    @property
    def families(self) -> tuple[str, ...]:
        """The families of prompts whose episodes it can judge."""
        ...

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the K components."""
        ...

    @property
    def component_weights(self) -> tuple[float, ...]:
        """Weights with which the components are added."""
        ...

    def __call__(self, transcript: Transcript, world: Any) -> Judged:
        """Judge B episodes."""
        ...


class PictureReward:
    """The base of a reward that looks at one picture at a time: every picture earns its score, the last is the outcome.

    A subclass scores pictures in :meth:`score`.
    """

    families: ClassVar[tuple[str, ...]] = ("images",)

    def score(self, pictures: Tensor, prompts: Sequence[Any], world: Any) -> Tensor:
        """Components [B, K] fp32 of pictures [B, 3, H, W] in [-1, 1], one prompt each."""
        raise NotImplementedError

    def scores_of(self, segment: int, transcript: Transcript, world: Any) -> Tensor:
        """:meth:`score` of one segment's pictures; a reward that shares its judge with the measures asks it once."""
        return self.score(transcript.parts[segment].pixels, transcript.prompts, world)  # type: ignore[union-attr]

    def __call__(self, transcript: Transcript, world: Any) -> Judged:
        """Scores of all pictures."""
        import torch

        scores = {k: self.scores_of(k, transcript, world) for k, _ in transcript.pictures}
        first = next(iter(scores.values()))
        steps = first.new_zeros(len(first), len(transcript.parts), first.shape[1])
        placed = torch.zeros(steps.shape[:2], dtype=torch.bool)
        outcome = first
        for k, part in transcript.pictures:
            placed[:, k] = torch.tensor(part.made)
            steps[:, k] = scores[k].where(placed[:, k, None], 0.0)
            outcome = scores[k].where(placed[:, k, None], outcome)
        for row, k in _cut_short(transcript):
            placed[row, k] = True
        return Judged(outcome, steps, placed)


def _cut_short(transcript: Transcript) -> Iterator[tuple[int, int]]:
    """(Row, segment) of the texts that ran into their limit and so ended an episode: they earn 0, which is no stop."""
    made = [part.made for part in transcript.parts]
    for k, words in transcript.words:
        for row, end in enumerate(words.ends):
            if end == "cut" and not any(later[row] for later in made[k + 1 :]):
                yield row, k
