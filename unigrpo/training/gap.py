"""What sampling and training differ by in log-probabilities, where the policy is still the one that sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unigrpo.rollout.trajectory import ImageScore, TextScore

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.algorithms.algorithm import Scoring
    from unigrpo.rollout.points import Points
    from unigrpo.rollout.trajectory import Score, Trajectory


class Gauge:
    """A :class:`Scoring` that measures what it lets through.

    Args:
        scoring: of the policy that is trained.
        sampled: the scores that sampling left of the same trajectory.

    Attributes:
        found: largest |log-ratio| by name: ``gap/text``, ``gap/image/STEP``, or ``gap/image`` of image tokens; what is
            0 is left out.
    """

    def __init__(self, scoring: Scoring, sampled: Sequence[Score]):
        self.scoring, self.sampled = scoring, sampled
        self.found: dict[str, float] = {}

    def __call__(self, trajectory: Trajectory, points: Points | None = None) -> tuple[Score, ...]:
        """The scores."""
        scores = self.scoring(trajectory, points)
        for segment, before, now in zip(trajectory.segments, self.sampled, scores, strict=True):
            if isinstance(before, TextScore) and isinstance(now, TextScore):
                self._note("gap/text", before.log_prob, now.log_prob)  # masked places hold 0
            if isinstance(before, ImageScore) and isinstance(now, ImageScore):
                there = {step.index: step.log_prob for step in before.steps}
                for step in now.steps:
                    self._note(f"gap/image/{step.index}", there[step.index], step.log_prob, segment.alive)
                if before.log_prob is not None and now.log_prob is not None:
                    self._note("gap/image", before.log_prob, now.log_prob)
        return scores

    def _note(self, name: str, before: Tensor, now: Tensor, alive: Tensor | None = None) -> None:
        apart = (now.detach() - before).abs()
        largest = float((apart if alive is None else apart.where(alive, 0.0)).max())
        if largest > 0:
            self.found[name] = max(largest, self.found.get(name, 0.0))
