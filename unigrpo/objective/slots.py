"""What a strategy of each slot of the objective offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.checks import Reduction
    from unigrpo.objective.credit import StepRewards


class Advantage(Protocol):
    """Slot ``advantage``: rewards against those of the group."""

    def __call__(self, rewards: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
        """Advantages [P, G] of rewards [P, G, K] with weights [K], of the members that have one."""
        ...


class Credit(Protocol):
    """Slot ``credit``: which segments answer for which rewards."""

    def __call__(self, rewards: StepRewards, advantage: Advantage) -> Tensor:
        """Advantages [P, G, S] of segments, or [P, G, 1] where all have the same."""
        ...


class ImageRatio(Protocol):
    """Slot ``image_ratio``: log-ratios of denoising steps."""

    @property
    def of_steps(self) -> bool:
        """Whether it reads means and sizes of denoising steps, which image tokens do not have."""
        ...

    def __call__(
        self, log_prob: Tensor, old_log_prob: Tensor, mean: Tensor, old_mean: Tensor, std: Tensor, reduction: Reduction
    ) -> Tensor:
        """Log-ratio [B] of one step; no gradient into the old policy."""
        ...

    def step_weights(self, dt: Tensor) -> Tensor:
        """Weights [K] of the gradients of K trained steps with sizes ``dt`` [K]."""
        ...


class TextRatio(Protocol):
    """Slot ``text_ratio``: log-ratios of tokens."""

    def __call__(self, log_prob: Tensor, old_log_prob: Tensor, mask: Tensor) -> Tensor:
        """Log-ratios [B, L] of log-probabilities [B, L]; no gradient into the old ones, none at masked tokens."""
        ...


class TrustRegion(Protocol):
    """Slot ``trust_region``."""

    @property
    def band(self) -> float:
        """How far a ratio may leave 1 before a bound acts; infinite without one."""
        ...

    def __call__(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """Objective to maximise."""
        ...

    def clipped(self, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        """Where its gradient is removed."""
        ...


class Aggregation(Protocol):
    """Slot ``aggregation``: one number of many actions."""

    @property
    def joint(self) -> bool:
        """Whether text and image actions share one mean."""
        ...

    @property
    def over_batch(self) -> bool:
        """Whether it divides by a count over all rows, which the processes of a run would have to share."""
        ...

    def __call__(self, values: Tensor, mask: Tensor) -> Tensor:
        """One number of values [B, L] with a mask."""
        ...


class Regularizer(Protocol):
    """Slot ``regularizer``: how far denoising steps are from the reference's."""

    @property
    def weight(self) -> float:
        """Of the penalty in the loss; 0 for none."""
        ...

    @property
    def of_steps(self) -> bool:
        """Whether it reads the means, the std or the size of steps, not velocities alone."""
        ...

    def __call__(
        self, velocity: Tensor, ref_velocity: Tensor, mean: Tensor, ref_mean: Tensor, std: Tensor, dt: Tensor | float
    ) -> Tensor:
        """Distance from the reference, one per row."""
        ...


class TextKl(Protocol):
    """Slot ``text_kl``: how far tokens are from the reference's."""

    @property
    def weight(self) -> float:
        """Of the penalty in the loss; 0 for none."""
        ...

    def __call__(self, log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
        """Estimates [B, L] of log-probabilities [B, L]; no gradient into the reference."""
        ...


class Modalities(Protocol):
    """Slot ``modalities``: which of the two policies is trained."""

    @property
    def text(self) -> float:
        """Weight of the text loss."""
        ...

    @property
    def image(self) -> float:
        """Weight of the image loss."""
        ...
