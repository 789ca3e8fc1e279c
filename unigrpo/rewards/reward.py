"""What every reward offers: components for whole episodes, and at the segments that earned them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from unigrpo.registry import Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.data.prompt import Prompt
    from unigrpo.rollout.decoded import DecodedEpisodes


@dataclass(frozen=True)
class RewardOutput:
    """Rewards of a batch of B episodes with S segments, K components each.

    Attributes:
        outcome: [B, K] fp32, of whole episodes.
        steps: [B, S, K] fp32, what each segment earned where it ended (process rewards); 0 where nothing is placed.
        has_reward: [B, S] bool, where a reward is placed.
    """

    outcome: Tensor
    steps: Tensor
    has_reward: Tensor


class Reward(Strategy, Protocol):
    """What a strategy of slot ``reward`` offers."""

    @property
    def needs(self) -> frozenset[str]:
        """What it reads of a prompt besides the text (:attr:`~unigrpo.data.prompt.Prompt.offers`)."""
        ...

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the K components."""
        ...

    @property
    def component_weights(self) -> tuple[float, ...]:
        """Weights with which the components are added."""
        ...

    def __call__(self, decoded: DecodedEpisodes) -> RewardOutput:
        """Judge B episodes."""
        ...


class ImageReward:
    """The base of a reward that looks at one image at a time: every image earns its score, the last is the outcome.

    An episode without an image has an outcome of 0, and no reward is placed.  A subclass scores images in
    :meth:`score`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    exact: ClassVar[bool] = False
    """Whether the total reward is 1 exactly for an image that is right."""

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the K components."""
        raise NotImplementedError

    def score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Components [B, K] fp32 of images [B, 3, H, W] in [-1, 1], one prompt each."""
        raise NotImplementedError

    def scores_of(self, segment: int, decoded: DecodedEpisodes) -> Tensor:
        """:meth:`score` of one segment's images; a reward that shares its judge with metrics asks it once."""
        return self.score(decoded.image(segment).pixels, decoded.prompts)

    def __call__(self, decoded: DecodedEpisodes) -> RewardOutput:
        """Scores of all images."""
        import torch

        outcome = torch.zeros(len(decoded.prompts), len(self.component_names))
        steps = torch.zeros(len(outcome), len(decoded.parts), outcome.shape[1])
        has_reward = torch.zeros(steps.shape[:2], dtype=torch.bool)
        for k, part in decoded.images:
            scores = self.scores_of(k, decoded)
            has_reward[:, k] = torch.tensor(part.alive)
            steps[:, k] = scores.where(has_reward[:, k, None], 0.0)
            outcome = scores.where(has_reward[:, k, None], outcome)
        for row, k in _cut_short(decoded):
            has_reward[row, k] = True
        return RewardOutput(outcome, steps, has_reward)


def _cut_short(decoded: DecodedEpisodes) -> Iterator[tuple[int, int]]:
    """(Row, segment) of the texts that ran into their limit and so ended an episode: they earn 0, which is no stop."""
    alive = [part.alive for part in decoded.parts]
    for k, words in decoded.texts:
        for row, end in enumerate(words.ends):
            if end == "cut" and not any(later[row] for later in alive[k + 1 :]):
                yield row, k
