"""Choices among finitely many: words and image codes are sampled and scored alike, fp32, at one temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def choose(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Sample from logits [B, K] by inversion, with uniform draws [B] in [0, 1): [B] int64."""
    cdf = (logits.float() / temperature).softmax(-1).cumsum(-1)
    # The last sum is 1 only up to rounding: a draw beyond it takes the last one.
    return (cdf <= uniform[:, None]).sum(-1).clamp(max=cdf.shape[-1] - 1)


def log_prob(logits: Tensor, temperature: float, chosen: Tensor) -> Tensor:
    """Log-probabilities [B, L] of ``chosen`` [B, L] int64 under logits [B, L, K]."""
    return (logits.float() / temperature).log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
