"""An algorithm of one's own: REINFORCE on the policy's texts, without ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unigrpo.algorithms.algorithm import Algorithm, MinibatchLoss
from unigrpo.registry import register
from unigrpo.rollout.trajectory import TextScore


@register("algorithm", "reinforce", source="Williams (1992)")
@dataclass(frozen=True)
class Reinforce(Algorithm):
    """``-A log p`` of every token that the policy wrote."""

    reads: ClassVar[frozenset[str]] = frozenset()

    def loss(self, config, batch, advantage, policy):
        """The loss of one minibatch; ``advantage`` is [B, S], of every segment of every episode."""
        values = []
        scored = zip(batch.trajectory.segments, policy(batch.trajectory), advantage.unbind(1), strict=True)
        for segment, score, own in scored:
            if isinstance(score, TextScore):
                values.append((-own[:, None] * score.log_prob)[segment.mask])
        mean = sum(value.sum() for value in values) / sum(map(len, values))
        return MinibatchLoss(mean, {"loss/text": mean.item()})
