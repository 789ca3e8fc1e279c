"""How far one rollout may move the policy: the surrogate objective of a log-ratio and an advantage.

Bounds are compared in log space: published image clips are 1e-6, where fp32 has a handful of values of ``exp`` left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.checks import same_shape, upcast
from unigrpo.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("trust_region", "none", source="importance-weighted policy gradient")
@dataclass(frozen=True)
class Unclipped:
    """``r A`` without a bound."""

    band: ClassVar[float] = math.inf

    def __call__(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """Objective to maximise, of the shape of its arguments (equal; any); no gradient into the advantage."""
        same_shape(log_ratio=log_ratio, advantage=advantage)
        log_ratio, advantage = upcast(log_ratio=log_ratio, advantage=advantage)
        return log_ratio.exp() * advantage.detach()

    def clipped(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """Where the gradient is removed: nowhere."""
        return log_ratio.new_zeros(log_ratio.shape).bool()


@register("trust_region", "ppo_clip", source="PPO (1707.06347) eq. 7; low and high apart as DAPO (2503.14476)")
@dataclass(frozen=True)
class PpoClip:
    """``min(r A, clip(r, 1 - low, 1 + high) A)``: no gain from moving on once the ratio has left the band."""

    low: float = 0.2
    high: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.low < 1 and self.high > 0):
            raise ValueError(f"expected 0 < low < 1 and high > 0, got low={self.low}, high={self.high}")

    @property
    def band(self) -> float:
        """The narrower side: how far a ratio may leave 1 before a bound acts."""
        return min(self.low, self.high)

    def __call__(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """Objective to maximise, of the shape of its arguments (equal; any); no gradient into the advantage."""
        same_shape(log_ratio=log_ratio, advantage=advantage)
        log_ratio, advantage = upcast(log_ratio=log_ratio, advantage=advantage)
        upper, lower = math.log1p(self.high), math.log1p(-self.low)
        # min(r A, clip(r) A) bounds r from above where A > 0 and from below where A < 0; clamp keeps the
        # gradient at the bound itself, where a minimum of two equal branches would halve it.
        bounded = log_ratio.clamp(max=upper).where(advantage > 0, log_ratio.clamp(min=lower))
        return bounded.exp() * advantage.detach()

    def clipped(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """Where the gradient is removed, bool: beyond the bound that the advantage pushes towards."""
        over, under = log_ratio > math.log1p(self.high), log_ratio < math.log1p(-self.low)
        return (over & (advantage > 0)) | (under & (advantage < 0))
