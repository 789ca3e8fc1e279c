"""How the image policy is kept near the reference: penalties per denoising step, [B], not yet weighted.

A strategy's ``weight`` is applied by the trainer.  Both penalties are the squared distance of velocities up to a factor
of time, ``latent_kl = w(t) ||v - v_ref||^2``: :func:`penalty_weight` is that w.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from unigrpo.checks import Reduction, over_elements, per_row, same_shape, upcast
from unigrpo.registry import Configuration, register

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.flow.dynamics import Dynamics


@register("regularizer", "none", source="baseline of UniGRPO (2603.23500)")
@dataclass(frozen=True)
class NoRegularizer:
    """No penalty."""

    weight: ClassVar[float] = 0.0
    of_steps: ClassVar[bool] = False

    def __call__(
        self, velocity: Tensor, ref_velocity: Tensor, mean: Tensor, ref_mean: Tensor, std: Tensor, dt: Tensor | float
    ) -> Tensor:
        """Zeros [B]."""
        return velocity.new_zeros(velocity.shape[:1])


@register("regularizer", "latent_kl", source="Flow-GRPO (2505.05470); without dt as in its code")
@dataclass(frozen=True)
class LatentKl:
    """KL of the step's Gaussians, ``||mean - ref_mean||^2 / (2 sigma^2 dt)``: weak where noise is high."""

    of_steps: ClassVar[bool] = True

    weight: float = 0.04
    dt_in_denominator: bool = True
    """False divides by ``2 sigma^2`` alone: the exact KL times dt, which Flow-GRPO's code trains with.  For dynamics
    whose variance is ``sigma^2 dt`` only."""
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(
        self, velocity: Tensor, ref_velocity: Tensor, mean: Tensor, ref_mean: Tensor, std: Tensor, dt: Tensor | float
    ) -> Tensor:
        """Penalty [B]; no gradient into the reference.

        Args:
            velocity: the policy's velocities, [B, ...].
            ref_velocity: the reference's at the same latents and times, [B, ...].
            mean: the policy's step means, [B, ...].
            ref_mean: the reference's, [B, ...].
            std: of the steps, ``sigma sqrt(dt)``, 0-d or [B].
            dt: step sizes, a scalar or [B].
        """
        distance = _distance(mean, ref_mean, self.reduction)
        kl = distance / (2 * per_row(std, distance) ** 2)
        return kl if self.dt_in_denominator else kl * per_row(dt, kl)

    def conflicts(self, config: Configuration) -> Iterator[str]:
        """Say why steps need noise, and of which kind."""
        if not (config.image_head.denoises and config.modalities.image):
            return
        if not config.dynamics.stochastic:
            yield f"dynamics={config.dynamics.name} has no noise to divide by; use regularizer=velocity_mse"
        elif not self.dt_in_denominator and not getattr(config.dynamics, "dt_in_variance", False):
            yield (
                f"dt_in_denominator=false leaves out the dt of the variance sigma^2 dt, and that of dynamics="
                f"{config.dynamics.name} has none; use regularizer.dt_in_denominator=true, the exact KL"
            )


@register("regularizer", "velocity_mse", source="UniGRPO (2603.23500) eq. 8")
@dataclass(frozen=True)
class VelocityMse:
    """``||v - v_ref||^2``, the same at every noise level."""

    of_steps: ClassVar[bool] = False

    weight: float = 1.5e-5
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __call__(
        self, velocity: Tensor, ref_velocity: Tensor, mean: Tensor, ref_mean: Tensor, std: Tensor, dt: Tensor | float
    ) -> Tensor:
        """Penalty [B]; no gradient into the reference; arguments as for ``latent_kl``."""
        return _distance(velocity, ref_velocity, self.reduction)


def penalty_weight(dynamics: Dynamics, t: Tensor, t_next: Tensor, t_second: Tensor) -> Tensor:
    """The w(t) of ``latent_kl = w(t) ||v - v_ref||^2``, both reduced alike.

    For ``flow_sde`` and t < 1 it is ``(dt/2) (a/2 + 1/a)^2 (1-t)/t``.

    Args:
        dynamics: strategy whose step means are affine in v; w is their slope squared over twice the variance.
        t: times, 0-d or [K].
        t_next: times after the step, of the same shape.
        t_second: the schedule's second point, 0-d.

    Returns:
        float64, the shape of t; infinite for a step without noise.
    """
    same_shape(t=t, t_next=t_next)
    times, times_next = t.double().reshape(-1), t_next.double().reshape(-1)
    zero = times.new_zeros(len(times), 1, 1)
    still, moved = (dynamics.transition(zero, v, times, times_next, t_second) for v in (zero, zero + 1))
    slope = (moved.mean - still.mean).reshape(-1)
    return (slope**2 / (2 * moved.std**2)).reshape(t.shape)


def _distance(values: Tensor, reference: Tensor, reduction: Reduction) -> Tensor:
    same_shape(policy=values, reference=reference)
    values, reference = upcast(policy=values, reference=reference)
    return over_elements((values - reference.detach()).square(), reduction)


def _check_weight(weight: float) -> None:
    if weight < 0:
        raise ValueError(f"weight={weight}: expected 0 or more; below 0 it would push away from the reference")
