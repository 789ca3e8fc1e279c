"""From the rewards of whole episodes and of their segments to an advantage per segment.

An episode is a list of segments in turns; a reward may be *placed* where a segment ends.  Every strategy maps
:class:`StepRewards` to [P, G, S]: all tokens and denoising steps of a segment share its value, and a segment that the
policy did not make has exactly 0.  Rewards are normalised by a strategy of slot ``advantage``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unigrpo.checks import ShapeError, check_mask, upcast
from unigrpo.registry import Configuration, register

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.objective.slots import Advantage


@dataclass(frozen=True)
class StepRewards:
    """What P groups of G episodes with S segments earned, in K components.

    Attributes:
        steps: [P, G, S, K] floating, the reward at the end of a segment; may be anything where none is placed.
        has_reward: [P, G, S] bool, where a reward is placed.
        alive: [P, G, S] bool, which segments the policy made; False for given ones and after an episode's end.
        turns: the turn of each segment, S numbers.
        outcome: [P, G, K] floating, the reward of the whole episode.
        weights: [K] floating, of the components.

    Raises:
        ShapeError: a shape that does not fit.
        TypeError: ``has_reward`` or ``alive`` is not boolean.
    """

    steps: Tensor
    has_reward: Tensor
    alive: Tensor
    turns: tuple[int, ...]
    outcome: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if self.steps.dim() != 4 or self.outcome.shape != self.steps[:, :, 0].shape:
            raise ShapeError(
                "expected steps [P, G, S, K] and outcome [P, G, K], "
                f"got {list(self.steps.shape)} and {list(self.outcome.shape)}"
            )
        if len(self.turns) != self.steps.shape[2]:
            raise ShapeError(f"expected one turn for each of {self.steps.shape[2]} segments, got {len(self.turns)}")
        check_mask(self.has_reward, segments=self.steps[..., 0])
        check_mask(self.alive, segments=self.steps[..., 0])

    def by_turn(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Turn by turn: its number, its rewards added up [P, G, K], who has any [P, G], who made anything [P, G]."""
        (steps,) = upcast(steps=self.steps)
        steps = steps.where(self.has_reward.unsqueeze(-1), 0.0)
        for turn in sorted(set(self.turns)):
            own = [segment for segment, its_turn in enumerate(self.turns) if its_turn == turn]
            yield turn, steps[:, :, own].sum(2), self.has_reward[:, :, own].any(2), self.alive[:, :, own].any(2)

    def spread(self, by_turn: dict[int, Tensor]) -> Tensor:
        """Values per turn, [P, G] each, at the segments that the policy made in it, [P, G, S]."""
        import torch

        return self.only_made(torch.stack([by_turn[turn] for turn in self.turns], -1))

    def only_made(self, values: Tensor) -> Tensor:
        """Values [P, G, S], or one for all segments [P, G, 1], with zeros where the policy made nothing."""
        return values.expand(self.alive.shape).where(self.alive, 0.0)


@register("credit", "outcome", source="GRPO (2402.03300) 4.1.2; UniGRPO (2603.23500) eq. 1")
@dataclass(frozen=True)
class Outcome:
    """The advantage of the episode, for all of its segments."""

    def __call__(self, rewards: StepRewards, advantage: Advantage) -> Tensor:
        """Advantages [P, G, S]."""
        return rewards.only_made(advantage(rewards.outcome, rewards.weights).unsqueeze(-1))


@register(
    "credit", "suffix_sum", source="process supervision of GRPO (2402.03300) 4.1.3; interleaved GRPO (2603.09538)"
)
@dataclass(frozen=True)
class SuffixSum:
    """The normalised rewards placed at the segment's own end or later, added up: nobody answers for what came before.

    Where each episode has one placed reward, its outcome, that is ``outcome`` for the segments up to there.
    """

    scope: Literal["pooled", "index"] = "pooled"
    """What a reward is compared with: all placed rewards of the group (``pooled``, as published), so that a late reward
    also moves the mean of the earlier ones; or those at the same segment (``index``)."""

    @property
    def pools_segments(self) -> bool:
        """Whether rewards of different segments are normalised together."""
        return self.scope == "pooled"

    def __call__(self, rewards: StepRewards, advantage: Advantage) -> Tensor:
        """Advantages [P, G, S]."""
        if self.scope == "pooled":
            pooled = advantage(rewards.steps.flatten(1, 2), rewards.weights, rewards.has_reward.flatten(1, 2))
            normalised = pooled.unflatten(1, rewards.has_reward.shape[1:])
        else:
            normalised = _each_segment(rewards, advantage)
        return rewards.only_made(normalised.flip(-1).cumsum(-1).flip(-1))


