"""Log-ratios of denoising steps: how much more likely the policy now makes a step than when it was taken.

With ``dmu = mu_old - mu``, ``s`` the step's std, D its elements and z the noise that was drawn:
``log r = -[ ||dmu||^2 / (2 s^2) + z . dmu / s ]``, divided by D if log-probabilities are means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.checks import Reduction, over_elements, per_row, same_shape, upcast
from unigrpo.registry import Configuration, register

if TYPE_CHECKING:
    from torch import Tensor


@register("image_ratio", "raw", source="Flow-GRPO (2505.05470); UniGRPO (2603.23500) eq. 4")
@dataclass(frozen=True)
class Raw:
    """``log r = log p(x') - log p_old(x')``."""

    of_steps: ClassVar[bool] = False

    def __call__(
        self, log_prob: Tensor, old_log_prob: Tensor, mean: Tensor, old_mean: Tensor, std: Tensor, reduction: Reduction
    ) -> Tensor:
        """Log-ratio [B], no gradient into the old policy.

        Args:
            log_prob: of the steps taken, under the policy, [B].
            old_log_prob: under the policy that took them, [B].
            mean: the policy's means, [B, ...].
            old_mean: those of the policy that took them, [B, ...].
            std: of the steps, 0-d or [B].
            reduction: how log-probabilities are reduced over a row's elements.
        """
        same_shape(log_prob=log_prob, old_log_prob=old_log_prob)
        log_prob, old_log_prob = upcast(log_prob=log_prob, old_log_prob=old_log_prob)
        return log_prob - old_log_prob.detach()

    def step_weights(self, dt: Tensor) -> Tensor:
        """Weights [K] of the gradients of K trained steps with sizes ``dt`` [K]: equal."""
        return dt.new_ones(dt.shape)


@register("image_ratio", "ratio_norm", source="GRPO-Guard (2510.22319); UniGRPO (2603.23500) eq. 5")
@dataclass(frozen=True)
class RatioNorm(Raw):
    """``s (log r + ||dmu||^2 / (2 s^2 D))``, which is ``-z . dmu / D``: mean 0 and alike at every step.

    D for mean-reduced log-probabilities; for sums 1 stands in its place.
    """

    of_steps: ClassVar[bool] = True

    def __call__(
        self, log_prob: Tensor, old_log_prob: Tensor, mean: Tensor, old_mean: Tensor, std: Tensor, reduction: Reduction
    ) -> Tensor:
        """Normalised log-ratio [B]; arguments as for ``raw``."""
        log_ratio = super().__call__(log_prob, old_log_prob, mean, old_mean, std, reduction)
        same_shape(mean=mean, old_mean=old_mean)
        mean, old_mean = upcast(mean=mean, old_mean=old_mean)
        s = per_row(std, log_ratio)
        drift = over_elements((old_mean.detach() - mean).square(), reduction)
        same_shape(log_ratio=log_ratio, drift=drift)
        return s * (log_ratio + drift / (2 * s**2))

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why steps need a Gaussian log-density."""
        if config.modalities.image and config.dynamics.stochastic and not config.dynamics.gaussian:
            yield f"dynamics={config.dynamics.name} has no Gaussian density; use image_ratio=raw or dynamics=flow_sde"


@register("image_ratio", "guard", source="GRPO-Guard (2510.22319): RatioNorm and gradient reweighting")
@dataclass(frozen=True)
class Guard(RatioNorm):
    """``ratio_norm`` with gradients weighted by 1/dt, so that every step pushes alike."""

    def step_weights(self, dt: Tensor) -> Tensor:
        """``1/dt``, normalised to mean 1 over the trained steps: [K] -> [K]."""
        return 1 / dt / (1 / dt).mean()
