"""A metric of one's own: how bright the last image of an episode is."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from unigrpo.metrics.metric import Measured, Quantity, named
from unigrpo.registry import register


@register("metric", "brightness", source="examples")
@dataclass(frozen=True)
class Brightness:
    """Mean over the pixels of the last image, in [0, 1]."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity("brightness", "mean", "Brightness", "neither", headline=True, row_field="brightness"),
    )

    def __call__(self, episodes, per_prompt):
        """A row for each episode, and their mean."""
        rows = []
        for batch in episodes:
            means = ((batch.last_images() + 1) / 2).mean((1, 2, 3)).tolist()
            rows += [named(batch, k, per_prompt) | {"brightness": mean} for k, mean in enumerate(means)]
        return Measured({"brightness": fmean(row["brightness"] for row in rows)}, rows)
