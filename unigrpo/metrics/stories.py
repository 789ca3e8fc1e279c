"""Interleaved episodes: InterleavedBench's five aspects (0 to 5), measured exactly in the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from unigrpo.metrics.metric import Row, by_tag, named
from unigrpo.rollout.decoded import DecodedEpisodes

ASPECTS = ("text_quality", "perceptual_quality", "image_coherence", "text_image_coherence", "helpfulness")
#: What is kept of every step.
_STEP = ("text", "faithful", "asked", "coherence")


class StoryMeasure:
    """The judge called shapes-interleaved."""

    version = 1
    train_metrics = ("mean", *ASPECTS, "structure", "pictures")
    headline = ("interleaved/mean", "interleaved/structure")

    def __init__(self, world: Any):
        self.world = world

    def rows(self, decoded: DecodedEpisodes, per_prompt: int) -> list[Row]:
        """One row per episode; ``steps`` has what was found of each step asked for."""
        return [
            named(decoded, k, per_prompt)
            | {aspect: getattr(verdict, aspect) for aspect in ASPECTS}
            | {"mean": verdict.mean, "structure": verdict.structure, "reason": verdict.reason}
            | {"pictures": sum(part.alive[k] for _, part in decoded.pictures)}
            | {"steps": [{name: getattr(step, name) for name in _STEP} for step in verdict.steps]}
            for k, verdict in enumerate(decoded.judged(self.world.judge_stories))
        ]

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Means of the means over stories of one length; of a step, over the episodes whose prompt asks for it."""
        metrics = {f"interleaved/{name}": fmean(by_tag(rows, name).values()) for name in self.train_metrics}
        for k in range(max(len(row["steps"]) for row in rows)):
            steps = [row["steps"][k] for row in rows if len(row["steps"]) > k]
            metrics |= {f"interleaved/step/{k + 1}/{name}": fmean(step[name] for step in steps) for name in _STEP}
        return metrics
