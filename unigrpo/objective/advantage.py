"""From the rewards of a group to the advantages of its members.

Every strategy maps component rewards [P, G, K] of P prompts with G episodes each, and the components' weights [K], to
advantages [P, G].  A group whose rewards are equal gets exactly 0: it must not move the policy by rounding.

``present`` [P, G] says which members have a reward (such as a group's third images, where some have ended).
The others enter no mean and no standard deviation, whatever their rewards hold, NaN included, and get exactly 0, as
does whoever is alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from unigrpo.checks import ShapeError, check_mask, upcast
from unigrpo.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("advantage", "group", source="GRPO (2402.03300); UniGRPO (2603.23500) eq. 1")
@dataclass(frozen=True)
class Group:
    """``(R - mean) / (std + eps)`` within the group."""

    ddof: Literal[0, 1] = 0
    """0: population standard deviation, 1: that of a sample."""
    eps: float = 1e-4

    def __call__(self, rewards: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
        """Advantages [P, G] of rewards [P, G, K] with weights [K]; without ``present`` G >= 2 or ValueError."""
        total = _total(rewards, weights, present)
        return _centered(total, present) / (_std(total, present, 1, self.ddof) + self.eps)


@register("advantage", "mean_only", source="Dr. GRPO (2503.20783)")
@dataclass(frozen=True)
class MeanOnly:
    """``R - mean`` of the group: no division, hence no bias towards easy and hard prompts."""

    def __call__(self, rewards: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
        """Advantages [P, G] of rewards [P, G, K] with weights [K]; without ``present`` G >= 2 or ValueError."""
        return _centered(_total(rewards, weights, present), present)


@register("advantage", "global_std", source="Flow-GRPO (2505.05470), default of its code")
@dataclass(frozen=True)
class GlobalStd:
    """``R - mean`` of the group, divided by the standard deviation of the whole batch."""

    ddof: Literal[0, 1] = 0
    eps: float = 1e-4

    def __call__(self, rewards: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
        """Advantages [P, G] of rewards [P, G, K] with weights [K]; without ``present`` G >= 2 or ValueError."""
        total = _total(rewards, weights, present)
        return _centered(total, present) / (_std(total, present, None, self.ddof) + self.eps)


@register("advantage", "per_reward", source="GDPO (2601.05242)")
@dataclass(frozen=True)
class PerReward:
    """Each reward normalised within the group, then their weighted sum divided by its standard deviation in the batch.

    Distinct combinations of rewards with equal sums keep distinct advantages.
    """

    each_component: ClassVar[bool] = True
    """Whether components are normalised one by one."""

    ddof: Literal[0, 1] = 0
    eps: float = 1e-4

    def __call__(self, rewards: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
        """Advantages [P, G] of rewards [P, G, K] with weights [K]; without ``present`` G >= 2 or ValueError."""
        rewards, weights = _checked(rewards, weights, present)
        each = None if present is None else present.unsqueeze(-1)
        normalised = _centered(rewards, each) / (_std(rewards, each, 1, self.ddof) + self.eps)
        summed = (normalised * weights).sum(-1)
        # The batch mean that whitening would subtract is 0 by construction, up to rounding.
        return summed / (_std(summed, present, None, self.ddof) + self.eps)


def zero_variance(rewards: Tensor, weights: Tensor) -> Tensor:
    """Which groups have equal rewards throughout, [P] bool: they teach nothing."""
    total = _total(rewards, weights, None)
    return total.amax(1) == total.amin(1)


def _checked(rewards: Tensor, weights: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both in working precision; absent members' rewards are 0."""
    if rewards.dim() != 3 or weights.shape != rewards.shape[2:]:
        raise ShapeError(
            f"expected rewards [P, G, K] and weights [K], got {list(rewards.shape)} and {list(weights.shape)}"
        )
    rewards, weights = upcast(rewards=rewards, weights=weights)
    if present is not None:
        check_mask(present, members=rewards[..., 0])
        return rewards.where(present.unsqueeze(-1), 0.0), weights
    if rewards.shape[1] < 2:
        raise ValueError("a group of one has no relative advantage; sample 2 or more episodes per prompt")
    return rewards, weights


def _total(rewards: Tensor, weights: Tensor, present: Tensor | None) -> Tensor:
    rewards, weights = _checked(rewards, weights, present)
    return (rewards * weights).sum(-1)


def _centered(rewards: Tensor, present: Tensor | None) -> Tensor:
    """Rewards [P, G, ...] less their group's mean; exact zeros where they are equal, whatever the mean rounds to."""
    if present is None:
        equal = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
        return (rewards - rewards.mean(1, keepdim=True)).masked_fill(equal, 0)
    highest = rewards.where(present, -math.inf).amax(1, keepdim=True)
    lowest = rewards.where(present, math.inf).amin(1, keepdim=True)
    return (rewards - _mean(rewards, present, 1)).masked_fill((highest <= lowest) | ~present, 0)


def _mean(rewards: Tensor, present: Tensor, dim: int | None) -> Tensor:
    return rewards.sum(dim, keepdim=True) / present.sum(dim, keepdim=True).clamp(min=1)


def _std(rewards: Tensor, present: Tensor | None, dim: int | None, ddof: int) -> Tensor:
    """Standard deviation over ``dim`` (None: over everything), which stays with size 1."""
    if present is None:
        return rewards.std(dim, correction=ddof, keepdim=True)
    deviation = (rewards - _mean(rewards, present, dim)).where(present, 0.0)
    return (deviation.square().sum(dim, keepdim=True) / (present.sum(dim, keepdim=True) - ddof).clamp(min=1)).sqrt()
