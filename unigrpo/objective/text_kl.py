"""Estimators of KL(policy || reference) from the policy's own tokens, [B, L], not yet weighted.

With ``d = log q - log p`` (p policy, q reference).  None is clamped: a clamped k3 has no gradient where it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unigrpo.checks import same_shape, upcast
from unigrpo.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("text_kl", "none", source="UniGRPO (2603.23500) table 3: weight 0")
@dataclass(frozen=True)
class NoTextKl:
    """No penalty."""

    weight: ClassVar[float] = 0.0

    def __call__(self, log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
        """Zeros [B, L]."""
        return log_prob.new_zeros(log_prob.shape)


@dataclass(frozen=True)
class _Estimator:
    weight: float = 0.01

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight={self.weight}: expected 0 or more; below 0 it would push away from the reference")


@register("text_kl", "k1", source="Schulman, Approximating KL divergence (2020)")
@dataclass(frozen=True)
class K1(_Estimator):
    """``-d``: unbiased, of either sign; its gradient has mean 0, so it measures drift and does not restrain it."""

    def __call__(self, log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
        """Estimates [B, L] of log-probabilities [B, L]; no gradient into the reference."""
        return -_difference(log_prob, ref_log_prob)


@register("text_kl", "k2", source="Schulman, Approximating KL divergence (2020)")
@dataclass(frozen=True)
class K2(_Estimator):
    """``d^2 / 2``: biased, but its gradient is that of KL(policy || reference) in expectation."""

    def __call__(self, log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
        """Estimates [B, L] of log-probabilities [B, L]; no gradient into the reference."""
        return _difference(log_prob, ref_log_prob).square() / 2


@register("text_kl", "k3", source="GRPO (2402.03300) eq. 4")
@dataclass(frozen=True)
class K3(_Estimator):
    """``e^d - 1 - d``: unbiased and never negative; its gradient is that of KL(reference || policy) in expectation."""

    def __call__(self, log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
        """Estimates [B, L] of log-probabilities [B, L]; no gradient into the reference."""
        d = _difference(log_prob, ref_log_prob)
        return d.expm1() - d  # exp(d) - 1 would lose all digits near d = 0


def _difference(log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
    same_shape(log_prob=log_prob, ref_log_prob=ref_log_prob)
    log_prob, ref_log_prob = upcast(log_prob=log_prob, ref_log_prob=ref_log_prob)
    return ref_log_prob.detach() - log_prob
