"""Velocities at points of the forward process: finished images are noised again, and the policy is asked there.

Losses that need no recorded steps score a batch in this way.  The points are theirs to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unigrpo.checks import per_row
from unigrpo.rollout.heads.head import ImageHead
from unigrpo.rollout.trajectory import Cost, ImageScore, ImageSegment

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.models.policy import Context, Policy
    from unigrpo.rollout.rollout import RolloutSpec
    from unigrpo.rollout.trajectory import Segment


@dataclass(frozen=True)
class Point:
    """``x_t = (1 - t) x_0 + t e`` of every row.

    Attributes:
        t: [B] in (0, 1), 1 being noise.
        noise: e, [B, C, H, W], standard normal.
    """

    t: Tensor
    noise: Tensor

    def noised(self, clean: Tensor) -> Tensor:
        """x_t [B, C, H, W] of clean latents x_0."""
        t = per_row(self.t, clean)
        return (1 - t) * clean + t * self.noise


#: Index of a segment -> the points at which its images are scored.
Points = Mapping[int, Sequence[Point]]


class AtPoints(ImageHead):
    """Stands in for a run's image head in a replay: the same contexts, but velocities instead of scored actions.

    Args:
        head: the run's own.
        segments: of the trajectory that is replayed.
        points: of some of them.
    """

    def __init__(self, head: ImageHead, segments: Sequence[Segment], points: Points):
        self.head = head
        # A replay hands over the very segments.
        self.points = {id(segments[number]): found for number, found in points.items()}
        self.deferred = head.deferred  # type: ignore[misc]

    def score(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], segment: ImageSegment
    ) -> tuple[ImageScore, Sequence[Context], Cost]:
        """The conditional velocities at the segment's points; nothing is guided."""
        alive = segment.alive
        # Were there NaN in the rows that were over, a gradient of 0 times it would be NaN for all rows.
        clean = segment.latents.where(alive[:, None, None, None], 0.0)
        context, found = spec.cross_modal_context(contexts[0]), self.points.get(id(segment), ())
        velocities = tuple(policy.velocity(context, point.noised(clean), point.t).float() for point in found)
        return ImageScore(velocities=velocities), contexts, Cost(nfe=int(alive.sum()) * len(velocities))

    def encode(
        self, policy: Policy, spec: RolloutSpec, contexts: Sequence[Context], segment: ImageSegment
    ) -> tuple[Sequence[Context], Cost]:
        """As the run's own head."""
        return self.head.encode(policy, spec, contexts, segment)
