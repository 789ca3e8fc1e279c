"""Interleaved episodes: InterleavedBench's five aspects (0 to 5), by the exact judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from unigrpo.metrics.metric import Measured, Quantity, Row, by_tag, named
from unigrpo.registry import register

if TYPE_CHECKING:
    from unigrpo.rollout.decoded import DecodedEpisodes

ASPECTS: Mapping[str, str] = {
    "text_quality": "text quality",
    "perceptual_quality": "perceptual quality",
    "image_coherence": "image coherence",
    "text_image_coherence": "text-image coherence",
    "helpfulness": "helpfulness",
}
_FIELDS = ("mean", *ASPECTS, "structure", "pictures")
_MEAN, _GROUP = "mean of the five aspects", "Interleaved, 0–5"
#: What is kept of every step.
_STEP = {
    "asked": "the picture shows what the step asks",
    "text": "the text states what the step asks",
    "faithful": "the image shows what its text says",
    "coherence": "untouched objects stay as they were",
}
_STEPS = (1, 2, 3)


@register("metric", "shapes_interleaved", source="InterleavedBench (arXiv 2406.14643), by the exact judge")
@dataclass(frozen=True)
class StoryMetric:
    """Five aspects of stories by the exact judge, called shapes-interleaved: not InterleavedBench's."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"story"})
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("interleaved/mean", "mean", _GROUP, headline=True, row_field="mean", phrase=_MEAN, bounds=(0, 5)),
        *(
            Quantity(f"interleaved/{name}", label, _GROUP, row_field=name, bounds=(0, 5))
            for name, label in ASPECTS.items()
        ),
        Quantity("interleaved/structure", "structure", "Form", row_field="structure"),
        Quantity("interleaved/pictures", "pictures", "Form", "neither", row_field="pictures"),
        *(
            Quantity(f"interleaved/step/{step}/{name}", _STEP[name], "", row_field=f"step/{step}/{name}")
            for name in _STEP
            for step in _STEPS
        ),
    )

    def __call__(self, episodes: Sequence[DecodedEpisodes], per_prompt: int) -> Measured:
        """Means of the means over stories of one length; of a step, over the episodes whose prompt asks for it."""
        rows = [row for batch in episodes for row in story_rows(batch, per_prompt)]
        return Measured(_summary(rows), rows)


def story_rows(episodes: DecodedEpisodes, per_prompt: int) -> Iterator[Row]:
    """One row per episode, with fields such as ``step/1/asked`` of each step asked for."""
    from unigrpo.worlds.shapes.story_judge import judge_stories

    for k, verdict in enumerate(episodes.judged(judge_stories)):
        yield (
            named(episodes, k, per_prompt)
            | {aspect: getattr(verdict, aspect) for aspect in ASPECTS}
            | {"mean": verdict.mean, "structure": verdict.structure, "reason": verdict.reason}
            | {"pictures": sum(part.alive[k] for _, part in episodes.images)}
            | {
                f"step/{k}/{name}": getattr(step, name)
                for k, step in enumerate(verdict.steps, start=1)
                for name in _STEP
            }
        )


def _summary(rows: Sequence[Row]) -> dict[str, float]:
    values = {f"interleaved/{name}": fmean(by_tag(rows, name).values()) for name in _FIELDS}
    steps = dict.fromkeys(field for row in rows for field in row if field.startswith("step/"))
    return values | {f"interleaved/{step}": fmean(row[step] for row in rows if step in row) for step in steps}