@register("credit", "per_turn", source="MT-GRPO (2505.11821), divided by the sum of the weights")
@dataclass(frozen=True)
class PerTurn:
    """The mean of the own turn's normalised reward and the outcome's, ``(A_turn + w A_outcome) / (1 + w)``.

    A turn's rewards are compared with those of the same turn.  With a single turn, whose reward is the outcome, that is
    ``outcome``; the published sum is (1 + w) times as long, which an optimiser that normalises gradients does not see.
    """

    outcome_weight: float = 1.0
    """The w above; the paper's lambda is 1/w."""

    def __post_init__(self) -> None:
        if self.outcome_weight < 0:
            raise ValueError(f"outcome_weight={self.outcome_weight}: expected 0 or more")

    def __call__(self, rewards: StepRewards, advantage: Advantage) -> Tensor:
        """Advantages [P, G, S]."""
        outcome = self.outcome_weight * advantage(rewards.outcome, rewards.weights)
        own = _each_turn(rewards, advantage)
        return rewards.spread({turn: (value + outcome) / (1 + self.outcome_weight) for turn, value in own.items()})


@register("credit", "broadcast", source="MT-EditFlow (2606.01985)")
@dataclass(frozen=True)
class Broadcast:
    """Each turn's normalised reward, added up over turns and given to all segments.

    With a single turn, whose reward is the outcome, that is ``outcome``.
    """

    def __call__(self, rewards: StepRewards, advantage: Advantage) -> Tensor:
        """Advantages [P, G, S]."""
        first, *others = _each_turn(rewards, advantage).values()
        return rewards.only_made(sum(others, start=first).unsqueeze(-1))


@register("credit", "improvement", source="R3 (2602.15772)")
@dataclass(frozen=True)
class Improvement:
    """The first turn earns its reward, a later one what it adds to that of the turn before, normalised per turn.

    A later turn that made something without earning a reward stopped: that is worth 1 after a turn that got it right
    and 0 otherwise.  Rewards are weighted totals.
    """

    right: float = 1 - 1e-6
    """Total reward from which a turn got it right."""

    def __call__(self, rewards: StepRewards, advantage: Advantage) -> Tensor:
        """Advantages [P, G, S]."""
        (weights,) = upcast(weights=rewards.weights)
        values: dict[int, Tensor] = {}
        before = None
        for turn, reward, earned, alive in rewards.by_turn():
            total = (reward * weights).sum(-1)
            gain, known = total, earned
            if before is not None:
                last, had_one = before
                gain = (total - last).where(earned, (last >= self.right).to(total))
                known = (earned | alive) & had_one
            values[turn] = advantage(gain.unsqueeze(-1), weights.new_ones(1), known)
            before = total, earned
        return rewards.spread(values)

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why turns must be comparable, and that not every reward says what is right."""
        if not config.episode.one_request:
            yield (
                f"episode={config.episode.name} asks for something else in every turn, so the difference of two turns'"
                " rewards is no improvement; use credit=per_turn or episode=reflect"
            )
        elif self.right == type(self).right and not getattr(config.reward, "exact", False):
            yield (
                f"reward={config.reward.name} need not reach {self.right} for a right image, so that stopping on one"
                " would be worth nothing; set credit.right to the total reward from which an image is right"
            )


def _each_segment(rewards: StepRewards, advantage: Advantage) -> Tensor:
    """Every placed reward, normalised over those at the same segment, [P, G, S]."""
    import torch

    segments = zip(rewards.steps.unbind(2), rewards.has_reward.unbind(2), strict=True)
    return torch.stack([advantage(reward, rewards.weights, there) for reward, there in segments], -1)


def _each_turn(rewards: StepRewards, advantage: Advantage) -> dict[int, Tensor]:
    """Every turn's reward, normalised over the members that have one, [P, G]."""
    return {turn: advantage(reward, rewards.weights, earned) for turn, reward, earned, _ in rewards.by_turn()}
