"""From a value per action to one number: [B, L] with a mask -> scalar.  Masked entries, NaN included, count nothing.

A strategy that is ``joint`` takes one mean over a text's tokens and an image's actions; under the others the images
have a mean of their own.  One that is ``over_batch`` divides by a count over all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.checks import check_mask, upcast
from unigrpo.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("aggregation", "sequence_mean", source="GRPO (2402.03300) eq. 3; UniGRPO (2603.23500) eq. 2")
@dataclass(frozen=True)
class SequenceMean:
    """The mean over each sequence's tokens (1/|y|), then over sequences; one without tokens adds 0."""

    joint: ClassVar[bool] = False
    over_batch: ClassVar[bool] = False

    def __call__(self, values: Tensor, mask: Tensor) -> Tensor:
        """Scalar of values [B, L] and a boolean mask [B, L]."""
        return (_kept(values, mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


@register("aggregation", "token_mean", source="DAPO (2503.14476), token-level loss")
@dataclass(frozen=True)
class TokenMean:
    """The mean over all tokens of the batch: long sequences weigh more."""

    joint: ClassVar[bool] = False
    over_batch: ClassVar[bool] = True

    def __call__(self, values: Tensor, mask: Tensor) -> Tensor:
        """Scalar of values [B, L] and a boolean mask [B, L]."""
        return _kept(values, mask).sum() / mask.sum().clamp(min=1)


@register("aggregation", "constant", source="Dr. GRPO (2503.20783)")
@dataclass(frozen=True)
class Constant:
    """The sum over tokens divided by a constant length, then the mean over sequences: no length enters."""

    joint: ClassVar[bool] = False
    over_batch: ClassVar[bool] = False

    length: float = 64.0
    """The constant; as a rule the longest sequence that may be generated."""

    def __post_init__(self) -> None:
        if self.length <= 0:
            raise ValueError(f"length={self.length}: expected a number above 0")

    def __call__(self, values: Tensor, mask: Tensor) -> Tensor:
        """Scalar of values [B, L] and a boolean mask [B, L]."""
        return _kept(values, mask).sum(1).mean() / self.length


@register("aggregation", "trajectory_mean", source="unified interleaved GRPO (2603.09538), 1/|Y|")
@dataclass(frozen=True)
class TrajectoryMean(SequenceMean):
    """The mean over all of an episode's actions, text tokens and image actions alike, then over episodes."""

    joint: ClassVar[bool] = True


def _kept(values: Tensor, mask: Tensor) -> Tensor:
    """Values with zeros at masked entries, selected and not multiplied: 0 times NaN is NaN."""
    check_mask(mask, values=values)
    (values,) = upcast(values=values)
    return values.where(mask, 0.0)
