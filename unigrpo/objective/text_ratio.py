"""Log-ratios of text tokens, [B, L]; 0 at masked tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unigrpo.checks import check_mask, upcast
from unigrpo.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("text_ratio", "token", source="GRPO (2402.03300) eq. 3; UniGRPO (2603.23500) eq. 2")
@dataclass(frozen=True)
class Token:
    """Each token its own ratio, ``log p(y_k) - log p_old(y_k)``."""

    def __call__(self, log_prob: Tensor, old_log_prob: Tensor, mask: Tensor) -> Tensor:
        """Log-ratios [B, L] of log-probabilities [B, L]; no gradient into the old ones, none at masked tokens."""
        check_mask(mask, log_prob=log_prob, old_log_prob=old_log_prob)
        log_prob, old_log_prob = upcast(log_prob=log_prob, old_log_prob=old_log_prob)
        return (log_prob - old_log_prob.detach()).where(mask, 0.0)


@register("text_ratio", "sequence", source="GSPO (2507.18071) eq. 7")
@dataclass(frozen=True)
class Sequence(Token):
    """One ratio per sequence, the mean of its tokens' log-ratios, given to every token.

    Of an episode with several texts, or images by tokens, each is a sequence.
    """

    def __call__(self, log_prob: Tensor, old_log_prob: Tensor, mask: Tensor) -> Tensor:
        """Log-ratios [B, L], equal along each row; a row without tokens has 0."""
        log_ratio = super().__call__(log_prob, old_log_prob, mask)
        length = mask.sum(1, keepdim=True).clamp(min=1)
        return (log_ratio.sum(1, keepdim=True) / length).where(mask, 0.0)
